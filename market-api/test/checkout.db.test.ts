import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { runFulfillmentJob } from './runFulfillmentJob.ts'
import { expireOrders } from '../src/orders/expireOrders.ts'
import { pollPayments } from '../src/payments/pollPayments.ts'
import { BUYER, type Line, paidInFull, startShop } from './shop.ts'

const STRANGER = `0x${'c0'.repeat(20)}`

let shop: Awaited<ReturnType<typeof startShop>>
beforeAll(async () => {
  shop = await startShop()
})
afterAll(() => shop?.close())

const now = () => new Date()
const configured: Record<string, unknown> = {}
/** For this test only. */
const configure = (values: Partial<(typeof shop)['ctx']['config']>) => {
  for (const [name, value] of Object.entries(values)) {
    configured[name] ??= shop.ctx.config[name as 'PORT']
    Object.assign(shop.ctx.config, { [name]: value })
  }
}
afterEach(() => {
  Object.assign(shop.ctx.config, configured)
  shop.ctx.now = now
})

let sellers = 1000
const newSeller = () => shop.seller((sellers += 1))
/** A seller of these skus, counted by the first adapter. */
async function counted(stock: Record<string, number>) {
  const seller = newSeller()
  // The shelf knows skus and not sellers.
  const skus = Object.keys(stock).map((sku) => `${sku}-${sellers}`)
  for (const [i, sku] of skus.entries()) shop.first.shelf.set(sku, Object.values(stock)[i]!)
  await shop.sell(seller, await Promise.all(skus.map((sku) => shop.made(seller, sku, 5))))
  return { seller, skus: skus as [string, ...string[]] }
}
async function oneOffs(...names: string[]) {
  const seller = newSeller()
  await shop.sell(seller, await Promise.all(names.map((sku) => shop.made(seller, sku, 40))), null)
  return seller
}
const checkout = (path: string, headers: Record<string, string> = {}, query = '') =>
  shop.cart('POST', `${path}/checkout${query}`, undefined, headers)
const order = (orderId: string) =>
  shop.ctx.db.selectFrom('orders').selectAll().where('order_id', '=', orderId).executeTakeFirstOrThrow()
const count = async (table: 'orders' | 'stock_reservations' | 'one_off_sales' | 'idempotency_keys') =>
  Number(
    (
      await shop.ctx.db
        .selectFrom(table)
        .select((is) => is.fn.countAll<string>().as('n'))
        .executeTakeFirstOrThrow()
    ).n,
  )
const inventory = async (seller: { address: string }, sku: string) =>
  ((await (await fetch(`${shop.url}/inventory/inventory/100/${seller.address}/${sku}`)).json()) as { value: number })
    .value
/** As if the chain had been read until then. */
const observed = (at: Date) =>
  shop.ctx.db
    .insertInto('payments_observed')
    .values({ chain_id: 100, observed_at: at })
    .onConflict((conflict) => conflict.column('chain_id').doUpdateSet({ observed_at: at }))
    .execute()
const later = (seconds: number) => new Date(Date.now() + seconds * 1000)
/** Time passes, and the chain was read all along. */
async function pass(seconds: number) {
  shop.ctx.now = () => later(seconds)
  await observed(later(seconds))
}
const levels = async () =>
  (
    await sql<{ sku: string; reserved: string; held: string }>`
      select l.sku, l.slot, l.reserved, coalesce(sum(r.quantity), 0) as held from stock_levels l
      left join stock_reservations r using (chain_id, seller_address, sku, slot)
      group by l.chain_id, l.seller_address, l.sku, l.slot, l.reserved`.execute(shop.ctx.db)
  ).rows

