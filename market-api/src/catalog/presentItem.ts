import type { JsonObject } from '@market/contracts/canonicalJson'
import { type Offer, type PayTo, payToOf, type Product } from '@market/contracts/catalogDocuments'
import type { MarketContext } from '../context.ts'
import { isDeliverable, type ServiceRoute } from '../serviceRoutes/resolveRoute.ts'
import type { CatalogItem } from './listItems.ts'

/** What the operator has written down about a seller's sku. */
export type OnRecord = { route: ServiceRoute | undefined; gateways: ReadonlySet<string> }

/**
 * An item as clients get it. `market` is what only the market can say; existing front ends look for the same inside the offers,
 * where it is written too unless `pure` asks for the product exactly as signed (catalog.md 6.2, clients.md 6).
 */
export function presentItem(ctx: MarketContext, item: CatalogItem, { route, gateways }: OnRecord, pure: boolean) {
  const product = item.product as unknown as Product
  const market = marketView(ctx, item, product, { route, gateways })
  const { availabilityFeed, inventoryFeed, totalInventory } = market
  return {
    '@type': 'AggregatedCatalogItem',
    seller: item.avatar,
    productCid: item.productCid,
    publishedAt: item.signedAt,
    linkKeccak: item.linkKeccak,
    indexInChunk: item.indexInChunk,
    product: pure
      ? (product as JsonObject)
      : {
          ...product,
          ...(totalInventory === null ? {} : { totalInventory }),
          offers: product.offers.map((offer) => ({
            ...offer,
            availabilityFeed,
            inventoryFeed,
            fulfillmentEndpoint: null,
            potentialAction: payAction(offer),
          })),
        },
    market,
  }
}

function marketView(ctx: MarketContext, item: CatalogItem, product: Product, { route, gateways }: OnRecord) {
  const { PUBLIC_BASE_URL, CHAIN_ID } = ctx.config
  const feed = (kind: string) => `${PUBLIC_BASE_URL}/inventory/${kind}/${CHAIN_ID}/${item.avatar}/${item.sku}`
  const hasInventory = route?.inventoryUrl !== undefined
  const hasAvailability = hasInventory || route?.availabilityUrl !== undefined || route?.isOneOff === true
  const offer = product.offers[0]!
  const payTo = payToOf(offer)
  return {
    availabilityFeed: hasAvailability ? feed('availability') : null,
    inventoryFeed: hasInventory ? feed('inventory') : null,
    totalInventory: route?.totalInventory ?? null,
    /** What a checkout asks for: somebody who delivers, a price in CRC, and somewhere to pay it. */
    buyable:
      route !== undefined && isDeliverable(route) && offer.priceCurrency === 'CRC' && payTo?.chainId === CHAIN_ID,
    /** Only where the operator knows whose it is (catalog.md 6.4): the seller's own address, or a gateway on record. */
    payAction: payTo && (payTo.address === item.avatar || gateways.has(payTo.address)) ? payAction(offer) : null,
  }
}

/**
 * The offer's way to pay, always with its price, recipient null where the seller named none (market-api.md 1.8).
 * @param otherwise whom to pay where the seller named nobody
 */
export function payAction(offer: Offer, otherwise?: PayTo) {
  const payTo = payToOf(offer) ?? otherwise
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
