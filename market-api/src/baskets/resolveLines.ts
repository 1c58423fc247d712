import { eip155Id } from '@market/contracts/address'
import type { Offer, Product } from '@market/contracts/catalogDocuments'
import { UpstreamError } from '@market/kit/errors'
import { sql } from 'kysely'
import { payAction } from '../catalog/presentItem.ts'
import type { MarketContext } from '../context.ts'
import { findRoutes, routeKey, type ServiceRoute } from '../serviceRoutes/resolveRoute.ts'
import type { BasketItem, RequestedLine } from './basket.ts'
import { type LineChange, MixedCurrenciesError, ProductChangedError, UnsellableLineError } from './errors.ts'

/** What an order asks of its lines beyond what a basket does. */
export type ForOrder = {
  /** The lines as the buyer last saw them. Absent: nobody has agreed to anything yet. */
  seen?: BasketItem[]
}

/**
 * Makes each requested line a line of the basket: the product as its seller signed it, its price, its route, its stock
 * (market-api.md 4.4). Nothing a client says about price or seller survives. One query for products, one for routes, one
 * stock call a sku.
 *
 * @throws UnsellableLineError 422, naming the first line that can't be sold
 * @throws ProductChangedError 409, when a line is another product than the one in `seen`
 * @throws MixedCurrenciesError 400, naming the first line of another currency
 */
export async function resolveLines(
  ctx: MarketContext,
  scope: { operator: string | null; chainId: number },
  lines: RequestedLine[],
  forOrder?: ForOrder,
): Promise<BasketItem[]> {
  if (lines.length === 0) return []
  const products = await findProducts(ctx, scope, lines)
  const routes = await findRoutes(ctx, scope.chainId, lines)

  const items = lines.map((line, i) => {
    const key = routeKey(line.seller, line.sku)
    const where = `seller=${line.seller}, sku=${line.sku}, chainId=${scope.chainId}`
    const found = products.get(key)
    if (!found) throw new UnsellableLineError('product_not_found', `Product not found for ${where}`, i)
    const offer = found.product.offers[0]
    if (!offer)
      throw new UnsellableLineError('no_offer', `Product ${line.sku} for seller=${line.seller} has no offers`, i)
    const route = routes.get(key)
    if (!route) throw new UnsellableLineError('not_configured', `Product not configured for ${where}`, i)
    // What can't be delivered must not be paid for (W-08).
    if (forOrder && !route.fulfillmentUrl) {
      throw new UnsellableLineError('not_fulfillable', `Nothing is set up to deliver ${line.sku}`, i)
    }
    return toItem(line, found, offer, route, scope.chainId)
  })
  // Before the currencies: a line that changed its currency is told as that, not as a basket put together wrongly.
  if (forOrder?.seen) requireUnchanged(forOrder.seen, items)
  requireOneCurrency(items)
  await requireStock(ctx, lines, routes)
  return items
}

/** Price, terms and recipient are what the buyer agreed to by putting the line into the basket (catalog.md 6.6). */
function requireUnchanged(seen: BasketItem[], items: BasketItem[]): void {
  const changes = items.flatMap((item, line): LineChange[] => {
    const before = seen[line]
    return before && before.linkKeccak !== item.linkKeccak ? [{ line, before, now: item }] : []
  })
  if (changes.length > 0) throw new ProductChangedError(changes)
}

/** Amounts of two currencies have no sum (catalog.md 6.1). */
function requireOneCurrency(items: BasketItem[]): void {
  const [first] = items
  const line = items.findIndex(
    ({ offerSnapshot }) => offerSnapshot.priceCurrency !== first?.offerSnapshot.priceCurrency,
  )
  if (line >= 0) throw new MixedCurrenciesError(first!, items[line]!, line)
}

async function requireStock(
  ctx: MarketContext,
  lines: RequestedLine[],
  routes: Map<string, ServiceRoute>,
): Promise<void> {
  const stock = new Map<string, Promise<number>>()
  const ordered = new Map<string, number>()
  for (const line of lines) {
    const key = routeKey(line.seller, line.sku)
    ordered.set(key, (ordered.get(key) ?? 0) + line.quantity)
    const url = routes.get(key)?.inventoryUrl
    if (!url || stock.has(key)) continue
    const pending = ctx.adapters.inventory(url).then(({ value }) => value)
    // Asked all at once; awaited in basket order, so that the error always names the first line.
    pending.catch(() => {})
    stock.set(key, pending)
  }
  for (const [i, line] of lines.entries()) {
    const key = routeKey(line.seller, line.sku)
    const pending = stock.get(key)
    if (!pending) continue
    const about = `seller=${line.seller}, sku=${line.sku}`
    let available: number
    try {
      available = await pending
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error
      const reason = error.details?.detail ?? error.message
      throw new UnsellableLineError('stock_unknown', `inventoryFeed error for ${about}: ${reason}`, i)
    }
    const wanted = ordered.get(key)!
    if (wanted > available) {
      const message = `Requested quantity ${wanted} for ${about} exceeds inventory ${available}.`
      throw new UnsellableLineError('insufficient_stock', message, i)
    }
  }
}

type FoundProduct = { product: Product; productCid: string; linkKeccak: string }

/** The winners of the verified index, in the basket's namespace or, without an operator, the newest of any. */
async function findProducts(
  ctx: MarketContext,
  scope: { operator: string | null; chainId: number },
  lines: RequestedLine[],
) {
  const rows = await ctx.db
    .selectFrom('catalog_products')
    .innerJoin('catalog_payloads', 'cid', 'product_cid')
    .distinctOn(['seller_address', 'sku'])
    .select(['seller_address', 'sku', 'document', 'product_cid', 'link_keccak'])
    .where('chain_id', '=', scope.chainId)
    .where('kind', '=', 'product')
    .where('removed_revision', 'is', null)
    .where(
      sql<boolean>`(seller_address, sku) in (
      select * from unnest(${lines.map((l) => l.seller)}::text[], ${lines.map((l) => l.sku.toLowerCase())}::text[]))`,
    )
    .$if(scope.operator !== null, (query) => query.where('operator', '=', scope.operator!))
    .orderBy('seller_address')
    .orderBy('sku')
    .orderBy('published_at', 'desc')
    .orderBy('operator')
    .execute()
  return new Map<string, FoundProduct>(
    rows.map((row) => [
      routeKey(row.seller_address, row.sku),
      { product: row.document as unknown as Product, productCid: row.product_cid!, linkKeccak: row.link_keccak! },
    ]),
  )
}

function toItem(
  line: RequestedLine,
  { product, productCid, linkKeccak }: FoundProduct,
  offer: Offer,
  route: ServiceRoute,
  chainId: number,
): BasketItem {
  const methods = offer.availableDeliveryMethod
  return {
    '@type': 'OrderItem',
    orderQuantity: line.quantity,
    orderedItem: { '@type': 'Product', sku: product.sku, name: product.name },
    seller: line.seller,
    imageUrl: line.imageUrl,
    productCid,
    linkKeccak,
    offerSnapshot: {
      '@type': 'Offer',
      price: offer.price,
      priceCurrency: offer.priceCurrency,
      seller: { '@type': 'Organization', '@id': eip155Id(chainId, line.seller) },
      availableDeliveryMethod: methods == null ? null : Array.isArray(methods) ? methods : [methods],
      requiredSlots: offer.requiredSlots ?? null,
      fulfillmentEndpoint: null,
      fulfillmentTrigger: offer.fulfillmentTrigger ?? null,
      isOneOff: route.isOneOff,
      potentialAction: payAction(offer),
    },
  }
}
