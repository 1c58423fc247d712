import { type Selectable, sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import type { Leadership } from './leadership.ts'
import { storeTogether } from './observeTransfers.ts'
import { keyOf } from './paymentMemory.ts'
import type { BlockRef, PaymentLog } from './paymentSource.ts'
import { judgeLogs } from './storeTransfers.ts'

/** Of each gateway: a gateway that can't be read, however many transfers it has, holds up no other. */
const BATCH = 500

/**
 * Decides of transfers on record whether their gateways trusted their tokens: those that could not be decided when they came, that a
 * reorg moved, whose order was made after them, or that an operator wants judged anew. What can't be decided now is tried again.
 */
export async function decideTrust(ctx: MarketContext, leadership: Leadership, head: BlockRef): Promise<void> {
  const { rows } = await sql<TransferRow>`
    with gateways as (
      select distinct gateway_address from payment_transfers
      where chain_id = ${ctx.config.CHAIN_ID} and verdict_due and ignored_reason is null and orphaned_at is null
    )
    select t.* from gateways g cross join lateral (
      select * from payment_transfers
      where chain_id = ${ctx.config.CHAIN_ID} and verdict_due and ignored_reason is null and orphaned_at is null
        and doubted_at is null and gateway_address = g.gateway_address
      order by block_number limit ${BATCH}
    ) t`.execute(ctx.db)
  if (rows.length > 0) await judgeAgain(ctx, leadership, rows, head)
}

/**
 * Judges what was ignored for its gateway or emitter once more: the configuration may say something else since the last start
 * (payments.md W10).
 */
export async function reconsiderIgnored(ctx: MarketContext, leadership: Leadership, head: BlockRef): Promise<void> {
  const { rows } = await sql<TransferRow>`
    select t.* from payment_transfers t
    join orders o on o.payment_reference = t.payment_reference and o.chain_id = t.chain_id
    where t.chain_id = ${ctx.config.CHAIN_ID} and t.ignored_reason in ('unknown_gateway', 'unknown_emitter')
      and t.orphaned_at is null and t.gateway_address = any(o.expected_gateways)`.execute(ctx.db)
  if (rows.length > 0) await judgeAgain(ctx, leadership, rows, head)
}

type TransferRow = Selectable<MarketDatabase['payment_transfers']>

async function judgeAgain(ctx: MarketContext, leadership: Leadership, rows: TransferRow[], head: BlockRef) {
  const before = new Map(rows.map((row) => [keyOf(logOf(row)), row]))
  const judged = (await judgeLogs(ctx, rows.map(logOf), head)).filter((log) => {
    const { eligible, ignored_reason } = before.get(keyOf(log))!
    const isDecided = log.eligible !== null && (log.blockNumber <= head.number || log.eligible !== eligible)
    return isDecided || log.ignoredReason !== ignored_reason
  })
  await leadership.keep()
  for (let i = 0; i < judged.length; i += BATCH) {
    await storeTogether(ctx, leadership, judged.slice(i, i + BATCH), head)
  }
}

const logOf = (row: TransferRow): PaymentLog => ({
  txHash: row.tx_hash,
  logIndex: row.log_index,
  blockNumber: Number(row.block_number),
  transactionIndex: row.transaction_index,
  blockHash: row.block_hash,
  blockTime: row.block_time,
  paymentReference: row.payment_reference,
  gateway: row.gateway_address,
  payer: row.payer_address,
  payee: row.payee_address,
  emitter: row.emitter_address,
  tokenId: row.token_id === null ? null : BigInt(row.token_id),
  amountWei: row.amount_wei === null ? null : BigInt(row.amount_wei),
})
