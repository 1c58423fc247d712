import { EventEmitter } from 'node:events'
import { request } from 'node:http'
import { OrderStatus } from '@market/contracts/statuses'
import { inTransaction } from '@market/kit/db'
import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { listEventsOf } from '../src/orders/events/readOrderEvents.ts'
import { createOrderStreams, HEARTBEAT_MS } from '../src/orders/events/orderStreams.ts'
import { purgeOrderEvents } from '../src/orders/events/sweepOrderEvents.ts'
import {
  advance,
  CHAIN_ID,
  type EventStream,
  openStream,
  payOrder,
  person,
  placeOrder,
  seen,
  tokenOf,
} from './orderEventsWorld.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

const S1 = person(0x51)
const S2 = person(0x52)

let market: MarketApi
/** Another replica: the same database, streams of its own. */
let second: MarketApi
/** Opened first, looked at last. */
let idle: EventStream
let idleSince: number
let people = 0xb000
const opened: EventStream[] = []

beforeAll(async () => {
  market = await startMarketApi()
  second = await startMarketApi({
    databaseUrl: market.ctx.config.POSTGRES_CONNECTION.reveal(),
    env: { SSE_MAX_SUBSCRIBERS_PER_KEY: '3', SSE_MAX_STREAMS: '5' },
  })
  idle = await openStream(market.url, await tokenOf(market.ctx, person(0x1d)))
  idleSince = Date.now()
})

afterEach(() => {
  for (const stream of opened.splice(0)) stream.close()
})

afterAll(async () => {
  idle?.close()
  await second?.close()
  await market?.close()
})

const newBuyer = () => person((people += 1))

const open = async (
  address: string,
  options: { side?: 'buyer' | 'seller'; headers?: Record<string, string>; at?: MarketApi } = {},
) => {
  const { at = market, ...rest } = options
  const stream = await openStream(at.url, await tokenOf(at.ctx, address), rest)
  opened.push(stream)
  return stream
}

const nextEvent = (stream: EventStream, count = 1) =>
  until(`event ${count}`, () => stream.events().length >= count && stream.events())

/** Everything told so far has gone out once these two have seen an event made now. */
async function settled(buyer: string, ...streams: EventStream[]) {
  const marker = await placeOrder(market.ctx, { buyer, sellers: [S1, S2] })
  await setStatus(marker.orderId, OrderStatus.paymentProcessing)
  for (const stream of streams) {
    await until('the marker', () => stream.events().some(({ data }) => data.orderId === marker.orderId))
  }
  return marker.orderId
}

const setStatus = (orderId: string, status: OrderStatus) =>
  market.ctx.db.updateTable('orders').set({ status }).where('order_id', '=', orderId).execute()

const gauge = async (api: MarketApi, side: string) =>
  Number(
    new RegExp(`^marketplace_sse_streams\\{side="${side}".*\\} (\\d+)$`, 'm').exec(
      await (await fetch(`${api.url}/metrics`)).text(),
    )![1],
  )

/** The streams of earlier tests are closed at the server, too; the idle one stays. */
const quiet = (api: MarketApi) =>
  until('nobody else listens', async () => {
    const [buyers, sellers] = await Promise.all([gauge(api, 'buyer'), gauge(api, 'seller')])
    return buyers === (api === market ? 1 : 0) && sellers === 0
  })