describe('whose order it becomes', () => {
  it('market-api:A-072 a third party is told no; nobody in particular may, until the operator says otherwise', async () => {
    const { seller, skus } = await counted({ mug: 10 })
    const line: Line[] = [{ seller, sku: skus[0] }]
    const owned = await shop.basketOf(line, await shop.tokenOf(BUYER))
    const stranger = await checkout(owned, await shop.tokenOf(STRANGER))
    expect([stranger.status, stranger.body.code]).toEqual([403, 'not_your_basket'])

    configure({ MARKET_ANONYMOUS_CHECKOUT: 'deny' })
    const nobody = await checkout(owned)
    expect([nobody.status, nobody.body.code]).toEqual([401, 'sign_in_to_check_out'])
    const other = await shop.basketOf(line)
    expect((await checkout(other, await shop.tokenOf(STRANGER))).body.code).toBe('not_the_buyer')
    expect((await checkout(owned, await shop.tokenOf(BUYER))).status).toBe(201)
  })

  it('market-api:A-073 never a text from the query', async () => {
    const { seller, skus } = await counted({ mug: 10 })
    const line: Line[] = [{ seller, sku: skus[0] }]
    const path = await shop.basketOf(line, {}, null)
    const hello = await checkout(path, await shop.tokenOf(BUYER), '?buyer=hello')
    expect([hello.status, hello.body.code]).toEqual([400, 'invalid_address'])
    const other = await checkout(path, await shop.tokenOf(BUYER), `?buyer=${STRANGER}`)
    expect([other.status, other.body.code]).toEqual([400, 'buyer_mismatch'])
    expect((await checkout(path)).body.code).toBe('buyer_missing')
    const { body } = await checkout(path, await shop.tokenOf(BUYER))
    expect(await order(body.orderId)).toMatchObject({ buyer_address: BUYER, listed: true, placed_from: null })
  })

  it('without the buyer there, it waits shorter and stays out of the list', async () => {
    const { seller, skus } = await counted({ mug: 10 })
    const signed = await checkout(await shop.basketOf([{ seller, sku: skus[0] }]), await shop.tokenOf(BUYER))
    const anonymous = await checkout(await shop.basketOf([{ seller, sku: skus[0] }]))
    const [mine, planted] = [await order(signed.body.orderId), await order(anonymous.body.orderId)]
    expect(mine.payment_due_by.getTime() - mine.created_at.getTime()).toBe(1_800_000)
    expect(planted.payment_due_by.getTime() - planted.created_at.getTime()).toBe(900_000)
    expect(planted).toMatchObject({ listed: false, placed_from: expect.stringMatching(/^[A-Za-z0-9_-]{22}$/) })
    expect(planted.placed_from).not.toContain('127')
  })

  it('keeps whether the buyer is of age, and not the birth date', async () => {
    const seller = newSeller()
    const wine = await shop.made(seller, 'wine', 5, 'CRC', { requiredSlots: ['ageProof.birthDate'] })
    await shop.sell(seller, [wine])
    const bornOn = async (birthDate: string) => {
      const path = await shop.basketOf([{ seller, sku: 'wine' }])
      await shop.cart('PATCH', path, { ageProof: { '@type': 'Person', birthDate } })
      return (await order((await checkout(path)).body.orderId)).order_json
    }
    shop.ctx.now = () => new Date('2026-06-15T12:00:00Z')
    expect((await bornOn('2008-06-15')).customerAge).toEqual({ adult: true })
    const minor = await bornOn('2008-06-16')
    expect(minor.customerAge).toEqual({ adult: false })
    expect(JSON.stringify(minor)).not.toContain('2008-06-16')
  })
})

