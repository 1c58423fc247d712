import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { OrderStatus } from '@market/contracts/statuses'
import { inTransaction } from '@market/kit/db'
import { until } from '@market/testkit/until'
import { sql, type Transaction } from 'kysely'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { MarketDatabase } from '../src/db/types.ts'
import { runFulfillmentJob } from './runFulfillmentJob.ts'
import { tellCompletion } from '../src/fulfillment/tellCompletion.ts'
import { tellOverdueCompletions } from '../src/orders/events/sweepOrderEvents.ts'
import {
  advance,
  CHAIN_ID,
  confirmed,
  type EventStream,
  final,
  openStream,
  payOrder,
  person,
  type PlacedOrder,
  placeOrder,
  seen,
  tokenOf,
} from './orderEventsWorld.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

const S1 = person(0x51)
const S2 = person(0x52)
/** Sells without anybody set up to deliver. */
const UNROUTED = person(0x53)

let market: MarketApi
let second: MarketApi
let adapter: Server
/** What the adapter does with each delivery. */
let deliver: (seller: string) => Promise<[status: number, body: object]>
let people = 0xc000
const opened: EventStream[] = []

const delivered = (): [number, object] => [200, { '@type': 'CodeDispenserResult', status: 'ok', codes: ['TEA-1'] }]

beforeAll(async () => {
  adapter = createServer(async (request, response) => {
    const seller = request.url!.split('/').at(-1)!
    const [status, body] = await deliver(seller)
    response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body))
  })
  await once(adapter.listen(0, '127.0.0.1'), 'listening')
  const env = { MARKET_CODE_DISPENSER_ORIGIN: `http://127.0.0.1:${(adapter.address() as AddressInfo).port}` }
  market = await startMarketApi({ env })
  second = await startMarketApi({ env, databaseUrl: market.ctx.config.POSTGRES_CONNECTION.reveal() })
  await market.ctx.db
    .insertInto('market_service_routes')
    .values(
      [S1, S2].map((seller) => ({
        chain_id: CHAIN_ID,
        seller_address: seller,
        sku: 'tea',
        offer_type: 'codedispenser',
        total_inventory: null,
      })),
    )
    .execute()
})

afterEach(async () => {
  for (const stream of opened.splice(0)) stream.close()
  // What is left to be tried again is no later test's.
  await market.ctx.db.updateTable('fulfillment_jobs').set({ next_attempt_at: null }).execute()
})

afterAll(async () => {
  await second?.close()
  await market?.close()
  adapter?.close()
})

/** A buyer with a stream, and an order that is paid. */
async function paidOrder(sellers: string[], trigger: 'confirmed' | 'finalized' = 'finalized') {
  const buyer = person((people += 1))
  const stream = await openStream(market.url, await tokenOf(market.ctx, buyer))
  opened.push(stream)
  const order = await placeOrder(market.ctx, { buyer, sellers, trigger })
  await payOrder(market.ctx, order)
  return { buyer, stream, order }
}

const statuses = (stream: EventStream) => stream.events().map(({ data }) => data.newStatus)

const told = (stream: EventStream, ...expected: string[]) =>
  until(`told ${expected.join(', ')}`, () => statuses(stream).length >= expected.length).then(() =>
    expect(statuses(stream)).toEqual(expected),
  )

/** All that was told before this event has come too. */
async function nothingElse(buyer: string, stream: EventStream) {
  const before = statuses(stream).length
  const marker = await placeOrder(market.ctx, { buyer, sellers: [S1] })
  await market.ctx.db
    .updateTable('orders')
    .set({ status: OrderStatus.cancelled })
    .where('order_id', '=', marker.orderId)
    .execute()
  await until('the marker', () => stream.events().some(({ data }) => data.orderId === marker.orderId))
  expect(stream.events()).toHaveLength(before + 1)
}

const waiting = () =>
  until('somebody waits for a lock', async () => {
    const { rows } = await sql`select 1 from pg_locks where not granted`.execute(second.ctx.db)
    return rows.length > 0
  })

/** A transaction that stands still between its work and its commit. */
async function suspended(work: (tx: Transaction<MarketDatabase>) => Promise<unknown>) {
  let release = () => {}
  const held = new Promise<void>((resolve) => (release = resolve))
  let reached = () => {}
  const worked = new Promise<void>((resolve) => (reached = resolve))
  const done = inTransaction(market.ctx.db, async (tx) => {
    await work(tx)
    reached()
    await held
  })
  await Promise.race([worked, done])
  return {
    async commit() {
      release()
      await done
    },
  }
}

