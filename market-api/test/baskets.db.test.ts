import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { BUYER, itemsOf, startShop } from './shop.ts'

const STRANGER = `0x${'c0'.repeat(20)}`
const MAKER = `0x${'d0'.repeat(20)}`

let shop: Awaited<ReturnType<typeof startShop>>
beforeAll(async () => {
  shop = await startShop()
})
afterAll(() => shop?.close())

const create = async (sent: object, headers: Record<string, string> = {}) => {
  const { body } = await shop.cart('POST', '', sent, headers)
  return { path: `/${body.basketId}`, basketToken: body.basketToken as string }
}
const statusOf = async (path: string, headers: Record<string, string> = {}) =>
  (await shop.cart('GET', path, undefined, headers)).status

describe('whose basket it is (architecture §3)', () => {
  it('anybody opens one that no token was used on; a foreign token makes no difference', async () => {
    const { path } = await create({ buyer: BUYER })
    expect(await statusOf(path)).toBe(200)
    expect(await statusOf(path, await shop.tokenOf(STRANGER))).toBe(200)
    expect(await statusOf(path, { Authorization: 'Bearer of.some.other' })).toBe(200)
  })

  it('market-api:A-033 once its buyer came with a token, other tokens find nothing, and no token still does', async () => {
    const { path } = await create({ buyer: BUYER })
    expect(await statusOf(path, await shop.tokenOf(BUYER))).toBe(200)
    const stranger = await shop.cart('GET', path, undefined, await shop.tokenOf(STRANGER))
    expect([stranger.status, stranger.body.code]).toEqual([404, 'basket_not_found'])
    expect((await shop.cart('PATCH', path, {}, await shop.tokenOf(STRANGER))).status).toBe(404)
    expect(await statusOf(path)).toBe(200)
  })

  it('clients:5 a basket made for one avatar with the token of another goes on to work with both', async () => {
    const { path } = await create({ buyer: BUYER }, await shop.tokenOf(MAKER))
    expect(await statusOf(path, await shop.tokenOf(BUYER))).toBe(200)
    expect(await statusOf(path, await shop.tokenOf(MAKER))).toBe(200)
    expect(await statusOf(path, await shop.tokenOf(STRANGER))).toBe(404)
  })

  it('is of who made it signed in, when no buyer is named', async () => {
    const { path } = await create({}, await shop.tokenOf(BUYER))
    expect((await shop.cart('GET', path)).body.buyer).toBe(BUYER)
    expect(await statusOf(path, await shop.tokenOf(STRANGER))).toBe(404)
  })

  it('a token of another chain is nobody here', async () => {
    const { token } = await shop.ctx.tokens.issue({ address: BUYER, chainId: 1 }, 'x')
    const { path } = await create({ buyer: BUYER }, { Authorization: `Bearer ${token}` })
    const row = await shop.ctx.db.selectFrom('baskets').selectAll().where('basket_id', '=', path.slice(1)).execute()
    expect(row).toMatchObject([{ owned: false, maker_address: null }])
  })

  it('market-api:A-032 its own token, once used, is needed from then on, or its buyer', async () => {
    const { path, basketToken } = await create({ buyer: BUYER })
    expect(basketToken).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect(await statusOf(path)).toBe(200)
    expect(await statusOf(path, { 'X-Basket-Token': 'guessed' })).toBe(404)
    expect(await statusOf(path), 'a wrong token closes nothing').toBe(200)
    expect(await statusOf(path, { 'X-Basket-Token': basketToken })).toBe(200)
    expect(await statusOf(path)).toBe(404)
    expect((await shop.cart('POST', `${path}/checkout`)).status).toBe(404)
    expect(await statusOf(path, { 'X-Basket-Token': basketToken })).toBe(200)
    expect(await statusOf(path, await shop.tokenOf(BUYER))).toBe(200)
  })

  it('keeps no token that could be used', async () => {
    const { path, basketToken } = await create({})
    const row = await shop.ctx.db
      .selectFrom('baskets')
      .selectAll()
      .where('basket_id', '=', path.slice(1))
      .executeTakeFirstOrThrow()
    expect(JSON.stringify(row)).not.toContain(basketToken)
    expect(row.token_hash).toHaveLength(32)
  })
})

