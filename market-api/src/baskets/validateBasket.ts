import type { MarketContext } from '../context.ts'
import { linesOf, validateBasketRules } from './basket.ts'
import { resolveLines } from './resolveLines.ts'
import { readDraft } from './store.ts'

/** Says what the basket still needs, by prices and stock of this moment. Reads only. */
export async function validateBasket(ctx: MarketContext, basketId: string) {
  const { basket } = await readDraft(ctx.db, basketId, ctx.now())
  return validateBasketRules({ ...basket, items: await resolveLines(ctx, basket, linesOf(basket)) })
}
