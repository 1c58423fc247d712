import { OrderStatus } from '@market/contracts/statuses'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { JSONLD, type Line, type Market, openFixture, openMarket, ORDERS, type Person } from './market.ts'
import { reissue } from './tokens.ts'

// market-api.md 10.4 over HTTP, and the routes of 9.7.

const FORM_B = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}\+00:00$/
const UNKNOWN = `ord_${'0'.repeat(32)}`

let market: Market
let fixture: Awaited<ReturnType<typeof openFixture>>
let buyer: Person
let stranger: Person
const book = (quantity?: number) => fixture.book(quantity)
/** Two books of S1 and three mugs of S2, unpaid. */
let order: { orderId: string; paymentReference: string }

/** Nothing of this may reach a seller. */
const personal = {
  customer: { '@type': 'Person', givenName: 'Adalbert', familyName: 'Lovelorn' },
  contactPoint: { '@type': 'ContactPoint', email: 'adalbert@lovelorn.example', telephone: '+49 40 987654' },
  shippingAddress: {
    '@type': 'PostalAddress',
    streetAddress: 'Quaystreet 17',
    addressLocality: 'Hamburgh',
    postalCode: '20457',
    addressCountry: 'DE',
  },
  billingAddress: {
    '@type': 'PostalAddress',
    streetAddress: 'Banklane 3',
    addressLocality: 'Altonah',
    postalCode: '22765',
    addressCountry: 'DE',
  },
}

beforeAll(async () => {
  market = await openMarket()
  fixture = await openFixture(market, { etching: { offer: { price: 30 }, isOneOff: true } })
  ;[buyer, stranger] = await Promise.all([market.signIn(), market.signIn()])
  order = await place(buyer, [book(2), fixture.mug(3)])
})
afterAll(() => market?.close())

async function place(person: Person, lines: Line[]) {
  const basket = await market.basket(lines, { token: person.token })
  await basket.patch(personal)
  const { status, text, body } = await basket.checkout()
  if (status !== 201) throw new Error(`no order: ${status} ${text}`)
  return body as { orderId: string; paymentReference: string }
}

const get = (path: string, person?: { token: string }) => market.call('GET', ORDERS + path, { token: person?.token })
const ids = (answer: { body: any }): string[] => answer.body.items.map((item: any) => item.orderNumber)

