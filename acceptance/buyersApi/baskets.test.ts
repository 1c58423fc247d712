import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  basketAt,
  BASKETS,
  CHAIN_ID,
  JSONLD,
  lineOf,
  type Market,
  openFixture,
  openMarket,
  type Person,
} from './market.ts'
import { reissue } from './tokens.ts'

// market-api.md 10.1 over HTTP. Where a title names a decision, that came after the vector.

let market: Market
let fixture: Awaited<ReturnType<typeof openFixture>>
let buyer: Person
let stranger: Person

beforeAll(async () => {
  market = await openMarket()
  fixture = await openFixture(market, {
    counted: { offer: { price: 1 }, stock: 5 },
    ailing: { offer: { price: 1 } },
    hanging: { offer: { price: 1 } },
    'out-of-reach': { offer: { price: 1 }, stock: 5, lost: true },
  })
  ;[buyer, stranger] = await Promise.all([market.signIn(), market.signIn()])
})
afterAll(() => market?.close())

const create = (json: unknown = {}, options = {}) => market.call('POST', BASKETS, { json, ...options })
/** An error as existing clients parse it: a sentence, details or null, and the stable code. */
const e1 = (error: unknown, details?: unknown) =>
  expect.objectContaining({
    error,
    ...(details === undefined ? {} : { details }),
    code: expect.stringMatching(/^[a-z0-9_]+$/),
    requestId: expect.any(String),
  })
const refusal = (answer: { status: number; headers: Headers; body: unknown }) => ({
  status: answer.status,
  type: answer.headers.get('content-type'),
  body: answer.body,
})

describe('POST /baskets', () => {
  it('market-api:A-001 makes a basket; decision: its id has 32 hex digits, 128 random bits', async () => {
    const { status, headers, body } = await create()
    expect({ status, type: headers.get('content-type'), nosniff: headers.get('x-content-type-options') }).toEqual({
      status: 200,
      type: JSONLD,
      nosniff: 'nosniff',
    })
    expect(body).toMatchObject({ '@type': 'circles:Basket', basketId: expect.stringMatching(/^bkt_[0-9a-f]{32}$/) })
    const other = await create()
    expect(other.body.basketId).not.toBe(body.basketId)
  })

  it('market-api:A-002 takes null for an empty body', async () => {
    expect((await create(null)).status).toBe(200)
  })

  it('market-api:A-003 takes no body at all, without a content type', async () => {
    const answer = await market.call('POST', BASKETS)
    expect(answer.status).toBe(200)
    expect(answer.body.basketId).toMatch(/^bkt_/)
  })

  it.each(['{', '{"buyer":', 'nonsense', '"text"', '[]', '7'])(
    'market-api:A-004 refuses the body %s with 400',
    async (body) => {
      const answer = await market.call('POST', BASKETS, { body, headers: { 'Content-Type': 'application/json' } })
      expect(refusal(answer)).toEqual({ status: 400, type: JSONLD, body: e1(expect.any(String)) })
    },
  )

  it('market-api:A-005 refuses an address of wrong length, in the words clients show', async () => {
    const answer = await create({ operator: '0x123' })
    expect(answer.status).toBe(400)
    expect(answer.body.error).toBe('Address must be 42 chars and start with 0x')
    // The reference has null here; ours may say where.
    expect(answer.body).toHaveProperty('details')
  })

  it('market-api:A-006 refuses an empty address', async () => {
    const answer = await create({ buyer: '' })
    expect([answer.status, answer.body.error]).toEqual([400, 'Address is required'])
  })

  it('market-api:A-007 normalises addresses and shows every slot, empty as null', async () => {
    const shouted = market.operator.toUpperCase().replace('0X', '0X')
    const made = await create({ operator: shouted })
    const { status, headers, body } = await basketAt(market.call, made.body.basketId).get()
    expect([status, headers.get('content-type')]).toEqual([200, JSONLD])
    expect(body).toMatchObject({
      '@type': 'circles:Basket',
      basketId: made.body.basketId,
      buyer: null,
      operator: market.operator,
      chainId: 100,
      status: 'Draft',
      version: 0,
      items: [],
      customer: null,
      shippingAddress: null,
      billingAddress: null,
      ageProof: null,
      contactPoint: null,
      ttlSeconds: 86_400,
      createdAt: expect.any(Number),
      modifiedAt: expect.any(Number),
    })
    expect(Math.abs(body.createdAt - Date.now() / 1000)).toBeLessThan(60)
  })

  it('market-api:A-008 refuses a body of another type with 415', async () => {
    const answer = await market.call('POST', BASKETS, { body: '{}', headers: { 'Content-Type': 'text/plain' } })
    expect(answer.status).toBe(415)
    const json = { body: '{}', headers: { 'Content-Type': 'application/ld+json; charset=utf-8' } }
    expect((await market.call('POST', BASKETS, json)).status).toBe(200)
  })

  it.each([0, -1, 1, 10_200, 1.5, '100'])('market-api:A-009 refuses chain %j', async (chainId) => {
    expect((await create({ chainId })).status).toBe(400)
  })
})