describe('a stream of order events', () => {
  it('market-api:A-120 clients:13.10 sends its headers at once, before there is any event', async () => {
    const stream = await open(newBuyer(), {
      headers: { Origin: 'https://shop.example', 'Accept-Encoding': 'gzip, br' },
    })
    expect(stream.status).toBe(200)
    expect(stream.headers).toMatchObject({
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
      'access-control-allow-origin': 'https://shop.example',
      'x-request-id': expect.any(String),
    })
    expect(stream.headers['content-encoding']).toBeUndefined()
    await until('the first comment', () => stream.comments() === 1)
    expect(stream.text()).toBe(':\n\n')
  })

  it.each(['buyer', 'seller'] as const)('market-api:A-121 asks the %s for a token', async (side) => {
    const none = await openStream(market.url, undefined, { side })
    const wrong = await openStream(market.url, 'x.y.z', { side })
    expect([none.status, wrong.status]).toEqual([401, 401])
    await wrong.ended
    expect(JSON.parse(wrong.text())).toMatchObject({ code: 'unauthorized' })
  })

  it('market-api:A-122 market-api:W-16 tells the buyer of two sellers once, with the status that was', async () => {
    const buyer = newBuyer()
    const stream = await open(buyer)
    const order = await placeOrder(market.ctx, { buyer, sellers: [S1, S2] })
    await payOrder(market.ctx, order)
    await advance(market.ctx, order, seen)
    await settled(buyer, stream)
    const [event, ...more] = stream.events().filter(({ data }) => data.orderId === order.orderId)
    expect(more).toEqual([])
    expect(event).toEqual({
      id: expect.any(Number),
      name: 'order-status',
      data: {
        orderId: order.orderId,
        paymentReference: order.reference,
        oldStatus: OrderStatus.paymentDue,
        newStatus: OrderStatus.paymentProcessing,
        changedAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      },
    })
  })

  it('market-api:A-123 tells each seller once, and nothing of the buyer', async () => {
    const [one, two] = [await open(S1, { side: 'seller' }), await open(S2, { side: 'seller' })]
    const stranger = await open(person(0x53), { side: 'seller' })
    const asBuyer = await open(S1)
    const buyer = newBuyer()
    const order = await placeOrder(market.ctx, { buyer, sellers: [S1, S2, S1] })
    await payOrder(market.ctx, order)
    await advance(market.ctx, order, seen)
    await settled(buyer, one, two)
    for (const stream of [one, two]) {
      const mine = stream.events().filter(({ data }) => data.orderId === order.orderId)
      expect(mine).toHaveLength(1)
      expect(Object.keys(mine[0]!.data).toSorted()).toEqual(
        ['changedAt', 'newStatus', 'oldStatus', 'orderId', 'paymentReference'].toSorted(),
      )
      expect(stream.text()).not.toContain(buyer)
      expect(stream.text()).not.toContain('Ada')
    }
    expect([stranger.events(), asBuyer.events()]).toEqual([[], []])
  })

  it('market-api:A-124 market-api:W-17 hears on one replica of what another did, within two seconds', async () => {
    const buyer = newBuyer()
    const there = await open(buyer, { at: second })
    const order = await placeOrder(market.ctx, { buyer, sellers: [S1] })
    await payOrder(market.ctx, order)
    const at = Date.now()
    await advance(market.ctx, order, seen)
    const [event] = await nextEvent(there)
    expect(event!.data).toMatchObject({ orderId: order.orderId, newStatus: OrderStatus.paymentProcessing })
    expect(Date.now() - at).toBeLessThan(2000)
  })

  it('market-api:A-125 sends what was missed first, in order, and then what comes', async () => {
    const buyer = newBuyer()
    const orders = []
    for (let i = 0; i < 5; i += 1) orders.push(await placeOrder(market.ctx, { buyer, sellers: [S1] }))
    const first = await open(buyer)
    await setStatus(orders[0]!.orderId, OrderStatus.paymentProcessing)
    const [last] = await nextEvent(first)
    first.close()
    for (const order of orders.slice(1, 4)) await setStatus(order.orderId, OrderStatus.paymentProcessing)

    const again = await open(buyer, { headers: { 'Last-Event-ID': String(last!.id) } })
    await nextEvent(again, 3)
    await setStatus(orders[4]!.orderId, OrderStatus.paymentProcessing)
    const told = await nextEvent(again, 4)
    expect(told.map(({ data }) => data.orderId)).toEqual(orders.slice(1).map(({ orderId }) => orderId))
    expect(told.map(({ id }) => id)).toEqual(told.map(({ id }) => id).toSorted((a, b) => a - b))
  })

  it.each(['', 'abc', '-1', '1.5', '0x10', '999999999999999', '9'.repeat(30)])(
    'ignores Last-Event-ID "%s", which is none of its ids',
    async (id) => {
      const buyer = newBuyer()
      const early = await open(buyer)
      const before = await placeOrder(market.ctx, { buyer, sellers: [S1] })
      await setStatus(before.orderId, OrderStatus.cancelled)
      await nextEvent(early)
      const stream = await open(buyer, { headers: { 'Last-Event-ID': id } })
      const after = await placeOrder(market.ctx, { buyer, sellers: [S1] })
      await setStatus(after.orderId, OrderStatus.cancelled)
      const told = await nextEvent(stream)
      expect(told.map(({ data }) => data.orderId)).toEqual([after.orderId])
    },
  )

  it('replays more than a page to a client that reads, with what comes meanwhile', async () => {
    const buyer = newBuyer()
    const { orderId } = await placeOrder(market.ctx, { buyer, sellers: [S1] })
    await change(orderId, 800)
    const stream = await open(buyer, { headers: { 'Last-Event-ID': '0' } })
    await change(orderId, 400)
    const expected = await eventsOf(buyer)
    expect(expected.length).toBe(1199)
    await nextEvent(stream, expected.length)
    expect(stream.events().map(({ id }) => id)).toEqual(expected)
  })

  it('clients:8 tells a change in the very words and time of the status history', async () => {
    const buyer = newBuyer()
    const stream = await open(buyer)
    const order = await placeOrder(market.ctx, { buyer, sellers: [S1] })
    await setStatus(order.orderId, OrderStatus.paymentProcessing)
    await setStatus(order.orderId, OrderStatus.cancelled)
    const told = await nextEvent(stream, 2)
    const history = await fetch(`${market.url}/api/cart/v1/orders/${order.orderId}/status-history`, {
      headers: { Authorization: `Bearer ${await tokenOf(market.ctx, buyer)}` },
    })
    const { events } = (await history.json()) as { events: object[] }
    expect(events.slice(1)).toMatchObject(
      told.map(({ data: { oldStatus, newStatus, changedAt } }) => ({ oldStatus, newStatus, changedAt })),
    )
    expect(stream.text()).not.toContain('\r')
  })

  it('says nothing when an order is placed, nor of one that is not listed for its buyer', async () => {
    const buyer = newBuyer()
    const [mine, sales] = [await open(buyer), await open(S2, { side: 'seller' })]
    const hidden = await placeOrder(market.ctx, { buyer, sellers: [S2], listed: false })
    await setStatus(hidden.orderId, OrderStatus.cancelled)
    const marker = await settled(buyer, mine, sales)
    expect(mine.events().map(({ data }) => data.orderId)).toEqual([marker])
    expect(sales.events().map(({ data }) => data.orderId)).toEqual([hidden.orderId, marker])
  })

  it('lists an order that is paid, and tells its buyer', async () => {
    const buyer = newBuyer()
    const stream = await open(buyer)
    const order = await placeOrder(market.ctx, { buyer, sellers: [S1], listed: false })
    await payOrder(market.ctx, order)
    await advance(market.ctx, order, seen)
    expect((await nextEvent(stream))[0]!.data.orderId).toBe(order.orderId)
    const { listed } = await market.ctx.db
      .selectFrom('orders')
      .select('listed')
      .where('order_id', '=', order.orderId)
      .executeTakeFirstOrThrow()
    expect(listed).toBe(true)
  })

  it('leaves a cancelled order alone, whatever is paid for it', async () => {
    const buyer = newBuyer()
    const order = await placeOrder(market.ctx, { buyer, sellers: [S1] })
    await market.ctx.db
      .updateTable('orders')
      .set({ status: OrderStatus.cancelled, cancelled_at: market.ctx.now(), cancel_reason: 'expired' })
      .where('order_id', '=', order.orderId)
      .execute()
    await payOrder(market.ctx, order)
    await advance(market.ctx, order, seen)
    const row = await market.ctx.db
      .selectFrom('orders')
      .select(['status', 'paid_at', 'paid_amount_wei'])
      .where('order_id', '=', order.orderId)
      .executeTakeFirstOrThrow()
    expect(row).toEqual({ status: OrderStatus.cancelled, paid_at: null, paid_amount_wei: '3000000000000000000' })
  })

  it('is closed when its token ends', async () => {
    const buyer = newBuyer()
    const { token } = await market.ctx.tokens.issue({ address: buyer, chainId: CHAIN_ID }, 'x')
    const { verify } = market.ctx.tokens
    const endsAt = Date.now() + 1500
    market.ctx.tokens.verify = async (text) => {
      const caller = await verify(text)
      return caller && text === token ? { ...caller, expiresAtMs: endsAt } : caller
    }
    const stream = await openStream(market.url, token)
    market.ctx.tokens.verify = verify
    const other = await open(buyer)
    await stream.ended
    expect(Date.now()).toBeGreaterThanOrEqual(endsAt)
    expect(Date.now()).toBeLessThan(endsAt + 2500)
    expect(other.isEnded()).toBe(false)
    // Properly ended, not cut.
    expect(stream.text()).toBe(':\n\n')
  })

  it('answers HEAD without opening anything', async () => {
    await quiet(market)
    const { orderStreams } = market.ctx
    market.ctx.orderStreams = { ...orderStreams, open: () => Promise.reject(new Error('opened')) }
    const answer = await fetch(`${market.url}/api/cart/v1/orders/events`, {
      method: 'HEAD',
      headers: { Authorization: `Bearer ${await tokenOf(market.ctx, newBuyer())}` },
    })
    expect([answer.status, answer.headers.get('content-type')]).toEqual([200, 'text/event-stream'])
    market.ctx.orderStreams = orderStreams
  })

  it('counts the streams that are open, and those alone', async () => {
    await quiet(market)
    const stream = await open(newBuyer(), { side: 'seller' })
    await open(newBuyer(), { side: 'seller' })
    expect(await gauge(market, 'seller')).toBe(2)
    stream.close()
    await until('one is gone', async () => (await gauge(market, 'seller')) === 1)
  })
})

