import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { type StandInMarket, startStandInMarket } from '@market/testkit/standInMarket'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openGateway } from './devChain.ts'
import {
  type Answer,
  basketAt,
  type Line,
  type Market,
  openMarket,
  ORDERS,
  type Person,
  type Seller,
} from './market.ts'

// Concurrency, replay and crash of checkout, on a market of its own: its market-api gets killed.

const times = <T>(n: number, make: (i: number) => T) => Array.from({ length: n }, (_, i) => make(i))
/** One-offs that are bought two at a time. */
const pairs = times(50, (i) => [`left-${i}`, `right-${i}`] as const)
const heaps = times(6, (i) => `heap-${i}`)

let running: StandInMarket
let market: Market
let seller: Seller
let buyers: Person[]

beforeAll(async () => {
  running = await startStandInMarket()
  market = await openMarket(running.place)
  const { account } = await market.signIn()
  seller = await market.seller(await openGateway(market.place.rpcUrl, account))
  const unique = { offer: { price: 3 }, isOneOff: true }
  await seller.shelve({
    'last-piece': { offer: { price: 3 }, stock: 1 },
    unique,
    ...Object.fromEntries(heaps.map((sku) => [sku, { offer: { price: 3 }, stock: 20 }])),
    ...Object.fromEntries(pairs.flat().map((sku) => [sku, unique])),
    book: { offer: { price: 3 }, stock: 100_000 },
    survivor: { offer: { price: 3 }, stock: 100_000 },
  })
  buyers = await Promise.all([1, 2, 3, 4].map(() => market.signIn()))
})
afterAll(async () => {
  await market?.close()
  await running?.remove()
})

const buyerOf = (i: number) => buyers[i % buyers.length]!

/** Ready for checkout, each of one of the buyers. */
const basketsOf = (n: number, lines: (i: number) => Line[]) =>
  Promise.all(times(n, (i) => market.basket(lines(i), { token: buyerOf(i).token })))

const statuses = (answers: Answer[]) => {
  const count: Record<string, number> = {}
  for (const { status } of answers) count[status] = (count[status] ?? 0) + 1
  return count
}
const ordersWith = async (sku: string) =>
  (
    await market.sql`select order_id, quantity from order_lines where seller_address = ${seller.address} and sku = ${sku}`
  ).map((row) => ({ orderId: String(row.order_id), quantity: Number(row.quantity) }))

/** Each row of the table takes its time to be written: what can go wrong between two steps does, and not once in a thousand. */
async function whileSlow<T>(table: string, work: () => Promise<T>): Promise<T> {
  const name = `take_time_${table}`
  await market.sql.unsafe(`
    create function ${name}() returns trigger language plpgsql as $$ begin perform pg_sleep(0.02); return new; end $$;
    create trigger ${name} before insert on ${table} for each row execute function ${name}()`)
  try {
    return await work()
  } finally {
    await market.sql.unsafe(`drop trigger ${name} on ${table}; drop function ${name}()`)
  }
}