describe('versions', () => {
  it('market-api:A-029 every answer carries its version, and If-Match is held to', async () => {
    const created = await shop.cart('POST', '', {})
    const path = `/${created.body.basketId}`
    expect(created.etag).toBe('"0"')
    const patched = await shop.cart('PATCH', path, { ttlSeconds: 100 }, { 'If-Match': '"0"' })
    expect([patched.status, patched.etag, patched.body.version]).toEqual([200, '"1"', 1])
    for (const [method, step, sent] of [
      ['PATCH', '', { ttlSeconds: 200 }],
      ['POST', '/validate', undefined],
      ['POST', '/preview', undefined],
    ] as const) {
      const refused = await shop.cart(method, path + step, sent, { 'If-Match': '"0"' })
      expect([refused.status, refused.body.code, refused.body.details]).toEqual([
        412,
        'basket_version_conflict',
        { version: 1 },
      ])
    }
    expect((await shop.cart('GET', path)).body.ttlSeconds).toBe(100)
    for (const tag of ['*', '"1"', 'W/"1"', '"7", "1"']) {
      const validated = await shop.cart('POST', `${path}/validate`, undefined, { 'If-Match': tag })
      expect([tag, validated.status, validated.etag]).toEqual([tag, 200, '"1"'])
    }
  })

  it('of two patches with the same If-Match one is taken', async () => {
    const { path } = await create({})
    const patches = await Promise.all(
      Array.from({ length: 10 }, (_, i) => shop.cart('PATCH', path, { ttlSeconds: i + 1000 }, { 'If-Match': '"0"' })),
    )
    expect(patches.map(({ status }) => status).toSorted()).toEqual([200, ...Array.from({ length: 9 }, () => 412)])
    expect((await shop.cart('GET', path)).body.version).toBe(1)
  })

  it('market-api:A-030 patches of different members at once all stay', async () => {
    const { path } = await create({})
    const members = {
      customer: { givenName: 'Ada' },
      contactPoint: { email: 'ada@example.com' },
      billingAddress: { postalCode: '24103' },
      shippingAddress: { '@type': 'Wrong', postalCode: '24104' },
    }
    const patches = Object.entries(members).map(([name, value]) => shop.cart('PATCH', path, { [name]: value }))
    expect((await Promise.all(patches)).map(({ status }) => status)).toEqual([200, 200, 200, 200])
    const { body } = await shop.cart('GET', path)
    expect(body).toMatchObject({ ...members, shippingAddress: { '@type': 'PostalAddress', postalCode: '24104' } })
    expect(body.version).toBe(4)
  })
})

describe('a patch', () => {
  it('replaces the members it has, whole, as wallets that leave emptied fields out need', async () => {
    const { path } = await create({})
    await shop.cart('PATCH', path, { contactPoint: { email: 'ada@example.com', telephone: '+49 431 1' } })
    const { body } = await shop.cart('PATCH', path, { contactPoint: { email: 'ada@example.org' } })
    expect(body.contactPoint).toEqual({ '@type': 'ContactPoint', email: 'ada@example.org', telephone: null })
  })

  it('goes to the bottom as application/merge-patch+json (RFC 7396)', async () => {
    const { path } = await create({})
    const merge = (sent: object) =>
      shop.cart('PATCH', path, sent, { 'Content-Type': 'application/merge-patch+json; charset=utf-8' })
    await merge({ contactPoint: { email: 'ada@example.com', telephone: '+49 431 1' } })
    const changed = await merge({ contactPoint: { email: 'ada@example.org' } })
    expect(changed.body.contactPoint).toMatchObject({ email: 'ada@example.org', telephone: '+49 431 1' })
    const cleared = await merge({ contactPoint: { telephone: null } })
    expect(cleared.body.contactPoint).toMatchObject({ email: 'ada@example.org', telephone: null })
    expect((await merge({ contactPoint: null })).body.contactPoint).toBeNull()
    const both = await Promise.all([
      merge({ contactPoint: { email: 'a@b.example' } }),
      merge({ contactPoint: { telephone: '12345' } }),
    ])
    expect(both.map(({ status }) => status)).toEqual([200, 200])
    expect((await shop.cart('GET', path)).body.contactPoint).toMatchObject({
      email: 'a@b.example',
      telephone: '12345',
    })
  })

  it('says what of the wrong type was sent, shows the right one, and forgets it with the next', async () => {
    const seller = shop.seller(1)
    await shop.sell(seller, [await shop.made(seller, 'mug', 5, 'CRC', { requiredSlots: ['contactPoint.email'] })])
    const path = await shop.basketOf([{ seller, sku: 'mug' }])
    const sent = { contactPoint: { '@type': 'Person', email: 'ada@example.com' } }
    const { body } = await shop.cart('PATCH', path, sent)
    expect(body.contactPoint['@type']).toBe('ContactPoint')
    expect(body).not.toHaveProperty('sentTypes')
    const wrong = await shop.cart('POST', `${path}/validate`)
    expect(wrong.body).toMatchObject({
      valid: false,
      requirements: [{ status: 'typeMismatch', foundAt: '/contactPoint', foundType: 'Person' }],
      missing: [],
    })
    expect((await shop.cart('POST', `${path}/checkout`)).body).toMatchObject({
      error: 'invalid basket',
      validation: { valid: false },
    })
    await shop.cart('PATCH', path, { contactPoint: { email: 'ada@example.com' } })
    expect((await shop.cart('POST', `${path}/validate`)).body.valid).toBe(true)
  })

  it('chooses among the offers of a product by its index (W-25)', async () => {
    const seller = shop.seller(2)
    const product = await seller.offer('two', 5, Math.floor(Date.now() / 1000) - 100, {
      offers: [5, 9].map((price) => ({ '@type': 'Offer', price, priceCurrency: 'CRC' })),
    })
    await shop.sell(seller, [product])
    const [path] = [await shop.emptyBasket()]
    const at = (offerIndex?: number) => {
      const [item] = itemsOf([{ seller, sku: 'two' }]).items
      return shop.cart('PATCH', path, { items: [{ ...item, offerIndex }] })
    }
    expect((await at()).body.items[0].offerSnapshot.price).toBe(5)
    expect((await at(1)).body.items[0]).toMatchObject({ offerIndex: 1, offerSnapshot: { price: 9 } })
    expect((await shop.cart('POST', `${path}/validate`)).body.valid).toBe(true)
    const beyond = await at(2)
    expect([beyond.status, beyond.body.code, beyond.body.details]).toEqual([422, 'no_offer', { path: '/items/0' }])
    expect((await at(-1)).status).toBe(400)
  })

  it('asks eight adapters at a time, and once for each sku', async () => {
    const seller = shop.seller(3)
    const skus = Array.from({ length: 30 }, (_, i) => `many-${i}`)
    await shop.sell(seller, await Promise.all(skus.map((sku) => shop.made(seller, sku, 1))))
    const { adapters } = shop.ctx
    let [now, most, calls] = [0, 0, 0]
    shop.ctx.adapters = {
      ...adapters,
      inventory: async (url) => {
        calls += 1
        most = Math.max(most, ++now)
        return adapters.inventory(url).finally(() => (now -= 1))
      },
    }
    try {
      await shop.basketOf([...skus, ...skus].map((sku) => ({ seller, sku })))
    } finally {
      shop.ctx.adapters = adapters
    }
    expect([calls, most]).toEqual([30, 8])
  })
})

