import { OrderStatus } from '@market/contracts/statuses'
import { importJWK, SignJWT } from 'jose'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { generateSigningKey } from '../src/signIn/tokens.ts'
import { BUYER, type Orders, PERSONAL, S1, S2, startOrders, STRANGER } from './orderWorld.ts'

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
const UNKNOWN = `ord_${'0'.repeat(32)}`
let signingKey: string
let orders: Orders

beforeAll(async () => {
  signingKey = await generateSigningKey()
  orders = await startOrders({ MARKET_JWT_PRIVATE_KEY: signingKey })
})
afterAll(() => orders?.close())

describe("the buyer's view", () => {
  it('market-api:A-080 has both lines, paired with their offers', async () => {
    const orderId = await orders.place({ createdAt: new Date('2026-01-02T03:04:05.678Z') })
    const { status, headers, body } = await orders.get(`/${orderId}`, BUYER)
    expect(status).toBe(200)
    expect(headers.get('content-type')).toBe('application/ld+json; charset=utf-8')
    expect(body).toMatchObject({
      '@context': 'https://schema.org/',
      '@type': 'Order',
      orderNumber: orderId,
      orderStatus: OrderStatus.paymentDue,
      orderDate: '2026-01-02T03:04:05.6780000+00:00',
      customer: { '@id': `eip155:100:${BUYER}`, givenName: PERSONAL.givenName },
      shippingAddress: PERSONAL.address,
      totalPaymentDue: { price: 41.5, priceCurrency: 'CRC' },
      sellerContact: PERSONAL.contact,
      outbox: [],
    })
    expect(body.acceptedOffer.map((offer: any) => [offer.seller['@id'], offer.price])).toEqual([
      [`eip155:100:${S1}`, 19],
      [`eip155:100:${S2}`, 7.5],
    ])
    expect(body.orderedItem.map((item: any) => [item.orderedItem.sku, item.orderQuantity])).toEqual([
      ['tee-black', 1],
      ['mug', 3],
    ])
  })

  it('clients:8 has the names that the explorer reads beside the others', async () => {
    const createdAt = new Date('2026-01-02T03:04:05.678Z')
    const orderId = await orders.place({ createdAt })
    const { body } = await orders.get(`/${orderId}`, BUYER)
    expect(body).toMatchObject({
      orderId,
      status: OrderStatus.paymentDue,
      createdAt: createdAt.toISOString(),
      updatedAt: createdAt.toISOString(),
      paymentDueBy: new Date(createdAt.getTime() + 1_800_000).toISOString(),
      items: [
        { name: 'Black tee', sku: 'tee-black', quantity: 1, price: 19 },
        { name: 'Mug', sku: 'mug', quantity: 3, price: 7.5 },
      ],
    })
    await orders.pay(orderId)
    const paid = (await orders.get(`/${orderId}`, BUYER)).body
    expect(paid).toMatchObject({ orderStatus: OrderStatus.paymentProcessing, status: OrderStatus.paymentProcessing })
    expect(paid.paymentDueBy).toBeNull()
    expect(paid.updatedAt > paid.createdAt).toBe(true)

    const cancelled = await orders.place()
    await orders.cancel(cancelled)
    expect((await orders.get(`/${cancelled}`, BUYER)).body).toMatchObject({
      status: OrderStatus.cancelled,
      paymentDueBy: null,
    })
  })

  it('market-api:A-081 market-api:A-083 clients:13.9 is a 404 for everybody else, and the same as for no order', async () => {
    const orderId = await orders.place()
    const answers = [
      await orders.get(`/${orderId}`, STRANGER),
      await orders.get(`/${UNKNOWN}`, BUYER),
      await orders.get(`/${orderId.toLowerCase()}`, BUYER),
      await orders.get(`/${orderId}`, BUYER, { chainId: 1 }),
      await orders.get(`/${orderId}`, S1),
    ]
    const bodies = answers.map(({ status, body }) => ({ status, ...body, requestId: '' }))
    for (const body of bodies) {
      expect(body).toEqual({
        status: 404,
        error: 'Order not found',
        details: null,
        code: 'order_not_found',
        requestId: '',
      })
    }
  })

  it('market-api:A-082 market-api:A-095 needs a token that says who and on which chain', async () => {
    const orderId = await orders.place()
    const { status, headers } = await orders.get(`/${orderId}`, undefined)
    expect([status, headers.get('www-authenticate')]).toEqual([401, 'Bearer'])

    const key = await importJWK(JSON.parse(signingKey), 'EdDSA')
    const sign = (claims: Record<string, unknown>) =>
      new SignJWT({ addr: BUYER, domain: 'x', ...claims })
        .setProtectedHeader({ alg: 'EdDSA' })
        .setIssuer('Circles.Market')
        .setAudience('market-api')
        .setSubject(BUYER)
        .setIssuedAt()
        .setExpirationTime('5m')
        .sign(key)
    const listWith = async (claims: Record<string, unknown>) => {
      const withToken = { Authorization: `Bearer ${await sign(claims)}` }
      return (await fetch(`${orders.url}/api/cart/v1/orders/by-buyer`, { headers: withToken })).status
    }
    expect(await listWith({ chainId: '100' })).toBe(200)
    expect(await listWith({})).toBe(401)
    expect(await listWith({ chainId: 'gnosis' })).toBe(401)
  })

  it('market-api:A-096 shows what was delivered, as it was stored, and nothing an operator wrote down', async () => {
    await orders.route(S1, 'voucher', 'codedispenser')
    await orders.route(S1, 'unlucky', 'odoo')
    const orderId = await orders.place({
      lines: [
        { seller: S1, sku: 'voucher', price: 1 },
        { seller: S1, sku: 'unlucky', price: 1 },
      ],
    })
    await orders.complete(orderId)
    const jobs = await orders.jobs(orderId)
    const job = (type: string) => jobs.find(({ offer_type }) => offer_type === type)!
    await orders.answer(job('codedispenser').job_id, 'done', null, { '@type': 'CodeDispenserResult', codes: ['A-1'] })
    await orders.db
      .insertInto('order_outbox')
      .values({
        order_id: orderId,
        job_id: job('odoo').job_id,
        source: 'fulfillment_reconcile',
        payload: { by: 'hand' },
      })
      .execute()
    const { body } = await orders.get(`/${orderId}`, BUYER)
    expect(body.outbox).toEqual([
      {
        id: expect.any(Number),
        createdAt: expect.stringMatching(ISO),
        source: 'fulfillment',
        payload: { '@type': 'CodeDispenserResult', codes: ['A-1'] },
      },
    ])
    expect((await orders.get('/by-buyer', BUYER)).text).not.toContain('by hand')
  })

  it('market-api:A-097 clients:13 never shows where an order is delivered from', async () => {
    const back = 'https://erp.example/secret'
    const orderId = await orders.place()
    await sql`update orders set order_json = jsonb_set(order_json, '{acceptedOffer,0,fulfillmentEndpoint}', ${JSON.stringify(back)})
      where order_id = ${orderId}`.execute(orders.db)
    const answers = [
      await orders.get(`/${orderId}`, BUYER),
      await orders.get(`/${orderId}/as-seller`, S1),
      await orders.get('/by-buyer', BUYER),
      await orders.get('/by-seller', S1),
      await orders.post('/batch', BUYER, { orderIds: [orderId] }),
    ]
    for (const { status, text } of answers) {
      expect(status).toBe(200)
      expect(text).toContain('"fulfillmentEndpoint":null')
      expect(text).not.toContain('erp.example')
    }
  })

  it('market-api:W-47 tells a buyer, and no seller, what the order knows of their age', async () => {
    const customerAge = { '@type': 'QuantitativeValue', minValue: 18 }
    const orderId = await orders.place({ snapshot: { customerAge } })
    expect((await orders.get(`/${orderId}`, BUYER)).body.customerAge).toEqual(customerAge)
    expect((await orders.get(`/${orderId}/as-seller`, S1)).body).not.toHaveProperty('customerAge')
  })
})

