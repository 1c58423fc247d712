import { createHash } from 'node:crypto'
import {
  MARKET_CONTEXT,
  type Offer,
  payToOf,
  type Product,
  PROFILE_CONTEXT,
  productLinkName,
  SCHEMA_ORG_CONTEXT,
  storedDocument,
} from '@market/contracts/catalogDocuments'
import { insertLinks } from '@market/contracts/insertLinks'
import { addressOfPrivateKey, type CustomDataLink, linkDigest, signLink } from '@market/contracts/link'
import type { Basket, CatalogItem, Order } from '@market/contracts/marketApi'
import { jsonNumberFromWei, weiFromJsonNumber } from '@market/contracts/money'
import { OrderStatus } from '@market/contracts/statuses'
import type { ReadDocument } from '../src/verify.ts'

// What a seller publishes and a market makes of it, honest as long as a test does not change it.

export const CHAIN = 100
export const OPERATOR = `0x${'0a'.repeat(20)}`
export const BUYER = `0x${'0b'.repeat(20)}`
export const GATEWAY = `0x${'9a'.repeat(20)}`
export const NOW = 1_780_000_000

const payAction = (offer: Offer) => {
  const payee = payToOf(offer)
  const value = payee && `${payee.chainId}:${payee.address}`
  return {
    '@type': 'PayAction',
    price: offer.price,
    priceCurrency: offer.priceCurrency,
    recipient: value ? { '@id': `eip155:${value}` } : null,
    instrument: value ? { '@type': 'PropertyValue', propertyID: 'eip155', value, name: 'pay-to' } : null,
  }
}

export function publishingSeller(key = `0x${'11'.repeat(32)}`) {
  const address = addressOfPrivateKey(key)
  const store = new Map<string, Uint8Array>()
  const put = <T>(document: T) => {
    const stored = storedDocument(document)
    store.set(stored.cid, stored.bytes)
    return stored
  }
  const read: ReadDocument = async (cid) => {
    const bytes = store.get(cid)
    if (!bytes) throw new Error(`no ${cid}`)
    return bytes
  }
  let nonces = 0
  const nonce = () => {
    nonces += 1
    return `0x${createHash('sha256').update(String(nonces)).digest('hex').slice(0, 32)}`
  }

  return {
    address,
    store,
    put,
    read,
    product(sku: string, price: number, more: object = {}, offers: object[] = [{}]) {
      const product = {
        '@context': [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
        '@type': 'Product',
        name: `The ${sku}`,
        sku,
        offers: offers.map((offer) => ({
          '@type': 'Offer',
          price,
          priceCurrency: 'CRC',
          potentialAction: { '@type': 'PayAction', recipient: { '@id': `eip155:${CHAIN}:${GATEWAY}` } },
          ...offer,
        })),
        ...more,
      } as unknown as Product
      return put(product)
    },
    link: (
      sku: string,
      cid: string,
      { signedAt = NOW - 60, by = key, ...more }: Partial<CustomDataLink> & { by?: string } = {},
    ) => signLink({ name: productLinkName(sku), cid, chainId: CHAIN, signedAt, nonce: nonce(), ...more }, by),
    /** The CID of the profile that leads to these links. */
    publish(links: CustomDataLink[], more: object = {}) {
      const { chunks, index } = insertLinks({}, links)
      for (const { cid, bytes } of [...chunks, index]) store.set(cid, bytes)
      const namespaces = { [OPERATOR]: index.cid }
      return put({ '@context': PROFILE_CONTEXT, '@type': 'Profile', namespaces, ...more }).cid
    },
    /** As the market shows it (catalog.md 6.2). */
    item({ cid, document }: { cid: string; document: Product }, link?: CustomDataLink): CatalogItem {
      const feed = `https://market.example/inventory/availability/${CHAIN}/${address}/${document.sku}`
      const offers = document.offers.map((offer) => ({
        ...offer,
        availabilityFeed: feed,
        inventoryFeed: null,
        fulfillmentEndpoint: null,
        potentialAction: payAction(offer),
      }))
      return {
        '@type': 'AggregatedCatalogItem',
        seller: address,
        productCid: cid,
        publishedAt: NOW - 60,
        linkKeccak: link ? linkDigest(link) : `0x${'00'.repeat(32)}`,
        indexInChunk: 0,
        product: { ...document, totalInventory: 12, offers } as unknown as CatalogItem['product'],
        market: {
          availabilityFeed: feed,
          inventoryFeed: null,
          totalInventory: 12,
          buyable: true,
          payAction: payAction(document.offers[0]!) as CatalogItem['market']['payAction'],
        },
      }
    },
  }
}

/** A basket with these lines, as the market answers a change. */
export function basketOf(lines: { item: CatalogItem; quantity: number; offerIndex?: number }[]): Basket {
  const items = lines.map(({ item, quantity, offerIndex }) => {
    const offer = item.product.offers[offerIndex ?? 0]! as unknown as Offer
    return {
      '@type': 'OrderItem',
      orderQuantity: quantity,
      orderedItem: { '@type': 'Product', sku: item.product.sku, name: item.product.name },
      seller: item.seller,
      imageUrl: null,
      ...(offerIndex !== undefined && { offerIndex }),
      productCid: item.productCid,
      linkKeccak: item.linkKeccak,
      offerSnapshot: {
        '@type': 'Offer',
        price: offer.price,
        priceCurrency: offer.priceCurrency,
        seller: { '@type': 'Organization', '@id': `eip155:${CHAIN}:${item.seller}` },
        availableDeliveryMethod: null,
        requiredSlots: null,
        fulfillmentEndpoint: null,
        fulfillmentTrigger: null,
        isOneOff: false,
        potentialAction: offer.potentialAction,
      },
    }
  })
  return { '@type': 'circles:Basket', buyer: BUYER, operator: OPERATOR, chainId: CHAIN, items } as unknown as Basket
}

/** The order that a basket becomes. */
export function orderOf({ items }: Basket): Order {
  const total = items.reduce(
    (sum, { offerSnapshot, orderQuantity }) => sum + weiFromJsonNumber(offerSnapshot.price) * BigInt(orderQuantity),
    0n,
  )
  return {
    orderNumber: `ord_${'1'.repeat(32)}`,
    paymentReference: `pay_${'2'.repeat(32)}`,
    orderStatus: OrderStatus.paymentDue,
    customer: { '@type': 'Person', '@id': `eip155:${CHAIN}:${BUYER}`, givenName: null, familyName: null },
    acceptedOffer: items.map(({ offerSnapshot }) => offerSnapshot),
    orderedItem: items.map(({ orderQuantity, orderedItem, productCid, imageUrl }) => ({
      '@type': 'OrderItem',
      orderQuantity,
      orderedItem,
      productCid,
      imageUrl,
    })),
    totalPaymentDue: { '@type': 'PriceSpecification', price: jsonNumberFromWei(total), priceCurrency: 'CRC' },
  } as unknown as Order
}
