import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { promisify } from 'node:util'
import { inTransaction } from '@market/kit/db'
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { stripPersonalData } from '../src/orders/personalData.ts'
import { eraseAddress } from '../src/privacy/eraseAddress.ts'
import { purgeBaskets, stripDeliveredOrders } from '../src/privacy/purge.ts'
import { BUYER, type Orders, PERSONAL, S1, startOrders, STRANGER } from './orderWorld.ts'

const DAY_MS = 86_400_000
const OPS = new URL('../../scripts/dist/ops.js', import.meta.url).pathname

let orders: Orders
beforeAll(async () => {
  orders = await startOrders({ ORDER_PERSONAL_DATA_DAYS: '30' })
  await orders.route(S1, 'gift', 'codedispenser')
})
afterAll(() => orders?.close())
beforeEach(async () => {
  await sql`truncate baskets, orders, auth_challenges, idempotency_keys cascade`.execute(orders.db)
})

const GIFT = { seller: S1, sku: 'gift', price: 5 }
const TEXTS = [
  PERSONAL.givenName,
  PERSONAL.familyName,
  ...Object.values(PERSONAL.contact).filter((text) => text.includes('4') || text.includes('@')),
  ...Object.values(PERSONAL.address).slice(1, 4),
]
const storedOrder = async (orderId: string) => {
  const { rows } = await sql<{
    text: string
  }>`select order_json::text as text from orders where order_id = ${orderId}`.execute(orders.db)
  return rows[0]!.text
}
const hasPersonalData = async (orderId: string) => {
  const text = await storedOrder(orderId)
  const found = TEXTS.filter((one) => text.includes(one))
  // All of it or nothing.
  expect([0, TEXTS.length]).toContain(found.length)
  return found.length > 0
}
const deliver = async (orderId: string) => {
  await orders.complete(orderId)
  for (const job of await orders.jobs(orderId)) await orders.answer(job.job_id, 'done', null, { codes: ['A'] })
}
const ids = async (table: 'baskets', column: 'basket_id') =>
  (await orders.db.selectFrom(table).select(column).orderBy(column).execute()).map((row) => row[column])

async function basket(
  id: string,
  expiresInDays: number,
  more: { buyer?: string; maker?: string; orderId?: string } = {},
) {
  await orders.db
    .insertInto('baskets')
    .values({
      basket_id: id,
      basket_json: { buyer: more.buyer ?? null, customer: { givenName: PERSONAL.givenName } } as never,
      status: more.orderId === undefined ? 'Draft' : 'CheckedOut',
      order_id: more.orderId ?? null,
      expires_at: new Date(Date.now() + expiresInDays * DAY_MS),
      maker_address: more.maker ?? null,
      token_hash: null,
    })
    .execute()
}
async function answer(scope: string, key: string, ageHours: number, orderId = 'ord_X') {
  await orders.db
    .insertInto('idempotency_keys')
    .values({
      scope,
      key,
      fingerprint: 'f',
      status: 201,
      answer: { orderId },
      created_at: new Date(Date.now() - ageHours * 3_600_000),
    })
    .execute()
}
async function challenge(address: string) {
  await orders.db
    .insertInto('auth_challenges')
    .values({
      challenge_id: randomUUID(),
      address,
      chain_id: 100,
      domain: 'x',
      message: 'm',
      issued_at: new Date(),
      expires_at: new Date(Date.now() + 60_000),
      used_at: null,
    })
    .execute()
}
const running = new AbortController().signal

describe('stripPersonalData', () => {
  it('takes out what is said of a person and leaves the account', async () => {
    const [orderId, other] = [await orders.place({ snapshot: { customerAge: { min: 18 } } }), await orders.place()]
    const strip = () => inTransaction(orders.db, (tx) => stripPersonalData(tx, [orderId, 'ord_unknown']))
    const before = (await orders.get(`/${orderId}`, BUYER)).body
    expect(await strip()).toBe(1)
    expect((await orders.get(`/${orderId}`, BUYER)).body).toEqual({
      ...before,
      customer: { '@type': 'Person', '@id': `eip155:100:${BUYER}`, givenName: null, familyName: null },
      billingAddress: null,
      shippingAddress: null,
      sellerContact: null,
      customerContact: null,
      customerAge: null,
    })
    expect(await hasPersonalData(orderId)).toBe(false)
    expect(await hasPersonalData(other)).toBe(true)
    expect(await strip()).toBe(0)
    expect(await inTransaction(orders.db, (tx) => stripPersonalData(tx, []))).toBe(0)
  })

  it.each(['customer', 'billingAddress', 'shippingAddress', 'sellerContact', 'customerContact', 'customerAge'])(
    'finds what is only in %s',
    async (member) => {
      const nothing = {
        customer: { '@type': 'Person' as const, '@id': `eip155:100:${BUYER}`, givenName: null, familyName: null },
        billingAddress: null,
        shippingAddress: null,
        sellerContact: null,
        customerContact: null,
      }
      const only = member === 'customer' ? { ...nothing.customer, familyName: 'L' } : { text: 'L' }
      const orderId = await orders.place({ snapshot: { ...nothing, [member]: only } })
      expect(await inTransaction(orders.db, (tx) => stripPersonalData(tx, [orderId]))).toBe(1)
      expect(await storedOrder(orderId)).not.toContain('"L"')
    },
  )
})

