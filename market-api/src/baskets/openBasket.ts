import { createHash, timingSafeEqual } from 'node:crypto'
import { ForbiddenError } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'
import type { Caller } from '../signIn/tokens.ts'
import { BasketCheckedOutError, BasketExpiredError, BasketNotFoundError, OtherVersionError } from './errors.ts'
import { closeBasket, findBasket, type StoredBasket } from './store.ts'

/** What a request shows to get at a basket. */
export type BasketAccess = {
  /** Whose bearer token it carries; one that nobody can verify counts as none. */
  caller: Caller | undefined
  /** `X-Basket-Token`. */
  basketToken: string | undefined
  /** `If-Match`, as sent. */
  ifMatch: string | undefined
}

/**
 * The basket, for whoever may see it. Its id is the key to it (architecture §3): without any token it opens. Once its buyer's
 * token was used on it, tokens of others than the buyer and its maker don't; once its own token was used, it or the buyer's is
 * needed. `stranger` is what a token of somebody else gets: the same 404 as a basket that isn't there, or 403.
 *
 * @throws BasketNotFoundError 404, ForbiddenError 403, BasketExpiredError 410
 */
export async function openBasket(
  ctx: MarketContext,
  basketId: string,
  { caller, basketToken }: BasketAccess,
  stranger: 'hide' | 'refuse' = 'hide',
): Promise<StoredBasket> {
  const stored = await findBasket(ctx.db, basketId)
  if (!stored) throw new BasketNotFoundError()
  const byBuyer = isBuyer(stored, caller)
  const byMaker = caller !== undefined && caller.address === stored.maker
  if (stored.owned && caller && !byBuyer && !byMaker) {
    if (stranger === 'hide') throw new BasketNotFoundError()
    throw new ForbiddenError('not_your_basket', 'The basket belongs to another buyer')
  }
  const byToken = basketToken !== undefined && isTokenOf(stored, basketToken)
  if (basketToken !== undefined && !byToken) throw new BasketNotFoundError()
  if (stored.tokenRequired && !byToken && !byBuyer) throw new BasketNotFoundError()
  if (stored.expiresAt <= ctx.now()) throw new BasketExpiredError()

  const closing = { owned: byBuyer && !stored.owned, tokenRequired: byToken && !stored.tokenRequired }
  if (closing.owned || closing.tokenRequired) await closeBasket(ctx.db, basketId, closing)
  return stored
}

/** As `openBasket`, for what changes it or looks at what it would become. Throws 409 when it is checked out, 412 by `If-Match`. */
export async function openDraft(ctx: MarketContext, basketId: string, access: BasketAccess): Promise<StoredBasket> {
  const stored = await openBasket(ctx, basketId, access)
  if (stored.status === 'CheckedOut') throw new BasketCheckedOutError()
  requireVersion(stored, access.ifMatch)
  return stored
}

/** Throws OtherVersionError (412) when `If-Match` names other versions than the stored one. */
export function requireVersion({ version }: StoredBasket, ifMatch: string | undefined): void {
  if (ifMatch === undefined || ifMatch.trim() === '*') return
  const named = ifMatch.split(',').map((tag) => tag.trim().replace(/^W\//, ''))
  if (!named.includes(`"${version}"`)) throw new OtherVersionError(version)
}

export const isBuyer = ({ basket }: StoredBasket, caller: Caller | undefined): boolean =>
  caller !== undefined && caller.address === basket.buyer && caller.chainId === basket.chainId

/** 256 random bits need no salt and no slow hash. */
export const hashToken = (token: string): Buffer => createHash('sha256').update(token).digest()

const isTokenOf = ({ tokenHash }: StoredBasket, token: string): boolean =>
  tokenHash !== null && timingSafeEqual(hashToken(token), tokenHash)