describe('orders placed in the name of somebody else', () => {
  const isListed = async (orderId: string) =>
    (await orders.get('/by-buyer?pageSize=100', BUYER)).body.items.some((order: any) => order.orderId === orderId)

  it.each(['GET', 'batch'])('are in the lists of the buyer once they opened them (%s)', async (how) => {
    const orderId = await orders.place({ listed: false })
    expect(await isListed(orderId)).toBe(false)
    await orders.get(`/${orderId}`, STRANGER)
    await orders.post('/batch', STRANGER, { orderIds: [orderId] })
    expect(await isListed(orderId)).toBe(false)
    const { status } =
      how === 'GET'
        ? await orders.get(`/${orderId}`, BUYER)
        : await orders.post('/batch', BUYER, { orderIds: [orderId] })
    expect(status).toBe(200)
    expect(await isListed(orderId)).toBe(true)
  })

  it('are written to only the first time', async () => {
    const orderId = await orders.place({ listed: false })
    const version = async () => {
      const { rows } = await sql<{ xmin: string }>`select xmin::text from orders where order_id = ${orderId}`.execute(
        orders.db,
      )
      return rows[0]!.xmin
    }
    await orders.get(`/${orderId}`, BUYER)
    const opened = await version()
    await orders.get(`/${orderId}`, BUYER)
    expect(await version()).toBe(opened)
  })
})