describe('what is not in the catalog', () => {
  it('market-api:A-074 because its price is none is told as that', async () => {
    const seller = shop.seller(4)
    await shop.sell(seller, [await shop.made(seller, 'cheap', -5)])
    const { status, body } = await shop.cart('PATCH', await shop.emptyBasket(), itemsOf([{ seller, sku: 'cheap' }]))
    expect([status, body.code, body.details]).toEqual([422, 'invalid_offer', { path: '/items/0' }])
  })

  it('market-api:A-112 because of a trigger nobody knows is refused', async () => {
    const seller = shop.seller(5)
    await shop.sell(seller, [await shop.made(seller, 'odd', 5, 'CRC', { fulfillmentTrigger: 'shipped' })])
    const { status, body } = await shop.cart('PATCH', await shop.emptyBasket(), itemsOf([{ seller, sku: 'odd' }]))
    expect([status, body.code]).toEqual([422, 'invalid_offer'])
  })

  it('market-api:A-026 because it is out of reach is a 502, changes nothing, and what is known goes on to sell', async () => {
    const seller = shop.seller(6)
    const [mug, far] = [await shop.made(seller, 'mug', 5), await shop.made(seller, 'far', 6)]
    shop.faults.set(far.cid, 'missing')
    await shop.sell(seller, [mug, far])
    const path = await shop.basketOf([{ seller, sku: 'mug' }])
    const { status, body } = await shop.cart('PATCH', path, itemsOf([{ seller, sku: 'far' }]))
    expect([status, body.code]).toEqual([502, 'catalog_unavailable'])
    expect((await shop.cart('GET', path)).body).toMatchObject({ version: 1, items: [{ orderedItem: { sku: 'mug' } }] })
    const absent = await shop.cart('PATCH', path, itemsOf([{ seller, sku: 'nope' }]))
    expect([absent.status, absent.body.error]).toEqual([
      422,
      `Product not found for seller=${seller.address}, sku=nope, chainId=100`,
    ])
  })

  it('market-api:A-053 because the chain can not say who signed it is a 502 as well', async () => {
    const seller = shop.seller(7)
    const mug = await shop.made(seller, 'mug', 5)
    const { signatures } = shop.ctx
    shop.ctx.signatures = { check: async () => ({ kind: 'unknown', reason: 'eth_call: no answer in time' }) }
    try {
      await shop.sell(seller, [mug])
    } finally {
      shop.ctx.signatures = signatures
    }
    const { status, body } = await shop.cart('PATCH', await shop.emptyBasket(), itemsOf([{ seller, sku: 'mug' }]))
    expect([status, body.code]).toEqual([502, 'catalog_unavailable'])
  })
})

it('is paid to the one gateway on record where the offer names nobody', async () => {
  const seller = shop.seller(8)
  const gateway = `0x${'9a'.repeat(20)}`
  const silent = await shop.made(seller, 'quiet', 5, 'CRC', { potentialAction: null })
  await shop.sell(seller, [silent])
  const payTo = async () =>
    (await shop.cart('PATCH', await shop.emptyBasket(), itemsOf([{ seller, sku: 'quiet' }]))).body.items[0]
      .offerSnapshot.potentialAction.recipient
  expect(await payTo()).toBeNull()
  const onRecord = (gateway_address: string) =>
    shop.ctx.db
      .insertInto('seller_gateways')
      .values({ chain_id: 100, seller_address: seller.address, gateway_address })
      .execute()
  await onRecord(gateway)
  expect(await payTo()).toEqual({ '@id': `eip155:100:${gateway}` })
  await onRecord(`0x${'9b'.repeat(20)}`)
  expect(await payTo(), 'nobody picks one of two').toBeNull()
})