describe('too many streams', () => {
  it('of one address on one side are refused with 429 and when to come back', async () => {
    const buyer = newBuyer()
    const at = second
    const streams = await Promise.all(Array.from({ length: 4 }, () => open(buyer, { at })))
    const refused = streams.filter(({ status }) => status === 429)
    expect(streams.map(({ status }) => status).toSorted()).toEqual([200, 200, 200, 429])
    await refused[0]!.ended
    expect(JSON.parse(refused[0]!.text())).toMatchObject({ code: 'too_many_streams' })
    expect(Number(refused[0]!.headers['retry-after'])).toBeGreaterThan(0)
    // The other side has a count of its own, and a place that was left can be taken.
    expect((await open(buyer, { at, side: 'seller' })).status).toBe(200)
    streams.find(({ status }) => status === 200)!.close()
    await until('a place', async () => {
      const stream = await open(buyer, { at })
      return stream.status === 200
    })
  })

  it('of a process are refused with 429, whoever asks', async () => {
    await quiet(second)
    const streams = await Promise.all(Array.from({ length: 6 }, () => open(newBuyer(), { at: second })))
    expect(streams.map(({ status }) => status).toSorted()).toEqual([200, 200, 200, 200, 200, 429])
  })
})

/** Changes an order so many times, one event each; not too often a transaction, where each change of a row makes the next slower. */
async function change(orderId: string, times: number) {
  for (let left = times; left > 0; left -= 500) {
    await sql`do $$ begin for i in 1..${sql.lit(Math.min(left, 500) / 2)} loop
      update orders set status = 'https://schema.org/OrderPaymentDue' where order_id = ${sql.lit(orderId)};
      update orders set status = 'https://schema.org/OrderCancelled' where order_id = ${sql.lit(orderId)};
    end loop; end $$`.execute(market.ctx.db)
  }
}