describe('Idempotency-Key', () => {
  it('gives the same answer again, to its sender only', async () => {
    const { seller, skus } = await counted({ mug: 10 })
    const key = { 'Idempotency-Key': `k-${sellers}` }
    const path = await shop.basketOf([{ seller, sku: skus[0] }])
    const first = await checkout(path, key)
    expect(first.status).toBe(201)
    expect(await checkout(path, key)).toEqual(first)
    expect((await checkout(path)).status, 'without it, 200').toBe(200)
    const mine = { ...key, ...(await shop.tokenOf(BUYER)) }
    const signed = await checkout(await shop.basketOf([{ seller, sku: skus[0] }]), mine)
    expect([signed.status, signed.body.orderId === first.body.orderId]).toEqual([201, false])
  })

  it('gives it when the basket has run out, too', async () => {
    const { seller, skus } = await counted({ mug: 10 })
    const key = { 'Idempotency-Key': `late-${sellers}` }
    const path = await shop.basketOf([{ seller, sku: skus[0] }])
    const first = await checkout(path, key)
    shop.ctx.now = () => later(100_000)
    expect((await checkout(path)).status).toBe(410)
    expect(await checkout(path, key)).toEqual(first)
  })

  it('market-api:A-063 of another basket is refused, and orders nothing', async () => {
    const { seller, skus } = await counted({ mug: 10 })
    const key = { 'Idempotency-Key': `k1-${sellers}` }
    expect((await checkout(await shop.basketOf([{ seller, sku: skus[0] }]), key)).status).toBe(201)
    const before = await count('orders')
    const second = await checkout(await shop.basketOf([{ seller, sku: skus[0] }]), key)
    expect([second.status, second.body.code]).toEqual([422, 'idempotency_key_reused'])
    expect(await count('orders')).toBe(before)
  })

  it('keeps no refusal: what was mended goes through', async () => {
    const { seller, skus } = await counted({ mug: 0 })
    shop.first.shelf.set(skus[0], 1)
    const path = await shop.basketOf([{ seller, sku: skus[0] }])
    shop.first.shelf.set(skus[0], 0)
    const key = { 'Idempotency-Key': `again-${sellers}` }
    expect((await checkout(path, key)).body.code).toBe('insufficient_stock')
    shop.first.shelf.set(skus[0], 1)
    expect((await checkout(path, key)).status).toBe(201)
  })

  it('twenty at once have one order and one answer', async () => {
    const { seller, skus } = await counted({ mug: 10 })
    const path = await shop.basketOf([{ seller, sku: skus[0] }])
    const key = { 'Idempotency-Key': `twenty-${sellers}` }
    const answers = await Promise.all(Array.from({ length: 20 }, () => checkout(path, key)))
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1)
    expect(answers[0]!.status).toBe(201)
  })

  it('twenty at once, each with its own, have one order, now and whenever they ask again', async () => {
    const { seller, skus } = await counted({ mug: 10 })
    const path = await shop.basketOf([{ seller, sku: skus[0] }])
    const press = () =>
      Promise.all(Array.from({ length: 20 }, (_, i) => checkout(path, { 'Idempotency-Key': `own-${sellers}-${i}` })))
    const [first, again] = [await press(), await press()]
    const named = new Set([...first, ...again].map(({ body }) => body.orderId))
    expect(named.size).toBe(1)
    expect(await order([...named][0])).toMatchObject({ basket_id: path.slice(1) })
  })

  it.each(['', ' ', 'two words', 'ü'.repeat(3), 'k'.repeat(256)])('%j is none', async (key) => {
    const { seller, skus } = await counted({ mug: 10 })
    const path = await shop.basketOf([{ seller, sku: skus[0] }])
    const headers = { 'Idempotency-Key': Buffer.from(key).toString('latin1') }
    const { status, body } = await checkout(path, headers)
    expect([400, 'invalid_idempotency_key']).toEqual([status, body.code])
  })
})

