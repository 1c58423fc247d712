import { eip155Id } from '@market/contracts/address'
import { isSku, type Offer, type Product } from '@market/contracts/catalogDocuments'
import type { QuantitativeValue } from '@market/contracts/fulfillment'
import { UpstreamError } from '@market/kit/errors'
import { createGate } from '@market/kit/gate'
import { TimeoutError, withTimeout } from '@market/kit/timeout'
import { type Expression, sql } from 'kysely'
import { explainMissing } from '../catalog/explainMissing.ts'
import { payAction } from '../catalog/presentItem.ts'
import type { MarketContext } from '../context.ts'
import { findGateways } from '../serviceRoutes/gateways.ts'
import {
  InsufficientStockError,
  type OneOffHold,
  OneOffSoldError,
  type StockHold,
} from '../serviceRoutes/reservations.ts'
import {
  isDeliverable,
  routeKey,
  type RouteRow,
  selectRouteRows,
  type ServiceRoute,
  toRoutes,
} from '../serviceRoutes/resolveRoute.ts'
import type { BasketItem, RequestedLine } from './basket.ts'
import {
  CatalogUnavailableError,
  type LineChange,
  MixedCurrenciesError,
  UnsellableLineError,
  UpstreamDeadlineError,
} from './errors.ts'

/** Lines that can be sold as they stand, and what an order of them has to hold. */
export type ResolvedLines = { items: BasketItem[]; stock: StockHold[]; oneOffs: OneOffHold[] }

const BUDGET_SECONDS = 10
const CALLS_AT_ONCE = 8

/**
 * Makes each requested line a line of the basket: the product as its seller signed it, its price, its route, its stock
 * (market-api.md 4.4). Nothing a client says about price or seller survives. One query for products, one for routes, one
 * stock call a sku, eight at a time.
 *
 * @param forOrder also refuses what nobody could deliver; is shown the lines before anything is said about them together, so
 * that one that changed its currency is told as that, and not as a basket put together wrongly
 * @throws UnsellableLineError 422, naming the first line that can't be sold; OneOffSoldError 409
 * @throws MixedCurrenciesError 400, naming the first line of another currency
 * @throws CatalogUnavailableError 502, UpstreamDeadlineError 503
 */
export async function resolveLines(
  ctx: MarketContext,
  scope: { operator: string | null; chainId: number },
  lines: RequestedLine[],
  forOrder?: (items: BasketItem[]) => void,
): Promise<ResolvedLines> {
  if (lines.length === 0) return { items: [], stock: [], oneOffs: [] }
  const { products, routes } = await findProductsAndRoutes(ctx, scope, lines)
  const gateways = await gatewaysOnRecord(ctx, scope.chainId, products)

  const items: BasketItem[] = []
  for (const [i, line] of lines.entries()) {
    const key = routeKey(line.seller, line.sku)
    const where = `seller=${line.seller}, sku=${line.sku}, chainId=${scope.chainId}`
    const found = products.get(key)
    if (!found) throw await missingProduct(ctx, scope, line, i, where)
    const offer = found.product.offers[line.offerIndex ?? 0]
    if (!offer) {
      const which = line.offerIndex === undefined ? 'offers' : `offer ${line.offerIndex}`
      throw new UnsellableLineError('no_offer', `Product ${line.sku} for seller=${line.seller} has no ${which}`, i)
    }
    const route = routes.get(key)
    if (!route) throw new UnsellableLineError('not_configured', `Product not configured for ${where}`, i)
    // What can't be delivered must not be paid for (W-08).
    if (forOrder && !isDeliverable(route)) {
      throw new UnsellableLineError('not_fulfillable', `Nothing is set up to deliver ${line.sku}`, i)
    }
    items.push(toItem(line, found, offer, route, scope.chainId, gateways.get(line.seller)))
  }
  forOrder?.(items)
  requireOneCurrency(items)
  const quantities = sumQuantities(lines)
  const oneOffs = requireOneOffs(scope.chainId, quantities, routes)
  // A draft may share the answer to a question that is being asked; an order asks its own.
  const ask = (url: string) => ctx.adapters.inventory(url, forOrder ? undefined : 0)
  return { items, oneOffs, stock: await requireStock(quantities, routes, ask) }
}

async function missingProduct(
  ctx: MarketContext,
  scope: { operator: string | null; chainId: number },
  line: RequestedLine,
  i: number,
  where: string,
): Promise<Error> {
  const reason = isSku(line.sku.toLowerCase()) ? await explainMissing(ctx, scope, line) : 'absent'
  if (reason === 'unavailable') return new CatalogUnavailableError(where)
  if (reason === 'refused') {
    return new UnsellableLineError('invalid_offer', `The published offer of ${line.sku} can't be sold (${where})`, i)
  }
  return new UnsellableLineError('product_not_found', `Product not found for ${where}`, i)
}

/**
 * What of the lines the buyer saw its seller has changed since: price, terms and recipient are what was agreed to by putting
 * the line into the basket (catalog.md 6.6).
 */
export const changesSince = (seen: BasketItem[], now: BasketItem[]): LineChange[] =>
  now.flatMap((item, line) => {
    const before = seen[line]
    return before && before.linkKeccak !== item.linkKeccak ? [{ line, before, now: item }] : []
  })

/** Amounts of two currencies have no sum (catalog.md 6.1). */
function requireOneCurrency(items: BasketItem[]): void {
  const [first] = items
  const line = items.findIndex(
    ({ offerSnapshot }) => offerSnapshot.priceCurrency !== first?.offerSnapshot.priceCurrency,
  )
  if (line >= 0) throw new MixedCurrenciesError(first!, items[line]!, line)
}

