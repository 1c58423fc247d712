import { decimalFromWei } from '@market/contracts/money'
import { OrderStatus } from '@market/contracts/statuses'
import { sql, type Transaction } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import { holdJobs, releaseJobs } from '../fulfillment/holdJobs.ts'
import { type DueJobs, insertJobs } from '../fulfillment/insertJobs.ts'
import { tellCompletions } from '../fulfillment/tellCompletion.ts'
import { type RecordedTransfer, settle, type Settlement } from './settle.ts'
import { type Step, stepsOf } from './transition.ts'

type Settled = {
  orderId: string
  steps: Step[]
  settlement: Settlement
  priceWei: bigint
  paidBefore: bigint
  cancelled: boolean
  /** Something came that may count: it is not its buyer's to cancel any more. */
  seen: boolean
  /** Delivery had begun when the money went. */
  kept: boolean
}

/** What a transaction did to orders, to be told once it is committed. */
export type SettledOrders = { settled: Settled[]; head: number }

/**
 * Moves these orders as far as their transfers reach at this head: state, history, events and the jobs it makes due, all in the
 * caller's transaction (payments.md 18). Nothing happens to an order that is where it belongs, so it can be called at any time
 * and any number of times.
 */
export async function settleOrders(
  ctx: MarketContext,
  tx: Transaction<MarketDatabase>,
  orderIds: string[],
  head: number,
): Promise<SettledOrders> {
  if (orderIds.length === 0) return { settled: [], head }
  const { CONFIRM_CONFIRMATIONS: confirm, FINALIZE_CONFIRMATIONS: finalize } = ctx.config
  // In order, so that two who lock the same orders wait for each other and not in a circle.
  const orders = await tx
    .selectFrom('orders')
    .select(['order_id', 'chain_id', 'payment_reference', 'price_wei', 'expected_gateways', 'paid_amount_wei'])
    .select(['paid_at', 'confirmed_at', 'finalized_at', 'cancelled_at', 'payment_reverted_at'])
    .where(sql<boolean>`order_id = any(${orderIds}::text[])`)
    .orderBy('order_id')
    .forUpdate()
    .execute()
  const transfers = await transfersOf(tx, ctx.config.CHAIN_ID, orders)
  const settled = orders.map((order): Settled => {
    const payable = { priceWei: BigInt(order.price_wei), expectedGateways: order.expected_gateways }
    const came = transfers.get(order.payment_reference) ?? []
    const settlement = settle(payable, came, { head, confirm, finalize })
    const standing = {
      paid: order.paid_at !== null,
      confirmed: order.confirmed_at !== null,
      complete: order.finalized_at !== null,
      cancelled: order.cancelled_at !== null,
      reverted: order.payment_reverted_at !== null,
    }
    return {
      orderId: order.order_id,
      steps: stepsOf(standing, settlement),
      settlement,
      priceWei: payable.priceWei,
      paidBefore: BigInt(order.paid_amount_wei),
      cancelled: standing.cancelled,
      seen: came.some(
        (transfer) => transfer.ignoredReason === null && transfer.eligible !== false && !transfer.orphaned,
      ),
      kept: standing.complete,
    }
  })
  const having = (step: Step) => settled.filter(({ steps }) => steps.includes(step)).map(({ orderId }) => orderId)

  const begun = await holdJobs(tx, having('takeBack'))
  for (const order of settled) order.kept ||= begun.has(order.orderId)
  // Money that is only seen again delivers nothing yet.
  await releaseJobs(tx, [...having('restore'), ...having('confirm')])
  const due: DueJobs[] = []
  for (const { orderId, steps } of settled) {
    if (steps.includes('confirm')) due.push({ orderId, trigger: 'confirmed' })
    if (steps.includes('complete')) due.push({ orderId, trigger: 'finalized' })
  }
  const delivering = await insertJobs(ctx, tx, due)
  ctx.failpoint(`payments.advancing.${lastStep(settled) ?? 'nothing'}`)
  // The status last: from its first change to the commit, all who have something to tell wait (docs/adr/0009).
  await storeState(ctx, tx, settled)
  const completed = having('complete')
  if (completed.length > 0) {
    await tx
      .updateTable('orders')
      .set({ status: OrderStatus.paymentComplete })
      .where(sql<boolean>`order_id = any(${completed}::text[])`)
      .execute()
    // Who still waits for a delivery is told with its first answer.
    await tellCompletions(
      tx,
      completed.filter((orderId) => !delivering.has(orderId)),
    )
  }
  return { settled, head }
}

const lastStep = (settled: Settled[]) =>
  (['complete', 'confirm', 'pay', 'takeBack'] as const).find((step) =>
    settled.some(({ steps }) => steps.includes(step)),
  )

async function transfersOf(
  tx: Transaction<MarketDatabase>,
  chainId: number,
  orders: { chain_id: string | number; payment_reference: string }[],
): Promise<Map<string, RecordedTransfer[]>> {
  // An order of another chain is not this poller's (payments.md W21).
  const references = orders
    .filter((order) => Number(order.chain_id) === chainId)
    .map((order) => order.payment_reference)
  const rows = await tx
    .selectFrom('payment_transfers')
    .select(TRANSFER_COLUMNS)
    .where('chain_id', '=', chainId)
    .where(sql<boolean>`payment_reference = any(${references}::text[])`)
    .execute()
  const found = new Map<string, RecordedTransfer[]>()
  for (const row of rows) {
    const of = found.get(row.payment_reference)
    if (of) of.push(recordedTransfer(row))
    else found.set(row.payment_reference, [recordedTransfer(row)])
  }
  return found
}

