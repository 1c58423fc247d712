import { isSku } from '@market/contracts/catalogDocuments'
import type { QuantitativeValue } from '@market/contracts/fulfillment'
import { Availability } from '@market/contracts/statuses'
import { AppError } from '@market/kit/errors'
import { TimeoutError, withTimeout } from '@market/kit/timeout'
import type { MarketContext } from '../context.ts'
import { findRoute, findRoutes, type RouteKey, routeKey, type ServiceRoute } from './resolveRoute.ts'

/** A page of forty products asks for every feed at once, and so does its next visitor; an adapter hears it once. */
const STOCK_AGE_MS = 3000
const DEADLINE_MS = 1000
const CALLS_AT_ONCE = 8

/**
 * `https://schema.org/InStock` or `…/OutOfStock` of a configured sku (market-api.md 1.10).
 * @throws AppError 404 `not_configured`, `availability_not_configured`; OutboundError 502, 504
 */
export async function readAvailability(ctx: MarketContext, key: RouteKey): Promise<string> {
  const availability = await availabilityOf(ctx, await configured(ctx, key))
  if (availability === undefined) throw notFound('availability_not_configured', 'Availability not configured')
  return availability
}

/** @throws AppError 404 `not_configured`, `inventory_not_supported`; OutboundError 502, 504 */
export async function readInventory(ctx: MarketContext, key: RouteKey): Promise<QuantitativeValue> {
  const { inventoryUrl, isOneOff, isSold, reserved } = await configured(ctx, key)
  if (inventoryUrl) {
    const stock = await ctx.adapters.inventory(inventoryUrl, STOCK_AGE_MS)
    // What open orders hold is still in the adapter's stock, and nobody else's to buy.
    return { ...stock, value: Math.max(0, stock.value - reserved) }
  }
  if (isOneOff) return { '@type': 'QuantitativeValue', value: isSold ? 0 : 1, unitCode: null }
  throw notFound('inventory_not_supported', 'Inventory not supported for this offer')
}

/**
 * Whether each of these can be bought now, by `routeKey`: true, false, or undefined where nobody said so within a second.
 * One query, at most eight calls at a time. Never throws.
 */
export async function readStock(
  ctx: MarketContext,
  keys: { seller: string; sku: string }[],
  chainId: number,
): Promise<Map<string, boolean | undefined>> {
  const stock = new Map<string, boolean | undefined>(keys.map(({ seller, sku }) => [routeKey(seller, sku), undefined]))
  let late = false
  const ask = async () => {
    const routes = await findRoutes(ctx, chainId, keys)
    // One queue for all workers, in the caller's order: what does not get its turn in time is what was asked for last.
    const queue = [...stock.keys()].values()
    const work = async () => {
      for (const key of queue) {
        if (late) return
        const route = routes.get(key)
        const availability = route && (await availabilityOf(ctx, route).catch(() => undefined))
        if (availability !== undefined) stock.set(key, availability === Availability.inStock)
      }
    }
    await Promise.all(Array.from({ length: CALLS_AT_ONCE }, work))
  }
  try {
    await withTimeout(ask(), DEADLINE_MS)
  } catch (error) {
    if (!(error instanceof TimeoutError)) ctx.log.warn({ err: error }, 'stock not read')
  }
  late = true
  // What is answered from now on changes nothing for the caller.
  return new Map(stock)
}

/** First who says it best: the availability upstream, a count, the sale of a one-off; undefined when nobody can. */
async function availabilityOf(ctx: MarketContext, route: ServiceRoute): Promise<string | undefined> {
  if (route.availabilityUrl) return ctx.adapters.availability(route.availabilityUrl, STOCK_AGE_MS)
  if (route.inventoryUrl) {
    const { value } = await ctx.adapters.inventory(route.inventoryUrl, STOCK_AGE_MS)
    return value > route.reserved ? Availability.inStock : Availability.outOfStock
  }
  if (route.isOneOff) return route.isSold ? Availability.outOfStock : Availability.inStock
  return undefined
}

async function configured(ctx: MarketContext, key: RouteKey): Promise<ServiceRoute> {
  // What is no sku may be bytes that Postgres refuses.
  const route = isSku(key.sku) ? await findRoute(ctx, key) : undefined
  if (!route) throw notFound('not_configured', 'Product not configured')
  return route
}

const notFound = (code: string, detail: string) => new AppError(404, code, 'Not found', { detail })
