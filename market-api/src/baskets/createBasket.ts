import { basketId } from '@market/contracts/ids'
import { InvalidError } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'
import type { Caller } from '../signIn/tokens.ts'
import { type Basket, DEFAULT_TTL_SECONDS } from './basket.ts'
import { hashToken } from './openBasket.ts'
import { insertBasket } from './store.ts'

export type CreateBasketInput = {
  buyer: string | null
  operator: string | null
  chainId: number | undefined
  caller: Caller | undefined
}

/**
 * An empty basket. Its id is the key to it: 128 random bits, never logged. `basketToken` is a second one, for clients that
 * want the id alone to open nothing (openBasket.ts).
 */
export async function createBasket(ctx: MarketContext, { operator, chainId, caller, ...input }: CreateBasketInput) {
  const { CHAIN_ID } = ctx.config
  if (chainId !== undefined && chainId !== CHAIN_ID) {
    throw new InvalidError('invalid_chain', `chainId must be ${CHAIN_ID}`, { path: '/chainId' })
  }
  const now = ctx.now()
  const maker = caller?.chainId === CHAIN_ID ? caller.address : null
  const buyer = input.buyer ?? maker
  const basket: Basket = {
    '@context': ['https://schema.org/', 'https://aboutcircles.com/contexts/circles-market/'],
    '@type': 'circles:Basket',
    basketId: basketId(ctx.random16()),
    buyer,
    operator,
    chainId: CHAIN_ID,
    items: [],
    customer: null,
    shippingAddress: null,
    billingAddress: null,
    ageProof: null,
    contactPoint: null,
    createdAt: Math.floor(now.getTime() / 1000),
    ttlSeconds: DEFAULT_TTL_SECONDS,
  }
  const basketToken = Buffer.concat([ctx.random16(), ctx.random16()]).toString('base64url')
  const owned = maker !== null && maker === buyer
  await insertBasket(ctx.db, basket, { maker, owned, tokenHash: hashToken(basketToken) }, now)
  return { basketId: basket.basketId, basketToken }
}