export const TRANSFER_COLUMNS = [
  'payment_reference',
  'block_number',
  'transaction_index',
  'log_index',
  'tx_hash',
  'gateway_address',
  'amount_wei',
  'eligible',
  'ignored_reason',
  'orphaned_at',
  'doubted_at',
  'verdict_due',
] as const

/** A row with `TRANSFER_COLUMNS` as settlement sees it. */
export const recordedTransfer = (row: {
  block_number: string | number
  transaction_index: number
  log_index: number
  tx_hash: string
  gateway_address: string
  amount_wei: string | null
  eligible: boolean | null
  ignored_reason: string | null
  orphaned_at: Date | null
  doubted_at: Date | null
  verdict_due: boolean
}): RecordedTransfer => ({
  blockNumber: Number(row.block_number),
  transactionIndex: row.transaction_index,
  logIndex: row.log_index,
  txHash: row.tx_hash,
  gateway: row.gateway_address,
  amountWei: row.amount_wei === null ? null : BigInt(row.amount_wei),
  eligible: row.eligible,
  ignoredReason: row.ignored_reason,
  orphaned: row.orphaned_at !== null,
  inDoubt: row.doubted_at !== null || row.verdict_due,
})

/** All that settlement decides of an order, in one statement for all of them; what did not change is written as it was. */
async function storeState(ctx: MarketContext, tx: Transaction<MarketDatabase>, settled: Settled[]): Promise<void> {
  const rows = settled.map(({ orderId, steps, settlement: { seenWei, paidBy, settleAt }, seen, kept, cancelled }) => ({
    order_id: orderId,
    amount: seenWei.toString(),
    seen,
    settle_at: cancelled ? null : (settleAt ?? null),
    pay: steps.includes('pay'),
    unpay: steps.includes('takeBack') && !kept,
    revert: steps.includes('takeBack') && kept,
    restore: steps.includes('restore'),
    confirm: steps.includes('confirm'),
    complete: steps.includes('complete'),
    tx_hash: paidBy?.txHash ?? null,
    log_index: paidBy?.logIndex ?? null,
  }))
  const now = ctx.now()
  await sql`
    update orders o set
      paid_amount_wei = v.amount,
      settle_at_block = v.settle_at,
      payment_seen_at = coalesce(o.payment_seen_at, case when v.seen then ${now}::timestamptz end),
      status = case when v.pay then ${OrderStatus.paymentProcessing} when v.unpay then ${OrderStatus.paymentDue}
        else o.status end,
      paid_at = case when v.pay then ${now}::timestamptz when v.unpay then null else o.paid_at end,
      paid_tx_hash = case when v.unpay then null when v.pay or o.paid_at is not null
        then coalesce(v.tx_hash, o.paid_tx_hash) end,
      paid_log_index = case when v.unpay then null when v.pay or o.paid_at is not null
        then coalesce(v.log_index, o.paid_log_index) end,
      -- Whoever placed it, it is the buyer's now: somebody paid for it.
      listed = o.listed or v.pay,
      placed_from = case when v.pay then null else o.placed_from end,
      -- A payment that went with a reorg mostly comes in again: time for it, or for another.
      payment_due_by = case when v.unpay then greatest(o.payment_due_by, ${now}::timestamptz
        + make_interval(secs => ${ctx.config.MARKET_PAYMENT_WINDOW_SECONDS})) else o.payment_due_by end,
      confirmed_at = case when v.confirm then ${now}::timestamptz when v.unpay then null else o.confirmed_at end,
      finalized_at = case when v.complete then ${now}::timestamptz else o.finalized_at end,
      payment_reverted_at = case when v.revert then ${now}::timestamptz when v.restore then null
        else o.payment_reverted_at end
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as v (order_id text, amount numeric, seen boolean,
      settle_at bigint, pay boolean, unpay boolean, revert boolean, restore boolean, confirm boolean, complete boolean,
      tx_hash text, log_index integer)
    where o.order_id = v.order_id`.execute(tx)
}

/** Counts and logs what was committed. */
export function tellSettled(ctx: MarketContext, { settled, head }: SettledOrders): void {
  for (const { orderId, steps, settlement, priceWei, paidBefore, cancelled, kept } of settled) {
    const { seenWei } = settlement
    if (seenWei > paidBefore && cancelled) {
      ctx.metrics.latePayments.inc()
      ctx.log.warn({ orderId, crc: decimalFromWei(seenWei) }, 'paid after it was cancelled: a person has to decide')
    } else if (seenWei > priceWei && seenWei > paidBefore) {
      ctx.metrics.overpaidOrders.inc()
      ctx.log.warn({ orderId, overCrc: decimalFromWei(seenWei - priceWei) }, 'order overpaid')
    }
    if (steps.length === 0) continue
    if (steps.includes('takeBack')) {
      const fields = { orderId, missingCrc: decimalFromWei(priceWei - seenWei), head }
      if (kept) ctx.log.error(fields, 'payment reverted after delivery began: a person has to decide')
      else ctx.log.warn(fields, 'payment reverted: the order is unpaid again')
    }
    if (steps.includes('complete')) {
      ctx.metrics.ordersFinalized.inc()
      ctx.metrics.paidCrc.inc(Number(decimalFromWei(seenWei)))
    }
    ctx.log.info({ orderId, steps, head }, 'order advanced')
  }
  const last = lastStep(settled)
  if (last) ctx.failpoint(`payments.advanced.${last}`)
}