describe('one order', () => {
  it('market-api:A-080 shows its buyer all of it', async () => {
    const { status, headers, body } = await get(`/${order.orderId}`, buyer)
    expect([status, headers.get('content-type')]).toEqual([200, JSONLD])
    expect(body).toMatchObject({
      '@context': 'https://schema.org/',
      '@type': 'Order',
      orderNumber: order.orderId,
      orderStatus: OrderStatus.paymentDue,
      paymentReference: order.paymentReference,
      orderDate: expect.stringMatching(FORM_B),
      customer: {
        '@type': 'Person',
        '@id': `eip155:100:${buyer.address}`,
        givenName: 'Adalbert',
        familyName: 'Lovelorn',
      },
      broker: { '@type': 'Organization', '@id': `eip155:100:${market.operator}` },
      shippingAddress: personal.shippingAddress,
      billingAddress: personal.billingAddress,
      sellerContact: personal.contactPoint,
      customerContact: personal.contactPoint,
      totalPaymentDue: { '@type': 'PriceSpecification', price: 32.5, priceCurrency: 'CRC' },
      outbox: [],
    })
    const lines = body.orderedItem.map((item: any, i: number) => [
      item.orderedItem.sku,
      item.orderQuantity,
      body.acceptedOffer[i].price,
      body.acceptedOffer[i].seller['@id'],
    ])
    expect(lines).toEqual([
      ['book', 2, 5, `eip155:100:${fixture.s1.address}`],
      ['mug', 3, 7.5, `eip155:100:${fixture.s2.address}`],
    ])
    expect(body.acceptedOffer).toHaveLength(2)
    expect(body.orderedItem.map((item: any) => item.productCid)).toEqual([
      expect.stringMatching(/^Qm/),
      expect.stringMatching(/^Qm/),
    ])
  })

  it('market-api:A-081 hides it from all others, as if it were not there', async () => {
    const answers = await Promise.all([
      get(`/${order.orderId}`, stranger),
      get(`/${UNKNOWN}`, stranger),
      get(`/${order.orderId.toLowerCase()}`, buyer),
      get('/nonsense', buyer),
      get(`/${order.orderId}`, fixture.s1),
    ])
    const shown = answers.map(({ status, headers, body: { requestId, ...body } }) => {
      expect(requestId).toEqual(expect.any(String))
      return { status, type: headers.get('content-type'), body }
    })
    for (const one of shown) expect(one).toEqual(shown[0])
    expect(shown[0]).toMatchObject({ status: 404, type: JSONLD, body: { code: 'order_not_found', details: null } })
  })

  it('market-api:A-082 asks who wants to know', async () => {
    for (const path of [`/${order.orderId}`, `/${UNKNOWN}`, '/by-buyer', '/by-seller', `/${order.orderId}/as-seller`]) {
      const answer = await get(path)
      expect([answer.status, answer.headers.get('www-authenticate')], path).toEqual([
        401,
        expect.stringMatching(/^Bearer/),
      ])
      const rubbish = await get(path, { token: 'rubbish' })
      expect([rubbish.status, rubbish.headers.get('www-authenticate')]).toEqual([401, expect.stringMatching(/^Bearer/)])
    }
  })

  it('market-api:A-083 A-095 tells addresses of two chains apart, and wants to be told the chain', async () => {
    const key = market.place.env.MARKET_JWT_PRIVATE_KEY!
    const reissued = (changes: object) => ({ token: reissue(buyer.token, key, changes as Record<string, unknown>) })
    expect((await get(`/${order.orderId}`, reissued({}))).status, 'the key is the right one').toBe(200)
    expect((await get(`/${order.orderId}`, reissued({ chainId: '1' }))).status).toBe(404)
    for (const chainId of [undefined, 'x', '1.5', null]) {
      expect((await get('/by-buyer', reissued({ chainId }))).status, String(chainId)).toBe(401)
    }
    expect((await get('/by-buyer', reissued({ addr: undefined }))).status).toBe(401)
  })

  it('market-api:A-084 shows a seller their own lines and nothing else', async () => {
    const { s1, s2 } = fixture
    const { status, headers, text, body } = await get(`/${order.orderId}/as-seller`, s2)
    expect([status, headers.get('content-type')]).toEqual([200, JSONLD])
    expect(body).toMatchObject({
      '@type': 'Order',
      orderNumber: order.orderId,
      orderStatus: OrderStatus.paymentDue,
      paymentReference: order.paymentReference,
      orderDate: expect.stringMatching(FORM_B),
      broker: { '@id': `eip155:100:${market.operator}` },
      acceptedOffer: [{ price: 7.5, seller: { '@id': `eip155:100:${s2.address}` } }],
      orderedItem: [{ orderQuantity: 3, orderedItem: { sku: 'mug' } }],
      totalPaymentDue: { price: 22.5, priceCurrency: 'CRC' },
      outbox: [],
    })
    expect([body.acceptedOffer.length, body.orderedItem.length]).toEqual([1, 1])
    for (const member of ['customer', 'shippingAddress', 'billingAddress', 'sellerContact', 'customerContact']) {
      expect(body, member).not.toHaveProperty(member)
    }
    const secrets = [buyer.address, s1.address, 'book', '32.5', 'Adalbert', 'Lovelorn', 'lovelorn.example', '987654']
    for (const secret of [...secrets, 'Quaystreet', 'Hamburgh', '20457', 'Banklane', 'Altonah', '22765']) {
      expect(text, secret).not.toContain(secret)
    }
    const other = await get(`/${order.orderId}/as-seller`, s1)
    expect(other.body.orderedItem.map((item: any) => item.orderedItem.sku)).toEqual(['book'])
    expect(other.body.totalPaymentDue.price).toBe(10)
  })

  it('market-api:A-085 shows nobody else the view of a seller', async () => {
    for (const person of [buyer, stranger]) {
      expect((await get(`/${order.orderId}/as-seller`, person)).status).toBe(404)
    }
    expect((await get(`/${UNKNOWN}/as-seller`, fixture.s1)).status).toBe(404)
    expect((await get('/nonsense/as-seller', fixture.s1)).status).toBe(404)
  })

  it('market-api:A-086 tells its buyer what has happened', async () => {
    const { status, headers, body } = await get(`/${order.orderId}/status-history`, buyer)
    expect([status, headers.get('content-type')]).toEqual([200, JSONLD])
    expect(body).toMatchObject({
      orderId: order.orderId,
      events: [{ oldStatus: null, newStatus: OrderStatus.paymentDue, changedAt: expect.stringMatching(/^\d{4}-.*Z$/) }],
    })
    expect(body.events).toHaveLength(1)
  })

  it('market-api:A-087 tells it nobody else', async () => {
    for (const person of [fixture.s1, fixture.s2, stranger]) {
      expect((await get(`/${order.orderId}/status-history`, person)).status).toBe(404)
    }
  })

  it('market-api:A-096 W-36 shows the buyer deliveries and no notes of an operator', async () => {
    const { orderId } = await place(buyer, [book()])
    const outbox = (source: string, offerType: string) => market.sql`
      with job as (
        insert into fulfillment_jobs
            (order_id, chain_id, seller_address, offer_type, trigger, line_indexes, idempotency_key, status, next_attempt_at)
          values (${orderId}, 100, ${fixture.s1.address}, ${offerType}, 'finalized', '{0}', ${orderId + offerType}, 'done', null)
          returning job_id)
      insert into order_outbox (order_id, job_id, source, payload)
        select ${orderId}, job_id, ${source}, jsonb_build_object('note', ${source}::text) from job`
    await outbox('fulfillment_reconcile', 'one')
    await outbox('fulfillment', 'other')
    const { body } = await get(`/${orderId}`, buyer)
    expect(body.outbox).toEqual([
      {
        id: expect.any(Number),
        createdAt: expect.stringMatching(/Z$/),
        source: 'fulfillment',
        payload: { note: 'fulfillment' },
      },
    ])
    expect((await get(`/${orderId}/as-seller`, fixture.s1)).body.outbox).toEqual([])
  })

  it('market-api:A-097 shows nobody where an adapter is', async () => {
    const { orderId } = await place(buyer, [book()])
    await market.sql`
      update orders set order_json = jsonb_set(order_json, '{acceptedOffer,0,fulfillmentEndpoint}', '"https://adapter.internal/"')
        where order_id = ${orderId}`
    const views = [
      await get(`/${orderId}`, buyer),
      await get(`/${orderId}/as-seller`, fixture.s1),
      await market.call('POST', `${ORDERS}/batch`, { json: { orderIds: [orderId] }, token: buyer.token }),
      await get('/by-buyer?pageSize=100', buyer),
      await get('/by-seller?pageSize=100', fixture.s1),
    ]
    for (const { status, text } of views) {
      expect(status).toBe(200)
      expect(text).toContain(orderId)
      expect(text).not.toContain('adapter.internal')
    }
    expect(views[0]!.body.acceptedOffer[0].fulfillmentEndpoint).toBeNull()
    expect(views[1]!.body.acceptedOffer[0].fulfillmentEndpoint).toBeNull()
  })
})

