import { isAddress } from '@market/contracts/address'
import { AGGREGATE_CONTEXT, type Offer, payToOf, type Product } from '@market/contracts/catalogDocuments'
import { AppError } from '@market/kit/errors'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import { findRoutes, routeKey, type ServiceRoute } from '../serviceRoutes/resolveRoute.ts'

export type CatalogQuery = {
  operator: string
  chainId: number
  /** Lowercase, unique; what is no address becomes an entry in `errors`. */
  avatars: string[]
  /** Unix seconds, both inclusive. */
  window: { start: number; end: number }
  pageSize: number
  offset: number
}

/** A page of what the avatars sell in the operator's namespace, from the verified index (catalog.md 4.2). */
export async function listCatalog(ctx: MarketContext, query: CatalogQuery) {
  const { operator, chainId, avatars, window, pageSize, offset } = query
  const known = avatars.filter(isAddress)
  const inScope = ctx.db
    .selectFrom('catalog_products')
    .where('chain_id', '=', chainId)
    .where('operator', '=', operator)
    .where(sql<boolean>`seller_address = any(${known}::text[])`)
    .where('published_at', '>=', window.start)
    .where('published_at', '<=', window.end)
  const rows = await inScope
    .selectAll()
    .orderBy('published_at', 'desc')
    .orderBy('chunk_depth')
    .orderBy('index_in_chunk', 'desc')
    .orderBy('seller_address')
    .orderBy('link_keccak')
    .limit(pageSize + 1)
    .offset(offset)
    .execute()
  if (rows.length === 0 && offset > 0) {
    const { n } = await inScope.select(sql<string>`count(*)`.as('n')).executeTakeFirstOrThrow()
    if (offset > Number(n)) throw new AppError(416, 'past_the_end', 'The page starts past the end of the catalog')
  }

  const page = rows.slice(0, pageSize)
  const routes = await findRoutes(
    ctx,
    chainId,
    page.map((row) => ({ seller: row.seller_address, sku: row.sku })),
  )
  return {
    nextStart: rows.length > pageSize ? offset + pageSize : undefined,
    body: {
      '@context': AGGREGATE_CONTEXT,
      '@type': 'AggregatedCatalog',
      operator,
      chainId,
      window: { '@type': 'AggregatedCatalogWindow', ...window },
      avatarsScanned: known,
      products: page.map((row) => ({
        '@type': 'AggregatedCatalogItem',
        seller: row.seller_address,
        productCid: row.product_cid,
        publishedAt: Number(row.published_at),
        linkKeccak: row.link_keccak,
        indexInChunk: row.index_in_chunk,
        product: listed(
          ctx,
          row.product as unknown as Product,
          row.seller_address,
          routes.get(routeKey(row.seller_address, row.sku)),
        ),
      })),
      errors: await listFaults(ctx, query, known),
    },
  }
}

/**
 * The product as its seller signed it, with what only the market can say written into its offers, because that is where
 * existing front ends look: the feeds decide whether "Add to basket" is shown at all (clients.md 6).
 */
function listed(ctx: MarketContext, product: Product, seller: string, route: ServiceRoute | undefined) {
  const feed = (kind: string) =>
    `${ctx.config.PUBLIC_BASE_URL}/inventory/${kind}/${ctx.config.CHAIN_ID}/${seller}/${encodeURIComponent(product.sku)}`
  const hasInventory = route?.inventoryUrl !== undefined
  const hasAvailability = hasInventory || route?.availabilityUrl !== undefined
  return {
    ...product,
    ...(route?.totalInventory == null ? {} : { totalInventory: route.totalInventory }),
    offers: product.offers.map((offer) => ({
      ...offer,
      availabilityFeed: hasAvailability ? feed('availability') : null,
      inventoryFeed: hasInventory ? feed('inventory') : null,
      fulfillmentEndpoint: null,
      potentialAction: payAction(offer),
    })),
  }
}

/** The offer's way to pay, always with its price, recipient null where the seller named none (market-api.md 1.8). */
export function payAction(offer: Offer) {
  const payTo = payToOf(offer)
  return {
    '@type': 'PayAction',
    price: offer.price,
    priceCurrency: offer.priceCurrency,
    recipient: payTo ? { '@id': `eip155:${payTo.chainId}:${payTo.address}` } : null,
    instrument: payTo
      ? { '@type': 'PropertyValue', propertyID: 'eip155', value: `${payTo.chainId}:${payTo.address}`, name: 'pay-to' }
      : null,
  }
}

async function listFaults(ctx: MarketContext, { avatars, operator, chainId }: CatalogQuery, known: string[]) {
  const invalid = avatars
    .filter((avatar) => !isAddress(avatar))
    .map((avatar) => ({ avatar, stage: 'registry', code: 'INVALID_ADDRESS', cid: null, message: 'Not an address' }))
  const rows = await ctx.db
    .selectFrom('catalog_avatars as a')
    .leftJoin('catalog_namespaces as n', (join) =>
      join.onRef('n.chain_id', '=', 'a.chain_id').onRef('n.avatar', '=', 'a.avatar').on('n.operator', '=', operator),
    )
    .select(['a.avatar', 'a.fault', 'n.faults'])
    .where('a.chain_id', '=', chainId)
    .where(sql<boolean>`a.avatar = any(${known}::text[])`)
    .where((is) => is.or([is('a.fault', 'is not', null), is(sql`jsonb_array_length(n.faults)`, '>', 0)]))
    .orderBy('a.avatar')
    .execute()
  const recorded = rows.flatMap(({ avatar, fault, faults }) =>
    [...(fault ? [fault] : []), ...(faults ?? [])].map((entry) => ({ avatar, ...entry })),
  )
  return [...invalid, ...recorded]
}