describe('the purge', () => {
  it('market-api:W-40 forgets a basket a week after it ran out, checked out or not, and never its order', async () => {
    const orderId = await orders.place()
    await basket('fresh', 1)
    await basket('expired', -6.9)
    await basket('old', -7.1)
    await basket('ordered', -30, { orderId })
    await purgeBaskets(orders.ctx, running)
    expect(await ids('baskets', 'basket_id')).toEqual(['expired', 'fresh'])
    expect((await orders.get(`/${orderId}`, BUYER)).status).toBe(200)
  })

  it('forgets answers of checkouts after a day', async () => {
    await answer(BUYER, 'young', 23.9)
    await answer(BUYER, 'old', 24.1)
    await purgeBaskets(orders.ctx, running)
    expect(await orders.db.selectFrom('idempotency_keys').select('key').execute()).toEqual([{ key: 'young' }])
  })

  it('goes through any number in small bites, past rows that somebody holds, and ends when told to', async () => {
    await sql`insert into baskets (basket_id, basket_json, expires_at)
      select 'b' || i, '{}', now() - interval '30 days' from generate_series(1, 2500) i`.execute(orders.db)
    const count = async () => (await ids('baskets', 'basket_id')).length
    await purgeBaskets(orders.ctx, AbortSignal.abort())
    expect(await count()).toBe(2500)
    await inTransaction(orders.db, async (tx) => {
      await sql`select from baskets where basket_id = 'b7' for update`.execute(tx)
      await purgeBaskets(orders.ctx, running)
      expect(await ids('baskets', 'basket_id')).toEqual(['b7'])
    })
    await purgeBaskets(orders.ctx, running)
    expect(await count()).toBe(0)
  })

  it('takes personal data out of orders that were final for so many days and are delivered', async () => {
    const finalAgo = (orderId: string, days: number) =>
      sql`update orders set finalized_at = now() - ${days} * interval '1 day' where order_id = ${orderId}`.execute(
        orders.db,
      )
    const place = async (days: number | undefined, isDelivered: boolean) => {
      const orderId = await orders.place({ lines: [GIFT] })
      if (isDelivered) await deliver(orderId)
      else if (days !== undefined) await orders.complete(orderId)
      if (days !== undefined) await finalAgo(orderId, days)
      return orderId
    }
    const due = await place(31, true)
    const kept = [await place(29, true), await place(31, false), await place(undefined, false)]
    const noJobs = await orders.place({ lines: [GIFT] })
    await orders.pay(noJobs)
    await finalAgo(noJobs, 31)
    await stripDeliveredOrders(orders.ctx, AbortSignal.abort())
    expect(await hasPersonalData(due)).toBe(true)
    const off = { ...orders.ctx, config: { ...orders.ctx.config, ORDER_PERSONAL_DATA_DAYS: 0 } }
    await stripDeliveredOrders(off, running)
    expect(await hasPersonalData(due)).toBe(true)
    await stripDeliveredOrders(orders.ctx, running)
    expect(await hasPersonalData(due)).toBe(false)
    for (const orderId of [...kept, noJobs]) expect(await hasPersonalData(orderId)).toBe(true)
    expect((await orders.get(`/${due}`, BUYER)).body.outbox).toHaveLength(1)
  })

  it('finds them among more orders than it looks at at once', async () => {
    const first = await orders.place({ lines: [GIFT] })
    await deliver(first)
    await sql`
      insert into orders (order_id, basket_id, chain_id, buyer_address, order_json, status, payment_reference, price_wei,
                          expected_gateways, payment_due_by, paid_at, finalized_at)
      select 'ord_' || lpad(i::text, 32, '0'), 'b' || i, chain_id, buyer_address, order_json, status, 'p' || i, price_wei,
             expected_gateways, payment_due_by, now(), now() - interval '31 days'
        from orders, generate_series(1, 2500) i where order_id = ${first}`.execute(orders.db)
    await stripDeliveredOrders(orders.ctx, running)
    // They have no lines, so nothing of them is left to deliver.
    const { rows } = await sql<{ n: string }>`
      select count(*) as n from orders where order_json ->> 'billingAddress' is not null`.execute(orders.db)
    expect(rows[0]!.n).toBe('1')
  })
})

