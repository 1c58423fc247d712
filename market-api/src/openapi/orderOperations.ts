import {
  CompletedFulfillment,
  Fulfillments,
  Order,
  OrderBatch,
  OrderList,
  SellerOrder,
  SellerOrderList,
  StatusEvent,
  StatusHistory,
  Timeline,
} from '@market/contracts/marketApi/orders'
import { nextCursor, orderId } from '@market/contracts/marketApi/values'
import * as z from 'zod'
import { CompleteJobInput } from '../fulfillment/completeManualJob.ts'
import { BatchInput } from '../orders/routes.ts'
import {
  ANY_BODY,
  allOf,
  type Answer,
  type Errors,
  JSON_BODY,
  JSON_LD,
  JSON_TYPE,
  type Operation,
} from './operation.ts'

const ORDERS = '/api/cart/v1/orders'
const params = z.object({ orderId })

const signedIn: Errors = { 401: ['unauthorized'] }
const theirs: Errors = allOf(signedIn, { 404: ['order_not_found'] })

const page = z.object({
  pageSize: z.int().min(1).max(100).default(20).describe('Cut to this range.'),
  cursor: nextCursor.describe('`nextCursor` of the page before.'),
  page: z
    .int()
    .min(1)
    .default(1)
    .describe('For clients that count pages; slower the further it is. Not with `cursor`.'),
})
const listed = (schema: z.ZodType): Record<number, Answer> => ({
  200: { description: 'Newest first.', type: JSON_LD, schema, headers: ['Link', 'X-Next-Cursor'] },
})
const answered = (description: string, schema: z.ZodType): Record<number, Answer> => ({
  200: { description, type: JSON_LD, schema },
})

const streamed: Record<number, Answer> = {
  200: {
    description:
      'Frames `id: …`, `event: order-status`, `data: {…}`, each event once, and a comment every 20 s. It ends when the token does.',
    type: 'text/event-stream',
    headers: ['Cache-Control'],
  },
}
const streamErrors: Errors = allOf(signedIn, { 429: ['too_many_streams'], 503: ['stopping'] })

export const orderOperations: Operation[] = [
  {
    id: 'getOrders',
    method: 'post',
    path: `${ORDERS}/batch`,
    tag: 'Orders',
    summary: 'Read several orders',
    description: "The buyer's own among the named ones, in that order.",
    auth: 'required',
    body: {
      type: JSON_TYPE,
      schema: BatchInput,
      example: { orderIds: ['ord_5B1F0A3C9D7E4F628A41C0DE77B2936E'] },
    },
    answers: answered('The orders.', OrderBatch),
    errors: allOf(signedIn, JSON_BODY),
  },
  {
    id: 'listOrders',
    method: 'get',
    path: `${ORDERS}/by-buyer`,
    tag: 'Orders',
    summary: 'List what the caller bought',
    description:
      "Orders that were placed in the caller's name without their token are left out until they are paid or the caller opens them.",
    auth: 'required',
    query: page,
    answers: listed(OrderList),
    errors: allOf(signedIn, { 400: ['invalid_cursor'] }),
  },
  {
    id: 'listSales',
    method: 'get',
    path: `${ORDERS}/by-seller`,
    tag: 'Orders',
    summary: 'List what the caller sold',
    auth: 'required',
    query: page,
    answers: listed(SellerOrderList),
    errors: allOf(signedIn, { 400: ['invalid_cursor'] }),
  },
  {
    id: 'getOrder',
    method: 'get',
    path: `${ORDERS}/{orderId}`,
    tag: 'Orders',
    summary: 'Read an order as its buyer',
    auth: 'required',
    params,
    answers: answered('The order.', Order),
    errors: theirs,
  },
  {
    id: 'getSale',
    method: 'get',
    path: `${ORDERS}/{orderId}/as-seller`,
    tag: 'Orders',
    summary: 'Read an order as one of its sellers',
    auth: 'required',
    params,
    answers: answered('The order.', SellerOrder),
    errors: theirs,
  },
  {
    id: 'cancelOrder',
    method: 'post',
    path: `${ORDERS}/{orderId}/cancel`,
    tag: 'Orders',
    summary: 'Give an unpaid order up',
    description: 'What it held can be bought by others at once. Calling it again changes nothing.',
    auth: 'required',
    params,
    answers: answered('The order.', Order),
    errors: allOf(theirs, ANY_BODY, { 409: ['order_paid'] }),
  },
  {
    id: 'getStatusHistory',
    method: 'get',
    path: `${ORDERS}/{orderId}/status-history`,
    tag: 'Orders',
    summary: 'Read every status an order had, as its buyer',
    auth: 'required',
    params,
    answers: answered('Oldest first.', StatusHistory),
    errors: theirs,
  },
  {
    id: 'getTimeline',
    method: 'get',
    path: `${ORDERS}/{orderId}/timeline`,
    tag: 'Orders',
    summary: 'Read what happened to an order, in sentences',
    description: 'Payments, statuses and deliveries. A seller reads what concerns their lines.',
    auth: 'required',
    params,
    answers: answered('Oldest first.', Timeline),
    errors: theirs,
  },
  {
    id: 'getFulfillments',
    method: 'get',
    path: `${ORDERS}/{orderId}/fulfillments`,
    tag: 'Orders',
    summary: 'Read where the delivery of each line stands',
    description: 'The buyer reads all, a seller their own.',
    auth: 'required',
    params,
    answers: answered('Deliveries, and lines.', Fulfillments),
    errors: theirs,
  },
  {
    id: 'completeFulfillment',
    method: 'post',
    path: `${ORDERS}/{orderId}/fulfillments/{id}/complete`,
    tag: 'Orders',
    summary: 'Say, as its seller, that a one-off was handed over',
    description: "For deliveries in the state `manual`. The buyer reads `message` in the order's outbox.",
    auth: 'required',
    params: params.extend({ id: z.uuid().describe('Of the delivery.') }),
    body: {
      type: JSON_TYPE,
      schema: CompleteJobInput,
      optional: true,
      example: { message: 'Handed over at the market hall.' },
    },
    answers: answered('The delivery.', CompletedFulfillment),
    errors: allOf(signedIn, JSON_BODY, {
      404: ['fulfillment_not_found'],
      409: ['not_manual', 'payment_reverted', 'fulfillment_cancelled'],
    }),
  },
  {
    id: 'streamOrderEvents',
    method: 'get',
    path: `${ORDERS}/events`,
    tag: 'Events',
    summary: "Hear of the caller's orders",
    auth: 'required',
    headers: ['Last-Event-ID'],
    answers: streamed,
    events: { 'order-status': StatusEvent },
    errors: streamErrors,
  },
  {
    id: 'streamSaleEvents',
    method: 'get',
    path: `${ORDERS}/sales/events`,
    tag: 'Events',
    summary: 'Hear of the orders the caller sells in',
    auth: 'required',
    headers: ['Last-Event-ID'],
    answers: streamed,
    events: { 'order-status': StatusEvent },
    errors: streamErrors,
  },
]
