import { normalizeAddress } from '@market/contracts/address'
import { isSku } from '@market/contracts/catalogDocuments'
import { QuantitativeValue } from '@market/contracts/fulfillment'
import { InvalidError, NotFoundError } from '@market/kit/errors'
import { type Context, Hono } from 'hono'
import type { MarketContext } from '../context.ts'
import { checkAddress } from '../http/body.ts'
import { readAvailability, readInventory } from './readStock.ts'
import { selectRoutes } from './resolveRoute.ts'

/** Stock feeds; the URLs the catalog writes into every offer that has a route. */
export const stockRoutes = (ctx: MarketContext) =>
  new Hono()
    .get('/availability/:chainId/:seller/:sku', async (c) => c.json(await readAvailability(ctx, keyOf(c))))
    .get('/inventory/:chainId/:seller/:sku', async (c) => {
      const { value, unitCode = null } = await readInventory(ctx, keyOf(c))
      return c.json({ '@type': 'QuantitativeValue', value, unitCode } satisfies QuantitativeValue)
    })

/** Everybody who has something to sell; a plain array, because that is what every client takes (clients.md 6). */
export const sellerRoutes = (ctx: MarketContext) =>
  new Hono().get('/', async (c) => {
    const rows = await selectRoutes(ctx.db)
      .select(['r.chain_id', 'r.seller_address'])
      .distinct()
      .orderBy('r.chain_id')
      .orderBy('r.seller_address')
      .execute()
    return c.json(rows.map((row) => ({ chainId: Number(row.chain_id), seller: row.seller_address })))
  })

function keyOf(c: Context) {
  const chainId = Number(c.req.param('chainId'))
  if (!Number.isSafeInteger(chainId)) throw new InvalidError('invalid_chain', 'chainId must be an integer')
  const seller = checkAddress('/seller', () => normalizeAddress(c.req.param('seller') ?? ''))
  const sku = (c.req.param('sku') ?? '').trim().toLowerCase()
  if (!isSku(sku)) throw new NotFoundError('not_configured', 'Product not configured')
  return { chainId, seller, sku }
}
