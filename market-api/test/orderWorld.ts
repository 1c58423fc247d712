import { randomBytes } from 'node:crypto'
import { eip155Id } from '@market/contracts/address'
import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import { orderId as makeOrderId, paymentReference as makeReference } from '@market/contracts/ids'
import { jsonNumberFromWei, weiFromJsonNumber } from '@market/contracts/money'
import { OrderStatus } from '@market/contracts/statuses'
import { inTransaction } from '@market/kit/db'
import { sql } from 'kysely'
import { insertJobs } from '../src/fulfillment/insertJobs.ts'
import type { OrderSnapshot } from '../src/orders/order.ts'
import { insertOrder } from '../src/orders/store.ts'
import { startMarketApi } from './startMarketApi.ts'

/** The people of market-api.md 10. */
export const BUYER = '0x7e5f4552091a69125d5dfcb7b8c2659029395bdf'
export const S1 = '0x943186fbcfd74fd575bcf9aa76a53f56b2f06aba'
export const S2 = `0x${'b'.repeat(40)}`
export const STRANGER = `0x${'c'.repeat(40)}`
export const GATEWAY = `0x${'9'.repeat(40)}`
const OPERATOR = '0x20ced4ed3b1651b832a77e13e54ea5cb14c8b95b'

export type TestLine = {
  seller: string
  sku: string
  price: number
  quantity?: number
  name?: string
  isOneOff?: boolean
  trigger?: FulfillmentTrigger
}
export type TestOrder = {
  lines?: TestLine[]
  buyer?: string
  chainId?: number
  createdAt?: Date
  listed?: boolean
  paymentDueBy?: Date
  /** Over the members that checkout would write. */
  snapshot?: Partial<OrderSnapshot>
}

/** An order of B with a line of each seller. */
export const TWO_SELLERS: TestLine[] = [
  { seller: S1, sku: 'tee-black', name: 'Black tee', price: 19, quantity: 1 },
  { seller: S2, sku: 'mug', name: 'Mug', price: 7.5, quantity: 3 },
]

export const PERSONAL = {
  givenName: 'Ada',
  familyName: 'Lovelace',
  contact: { '@type': 'ContactPoint', email: 'ada@example.org', telephone: '+44 1234 567' },
  address: {
    '@type': 'PostalAddress',
    streetAddress: '12 St James Square',
    addressLocality: 'London',
    postalCode: 'SW1Y',
    addressCountry: 'GB',
  },
}