describe('what an order holds', () => {
  it('market-api:A-062 one basket checked out many times at once is one order', async () => {
    const { seller, skus } = await counted({ mug: 10 })
    const path = await shop.basketOf([{ seller, sku: skus[0] }])
    const answers = await Promise.all(Array.from({ length: 20 }, () => checkout(path)))
    expect(new Set(answers.map(({ body }) => body.orderId)).size).toBe(1)
    expect(answers.map(({ status }) => status).toSorted()).toEqual([...Array.from({ length: 19 }, () => 200), 201])
  })

  it('50 checkouts of the last piece sell it once', async () => {
    const { seller, skus } = await counted({ mug: 1 })
    const paths = await Promise.all(Array.from({ length: 50 }, () => shop.basketOf([{ seller, sku: skus[0] }])))
    const answers = await Promise.all(paths.map((path) => checkout(path)))
    const codes = answers.map(({ status, body }) => body.code ?? status)
    expect(codes.toSorted()).toEqual([201, ...Array.from({ length: 49 }, () => 'insufficient_stock')])
    expect(await inventory(seller, skus[0])).toBe(0)
    // Whoever lost it still has a basket.
    const loser = paths[codes.findIndex((code) => code !== 201)]!
    expect((await shop.cart('GET', loser)).body.status).toBe('Draft')
  })

  it('is not there for others, and is again when it is given up', async () => {
    const { seller, skus } = await counted({ mug: 5 })
    const { body } = await checkout(
      await shop.basketOf([{ seller, sku: skus[0], quantity: 4 }]),
      await shop.tokenOf(BUYER),
    )
    expect(await inventory(seller, skus[0])).toBe(1)
    const tooMany = await shop.cart('PATCH', await shop.emptyBasket(), {
      items: [{ seller: seller.address, orderedItem: { sku: skus[0] }, orderQuantity: 2 }],
    })
    expect([tooMany.status, tooMany.body.error]).toEqual([
      422,
      `Requested quantity 2 for seller=${seller.address}, sku=${skus[0]} exceeds inventory 1.`,
    ])
    const cancel = async (address: string) => {
      const url = `${shop.url}/api/cart/v1/orders/${body.orderId}/cancel`
      const response = await fetch(url, { method: 'POST', headers: await shop.tokenOf(address) })
      return [response.status, ((await response.json()) as { orderStatus?: string }).orderStatus]
    }
    expect((await cancel(STRANGER))[0]).toBe(404)
    expect(await cancel(BUYER)).toEqual([200, 'https://schema.org/OrderCancelled'])
    expect(await cancel(BUYER)).toEqual([200, 'https://schema.org/OrderCancelled'])
    expect(await inventory(seller, skus[0])).toBe(5)
  })

  it('stays held when it is paid, until the adapter has handed it out', async () => {
    const { seller, skus } = await counted({ mug: 3 })
    const { body } = await checkout(await shop.basketOf([{ seller, sku: skus[0], quantity: 2 }]))
    shop.ctx.paymentSource = paidInFull([{ reference: body.paymentReference, crc: 10n }])
    await sql`truncate payments_cursors`.execute(shop.ctx.db)
    await pollPayments(shop.ctx)
    await pass(100_000)
    await expireOrders(shop.ctx)
    expect(await inventory(seller, skus[0])).toBe(1)
    shop.ctx.now = now
    while (await runFulfillmentJob(shop.ctx));
    expect(shop.first.shelf.get(skus[0])).toBe(1)
    expect(
      await shop.ctx.db.selectFrom('stock_reservations').selectAll().where('order_id', '=', body.orderId).execute(),
    ).toEqual([])
    const { rows } = await sql`
      select sum(reserved) as reserved, sum(delivered) as delivered from stock_levels
      where sku = ${skus[0]}`.execute(shop.ctx.db)
    expect(rows).toEqual([{ reserved: '0', delivered: '2' }])
  })

  it('a delivery between asking the adapter and ordering sells no piece twice', async () => {
    const { seller, skus } = await counted({ mug: 1 })
    const first = await checkout(await shop.basketOf([{ seller, sku: skus[0] }]))
    expect(first.status).toBe(201)
    // The second buyer looks while the last piece is still on the shelf, held; it is handed out before that order is made.
    const { adapters } = shop.ctx
    const reserved = await shop.ctx.db
      .updateTable('stock_levels')
      .set({ reserved: 0 })
      .where('sku', '=', skus[0])
      .where('reserved', '=', 1)
      .returning('slot')
      .executeTakeFirstOrThrow()
    const path = await shop.basketOf([{ seller, sku: skus[0] }])
    await shop.ctx.db
      .updateTable('stock_levels')
      .set({ reserved: 1 })
      .where('sku', '=', skus[0])
      .where('slot', '=', reserved.slot)
      .execute()
    shop.ctx.adapters = {
      ...adapters,
      inventory: async (url) => {
        const stock = await adapters.inventory(url)
        shop.first.shelf.set(skus[0], 0)
        await sql`with marked as (update stock_reservations set delivered = true where sku = ${skus[0]})
          select 1`.execute(shop.ctx.db)
        await sql`delete from stock_reservations where sku = ${skus[0]}`.execute(shop.ctx.db)
        return stock
      },
    }
    try {
      const { status, body } = await checkout(path)
      expect([status, body.code]).toEqual([422, 'insufficient_stock'])
    } finally {
      shop.ctx.adapters = adapters
    }
  })

  it('is exact where there is plenty and where it ends, for small orders and large ones at once', async () => {
    const { seller, skus } = await counted({ nail: 5000 })
    const quantities = [...Array.from({ length: 60 }, () => 1), ...Array.from({ length: 12 }, () => 900)]
    const paths = await Promise.all(quantities.map((quantity) => shop.basketOf([{ seller, sku: skus[0], quantity }])))
    const answers = await Promise.all(paths.map((path) => checkout(path)))
    const sold = quantities.filter((_, i) => answers[i]!.status === 201)
    expect(answers.every(({ status }) => status === 201 || status === 422)).toBe(true)
    const held = sold.reduce((sum, quantity) => sum + quantity, 0)
    expect(sold.filter((quantity) => quantity === 900)).toHaveLength(5)
    expect(held).toBeLessThanOrEqual(5000)
    expect(await inventory(seller, skus[0])).toBe(5000 - held)
    const all = (await levels()).filter((level) => level.sku === skus[0])
    expect(all.length).toBe(8)
    for (const level of all) expect(level.reserved).toBe(level.held)
  })

  it('market-api:A-065 market-api:A-066 market-api:A-069 a one-off is sold once, and the loser keeps a basket', async () => {
    const seller = await oneOffs('print-1', 'print-2')
    const [first, second] = [
      await shop.basketOf([{ seller, sku: 'print-1' }]),
      await shop.basketOf([{ seller, sku: 'print-1' }]),
    ]
    expect((await checkout(first)).status).toBe(201)
    const lost = await checkout(second)
    expect([lost.status, lost.body.error, lost.body.code, lost.body.details]).toEqual([
      409,
      'One-off item already sold',
      'one_off_sold',
      { chainId: 100, seller: seller.address, sku: 'print-1' },
    ])
    const items = (sku: string) => ({ items: [{ seller: seller.address, orderedItem: { sku }, orderQuantity: 1 }] })
    expect((await shop.cart('PATCH', second, items('print-1'))).body.code).toBe('one_off_sold')
    expect((await shop.cart('PATCH', second, items('print-2'))).status).toBe(200)
    expect((await checkout(second)).status).toBe(201)
  })

  it('market-api:A-067 baskets of the same one-offs in any order never deadlock', async () => {
    for (let round = 0; round < 15; round += 1) {
      const seller = await oneOffs('p1', 'p2', 'p3')
      const skus = ['p1', 'p2', 'p3']
      const paths = await Promise.all(
        [skus, skus.toReversed(), ['p2', 'p3', 'p1'], ['p3', 'p1']].map((names) =>
          shop.basketOf(names.map((sku) => ({ seller, sku }))),
        ),
      )
      const statuses = (await Promise.all(paths.map((path) => checkout(path)))).map(({ status }) => status)
      expect(statuses.toSorted()).toEqual([201, 409, 409, 409])
    }
  })
})

