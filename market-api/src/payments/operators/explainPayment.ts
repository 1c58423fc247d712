import { normalizePaymentReference } from '@market/contracts/ids'
import { type RawBuilder, type Selectable, sql } from 'kysely'
import type { MarketDatabase } from '../../db/types.ts'
import { publicReason } from '../../fulfillment/jobView.ts'
import { type Payable, type RecordedTransfer, settle } from '../settle.ts'
import { recordedTransfer } from '../settleOrders.ts'
import {
  type Db,
  type ExplainedTransfer,
  explainTransfer,
  listPaymentChains,
  listRowErrors,
  listTransfers,
  NotKnownError,
  orderColumns,
  type OrderRow,
  type PaidOrder,
  paidOrder,
  readOwners,
  type RowError,
  type Wei,
} from './records.ts'

export type ExplainedJob = {
  jobId: string
  seller: string
  offerType: string
  trigger: string
  lineIndexes: number[]
  status: string
  reason: string | null
  attempts: number
  createdAt: Date
  nextAttemptAt: Date | null
}

/** A sum of what counts, and how many blocks until it is the price; null = never, without more money. */
export type DepthSum = { wei: Wei; reached: boolean; missingBlocks: number | null }

export type ExplainedOrder = PaidOrder & {
  cancelReason: string | null
  paidAt: Date | null
  confirmedAt: Date | null
  finalizedAt: Date | null
  gateways: { gateway: string; owners: string[] }[]
  head: { block: number; observedAt: Date } | null
  confirm: number
  finalize: number
  seen: DepthSum
  confirmed: DepthSum
  final: DepthSum
  /** In chain order; the newest MAX_TRANSFERS. */
  transfers: ExplainedTransfer[]
  moreTransfers: boolean
  jobs: ExplainedJob[]
}

export type Explanation = {
  orders: ExplainedOrder[]
  /** Transfers that were asked for and whose reference no order has. */
  unmatched: ExplainedTransfer[]
  unreadable: RowError[]
}

/** Anybody may send dust with an order's reference. */
const MAX_TRANSFERS = 500
/** One transaction can pay many orders. */
const MAX_ORDERS = 20
const MAX_ROW_ERRORS = 100

type Row = OrderRow &
  Pick<
    Selectable<MarketDatabase['orders']>,
    'expected_gateways' | 'cancel_reason' | 'paid_at' | 'confirmed_at' | 'finalized_at'
  >

/**
 * All that is known about one payment, and why it counts or does not.
 *
 * @param asked an order id, a payment reference or the hash of a transaction
 * @param depths as market-api is configured; the database doesn't know
 * @throws NotKnownError
 */
export async function explainPayment(
  db: Db,
  asked: string,
  { chainId, ...depths }: { confirm: number; finalize: number; chainId?: number | undefined },
): Promise<Explanation> {
  const text = asked.trim()
  const orderId = /^ord_[0-9a-f]{32}$/i.test(text) ? `ord_${text.slice(4).toUpperCase()}` : undefined
  const txHash = /^0x[0-9a-f]{64}$/i.test(text) ? text.toLowerCase() : undefined
  const reference = normalizePaymentReference(text) ?? null
  const onChain = (column: RawBuilder<unknown>) => (chainId === undefined ? sql`true` : sql`${column} = ${chainId}`)
  // With their chains: the key by which a transaction's are found begins with one.
  const chains = chainId === undefined ? await listPaymentChains(db) : [chainId]
  const named = txHash ? sql`t.tx_hash = ${txHash}` : sql`t.payment_reference = ${reference}`
  const transfers = orderId
    ? []
    : await listTransfers(db, sql`t.chain_id = any(${chains}::bigint[]) and ${named}`, MAX_TRANSFERS)
  const references = txHash ? transfers.map(({ payment_reference }) => payment_reference) : [reference]
  const orders = await sql<Row>`
    select ${orderColumns}, o.expected_gateways, o.cancel_reason, o.paid_at, o.confirmed_at, o.finalized_at
      from orders o
     where ${orderId ? sql`o.order_id = ${orderId}` : sql`o.payment_reference = any(${references}::text[])`}
       and ${onChain(sql`o.chain_id`)}
     order by o.order_id limit ${MAX_ORDERS}`.execute(db)
  const keyOf = (row: Pick<Row, 'chain_id' | 'payment_reference'>) => `${row.chain_id} ${row.payment_reference}`
  const withOrder = new Set(orders.rows.map(keyOf))
  const found: Explanation = {
    orders: [],
    unmatched: transfers
      .toReversed()
      .filter((row) => !withOrder.has(keyOf(row)))
      .map((row) => explainTransfer(row, undefined)),
    unreadable: txHash
      ? await listRowErrors(db, sql`e.tx_hash = ${txHash} and ${onChain(sql`e.chain_id`)}`, MAX_ROW_ERRORS)
      : [],
  }
  for (const order of orders.rows) found.orders.push(await explainOrder(db, order, depths))
  if (found.orders.length + found.unmatched.length + found.unreadable.length === 0) {
    throw new NotKnownError(`no order, payment reference or transaction is known as ${asked}`)
  }
  return found
}