describe('that an order is complete', () => {
  it('clients:8 clients:13.10 is told when what was delivered is stored, and not before', async () => {
    let asked = () => {}
    const isAsked = new Promise<void>((resolve) => (asked = resolve))
    let answer = () => {}
    const mayAnswer = new Promise<void>((resolve) => (answer = resolve))
    deliver = async () => {
      asked()
      await mayAnswer
      return delivered()
    }
    const { buyer, stream, order } = await paidOrder([S1])
    await advance(market.ctx, order, seen)
    await told(stream, OrderStatus.paymentProcessing)
    await advance(market.ctx, order, final)
    const running = runFulfillmentJob(second.ctx)
    await isAsked
    await nothingElse(buyer, stream)
    answer()
    await until('it is told', () => statuses(stream).includes(OrderStatus.paymentComplete))
    // At once, as wallets do on this event, and once.
    const response = await fetch(`${market.url}/api/cart/v1/orders/${order.orderId}`, {
      headers: { Authorization: `Bearer ${await tokenOf(market.ctx, buyer)}` },
    })
    expect(await response.json()).toMatchObject({
      orderStatus: OrderStatus.paymentComplete,
      outbox: [{ payload: { codes: ['TEA-1'] } }],
    })
    await running
    expect(stream.events().at(-1)!.data.oldStatus).toBe(OrderStatus.paymentProcessing)
    await nothingElse(buyer, stream)
  })

  it('is told at once when nothing is left to try, after that it was paid', async () => {
    const { buyer, stream, order } = await paidOrder([UNROUTED])
    // Both in one transaction.
    await advance(market.ctx, order, final)
    await told(stream, OrderStatus.paymentProcessing, OrderStatus.paymentComplete)
    const [paid, complete] = stream.events()
    expect(complete!.id).toBeGreaterThan(paid!.id)
    expect(complete!.data.oldStatus).toBe(OrderStatus.paymentProcessing)
    await advance(market.ctx, order, final + 1)
    await nothingElse(buyer, stream)
  })

  it('waits for every job, not for the goods: one that has to be tried again has answered', async () => {
    deliver = async (seller) => (seller === S1 ? [503, {}] : delivered())
    const { stream, order } = await paidOrder([S1, S2])
    await advance(market.ctx, order, final)
    expect(await runFulfillmentJob(market.ctx)).toBe(true)
    expect(await held(order)).toBe(1)
    expect(await runFulfillmentJob(market.ctx)).toBe(true)
    await told(stream, OrderStatus.paymentProcessing, OrderStatus.paymentComplete)
  })

  it('is told once when two workers end the last two jobs at once', async () => {
    let calls = 0
    let both = () => {}
    let meet = new Promise<void>((resolve) => (both = resolve))
    deliver = async () => {
      if ((calls += 1) % 2 === 0) both()
      await meet
      return delivered()
    }
    for (let round = 0; round < 20; round += 1) {
      meet = new Promise<void>((resolve) => (both = resolve))
      const { stream, order } = await paidOrder([S1, S2])
      await advance(market.ctx, order, final)
      await Promise.all([runFulfillmentJob(market.ctx), runFulfillmentJob(second.ctx)])
      await told(stream, OrderStatus.paymentProcessing, OrderStatus.paymentComplete)
      expect(await held(order)).toBe(0)
      const { rows } = await sql`select 1 from order_events where order_id = ${order.orderId}`.execute(market.ctx.db)
      expect(rows).toHaveLength(2)
    }
  })

  describe('while a job of it, due since it was confirmed, has its first outcome in the same moment', () => {
    const claimed = async () => {
      const { buyer, stream, order } = await paidOrder([S1], 'confirmed')
      await advance(market.ctx, order, confirmed)
      await market.ctx.db
        .updateTable('fulfillment_jobs')
        .set({ status: 'running', attempts: 1, next_attempt_at: null })
        .where('order_id', '=', order.orderId)
        .execute()
      return { buyer, stream, order }
    }
    const refuse = async (tx: Transaction<MarketDatabase>, { orderId }: PlacedOrder) => {
      await tx.updateTable('fulfillment_jobs').set({ status: 'rejected' }).where('order_id', '=', orderId).execute()
      await tellCompletion(tx, orderId)
    }

    it('is told when the outcome is there first', async () => {
      const { stream, order } = await claimed()
      const outcome = await suspended((tx) => refuse(tx, order))
      const completing = advance(market.ctx, order, final)
      await Promise.race([waiting(), completing])
      await outcome.commit()
      await completing
      await told(stream, OrderStatus.paymentProcessing, OrderStatus.paymentComplete)
    })

    it('is told when the completion is there first', async () => {
      const { stream, order } = await claimed()
      const completion = await suspended(async (tx) => {
        await tx.selectFrom('orders').select('order_id').where('order_id', '=', order.orderId).forUpdate().execute()
        await tx
          .updateTable('orders')
          .set({ status: OrderStatus.paymentComplete, finalized_at: market.ctx.now() })
          .where('order_id', '=', order.orderId)
          .execute()
        await tellCompletion(tx, order.orderId)
      })
      const outcome = inTransaction(second.ctx.db, (tx) => refuse(tx, order))
      await Promise.race([waiting(), outcome])
      await completion.commit()
      await outcome
      await told(stream, OrderStatus.paymentProcessing, OrderStatus.paymentComplete)
    })
  })

  it('is told after a time whatever the jobs do, once however many replicas look, and not again', async () => {
    deliver = async () => delivered()
    const orders = []
    for (let i = 0; i < 5; i += 1) {
      const paid = await paidOrder([S1])
      await advance(market.ctx, paid.order, final)
      orders.push(paid)
    }
    await tellOverdueCompletions(market.ctx)
    for (const { stream } of orders) expect(statuses(stream)).not.toContain(OrderStatus.paymentComplete)

    const young = orders.pop()!
    await sql`update order_events_held set held_since = now() - interval '121 seconds'
      where order_id <> ${young.order.orderId}`.execute(market.ctx.db)
    await Promise.all([market.ctx, second.ctx, market.ctx, second.ctx].map(tellOverdueCompletions))
    for (const { stream } of orders) await told(stream, OrderStatus.paymentProcessing, OrderStatus.paymentComplete)
    for (const { order } of orders) expect(await held(order)).toBe(0)
    expect(await held(young.order)).toBe(1)

    while (await runFulfillmentJob(market.ctx));
    for (const { buyer, stream } of orders) await nothingElse(buyer, stream)
    await told(young.stream, OrderStatus.paymentProcessing, OrderStatus.paymentComplete)
  })
})

const held = async ({ orderId }: PlacedOrder) =>
  (await market.ctx.db.selectFrom('order_events_held').select('order_id').where('order_id', '=', orderId).execute())
    .length