describe('an order nobody pays', () => {
  it('market-api:A-068 market-api:A-113 is cancelled in time, and what it held is for sale again', async () => {
    const seller = await oneOffs('print-3')
    const { skus, seller: other } = await counted({ mug: 2 })
    const lines: Line[] = [
      { seller, sku: 'print-3' },
      { seller: other, sku: skus[0], quantity: 2 },
    ]
    const path = await shop.basketOf(lines)
    await shop.cart('PATCH', path, { customer: { givenName: 'Ada' }, contactPoint: { email: 'ada@example.com' } })
    const { body } = await checkout(path)
    await pass(890)
    await expireOrders(shop.ctx)
    expect((await order(body.orderId)).status).toBe('https://schema.org/OrderPaymentDue')
    await pass(920)
    await expireOrders(shop.ctx)
    const gone = await order(body.orderId)
    expect(gone).toMatchObject({
      status: 'https://schema.org/OrderCancelled',
      cancel_reason: 'expired',
      cancelled_at: expect.any(Date),
      placed_from: null,
    })
    expect(JSON.stringify(gone.order_json)).not.toMatch(/Ada|ada@/)
    const history = await shop.ctx.db
      .selectFrom('orders_status_history')
      .select(['old_status', 'new_status'])
      .where('order_id', '=', body.orderId)
      .orderBy('id')
      .execute()
    expect(history.at(-1)).toEqual({
      old_status: 'https://schema.org/OrderPaymentDue',
      new_status: 'https://schema.org/OrderCancelled',
    })
    const availability = await fetch(`${shop.url}/inventory/availability/100/${seller.address}/print-3`)
    expect(await availability.json()).toBe('https://schema.org/InStock')
    expect(await inventory(other, skus[0])).toBe(2)
    expect((await checkout(await shop.basketOf(lines))).status).toBe(201)
  })

  it('is kept while nobody can have looked for its payment', async () => {
    const { seller, skus } = await counted({ mug: 1 })
    const { body } = await checkout(await shop.basketOf([{ seller, sku: skus[0] }]))
    await observed(later(890))
    shop.ctx.now = () => later(100_000)
    await expireOrders(shop.ctx)
    expect((await order(body.orderId)).cancelled_at).toBeNull()
  })

  it('that was paid in part is given a day for the rest, and then no longer', async () => {
    const { seller, skus } = await counted({ mug: 1 })
    const { body } = await checkout(await shop.basketOf([{ seller, sku: skus[0] }]))
    shop.ctx.paymentSource = paidInFull([{ reference: body.paymentReference, crc: 4n }])
    await sql`truncate payments_cursors`.execute(shop.ctx.db)
    await pollPayments(shop.ctx)
    await pass(10_000)
    await expireOrders(shop.ctx)
    expect(await order(body.orderId)).toMatchObject({ cancelled_at: null, paid_amount_wei: `${4n * 10n ** 18n}` })
    await pass(100_000)
    await expireOrders(shop.ctx)
    expect((await order(body.orderId)).cancel_reason).toBe('expired')
  })

  it('and was sent something that does not count is not kept for that', async () => {
    const { seller, skus } = await counted({ mug: 1 })
    const { body } = await checkout(await shop.basketOf([{ seller, sku: skus[0] }]))
    const source = paidInFull([{ reference: body.paymentReference, crc: 5n }])
    shop.ctx.paymentSource = {
      ...source,
      readPayments: async (...args) => {
        const page = await source.readPayments(...args)
        return { ...page, logs: page.logs.map((log) => ({ ...log, gateway: `0x${'66'.repeat(20)}` })) }
      },
    }
    await sql`truncate payments_cursors, payment_transfers`.execute(shop.ctx.db)
    await pollPayments(shop.ctx)
    expect((await order(body.orderId)).payment_seen_at).toBeNull()
    await pass(1000)
    await expireOrders(shop.ctx)
    expect((await order(body.orderId)).cancel_reason).toBe('expired')
  })

  it('in thousands is cancelled by several replicas at once, each order once', async () => {
    const { seller, skus } = await counted({ mug: 300 })
    const answers = await Promise.all(
      Array.from({ length: 150 }, async () => checkout(await shop.basketOf([{ seller, sku: skus[0] }]))),
    )
    // On a busy machine the adapter is too slow for some.
    const made = answers.filter(({ status }) => status === 201).length
    expect(made).toBeGreaterThan(100)
    await pass(1000)
    const run = async () => {
      while (await expireOrders(shop.ctx));
    }
    await Promise.all([run(), run(), run()])
    await run()
    const { rows } = await sql<{ n: string }>`
      select count(*) as n from orders_status_history h join order_lines l using (order_id)
      where l.sku = ${skus[0]} and h.new_status like '%Cancelled'`.execute(shop.ctx.db)
    expect(rows).toEqual([{ n: String(made) }])
    expect(await inventory(seller, skus[0])).toBe(300)
  })
})

