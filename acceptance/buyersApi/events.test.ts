import { OrderStatus } from '@market/contracts/statuses'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type EventStream, openStream } from './eventStream.ts'
import { type Line, type Market, openFixture, openMarket, ORDERS, type Person } from './market.ts'
import { reissue } from './tokens.ts'

// market-api.md 10.6 over HTTP.

const DUE_TO_PROCESSING = [OrderStatus.paymentDue, OrderStatus.paymentProcessing]
const PROCESSING_TO_COMPLETE = [OrderStatus.paymentProcessing, OrderStatus.paymentComplete]

let market: Market
let fixture: Awaited<ReturnType<typeof openFixture>>
/** Of somebody who never buys. Opened first, looked at last. */
let idle: EventStream
/** Another process on the same database, with room for two streams of an address. */
let replica: Awaited<ReturnType<Market['replica']>>
const open: EventStream[] = []

beforeAll(async () => {
  market = await openMarket()
  const nobody = await market.signIn()
  idle = await listen(nobody)
  ;[replica, fixture] = await Promise.all([
    market.replica({ SSE_MAX_SUBSCRIBERS_PER_KEY: '2' }),
    openFixture(market, { slow: { offer: { price: 6 }, stock: 100_000 } }),
  ])
})
afterAll(async () => {
  for (const stream of open) stream.close()
  await market?.close()
})

const book = () => fixture.book()

async function listen(person: { token: string }, { sales = false, base = market.url, lastEventId = '' } = {}) {
  const stream = await openStream(`${base}${ORDERS}${sales ? '/sales' : ''}/events`, {
    token: person.token,
    ...(lastEventId ? { lastEventId } : {}),
  })
  open.push(stream)
  return stream
}

async function place(person: Person, lines: Line[]) {
  const basket = await market.basket(lines, { token: person.token })
  await basket.patch({ contactPoint: { '@type': 'ContactPoint', email: 'ada@example.com' } })
  const { status, text, body } = await basket.checkout()
  if (status !== 201) throw new Error(`no order: ${status} ${text}`)
  const { orderId, paymentReference } = body as { orderId: string; paymentReference: string }
  const read = async () => (await market.call('GET', `${ORDERS}/${orderId}`, { token: person.token })).body
  return {
    orderId,
    paymentReference,
    read,
    async pay() {
      await market.pay(person.account, fixture.gateway, (await read()).totalPaymentDue.price, paymentReference)
    },
  }
}

const changes = (stream: EventStream) => stream.events().map(({ data }) => [data.oldStatus, data.newStatus])
const hears = (stream: EventStream, count: number) =>
  until(`${count} events`, () => stream.events().length >= count && stream.events())

describe('a stream', () => {
  it('market-api:A-120 begins before anything happens', async () => {
    const buyer = await market.signIn()
    for (const sales of [false, true]) {
      const stream = await listen(buyer, { sales })
      expect(stream.status).toBe(200)
      expect(stream.headers.get('content-type')).toMatch(/^text\/event-stream(;|$)/)
      expect(stream.headers.get('cache-control')).toContain('no-cache')
      expect(stream.headers.get('x-accel-buffering')).toBe('no')
      expect(stream.headers.get('content-encoding')).toBeNull()
      expect(stream.events()).toEqual([])
      expect(stream.ended()).toBe(false)
    }
  })

  it('market-api:A-121 is for those who are signed in', async () => {
    for (const path of ['/events', '/sales/events']) {
      for (const token of [undefined, 'rubbish']) {
        const { status, headers } = await market.call('GET', ORDERS + path, { token })
        expect([status, headers.get('www-authenticate')]).toEqual([401, expect.stringMatching(/^Bearer/)])
      }
    }
  })

  it('W-49 ends with its token', async () => {
    const buyer = await market.signIn()
    const key = market.place.env.MARKET_JWT_PRIVATE_KEY!
    const brief = reissue(buyer.token, key, { exp: Math.floor(Date.now() / 1000) + 4 })
    const [stream, other] = [await listen({ token: brief }), await listen(buyer)]
    expect([stream.status, stream.ended()]).toEqual([200, false])
    await until('the stream ends', () => stream.ended(), 10)
    expect(other.ended()).toBe(false)
  })

  it('W-17 is refused with 429 when an address has too many', async () => {
    const [one, other] = await Promise.all([market.signIn(), market.signIn()])
    const base = replica.url
    const [first, second] = [await listen(one, { base }), await listen(one, { base })]
    const third = await listen(one, { base })
    expect([first.status, second.status, third.status]).toEqual([200, 200, 429])
    expect(Number(third.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await listen(one, { base, sales: true })).status, 'as seller').toBe(200)
    expect((await listen(other, { base })).status, 'of others').toBe(200)
    first.close()
    await until('there is room again', async () => (await listen(one, { base })).status === 200)
  })
})

