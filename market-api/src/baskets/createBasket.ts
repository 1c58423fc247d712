import { basketId } from '@market/contracts/ids'
import { InvalidError } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'
import { type Basket, DEFAULT_TTL_SECONDS } from './basket.ts'
import { insertBasket } from './store.ts'

export type CreateBasketInput = { buyer: string | null; operator: string | null; chainId: number | undefined }

/** An empty basket. Its id is the key to it: 128 random bits, never logged. */
export async function createBasket(ctx: MarketContext, { buyer, operator, chainId }: CreateBasketInput) {
  if (chainId !== undefined && chainId !== ctx.config.CHAIN_ID) {
    throw new InvalidError('invalid_chain', `chainId must be ${ctx.config.CHAIN_ID}`, { path: '/chainId' })
  }
  const now = ctx.now()
  const basket: Basket = {
    '@context': ['https://schema.org/', 'https://aboutcircles.com/contexts/circles-market/'],
    '@type': 'circles:Basket',
    basketId: basketId(ctx.random16()),
    buyer,
    operator,
    chainId: ctx.config.CHAIN_ID,
    items: [],
    customer: null,
    shippingAddress: null,
    billingAddress: null,
    ageProof: null,
    contactPoint: null,
    createdAt: Math.floor(now.getTime() / 1000),
    ttlSeconds: DEFAULT_TTL_SECONDS,
  }
  await insertBasket(ctx.db, basket, now)
  return basket.basketId
}