/** An order whose events are longer than any there are: the system takes megabytes before a stream feels its client. */
async function talkativeOrder(buyer: string) {
  const { orderId } = await placeOrder(market.ctx, { buyer, sellers: [S1] })
  await sql`
    update orders set payment_reference = rpad(payment_reference, 1000, '0'), status = ${OrderStatus.cancelled}
    where order_id = ${orderId}`.execute(market.ctx.db)
  return orderId
}

const eventsOf = async (buyer: string) =>
  (await listEventsOf(market.ctx.db, { side: 'buyer', address: buyer, chainId: CHAIN_ID }, 0, 1_000_000)).map(
    ({ id }) => id,
  )

describe('a client that does not read', () => {
  it('is cut, not buffered, and the others hear everything', { timeout: 120_000 }, async () => {
    await quiet(second)
    const buyer = newBuyer()
    const orderId = await talkativeOrder(buyer)
    const [slow, reading] = [await open(buyer, { at: second }), await open(buyer, { at: second })]
    slow.pause()
    // However long it takes nothing, by this clock that is no time.
    const { now } = second.ctx
    const time = now()
    second.ctx.now = () => time
    try {
      await until(
        'the slow one is cut',
        async () => {
          await change(orderId, 1000)
          const last = (await eventsOf(buyer)).at(-1)
          await until('the other has it all', () => reading.events().at(-1)?.id === last, 30)
          return (await gauge(second, 'buyer')) === 1
        },
        90,
      )
    } finally {
      second.ctx.now = now
    }
    const metrics = await (await fetch(`${second.url}/metrics`)).text()
    expect(metrics).toMatch(/^marketplace_sse_dropped_total\{.*\} 1$/m)
    expect(metrics).toMatch(/^marketplace_sse_lag_seconds_count\{.*\} [1-9]\d*$/m)
    expect(reading.isEnded()).toBe(false)
    expect(reading.events().map(({ id }) => id)).toEqual((await eventsOf(buyer)).slice(1))
  })

  it('while it is sent what it missed, is waited for', { timeout: 120_000 }, async () => {
    const buyer = newBuyer()
    await change(await talkativeOrder(buyer), 8000)
    const expected = await eventsOf(buyer)
    const headers = { 'Last-Event-ID': '0' }
    const late = await open(buyer, { headers })
    late.pause()
    const reading = await open(buyer, { headers })
    await nextEvent(reading, expected.length)
    // Streams are looked over every second: were it sent everything at once, it would be gone by now.
    const since = Date.now()
    await until('two seconds and a half', () => Date.now() - since > 2500)
    late.resume()
    await nextEvent(late, expected.length)
    expect(late.events().map(({ id }) => id)).toEqual(expected)
  })

  it('is sent the next page when it took the one before', async () => {
    const buyer = newBuyer()
    const { orderId } = await placeOrder(market.ctx, { buyer, sellers: [S1] })
    await change(orderId, 250)
    const response = new ResponseWithout({ unsent: 20_000 })
    await createOrderStreams(() => market.ctx).open(response as never, { ...(await requestOf(buyer)), after: 0 })
    for (const pages of [1, 2]) {
      await until('a page', () => response.written.length > pages)
      const looks = response.looks
      await until('it is looked at again', () => response.looks > looks)
      expect(response.written).toHaveLength(1 + pages)
      response.emit('drain')
    }
    await until('the rest', () => response.written.length === 4)
    expect(response.written.join('').match(/^id: /gm)).toHaveLength(249)
    response.destroy()
  })

  it('and has little left to take is cut after half a minute', async () => {
    let time = Date.now()
    const streams = createOrderStreams(() => ({ ...market.ctx, now: () => new Date(time) }))
    const response = new ResponseWithout({ unsent: 20_000 })
    await streams.open(response as never, await requestOf(newBuyer()))
    await until('it was looked at', () => response.looks >= 1)
    time += 29_000
    const looks = response.looks
    await until('it was looked at again', () => response.looks >= looks + 1)
    expect(response.destroyed).toBe(false)
    time += 2000
    await until('it is cut', () => response.destroyed)
  })
})

