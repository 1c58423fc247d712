import { randomBytes } from 'node:crypto'
import { orderId as makeOrderId } from '@market/contracts/ids'
import fc from 'fast-check'
import { type CompiledQuery, sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { listOrders, listSales } from '../src/orders/listOrders.ts'
import { encodeOrderCursor } from '../src/orders/orderCursor.ts'
import { BUYER, type Orders, S1, S2, startOrders } from './orderWorld.ts'

let orders: Orders
beforeAll(async () => {
  orders = await startOrders({ PUBLIC_BASE_URL: 'https://shop.example/market' })
})
afterAll(() => orders?.close())

const anAddress = () => `0x${randomBytes(20).toString('hex')}`

/** Every order of a list, by cursor, and how many pages it took. */
async function walk(list: string, who: string, pageSize: number, between?: () => Promise<unknown>) {
  const ids: string[] = []
  let pages = 0
  for (let query = `pageSize=${pageSize}`; ;) {
    const { status, headers, body } = await orders.get(`/${list}?${query}`, who)
    expect(status).toBe(200)
    expect(body.items.length).toBeLessThanOrEqual(pageSize)
    ids.push(...body.items.map((order: any) => order.orderId))
    pages += 1
    expect(pages, 'a cursor that goes in circles').toBeLessThan(100)
    expect(headers.get('x-next-cursor')).toBe(body.nextCursor ?? null)
    if (body.nextCursor === undefined) {
      expect(headers.get('link')).toBeNull()
      return { ids, pages }
    }
    const link = `https://shop.example/market/api/cart/v1/orders/${list}?cursor=${body.nextCursor}&pageSize=${pageSize}`
    expect(headers.get('link')).toBe(`<${link}>; rel="next"`)
    query = new URL(link).search.slice(1)
    await between?.()
  }
}

describe('the cursor', () => {
  it('market-api:A-094 gives every order once when all are of one moment, for buyer and seller', async () => {
    const [buyer, seller] = [anAddress(), anAddress()]
    const createdAt = new Date()
    const ids: string[] = []
    for (let i = 0; i < 11; i += 1) {
      ids.push(await orders.place({ buyer, createdAt, lines: [{ seller, sku: 'a', price: 1 }] }))
    }
    const sorted = ids.toSorted().toReversed()
    for (const pageSize of [1, 2, 3, 10, 11, 12]) {
      const expected = { ids: sorted, pages: Math.ceil(11 / pageSize) }
      expect(await walk('by-buyer', buyer, pageSize), `${pageSize}`).toEqual(expected)
      expect(await walk('by-seller', seller, pageSize), `${pageSize}`).toEqual(expected)
    }
  })

  it('tells orders apart that are a microsecond apart, in any number and order, while new ones arrive', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 12 }),
        fc.integer({ min: 1, max: 5 }),
        async (micros, pageSize) => {
          const buyer = anAddress()
          const seller = anAddress()
          const lines = [{ seller, sku: 'a', price: 1 }]
          const placed = await Promise.all(
            micros.map(async (offset) => {
              const orderId = await orders.place({ buyer, lines })
              for (const table of ['orders', 'order_sellers']) {
                await sql`update ${sql.table(table)} set created_at = timestamptz '2026-01-01' + ${offset} * interval '1 microsecond'
                  where order_id = ${orderId}`.execute(orders.db)
              }
              return { orderId, offset }
            }),
          )
          const expected = placed
            .toSorted((a, b) => b.offset - a.offset || (a.orderId < b.orderId ? 1 : -1))
            .map(({ orderId }) => orderId)
          const another = () => orders.place({ buyer, lines })
          expect((await walk('by-seller', seller, pageSize)).ids).toEqual(expected)
          expect((await walk('by-buyer', buyer, pageSize, another)).ids).toEqual(expected)
        },
      ),
      { numRuns: 15 },
    )
  }, 120_000)

  it('goes on from a page that was asked for by number', async () => {
    const buyer = anAddress()
    for (let i = 0; i < 5; i += 1) await orders.place({ buyer })
    const all = (await walk('by-buyer', buyer, 100)).ids
    const second = await orders.get('/by-buyer?page=2&pageSize=2', buyer)
    expect(second.body.items.map((order: any) => order.orderId)).toEqual(all.slice(2, 4))
    const rest = await orders.get(`/by-buyer?cursor=${second.body.nextCursor}&page=7`, buyer)
    expect(rest.body.items.map((order: any) => order.orderId)).toEqual(all.slice(4))
  })

  it('is refused when it is none of ours, and shows nothing of others when it is', async () => {
    const foreign = await orders.place({ buyer: anAddress() })
    const mine = anAddress()
    await orders.place({ buyer: mine })
    const cursor = encodeOrderCursor({ createdAtMicros: String(Date.now() * 2000), orderId: foreign })
    expect((await orders.get(`/by-buyer?cursor=${cursor}`, mine)).body.items).toHaveLength(1)
    for (const bad of ['x', 'MTIz', `${cursor}x`, cursor.slice(1), '%00', 'null']) {
      for (const list of ['by-buyer', 'by-seller']) {
        expect(await orders.get(`/${list}?cursor=${bad}`, mine), bad).toMatchObject({
          status: 400,
          body: { error: 'Invalid cursor', code: 'invalid_cursor', details: { path: '/cursor' } },
        })
      }
    }
    const far = encodeOrderCursor({ createdAtMicros: '9'.repeat(17), orderId: foreign })
    expect((await orders.get(`/by-buyer?cursor=${far}`, mine)).status).toBe(200)
  })
})