describe('eraseAddress', () => {
  const world = async () => {
    const [delivered, cancelled, unpaid, undelivered] = [
      await orders.place({ lines: [GIFT] }),
      await orders.place({ listed: false }),
      await orders.place({ listed: false, chainId: 1 }),
      await orders.place({ lines: [GIFT] }),
    ]
    await deliver(delivered)
    await orders.cancel(cancelled)
    await orders.complete(undelivered)
    const foreign = await orders.place({ lines: [GIFT], buyer: STRANGER })
    await deliver(foreign)
    await basket('of-buyer', 1, { buyer: BUYER })
    await basket('made-by', 1, { maker: BUYER, buyer: STRANGER })
    await basket('of-order', 1, { orderId: unpaid })
    await basket('of-stranger', 1, { buyer: STRANGER, maker: STRANGER })
    await challenge(BUYER)
    await challenge(STRANGER)
    await answer(BUYER, 'mine', 1)
    await answer('10.0.0.1', 'of my order', 1, unpaid)
    await answer(STRANGER, 'other', 1)
    return { delivered, cancelled, unpaid, undelivered, foreign }
  }
  const expected = ({ unpaid, undelivered }: { unpaid: string; undelivered: string }) => ({
    address: BUYER,
    baskets: 3,
    challenges: 1,
    answers: 2,
    orders: 2,
    unchanged: 0,
    waiting: [
      { orderId: unpaid, reason: 'unpaid' as const },
      { orderId: undelivered, reason: 'undelivered' as const },
    ],
  })

  it('market-api:W-40 counts, then erases, then finds nothing left, and touches nobody else', async () => {
    const { delivered, cancelled, unpaid, undelivered, foreign } = await world()
    expect(await eraseAddress(orders.db, BUYER, { dryRun: true })).toEqual(expected({ unpaid, undelivered }))
    expect(await hasPersonalData(delivered)).toBe(true)
    expect(await ids('baskets', 'basket_id')).toHaveLength(4)

    expect(await eraseAddress(orders.db, BUYER)).toEqual(expected({ unpaid, undelivered }))
    for (const orderId of [delivered, cancelled]) expect(await hasPersonalData(orderId)).toBe(false)
    for (const orderId of [unpaid, undelivered, foreign]) expect(await hasPersonalData(orderId)).toBe(true)
    expect(await ids('baskets', 'basket_id')).toEqual(['of-stranger'])
    expect(await orders.db.selectFrom('auth_challenges').select('address').execute()).toEqual([{ address: STRANGER }])
    expect(await orders.db.selectFrom('idempotency_keys').select('key').execute()).toEqual([{ key: 'other' }])

    const again = {
      ...expected({ unpaid, undelivered }),
      baskets: 0,
      challenges: 0,
      answers: 0,
      orders: 0,
      unchanged: 2,
    }
    expect(await eraseAddress(orders.db, BUYER)).toEqual(again)

    // Once what was waited for has happened, the rest goes.
    for (const job of await orders.jobs(undelivered)) await orders.answer(job.job_id, 'done', null)
    await orders.cancel(unpaid)
    expect(await eraseAddress(orders.db, BUYER)).toMatchObject({ orders: 2, unchanged: 2, waiting: [] })
    expect((await orders.db.selectFrom('orders').select('order_id').execute()).length).toBe(5)
  })

  it('is a command that says what it did and what has to wait', async () => {
    const { unpaid, undelivered } = await world()
    const ops = async (...args: string[]) => {
      const env = { PATH: process.env.PATH, OPS_MARKET_URL: orders.ctx.config.POSTGRES_CONNECTION.reveal() }
      return (await promisify(execFile)(process.execPath, [OPS, ...args], { env })).stdout
    }
    const address = `0x${BUYER.slice(2).toUpperCase()}`
    expect(JSON.parse(await ops('privacy', 'erase', address, '--dry-run', '--json'))).toEqual({
      ok: true,
      dryRun: true,
      ...expected({ unpaid, undelivered }),
    })
    const told = await ops('privacy', 'erase', address)
    expect(told).toContain(`${unpaid} keeps its data: it is not paid yet`)
    expect(told).toContain(`${undelivered} keeps its data: it is not delivered yet`)
    expect(told).toContain(
      'Done. orders erased 2, unchanged 0, waiting 2; baskets deleted 3, challenges 1, checkout answers 2',
    )
    await expect(ops('privacy', 'erase', '0x12')).rejects.toMatchObject({
      code: 2,
      stderr: 'Error: address must be a 0x hex address (got: 0x12)\n',
    })
  })
})
