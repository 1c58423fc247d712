import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import type { ContactPoint, OfferSnapshot, PostalAddress } from '@market/contracts/orderDocuments'
import type { OrderStatus } from '@market/contracts/statuses'

/** What checkout fixed, stored once and never changed (market-api.md 5.2). `acceptedOffer[i]` prices `orderedItem[i]`. */
export type OrderSnapshot = {
  '@context': 'https://schema.org/'
  '@type': 'Order'
  orderNumber: string
  paymentReference: string
  customer: { '@type': 'Person'; '@id': string; givenName: string | null; familyName: string | null }
  broker: { '@type': 'Organization'; '@id': string | null }
  acceptedOffer: OfferSnapshot[]
  orderedItem: {
    '@type': 'OrderItem'
    orderQuantity: number
    orderedItem: { '@type': 'Product'; sku: string; name: string }
    productCid: string
    imageUrl: string | null
  }[]
  billingAddress: PostalAddress | null
  shippingAddress: PostalAddress | null
  totalPaymentDue: { '@type': 'PriceSpecification'; price: number; priceCurrency: string }
  paymentUrl: null
  voucherCode: null
  downloadUrl: null
  /** The buyer's contact point under the name existing clients know; `customerContact` is the same, rightly named. */
  sellerContact: ContactPoint | null
  customerContact: ContactPoint | null
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

/** The buyer's view: the snapshot with what changes since laid over it. */
export function orderView(
  snapshot: OrderSnapshot,
  live: { status: OrderStatus; createdAt: Date; outbox: OutboxEntry[] },
) {
  return {
    ...snapshot,
    orderStatus: live.status,
    // Seven digits and an offset is the form clients have always got here (market-api.md 0.2, form B).
    orderDate: live.createdAt.toISOString().replace('Z', '0000+00:00'),
    outbox: live.outbox,
  }
}
