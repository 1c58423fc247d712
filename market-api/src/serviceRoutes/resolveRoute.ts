import { messageOf } from '@market/kit/errors'
import { type Kysely, sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import { templateVariables } from './adapters.ts'
import { expandTemplate } from './template.ts'

export type RouteKey = { chainId: number; seller: string; sku: string }

/** What the market knows about delivering a sku. URLs are ready to call; undefined = the offer type has none. */
export type ServiceRoute = {
  offerType: string | null
  isOneOff: boolean
  /** Of a one-off: somebody has ordered it. */
  isSold: boolean
  totalInventory: number | null
  /** Pieces that open orders hold of the adapter's stock. */
  reserved: number
  /** Pieces delivered out of reservations so far: grows when the adapter's stock shrinks by a delivery (reservations.ts). */
  delivered: bigint
  /** Somebody held a piece once, so that it is counted. */
  isCounted: boolean
  inventoryUrl: string | undefined
  availabilityUrl: string | undefined
  fulfillmentUrl: string | undefined
}

/** What may be sold: an adapter delivers it, or, of a one-off, its seller in person. */
export const isDeliverable = ({ fulfillmentUrl, isOneOff }: ServiceRoute) => fulfillmentUrl !== undefined || isOneOff

export type RouteRow = {
  seller_address: string
  sku: string
  offer_type: string | null
  is_one_off: boolean
  sold_in: string | null
  total_inventory: string | number | null
  reserved: string | number | null
  delivered: string | number | null
  inventory_url_template: string | null
  availability_url_template: string | null
  fulfillment_url_template: string | null
}

/** Routes that are configured: enabled, and one-off or of an offer type that exists and is enabled (fulfilment.md 3). */
export const selectRoutes = (db: Kysely<MarketDatabase>) =>
  db
    .selectFrom('market_service_routes as r')
    .leftJoin('offer_types as t', (join) => join.onRef('t.offer_type', '=', 'r.offer_type').on('t.enabled', '=', true))
    .where('r.enabled', '=', true)
    .where((is) => is.or([is('r.is_one_off', '=', true), is('t.offer_type', 'is not', null)]))

const columns = [
  'r.seller_address',
  'r.sku',
  'r.offer_type',
  'r.is_one_off',
  's.order_id as sold_in',
  'r.total_inventory',
  'l.reserved',
  'l.delivered',
  't.inventory_url_template',
  't.availability_url_template',
  't.fulfillment_url_template',
] as const

/** The configured routes among `keys`, by `routeKey(seller, sku)`; one query however many. */
export async function findRoutes(
  ctx: MarketContext,
  chainId: number,
  keys: { seller: string; sku: string }[],
  db: Kysely<MarketDatabase> = ctx.db,
): Promise<Map<string, ServiceRoute>> {
  return keys.length === 0 ? new Map() : toRoutes(ctx, chainId, await selectRouteRows(db, chainId, keys).execute())
}

/** The query of `findRoutes`, for one that asks for more at the same time; `toRoutes` reads its rows. */
export const selectRouteRows = (db: Kysely<MarketDatabase>, chainId: number, keys: { seller: string; sku: string }[]) =>
  selectRoutes(db)
    .leftJoin('one_off_sales as s', (join) =>
      join
        .onRef('s.chain_id', '=', 'r.chain_id')
        .onRef('s.seller_address', '=', 'r.seller_address')
        .onRef('s.sku', '=', 'r.sku'),
    )
    .leftJoinLateral(
      (of) =>
        of
          .selectFrom('stock_levels as l')
          .whereRef('l.chain_id', '=', 'r.chain_id')
          .whereRef('l.seller_address', '=', 'r.seller_address')
          .whereRef('l.sku', '=', 'r.sku')
          .select([
            sql<string | null>`sum(l.reserved)`.as('reserved'),
            sql<string | null>`sum(l.delivered)`.as('delivered'),
          ])
          .as('l'),
      (join) => join.onTrue(),
    )
    .select(columns)
    .where('r.chain_id', '=', chainId)
    .where(
      sql<boolean>`(r.seller_address, r.sku) in (
      select * from unnest(${keys.map((key) => key.seller)}::text[], ${keys.map((key) => lookupSku(key.sku))}::text[]))`,
    )

export const toRoutes = (ctx: MarketContext, chainId: number, rows: RouteRow[]): Map<string, ServiceRoute> =>
  new Map(rows.map((row) => [routeKey(row.seller_address, row.sku), toRoute(ctx, chainId, row)]))

/** As rows spell it, however a document or a client does (market-api.md 0.2). */
const lookupSku = (sku: string) => sku.trim().toLowerCase()

export const routeKey = (seller: string, sku: string) => `${seller}/${lookupSku(sku)}`

export async function findRoute(
  ctx: MarketContext,
  { chainId, seller, sku }: RouteKey,
): Promise<ServiceRoute | undefined> {
  return (await findRoutes(ctx, chainId, [{ seller, sku }])).get(routeKey(seller, sku))
}

function toRoute(ctx: MarketContext, chainId: number, row: RouteRow): ServiceRoute {
  const variables = {
    ...templateVariables(ctx.config),
    chain_id: String(chainId),
    seller: row.seller_address,
    sku: row.sku,
  }
  const url = (template: string | null) => {
    if (row.is_one_off || !template) return undefined
    try {
      return expandTemplate(template, variables)
    } catch (error) {
      ctx.log.warn({ offerType: row.offer_type, template }, messageOf(error))
      return undefined
    }
  }
  return {
    offerType: row.offer_type,
    isOneOff: row.is_one_off,
    isSold: row.sold_in !== null,
    totalInventory: row.total_inventory === null ? null : Number(row.total_inventory),
    reserved: Number(row.reserved ?? 0),
    delivered: BigInt(row.delivered ?? 0),
    isCounted: row.reserved !== null,
    inventoryUrl: url(row.inventory_url_template),
    availabilityUrl: url(row.availability_url_template),
    fulfillmentUrl: url(row.fulfillment_url_template),
  }
}