describe('POST …/batch', () => {
  const batch = (json: unknown, person: { token?: string } = buyer) =>
    market.call('POST', `${ORDERS}/batch`, { json, token: person.token })
  const manyIds = (n: number) => Array.from({ length: n }, (_, i) => `ord_${String(i).padStart(32, '0')}`)

  it.each([[{ orderIds: [] }], [{}], [{ orderIds: 'x' }], [[]]])('market-api:A-088 wants ids: %j', async (json) => {
    const answer = await batch(json)
    expect([answer.status, answer.body.error]).toEqual([400, 'orderIds must be a non-empty array'])
  })

  it('market-api:A-089 takes a hundred of them at most', async () => {
    const answer = await batch({ orderIds: manyIds(101) })
    expect([answer.status, answer.body.error]).toEqual([400, 'orderIds length must be <= 100'])
    expect((await batch({ orderIds: manyIds(100) })).body).toMatchObject({ items: [] })
  })

  it('market-api:A-090 answers for own orders, as often as asked, and leaves out the rest', async () => {
    const foreign = await place(stranger, [book()])
    const answer = await batch({ orderIds: ['junk', foreign.orderId, order.orderId, order.orderId] })
    expect([answer.status, answer.headers.get('content-type')]).toEqual([200, JSONLD])
    expect(ids(answer)).toEqual([order.orderId, order.orderId])
    expect(answer.body.items[0]).toEqual((await get(`/${order.orderId}`, buyer)).body)
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
  })

  it('market-api:A-090 keeps the order in which it was asked', async () => {
    const more = await Promise.all([1, 2, 3].map(() => place(buyer, [book()])))
    const orderIds = [more[1]!, order, more[0]!, more[2]!].map(({ orderId }) => orderId)
    expect(ids(await batch({ orderIds }))).toEqual(orderIds)
  })

  it.each(['nonsense', '{', '{"orderIds":['])('market-api:A-091 refuses %s', async (body) => {
    const headers = { 'Content-Type': 'application/json' }
    const answer = await market.call('POST', `${ORDERS}/batch`, { body, headers, token: buyer.token })
    expect([answer.status, answer.body.error]).toEqual([400, 'Invalid JSON'])
  })

  it('asks who wants to know, and takes JSON only', async () => {
    expect((await batch({ orderIds: [UNKNOWN] }, {})).status).toBe(401)
    const headers = { 'Content-Type': 'text/plain' }
    expect((await market.call('POST', `${ORDERS}/batch`, { body: '{}', headers, token: buyer.token })).status).toBe(415)
  })
})

