import { type Kysely, type RawBuilder, type Selectable, sql } from 'kysely'
import type { MarketDatabase } from '../../db/types.ts'
import { counts, type Payable, type RecordedTransfer } from '../settle.ts'
import { recordedTransfer, TRANSFER_COLUMNS } from '../settleOrders.ts'

// Payments as they are on record, and what more than one of the operators' views says of them. Reads only.

export type Db = Kysely<MarketDatabase>
/** Wei as decimal text. */
export type Wei = string

export class NotKnownError extends Error {}

/** Since when what a poll should have dealt with counts as stuck. */
export const stuckSince = sql<Date>`now() - interval '10 minutes'`

/** What can be the matter, of orders `o`; as the partial indexes of migration 0014 have it. */
export const OF_ORDERS = {
  reverted: sql`o.payment_reverted_at is not null`,
  late: sql`o.paid_amount_wei > 0 and o.cancelled_at is not null`,
  overpaid: sql`o.paid_amount_wei > o.price_wei and o.cancelled_at is null`,
  underpaid: sql`o.paid_at is null and o.paid_amount_wei > 0 and o.cancelled_at is null`,
  settling: sql`o.settle_at_block is not null`,
}
/** And of transfers `t`. */
export const OF_TRANSFERS = {
  undecided: sql`t.verdict_due and t.ignored_reason is null and t.orphaned_at is null`,
  orphaned: sql`t.orphaned_at is not null`,
}

/** Chains of which payments were ever read. */
export async function listPaymentChains(db: Db): Promise<number[]> {
  const { rows } = await sql<{ chain_id: string }>`
    select chain_id from payments_cursors union select chain_id from payments_observed order by 1`.execute(db)
  return rows.map(({ chain_id }) => Number(chain_id))
}

// ---- Gateways ----

/**
 * Gateways that the market knows to be one, or its operator to be a seller's. Those that only some order names are not among them:
 * a market of a million orders would have to read them all.
 */
export const gatewaysOnRecord = (chainId: number) => sql`
  select gateway_address from payment_gateways where chain_id = ${sql.lit(chainId)}
  union select gateway_address from seller_gateways where chain_id = ${sql.lit(chainId)}`

/** Whose these gateways are, by what is on record; in the order they were asked. */
export async function readOwners(
  db: Db,
  chainId: number,
  gateways: string[],
): Promise<{ gateway: string; owners: string[] }[]> {
  const { rows } = await sql<{ gateway_address: string; owner: string }>`
    select gateway_address, owner_address as owner from payment_gateways
      where chain_id = ${chainId} and gateway_address = any(${gateways}::text[])
    union select gateway_address, seller_address from seller_gateways
      where chain_id = ${chainId} and gateway_address = any(${gateways}::text[])
    order by 1, 2`.execute(db)
  return gateways.map((gateway) => ({
    gateway,
    owners: rows.filter((row) => row.gateway_address === gateway).map(({ owner }) => owner),
  }))
}

// ---- Orders ----

const ORDER_COLUMNS = [
  'order_id',
  'chain_id',
  'payment_reference',
  'status',
  'price_wei',
  'paid_amount_wei',
  'created_at',
  'payment_due_by',
  'cancelled_at',
  'payment_reverted_at',
  'settle_at_block',
] as const
export type OrderRow = Pick<Selectable<MarketDatabase['orders']>, (typeof ORDER_COLUMNS)[number]>

/** Of orders `o`, what `paidOrder` reads. */
export const orderColumns = columnsOf('o', ORDER_COLUMNS)

/** An order and its money; nothing of its buyer. */
export type PaidOrder = {
  orderId: string
  chainId: number
  reference: string
  status: string
  priceWei: Wei
  paidWei: Wei
  createdAt: Date
  paymentDueBy: Date
  cancelledAt: Date | null
  revertedAt: Date | null
  settleAtBlock: number | null
}

export const paidOrder = (row: OrderRow): PaidOrder => ({
  orderId: row.order_id,
  chainId: Number(row.chain_id),
  reference: row.payment_reference,
  status: row.status,
  priceWei: row.price_wei,
  paidWei: row.paid_amount_wei,
  createdAt: row.created_at,
  paymentDueBy: row.payment_due_by,
  cancelledAt: row.cancelled_at,
  revertedAt: row.payment_reverted_at,
  settleAtBlock: row.settle_at_block === null ? null : Number(row.settle_at_block),
})

// ---- Transfers ----

