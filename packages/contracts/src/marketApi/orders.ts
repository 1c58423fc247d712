import * as z from 'zod'
import { OrderStatus as Status } from '../statuses.ts'
import { ContactPoint, OfferSnapshot, PostalAddress } from './baskets.ts'
import {
  address,
  cid,
  currency,
  eip155,
  imageUrl,
  nextCursor,
  orderedProduct,
  orderId,
  paymentReference,
  price,
  quantity,
  sku,
  text,
  time,
} from './values.ts'

export const OrderStatus = z
  .enum([Status.paymentDue, Status.paymentProcessing, Status.paymentComplete, Status.cancelled])
  .meta({ id: 'OrderStatus', description: 'Payment is due; it is seen; it is final; the order was given up unpaid.' })

export const OrderedItem = z
  .object({
    '@type': z.literal('OrderItem'),
    orderQuantity: quantity,
    orderedItem: orderedProduct,
    productCid: cid,
    imageUrl,
  })
  .meta({ id: 'OrderedItem' })
export type OrderedItem = z.infer<typeof OrderedItem>

const total = z.object({
  '@type': z.literal('PriceSpecification'),
  price: price.describe('Of all lines.'),
  priceCurrency: currency,
})

/** What the buyer's and the seller's view share. */
const orderMembers = {
  '@context': z.literal('https://schema.org/'),
  '@type': z.literal('Order'),
  orderNumber: orderId,
  orderId: orderId.describe('`orderNumber` again.'),
  paymentReference,
  broker: z.object({ '@type': z.literal('Organization'), '@id': eip155.nullable() }).describe('The operator.'),
  acceptedOffer: z.array(OfferSnapshot).describe('One a line: `acceptedOffer[i]` prices `orderedItem[i]`.'),
  orderedItem: z.array(OrderedItem),
  orderStatus: OrderStatus,
  status: OrderStatus.describe('`orderStatus` again.'),
  orderDate: z.iso.datetime({ offset: true }),
  createdAt: time,
  updatedAt: time,
  items: z
    .array(z.object({ name: text('Black tee'), sku, quantity, price: price.nullable() }))
    .describe('The lines in short.'),
}

export const OutboxEntry = z
  .object({
    id: z.int(),
    createdAt: time,
    source: z.literal('fulfillment'),
    payload: z.record(z.string(), z.unknown()).describe('What was delivered, as the adapter or the seller put it.'),
  })
  .meta({ id: 'OutboxEntry' })
export type OutboxEntry = z.infer<typeof OutboxEntry>

export const Order = z
  .object({
    ...orderMembers,
    customer: z.object({
      '@type': z.literal('Person'),
      '@id': eip155,
      givenName: text('Ada').nullable(),
      familyName: text('Lovelace').nullable(),
    }),
    billingAddress: PostalAddress.nullable(),
    shippingAddress: PostalAddress.nullable(),
    totalPaymentDue: total,
    paymentUrl: z.null(),
    voucherCode: z.null(),
    downloadUrl: z.null(),
    sellerContact: ContactPoint.nullable().describe("The buyer's, under the name existing clients know."),
    customerContact: ContactPoint.nullable(),
    customerAge: z.object({ adult: z.boolean() }).nullable().optional(),
    paymentDueBy: time.nullable().describe('When the order is given up if it is not paid; null once that is settled.'),
    outbox: z.array(OutboxEntry).describe('What was delivered.'),
  })
  .meta({
    id: 'Order',
    description: 'An order as its buyer sees it. What was agreed never changes; names and addresses may be erased.',
  })
export type Order = z.infer<typeof Order>

export const OrderPreview = Order.extend({ paymentReference: z.literal('') }).meta({
  id: 'OrderPreview',
  description: 'The order a basket would become now. Its number means nothing.',
})
export type OrderPreview = z.infer<typeof OrderPreview>

