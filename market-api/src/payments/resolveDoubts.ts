import { inTransaction } from '@market/kit/db'
import { createGate } from '@market/kit/gate'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { Leadership } from './leadership.ts'
import { keyOf } from './paymentMemory.ts'
import type { BlockRef, MinedTransaction } from './paymentSource.ts'

const BATCH = 200
const CALLS_AT_ONCE = 8
/** Fewer are never looked at again (payments.md W5). */
const MIN_BLOCKS = 64

/** From here down nothing is looked at again but after a reorg: of what is old, nodes forget the receipts. */
export const deepBlock = (ctx: MarketContext, head: BlockRef) =>
  head.number - Math.max(ctx.config.FINALIZE_CONFIRMATIONS, MIN_BLOCKS)

/**
 * Asks the node about every transfer that is in doubt. One whose log is not in the chain is an orphan and counts no more; its
 * reappearance undoes that (payments.md W5, P25, P26). Its order is settled later in the round: the transaction may stand elsewhere
 * now, and come with the next page.
 */
export async function resolveDoubts(ctx: MarketContext, leadership: Leadership): Promise<void> {
  const chainId = ctx.config.CHAIN_ID
  const ask = createGate(CALLS_AT_ONCE)
  for (;;) {
    const doubted = await ctx.db
      .selectFrom('payment_transfers as t')
      .leftJoin('orders as o', (join) =>
        join.onRef('o.payment_reference', '=', 't.payment_reference').onRef('o.chain_id', '=', 't.chain_id'),
      )
      .select(['t.tx_hash', 't.log_index', 't.block_number', 'o.order_id'])
      .where('t.chain_id', '=', chainId)
      .where('t.doubted_at', 'is not', null)
      .where('t.orphaned_at', 'is', null)
      .orderBy('t.block_number')
      .limit(BATCH)
      .execute()
    if (doubted.length === 0) return
    const hashes = [...new Set(doubted.map(({ tx_hash }) => tx_hash))]
    const found = new Map(
      await Promise.all(
        hashes.map(async (hash) => [hash, await ask(() => ctx.paymentSource.readTransaction(hash))] as const),
      ),
    )
    const verdicts = doubted.map((transfer) => ({ ...transfer, at: placeOf(found.get(transfer.tx_hash), transfer) }))
    const gone = verdicts.filter(({ at }) => at === undefined)
    await leadership.keep()
    await inTransaction(ctx.db, async (tx) => {
      await leadership.assert(tx)
      const rows = verdicts.map(({ tx_hash, log_index, at }) => ({ tx_hash, log_index, ...at, gone: at === undefined }))
      // In another place its verdict may be another.
      await sql`
        update payment_transfers t set
          doubted_at = null,
          orphaned_at = case when v.gone then now() end,
          verdict_due = t.verdict_due or (not v.gone and (t.block_number, t.transaction_index)
            is distinct from (v.block_number, v.transaction_index)),
          block_number = coalesce(v.block_number, t.block_number),
          transaction_index = coalesce(v.transaction_index, t.transaction_index),
          block_hash = coalesce(v.block_hash, t.block_hash)
        from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as v (tx_hash text, log_index integer, gone boolean,
          block_number bigint, transaction_index integer, block_hash text)
        where t.chain_id = ${chainId} and t.tx_hash = v.tx_hash and t.log_index = v.log_index
          and t.doubted_at is not null`.execute(tx)
      const orders = verdicts.flatMap(({ order_id }) => order_id ?? [])
      await sql`
        update orders set settle_at_block = 0 where order_id in (
          select order_id from orders where order_id = any(${orders}::text[]) order by order_id for update)`.execute(tx)
    })
    for (const { tx_hash, log_index, order_id } of gone) {
      ctx.paymentMemory.window?.blocks.delete(keyOf({ txHash: tx_hash, logIndex: log_index }))
      ctx.metrics.orphanedTransfers.inc()
      ctx.log.warn({ tx: tx_hash, logIndex: log_index, orderId: order_id }, 'payment gone from the chain')
    }
  }
}

/** Of these transfers, by their names, nothing is deep until the node was asked. */
export async function doubt(ctx: MarketContext, leadership: Leadership, keys: string[]): Promise<void> {
  await inTransaction(ctx.db, async (tx) => {
    await leadership.assert(tx)
    await sql`
      update payment_transfers set doubted_at = now()
      where chain_id = ${ctx.config.CHAIN_ID} and doubted_at is null and orphaned_at is null
        and (tx_hash, log_index) in (select split_part(key, ':', 1), split_part(key, ':', 2)::integer
          from unnest(${keys}::text[]) as key)`.execute(tx)
  })
}

/** Where the transfer's log stands now; undefined when the chain doesn't have it. */
function placeOf(transaction: MinedTransaction | undefined, { log_index }: { log_index: number }) {
  if (!transaction?.logIndexes.includes(log_index)) return undefined
  const { blockNumber, transactionIndex, blockHash } = transaction
  return { block_number: blockNumber, transaction_index: transactionIndex, block_hash: blockHash }
}