describe('many buyers at once', () => {
  it('sells one piece to one of fifty', async () => {
    const baskets = await basketsOf(50, () => [seller.line('last-piece')])
    const answers = await Promise.all(baskets.map((basket) => basket.checkout()))
    expect(statuses(answers)).toEqual({ 201: 1, 422: 49 })
    for (const { status, body } of answers) if (status === 422) expect(body.error).toMatch(/exceeds inventory 0/)
    const winner = answers.find(({ status }) => status === 201)!.body.orderId
    expect(await ordersWith('last-piece')).toEqual([{ orderId: winner, quantity: 1 }])
    const states = await Promise.all(baskets.map((basket) => basket.get()))
    expect(states.filter(({ body }) => body.status === 'Draft')).toHaveLength(49)

    const { token } = buyerOf(answers.findIndex(({ status }) => status === 201))
    expect((await market.call('POST', `${ORDERS}/${winner}/cancel`, { token })).status).toBe(200)
    const again = await Promise.all(
      baskets.filter((_, i) => answers[i]!.status === 422).map((basket) => basket.checkout()),
    )
    expect(statuses(again), 'after it was given back').toEqual({ 201: 1, 422: 48 })
  })

  it('sells a one-off to one of fifty', async () => {
    const baskets = await basketsOf(50, () => [seller.line('unique')])
    const answers = await Promise.all(baskets.map((basket) => basket.checkout()))
    expect(statuses(answers)).toEqual({ 201: 1, 409: 49 })
    for (const { status, body } of answers) if (status === 409) expect(body.code).toBe('one_off_sold')
    expect(await ordersWith('unique')).toHaveLength(1)
  })

  it('sells no more than there is, whatever each of them wants of it', async () => {
    // In both orders, so that two of them hold what the other waits for, if anybody ever waits.
    const wanted = (i: number) => heaps.map((sku) => seller.line(sku, 1 + (i % 4)))
    const baskets = await basketsOf(40, (i) => (i % 2 ? wanted(i) : wanted(i).toReversed()))
    const answers = await Promise.all(baskets.map((basket) => basket.checkout()))
    expect(Object.keys(statuses(answers)).toSorted()).toEqual(['201', '422'])
    for (const sku of heaps) {
      const sold = (await ordersWith(sku)).reduce((sum, { quantity }) => sum + quantity, 0)
      expect(sold).toBeLessThanOrEqual(20)
      // One piece more was wanted by somebody who was refused, unless less than that was left.
      expect(sold).toBeGreaterThan(20 - 4)
      const [level] = await market.sql`
        select sum(reserved) as reserved from stock_levels where seller_address = ${seller.address} and sku = ${sku}`
      expect(Number(level!.reserved)).toBe(sold)
    }
  })

  it('market-api:A-067 W-05 sells pairs of one-offs in either order, fifty at once, without a deadlock', async () => {
    const baskets = await basketsOf(100, (i) => {
      const [left, right] = pairs[i >> 1]!.map((sku) => seller.line(sku))
      return i % 2 ? [right!, left!] : [left!, right!]
    })
    // So that two who began together are both half-way when they meet.
    const answers = await whileSlow('one_off_sales', () => Promise.all(baskets.map((basket) => basket.checkout())))
    expect(statuses(answers)).toEqual({ 201: 50, 409: 50 })
    for (const [i, [left, right]] of pairs.entries()) {
      const [first, second] = [answers[2 * i]!, answers[2 * i + 1]!]
      const orderId = (first.status === 201 ? first : second).body.orderId
      expect(await ordersWith(left)).toEqual([{ orderId, quantity: 1 }])
      expect(await ordersWith(right)).toEqual([{ orderId, quantity: 1 }])
    }
  })
})

describe('one buyer, again and again', () => {
  const book = (quantity?: number) => seller.line('book', quantity)
  const ordersOf = async (basketId: string) =>
    (await market.sql`select order_id from orders where basket_id = ${basketId}`).map((row) => String(row.order_id))

  it('gets one order of twenty checkouts at once, and every answer names it', async () => {
    const basket = await market.basket([book()], { token: buyerOf(0).token })
    const answers = await Promise.all(times(20, () => basket.checkout()))
    expect(statuses(answers)).toEqual({ 200: 19, 201: 1 })
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
    expect(await ordersOf(basket.id)).toEqual([answers[0]!.body.orderId])
  })

  it('gets the same answer twenty times with an Idempotency-Key', async () => {
    const basket = await market.basket([book()], { token: buyerOf(0).token })
    const headers = { 'Idempotency-Key': randomUUID() }
    const answers = await Promise.all(times(20, () => basket.checkout({ headers })))
    expect(statuses(answers)).toEqual({ 201: 20 })
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
    expect(await ordersOf(basket.id)).toEqual([answers[0]!.body.orderId])
  })

  it('gets one order with a key that came for twenty baskets at once', async () => {
    const baskets = await Promise.all(times(20, () => market.basket([book()], { token: buyerOf(0).token })))
    const headers = { 'Idempotency-Key': randomUUID() }
    const answers = await Promise.all(baskets.map((basket) => basket.checkout({ headers })))
    expect(statuses(answers)).toEqual({ 201: 1, 422: 19 })
    for (const { status, body } of answers) if (status === 422) expect(body.code).toBe('idempotency_key_reused')
    const made = await Promise.all(baskets.map(({ id }) => ordersOf(id)))
    expect(made.flat()).toHaveLength(1)
  })

  it('gets an order of what the basket shows, when it is changed at the same moment', async () => {
    await Promise.all(
      times(20, async (i) => {
        const { token } = buyerOf(i)
        const basket = await market.basket([book()], { token })
        const [placed, patched] = await Promise.all([basket.checkout(), basket.put([book(2)])])
        expect([200, 409]).toContain(patched.status)
        expect([201, 409]).toContain(placed.status)
        if (placed.status === 409) expect(placed.body.code).toBe('basket_version_conflict')
        const { orderId } = placed.status === 201 ? placed.body : (await basket.checkout()).body
        const { body } = await market.call('GET', `${ORDERS}/${orderId}`, { token })
        const shown = await basket.get()
        expect(body.orderedItem[0].orderQuantity).toBe(shown.body.items[0].orderQuantity)
        // A change that was accepted before the order was made is in it; after it, none was.
        expect(shown.body.items[0].orderQuantity).toBe(patched.status === 200 ? 2 : 1)
      }),
    )
  })
})