describe('with many orders', () => {
  const N = 20_000
  beforeAll(async () => {
    await orders.place({ buyer: BUYER })
    // Copies of one order; every second one of the same buyer, all of the same sellers.
    await sql`alter table orders disable trigger orders_status`.execute(orders.db)
    await sql`
      insert into orders (order_id, basket_id, chain_id, buyer_address, order_json, status, created_at, payment_reference,
                          price_wei, expected_gateways, payment_due_by, listed)
      select 'ord_' || upper(md5(i::text)), 'bkt_' || i, chain_id, case when i % 2 = 0 then buyer_address else '0x' || i end,
             order_json, status, created_at - i * interval '1 second', 'pay_' || i, price_wei, expected_gateways,
             payment_due_by, true
        from (select * from orders where buyer_address = ${BUYER} limit 1) o, generate_series(1, ${N}::int) i`.execute(
      orders.db,
    )
    await sql`
      insert into order_sellers (order_id, seller_address, chain_id, created_at)
      select order_id, s, 100, created_at from orders, unnest(${[S1, S2]}::text[]) s where length(payment_reference) < 20`.execute(
      orders.db,
    )
    await sql`
      insert into order_lines (order_id, line_index, seller_address, sku, quantity, fulfillment_trigger, link_keccak)
      select order_id, i, case i when 0 then ${S1} else ${S2} end, 'sku', 1, 'finalized', '0x'
        from orders, generate_series(0, 1) i where length(payment_reference) < 20`.execute(orders.db)
    await sql`alter table orders enable trigger orders_status`.execute(orders.db)
    await sql`vacuum analyze orders`.execute(orders.db)
    await sql`vacuum analyze order_sellers`.execute(orders.db)
    await sql`vacuum analyze order_lines`.execute(orders.db)
  }, 120_000)

  const middle = { createdAtMicros: String((Date.now() - 5_000_000) * 1000), orderId: makeOrderId(new Uint8Array(16)) }
  it.each([
    ['by-buyer, first page', 'ix_orders_buyer', () => listOrders(spy(), caller(BUYER), { size: 20, offset: 0 })],
    ['by-buyer, cursor', 'ix_orders_buyer', () => listOrders(spy(), caller(BUYER), { size: 20, after: middle })],
    ['by-buyer, deep page', 'ix_orders_buyer', () => listOrders(spy(), caller(BUYER), { size: 50, offset: 9000 })],
    ['by-seller, first page', 'ix_order_sellers_seller', () => listSales(spy(), caller(S1), { size: 20, offset: 0 })],
    ['by-seller, cursor', 'ix_order_sellers_seller', () => listSales(spy(), caller(S1), { size: 20, after: middle })],
    ['by-seller, deep page', 'ix_order_sellers_seller', () => listSales(spy(), caller(S1), { size: 50, offset: 9000 })],
  ])('%s reads its page from the index, in its order, with one query', async (_, index, list) => {
    queries = []
    const { items } = await list()
    expect(items.length).toBeGreaterThan(0)
    expect(queries).toHaveLength(1)
    const { sql: text } = queries[0]!
    const { rows } = await orders.db.executeQuery<{ 'QUERY PLAN': string }>({
      ...queries[0]!,
      sql: `explain ${text}`,
    })
    const plan = rows.map((row) => row['QUERY PLAN']).join('\n')
    // The aggregates of one order sort its few lines; what must not be sorted is the list.
    const ordering = plan.slice(0, plan.indexOf('SubPlan'))
    expect(ordering).toContain(`Index Only Scan using ${index}`)
    expect(ordering).not.toContain('Sort')
    expect(ordering).not.toContain('Seq Scan')
  })

  it('does not look for a page that is too deep', async () => {
    queries = []
    const page = { size: 100, offset: 99_901 }
    expect(await listOrders(spy(), caller(BUYER), page)).toEqual({ items: [] })
    expect(await listSales(spy(), caller(S1), page)).toEqual({ items: [] })
    expect(queries).toEqual([])
  })

  let queries: CompiledQuery[] = []
  const caller = (address: string) => ({ address, chainId: 100, expiresAtMs: 0 })
  /** The context, noting each query. */
  const spy = () => {
    const db = orders.db.withPlugin({
      transformQuery: ({ node }) => node,
      transformResult: async ({ result }) => result,
    })
    const executor = db.getExecutor()
    const compile = executor.compileQuery.bind(executor)
    executor.compileQuery = (...args) => {
      const query = compile(...args)
      queries.push(query)
      return query
    }
    return { ...orders.ctx, db }
  }
})