/** As much of Node's response as a stream touches, without a connection. */
class ResponseWithout extends EventEmitter {
  readonly written: string[] = []
  looks = 0
  headersSent = false
  destroyed = false
  writableLength = 0
  #needsDrain = false

  constructor(state: { unsent?: number; destroyed?: boolean }) {
    super()
    this.destroyed = state.destroyed ?? false
    this.writableLength = state.unsent ?? 0
    this.#needsDrain = state.unsent !== undefined
  }
  get writableNeedDrain() {
    this.looks += 1
    return this.#needsDrain
  }
  writeHead() {
    this.headersSent = true
  }
  write(text: string) {
    this.written.push(text)
  }
  destroy() {
    this.destroyed = true
    this.emit('close')
  }
}

const requestOf = async (address: string) => ({
  audience: { side: 'buyer' as const, address, chainId: CHAIN_ID },
  expiresAtMs: undefined,
  after: undefined,
  log: market.ctx.log,
})

/** Has the answers of Postgres to queries that hold `words` wait: old when they come. */
function delayAnswers(api: MarketApi, words: string) {
  const { db } = api.ctx
  const slow = new WeakSet<object>()
  let release = () => {}
  const released = new Promise<void>((resolve) => (release = resolve))
  let waiting = 0
  api.ctx.db = db.withPlugin({
    transformQuery: ({ node, queryId }) => {
      if (node.kind === 'RawNode' && node.sqlFragments.join(' ').includes(words)) slow.add(queryId)
      return node
    },
    transformResult: async ({ result, queryId }) => {
      if (slow.has(queryId)) {
        waiting += 1
        await released
      }
      return result
    },
  })
  return {
    waits: () => until('an answer waits', () => waiting > 0),
    release() {
      api.ctx.db = db
      release()
    },
  }
}

