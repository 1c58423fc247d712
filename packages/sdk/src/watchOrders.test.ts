import type { StatusEvent } from '@market/contracts/marketApi'
import { OrderStatus } from '@market/contracts/statuses'
import { expect, it, onTestFinished, vi } from 'vitest'
import { orderId, startEventMarket } from '../test/eventMarket.ts'
import { refuse } from '../test/httpServer.ts'
import { Market } from './market.ts'

const { paymentDue: DUE, paymentProcessing: PAID, paymentComplete: COMPLETE, cancelled: CANCELLED } = OrderStatus

const session = (token = 'token') => ({
  token,
  address: `0x${'ab'.repeat(20)}`,
  chainId: 100,
  expiresAtMs: Date.now() + 900_000,
})
const signedIn = (url: string) => new Market(url, { session: session() })

/** Reads on while the test goes on. */
function follow(events: AsyncIterable<StatusEvent>) {
  const seen: StatusEvent[] = []
  const ended = (async () => {
    for await (const event of events) seen.push(event)
  })().catch((error: unknown) => error)
  return { seen, ended }
}
/** Until the end of the test. */
function watchUntilEnd<T extends object>(
  watch: (options: T & { signal: AbortSignal }) => AsyncIterable<StatusEvent>,
  options: T,
) {
  const ending = new AbortController()
  onTestFinished(() => ending.abort())
  return { ...follow(watch({ ...options, signal: ending.signal })), ending }
}
const soon = (look: () => unknown) => vi.waitFor(look, { timeout: 10_000, interval: 10 })
/** Left alone, a stream is closed too, when its garbage is collected. */
const atOnce = (look: () => unknown) => vi.waitFor(look, { timeout: 1000, interval: 10 })
const statuses = (events: StatusEvent[]) =>
  events.map(({ orderId: id, newStatus }) => `${Number(id.slice(4))} ${newStatus.split('/').at(-1)}`)

it('tells an order from its first status to its last, then ends and hangs up', async () => {
  const market = await startEventMarket()
  const placed = market.place(1)
  market.place(2)
  const { seen, ended } = follow(signedIn(market.url).watchOrder(orderId(1)))
  await soon(() => expect(seen).toEqual([placed]))
  market.advance(2, PAID)
  const paid = market.advance(1, PAID)
  await soon(() => expect(seen).toEqual([placed, paid]))
  market.advance(2, COMPLETE)
  const complete = market.advance(1, COMPLETE)
  expect(await ended).toBeUndefined()
  expect(seen).toEqual([placed, paid, complete])
  await atOnce(() => expect(market.listeners()).toBe(0))
  expect(market.opened).toEqual([{ lastEventId: undefined, token: 'token', path: '/api/cart/v1/orders/events' }])
})

it('ends at once for an order that has come to its end, and says so when there is none', async () => {
  const market = await startEventMarket()
  const history = [market.place(1), market.advance(1, CANCELLED)]
  const watcher = signedIn(market.url)
  const { seen, ended } = follow(watcher.watchOrder(orderId(1)))
  expect([await ended, seen]).toEqual([undefined, history])
  expect(await follow(watcher.watchOrder(orderId(9))).ended).toMatchObject({ status: 404, code: 'order_not_found' })
  await atOnce(() => expect(market.listeners()).toBe(0))
})

it('tells each change once over streams that break, in the middle of a frame too', async () => {
  const market = await startEventMarket()
  for (const n of [1, 2, 3, 4]) market.place(n)
  const watcher = signedIn(market.url)
  const { seen } = watchUntilEnd((options) => watcher.watchOrders(options), {})
  await soon(() => expect(market.listeners()).toBe(1))
  market.advance(1, PAID)
  await soon(() => expect(seen).toHaveLength(1))
  market.cut()
  market.advance(2, PAID)
  await soon(() => expect(seen).toHaveLength(2))
  // Half a frame whose other half never comes; the next stream sends it whole.
  const paid = market.advance(3, PAID, { quietly: true })
  market.write(`id: 3\nevent: order-status\ndata: ${JSON.stringify(paid).slice(0, 50)}`)
  market.cut()
  await soon(() => expect(seen).toHaveLength(3))
  market.end()
  market.advance(4, PAID)
  await soon(() => expect(seen).toHaveLength(4))
  expect(statuses(seen)).toEqual([1, 2, 3, 4].map((n) => `${n} PaymentProcessing`))
  expect(market.opened.map(({ lastEventId }) => lastEventId)).toEqual([undefined, '1', '2', '3'])
})

it('tells what the stream repeats no second time', async () => {
  const market = await startEventMarket()
  market.place(1)
  const { seen } = watchUntilEnd((options) => signedIn(market.url).watchOrders(options), {})
  await soon(() => expect(market.listeners()).toBe(1))
  const paid = market.advance(1, PAID)
  market.write(`id: 7\nevent: order-status\ndata: ${JSON.stringify(paid)}\n\n`)
  market.write(`event: something-new\ndata: {"orderId":"x"}\n\n: comment\n\ndata: no JSON\n\n`)
  market.advance(1, COMPLETE)
  await soon(() => expect(statuses(seen)).toEqual(['1 PaymentProcessing', '1 PaymentComplete']))
})