it('one buyer and one client hold so many unpaid orders and no more', async () => {
  configure({ RATE_LIMIT_ENABLED: true, MARKET_OPEN_ORDERS_PER_BUYER: 2, MARKET_ANONYMOUS_OPEN_ORDERS: 1 })
  const buyer = `0x${'b7'.repeat(20)}`
  const { seller, skus } = await counted({ mug: 100 })
  const basket = () => shop.basketOf([{ seller, sku: skus[0] }], {}, buyer)
  const mine = await shop.tokenOf(buyer)
  const signed = [await checkout(await basket(), mine), await checkout(await basket(), mine)]
  expect(signed.map(({ status }) => status)).toEqual([201, 201])
  const third = await checkout(await basket(), mine)
  expect([third.status, third.body.code]).toEqual([429, 'too_many_open_orders'])
  // Whoever does not say who it is is counted by where it comes from.
  await pass(2000)
  while (await expireOrders(shop.ctx));
  shop.ctx.now = now
  expect((await checkout(await basket())).status).toBe(201)
  expect((await checkout(await basket())).body.code).toBe('too_many_open_orders')
  await pass(2000)
  while (await expireOrders(shop.ctx));
  shop.ctx.now = now
  expect((await checkout(await basket(), mine)).status).toBe(201)
  expect((await checkout(await basket())).status).toBe(201)
  expect((await checkout(await basket())).status).toBe(429)
})

