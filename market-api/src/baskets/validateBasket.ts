import type { MarketContext } from '../context.ts'
import { linesOf, validateBasketRules } from './basket.ts'
import { type BasketAccess, openDraft } from './openBasket.ts'
import { resolveLines } from './resolveLines.ts'

/** Says what the basket still needs, by prices and stock of this moment. Reads only. */
export async function validateBasket(ctx: MarketContext, basketId: string, access: BasketAccess) {
  const { basket, version } = await openDraft(ctx, basketId, access)
  const { items } = await resolveLines(ctx, basket, linesOf(basket))
  return { version, validation: validateBasketRules({ ...basket, items }) }
}