describe('lists', () => {
  let collector: Person
  /** Newest first. */
  let placed: string[]

  beforeAll(async () => {
    collector = await market.signIn()
    const orders: { orderId: string }[] = []
    for (let round = 0; round < 5; round += 1) {
      orders.push(...(await Promise.all([1, 2, 3, 4, 5].map(() => place(collector, [book(), fixture.mug()])))))
    }
    const rows = await market.sql`
      select order_id from orders where buyer_address = ${collector.address} order by created_at desc, order_id desc`
    placed = rows.map((row) => String(row.order_id))
    expect(placed.toSorted()).toEqual(orders.map(({ orderId }) => orderId).toSorted())
  })

  it('market-api:A-092 shows twenty a page, newest first', async () => {
    const page = async (query: string) => {
      const answer = await get(`/by-buyer${query}`, collector)
      expect(answer.status, query).toBe(200)
      return ids(answer)
    }
    expect(await page('')).toEqual(placed.slice(0, 20))
    expect(await page('?')).toEqual(placed.slice(0, 20))
    expect(await page('?page=2')).toEqual(placed.slice(20))
    expect(await page('?page=3')).toEqual([])
    expect(await page('?pageSize=1000')).toEqual(placed)
    expect(await page('?pageSize=0')).toEqual(placed.slice(0, 1))
    expect(await page('?pageSize=-7')).toEqual(placed.slice(0, 1))
    expect(await page('?pageSize=abc')).toEqual(placed.slice(0, 20))
    for (const first of ['abc', '0', '-1', '', '1.5']) expect(await page(`?page=${first}`)).toEqual(placed.slice(0, 20))
    expect(await page('?page=3&pageSize=10')).toEqual(placed.slice(20))
  })

  it('market-api:A-092 shows sellers theirs alike', async () => {
    const first = await get('/by-seller?pageSize=25', fixture.s2)
    expect(first.status).toBe(200)
    expect(ids(first)).toEqual(placed)
    for (const { orderedItem, acceptedOffer } of first.body.items) {
      expect(orderedItem.map((item: any) => item.orderedItem.sku)).toEqual(['mug'])
      expect(acceptedOffer).toHaveLength(1)
    }
    expect(first.text).not.toContain(collector.address)
    expect(first.text).not.toContain('Adalbert')
    expect((await get('/by-seller', stranger)).body).toMatchObject({ items: [] })
    expect((await get('/by-seller?page=9999', fixture.s2)).body).toMatchObject({ items: [] })
  })

  it.each([
    'page=2147483647&pageSize=100',
    'page=9223372036854775807&pageSize=100',
    `page=${'9'.repeat(400)}`,
    'pageSize=99999999999999999999',
    'page=1e308',
    'cursor=nonsense',
    'cursor=%00',
  ])('market-api:A-093 W-28 survives %.40s', async (query) => {
    for (const list of ['by-buyer', 'by-seller']) {
      const answer = await get(`/${list}?${query}`, collector)
      expect([200, 400], `${list}: ${answer.text.slice(0, 200)}`).toContain(answer.status)
      if (query.startsWith('page=9') || query.startsWith('page=2')) expect(answer.body.items ?? []).toEqual([])
    }
  })

  it('market-api:A-094 W-28 walks through orders of one moment, each once', async () => {
    await market.sql`
      update order_sellers set created_at = '2026-01-01T00:00:00.123456Z' where order_id = any(${placed})`
    await market.sql`update orders set created_at = '2026-01-01T00:00:00.123456Z' where order_id = any(${placed})`
    for (const [list, person] of [
      ['by-buyer', collector],
      ['by-seller', fixture.s2],
    ] as const) {
      const found: string[] = []
      let answer = await get(`/${list}?pageSize=4`, person)
      for (let pages = 1; ; pages += 1) {
        expect(answer.status).toBe(200)
        expect(ids(answer).length).toBeLessThanOrEqual(4)
        found.push(...ids(answer))
        const cursor = answer.headers.get('x-next-cursor')
        const link = /^<([^>]+)>; rel="next"$/.exec(answer.headers.get('link') ?? '')?.[1]
        expect(link === undefined).toBe(cursor === null)
        if (cursor === null || link === undefined) break
        expect(pages).toBeLessThan(100)
        // The two ways on lead to the same page.
        const byCursor = await get(`/${list}?pageSize=4&cursor=${encodeURIComponent(cursor)}`, person)
        const { pathname, search } = new URL(link)
        answer = await market.call('GET', pathname + search, { token: person.token })
        expect(ids(answer)).toEqual(ids(byCursor))
      }
      // The sellers' list has the other tests' orders in it as well.
      expect(new Set(found).size).toBe(found.length)
      expect(found.filter((id) => placed.includes(id)).toSorted()).toEqual(placed.toSorted())
    }
  })

  it('architecture 3: leaves out what others placed in a name, until its owner opens it', async () => {
    const named = await market.signIn()
    const basket = await market.basket([book()], { buyer: named.address })
    const { orderId } = (await basket.checkout()).body
    expect(ids(await get('/by-buyer', named))).toEqual([])
    expect(ids(await get('/by-seller?pageSize=100', fixture.s1))).toContain(orderId)
    expect((await get(`/${orderId}`, stranger)).status).toBe(404)
    expect(ids(await get('/by-buyer', named))).toEqual([])
    expect((await get(`/${orderId}`, named)).status).toBe(200)
    expect(ids(await get('/by-buyer', named))).toEqual([orderId])
  })
})

