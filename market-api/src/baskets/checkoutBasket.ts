import { orderId as makeOrderId, paymentReference as makeReference } from '@market/contracts/ids'
import { decimalFromWei } from '@market/contracts/money'
import { inTransaction } from '@market/kit/db'
import { ForbiddenError, InvalidError, UnauthorizedError } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'
import { requireRoomForOrder } from '../orders/openOrders.ts'
import { findOrderOfBasket, insertOrder } from '../orders/store.ts'
import { isGateway } from '../serviceRoutes/gateways.ts'
import { openLevels, reserveForOrder } from '../serviceRoutes/reservations.ts'
import { type Basket, linesOf, validateBasketRules } from './basket.ts'
import { composeOrder, type OrderDraft } from './composeOrder.ts'
import { BasketVersionConflictError, InvalidBasketError, ProductChangedError, UnsellableLineError } from './errors.ts'
import { type Answer, claimKey, findAnswer, type IdempotencyKey } from './idempotencyKeys.ts'
import { type BasketAccess, openBasket, requireVersion } from './openBasket.ts'
import { presentBasket } from './presentBasket.ts'
import { changesSince, type ResolvedLines, resolveLines } from './resolveLines.ts'
import { freezeBasket, type StoredBasket } from './store.ts'

export type CheckoutInput = {
  basketId: string
  access: BasketAccess
  /** `?buyer=`, an address. */
  queryBuyer: string | undefined
  /** `Idempotency-Key`, as sent. */
  idempotencyKey: string | undefined
  /** Keyed hash of the client's network. */
  client: string
}

/** The basket by this moment's prices and stock, with everything that would stop a checkout found out. */
export async function prepareCheckout(
  ctx: MarketContext,
  stored: StoredBasket,
  { seen, byVersion = false }: { seen?: Basket['items']; byVersion?: boolean },
): Promise<{ basket: Basket; resolved: ResolvedLines }> {
  const withItems = (items: Basket['items']): Basket => ({ ...stored.basket, items })
  const resolved = await resolveLines(ctx, stored.basket, linesOf(stored.basket), (items) => {
    const changes = seen ? changesSince(seen, items) : []
    if (changes.length === 0) return
    throw new ProductChangedError(changes, presentBasket({ ...stored, basket: withItems(items) }), byVersion)
  })
  const basket = withItems(resolved.items)
  const validation = validateBasketRules(basket)
  if (!validation.valid) throw new InvalidBasketError(validation)
  return { basket, resolved }
}

/**
 * Turns a basket into exactly one order, however often the buyer presses the button: the frozen basket, the order, what it
 * holds and the answer to give again are one transaction.
 *
 * @throws ProductChangedError 409 when the seller has published something else since: an order is never for other terms than
 * the basket showed. OneOffSoldError 409, UnsellableLineError and InsufficientStockError 422, InvalidBasketError 400
 */
export async function checkoutBasket(ctx: MarketContext, input: CheckoutInput): Promise<Answer> {
  const { basketId, access } = input
  // First of all: the answer outlives the basket.
  const key = keyOf(input)
  const known = key && (await findAnswer(ctx.db, key))
  if (known) return known
  const stored = await openBasket(ctx, basketId, access, 'refuse')
  const buyer = buyerOf(ctx, stored, input)
  const signed = access.caller?.address === buyer && access.caller.chainId === stored.basket.chainId
  if (stored.orderId) return earlierAnswer(ctx, stored, key)
  requireVersion(stored, access.ifMatch)
  await requireRoomForOrder(ctx, signed ? { buyer } : { client: input.client })

  // IPFS and adapters answer here: a transaction that waits for the network holds a connection hostage.
  const byVersion = access.ifMatch !== undefined
  const { basket, resolved } = await prepareCheckout(ctx, stored, { seen: stored.basket.items, byVersion })
  const orderId = makeOrderId(ctx.random16())
  const paymentReference = makeReference(ctx.random16())
  const createdAt = ctx.now()
  const draft = composeOrder(basket, buyer, orderId, paymentReference, createdAt)
  await requireGateway(ctx, basket, draft)
  const { MARKET_PAYMENT_WINDOW_SECONDS, MARKET_ANONYMOUS_PAYMENT_WINDOW_SECONDS } = ctx.config
  const windowSeconds = signed ? MARKET_PAYMENT_WINDOW_SECONDS : MARKET_ANONYMOUS_PAYMENT_WINDOW_SECONDS
  const answer: Answer = { status: 201, body: { orderId, basketId, paymentReference, orderCid: null } }

  await openLevels(ctx.db, basket.chainId, resolved.stock)
  const created = await inTransaction(ctx.db, async (tx) => {
    // Waits for another request with this key, and then has its answer.
    if (key && !(await claimKey(tx, key, answer))) return false
    // Takes the key's row along: its answer names an order that isn't.
    if (!(await freezeBasket(tx, basketId, stored.version, orderId))) throw new OvertakenError()
    ctx.failpoint('checkout.frozen')
    await insertOrder(tx, {
      ...draft,
      orderId,
      basketId,
      buyer,
      chainId: basket.chainId,
      paymentReference,
      createdAt,
      paymentDueBy: new Date(createdAt.getTime() + windowSeconds * 1000),
      listed: signed,
      placedFrom: signed ? null : input.client,
    })
    await reserveForOrder(tx, { orderId, chainId: basket.chainId }, resolved)
    return true
  }).catch((error: unknown) => {
    if (error instanceof OvertakenError) return false
    throw error
  })
  if (!created) return earlierAnswer(ctx, stored, key)
  ctx.failpoint('checkout.committed')
  ctx.metrics.ordersCreated.inc()
  // Rounded to a double: a histogram, not an account.
  ctx.metrics.orderValueCrc.observe(Number(decimalFromWei(draft.priceWei)))
  ctx.log.info({ orderId, lines: draft.lines.length }, 'order created')
  return answer
}

