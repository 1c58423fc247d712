import { orderId as makeOrderId, paymentReference as makeReference } from '@market/contracts/ids'
import { decimalFromWei } from '@market/contracts/money'
import { inTransaction } from '@market/kit/db'
import { InvalidError } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'
import { findOrderOfBasket, insertOrder } from '../orders/store.ts'
import { type Basket, linesOf, validateBasketRules } from './basket.ts'
import { composeOrder } from './composeOrder.ts'
import { BasketVersionConflictError, InvalidBasketError } from './errors.ts'
import { type ForOrder, resolveLines } from './resolveLines.ts'
import { freezeBasket, readStoredBasket, type StoredBasket } from './store.ts'

/** The basket by this moment's prices and stock, with everything that would stop a checkout found out. */
export async function prepareCheckout(ctx: MarketContext, stored: StoredBasket, order: ForOrder): Promise<Basket> {
  const items = await resolveLines(ctx, stored.basket, linesOf(stored.basket), order)
  const basket = { ...stored.basket, items }
  const validation = validateBasketRules(basket)
  if (!validation.valid) throw new InvalidBasketError(validation)
  return basket
}

/**
 * Turns a basket into exactly one order, however often the buyer presses the button. Throws ProductChangedError (409) when the
 * seller has published something else since: an order is never for other terms than the basket showed.
 */
export async function checkoutBasket(ctx: MarketContext, basketId: string, queryBuyer: string | undefined) {
  const stored = await readStoredBasket(ctx.db, basketId, ctx.now())
  const buyer = buyerOf(stored.basket, queryBuyer)
  if (stored.orderId) return { created: false, ...(await earlierOrder(ctx, basketId)) }

  // IPFS and adapters answer here: a transaction that waits for the network holds a connection hostage.
  const basket = await prepareCheckout(ctx, stored, { seen: stored.basket.items })
  const orderId = makeOrderId(ctx.random16())
  const paymentReference = makeReference(ctx.random16())
  const draft = composeOrder(basket, buyer, orderId, paymentReference)

  const created = await inTransaction(ctx.db, async (tx) => {
    if (!(await freezeBasket(tx, basketId, stored.version, orderId))) return false
    ctx.failpoint('checkout.frozen')
    await insertOrder(tx, {
      ...draft,
      orderId,
      basketId,
      buyer,
      chainId: basket.chainId,
      paymentReference,
      createdAt: ctx.now(),
      paymentDueBy: new Date(ctx.now().getTime() + 30 * 60_000),
      listed: true,
      placedFrom: null,
    })
    return true
  })
  if (!created) return { created, ...(await earlierOrder(ctx, basketId)) }
  ctx.failpoint('checkout.committed')
  ctx.metrics.ordersCreated.inc()
  // Rounded to a double: a histogram, not an account.
  ctx.metrics.orderValueCrc.observe(Number(decimalFromWei(draft.priceWei)))
  ctx.log.info({ orderId, lines: draft.lines.length }, 'order created')
  return { created, orderId, paymentReference }
}

function buyerOf(basket: Basket, queryBuyer: string | undefined): string {
  if (basket.buyer && queryBuyer && queryBuyer !== basket.buyer) {
    throw new InvalidError('buyer_mismatch', 'buyer differs from the buyer of the basket', { path: '/buyer' })
  }
  const buyer = basket.buyer ?? queryBuyer
  if (!buyer) throw new InvalidError('buyer_missing', 'The basket names no buyer', { path: '/buyer' })
  return buyer
}

/** The order another press of the button made; without one the basket was changed in between. */
async function earlierOrder(ctx: MarketContext, basketId: string) {
  const earlier = await findOrderOfBasket(ctx.db, basketId)
  if (!earlier) throw new BasketVersionConflictError()
  return { orderId: earlier.order_id, paymentReference: earlier.payment_reference }
}
