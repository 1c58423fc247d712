import { createHash } from 'node:crypto'
import { AddressError, normalizeAddress } from '@market/contracts/address'
import { PROXY_HOP_HEADER, type QuantitativeValue } from '@market/contracts/fulfillment'
import { AppError, InvalidError } from '@market/kit/errors'
import { type Context, Hono } from 'hono'
import type { MarketContext } from '../context.ts'
import { listSellers } from './listSellers.ts'
import { readAvailability, readInventory } from './readStock.ts'

/** Stock feeds; the URLs the catalog writes into every offer that has a route. */
export const stockRoutes = (ctx: MarketContext) =>
  new Hono()
    .use(async (c, next) => {
      // A route that points back at a market would have it call itself until something breaks.
      if (c.req.header(PROXY_HOP_HEADER) !== undefined) {
        throw new AppError(508, 'loop_detected', 'Loop detected', { detail: 'A proxy loop was detected.' })
      }
      await next()
    })
    .get('/availability/:chainId/:seller/:sku', async (c) => c.json(await readAvailability(ctx, keyOf(c))))
    .get('/inventory/:chainId/:seller/:sku', async (c) => {
      const { value, unitCode = null } = await readInventory(ctx, keyOf(c))
      return c.json({ '@type': 'QuantitativeValue', value, unitCode } satisfies QuantitativeValue)
    })

/** A plain array, because that is what every client takes (clients.md 6). */
export const sellerRoutes = (ctx: MarketContext) =>
  new Hono().get('/', async (c) => {
    const body = JSON.stringify(await listSellers(ctx))
    const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`
    c.header('ETag', etag)
    c.header('Cache-Control', 'public, max-age=5')
    const known = (c.req.header('if-none-match') ?? '').split(',').map((tag) => tag.trim().replace(/^W\//, ''))
    if (known.includes(etag) || known.includes('*')) return c.body(null, 304)
    return c.body(body, 200, { 'Content-Type': 'application/json' })
  })

function keyOf(c: Context) {
  const chain = c.req.param('chainId') ?? ''
  const chainId = Number(chain)
  if (!/^-?[0-9]+$/.test(chain) || !Number.isSafeInteger(chainId)) {
    throw invalid('invalid_chain', '/chainId', 'chainId must be an integer')
  }
  const seller = sellerOf(c.req.param('seller') ?? '')
  return { chainId, seller, sku: (c.req.param('sku') ?? '').trim().toLowerCase() }
}

function sellerOf(text: string): string {
  try {
    return normalizeAddress(text)
  } catch (error) {
    if (error instanceof AddressError) throw invalid('invalid_address', '/seller', error.message)
    throw error
  }
}

const invalid = (code: string, path: string, detail: string) =>
  new InvalidError(code, 'Invalid request', { detail, path })
