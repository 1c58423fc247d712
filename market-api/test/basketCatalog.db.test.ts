import type { CustomDataLink } from '@market/contracts/link'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { runFulfillmentJob } from './runFulfillmentJob.ts'
import { pollPayments } from '../src/payments/pollPayments.ts'
import { indexOf, OPERATOR, profileOf } from './catalogWorld.ts'
import { BUYER, itemsOf, NOW, paidInFull, startShop } from './shop.ts'

let world: Awaited<ReturnType<typeof startShop>>
beforeAll(async () => {
  world = await startShop()
})
afterAll(() => world?.close())

const cart: typeof world.cart = (...args) => world.cart(...args)
const made: typeof world.made = (...args) => world.made(...args)
const sell: typeof world.sell = (...args) => world.sell(...args)
const basketOf: typeof world.basketOf = (...args) => world.basketOf(...args)

const pricesIn = (basket: { items: { offerSnapshot: { price: number } }[] }) =>
  basket.items.map(({ offerSnapshot }) => offerSnapshot.price)
const orders = () =>
  world.ctx.db
    .selectFrom('orders')
    .select((is) => is.fn.countAll<string>().as('n'))
    .executeTakeFirstOrThrow()

describe('a basket takes what the catalog lists', () => {
  it('catalog:61 and never what the index entries point to', async () => {
    const seller = world.seller(61)
    const [older, newer, aside] = [
      await made(seller, 'mug', 24),
      await made(seller, 'mug', 26.5),
      // Signed by the seller, newer and cheaper, and in no chunk of the chain.
      await made(seller, 'mug', 1),
    ]
    const { chunks } = await sell(seller, [older, newer])
    const elsewhere = [await world.chunkWith(older), await world.chunkWith(aside)]
    for (const chunk of elsewhere) {
      const index = await world.put({ ...indexOf(chunks.at(-1)!), entries: { 'product/mug': chunk } })
      world.register(seller.address, await world.put(profileOf({ [OPERATOR]: index })))
      await world.follow()
      const { body } = await world.page({ avatars: seller.address })
      const [listed] = body.products
      const basket = await cart('GET', await basketOf([{ seller, sku: 'mug' }]))
      expect([listed.product.offers[0].price, pricesIn(basket.body)]).toEqual([26.5, [26.5]])
      expect(basket.body.items[0]).toMatchObject({ linkKeccak: listed.linkKeccak, productCid: listed.productCid })
    }
  })

  it('of its own operator, and of any for a basket without one', async () => {
    const seller = world.seller(611)
    const [here, there] = [OPERATOR, `0x${'0e'.repeat(20)}`]
    const [older, newer] = [await made(seller, 'mug', 24), await made(seller, 'mug', 26)]
    await sell(seller, [older])
    const headOf = async (link: CustomDataLink) => world.put(indexOf(await world.chunkWith(link)))
    const namespaces = { [here]: await headOf(older), [there]: await headOf(newer) }
    world.register(seller.address, await world.put(profileOf(namespaces)))
    await world.follow()
    const priceFor = async (scope: object) => {
      const { basketId } = (await cart('POST', '', scope)).body
      return pricesIn((await cart('PATCH', `/${basketId}`, itemsOf([{ seller, sku: 'mug' }]))).body)
    }
    expect(await priceFor({ operator: here })).toEqual([24])
    expect(await priceFor({ operator: there })).toEqual([26])
    expect(await priceFor({})).toEqual([26])
  })

  it('and asks nobody for stock of a basket it refuses', async () => {
    const seller = world.seller(610)
    await sell(seller, [await made(seller, 'mug', 24)])
    const { adapters } = world.ctx
    const asked: string[] = []
    world.ctx.adapters = { ...adapters, inventory: (url) => (asked.push(url), adapters.inventory(url)) }
    try {
      const lines = [
        { seller, sku: 'mug' },
        { seller, sku: 'nothing' },
      ]
      const { status, body } = await cart('PATCH', await world.emptyBasket(), itemsOf(lines))
      expect([status, body.code, body.details]).toEqual([422, 'product_not_found', { path: '/items/1' }])
      // A call nobody waits for would end the process if it failed.
      expect(asked).toEqual([])
      await basketOf(lines.slice(0, 1))
      expect(asked).toHaveLength(1)
    } finally {
      world.ctx.adapters = adapters
    }
  })
})