describe('POST /orders/batch', () => {
  const noIds = 'orderIds must be a non-empty array'
  it.each([
    ['market-api:A-088', 'no ids', { orderIds: [] }, noIds],
    ['market-api:A-088', 'nothing', {}, noIds],
    ['market-api:A-088', 'a text', { orderIds: UNKNOWN }, noIds],
    ['market-api:A-088', 'a list', [], noIds],
    ['market-api:A-088', 'null', 'null', noIds],
    ['market-api:A-088', 'numbers', { orderIds: [7] }, 'orderIds must be texts'],
    ['market-api:A-089', '101 ids', { orderIds: Array(101).fill(UNKNOWN) }, 'orderIds length must be <= 100'],
    ['market-api:A-091', 'no JSON', 'nonsense', 'Invalid JSON'],
    ['market-api:A-091', 'no body', '', 'Invalid JSON'],
  ])('%s refuses %s', async (_, __, body, error) => {
    const answer = await orders.post('/batch', BUYER, body)
    expect(answer).toMatchObject({ status: 400, body: { error, code: expect.any(String) } })
    expect(answer.body.details).not.toBeUndefined()
  })

  it('market-api:A-090 gives those that are mine, in the order asked, as often as asked', async () => {
    const [a, b] = [await orders.place(), await orders.place()]
    const foreign = await orders.place({ buyer: STRANGER })
    const other = await orders.place({ chainId: 1 })
    const answer = await orders.post('/batch', BUYER, { orderIds: ['junk', foreign, a, a, UNKNOWN, other, b] })
    expect(answer.status).toBe(200)
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
    expect(answer.body.items.map((order: any) => order.orderId)).toEqual([a, a, b])
    expect(answer.body.items[0]).toEqual((await orders.get(`/${a}`, BUYER)).body)
    const hundred = Array(100).fill(a)
    expect((await orders.post('/batch', BUYER, { orderIds: hundred })).body.items).toHaveLength(100)
  })

  it('clients:8 clients:13.9 takes any JSON type and none, and looks at that before the token', async () => {
    const orderId = await orders.place()
    const send = (type: string, token: string | undefined = BUYER) =>
      orders.post('/batch', token, JSON.stringify({ orderIds: [orderId] }), { 'Content-Type': type })
    for (const type of ['application/ld+json; charset=utf-8', 'application/json', 'application/problem+json']) {
      expect((await send(type)).body.items, type).toHaveLength(1)
    }
    expect((await send('text/plain')).status).toBe(415)
    const post = (headers: Record<string, string>) =>
      fetch(`${orders.url}/api/cart/v1/orders/batch`, { method: 'POST', body: new Uint8Array(2), headers })
    expect((await post({ 'Content-Type': 'text/plain' })).status).toBe(415)
    expect((await post({})).status).toBe(401)
  })
})

describe('GET /orders/by-buyer', () => {
  it('market-api:A-092 market-api:A-093 clients:8 clients:13.9 pages by number, newest first, and ends with an empty page', async () => {
    const buyer = `0x${'1'.repeat(40)}`
    const ids: string[] = []
    for (let i = 0; i < 25; i += 1) {
      ids.unshift(await orders.place({ buyer, createdAt: new Date(Date.UTC(2026, 0, 1, 0, 0, i)) }))
    }
    const list = async (query: string) => {
      const { status, body } = await orders.get(`/by-buyer?${query}`, buyer)
      expect(status, query).toBe(200)
      return body.items.map((order: any) => order.orderId)
    }
    expect(await list('')).toEqual(ids.slice(0, 20))
    expect(await list('page=2')).toEqual(ids.slice(20))
    expect(await list('pageSize=1000')).toEqual(ids)
    expect(await list('pageSize=0')).toEqual(ids.slice(0, 1))
    expect(await list('pageSize=-3')).toEqual(ids.slice(0, 1))
    expect(await list('pageSize=many')).toEqual(ids.slice(0, 20))
    for (const page of ['abc', '0', '-1', '1', '1.5'])
      expect(await list(`page=${page}`), page).toEqual(ids.slice(0, 20))
    expect(await list('page=3&pageSize=10')).toEqual(ids.slice(20))
    for (const query of [
      'page=3',
      'page=4&pageSize=10',
      'page=1001&pageSize=100',
      'page=2147483647&pageSize=100',
      'page=99999999999999999999',
      `page=${'9'.repeat(400)}`,
    ]) {
      expect(await list(query), query).toEqual([])
    }
    expect(await list('pageSize=100')).toHaveLength(25)
    expect((await orders.get('/by-buyer', buyer, { chainId: 1 })).body).toEqual({ items: [] })
  })
})

describe('GET /orders/{id}/status-history', () => {
  it('market-api:A-086 clients:8 begins with the order, in one form of time, under both names', async () => {
    const orderId = await orders.place()
    await orders.pay(orderId)
    const { status, body } = await orders.get(`/${orderId}/status-history`, BUYER)
    expect(status).toBe(200)
    expect(body.orderId).toBe(orderId)
    expect(body.events.map((event: any) => [event.oldStatus, event.newStatus])).toEqual([
      [null, OrderStatus.paymentDue],
      [OrderStatus.paymentDue, OrderStatus.paymentProcessing],
    ])
    for (const event of body.events) {
      expect(event.changedAt).toMatch(ISO)
      expect([event.status, event.timestamp]).toEqual([event.newStatus, event.changedAt])
    }
  })

  it('market-api:A-087 is not for sellers, nor for anybody else', async () => {
    const orderId = await orders.place()
    for (const who of [S1, STRANGER]) {
      expect((await orders.get(`/${orderId}/status-history`, who)).status).toBe(404)
    }
    expect((await orders.get(`/${UNKNOWN}/status-history`, BUYER)).status).toBe(404)
    expect((await orders.get('/nonsense/status-history', BUYER)).status).toBe(404)
  })
})