/** Money sent anywhere else would never be seen. */
async function requireGateway(ctx: MarketContext, { chainId, items }: Basket, { expectedGateways }: OrderDraft) {
  for (const gateway of expectedGateways) {
    if (await isGateway(ctx, chainId, gateway)) continue
    const { sku } = items[0]!.orderedItem
    throw new UnsellableLineError(
      'no_gateway',
      `The offer of ${sku} is paid to ${gateway}, which is no payment gateway`,
      0,
    )
  }
}

/** Another press of the button froze the basket first, or a patch changed it. Rolls back, and reaches nobody. */
class OvertakenError extends Error {}

/**
 * Whose order it becomes: the basket's buyer, else whoever signed in, else `?buyer=`. Without the buyer's token that is
 * somebody's word, which the operator may refuse to take (architecture §3).
 */
function buyerOf(ctx: MarketContext, stored: StoredBasket, { access: { caller }, queryBuyer }: CheckoutInput): string {
  const { buyer: named, chainId } = stored.basket
  const callerHere = caller?.chainId === chainId ? caller : undefined
  const buyer = named ?? callerHere?.address ?? queryBuyer
  if (ctx.config.MARKET_ANONYMOUS_CHECKOUT === 'deny') {
    if (!caller) throw new UnauthorizedError('sign_in_to_check_out', 'Sign in as the buyer to check out')
    if (buyer !== callerHere?.address) throw new ForbiddenError('not_the_buyer', 'Only its buyer checks a basket out')
  }
  if (!buyer) throw new InvalidError('buyer_missing', 'The basket names no buyer', { path: '/buyer' })
  if (queryBuyer !== undefined && queryBuyer !== buyer) {
    const message = named ? 'buyer differs from the buyer of the basket' : 'buyer differs from who signed in'
    throw new InvalidError('buyer_mismatch', message, { path: '/buyer' })
  }
  return buyer
}

/** A key is its sender's: the same text from another address or network is another key. */
function keyOf({ idempotencyKey, access, client, basketId, queryBuyer }: CheckoutInput): IdempotencyKey | undefined {
  if (idempotencyKey === undefined) return undefined
  if (!/^[\x21-\x7e]{1,255}$/.test(idempotencyKey)) {
    throw new InvalidError('invalid_idempotency_key', 'Idempotency-Key must be 1 to 255 visible ASCII characters')
  }
  return {
    scope: access.caller?.address ?? client,
    key: idempotencyKey,
    fingerprint: `checkout ${basketId} ${queryBuyer ?? ''}`,
  }
}

/** What another press of the button was answered, or the order it made; without one the basket was changed in between. */
async function earlierAnswer(
  ctx: MarketContext,
  { basket: { basketId }, version }: StoredBasket,
  key: IdempotencyKey | undefined,
): Promise<Answer> {
  const answered = key && (await findAnswer(ctx.db, key))
  if (answered) return answered
  const earlier = await findOrderOfBasket(ctx.db, basketId)
  if (!earlier) throw new BasketVersionConflictError(version)
  const { order_id: orderId, payment_reference: paymentReference } = earlier
  return { status: 200, body: { orderId, basketId, paymentReference, orderCid: null } }
}
