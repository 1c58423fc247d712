import { orderId } from '@market/contracts/ids'
import { OrderStatus } from '@market/contracts/statuses'
import type { MarketContext } from '../context.ts'
import { orderView } from '../orders/order.ts'
import { prepareCheckout } from './checkoutBasket.ts'
import { composeOrder } from './composeOrder.ts'
import { type BasketAccess, openDraft } from './openBasket.ts'

const NOBODY = '0x0000000000000000000000000000000000000000'

/** The order this basket would become now, at today's prices. Nothing is stored; the order number means nothing. */
export async function previewBasket(
  ctx: MarketContext,
  basketId: string,
  access: BasketAccess,
  queryBuyer: string | undefined,
) {
  const stored = await openDraft(ctx, basketId, access)
  const { basket } = await prepareCheckout(ctx, stored, {})
  const buyer = basket.buyer ?? access.caller?.address ?? queryBuyer ?? NOBODY
  const now = ctx.now()
  const number = orderId(ctx.random16())
  const { snapshot } = composeOrder(basket, buyer, number, '', now)
  const order = orderView(snapshot, {
    orderId: number,
    status: OrderStatus.paymentDue,
    createdAt: now,
    updatedAt: now,
    paymentDueBy: new Date(now.getTime() + ctx.config.MARKET_PAYMENT_WINDOW_SECONDS * 1000),
    outbox: [],
  })
  return { version: stored.version, order }
}