/** How many of each sku, over all lines of it; `line` is the first. */
type Wanted = { seller: string; sku: string; quantity: number; line: number }

function sumQuantities(lines: RequestedLine[]): Map<string, Wanted> {
  const wanted = new Map<string, Wanted>()
  for (const [line, { seller, sku, quantity }] of lines.entries()) {
    const key = routeKey(seller, sku)
    const known = wanted.get(key)
    if (known) known.quantity += quantity
    else wanted.set(key, { seller, sku: sku.toLowerCase(), quantity, line })
  }
  return wanted
}

function requireOneOffs(chainId: number, wanted: Map<string, Wanted>, routes: Map<string, ServiceRoute>) {
  return [...wanted].flatMap(([key, { seller, sku, quantity, line }]): OneOffHold[] => {
    const route = routes.get(key)
    if (!route?.isOneOff) return []
    if (quantity > 1) {
      const message = `One-off items cannot be ordered with quantity > 1. Requested quantity ${quantity} for seller=${seller}, sku=${sku}.`
      throw new UnsellableLineError('one_off_quantity', message, line)
    }
    if (route.isSold) throw new OneOffSoldError(chainId, { seller, sku })
    return [{ seller, sku }]
  })
}

async function requireStock(
  wanted: Map<string, Wanted>,
  routes: Map<string, ServiceRoute>,
  ask: (url: string) => Promise<QuantitativeValue>,
): Promise<StockHold[]> {
  const gate = createGate(CALLS_AT_ONCE)
  const asked = [...wanted].flatMap(([key, want]) => {
    const route = routes.get(key)
    const url = route?.inventoryUrl
    if (!route || !url) return []
    const pending = gate(() => ask(url))
    // Asked all at once; awaited in basket order, so that the error always names the first line.
    pending.catch(() => {})
    return [{ want, route, pending }]
  })
  const holds = async () => {
    const stock: StockHold[] = []
    for (const { want, route, pending } of asked) {
      const about = `seller=${want.seller}, sku=${want.sku}`
      const { value } = await pending.catch((error: unknown) => {
        if (!(error instanceof UpstreamError)) throw error
        const reason = error.details?.detail ?? error.message
        throw new UnsellableLineError('stock_unknown', `inventoryFeed error for ${about}: ${reason}`, want.line)
      })
      const left = Math.max(0, value - route.reserved)
      if (want.quantity > left) throw new InsufficientStockError(want.line, want, want.quantity, left)
      stock.push({ ...want, available: value, deliveredBefore: route.delivered, isFirst: !route.isCounted })
    }
    return stock
  }
  try {
    return await withTimeout(holds(), BUDGET_SECONDS * 1000)
  } catch (error) {
    throw error instanceof TimeoutError ? new UpstreamDeadlineError(BUDGET_SECONDS) : error
  }
}

type FoundProduct = { seller: string; product: Product; productCid: string; linkKeccak: string }

/**
 * The winners of the verified index, in the basket's namespace or, without an operator, the newest of any; and who delivers them.
 * In one query: a line costs little but the ways to the database.
 */
async function findProductsAndRoutes(
  ctx: MarketContext,
  scope: { operator: string | null; chainId: number },
  lines: RequestedLine[],
) {
  const winners = ctx.db
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
  const found = await ctx.db
    .selectNoFrom([
      allRows<ProductRow>(winners).as('products'),
      allRows<RouteRow>(selectRouteRows(ctx.db, scope.chainId, lines)).as('routes'),
    ])
    .executeTakeFirstOrThrow()
  return {
    routes: toRoutes(ctx, scope.chainId, found.routes),
    products: new Map<string, FoundProduct>(
      found.products.map(({ seller_address, sku, document, product_cid, link_keccak }) => [
        routeKey(seller_address, sku),
        { seller: seller_address, product: document, productCid: product_cid, linkKeccak: link_keccak },
      ]),
    ),
  }
}

type ProductRow = {
  seller_address: string
  sku: string
  document: Product
  product_cid: string
  link_keccak: string
}

const allRows = <T>(query: Expression<unknown>) =>
  sql<T[]>`(select coalesce(json_agg(row_to_json(t)), '[]') from ${query} as t)`

/** Where sellers are paid whose offers don't say: their gateway, if they have exactly one. One query, or none. */
async function gatewaysOnRecord(ctx: MarketContext, chainId: number, products: Map<string, FoundProduct>) {
  const silent = [...products.values()].filter(({ product }) => product.offers.some(namesNobody))
  const sellers = [...new Set(silent.map(({ seller }) => seller))]
  const gateways = await findGateways(ctx.db, chainId, sellers)
  return new Map([...gateways].flatMap(([seller, known]) => (known.size === 1 ? [[seller, [...known][0]!]] : [])))
}

/** An offer that says two different things is not one that says nothing: nobody picks for the buyer then. */
const namesNobody = ({ potentialAction }: Offer) =>
  !potentialAction?.recipient?.['@id'] && !potentialAction?.instrument?.value

function toItem(
  line: RequestedLine,
  { product, productCid, linkKeccak }: FoundProduct,
  offer: Offer,
  route: ServiceRoute,
  chainId: number,
  gateway: string | undefined,
): BasketItem {
  const methods = offer.availableDeliveryMethod
  return {
    '@type': 'OrderItem',
    orderQuantity: line.quantity,
    orderedItem: { '@type': 'Product', sku: product.sku, name: product.name },
    seller: line.seller,
    imageUrl: line.imageUrl,
    ...(line.offerIndex === undefined ? {} : { offerIndex: line.offerIndex }),
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
      potentialAction: payAction(
        offer,
        gateway !== undefined && namesNobody(offer) ? { chainId, address: gateway } : undefined,
      ),
    },
  }
}