describe('a product that changed after it was put into the basket', () => {
  it('catalog:62 is not ordered at another price than the basket shows', async () => {
    const seller = world.seller(62)
    const tee = await made(seller, 'tee-black', 19)
    await sell(seller, [tee])
    const path = await basketOf([{ seller, sku: 'tee-black', quantity: 2 }])
    const stored = (await cart('GET', path)).body
    const ordered = await orders()

    const dearer = await made(seller, 'tee-black', 21)
    await sell(seller, [dearer])
    const refused = await cart('POST', `${path}/checkout`)
    expect(refused).toEqual({
      status: 409,
      etag: null,
      contentType: 'application/ld+json; charset=utf-8',
      body: {
        error: 'tee-black costs 21 CRC now instead of 19 CRC. Update the basket to accept that',
        code: 'product_changed',
        requestId: expect.any(String),
        basket: { ...stored, items: [expect.objectContaining({ productCid: dearer.cid })] },
        details: {
          path: '/items/0',
          changes: [
            {
              path: '/items/0',
              before: { price: 19, priceCurrency: 'CRC', productCid: tee.cid, linkKeccak: stored.items[0].linkKeccak },
              now: { price: 21, priceCurrency: 'CRC', productCid: dearer.cid, linkKeccak: expect.any(String) },
            },
          ],
        },
      },
    })
    // Both show what it would be now, and store nothing.
    expect(await cart('POST', `${path}/validate`)).toMatchObject({ status: 200, body: { valid: true } })
    expect((await cart('POST', `${path}/preview`)).body.totalPaymentDue).toMatchObject({ price: 42 })
    expect((await cart('GET', path)).body).toEqual(stored)
    expect(stored).toMatchObject({ status: 'Draft', items: [{ offerSnapshot: { price: 19 } }] })

    // An address is no consent to a price.
    await cart('PATCH', path, { contactPoint: { '@type': 'ContactPoint', email: 'ada@example.com' } })
    expect((await cart('POST', `${path}/checkout`)).body.code).toBe('product_changed')
    expect(await orders()).toEqual(ordered)

    const accepted = await cart('PATCH', path, itemsOf([{ seller, sku: 'tee-black', quantity: 2 }]))
    expect(pricesIn(accepted.body)).toEqual([21])
    const done = await cart('POST', `${path}/checkout`)
    expect(done.status).toBe(201)
    const { order_json } = await world.ctx.db
      .selectFrom('orders')
      .select('order_json')
      .where('order_id', '=', done.body.orderId)
      .executeTakeFirstOrThrow()
    expect(order_json.totalPaymentDue).toMatchObject({ price: 42 })

    // What is ordered stays ordered, whatever the seller does then.
    await sell(seller, [await made(seller, 'tee-black', 99)])
    const again = await cart('POST', `${path}/checkout`)
    expect([again.status, again.body.orderId]).toEqual([200, done.body.orderId])
  })

  it('catalog:62 is told line by line, by what changed', async () => {
    const seller = world.seller(620)
    const [mug, bowl] = [await made(seller, 'mug', 5), await made(seller, 'bowl', 6)]
    await sell(seller, [mug, bowl])
    const path = await basketOf([
      { seller, sku: 'mug' },
      { seller, sku: 'bowl' },
      { seller, sku: 'mug' },
    ])
    await sell(seller, [mug, await made(seller, 'bowl', 6, 'CRC', { requiredSlots: ['customer'] })])
    const same = await cart('POST', `${path}/checkout`)
    expect([same.status, same.body.error, same.body.details.path]).toEqual([
      409,
      'bowl was changed by its seller, at the same price. Update the basket to accept that',
      '/items/1',
    ])
    await sell(seller, [await made(seller, 'mug', 4.5), await made(seller, 'bowl', 6)])
    const all = await cart('POST', `${path}/checkout`)
    expect(all.body.error).toBe(
      'mug costs 4.5 CRC now instead of 5 CRC, and 2 more lines changed. Update the basket to accept that',
    )
    expect(all.body.details.changes.map((change: { path: string }) => change.path)).toEqual([
      '/items/0',
      '/items/1',
      '/items/2',
    ])
  })

  it('catalog:62 is told before the basket is asked for what the new one needs', async () => {
    const seller = world.seller(621)
    await sell(seller, [await made(seller, 'mug', 5)])
    const path = await basketOf([{ seller, sku: 'mug' }])
    await sell(seller, [await made(seller, 'mug', 7, 'CRC', { requiredSlots: ['contactPoint.email'] })])
    expect((await cart('POST', `${path}/checkout`)).body.code).toBe('product_changed')
    expect((await cart('POST', `${path}/validate`)).body).toMatchObject({
      valid: false,
      missing: [{ path: '/contactPoint/email' }],
    })
  })

  it('catalog:62 is another matter when the seller took it back', async () => {
    const seller = world.seller(622)
    const mug = await made(seller, 'mug', 5)
    await sell(seller, [mug])
    const path = await basketOf([{ seller, sku: 'mug' }])
    await sell(seller, [mug, await seller.bury('mug', NOW - 100)])
    const { status, body } = await cart('POST', `${path}/checkout`)
    expect([status, body.code, body.details]).toEqual([422, 'product_not_found', { path: '/items/0' }])
  })

  it('is no other product because of what else the seller publishes', async () => {
    const seller = world.seller(623)
    const mug = await made(seller, 'mug', 5)
    await sell(seller, [mug])
    const path = await basketOf([{ seller, sku: 'mug' }])
    const others = await Promise.all(['a', 'b', 'c'].map((sku) => made(seller, sku, 1)))
    await seller.publish([mug, ...others], { perChunk: 1 })
    await world.follow()
    expect((await cart('POST', `${path}/checkout`)).status).toBe(201)
  })
})