async function explainOrder(
  db: Db,
  order: Row,
  { confirm, finalize }: { confirm: number; finalize: number },
): Promise<ExplainedOrder> {
  const newest = await listTransfers(
    db,
    sql`t.payment_reference = ${order.payment_reference} and t.chain_id = ${order.chain_id}`,
    null,
  )
  const observed = await db
    .selectFrom('payments_observed')
    .select(['head_block', 'observed_at'])
    .where('chain_id', '=', order.chain_id)
    .executeTakeFirst()
  const payable = { priceWei: BigInt(order.price_wei), expectedGateways: order.expected_gateways }
  const recorded = newest.map(recordedTransfer)
  const head = Number(observed?.head_block ?? 0)
  return {
    ...paidOrder(order),
    cancelReason: order.cancel_reason,
    paidAt: order.paid_at,
    confirmedAt: order.confirmed_at,
    finalizedAt: order.finalized_at,
    gateways: await readOwners(db, Number(order.chain_id), order.expected_gateways),
    head: observed ? { block: head, observedAt: observed.observed_at } : null,
    confirm,
    finalize,
    seen: sumAt(payable, recorded, head, 0),
    confirmed: sumAt(payable, recorded, head, confirm),
    final: sumAt(payable, recorded, head, finalize),
    transfers: newest
      .slice(0, MAX_TRANSFERS)
      .toReversed()
      .map((row) => explainTransfer(row, payable)),
    moreTransfers: newest.length > MAX_TRANSFERS,
    jobs: await listJobs(db, order.order_id),
  }
}

/** What counts so deep, and, by the rule of settlement itself, when that is the price. */
function sumAt(order: Payable, transfers: RecordedTransfer[], head: number, depth: number): DepthSum {
  const deep = transfers.filter(({ inDoubt, blockNumber }) => depth === 0 || (!inDoubt && blockNumber + depth <= head))
  const depths = { head, confirm: depth, finalize: depth }
  const { complete, settleAt } = settle(order, transfers, depths)
  return {
    wei: settle(order, deep, depths).seenWei.toString(),
    reached: complete,
    missingBlocks: complete ? 0 : settleAt === undefined ? null : settleAt - head,
  }
}

async function listJobs(db: Db, orderId: string): Promise<ExplainedJob[]> {
  const jobs = await db
    .selectFrom('fulfillment_jobs')
    .select(['job_id', 'seller_address', 'offer_type', 'trigger', 'line_indexes', 'status', 'reason', 'attempts'])
    .select(['created_at', 'next_attempt_at'])
    .where('order_id', '=', orderId)
    .orderBy('created_at')
    .orderBy('seller_address')
    .execute()
  return jobs.map((job) => ({
    jobId: job.job_id,
    seller: job.seller_address,
    offerType: job.offer_type,
    trigger: job.trigger,
    lineIndexes: job.line_indexes,
    status: job.status,
    // What an adapter said may name a person.
    reason: publicReason(job.reason),
    attempts: job.attempts,
    createdAt: job.created_at,
    nextAttemptAt: job.next_attempt_at,
  }))
}
