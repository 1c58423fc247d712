import { until } from '@market/testkit/until'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openStream } from './eventStream.ts'
import {
  type Answer,
  BASKETS,
  basketAt,
  caller,
  type Call,
  JSONLD,
  lineOf,
  type Market,
  openFixture,
  openMarket,
  ORDERS,
  outsideMarket,
  type Person,
  sharedLog,
  signIn,
} from './market.ts'
import { unsigned } from './tokens.ts'

// The [wire] marks of clients.md, and market-api.md 0. With MARKET_URL the first half asks that market and leaves nothing
// behind but empty baskets; what needs somebody to sell something is left out.

const UNKNOWN_BASKET = `${BASKETS}/bkt_${'0'.repeat(32)}`
const UNKNOWN_ORDER = `${ORDERS}/ord_${'0'.repeat(32)}`
const NOBODY = `0x${'c'.repeat(40)}`
const ORIGIN = 'https://shop.example.org'

let market: Market | undefined
let base: string
let call: Call

beforeAll(async () => {
  market = outsideMarket === undefined ? await openMarket() : undefined
  base = outsideMarket ?? market!.url
  call = caller(base)
})
afterAll(() => market?.close())

const newBasket = async (options = {}) =>
  basketAt(call, (await call('POST', BASKETS, { json: {}, ...options })).body.basketId)
const isJson = (answer: Answer) => answer.headers.get('content-type')?.includes('json') === true