describe('an answer of the database that is old when it comes', () => {
  it.each([40, 260])('leaves no gap when %i events were told meanwhile, and repeats none', async (meanwhile) => {
    await quiet(second)
    const buyer = newBuyer()
    const { orderId } = await placeOrder(market.ctx, { buyer, sellers: [S1] })
    await change(orderId, 20)
    const live = await open(buyer, { at: second })
    const missed = delayAnswers(second, 'where a.side =')
    const back = await open(buyer, { at: second, headers: { 'Last-Event-ID': '0' } })
    await missed.waits()
    await change(orderId, meanwhile)
    const expected = await eventsOf(buyer)
    await until('it is told', () => live.events().at(-1)?.id === expected.at(-1))
    expect(back.events()).toEqual([])
    missed.release()
    await nextEvent(back, expected.length)
    expect(back.events().map(({ id }) => id)).toEqual(expected)
  })

  it('does not have the first stream of a process wait for what was told in that moment', async () => {
    await quiet(second)
    const buyer = newBuyer()
    const { orderId } = await placeOrder(market.ctx, { buyer, sellers: [S1] })
    const elsewhere = await open(buyer)
    const start = delayAnswers(second, 'max(event_id)')
    const opening = open(buyer, { at: second })
    await start.waits()
    await setStatus(orderId, OrderStatus.cancelled)
    await nextEvent(elsewhere)
    start.release()
    const at = Date.now()
    await nextEvent(await opening)
    // The timer would take ten seconds.
    expect(Date.now() - at).toBeLessThan(5000)
  })
})

it('a client that is gone before its stream is opened has none', async () => {
  await quiet(second)
  const response = new ResponseWithout({ destroyed: true })
  await second.ctx.orderStreams.open(response as never, await requestOf(newBuyer()))
  expect(response.written).toEqual([])
  expect(await gauge(second, 'buyer')).toBe(0)
})

it('a listener whose connection to Postgres is killed misses nothing', async () => {
  const buyer = newBuyer()
  const stream = await open(buyer)
  const orders = []
  for (let i = 0; i < 3; i += 1) orders.push(await placeOrder(market.ctx, { buyer, sellers: [S1] }))
  await setStatus(orders[0]!.orderId, OrderStatus.cancelled)
  await nextEvent(stream)
  const { rows } = await sql`
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and query like 'listen "order_events"'`.execute(market.ctx.db)
  expect(rows.length).toBeGreaterThanOrEqual(2)
  await setStatus(orders[1]!.orderId, OrderStatus.cancelled)
  const at = Date.now()
  await nextEvent(stream, 2)
  await setStatus(orders[2]!.orderId, OrderStatus.cancelled)
  const told = await nextEvent(stream, 3)
  expect(told.map(({ data }) => data.orderId)).toEqual(orders.map(({ orderId }) => orderId))
  // By the connection that was made anew, not by the timer.
  expect(Date.now() - at).toBeLessThan(5000)
})