it.each(['watchOrders', 'watchSales'] as const)(
  '%s misses nothing when the stream is lost before it has told anything',
  async (watch) => {
    const market = await startEventMarket()
    market.place(1)
    market.place(2)
    market.advance(2, PAID)
    const { seen } = watchUntilEnd((options) => signedIn(market.url)[watch](options), {})
    // How they stand has been looked at.
    await soon(() => expect(market.calls.at(-1)!.path).toMatch(/by-(buyer|seller)/))
    market.cut()
    market.place(3)
    const missed = [
      market.advance(1, PAID, { quietly: true }),
      market.advance(3, CANCELLED, { quietly: true }),
      market.advance(1, COMPLETE, { quietly: true }),
    ]
    await soon(() => expect(seen).toEqual(missed))
    const live = market.advance(2, COMPLETE)
    await soon(() => expect(seen).toEqual([...missed, live]))
    const path = `/api/cart/v1/orders/${watch === 'watchSales' ? 'sales/' : ''}events`
    expect(market.opened).toEqual([1, 2].map(() => ({ lastEventId: undefined, token: 'token', path })))
  },
)

it('gives up a stream that says nothing, not even its heartbeat', async () => {
  const market = await startEventMarket()
  market.place(1)
  const { seen } = watchUntilEnd((options) => signedIn(market.url).watchOrders(options), { silenceMs: 200 })
  await soon(() => expect(market.listeners()).toBe(1))
  await soon(() => expect(market.heartbeats()).toBeGreaterThan(20))
  expect(market.opened, 'a heartbeat is enough').toHaveLength(1)
  market.fallSilent()
  const missed = market.advance(1, PAID, { quietly: true })
  await soon(() => expect(market.opened).toHaveLength(2))
  await soon(() => expect(seen).toEqual([missed]))
})

it('goes on with the next token when one ends', async () => {
  const market = await startEventMarket()
  market.place(1)
  const watcher = new Market(market.url, {
    session: session('first'),
    renew: async () => void Object.assign(watcher.session!, session('second')),
  })
  const { seen } = watchUntilEnd((options) => watcher.watchOrders(options), {})
  await soon(() => expect(market.listeners()).toBe(1))
  market.advance(1, PAID)
  market.refuseToken('first')
  market.end()
  await soon(() => expect(market.listeners()).toBe(1))
  market.advance(1, COMPLETE)
  await soon(() => expect(statuses(seen)).toEqual(['1 PaymentProcessing', '1 PaymentComplete']))
  expect(market.opened.at(-1)).toMatchObject({ lastEventId: '1', token: 'second' })
})

it('throws what the market refuses for good', async () => {
  const market = await startEventMarket()
  market.refuseToken('token')
  expect(await follow(signedIn(market.url).watchOrders()).ended).toMatchObject({ status: 401 })
})

it.each([
  [404, {}],
  [429, { 'retry-after': '1' }],
])('looks up what it gets no stream for (%i), and takes the stream when there is one', async (status, headers) => {
  const market = await startEventMarket()
  market.place(1)
  market.place(2)
  market.advance(2, PAID)
  market.answerStreamsWith((response) => refuse(response, status, {}, headers))
  const { seen } = watchUntilEnd((options) => signedIn(market.url).watchOrders(options), { pollMs: 20 })
  const one = watchUntilEnd((options) => signedIn(market.url).watchOrder(orderId(2), options), { pollMs: 20 })
  await soon(() => expect(statuses(one.seen)).toEqual(['2 OrderPaymentDue', '2 PaymentProcessing']))
  market.advance(1, PAID)
  await soon(() => expect(statuses(seen)).toEqual(['1 PaymentProcessing']))
  market.advance(2, COMPLETE)
  await soon(() => expect(statuses(seen)).toEqual(['1 PaymentProcessing', '2 PaymentComplete']))
  expect(await one.ended).toBeUndefined()
  expect(statuses(one.seen)).toEqual(['2 OrderPaymentDue', '2 PaymentProcessing', '2 PaymentComplete'])
  if (status === 404) return

  market.answerStreamsWith(undefined)
  await soon(() => expect(market.listeners()).toBe(1))
  market.advance(1, COMPLETE)
  await soon(() => expect(statuses(seen)).toEqual(['1 PaymentProcessing', '2 PaymentComplete', '1 PaymentComplete']))
})

it('goes on through a market that is down', async () => {
  const market = await startEventMarket()
  market.place(1)
  market.answerStreamsWith((response) => refuse(response, 503))
  const { seen } = watchUntilEnd((options) => signedIn(market.url).watchOrder(orderId(1), options), {})
  await soon(() => expect(market.opened.length).toBeGreaterThan(1))
  market.answerStreamsWith(undefined)
  market.advance(1, PAID)
  await soon(() => expect(statuses(seen)).toEqual(['1 OrderPaymentDue', '1 PaymentProcessing']))
})

it('hangs up when the caller has enough: by the signal, or by leaving the loop', async () => {
  const market = await startEventMarket()
  market.place(1)
  const { ended, ending } = watchUntilEnd((options) => signedIn(market.url).watchOrders(options), {})
  await soon(() => expect(market.listeners()).toBe(1))
  const enough = new Error('enough')
  ending.abort(enough)
  expect(await ended).toBe(enough)
  await atOnce(() => expect(market.listeners()).toBe(0))

  for await (const event of signedIn(market.url).watchOrder(orderId(1))) {
    expect(event.newStatus).toBe(DUE)
    break
  }
  await atOnce(() => expect(market.listeners()).toBe(0))
  expect(await follow(signedIn(market.url).watchOrders({ signal: AbortSignal.abort('too late') })).ended).toBe(
    'too late',
  )
})
