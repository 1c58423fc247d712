import { nameProfileOfContract, deploySafe } from './devChain.ts'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { JSONLD, type Market, openFixture, openMarket, ORDERS, type Person, type Seller } from './market.ts'

// market-api.md 10.2 over HTTP.

let market: Market
let fixture: Awaited<ReturnType<typeof openFixture>>
let buyer: Person

beforeAll(async () => {
  market = await openMarket()
  fixture = await openFixture(market, {
    named: { offer: { price: 2, requiredSlots: ['customer'] }, stock: 10 },
    veteran: { offer: { price: 3, requiredSlots: ['contactPoint.email'] }, stock: 5 },
    shippingaddress: { offer: { price: 3, requiredSlots: ['shippingAddress'] }, stock: 5 },
    billingaddress: { offer: { price: 3, requiredSlots: ['billingAddress'] }, stock: 5 },
    switched: { offer: { price: 3 }, stock: 5 },
    fleeting: { offer: { price: 3 }, stock: 5 },
  })
  buyer = await market.signIn()
})
afterAll(() => market?.close())

const TEXT = ['https://schema.org/Text']
/** A requirement as wallets read it; `blocking` has to be there (clients.md 7). */
const requirement = (more: object) => ({
  reason: expect.any(String),
  cardinality: { min: 1, max: 1 },
  foundAt: null,
  foundType: null,
  scope: 'basket',
  itemIndexes: null,
  blocking: true,
  ...more,
})

