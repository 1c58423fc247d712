import { orderId } from '@market/contracts/ids'
import type { MarketContext } from '../context.ts'
import { orderView } from '../orders/order.ts'
import { OrderStatus } from '@market/contracts/statuses'
import { prepareCheckout } from './checkoutBasket.ts'
import { composeOrder } from './composeOrder.ts'
import { readDraft } from './store.ts'

const NOBODY = '0x0000000000000000000000000000000000000000'

/** The order this basket would become now, at today's prices. Nothing is stored; the order number means nothing. */
export async function previewBasket(ctx: MarketContext, basketId: string, queryBuyer: string | undefined) {
  const stored = await readDraft(ctx.db, basketId, ctx.now())
  const basket = await prepareCheckout(ctx, stored, {})
  const buyer = basket.buyer ?? queryBuyer ?? NOBODY
  const { snapshot } = composeOrder(basket, buyer, orderId(ctx.random16()), '')
  return orderView(snapshot, { status: OrderStatus.paymentDue, createdAt: ctx.now(), outbox: [] })
}