describe('market-api dies by kill -9 while two hundred check out', () => {
  const CHECKOUTS = 200
  /** After so many, give or take; devstack grants six restarts a minute. */
  const KILLS = [20, 70, 120, 170]

  it('nobody is left without an order, with two, or with goods held for nothing', async () => {
    const service = running.services['market-api']
    const before = service.restarts
    let done = 0
    let cut = 0
    const killAt = KILLS.map((at) => at + Math.floor(Math.random() * 15))

    /** As a client with patience: what was cut off, or answered by a process that is not itself yet, is asked again. */
    const insist = async (ask: () => Promise<Answer>): Promise<Answer> => {
      for (const deadline = Date.now() + 60_000; ;) {
        const answer = await ask().catch(() => undefined)
        if (answer && answer.status < 500) return answer
        cut += 1
        if (Date.now() > deadline) throw new Error(`no answer within a minute: ${answer?.text}`)
        await delay(200)
      }
    }

    const checkOut = async (i: number) => {
      const { token } = buyerOf(i)
      const made = await insist(() =>
        market.call('POST', '/api/cart/v1/baskets', { json: { operator: market.operator }, token }),
      )
      const basket = basketAt(market.call, made.body.basketId, { token })
      const filled = await insist(() => basket.put([seller.line('survivor')]))
      const headers: Record<string, string> = i % 2 ? { 'Idempotency-Key': `crash-${i}` } : {}
      const placed = await insist(() => basket.checkout({ headers }))
      done += 1
      if (killAt.length > 0 && done >= killAt[0]!) {
        killAt.shift()
        service.kill()
      }
      return { basketId: basket.id, filled: filled.status, ...placed }
    }
    const queue = times(CHECKOUTS, (i) => i).values()
    const clients: Awaited<ReturnType<typeof checkOut>>[] = []
    const work = async () => {
      for (const i of queue) clients.push(await checkOut(i))
    }
    await whileSlow('order_lines', () => Promise.all(times(16, work)))
    await until('it was started again after every kill', () => service.restarts - before >= KILLS.length)

    expect(killAt).toEqual([])
    expect(cut, 'requests were cut off').toBeGreaterThan(0)
    expect(clients).toHaveLength(CHECKOUTS)
    for (const { filled, status } of clients) expect([filled, status === 200 || status === 201]).toEqual([200, true])
    const { sql } = market
    const none = async (what: string, rows: Promise<ArrayLike<unknown>>) =>
      expect(Array.from(await rows), what).toEqual([])

    const orders = await sql`
      select o.basket_id, o.order_id from orders o join order_lines l using (order_id)
        where l.seller_address = ${seller.address} and l.sku = 'survivor'`
    expect(orders.map((row) => `${row.basket_id} ${row.order_id}`).toSorted()).toEqual(
      clients.map(({ basketId, body }) => `${basketId} ${body.orderId}`).toSorted(),
    )
    await none(
      'checked out without an order',
      sql`select b.basket_id from baskets b left join orders o on o.order_id = b.order_id and o.basket_id = b.basket_id
          where b.status = 'CheckedOut' and o.order_id is null`,
    )
    await none(
      'an order whose basket is none of its own',
      sql`select o.order_id from orders o left join baskets b on b.order_id = o.order_id
          where b.basket_id is distinct from o.basket_id or b.status is distinct from 'CheckedOut'`,
    )
    for (const table of ['order_lines', 'order_sellers', 'orders_status_history']) {
      await none(
        `an order without ${table}`,
        sql`select order_id from orders o where not exists (select from ${sql(table)} t where t.order_id = o.order_id)`,
      )
    }
    await none(
      'an order that began twice',
      sql`select order_id from orders_status_history where old_status is null group by order_id having count(*) <> 1`,
    )
    await none(
      'goods held by an order that neither ends nor was paid',
      sql`select r.order_id from (select order_id from stock_reservations union all select order_id from one_off_sales) r
          left join orders o using (order_id)
          where o.order_id is null or o.cancelled_at is not null or (o.paid_at is null and o.payment_due_by is null)`,
    )
    await none(
      'an open order that holds nothing',
      sql`select l.order_id from order_lines l join orders o using (order_id)
          left join stock_reservations r using (order_id, seller_address, sku)
          where l.sku = 'survivor' and o.cancelled_at is null and r.quantity is distinct from l.quantity`,
    )
    await none(
      'levels that are not the sum of what is held',
      sql`select * from (select chain_id, seller_address, sku, slot, sum(quantity) as held from stock_reservations
            group by chain_id, seller_address, sku, slot) r
          full join stock_levels l using (chain_id, seller_address, sku, slot)
          where coalesce(l.reserved, 0) <> coalesce(r.held, 0)`,
    )
    await none(
      'a remembered answer about an order that is not there',
      sql`select key from idempotency_keys k
          where not exists (select from orders o where o.order_id = k.answer->>'orderId')`,
    )
  }, 120_000)
})