describe('currencies', () => {
  it('catalog:63 a basket takes one, and names the first line of another', async () => {
    const seller = world.seller(63)
    await sell(seller, [
      await made(seller, 'mug', 5),
      await made(seller, 'bowl', 6),
      await made(seller, 'print', 19, 'EUR'),
      await made(seller, 'frame', 29, 'EUR'),
    ])
    const path = await world.emptyBasket()
    const mixed = await cart('PATCH', path, itemsOf(['mug', 'bowl', 'print', 'frame'].map((sku) => ({ seller, sku }))))
    expect(mixed).toEqual({
      status: 400,
      etag: null,
      contentType: 'application/ld+json; charset=utf-8',
      body: {
        error: 'All lines of a basket must be in one currency: print is in EUR, mug in CRC',
        code: 'mixed_currencies',
        details: { path: '/items/2' },
        requestId: expect.any(String),
      },
    })
    expect((await cart('GET', path)).body).toMatchObject({ version: 0, items: [] })

    const foreign = await basketOf([
      { seller, sku: 'print' },
      { seller, sku: 'frame' },
    ])
    for (const step of ['preview', 'checkout']) {
      const { status, body } = await cart('POST', `${foreign}/${step}`)
      expect([status, body.code, body.details]).toEqual([422, 'unsupported_currency', { path: '/items/0' }])
    }
  })

  it('catalog:63 one that mixes them because a product changed is no order either', async () => {
    const seller = world.seller(630)
    const mug = await made(seller, 'mug', 5)
    await sell(seller, [mug, await made(seller, 'bowl', 6)])
    const path = await basketOf([
      { seller, sku: 'mug' },
      { seller, sku: 'bowl' },
    ])
    await sell(seller, [mug, await made(seller, 'bowl', 6, 'EUR')])
    const { status, body } = await cart('POST', `${path}/checkout`)
    expect([status, body.code, body.details.path]).toEqual([409, 'product_changed', '/items/1'])
    expect(body.error).toContain('6 EUR now instead of 6 CRC')
    for (const step of ['validate', 'preview']) {
      const answer = await cart('POST', `${path}/${step}`)
      expect([answer.status, answer.body.code, answer.body.details.path]).toEqual([400, 'mixed_currencies', '/items/1'])
    }
  })
})

it('catalog:64 each adapter of an order of two sellers sees its own lines, once', async () => {
  const [ada, bob] = [world.seller(64), world.seller(640)]
  await sell(ada, [await made(ada, 'mug', 5), await made(ada, 'bowl', 6)], 'first')
  await sell(bob, [await made(bob, 'tee', 20)], 'second')
  const path = await basketOf([
    { seller: ada, sku: 'mug', quantity: 2 },
    { seller: bob, sku: 'tee' },
    { seller: ada, sku: 'bowl' },
  ])
  const { status, body } = await cart('POST', `${path}/checkout`)
  expect(status).toBe(201)

  const { ctx, first, second } = world
  ctx.paymentSource = paidInFull([{ reference: body.paymentReference, crc: 36n }])
  for (let round = 0; round < 2; round += 1) {
    await pollPayments(ctx)
    while (await runFulfillmentJob(ctx));
  }
  const about = { orderId: body.orderId, paymentReference: body.paymentReference, buyer: BUYER, trigger: 'finalized' }
  expect(first.delivered).toEqual([
    expect.objectContaining({
      ...about,
      items: [
        { sku: 'mug', quantity: 2 },
        { sku: 'bowl', quantity: 1 },
      ],
      lineIndexes: [0, 2],
    }),
  ])
  expect(second.delivered).toEqual([
    expect.objectContaining({ ...about, items: [{ sku: 'tee', quantity: 1 }], lineIndexes: [1] }),
  ])
  expect(JSON.stringify(first.delivered)).not.toMatch(/tee/)
  expect(JSON.stringify(second.delivered)).not.toMatch(/mug|bowl/)
})