describe('POST …/validate', () => {
  it('market-api:A-040 wants a line', async () => {
    const basket = await market.basket()
    const { status, headers, body } = await basket.validate()
    expect([status, headers.get('content-type')]).toEqual([200, JSONLD])
    expect(body).toEqual({
      '@context': 'https://schema.org/',
      '@type': 'Thing',
      basketId: basket.id,
      valid: false,
      requirements: [
        requirement({
          id: 'req:items-nonempty',
          ruleId: 'rule:items-nonempty',
          reason: 'Basket must contain at least one item',
          slot: 'items',
          path: '/items',
          expectedTypes: [],
          cardinality: { min: 1, max: 500 },
          status: 'missing',
        }),
      ],
      missing: [{ slot: 'items', path: '/items', expectedTypes: [] }],
      ruleTrace: [{ id: 'rule:items-nonempty', evaluated: true, result: 'missing' }],
    })
  })

  it('market-api:A-041 wants nothing for what needs nothing', async () => {
    const { status, body } = await (await market.basket([fixture.tee()])).validate()
    expect(status).toBe(200)
    expect(body).toMatchObject({ valid: true, requirements: [], missing: [], ruleTrace: [] })
  })

  it('market-api:A-042 A-043 W-23 wants the email an offer asks for, present and in the form of one', async () => {
    const basket = await market.basket([fixture.mug()])
    const asked = (status: string) =>
      requirement({
        id: 'req:slot:contactPoint.email',
        ruleId: 'rule:offer-required-slots',
        reason: 'Offer requires contactPoint.email',
        slot: 'contactPoint.email',
        path: '/contactPoint/email',
        expectedTypes: TEXT,
        status,
      })
    const before = await basket.validate()
    expect(before.status).toBe(200)
    expect(before.body).toMatchObject({
      valid: false,
      missing: [{ slot: 'contactPoint.email', path: '/contactPoint/email', expectedTypes: TEXT }],
      ruleTrace: [{ id: 'rule:offer-required-slots', evaluated: true, result: 'missing' }],
    })
    expect(before.body.requirements).toEqual([asked('missing')])

    await basket.patch({ contactPoint: { '@type': 'ContactPoint', email: '  ' } })
    expect((await basket.validate()).body.requirements).toEqual([asked('missing')])

    await basket.patch({ contactPoint: { '@type': 'ContactPoint', email: 'ada@example.com' } })
    const after = await basket.validate()
    expect(after.body).toMatchObject({ valid: true, missing: [] })
    expect(after.body.requirements).toEqual([asked('ok')])
  })

  it('market-api:A-044 wants both names where the offer asks for the customer', async () => {
    const basket = await market.basket([{ seller: fixture.s1.address, sku: 'named' }])
    const { body } = await basket.validate()
    expect(body.valid).toBe(false)
    expect(body.requirements).toEqual(
      [
        ['givenName', 'First name (givenName) is required'],
        ['familyName', 'Last name (familyName) is required'],
      ].map(([name, reason]) =>
        requirement({
          id: `req:customer:${name}`,
          ruleId: 'rule:customer-names',
          reason,
          slot: `customer.${name}`,
          path: `/customer/${name}`,
          expectedTypes: TEXT,
          status: 'missing',
        }),
      ),
    )
    expect(body.missing.map(({ slot }: { slot: string }) => slot)).toEqual([
      'customer.givenName',
      'customer.familyName',
    ])
    await basket.patch({ customer: { '@type': 'Person', givenName: 'Ada', familyName: 'Lovelace' } })
    expect((await basket.validate()).body.valid).toBe(true)
  })

  // catalog.md 5.2 has the catalog refuse such an offer, so decision: 422 invalid_offer, as for every refused offer.
  it('market-api:A-045 W-23 sells nothing that asks for a slot nobody knows', async () => {
    const answer = await (await market.basket()).put([{ seller: fixture.s1.address, sku: 'novel' }])
    expect([answer.status, answer.body.code]).toEqual([422, 'invalid_offer'])
  })

  it('market-api:A-045 W-23 blocks one that an older market has let into the index', async () => {
    const { s1 } = fixture
    const basket = await market.basket([{ seller: s1.address, sku: 'veteran' }])
    await market.sql`
      update catalog_payloads set document = replace(document::text, 'contactPoint.email', 'vehicle.plate')::jsonb
        where document->>'sku' = 'veteran' and cid = (
          select product_cid from catalog_products
            where seller_address = ${s1.address} and sku = 'veteran' and removed_revision is null)`
    const { status, body } = await basket.validate()
    expect(status).toBe(200)
    expect(body.valid).toBe(false)
    expect(body.requirements).toEqual([
      requirement({
        id: 'req:slot:vehicle.plate',
        ruleId: 'rule:offer-required-slots',
        slot: 'vehicle.plate',
        path: '/vehicle/plate',
        expectedTypes: [],
        status: 'missing',
      }),
    ])
  })

  it.each([
    ['not-an-email', 'invalidShape'],
    ['ada@example.com', 'ok'],
    ['a b@example.com', 'invalidShape'],
    ['@', 'invalidShape'],
  ])('market-api:A-046 W-23 finds the email %s %s', async (email, status) => {
    const basket = await market.basket([fixture.mug()])
    await basket.patch({ contactPoint: { email } })
    const { body } = await basket.validate()
    expect(body).toMatchObject({ valid: status === 'ok', requirements: [{ slot: 'contactPoint.email', status }] })
    expect(body.missing).toEqual([])
  })

  it.each(['shippingAddress', 'billingAddress'] as const)(
    'W-23 wants a %s with all that a parcel needs',
    async (slot) => {
      const { s1 } = fixture
      const sku = slot.toLowerCase()
      const basket = await market.basket([{ seller: s1.address, sku }])
      const status = async (address: object | null) => {
        await basket.patch({ [slot]: address })
        return (await basket.validate()).body.requirements[0].status
      }
      const address = { streetAddress: 'Quay 1', addressLocality: 'Hamburg', postalCode: '20457', addressCountry: 'DE' }
      expect(await status({})).toBe('missing')
      expect(await status({ ...address, postalCode: '' })).toBe('missing')
      expect(await status(address)).toBe('ok')
      expect(await status(null)).toBe('missing')
    },
  )

  it('W-24 decision: says typeMismatch where a client gave a slot the wrong @type, and shows the right one', async () => {
    const basket = await market.basket([fixture.mug()])
    const patched = await basket.patch({ contactPoint: { '@type': 'PostalAddress', email: 'ada@example.com' } })
    expect(patched.status).toBe(200)
    expect(patched.body.contactPoint).toMatchObject({ '@type': 'ContactPoint', email: 'ada@example.com' })
    const { body } = await basket.validate()
    expect(body.valid).toBe(false)
    expect(body.requirements).toMatchObject([{ slot: 'contactPoint.email', status: 'typeMismatch' }])
    await basket.patch({ contactPoint: { '@type': 'ContactPoint', email: 'ada@example.com' } })
    expect((await basket.validate()).body.valid).toBe(true)
  })

  it('market-api:A-047 has nothing to say about a basket that is checked out', async () => {
    const basket = await market.basket([fixture.tee()], { buyer: buyer.address })
    expect((await basket.checkout()).status).toBe(201)
    const answer = await basket.validate()
    expect([answer.status, answer.headers.get('content-type')]).toEqual([409, JSONLD])
    expect(answer.body).toMatchObject({ error: expect.any(String), code: expect.any(String) })
    expect((await basket.preview()).status).toBe(409)
  })

  it('market-api:A-048 sees that a route was switched off', async () => {
    const { s1 } = fixture
    const basket = await market.basket([{ seller: s1.address, sku: 'switched' }])
    expect((await basket.validate()).body.valid).toBe(true)
    await s1.route('switched', { enabled: false })
    const refused = await basket.validate()
    expect(refused.status).toBe(422)
    expect(refused.body.error).toMatch(/^Product not configured for seller=/)
  })

  it('market-api:A-049 W-15 changes nothing about the basket, nor does preview', async () => {
    const basket = await market.basket([fixture.tee()], { buyer: buyer.address })
    const row = () => market.sql`select * from baskets where basket_id = ${basket.id}`
    const before = [...(await row())]
    const seen = (await basket.get()).body
    for (const ask of [basket.validate, basket.preview, basket.get]) expect((await ask()).status).toBe(200)
    expect([...(await row())]).toEqual(before)
    expect((await basket.get()).body).toEqual(seen)
  })

  it("market-api:A-053 W-56 says 502 when the chain can not be asked about a Safe's signature", async () => {
    const { sku, safe, shop } = await sellerWithSafe()
    const basket = await market.basket([{ seller: safe, sku }])
    await market.failChainReads(safe, true)
    try {
      // An index that has not seen this seller: what was verified once needs no chain.
      await market.sql`delete from catalog_avatars where avatar = ${safe}`
      const refused = await until('the seller was looked at again', async () => {
        const answer = await basket.validate()
        return answer.status !== 200 && answer.body.code !== 'product_not_found' && answer
      })
      expect([refused.status, refused.body.code]).toEqual([502, 'catalog_unavailable'])
      expect(refused.headers.get('content-type')).toBe(JSONLD)
      expect((await shop()).status).toBe(502)
    } finally {
      await market.failChainReads(safe, false)
    }
  })
})