describe('GET and the life of a basket', () => {
  it('market-api:A-010 knows no other ids', async () => {
    for (const id of ['bkt_0000000000000000000000', `bkt_${'0'.repeat(32)}`, 'nonsense', '%00']) {
      expect((await basketAt(market.call, id).get()).status, id).toBe(404)
    }
  })

  it('market-api:A-011 is gone when its time is over', async () => {
    const basket = await market.basket()
    expect((await basket.patch({ ttlSeconds: 1 })).status).toBe(200)
    const gone = await until('it expires', async () => {
      const answer = await basket.get()
      return answer.status !== 200 && answer
    })
    expect(gone.status).toBe(410)
    expect((await basket.patch({})).status).toBe(410)
    expect((await basket.validate()).status).toBe(410)
  })
})

describe('PATCH', () => {
  it('market-api:A-012 refuses members nobody may set', async () => {
    const basket = await market.basket()
    for (const name of ['foo', 'buyer', 'operator', 'chainId', 'status', 'version', 'Items', 'basketId']) {
      const answer = await basket.patch({ [name]: 1 })
      expect(refusal(answer)).toEqual({
        status: 400,
        type: JSONLD,
        body: e1(`Unknown field '${name}'`, { path: `/${name}` }),
      })
    }
    expect((await basket.get()).body.version).toBe(0)
  })

  it('market-api:A-013 looks at the members before it looks for the basket', async () => {
    const unknown = basketAt(market.call, `bkt_${'0'.repeat(32)}`)
    expect((await unknown.patch({ foo: 1 })).status).toBe(400)
    expect((await unknown.patch({})).status).toBe(404)
  })

  it.each(['[]', 'null', '"text"', '{', '{"items":[null]}', '{"items":{}}', '{"items":[],"items":[]}'])(
    'market-api:A-014 refuses the body %s with 400',
    async (body) => {
      const basket = await market.basket()
      const answer = await market.call('PATCH', `${BASKETS}/${basket.id}`, { body })
      expect(refusal(answer)).toEqual({ status: 400, type: JSONLD, body: e1(expect.any(String)) })
    },
  )

  it('market-api:A-015 keeps a basket a week at most', async () => {
    const basket = await market.basket()
    for (const ttlSeconds of [604_801, 0, -1]) {
      const answer = await basket.patch({ ttlSeconds })
      expect([answer.status, answer.body.error]).toEqual([400, 'ttlSeconds must be in range [1, 604800]'])
    }
    expect((await basket.patch({ ttlSeconds: 604_800 })).body.ttlSeconds).toBe(604_800)
  })

  it('market-api:A-016 takes 500 lines at most', async () => {
    const basket = await market.basket()
    const answer = await basket.put(Array.from({ length: 501 }, (_, i) => ({ ...fixture.tee(), sku: `none-${i}` })))
    expect([answer.status, answer.body.error]).toEqual([400, 'items.length must be <= 500'])
  })

  it.each([0, -1, 1_000_001])('market-api:A-017 refuses the quantity %d', async (quantity) => {
    const answer = await (await market.basket()).put([fixture.tee(quantity)])
    expect([answer.status, answer.body.error]).toEqual([400, 'orderQuantity out of bounds [1, 1_000_000]'])
  })

  it.each([1.5, '1', null, true])(
    'market-api:A-018 refuses the quantity %j as no whole number',
    async (orderQuantity) => {
      const answer = await (await market.basket()).patch({ items: [{ ...lineOf(fixture.tee()), orderQuantity }] })
      expect([answer.status, answer.body.error]).toEqual([400, 'Invalid basket JSON'])
    },
  )

  it('market-api:A-019 makes of a line what its seller has signed, whatever the client says about it', async () => {
    const { s1 } = fixture
    const basket = await market.basket()
    const before = await market.sql`select expires_at from baskets where basket_id = ${basket.id}`
    const items = [
      {
        ...lineOf({ seller: s1.account.address, sku: 'TEE-BLACK', quantity: 2 }),
        imageUrl: 'https://pictures.example/tee.png',
        productCid: 'QmForged',
        offerSnapshot: {
          price: 0.01,
          priceCurrency: 'EUR',
          isOneOff: true,
          fulfillmentEndpoint: 'https://evil.example',
        },
      },
    ]
    const answer = await basket.patch({ items, ttlSeconds: 90_000 })
    expect([answer.status, answer.headers.get('content-type')]).toEqual([200, JSONLD])
    expect(answer.headers.get('etag')).toBe('"1"')
    expect(answer.body).toMatchObject({ basketId: basket.id, version: 1, status: 'Draft', ttlSeconds: 90_000 })
    expect(answer.body.items).toHaveLength(1)
    expect(answer.body.items[0]).toMatchObject({
      '@type': 'OrderItem',
      orderQuantity: 2,
      orderedItem: { '@type': 'Product', sku: 'tee-black' },
      seller: s1.address,
      imageUrl: 'https://pictures.example/tee.png',
      productCid: expect.stringMatching(/^Qm[1-9A-HJ-NP-Za-km-z]{44}$/),
      offerSnapshot: {
        '@type': 'Offer',
        price: 19,
        priceCurrency: 'CRC',
        seller: { '@type': 'Organization', '@id': `eip155:100:${s1.address}` },
        fulfillmentEndpoint: null,
        isOneOff: false,
      },
    })
    expect(answer.body.items[0].productCid).not.toBe('QmForged')
    expect((await basket.get()).body).toEqual(answer.body)
    const after = await market.sql`select expires_at from baskets where basket_id = ${basket.id}`
    expect(after[0]!.expires_at.getTime()).toBeGreaterThan(before[0]!.expires_at.getTime())
  })

  it('market-api:A-020 refuses a line without a seller, and one without a sku', async () => {
    const basket = await market.basket()
    const { seller: _seller, ...noSeller } = lineOf(fixture.tee())
    for (const item of [noSeller, { ...noSeller, seller: ' ' }]) {
      const answer = await basket.patch({ items: [item] })
      expect(answer.status).toBe(400)
      expect(answer.body.error).toMatch(/^Each basket item must have a seller address/)
    }
    const answer = await basket.patch({ items: [{ ...lineOf(fixture.tee()), orderedItem: { '@type': 'Product' } }] })
    expect(answer.status).toBe(400)
    expect(answer.body.error).toMatch(/^Each basket item must have an orderedItem.sku/)
  })

  it('market-api:A-021 refuses what its seller does not offer', async () => {
    const { s1 } = fixture
    const answer = await (await market.basket()).put([{ seller: s1.address, sku: 'nope' }])
    expect(answer.status).toBe(422)
    expect(answer.body).toMatchObject({
      error: `Product not found for seller=${s1.address}, sku=nope, chainId=${CHAIN_ID}`,
      code: 'product_not_found',
    })
  })

  it('market-api:A-021 finds products of other operators in no basket of this one', async () => {
    const foreign = await create({ operator: stranger.address })
    const answer = await basketAt(market.call, foreign.body.basketId).put([fixture.tee()])
    expect([answer.status, answer.body.code]).toEqual([422, 'product_not_found'])
    const anybodys = await create({})
    expect((await basketAt(market.call, anybodys.body.basketId).put([fixture.tee()])).status).toBe(200)
  })

  it('market-api:A-022 refuses what nobody is set up to deliver', async () => {
    const answer = await (await market.basket()).put([{ seller: fixture.s1.address, sku: 'plain' }])
    expect(answer.status).toBe(422)
    expect(answer.body.error).toMatch(/^Product not configured /)
    expect(answer.body.code).toBe('not_configured')
  })

  it('market-api:A-023 adds up the lines of one sku, and asks for its stock once', async () => {
    const { s1 } = fixture
    const asked = async () =>
      (await s1.adapterCalls()).filter(({ kind, sku }) => kind === 'inventory' && sku === 'counted')
    const before = (await asked()).length
    const counted = { seller: s1.address, sku: 'counted', quantity: 3 }
    const answer = await (await market.basket()).put([counted, { ...counted, sku: 'COUNTED' }])
    expect(answer.status).toBe(422)
    expect(answer.body.error).toBe(`Requested quantity 6 for seller=${s1.address}, sku=counted exceeds inventory 5.`)
    const calls = (await asked()).slice(before)
    expect(calls).toHaveLength(1)
    expect(calls[0]!.hasKey).toBe(true)
    expect((await (await market.basket()).put([counted, { ...counted, quantity: 2 }])).status).toBe(200)
  })

  it('market-api:A-024 sells a one-off once at most', async () => {
    const print = { seller: fixture.s1.address, sku: 'print-1' }
    for (const lines of [[{ ...print, quantity: 2 }], [print, { ...print, sku: 'PRINT-1' }]]) {
      const answer = await (await market.basket()).put(lines)
      expect(answer.status).toBe(422)
      expect(answer.body.error).toMatch(
        /^One-off items cannot be ordered with quantity > 1\. Requested quantity 2 for seller=/,
      )
    }
    const answer = await (await market.basket()).put([print])
    expect(answer.body.items[0].offerSnapshot).toMatchObject({ isOneOff: true, price: 40 })
  })

  it('market-api:A-025 says that the stock could not be asked for', async () => {
    const { s1 } = fixture
    await s1.adapter('ailing', { httpStatus: 500 })
    const answer = await (await market.basket()).put([{ seller: s1.address, sku: 'ailing' }])
    expect(answer.status).toBe(422)
    expect(answer.body.error).toMatch(/^inventoryFeed error for seller=.*, sku=ailing: .*HTTP 500/)
  })

  it('market-api:A-025 does not wait for an adapter that hangs', async () => {
    const { s1 } = fixture
    await s1.adapter('hanging', { hang: 'all' })
    const started = Date.now()
    const answer = await (await market.basket()).put([{ seller: s1.address, sku: 'hanging' }])
    await s1.adapter('hanging', { hang: null })
    expect([answer.status, answer.body.error]).toEqual([422, expect.stringMatching(/^inventoryFeed error/)])
    expect(Date.now() - started).toBeLessThan(10_000)
  })

  it('market-api:A-026 W-27 says 502 when a product can not be read just now; decision: known products need no reading', async () => {
    const { s1 } = fixture
    const basket = await market.basket([fixture.tee()])
    const before = await basket.get()
    const answer = await basket.put([{ seller: s1.address, sku: 'out-of-reach' }])
    expect(refusal(answer)).toEqual({ status: 502, type: JSONLD, body: e1(expect.any(String)) })
    expect(answer.body.code).toBe('catalog_unavailable')
    expect((await basket.get()).body).toEqual(before.body)
  })

  it('market-api:A-027 W-24 clears a member by null, and replaces members whole', async () => {
    const basket = await market.basket()
    const address = { '@type': 'PostalAddress', streetAddress: 'Quay 1', addressLocality: 'Hamburg' }
    const set = await basket.patch({ shippingAddress: address, contactPoint: { email: 'a@example.com' } })
    expect(set.body.shippingAddress).toMatchObject(address)
    const replaced = await basket.patch({ shippingAddress: { '@type': 'PostalAddress', postalCode: '20457' } })
    expect(replaced.body.shippingAddress).toMatchObject({ postalCode: '20457', streetAddress: null })
    const cleared = await basket.patch({ shippingAddress: null })
    expect(cleared.status).toBe(200)
    expect(cleared.body).toMatchObject({ shippingAddress: null, contactPoint: { email: 'a@example.com' } })
    expect((await basket.get()).body.shippingAddress).toBeNull()
  })

  it('W-24 decision: merges to the bottom when the body says it is a merge patch', async () => {
    const basket = await market.basket()
    await basket.patch({ shippingAddress: { streetAddress: 'Quay 1', addressLocality: 'Hamburg' } })
    const headers = { 'Content-Type': 'application/merge-patch+json' }
    const merged = await basket.patch({ shippingAddress: { postalCode: '20457', addressLocality: null } }, { headers })
    expect(merged.status).toBe(200)
    expect(merged.body.shippingAddress).toMatchObject({
      streetAddress: 'Quay 1',
      postalCode: '20457',
      addressLocality: null,
    })
  })

  it('market-api:A-028 W-13 keeps every line together when their order changes', async () => {
    const { tee, mug } = fixture
    const lines = [tee(2, { imageUrl: 'https://pictures.example/tee.png' }), mug(1, { imageUrl: 'ipfs://mug' })]
    const basket = await market.basket(lines)
    const shown = (body: any) =>
      body.items.map((item: any) => [
        item.seller,
        item.orderedItem.sku,
        item.orderQuantity,
        item.imageUrl,
        item.offerSnapshot.price,
      ])
    const wanted = [
      [fixture.s1.address, 'tee-black', 2, 'https://pictures.example/tee.png', 19],
      [fixture.s2.address, 'mug', 1, 'ipfs://mug', 7.5],
    ]
    expect(shown((await basket.get()).body)).toEqual(wanted)
    expect(shown((await basket.put(lines.toReversed())).body)).toEqual(wanted.toReversed())
    expect(shown((await basket.get()).body)).toEqual(wanted.toReversed())
  })

  it('market-api:A-029 W-15 refuses a change of a version that is no more', async () => {
    const basket = await market.basket()
    for (const givenName of ['A', 'B', 'C']) await basket.patch({ customer: { givenName } })
    const seen = await basket.get()
    expect([seen.body.version, seen.headers.get('etag')]).toEqual([3, '"3"'])
    const late = await basket.patch({ customer: { givenName: 'D' } }, { headers: { 'If-Match': '"2"' } })
    expect([late.status, late.body.code]).toEqual([412, 'basket_version_conflict'])
    expect((await basket.get()).body).toEqual(seen.body)
    expect((await basket.validate({ headers: { 'If-Match': '"2"' } })).status).toBe(412)
    const timely = await basket.patch({ customer: { givenName: 'D' } }, { headers: { 'If-Match': '"3"' } })
    expect([timely.status, timely.headers.get('etag')]).toEqual([200, '"4"'])
    expect((await basket.patch({}, { headers: { 'If-Match': '*' } })).status).toBe(200)
    const listed = await basket.patch({}, { headers: { 'If-Match': '"1", "5", "9"' } })
    expect(listed.status).toBe(200)
  })

  it('market-api:A-030 W-15 loses neither of two changes made at once', async () => {
    await Promise.all(
      Array.from({ length: 10 }, async () => {
        const basket = await market.basket()
        const answers = await Promise.all([
          basket.patch({ customer: { givenName: 'Ada' } }),
          basket.patch({ contactPoint: { email: 'ada@example.com' } }),
        ])
        expect(answers.map(({ status }) => status)).toEqual([200, 200])
        expect((await basket.get()).body).toMatchObject({
          version: 2,
          customer: { givenName: 'Ada' },
          contactPoint: { email: 'ada@example.com' },
        })
      }),
    )
  })

  it('market-api:A-031 changes nothing that is checked out', async () => {
    const basket = await market.basket([fixture.tee()], { buyer: buyer.address })
    expect((await basket.checkout()).status).toBe(201)
    const before = await basket.get()
    const answer = await basket.patch({})
    expect(refusal(answer)).toEqual({ status: 409, type: JSONLD, body: e1(expect.any(String), null) })
    expect((await basket.get()).body).toEqual(before.body)
  })

  it.each([
    ['a name of 201 characters', { customer: { givenName: 'x'.repeat(201) } }],
    ['a street of 501', { shippingAddress: { streetAddress: 'x'.repeat(501) } }],
    ['a postal code of 33', { billingAddress: { postalCode: 'x'.repeat(33) } }],
    ['an email of 255', { contactPoint: { email: `${'x'.repeat(243)}@example.com` } }],
    ['a telephone of 33', { contactPoint: { telephone: '1'.repeat(33) } }],
    ['NUL in a text', { customer: { givenName: 'a\0b' } }],
  ])('W-24 refuses %s with 400', async (_, patch) => {
    const answer = await (await market.basket()).patch(patch)
    expect(answer.status).toBe(400)
  })

  it.each(['javascript:alert(1)', 'data:text/html,x', `https://x.example/${'x'.repeat(2050)}`])(
    'W-24 refuses the picture %.40s',
    async (imageUrl) => {
      expect((await (await market.basket()).put([fixture.tee(1, { imageUrl })])).status).toBe(400)
    },
  )

  it('refuses a body over 256 KiB with 413', async () => {
    const answer = await (await market.basket()).patch({ customer: { givenName: 'x'.repeat(300_000) } })
    expect(answer.status).toBe(413)
  })
})

