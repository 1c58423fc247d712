import { OrderStatus } from '@market/contracts/statuses'
import { decimalFromWei } from '@market/contracts/money'
import { inTransaction } from '@market/kit/db'
import { assertLease, type Lease } from '@market/kit/lease'
import type { Updateable } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import { insertJobs } from '../fulfillment/insertJobs.ts'
import { tellCompletion } from '../fulfillment/tellCompletion.ts'
import { settle } from './settle.ts'

const BATCH = 500

/** Moves every order that was paid something as far as its transfers reach at this head (payments.md 18). */
export async function advanceOrders(ctx: MarketContext, lease: Lease, head: number): Promise<void> {
  let after = ''
  for (;;) {
    const batch = await ctx.db
      .selectFrom('orders')
      .select('order_id')
      .where('chain_id', '=', ctx.config.CHAIN_ID)
      .where('payment_seen_at', 'is not', null)
      .where('finalized_at', 'is', null)
      .where('cancelled_at', 'is', null)
      .where('order_id', '>', after)
      .orderBy('order_id')
      .limit(BATCH)
      .execute()
    for (const { order_id } of batch) await advanceOrder(ctx, lease, order_id, head)
    if (batch.length < BATCH) return
    after = batch.at(-1)!.order_id
  }
}

/**
 * One order, one transaction: the new state, its history and notification (by trigger), and the jobs it makes due.
 * Nothing happens when the order is already there, so it can be called at any time and any number of times.
 */
export async function advanceOrder(ctx: MarketContext, lease: Lease, orderId: string, head: number): Promise<void> {
  const { CONFIRM_CONFIRMATIONS: confirm, FINALIZE_CONFIRMATIONS: finalize } = ctx.config
  const advanced = await inTransaction(ctx.db, async (tx) => {
    await assertLease(tx, lease)
    const order = await tx
      .selectFrom('orders')
      .select(['chain_id', 'payment_reference', 'price_wei', 'expected_gateways'])
      .select(['paid_at', 'paid_amount_wei', 'confirmed_at', 'finalized_at', 'cancelled_at'])
      .where('order_id', '=', orderId)
      .forUpdate()
      .executeTakeFirstOrThrow()
    // What came in after the end is on record with its transfers; its goods are others' again.
    if (order.finalized_at || order.cancelled_at) return undefined
    const transfers = await tx
      .selectFrom('payment_transfers')
      .select(['block_number', 'transaction_index', 'log_index', 'tx_hash', 'amount_wei'])
      .where('payment_reference', '=', order.payment_reference)
      .where('chain_id', '=', order.chain_id)
      .where('gateway_address', 'in', order.expected_gateways)
      .where('eligible', '=', true)
      .where('orphaned_at', 'is', null)
      .where('amount_wei', 'is not', null)
      .execute()
    const { seenWei, paidBy, confirmed, complete } = settle(
      BigInt(order.price_wei),
      transfers.map((t) => ({
        blockNumber: Number(t.block_number),
        transactionIndex: t.transaction_index,
        logIndex: t.log_index,
        txHash: t.tx_hash,
        amountWei: BigInt(t.amount_wei!),
      })),
      { head, confirm, finalize },
    )

    const now = ctx.now()
    const update = (set: Updateable<MarketDatabase['orders']>) =>
      tx.updateTable('orders').set(set).where('order_id', '=', orderId).execute()
    if (seenWei !== BigInt(order.paid_amount_wei)) await update({ paid_amount_wei: seenWei.toString() })
    const paying = paidBy && !order.paid_at
    // A payment that is final is confirmed as well, however few confirmations were asked for.
    const confirming = (confirmed || complete) && !order.confirmed_at
    if (confirming) await insertJobs(ctx, tx, orderId, 'confirmed')
    if (complete) await insertJobs(ctx, tx, orderId, 'finalized')

    // The status last: from its first change to the commit, all who have something to tell wait (docs/adr/0009).
    const steps: string[] = []
    if (paying) {
      await update({
        status: OrderStatus.paymentProcessing,
        paid_at: now,
        // Whoever placed it, it is the buyer's now: somebody paid for it.
        listed: true,
        placed_from: null,
        paid_tx_hash: paidBy.txHash,
        paid_log_index: paidBy.logIndex,
      })
      steps.push('paid')
    }
    if (confirming) {
      await update({ confirmed_at: now })
      steps.push('confirmed')
    }
    if (complete) {
      await update({ status: OrderStatus.paymentComplete, finalized_at: now })
      await tellCompletion(tx, orderId)
      steps.push('complete')
    }
    ctx.failpoint(`payments.advancing.${steps.at(-1) ?? 'nothing'}`)
    return { steps, seenWei }
  })
  if (!advanced || advanced.steps.length === 0) return
  ctx.failpoint(`payments.advanced.${advanced.steps.at(-1)}`)
  if (advanced.steps.includes('complete')) {
    ctx.metrics.ordersFinalized.inc()
    ctx.metrics.paidCrc.inc(Number(decimalFromWei(advanced.seenWei)))
  }
  ctx.log.info({ orderId, steps: advanced.steps, head }, 'order advanced')
}