/** A Safe that sells: its catalog's links are signed by its owner for the Safe. */
async function sellerWithSafe() {
  const owner: Seller = await market.seller()
  const safe = await deploySafe(market.place.rpcUrl, [owner.address], 1)
  const sku = 'vault'
  await market.sql`
    insert into market_service_routes (chain_id, seller_address, sku, offer_type) values (100, ${safe}, ${sku}, 'codedispenser')`
  await market.adapterFor(safe, sku, { stock: 5 })
  const profile = await owner.publishAs(safe, { [sku]: { price: 3 } })
  await nameProfileOfContract(market.place.rpcUrl, safe, profile)
  const shop = async () => (await market.basket()).put([{ seller: safe, sku }])
  await until('the Safe sells', async () => (await shop()).status === 200)
  return { safe, sku, shop }
}

describe('POST …/preview', () => {
  it('market-api:A-050 shows the order it would become, and makes none', async () => {
    const basket = await market.basket([fixture.tee(2)], { token: buyer.token })
    const { status, headers, body } = await basket.preview()
    expect([status, headers.get('content-type')]).toEqual([200, JSONLD])
    expect(body).toMatchObject({
      '@type': 'Order',
      orderNumber: expect.stringMatching(/^ord_[0-9A-F]{32}$/),
      paymentReference: '',
      outbox: [],
      customer: { '@id': `eip155:100:${buyer.address}` },
      totalPaymentDue: { '@type': 'PriceSpecification', price: 38, priceCurrency: 'CRC' },
      orderedItem: [{ orderQuantity: 2, orderedItem: { sku: 'tee-black' } }],
    })
    const read = await market.call('GET', `${ORDERS}/${body.orderNumber}`, { token: buyer.token })
    expect(read.status).toBe(404)
    expect((await market.call('GET', `${ORDERS}/by-buyer`, { token: buyer.token })).body.items).not.toContainEqual(
      expect.objectContaining({ orderNumber: body.orderNumber }),
    )
  })

  it('market-api:A-051 says what is missing', async () => {
    const basket = await market.basket([fixture.mug()])
    const answer = await basket.preview()
    expect([answer.status, answer.headers.get('content-type')]).toEqual([400, JSONLD])
    expect(answer.body).toMatchObject({
      error: 'invalid basket',
      validation: { valid: false, missing: [{ slot: 'contactPoint.email' }] },
    })
    expect((await (await market.basket()).preview()).body.validation.missing[0].slot).toBe('items')
  })

  it('market-api:A-052 W-27 says that a product is gone', async () => {
    const { s1 } = fixture
    const basket = await market.basket([{ seller: s1.address, sku: 'fleeting' }])
    await s1.publish({ fleeting: null })
    const answer = await basket.preview()
    expect([answer.status, answer.headers.get('content-type')]).toEqual([422, JSONLD])
    expect(answer.body).toMatchObject({
      error: expect.stringMatching(/^Product not found /),
      code: 'product_not_found',
    })
    expect((await basket.validate()).status).toBe(422)
  })
})
