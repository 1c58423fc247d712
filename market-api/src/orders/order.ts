import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import { jsonNumberFromWei, weiFromJsonNumber } from '@market/contracts/money'
import type { ContactPoint, OfferSnapshot, PostalAddress } from '@market/contracts/orderDocuments'
import { OrderStatus } from '@market/contracts/statuses'

export type OrderedItem = {
  '@type': 'OrderItem'
  orderQuantity: number
  orderedItem: { '@type': 'Product'; sku: string; name: string }
  productCid: string
  imageUrl: string | null
}
export type Broker = { '@type': 'Organization'; '@id': string | null }

/** What checkout fixed, stored once and never changed (market-api.md 5.2). `acceptedOffer[i]` prices `orderedItem[i]`. */
export type OrderSnapshot = {
  '@context': 'https://schema.org/'
  '@type': 'Order'
  orderNumber: string
  paymentReference: string
  customer: { '@type': 'Person'; '@id': string; givenName: string | null; familyName: string | null }
  broker: Broker
  acceptedOffer: OfferSnapshot[]
  orderedItem: OrderedItem[]
  billingAddress: PostalAddress | null
  shippingAddress: PostalAddress | null
  totalPaymentDue: { '@type': 'PriceSpecification'; price: number; priceCurrency: string }
  paymentUrl: null
  voucherCode: null
  downloadUrl: null
  /** The buyer's contact point under the name existing clients know; `customerContact` is the same, rightly named. */
  sellerContact: ContactPoint | null
  customerContact: ContactPoint | null
  /** What an offer wanted to know of the buyer's age; never the date of birth (W-47). */
  customerAge?: object | null
}

/** Why an order was never paid. */
export type CancelReason = 'expired' | 'buyer' | 'operator'

/** A line as fulfillment and the seller's lists need it. */
export type OrderLine = {
  lineIndex: number
  seller: string
  sku: string
  quantity: number
  trigger: FulfillmentTrigger
  linkKeccak: string
}

export type OutboxEntry = { id: number; createdAt: string; source: string; payload: object }

/** What changes after checkout. */
export type LiveOrder = { orderId: string; status: OrderStatus; createdAt: Date; updatedAt: Date }

/** The buyer's view: the snapshot with what changes since laid over it (market-api.md 5.2). */
export function orderView(snapshot: OrderSnapshot, live: LiveOrder & { paymentDueBy: Date; outbox: OutboxEntry[] }) {
  const acceptedOffer = snapshot.acceptedOffer.map(withoutEndpoint)
  return {
    ...snapshot,
    acceptedOffer,
    ...liveMembers(live),
    paymentDueBy: live.status === OrderStatus.paymentDue ? live.paymentDueBy.toISOString() : null,
    items: items(acceptedOffer, snapshot.orderedItem),
    outbox: live.outbox,
  }
}

/** One line of a seller's own, with its offer. */
export type SoldLine = { quantity: number; offer: OfferSnapshot | null; item: OrderedItem | null }

/**
 * The view of somebody who sells in the order: their lines and nothing about the buyer or other sellers (market-api.md 5.3).
 * Throws RangeError for a line that the stored order does not have.
 */
export function sellerView(live: LiveOrder, order: { paymentReference: string; broker: Broker; lines: SoldLine[] }) {
  const lines = order.lines.map(({ quantity, offer, item }) => {
    if (!offer || !item) throw new RangeError(`a line of ${live.orderId} has no offer or no item`)
    return { quantity, offer: withoutEndpoint(offer), item }
  })
  const acceptedOffer = lines.map(({ offer }) => offer)
  const orderedItem = lines.map(({ item }) => item)
  const totalWei = lines.reduce(
    (sum, { quantity, offer }) => sum + weiFromJsonNumber(offer.price) * BigInt(quantity),
    0n,
  )
  return {
    '@context': 'https://schema.org/' as const,
    '@type': 'Order' as const,
    orderNumber: live.orderId,
    paymentReference: order.paymentReference,
    broker: order.broker,
    acceptedOffer,
    orderedItem,
    totalPaymentDue:
      totalWei === 0n
        ? null
        : {
            '@type': 'PriceSpecification' as const,
            price: jsonNumberFromWei(totalWei),
            priceCurrency: acceptedOffer[0]!.priceCurrency,
          },
    ...liveMembers(live),
    items: items(acceptedOffer, orderedItem),
    outbox: [],
  }
}

/** `orderId`, `status`, `createdAt` and `updatedAt` say what is there already under the names the explorer reads (clients.md 8). */
const liveMembers = ({ orderId, status, createdAt, updatedAt }: LiveOrder) => ({
  orderStatus: status,
  // Seven digits and an offset is the form clients have always got here (market-api.md 0.2, form B).
  orderDate: createdAt.toISOString().replace('Z', '0000+00:00'),
  orderId,
  status,
  createdAt: createdAt.toISOString(),
  updatedAt: updatedAt.toISOString(),
})

/** The lines as the explorer reads them (clients.md 8). `price` is for one. */
const items = (offers: OfferSnapshot[], ordered: OrderedItem[]) =>
  ordered.map(({ orderQuantity, orderedItem: { sku, name } }, i) => ({
    name,
    sku,
    quantity: orderQuantity,
    price: offers[i]?.price ?? null,
  }))

/** An order stored with one (by hand, by an older version) must not show it: it is the seller's back door. */
const withoutEndpoint = (offer: OfferSnapshot): OfferSnapshot => ({ ...offer, fulfillmentEndpoint: null })
