import type { QuantitativeValue } from '@market/contracts/fulfillment'
import { Availability } from '@market/contracts/statuses'
import { NotFoundError } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'
import { findRoute, type RouteKey, type ServiceRoute } from './resolveRoute.ts'

/** `https://schema.org/InStock` or `…/OutOfStock` of a configured sku (market-api.md 1.10). */
export async function readAvailability(ctx: MarketContext, key: RouteKey): Promise<string> {
  const route = await configured(ctx, key)
  if (route.availabilityUrl) return ctx.adapters.availability(route.availabilityUrl)
  if (!route.inventoryUrl) throw new NotFoundError('not_configured', 'Availability not configured')
  const { value } = await ctx.adapters.inventory(route.inventoryUrl)
  return value > 0 ? Availability.inStock : Availability.outOfStock
}

export async function readInventory(ctx: MarketContext, key: RouteKey): Promise<QuantitativeValue> {
  const route = await configured(ctx, key)
  if (!route.inventoryUrl) throw new NotFoundError('not_configured', 'Inventory not supported for this offer')
  return ctx.adapters.inventory(route.inventoryUrl)
}

async function configured(ctx: MarketContext, key: RouteKey): Promise<ServiceRoute> {
  const route = await findRoute(ctx, key)
  if (!route) throw new NotFoundError('not_configured', 'Product not configured')
  return route
}