it('events are forgotten after seven days, with who heard of them', async () => {
  const buyer = newBuyer()
  const [old, young] = [
    await placeOrder(market.ctx, { buyer, sellers: [S1] }),
    await placeOrder(market.ctx, { buyer, sellers: [S1] }),
  ]
  for (const { orderId } of [old, young]) await setStatus(orderId, OrderStatus.cancelled)
  await sql`update order_events set created_at = now() - interval '7 days 1 minute' where order_id = ${old.orderId}`.execute(
    market.ctx.db,
  )
  await purgeOrderEvents(market.ctx)
  const left = await market.ctx.db
    .selectFrom('order_event_audience as a')
    .innerJoin('order_events as e', 'e.event_id', 'a.event_id')
    .select('e.order_id')
    .where('a.address', '=', buyer)
    .execute()
  expect(left).toEqual([{ order_id: young.orderId }])
})

it('ids come in commit order: who got its id first is seen first, however long it takes to commit', async () => {
  const buyer = newBuyer()
  const stream = await open(buyer)
  const [slow, quick] = [
    await placeOrder(market.ctx, { buyer, sellers: [S1] }),
    await placeOrder(market.ctx, { buyer, sellers: [S1] }),
  ]
  let commit = () => {}
  const held = new Promise<void>((resolve) => (commit = resolve))
  let changed = () => {}
  const hasId = new Promise<void>((resolve) => (changed = resolve))
  const first = inTransaction(market.ctx.db, async (tx) => {
    await tx.updateTable('orders').set({ status: OrderStatus.cancelled }).where('order_id', '=', slow.orderId).execute()
    changed()
    await held
  })
  await hasId
  const then = setStatus(quick.orderId, OrderStatus.cancelled)
  await until('the second waits for the first', async () => {
    const { rows } = await sql`select 1 from pg_locks where locktype = 'advisory' and not granted`.execute(
      market.ctx.db,
    )
    return rows.length > 0
  })
  expect(stream.events()).toEqual([])
  commit()
  await Promise.all([first, then])
  expect((await nextEvent(stream, 2)).map(({ data }) => data.orderId)).toEqual([slow.orderId, quick.orderId])
})

it('a market that stops ends its streams at once and opens no more', async () => {
  const third = await startMarketApi({ databaseUrl: market.ctx.config.POSTGRES_CONNECTION.reveal() })
  try {
    const stream = await open(newBuyer(), { at: third })
    third.ctx.orderStreams.close()
    await stream.ended
    const late = await open(newBuyer(), { at: third })
    expect(late.status).toBe(503)
    expect(late.headers['retry-after']).toBe('1')
  } finally {
    await third.close()
  }
})

it('a client that leaves while its stream is being opened leaves nothing behind', async () => {
  // Nobody listens there, so that each has to wait for where the events stand.
  await quiet(second)
  const buyer = newBuyer()
  const token = await tokenOf(second.ctx, buyer)
  await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      const sent = request(`${second.url}/api/cart/v1/orders/events`, {
        agent: false,
        headers: { Authorization: `Bearer ${token}` },
      }).end()
      sent.on('error', () => {})
      await new Promise((resolve) => setTimeout(resolve, i))
      sent.destroy()
    }),
  )
  await quiet(second)
  const stream = await open(buyer, { at: second })
  const { orderId } = await placeOrder(market.ctx, { buyer, sellers: [S1] })
  await setStatus(orderId, OrderStatus.cancelled)
  expect(await nextEvent(stream)).toHaveLength(1)
})

it('market-api:A-126 an idle stream has a comment at least every 25 seconds', async () => {
  expect(HEARTBEAT_MS).toBeGreaterThanOrEqual(15_000)
  await until('a second comment', () => idle.comments() >= 2, 30)
  expect(idle.comments()).toBeGreaterThan(Math.floor((Date.now() - idleSince) / 25_000))
  expect(HEARTBEAT_MS).toBeLessThanOrEqual(24_000)
  expect(idle.events()).toEqual([])
})