describe('any market', () => {
  let person: Person
  beforeAll(async () => {
    person = await signIn(call)
  })

  it('clients:4 answers in JSON and says so, errors too', async () => {
    const basket = await newBasket()
    const catalog = `/api/operator/${NOBODY}/catalog`
    const cases: [string, Promise<Answer>, number][] = [
      ['basket', basket.get(), 200],
      ['patched basket', basket.patch({}), 200],
      ['validation', basket.validate(), 200],
      ['invalid preview', basket.preview(), 400],
      ['invalid checkout', basket.checkout(), 400],
      ['unknown field', basket.patch({ foo: 1 }), 400],
      ['no JSON', call('PATCH', `${BASKETS}/${basket.id}`, { body: '{' }), 400],
      ['no basket', call('GET', UNKNOWN_BASKET), 404],
      ['wrong type', call('POST', BASKETS, { body: '{}', headers: { 'Content-Type': 'text/plain' } }), 415],
      ['sellers', call('GET', '/api/sellers'), 200],
      ['catalog', call('GET', `${catalog}?avatars=${NOBODY}`), 200],
      ['catalog of nobody', call('GET', catalog), 400],
      ['orders', call('GET', `${ORDERS}/by-buyer`, { token: person.token }), 200],
      ['no order', call('GET', UNKNOWN_ORDER, { token: person.token }), 404],
      ['not signed in', call('GET', UNKNOWN_ORDER), 401],
      ['no challenge', call('POST', '/api/auth/challenge', { json: { address: '0x1', chainId: 100 } }), 400],
      ['stock of nothing', call('GET', `/inventory/inventory/100/${NOBODY}/nothing`), 404],
      ['no route', call('GET', '/api/nonsense'), 404],
    ]
    for (const [what, asked, status] of cases) {
      const answer = await asked
      expect([answer.status, isJson(answer)], what).toEqual([status, true])
      expect(answer.body, what).toEqual(expect.anything())
      expect(answer.headers.get('x-content-type-options'), what).toBe('nosniff')
      expect(answer.headers.get('x-request-id'), what).toMatch(/^[\w.-]+$/)
      if (status < 400) continue
      const { error, title, code, requestId } = answer.body
      expect([error ?? title, code], what).toEqual([expect.any(String), expect.stringMatching(/^[a-z0-9_]+$/)])
      expect(requestId, what).toBe(answer.headers.get('x-request-id'))
    }
  })

  it('clients:4 carts and orders are application/ld+json', async () => {
    const basket = await newBasket()
    for (const answer of [
      await call('POST', BASKETS, { json: {} }),
      await basket.get(),
      await basket.patch({}),
      await basket.validate(),
      await basket.preview(),
      await call('GET', UNKNOWN_BASKET),
      await call('GET', `${ORDERS}/by-seller`, { token: person.token }),
      await call('GET', UNKNOWN_ORDER, { token: person.token }),
      await call('GET', `/api/operator/${NOBODY}/catalog?avatars=${NOBODY}`),
    ]) {
      expect(answer.headers.get('content-type')).toBe(JSONLD)
    }
  })

  it('clients:4 validate, preview and checkout are POSTs without body and type', async () => {
    const { id } = await newBasket({ json: { buyer: NOBODY, chainId: 100 } })
    for (const [verb, status] of [
      ['validate', 200],
      ['preview', 400],
      ['checkout', 400],
    ] as const) {
      const answer = await call('POST', `${BASKETS}/${id}/${verb}`)
      expect(answer.status, verb).toBe(status)
      const { valid, requirements } = status === 200 ? answer.body : answer.body.validation
      expect([valid, requirements[0].slot]).toEqual([false, 'items'])
      if (status === 400) expect(answer.body.error).toBe('invalid basket')
    }
  })

  it('clients:7 every requirement says that it blocks', async () => {
    const { requirements } = (await (await newBasket()).validate()).body
    expect(requirements).toHaveLength(1)
    for (const requirement of requirements) expect(requirement.blocking).toBe(true)
  })

  it('clients:7 PATCH {} and an empty list of items answer with the whole basket', async () => {
    const basket = await newBasket()
    for (const patch of [{}, { items: [] }]) {
      const { status, body } = await basket.patch(patch)
      expect(status).toBe(200)
      expect(body).toMatchObject({ basketId: basket.id, '@type': 'circles:Basket', status: 'Draft', items: [] })
    }
  })

  it('clients:4 a token it can not verify is ignored where nobody has to be signed in', async () => {
    const ofAnotherMarket = unsigned({
      iss: 'Circles.Market',
      aud: 'market-api',
      addr: NOBODY,
      chainId: '100',
      exp: Math.floor(Date.now() / 1000) + 600,
    })
    const catalog = `/api/operator/${NOBODY}/catalog?avatars=${NOBODY}`
    for (const token of ['rubbish', ofAnotherMarket, 'a.b.c']) {
      const made = await call('POST', BASKETS, { json: { buyer: NOBODY, chainId: 100 }, token })
      expect(made.status).toBe(200)
      const basket = basketAt(call, made.body.basketId, { token })
      for (const answer of [
        await basket.get(),
        await basket.patch({ items: [] }),
        await basket.validate(),
        await call('GET', '/api/sellers', { token }),
        await call('GET', catalog, { token }),
        await call('POST', '/api/auth/challenge', { json: { address: NOBODY, chainId: 100 }, token }),
      ]) {
        expect(answer.status).toBe(200)
      }
      expect((await basket.get()).body.buyer).toBe(NOBODY)
    }
  })

  it('clients:4 the explorer signs out on 401, and only then', async () => {
    for (const path of [UNKNOWN_ORDER, `${ORDERS}/by-buyer`, `${ORDERS}/by-seller`, `${ORDERS}/events`]) {
      for (const token of [undefined, 'rubbish']) {
        const answer = await call('GET', path, { token })
        expect([answer.status, answer.headers.get('www-authenticate')], path).toEqual([
          401,
          expect.stringMatching(/^Bearer/),
        ])
      }
      expect((await call('HEAD', path, { token: person.token })).status, path).not.toBe(401)
    }
  })

  it('clients:4 addresses may be in checksum case anywhere', async () => {
    const account = privateKeyToAccount(generatePrivateKey())
    const made = await call('POST', BASKETS, { json: { buyer: account.address, operator: account.address } })
    const { body } = await basketAt(call, made.body.basketId).get()
    expect([body.buyer, body.operator]).toEqual([account.address.toLowerCase(), account.address.toLowerCase()])
    const catalog = await call('GET', `/api/operator/${account.address}/catalog?avatars=${account.address}`)
    expect(catalog.body.operator).toBe(account.address.toLowerCase())
    expect((await call('GET', `/inventory/inventory/100/${account.address}/nothing`)).status).toBe(404)
  })

  it('clients:5 signs a plain key in, and says who it is in the types clients read', async () => {
    const account = privateKeyToAccount(generatePrivateKey())
    const asked = await call('POST', '/api/auth/challenge', { json: { address: account.address, chainId: 100 } })
    expect(asked.body).toMatchObject({ challengeId: expect.any(String), message: expect.any(String) })
    const signature = await account.signMessage({ message: asked.body.message })
    const { body } = await call('POST', '/api/auth/verify', {
      json: { challengeId: asked.body.challengeId, signature },
      headers: { 'Content-Type': 'application/json; charset=utf-8' },
    })
    expect(body).toEqual({
      token: expect.any(String),
      expiresIn: expect.any(Number),
      address: account.address.toLowerCase(),
      chainId: 100,
    })
  })

  it('clients:6 lists sellers as a plain array, and a catalog without being told the chain', async () => {
    const sellers = await call('GET', '/api/sellers')
    expect(Array.isArray(sellers.body)).toBe(true)
    for (const one of sellers.body) {
      expect(one).toEqual({ chainId: expect.any(Number), seller: expect.stringMatching(/^0x[0-9a-f]{40}$/) })
    }
    const catalog = await call('GET', `/api/operator/${NOBODY}/catalog?avatars=${NOBODY}`)
    expect(catalog.body).toMatchObject({ '@type': 'AggregatedCatalog', chainId: 100, products: [] })
  })

  it('clients:8 lists end with an empty page, and being no seller is no error', async () => {
    for (const path of ['/by-buyer', '/by-buyer?', '/by-buyer?page=2&pageSize=50', '/by-seller', '/by-seller?page=7']) {
      const answer = await call('GET', ORDERS + path, { token: person.token })
      expect([answer.status, answer.body.items], path).toEqual([200, []])
    }
    const batch = await call('POST', `${ORDERS}/batch`, {
      body: JSON.stringify({ orderIds: [UNKNOWN_ORDER.slice(-36)] }),
      headers: { 'Content-Type': JSONLD },
      token: person.token,
    })
    expect([batch.status, batch.body.items]).toEqual([200, []])
  })

  it('clients:8 sends the headers of a stream at once, and nothing but LF', async () => {
    const stream = await openStream(`${base}${ORDERS}/events`, { token: person.token })
    expect(stream.status).toBe(200)
    expect(stream.headers.get('content-type')).toMatch(/^text\/event-stream/)
    expect(stream.headers.get('content-encoding')).toBeNull()
    await until('it shows that it lives', () => stream.text() !== '', 30)
    expect(stream.text()).not.toContain('\r')
    expect(stream.ended()).toBe(false)
    stream.close()
  })

  describe('a page of any origin', () => {
    it.each([
      ['POST', BASKETS],
      ['PATCH', UNKNOWN_BASKET],
      ['POST', `${UNKNOWN_BASKET}/checkout`],
      ['GET', `${ORDERS}/by-buyer`],
      ['GET', `${ORDERS}/events`],
      ['POST', '/api/auth/verify'],
      ['PUT', '/admin/routes'],
      ['DELETE', '/admin/routes/100/x/y'],
    ])('clients:4 may send %s %s', async (method, path) => {
      const { status, headers } = await call('OPTIONS', path, {
        headers: {
          Origin: ORIGIN,
          'Access-Control-Request-Method': method,
          'Access-Control-Request-Headers': 'authorization,content-type,if-match,idempotency-key,x-basket-token',
        },
      })
      expect([200, 204]).toContain(status)
      expect(headers.get('access-control-allow-origin')).toBe(ORIGIN)
      expect(headers.get('access-control-allow-methods')).toContain(method)
      const allowed = (headers.get('access-control-allow-headers') ?? '').toLowerCase().split(/, */)
      for (const name of ['authorization', 'content-type', 'if-match', 'idempotency-key', 'x-basket-token']) {
        expect(allowed).toContain(name)
      }
    })

    it('clients:4 may read every answer, and the headers it needs', async () => {
      const headers = { Origin: ORIGIN }
      const basket = await newBasket()
      for (const [status, answer] of [
        [200, await call('GET', '/api/sellers', { headers })],
        [200, await basket.get({ headers })],
        [400, await basket.patch({ foo: 1 }, { headers })],
        [400, await basket.checkout({ headers })],
        [401, await call('GET', UNKNOWN_ORDER, { headers })],
        [404, await call('GET', UNKNOWN_BASKET, { headers })],
        [404, await call('GET', '/api/nonsense', { headers })],
        [405, await call('DELETE', BASKETS, { headers })],
        [415, await call('POST', BASKETS, { body: '{}', headers: { ...headers, 'Content-Type': 'text/plain' } })],
      ] as const) {
        expect(answer.status).toBe(status)
        expect(answer.headers.get('access-control-allow-origin'), String(status)).toBe(ORIGIN)
        expect(answer.headers.get('vary'), String(status)).toContain('Origin')
        const exposed = (answer.headers.get('access-control-expose-headers') ?? '').toLowerCase().split(/, */)
        for (const name of ['x-next-cursor', 'link', 'etag', 'retry-after']) expect(exposed).toContain(name)
      }
    })
  })

  it('market-api:0.5 says which methods there are', async () => {
    const answer = await call('DELETE', BASKETS)
    expect([answer.status, answer.headers.get('allow')]).toEqual([405, expect.stringContaining('POST')])
  })

  it('market-api:8.4 has nothing private kept by a cache', async () => {
    const basket = await newBasket()
    const { address } = person
    for (const answer of [
      await basket.get(),
      await basket.checkout(),
      await call('GET', UNKNOWN_BASKET),
      await call('GET', `${ORDERS}/by-buyer`, { token: person.token }),
      await call('GET', UNKNOWN_ORDER),
      await call('POST', '/api/auth/challenge', { json: { address, chainId: 100 } }),
      await call('POST', '/api/auth/verify', { json: {} }),
    ]) {
      expect(answer.headers.get('cache-control')).toContain('no-store')
      expect(answer.headers.get('referrer-policy')).toBe('no-referrer')
    }
  })
})