export const SellerOrder = z
  .object({
    ...orderMembers,
    totalPaymentDue: total.nullable().describe("Of the seller's lines; null where they cost nothing."),
    outbox: z.array(OutboxEntry).length(0),
  })
  .meta({
    id: 'SellerOrder',
    description: 'An order as one of its sellers sees it: their lines, nothing of the buyer or other sellers.',
  })
export type SellerOrder = z.infer<typeof SellerOrder>

export const OrderList = z.object({ items: z.array(Order), nextCursor }).meta({ id: 'OrderList' })
export type OrderList = z.infer<typeof OrderList>

export const SellerOrderList = z.object({ items: z.array(SellerOrder), nextCursor }).meta({ id: 'SellerOrderList' })
export type SellerOrderList = z.infer<typeof SellerOrderList>

export const OrderBatch = z.object({ items: z.array(Order) }).meta({ id: 'OrderBatch' })
export type OrderBatch = z.infer<typeof OrderBatch>

export const StatusHistory = z
  .object({
    orderId,
    events: z.array(
      z.object({
        oldStatus: OrderStatus.nullable(),
        newStatus: OrderStatus,
        changedAt: time,
        status: OrderStatus.describe('`newStatus` again.'),
        timestamp: time.describe('`changedAt` again.'),
      }),
    ),
  })
  .meta({ id: 'StatusHistory' })
export type StatusHistory = z.infer<typeof StatusHistory>

const reason = text(
  'depleted',
  'Why it is not delivered: `manual`, `depleted`, `insufficientStock`, `route_not_found`, `adapter_error`, …',
).nullable()
const STATES = ['pending', 'running', 'succeeded', 'waiting', 'failed', 'manual'] as const

const fulfillmentMembers = {
  id: z.uuid(),
  seller: address,
  offerType: text('codedispenser'),
  trigger: z.enum(['confirmed', 'finalized']),
  lineIndexes: z.array(z.int()),
  state: z.enum(STATES).describe('waiting: for stock, or for a person of the market; manual: for the seller.'),
  reason,
  updatedAt: time,
}

export const Fulfillment = z.object(fulfillmentMembers).meta({ id: 'Fulfillment', description: 'One delivery.' })
export type Fulfillment = z.infer<typeof Fulfillment>

export const CompletedFulfillment = z.object({ orderId, ...fulfillmentMembers }).meta({ id: 'CompletedFulfillment' })
export type CompletedFulfillment = z.infer<typeof CompletedFulfillment>

export const FulfillmentLine = z
  .object({
    lineIndex: z.int(),
    sku,
    quantity,
    seller: address,
    state: z.enum(['awaitingPayment', 'cancelled', ...STATES]),
    reason,
  })
  .meta({ id: 'FulfillmentLine', description: 'Where one line stands.' })
export type FulfillmentLine = z.infer<typeof FulfillmentLine>

export const Fulfillments = z
  .object({ orderId, items: z.array(Fulfillment), lines: z.array(FulfillmentLine) })
  .meta({ id: 'Fulfillments' })
export type Fulfillments = z.infer<typeof Fulfillments>

export const TimelineEvent = z
  .object({
    at: time,
    kind: text('placed', '`placed`, `paymentSeen`, `paid`, `confirmed`, `paymentFinal`, `delivered`, …'),
    text: text('Order placed: 1 × Black tee for 19.5 CRC. Payment is due by 2026-12-31 12:00 UTC.', 'For people.'),
    data: z.record(z.string(), z.unknown()).describe('Particulars, by kind.'),
  })
  .meta({ id: 'TimelineEvent' })
export type TimelineEvent = z.infer<typeof TimelineEvent>

export const Timeline = z.object({ orderId, events: z.array(TimelineEvent) }).meta({ id: 'Timeline' })
export type Timeline = z.infer<typeof Timeline>

export const StatusEvent = z
  .object({
    orderId,
    paymentReference,
    oldStatus: OrderStatus.nullable(),
    newStatus: OrderStatus,
    changedAt: time.describe('As in the status history.'),
  })
  .meta({ id: 'StatusEvent', description: 'The `data` of an `order-status` event.' })
export type StatusEvent = z.infer<typeof StatusEvent>
