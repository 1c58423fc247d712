import { inTransaction } from '@market/kit/db'
import { messageOf } from '@market/kit/errors'
import { assertLease, type Lease } from '@market/kit/lease'
import type { MarketContext } from '../context.ts'
import type { TrustLog } from './paymentSource.ts'
import { trustedAt } from './trust.ts'

const BATCH = 500

/**
 * Decides of each transfer that came for an order whether its gateway trusted the token. What can't be decided now stays
 * undecided and is tried again: one gateway that can't be read holds up no other (payments.md 6).
 */
export async function decideTrust(ctx: MarketContext, lease: Lease): Promise<void> {
  const chainId = ctx.config.CHAIN_ID
  const undecided = await ctx.db
    .selectFrom('payment_transfers')
    .selectAll()
    .where('chain_id', '=', chainId)
    .where('eligible', 'is', null)
    .where('ignored_reason', 'is', null)
    .where('orphaned_at', 'is', null)
    .orderBy('block_number')
    .limit(BATCH)
    .execute()
  for (const gateway of new Set(undecided.map((transfer) => transfer.gateway_address))) {
    let trust: TrustLog[]
    try {
      trust = await ctx.paymentSource.readTrust(gateway)
    } catch (error) {
      ctx.metrics.trustFailures.inc()
      ctx.log.warn({ gateway, reason: messageOf(error) }, 'trust of gateway unknown, trying again')
      continue
    }
    const verdicts = undecided
      .filter((transfer) => transfer.gateway_address === gateway)
      .map((transfer) => {
        const at = {
          blockNumber: Number(transfer.block_number),
          transactionIndex: transfer.transaction_index,
          logIndex: transfer.log_index,
        }
        const seconds = BigInt(Math.floor(transfer.block_time!.getTime() / 1000))
        return { transfer, eligible: trustedAt(trust, transfer.token_avatar!, at, seconds) }
      })
    await inTransaction(ctx.db, async (tx) => {
      await assertLease(tx, lease)
      for (const { transfer, eligible } of verdicts) {
        await tx
          .updateTable('payment_transfers')
          .set({ eligible, ignored_reason: eligible ? null : 'untrusted_token' })
          .where('chain_id', '=', chainId)
          .where('tx_hash', '=', transfer.tx_hash)
          .where('log_index', '=', transfer.log_index)
          .where('eligible', 'is', null)
          .execute()
      }
    })
    for (const { transfer, eligible } of verdicts) {
      if (eligible) continue
      ctx.metrics.ineligibleTransfers.inc()
      ctx.log.warn(
        { gateway, tx: transfer.tx_hash, token: transfer.token_avatar },
        'transfer not credited: untrusted token',
      )
    }
  }
}
