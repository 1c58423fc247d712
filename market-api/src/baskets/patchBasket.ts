import type { MarketContext } from '../context.ts'
import { type Basket, type BasketPatch, DEFAULT_TTL_SECONDS, type RequestedLine } from './basket.ts'
import { BasketCheckedOutError } from './errors.ts'
import { resolveLines } from './resolveLines.ts'
import { mergeIntoDraft, readDraft } from './store.ts'

/** Replaces the members that were sent; null clears one (RFC 7396). `lines` is `patch.items`, checked. */
export async function patchBasket(
  ctx: MarketContext,
  basketId: string,
  patch: BasketPatch,
  lines: RequestedLine[] | undefined,
) {
  const { basket } = await readDraft(ctx.db, basketId, ctx.now())
  const { items: _requested, ttlSeconds, ...members } = patch
  const changes: Partial<Basket> = {
    // An absent member stays out of the merge; an explicit null goes in and clears.
    ...Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)),
    ...(ttlSeconds === undefined ? {} : { ttlSeconds: ttlSeconds ?? DEFAULT_TTL_SECONDS }),
    ...(lines === undefined ? {} : { items: await resolveLines(ctx, basket, lines) }),
  }
  const merged = await mergeIntoDraft(ctx.db, basketId, changes, ctx.now())
  // Between the read and the write another request can only have checked it out.
  if (!merged) throw new BasketCheckedOutError()
  return merged
}