describe('paid orders', () => {
  it('market-api:9.7 W-08 every line has a state, and its seller closes what no adapter delivers', async () => {
    const { s1, s2, gateway } = fixture
    const etching = s1.line('etching')
    const made = await place(buyer, [etching, fixture.mug(2)])
    const states = async (person: Person) => {
      const { status, body } = await get(`/${made.orderId}/fulfillments`, person)
      return status === 200 ? body : { status }
    }
    expect((await states(buyer)).items).toEqual([])
    await market.pay(buyer.account, gateway, 45, made.paymentReference)
    const mugs = await until('the mugs are delivered', async () => {
      const { items } = await states(buyer)
      return items.find((item: any) => item.seller === s2.address)?.state === 'succeeded' && items
    })
    const manual = mugs.find((item: any) => item.seller === s1.address)
    expect(manual).toMatchObject({ offerType: 'manual', lineIndexes: [0], reason: 'manual' })
    expect(manual.state).not.toBe('succeeded')
    expect((await states(s1)).items).toEqual([manual])
    expect((await states(s2)).items).toHaveLength(1)
    expect(await states(stranger)).toEqual({ status: 404 })

    const complete = (person?: Person) =>
      market.call('POST', `${ORDERS}/${made.orderId}/fulfillments/${manual.id}/complete`, { token: person?.token })
    expect((await complete()).status).toBe(401)
    for (const person of [buyer, s2, stranger]) expect((await complete(person)).status).toBe(404)
    expect((await complete(s1)).status).toBe(200)
    expect((await states(buyer)).items.map((item: any) => item.state)).toEqual(['succeeded', 'succeeded'])
    expect((await complete(s1)).status, 'again').toBe(200)

    const cancel = await market.call('POST', `${ORDERS}/${made.orderId}/cancel`, { token: buyer.token })
    expect(cancel.status).toBe(409)
    const paid = await get(`/${made.orderId}`, buyer)
    expect(paid.body.orderStatus).toBe(OrderStatus.paymentComplete)
    expect(paid.body.outbox.length).toBeGreaterThanOrEqual(1)
    expect(paid.text).toContain('mug-1-')
    const sold = await get(`/${made.orderId}/as-seller`, s2)
    expect(sold.body.outbox).toEqual([])
    expect(sold.text).not.toContain('mug-1-')
  })

  it('architecture 3: an order placed in a name is listed once it is paid', async () => {
    const named = await market.signIn()
    const basket = await market.basket([book()], { buyer: named.address })
    const { orderId, paymentReference } = (await basket.checkout()).body
    expect(ids(await get('/by-buyer', named))).toEqual([])
    await market.pay(named.account, fixture.gateway, 5, paymentReference)
    await until('it is listed', async () => ids(await get('/by-buyer', named)).includes(orderId))
  })
})