/** Why a transfer counts or does not; besides these, what `payment_transfers.ignored_reason` says. */
export type TransferVerdict =
  | 'counts'
  /** It counts, but a reorg may have taken it: nothing is confirmed by it. */
  | 'in_doubt'
  /** It counts, and is being judged again: nothing is confirmed by it until then. */
  | 'judged_again'
  | 'undecided'
  | 'orphaned'
  | 'untrusted_token'
  | 'unknown_gateway'
  | 'unknown_emitter'
  | 'no_order'
  | 'bad_amount'
  | 'bad_token'
  | 'bad_time'

export type ExplainedTransfer = {
  chainId: number
  reference: string
  txHash: string
  logIndex: number
  blockNumber: number
  blockTime: Date | null
  observedAt: Date
  gateway: string
  payer: string | null
  /** Whose CRC it is. */
  token: string | null
  amountWei: Wei | null
  counts: boolean
  verdict: TransferVerdict
}

const COLUMNS = [...TRANSFER_COLUMNS, 'chain_id', 'block_time', 'observed_at', 'payer_address', 'token_avatar'] as const
export type TransferRow = Pick<Selectable<MarketDatabase['payment_transfers']>, (typeof COLUMNS)[number]>

/** Newest first. @param where of transfers `t` @param limit null = all */
export async function listTransfers(db: Db, where: RawBuilder<unknown>, limit: number | null): Promise<TransferRow[]> {
  const { rows } = await sql<TransferRow>`
    select ${columnsOf('t', COLUMNS)} from payment_transfers t where ${where}
     order by t.block_number desc, t.transaction_index desc, t.log_index desc limit ${limit}`.execute(db)
  return rows
}

/** @param order undefined when none has its reference */
export function explainTransfer(row: TransferRow, order: Payable | undefined): ExplainedTransfer {
  const transfer = recordedTransfer(row)
  const isCounted = order !== undefined && counts(order, transfer)
  return {
    chainId: Number(row.chain_id),
    reference: row.payment_reference,
    txHash: row.tx_hash,
    logIndex: row.log_index,
    blockNumber: transfer.blockNumber,
    blockTime: row.block_time,
    observedAt: row.observed_at,
    gateway: row.gateway_address,
    payer: row.payer_address,
    token: row.token_avatar,
    amountWei: row.amount_wei,
    counts: isCounted,
    verdict: isCounted ? standing(row) : refusal(row, transfer, order),
  }
}

const standing = ({ doubted_at, verdict_due }: TransferRow): TransferVerdict =>
  doubted_at ? 'in_doubt' : verdict_due ? 'judged_again' : 'counts'

function refusal(row: TransferRow, transfer: RecordedTransfer, order: Payable | undefined): TransferVerdict {
  if (transfer.orphaned) return 'orphaned'
  if (transfer.ignoredReason !== null) {
    return transfer.ignoredReason === 'untrusted_token' && row.verdict_due
      ? 'undecided'
      : (transfer.ignoredReason as TransferVerdict)
  }
  if (!order) return 'no_order'
  if (!order.expectedGateways.includes(transfer.gateway)) return 'unknown_gateway'
  if (transfer.amountWei === null) return 'bad_amount'
  return transfer.eligible === null || row.verdict_due ? 'undecided' : 'untrusted_token'
}

// ---- Logs that could not be stored as transfers ----

export type RowError = {
  chainId: number
  blockNumber: number
  transactionIndex: number
  logIndex: number
  txHash: string | null
  gateway: string | null
  payer: string | null
  /** As the chain gave it; no number when that could not be read. */
  amountWei: string | null
  reason: string
  seenAt: Date
}

/** Newest first. @param where of row errors `e` */
export async function listRowErrors(db: Db, where: RawBuilder<unknown>, limit: number): Promise<RowError[]> {
  const { rows } = await sql<Selectable<MarketDatabase['payment_row_errors']>>`
    select e.* from payment_row_errors e where ${where}
     order by e.block_number desc, e.transaction_index desc, e.log_index desc limit ${limit}`.execute(db)
  return rows.map((row) => ({
    chainId: Number(row.chain_id),
    blockNumber: Number(row.block_number),
    transactionIndex: row.transaction_index,
    logIndex: row.log_index,
    txHash: row.tx_hash,
    gateway: row.gateway_address,
    payer: row.payer_address,
    amountWei: row.amount_wei,
    reason: row.reason,
    seenAt: row.seen_at,
  }))
}

function columnsOf(table: string, columns: readonly string[]): RawBuilder<unknown> {
  return sql.join(columns.map((column) => sql.ref(`${table}.${column}`)))
}