describe('whose basket it is', () => {
  it('market-api:A-032 decision: nobody has to send the X-Basket-Token, but once it was used it is asked for', async () => {
    const { body } = await create({ operator: market.operator })
    expect(body.basketToken).toEqual(expect.any(String))
    const basket = basketAt(market.call, body.basketId)
    const right = { headers: { 'X-Basket-Token': body.basketToken } }
    const wrong = { headers: { 'X-Basket-Token': `${body.basketToken.slice(0, -1)}!` } }
    expect((await basket.get()).status).toBe(200)
    expect((await basket.get(wrong)).status).toBe(404)
    expect((await basket.patch({}, wrong)).status).toBe(404)
    expect((await basket.get()).status, 'a wrong token changes nothing').toBe(200)

    expect((await basket.get(right)).status).toBe(200)
    for (const own of [{}, wrong, { token: stranger.token }]) {
      expect((await basket.get(own)).status).toBe(404)
      expect((await basket.patch({}, own)).status).toBe(404)
      expect((await basket.validate(own)).status).toBe(404)
      expect((await basket.checkout(own)).status).not.toBe(201)
    }
    expect((await basket.patch({ customer: { givenName: 'Ada' } }, right)).status).toBe(200)
    expect((await basket.get(right)).body.customer.givenName).toBe('Ada')
    expect((await basket.get(right)).text).not.toContain(body.basketToken)
  })

  it('market-api:A-032 gives every basket a token of its own, which no other basket takes', async () => {
    const [one, other] = await Promise.all([create(), create()])
    const right = { headers: { 'X-Basket-Token': other.body.basketToken } }
    expect(one.body.basketToken).not.toBe(other.body.basketToken)
    expect(one.body.basketToken.length).toBeGreaterThanOrEqual(43)
    expect((await basketAt(market.call, one.body.basketId).get(right)).status).toBe(404)
  })

  it("market-api:A-033 hides a basket whose buyer's token was used from everybody else's", async () => {
    const basket = await market.basket([], { token: buyer.token })
    expect((await basket.get()).body.buyer).toBe(buyer.address)
    const as = (token?: string) => basket.as({ token })
    for (const [what, ask] of Object.entries({
      get: () => as(stranger.token).get(),
      patch: () => as(stranger.token).patch({ customer: { givenName: 'Eve' } }),
      validate: () => as(stranger.token).validate(),
      preview: () => as(stranger.token).preview(),
    })) {
      const answer = await ask()
      expect([answer.status, answer.body.code], what).toEqual([404, 'basket_not_found'])
    }
    expect((await as().get()).status, 'the id is the key (architecture 3)').toBe(200)
    const key = market.place.env.MARKET_JWT_PRIVATE_KEY!
    const expired = reissue(stranger.token, key, { exp: Math.floor(Date.now() / 1000) - 60 })
    for (const token of ['rubbish', expired]) {
      expect((await as(token).get()).status, 'a token nobody can verify is ignored').toBe(200)
    }
    expect((await basket.get()).body.customer).toBeNull()
  })

  it("market-api:A-033 a basket becomes its buyer's with the first use of their token", async () => {
    const made = await create({ operator: market.operator, buyer: buyer.address })
    const as = (token?: string) => basketAt(market.call, made.body.basketId, { token })
    expect((await as(stranger.token).get()).status, 'not owned yet').toBe(200)
    expect((await as(buyer.token).get()).status).toBe(200)
    expect((await as(stranger.token).get()).status).toBe(404)
    expect((await as().get()).status).toBe(200)
  })

  it("clients:5 a basket made with another avatar's token goes on working with it", async () => {
    const made = await create({ operator: market.operator, buyer: buyer.address }, { token: stranger.token })
    expect(made.status).toBe(200)
    const as = (token?: string) => basketAt(market.call, made.body.basketId, { token })
    expect((await as(stranger.token).get()).body.buyer).toBe(buyer.address)
    expect((await as(buyer.token).put([fixture.tee()])).status).toBe(200)
    const third = await market.signIn()
    expect((await as(third.token).get()).status).toBe(404)
    expect((await as(stranger.token).patch({ customer: { givenName: 'Ada' } })).status).toBe(200)
    expect((await as(stranger.token).validate()).status).toBe(200)
    expect((await as(stranger.token).checkout()).status).toBe(201)
  })

  it('every answer about a basket carries its version, and is for nobody to keep', async () => {
    const basket = await market.basket([fixture.tee()])
    for (const answer of [
      await basket.get(),
      await basket.patch({}),
      await basket.validate(),
      await basket.preview(),
    ]) {
      expect(answer.status).toBe(200)
      expect(answer.headers.get('etag')).toMatch(/^"[0-9]+"$/)
      expect(answer.headers.get('cache-control')).toContain('no-store')
    }
  })
})
