import { inTransaction } from '@market/kit/db'
import { createGate } from '@market/kit/gate'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { Leadership } from './leadership.ts'
import { keyOf } from './paymentMemory.ts'
import type { BlockRef } from './paymentSource.ts'

const BATCH = 200
const CALLS_AT_ONCE = 8
/** Fewer are never looked at again (payments.md W5). */
const MIN_BLOCKS = 64

/** From here down nothing is looked at again but after a reorg: of what is old, nodes forget the receipts. */
export const deepBlock = (ctx: MarketContext, head: BlockRef) =>
  head.number - Math.max(ctx.config.FINALIZE_CONFIRMATIONS, MIN_BLOCKS)

/**
 * Asks the node about every transfer that is in doubt. One whose log is not in the chain is an orphan and counts no more; its
 * reappearance undoes that (payments.md W5, P25, P26). One that stands elsewhere stays in doubt until the source shows it there: its
 * transaction may have another payment in that place. Orders are settled later in the round: what moved may come with the next page.
 */
export async function resolveDoubts(ctx: MarketContext, leadership: Leadership): Promise<void> {
  const chainId = ctx.config.CHAIN_ID
  const ask = createGate(CALLS_AT_ONCE)
  let after = { txHash: '', logIndex: -1 }
  for (;;) {
    const doubted = await ctx.db
      .selectFrom('payment_transfers as t')
      .leftJoin('orders as o', (join) =>
        join.onRef('o.payment_reference', '=', 't.payment_reference').onRef('o.chain_id', '=', 't.chain_id'),
      )
      .select(['t.tx_hash', 't.log_index', 't.block_number', 't.transaction_index', 'o.order_id'])
      .where('t.chain_id', '=', chainId)
      .where('t.doubted_at', 'is not', null)
      .where('t.orphaned_at', 'is', null)
      .where(sql<boolean>`(t.tx_hash, t.log_index) > (${after.txHash}, ${after.logIndex})`)
      .orderBy('t.tx_hash')
      .orderBy('t.log_index')
      .limit(BATCH)
      .execute()
    if (doubted.length === 0) return
    const hashes = [...new Set(doubted.map(({ tx_hash }) => tx_hash))]
    const found = new Map(
      await Promise.all(
        hashes.map(async (hash) => [hash, await ask(() => ctx.paymentSource.readTransaction(hash))] as const),
      ),
    )
    const verdicts = doubted.flatMap((transfer): Verdict[] => {
      const mined = found.get(transfer.tx_hash)
      const { tx_hash, log_index, order_id } = transfer
      if (!mined?.logIndexes.includes(log_index))
        return [{ tx_hash, log_index, order_id, gone: true, block_hash: null }]
      const isThere =
        mined.blockNumber === Number(transfer.block_number) && mined.transactionIndex === transfer.transaction_index
      return isThere ? [{ tx_hash, log_index, order_id, gone: false, block_hash: mined.blockHash }] : []
    })
    if (verdicts.length > 0) await storeVerdicts(ctx, leadership, verdicts)
    for (const { tx_hash, log_index, order_id, gone } of verdicts) {
      if (!gone) continue
      ctx.paymentMemory.window?.delete(keyOf({ txHash: tx_hash, logIndex: log_index }))
      ctx.metrics.orphanedTransfers.inc()
      ctx.log.warn({ tx: tx_hash, logIndex: log_index, orderId: order_id }, 'payment gone from the chain')
    }
    const last = doubted.at(-1)!
    after = { txHash: last.tx_hash, logIndex: last.log_index }
  }
}

type Verdict = { tx_hash: string; log_index: number; block_hash: string | null; gone: boolean; order_id: string | null }

async function storeVerdicts(ctx: MarketContext, leadership: Leadership, verdicts: Verdict[]): Promise<void> {
  await leadership.keep()
  await inTransaction(ctx.db, async (tx) => {
    await leadership.assert(tx)
    await sql`
      update payment_transfers t set
        doubted_at = null,
        orphaned_at = case when v.gone then now() end,
        block_hash = coalesce(v.block_hash, t.block_hash)
      from jsonb_to_recordset(${JSON.stringify(verdicts)}::jsonb) as v (tx_hash text, log_index integer, gone boolean,
        block_hash text)
      where t.chain_id = ${ctx.config.CHAIN_ID} and t.tx_hash = v.tx_hash and t.log_index = v.log_index
        and t.doubted_at is not null`.execute(tx)
    const orders = verdicts.flatMap(({ order_id }) => order_id ?? [])
    await sql`
      update orders set settle_at_block = 0 where order_id in (
        select order_id from orders where order_id = any(${orders}::text[]) order by order_id for update)`.execute(tx)
  })
}

/** Asks the node about these transfers, by their names. */
export async function askFor(ctx: MarketContext, leadership: Leadership, keys: string[]): Promise<void> {
  await inTransaction(ctx.db, async (tx) => {
    await leadership.assert(tx)
    await sql`
      update payment_transfers set doubted_at = now()
      where chain_id = ${ctx.config.CHAIN_ID} and doubted_at is null and orphaned_at is null
        and (tx_hash, log_index) in (select split_part(key, ':', 1), split_part(key, ':', 2)::integer
          from unnest(${keys}::text[]) as key)`.execute(tx)
  })
  await resolveDoubts(ctx, leadership)
}
