import { ORDER_ID } from '@market/contracts/ids'
import { OrderStatus } from '@market/contracts/statuses'
import { inTransaction } from '@market/kit/db'
import { ConflictError } from '@market/kit/errors'
import type { Transaction } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import { releaseReservations } from '../serviceRoutes/reservations.ts'
import type { Caller } from '../signIn/tokens.ts'
import { OrderNotFoundError } from './errors.ts'
import type { CancelReason } from './order.ts'
import { stripPersonalData } from './personalData.ts'

/** Money is on its way or here: what becomes of it is not the buyer's button any more. */
class OrderPaidError extends ConflictError {
  constructor() {
    super('order_paid', 'A payment for this order was seen; it can not be cancelled any more')
  }
}

/** Gives an unpaid order up for its buyer, and what it held to others. Repeating it changes nothing. */
export async function cancelOrder(ctx: MarketContext, caller: Caller, orderId: string): Promise<void> {
  if (!ORDER_ID.test(orderId)) throw new OrderNotFoundError()
  const cancelled = await inTransaction(ctx.db, async (tx) => {
    const order = await tx
      .selectFrom('orders')
      .select(['cancelled_at', 'paid_at', 'payment_seen_at'])
      .where('order_id', '=', orderId)
      .where('buyer_address', '=', caller.address)
      .where('chain_id', '=', caller.chainId)
      .forUpdate()
      .executeTakeFirst()
    if (!order) throw new OrderNotFoundError()
    if (order.cancelled_at) return false
    if (order.paid_at || order.payment_seen_at) throw new OrderPaidError()
    await closeUnpaid(ctx, tx, [orderId], 'buyer')
    return true
  })
  if (cancelled) ctx.log.info({ orderId }, 'order cancelled by its buyer')
}

/**
 * Ends orders that are not paid and whose rows the transaction holds: reservations first, then the status, which tells
 * (migration 0013). What they keep of a person goes with it (W-40).
 */
export async function closeUnpaid(
  ctx: MarketContext,
  tx: Transaction<MarketDatabase>,
  orderIds: string[],
  reason: CancelReason,
): Promise<void> {
  if (orderIds.length === 0) return
  await releaseReservations(tx, orderIds)
  await stripPersonalData(tx, orderIds)
  ctx.failpoint('orders.closing')
  await tx
    .updateTable('orders')
    .set({ status: OrderStatus.cancelled, cancelled_at: ctx.now(), cancel_reason: reason, placed_from: null })
    .where('order_id', 'in', orderIds)
    .execute()
}