it('market-api:A-076 an order that can not be stored leaves a draft that can be ordered again', async () => {
  const { seller, skus } = await counted({ mug: 1 })
  const path = await shop.basketOf([{ seller, sku: skus[0] }])
  await sql`alter table order_lines add constraint broken check (sku <> ${sql.lit(skus[0])}) not valid`.execute(
    shop.ctx.db,
  )
  const key = { 'Idempotency-Key': `broken-${sellers}` }
  expect(await checkout(path, key)).toMatchObject({ status: 500, body: { code: 'internal_error' } })
  await sql`alter table order_lines drop constraint broken`.execute(shop.ctx.db)
  expect((await shop.cart('GET', path)).body).toMatchObject({ status: 'Draft', version: 1 })
  expect((await checkout(path, key)).status).toBe(201)
})

it('whatever is ordered, given up and delivered at once, nothing is held twice or for nobody', async () => {
  const { seller, skus } = await counted({ a: 20, b: 20, c: 20 })
  const act = fc.record({
    lines: fc.subarray([0, 1, 2], { minLength: 1 }).chain((of) => fc.shuffledSubarray(of, { minLength: of.length })),
    quantity: fc.integer({ min: 1, max: 4 }),
    after: fc.constantFrom('nothing', 'cancel'),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(act, { minLength: 4, maxLength: 10 }), async (acts) => {
      const mine = await shop.tokenOf(BUYER)
      await Promise.all(
        acts.map(async ({ lines, quantity, after }) => {
          const path = await shop.emptyBasket(mine)
          const items = lines.map((i) => ({
            seller: seller.address,
            orderedItem: { sku: skus[i] },
            orderQuantity: quantity,
          }))
          if ((await shop.cart('PATCH', path, { items }, mine)).status !== 200) return
          const { status, body } = await checkout(path, mine)
          expect([201, 422]).toContain(status)
          if (status !== 201 || after === 'nothing') return
          const cancel = () =>
            fetch(`${shop.url}/api/cart/v1/orders/${body.orderId}/cancel`, { method: 'POST', headers: mine })
          const answers = await Promise.all([cancel(), cancel()])
          expect(answers.map((answer) => answer.status)).toEqual([200, 200])
        }),
      )
      const all = await levels()
      for (const { sku, reserved, held } of all) expect([sku, reserved]).toEqual([sku, held])
      for (const sku of skus) {
        const held = all.filter((level) => level.sku === sku).reduce((sum, level) => sum + Number(level.held), 0)
        expect(held).toBeLessThanOrEqual(20)
      }
      await pass(100_000)
      await expireOrders(shop.ctx)
      shop.ctx.now = now
    }),
    { numRuns: 8 },
  )
})