describe('a paid order', () => {
  it('market-api:A-122 A-123 W-16 is told once to its buyer and once to each seller, nothing of one to the other', async () => {
    const { s1, s2 } = fixture
    const [buyer, stranger] = await Promise.all([market.signIn(), market.signIn()])
    const [bought, sold1, sold2, foreign] = await Promise.all([
      listen(buyer),
      listen(s1, { sales: true }),
      listen(s2, { sales: true }),
      listen(stranger),
    ])
    const asBuyer = await listen(s1)
    const asSeller = await listen(buyer, { sales: true })
    const orders = [await place(buyer, [book(), fixture.mug()]), await place(buyer, [book(), fixture.mug()])]
    // One after the other: whatever the first is told twice comes before the last of the second.
    for (const order of orders) {
      await order.pay()
      const ofOrder = (stream: EventStream) => stream.events().filter(({ data }) => data.orderId === order.orderId)
      for (const stream of [bought, sold1, sold2]) {
        await until('the order is complete', () => ofOrder(stream).length >= 2, 30)
      }
    }
    for (const [stream, who] of [
      [bought, 'buyer'],
      [sold1, 'S1'],
      [sold2, 'S2'],
    ] as const) {
      expect(changes(stream), who).toEqual([
        DUE_TO_PROCESSING,
        PROCESSING_TO_COMPLETE,
        DUE_TO_PROCESSING,
        PROCESSING_TO_COMPLETE,
      ])
      expect(stream.events().map(({ data }) => [data.orderId, data.paymentReference])).toEqual(
        orders.flatMap(({ orderId, paymentReference }) => [
          [orderId, paymentReference],
          [orderId, paymentReference],
        ]),
      )
      for (const { name, data } of stream.events()) {
        expect(name).toBe('order-status')
        expect(Object.keys(data).toSorted()).toEqual([
          'changedAt',
          'newStatus',
          'oldStatus',
          'orderId',
          'paymentReference',
        ])
      }
    }
    for (const stream of [sold1, sold2]) {
      expect(stream.text()).not.toContain(buyer.address)
      expect(stream.text()).not.toContain('ada@example.com')
    }
    for (const stream of [foreign, asBuyer, asSeller]) expect(stream.events()).toEqual([])
  })

  it('market-api:A-124 W-17 is told by every instance within two seconds, whichever of them reads the chain', async () => {
    const buyer = await market.signIn()
    const streams = [await listen(buyer), await listen(buyer, { base: replica.url })]
    const order = await place(buyer, [book()])
    await order.pay()
    for (const stream of streams) {
      const events = await hears(stream, 2)
      expect(changes(stream)).toEqual([DUE_TO_PROCESSING, PROCESSING_TO_COMPLETE])
      const { data, receivedAt } = events[0]!
      expect(receivedAt - Date.parse(data.changedAt)).toBeLessThan(2000)
    }
    const [here, there] = streams.map((stream) => stream.events().map(({ id, data }) => ({ id, data })))
    expect(there).toEqual(here)
    await replica.stop()
    await until('its streams end with it', () => streams[1]!.ended())
    expect(streams[0]!.ended()).toBe(false)
  })

  it('market-api:A-125 W-17 is told again from where the buyer lost the stream', async () => {
    const buyer = await market.signIn()
    const first = await listen(buyer)
    const order = await place(buyer, [book()])
    await order.pay()
    const [processing, complete] = await hears(first, 2)
    expect([processing!.id, complete!.id]).toEqual([
      expect.stringMatching(/^[0-9]+$/),
      expect.stringMatching(/^[0-9]+$/),
    ])
    first.close()

    const later = await place(buyer, [book()])
    await later.pay()
    await until('it is complete', async () => (await later.read()).orderStatus === OrderStatus.paymentComplete)
    const second = await listen(buyer, { lastEventId: processing!.id! })
    await hears(second, 3)
    const last = await place(buyer, [book()])
    await last.pay()
    await hears(second, 5)
    expect(second.events().map(({ data }) => [data.orderId, data.newStatus])).toEqual([
      [order.orderId, OrderStatus.paymentComplete],
      [later.orderId, OrderStatus.paymentProcessing],
      [later.orderId, OrderStatus.paymentComplete],
      [last.orderId, OrderStatus.paymentProcessing],
      [last.orderId, OrderStatus.paymentComplete],
    ])
    expect(second.events()[0]).toMatchObject({ id: complete!.id, data: complete!.data })

    const fresh = await listen(buyer)
    const foreign = await listen(await market.signIn(), { lastEventId: processing!.id! })
    const caughtUp = await listen(buyer, { lastEventId: second.events().at(-1)!.id! })
    const more = await place(buyer, [book()])
    await more.pay()
    for (const stream of [fresh, caughtUp]) {
      await hears(stream, 2)
      expect(stream.events().map(({ data }) => data.orderId)).toEqual([more.orderId, more.orderId])
    }
    expect(foreign.events()).toEqual([])
  })

  it('clients:8 is told in the words and times of its history, in LF, delivered before it is called complete', async () => {
    const { s1 } = fixture
    const buyer = await market.signIn()
    const stream = await listen(buyer)
    await s1.adapter('slow', { hang: 'fulfill' })
    const order = await place(buyer, [s1.line('slow')])
    await order.pay()
    try {
      await until('the adapter is asked', async () =>
        (await s1.adapterCalls()).some(({ kind, body }) => kind === 'fulfill' && body?.orderId === order.orderId),
      )
      // The adapter is asked after the order is complete, so by now an event that does not wait would be on its way.
      expect((await order.read()).orderStatus).toBe(OrderStatus.paymentComplete)
      const before = stream.comments.length + stream.events().length
      expect(changes(stream)).toEqual([DUE_TO_PROCESSING])
      expect(before).toBeGreaterThan(0)
    } finally {
      await s1.adapter('slow', { hang: null })
    }
    await hears(stream, 2)
    expect((await order.read()).outbox, 'read at once, as wallets do').toMatchObject([
      { source: 'fulfillment', payload: { codes: [expect.stringMatching(/^slow-1-/)] } },
    ])
    const path = `${ORDERS}/${order.orderId}/status-history`
    const history = (await market.call('GET', path, { token: buyer.token })).body.events.slice(1)
    expect(
      stream.events().map(({ data: { oldStatus, newStatus, changedAt } }) => ({ oldStatus, newStatus, changedAt })),
    ).toEqual(
      history.map(({ oldStatus, newStatus, changedAt }: Record<string, string>) => ({
        oldStatus,
        newStatus,
        changedAt,
      })),
    )
    expect(stream.text()).not.toContain('\r')
    expect(stream.text()).toMatch(/\n\n$/)
  })

  it('W-21 tells buyer and seller that an order was cancelled, and nobody that one was placed', async () => {
    const { s1 } = fixture
    const buyer = await market.signIn()
    const [bought, sold] = [await listen(buyer), await listen(s1, { sales: true })]
    const order = await place(buyer, [book()])
    const cancelled = await market.call('POST', `${ORDERS}/${order.orderId}/cancel`, { token: buyer.token })
    expect(cancelled.status).toBe(200)
    const ofOrder = (stream: EventStream) => stream.events().filter(({ data }) => data.orderId === order.orderId)
    for (const stream of [bought, sold]) {
      await until('it is told', () => ofOrder(stream).length > 0)
      expect(ofOrder(stream).map(({ data }) => [data.oldStatus, data.newStatus])).toEqual([
        [OrderStatus.paymentDue, OrderStatus.cancelled],
      ])
    }
  })
})

describe('an idle stream', () => {
  it('market-api:A-126 W-17 shows that it lives', async () => {
    const later = await until('a comment, some time after the headers', () => idle.comments.find((ms) => ms > 2000), 32)
    expect(later).toBeLessThan(30_000)
    expect(idle.ended()).toBe(false)
    expect(idle.events()).toEqual([])
  })
})