/** A market with orders that were placed without a checkout, and whoever reads them. */
export async function startOrders(env: Record<string, string> = {}) {
  const api = await startMarketApi({ env })
  const { ctx } = api
  const { db } = ctx

  const call = async (path: string, address: string | undefined, init: RequestInit & { chainId?: number } = {}) => {
    const { chainId = 100, ...request } = init
    const headers = new Headers(request.headers)
    if (address !== undefined) {
      const { token } = await ctx.tokens.issue({ address, chainId }, 'x')
      headers.set('Authorization', `Bearer ${token}`)
    }
    const response = await fetch(path.startsWith('http') ? path : `${api.url}/api/cart/v1/orders${path}`, {
      ...request,
      headers,
    })
    const text = await response.text()
    // Every test reads what it asserts; a union of all answers would only be cast away again.
    return {
      status: response.status,
      headers: response.headers,
      text,
      body: text === '' ? undefined : JSON.parse(text),
    }
  }

  const place = async (order: TestOrder = {}): Promise<string> => {
    const { buyer = BUYER, chainId = 100, lines = TWO_SELLERS, createdAt = new Date(), listed = true } = order
    const orderId = makeOrderId(randomBytes(16))
    const paymentReference = makeReference(randomBytes(16))
    const priceWei = lines.reduce(
      (sum, { price, quantity = 1 }) => sum + weiFromJsonNumber(price) * BigInt(quantity),
      0n,
    )
    const snapshot: OrderSnapshot = {
      '@context': 'https://schema.org/',
      '@type': 'Order',
      orderNumber: orderId,
      paymentReference,
      customer: {
        '@type': 'Person',
        '@id': eip155Id(chainId, buyer),
        givenName: PERSONAL.givenName,
        familyName: PERSONAL.familyName,
      },
      broker: { '@type': 'Organization', '@id': eip155Id(chainId, OPERATOR) },
      acceptedOffer: lines.map(({ seller, price, isOneOff = false }) => ({
        '@type': 'Offer',
        price,
        priceCurrency: 'CRC',
        seller: { '@type': 'Organization', '@id': eip155Id(chainId, seller) },
        availableDeliveryMethod: null,
        requiredSlots: null,
        fulfillmentEndpoint: null,
        fulfillmentTrigger: null,
        isOneOff,
        potentialAction: { '@type': 'PayAction' },
      })),
      orderedItem: lines.map(({ sku, name = sku, quantity = 1 }) => ({
        '@type': 'OrderItem',
        orderQuantity: quantity,
        orderedItem: { '@type': 'Product', sku, name },
        productCid: `Qm${sku}`,
        imageUrl: null,
      })),
      billingAddress: PERSONAL.address,
      shippingAddress: PERSONAL.address,
      totalPaymentDue: {
        '@type': 'PriceSpecification',
        price: jsonNumberFromWei(priceWei),
        priceCurrency: 'CRC',
      },
      paymentUrl: null,
      voucherCode: null,
      downloadUrl: null,
      sellerContact: PERSONAL.contact,
      customerContact: PERSONAL.contact,
      ...order.snapshot,
    }
    await inTransaction(db, (tx) =>
      insertOrder(tx, {
        orderId,
        basketId: `bkt_${randomBytes(16).toString('hex')}`,
        chainId,
        buyer,
        paymentReference,
        priceWei,
        expectedGateways: [GATEWAY],
        snapshot,
        lines: lines.map(({ seller, sku, quantity = 1, trigger = 'finalized' }, lineIndex) => ({
          lineIndex,
          seller,
          sku,
          quantity,
          trigger,
          linkKeccak: '0x',
        })),
        createdAt,
        paymentDueBy: order.paymentDueBy ?? new Date(createdAt.getTime() + 1_800_000),
        listed,
        placedFrom: null,
      }),
    )
    return orderId
  }

  return {
    api,
    ctx,
    db,
    url: api.url,
    place,
    get: call,
    post: (path: string, address: string | undefined, body?: unknown, headers?: Record<string, string>) =>
      call(path, address, {
        method: 'POST',
        ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
        headers: { ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
      }),
    /** Paid, as a poll would say it. */
    async pay(orderId: string) {
      await db
        .updateTable('orders')
        .set({ status: OrderStatus.paymentProcessing, paid_at: sql`now()`, payment_seen_at: sql`now()` })
        .where('order_id', '=', orderId)
        .execute()
    },
    /** Paid for good, with the jobs that makes due. */
    async complete(orderId: string) {
      await this.pay(orderId)
      await inTransaction(db, async (tx) => {
        const update = (set: object) => tx.updateTable('orders').set(set).where('order_id', '=', orderId).execute()
        await update({ confirmed_at: sql`now()` })
        await insertJobs(ctx, tx, [{ orderId, trigger: 'confirmed' }])
        await update({ status: OrderStatus.paymentComplete, finalized_at: sql`now()` })
        await insertJobs(ctx, tx, [{ orderId, trigger: 'finalized' }])
      })
    },
    async cancel(orderId: string, reason: 'expired' | 'buyer' = 'expired') {
      await db
        .updateTable('orders')
        .set({ status: OrderStatus.cancelled, cancelled_at: sql`now()`, cancel_reason: reason })
        .where('order_id', '=', orderId)
        .execute()
    },
    /** Puts a sku behind an offer type, or makes it a one-off. */
    async route(seller: string, sku: string, offerType: string | null) {
      if (offerType !== null) {
        await db
          .insertInto('offer_types')
          .values({
            offer_type: offerType,
            inventory_url_template: null,
            availability_url_template: null,
            fulfillment_url_template: 'http://adapter.invalid/fulfill/{chain_id}/{seller}',
          })
          .onConflict((conflict) => conflict.doNothing())
          .execute()
      }
      await db
        .insertInto('market_service_routes')
        .values({
          chain_id: 100,
          seller_address: seller,
          sku,
          offer_type: offerType,
          is_one_off: offerType === null,
          total_inventory: null,
        })
        .execute()
    },
    async jobs(orderId: string) {
      return db
        .selectFrom('fulfillment_jobs')
        .selectAll()
        .where('order_id', '=', orderId)
        .orderBy('seller_address')
        .execute()
    },
    /** What a worker would write when its adapter has answered. */
    async answer(
      jobId: string,
      status: 'done' | 'needs_attention' | 'pending',
      reason: string | null,
      payload?: object,
    ) {
      const job = await db
        .updateTable('fulfillment_jobs')
        .set({ status, reason, attempts: sql`attempts + 1`, next_attempt_at: null, updated_at: sql`now()` })
        .where('job_id', '=', jobId)
        .returning('order_id')
        .executeTakeFirstOrThrow()
      await db
        .insertInto('fulfillment_job_events')
        .values({ job_id: jobId, kind: 'attempted', detail: { status, reason } })
        .execute()
      if (payload) {
        await db
          .insertInto('order_outbox')
          .values({ order_id: job.order_id, job_id: jobId, source: 'fulfillment', payload: { ...payload } })
          .execute()
      }
    },
    close: () => api.close(),
  }
}
export type Orders = Awaited<ReturnType<typeof startOrders>>