describe.skipIf(outsideMarket !== undefined)('a market with something to sell', () => {
  let own: Market
  let fixture: Awaited<ReturnType<typeof openFixture>>

  beforeAll(async () => {
    own = market!
    fixture = await openFixture(own)
    await fixture.s1.adapter('tee-black', { stock: 1000 })
  })

  const offersOf = (page: Answer): any[] => page.body.products.flatMap(({ product }: any) => product.offers)

  it('clients:3 writes URLs from its configured base, whatever the request says', async () => {
    // With the slash that people put at its end.
    const there = await own.replica({ PUBLIC_BASE_URL: 'https://shop.example.org:18080/market/' })
    const prefix = 'https://shop.example.org:18080/market'
    const path = `/api/operator/${own.operator}/catalog?avatars=${fixture.s1.address}&pageSize=1`
    const headers = { 'X-Forwarded-Proto': 'ftp', 'X-Forwarded-Host': 'evil.example', 'X-Forwarded-Prefix': '/evil' }
    const first = await there.call('GET', path, { headers })
    expect(first.headers.get('link')).toMatch(`<${prefix}/api/operator/${own.operator}/catalog?`)
    const all = await there.call('GET', path.replace('pageSize=1', 'pageSize=100'), { headers })
    const { product } = all.body.products.find((item: any) => item.product.sku === 'tee-black')
    expect([product.offers[0].availabilityFeed, product.offers[0].inventoryFeed]).toEqual(
      ['availability', 'inventory'].map((kind) => `${prefix}/inventory/${kind}/100/${fixture.s1.address}/tee-black`),
    )
    const buyer = await own.signIn()
    for (let i = 0; i < 2; i += 1) await (await own.basket([fixture.book()], { token: buyer.token })).checkout()
    const orders = await there.call('GET', `${ORDERS}/by-buyer?pageSize=1`, { token: buyer.token, headers })
    expect(orders.headers.get('link')).toMatch(`<${prefix}${ORDERS}/by-buyer?`)
    await there.stop()
  })

  it('clients:6 gives the feed that shows the button, prices as numbers, and no address of an adapter', async () => {
    const page = await own.call('GET', `/api/operator/${own.operator}/catalog?avatars=${fixture.s1.address}`)
    const bySku = (sku: string) =>
      page.body.products.find(({ product }: any) => product.sku === sku).product.offers[0] as Record<string, any>
    expect(bySku('tee-black').availabilityFeed).toBe(
      `${own.url}/inventory/availability/100/${fixture.s1.address}/tee-black`,
    )
    expect(bySku('plain').availabilityFeed).toBeNull()
    for (const offer of offersOf(page)) {
      expect(offer.price).toEqual(expect.any(Number))
      expect(offer.fulfillmentEndpoint).toBeNull()
    }
    expect(page.text).not.toContain(own.place.adapterUrl)
    const feed = await own.call('GET', new URL(bySku('tee-black').availabilityFeed).pathname)
    expect(feed.body).toBe('https://schema.org/InStock')
    const stock = await own.call('GET', new URL(bySku('tee-black').inventoryFeed).pathname)
    expect(stock.body).toMatchObject({ '@type': 'QuantitativeValue', value: expect.any(Number) })
  })

  it('clients:7 sells to the wallet, step by step, as it always did', async () => {
    const account = privateKeyToAccount(generatePrivateKey())
    const buyer = account.address.toLowerCase()
    const { tee, mug } = fixture
    const made = await own.call('POST', BASKETS, { json: { buyer, operator: own.operator, chainId: 100 } })
    const basket = basketAt(own.call, made.body.basketId)
    expect((await basket.get()).body).toMatchObject({ buyer, status: 'Draft' })

    const imageUrl = 'https://pictures.example/tee.png'
    const { '@type': _type, ...bare } = lineOf(tee(2, { imageUrl }))
    const shown = await basket.patch({ items: [bare, lineOf(mug())] })
    expect(shown.body.items[0]).toMatchObject({
      seller: fixture.s1.address,
      orderedItem: { sku: 'tee-black' },
      orderQuantity: 2,
      imageUrl,
      productCid: expect.stringMatching(/^Qm/),
      offerSnapshot: {
        price: 19,
        priceCurrency: 'CRC',
        potentialAction: { recipient: { '@id': `eip155:100:${fixture.gateway}` } },
      },
    })
    expect(shown.body.items[1].offerSnapshot.requiredSlots).toEqual(['contactPoint.email'])

    const validation = await basket.validate()
    expect(validation.body.requirements).toMatchObject([
      { slot: 'contactPoint.email', path: '/contactPoint/email', status: 'missing', blocking: true },
    ])
    expect((await basket.patch({})).status).toBe(200)
    const details = {
      shippingAddress: { '@type': 'PostalAddress', streetAddress: 'Quay 1', addressLocality: 'Hamburg' },
      contactPoint: { '@type': 'ContactPoint', email: 'ada@example.com' },
      customer: { '@type': 'Person', givenName: 'Ada' },
    }
    expect((await basket.patch(details)).body.items[0].imageUrl).toBe(imageUrl)
    expect((await basket.preview()).body.totalPaymentDue.price).toBe(45.5)

    const placed = await basket.checkout()
    expect([placed.status, Object.keys(placed.body).toSorted()]).toEqual([
      201,
      ['basketId', 'orderCid', 'orderId', 'paymentReference'],
    ])
    expect((await basket.get()).body.status.toLowerCase()).toBe('checkedout')

    const { token } = await signIn(own.call, generatePrivateKey())
    expect((await own.call('GET', `${ORDERS}/${placed.body.orderId}`, { token })).status).toBe(404)
  })

  it('clients:8 orders carry the names and pictures that both clients look for', async () => {
    const person = await own.signIn()
    const imageUrl = 'https://pictures.example/tee.png'
    const basket = await own.basket([fixture.tee(2, { imageUrl })], { token: person.token })
    const { orderId } = (await basket.checkout()).body
    const order = await own.call('GET', `${ORDERS}/${orderId}`, { token: person.token })
    expect(order.body).toMatchObject({
      orderNumber: orderId,
      orderId,
      status: order.body.orderStatus,
      createdAt: expect.stringMatching(/Z$/),
      orderedItem: [{ imageUrl, orderedItem: { name: 'The tee-black', sku: 'tee-black' } }],
      items: [{ name: 'The tee-black', sku: 'tee-black', quantity: 2, price: 19 }],
    })
    const { items } = (await own.call('GET', `${ORDERS}/by-buyer`, { token: person.token })).body
    expect(items).toEqual([order.body])
  })

  it('clients:9 pins under both paths and names it in CIDv0', async () => {
    const document = JSON.stringify({
      '@context': 'https://aboutcircles.com/contexts/circles-chat/',
      '@type': 'BasicMessage',
      from: NOBODY,
      to: NOBODY,
      text: 'ahoy',
      ts: 1_700_000_000,
    })
    const headers = { 'Content-Type': 'application/ld+json; charset=utf-8' }
    const cids = await Promise.all(
      ['/api/pin', '/pin'].map(async (path) => (await own.call('POST', path, { body: document, headers })).body.cid),
    )
    expect(cids).toEqual([expect.stringMatching(/^Qm[1-9A-HJ-NP-Za-km-z]{44}$/), cids[0]])
    expect((await own.call('GET', `/raw/${cids[0]}`)).text).toBe(document)
  })

  it('market-api:A-194 W-30 counts requests of each client, behind the proxies that are trusted', async () => {
    const strict = await own.replica({
      RATE_LIMIT_ENABLED: 'true',
      RATE_LIMIT_GLOBAL_LIMIT: '2',
      RATE_LIMIT_GLOBAL_WINDOW_SECONDS: '60',
      TRUSTED_PROXY_HOPS: '1',
    })
    const ask = (client: string, path = '/api/sellers') =>
      strict.call('GET', path, { headers: { 'X-Forwarded-For': `203.0.113.99, ${client}`, Origin: ORIGIN } })
    const [first, second, third] = [await ask('198.51.100.1'), await ask('198.51.100.1'), await ask('198.51.100.1')]
    expect([first.status, second.status, third.status]).toEqual([200, 200, 429])
    expect([first, second].map(({ headers }) => headers.get('ratelimit-remaining'))).toEqual(['1', '0'])
    expect(first.headers.get('ratelimit-limit')).toBe('2')
    const wait = Number(third.headers.get('retry-after'))
    expect(wait).toBeGreaterThan(0)
    expect(wait).toBeLessThanOrEqual(60)
    expect(third.headers.get('access-control-allow-origin')).toBe(ORIGIN)
    expect(third.body).toMatchObject({ error: expect.any(String), code: expect.any(String) })
    expect((await ask('198.51.100.2')).status, 'of another client').toBe(200)
    expect((await ask('198.51.100.1', '/health')).status, 'of a probe').toBe(200)
    await strict.stop()
  })

  it('architecture 3: keeps ids, tokens and addresses of buyers out of its log', async () => {
    const person = await own.signIn()
    const basket = await own.basket([fixture.tee()], { token: person.token })
    const personal = { email: 'secretly@hidden.example', telephone: '+49 40 5550123' }
    await basket.patch({ contactPoint: personal, shippingAddress: { streetAddress: 'Hidden Lane 99' } })
    await basket.patch({ contactPoint: { email: 7 } })
    await basket.patch({ customer: { givenName: 'x'.repeat(300) + personal.email } })
    await basket.checkout()
    const { headers } = await basket.get()
    const last = headers.get('x-request-id')!
    const log = await until('what was asked last is in the log', async () => {
      const lines = await sharedLog()
      return lines.includes(last) && lines
    })
    for (const secret of [basket.id, person.token, ...Object.values(personal), 'Hidden Lane']) {
      expect(log.includes(secret), secret).toBe(false)
    }
  })
})
