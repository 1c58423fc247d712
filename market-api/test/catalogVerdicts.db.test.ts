import { verifyEoaSignature } from '@market/contracts/link'
import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { createIndexer } from '../src/catalog/indexer.ts'
import type { LinkSignatures, SignatureVerdict } from '../src/catalog/linkSignatures.ts'
import { upsertGateway, upsertRoute } from '../src/ops.ts'
import { OPERATOR, startCatalog } from './catalogWorld.ts'

let world: Awaited<ReturnType<typeof startCatalog>>
let ownKeys: LinkSignatures
beforeAll(async () => {
  world = await startCatalog()
  ownKeys = world.ctx.signatures
})
afterAll(() => world.close())
afterEach(() => {
  world.ctx.signatures = ownKeys
  world.ctx.now = () => new Date()
})

type Body = { products: { product: { sku: string } }[]; errors: { code: string; stage: string; cid: string | null }[] }
const skus = ({ products }: Body) => products.map((item) => item.product.sku)
const now = () => Math.floor(Date.now() / 1000)
const show = async (avatar: string) => {
  world.ctx.pages.clear()
  return (await world.page({ avatars: avatar, diagnostics: '1' })).body as Body
}
/** Lets time pass for everything that may be due. */
const later = async (avatar: string, minutes: number) => {
  await sql`
    update catalog_links set verdict_at = verdict_at - make_interval(mins => ${minutes}) where avatar = ${avatar}`.execute(
    world.ctx.db,
  )
  await sql`
    update catalog_namespaces set recheck_at = recheck_at - make_interval(mins => ${minutes}) where avatar = ${avatar}`.execute(
    world.ctx.db,
  )
  await world.follow()
}
/** A signer whose word the chain gives. */
const says = (answer: () => SignatureVerdict): LinkSignatures => ({ check: async () => answer() })

describe('a verdict of a contract', () => {
  it('is asked for again after ten minutes, and turns the product over when it has changed', async () => {
    const seller = world.seller(50)
    let calls = 0
    let valid = true
    world.ctx.signatures = says(() => {
      calls += 1
      if (valid) return { kind: 'valid', signer: seller.address, block: 7n }
      return { kind: 'invalid', code: 'SIGNER', reason: 'the contract says no', account: 'contract' }
    })
    await seller.publish([await seller.offer('lamp', 5, now() - 50)])
    expect(skus(await show(seller.address))).toEqual(['lamp'])
    await later(seller.address, 9)
    expect(calls).toBe(1)
    await later(seller.address, 2)
    expect(calls).toBe(2)
    expect(skus(await show(seller.address))).toEqual(['lamp'])

    // The Safe has another owner now.
    valid = false
    await later(seller.address, 11)
    expect(skus(await show(seller.address))).toEqual([])
    valid = true
    await later(seller.address, 11)
    expect(skus(await show(seller.address))).toEqual(['lamp'])
  })

  it('stays while the chain can not be asked, and is not asked for without pause', async () => {
    const seller = world.seller(51)
    world.ctx.signatures = says(() => ({ kind: 'valid', signer: seller.address, block: 7n }))
    await seller.publish([await seller.offer('lamp', 5, now() - 50)])
    await show(seller.address)
    let calls = 0
    world.ctx.signatures = says(() => {
      calls += 1
      return { kind: 'unknown', reason: 'no answer' }
    })
    await later(seller.address, 11)
    await world.follow()
    await world.follow()
    expect(calls).toBe(1)
    expect(skus(await show(seller.address))).toEqual(['lamp'])
  })

  it('catalog:19 is an error entry, not a product, while it was never given', async () => {
    const seller = world.seller(52)
    world.ctx.signatures = says(() => ({ kind: 'unknown', reason: 'no answer' }))
    const { chunks } = await seller.publish([await seller.offer('lamp', 5, now() - 50)])
    const first = await show(seller.address)
    expect([first.products, first.errors]).toMatchObject([[], [{ stage: 'link', code: 'UNVERIFIED', cid: chunks[0] }]])
    world.ctx.signatures = ownKeys
    await later(seller.address, 1)
    const second = await show(seller.address)
    expect([skus(second), second.errors]).toEqual([['lamp'], []])
  })

  it('hides a product rather than showing its older version while the newest is not verified', async () => {
    const seller = world.seller(53)
    const older = await seller.offer('lamp', 5, now() - 50)
    const newer = await seller.offer('lamp', 6, now() - 40)
    world.ctx.signatures = {
      check: async (link, digest) =>
        link.nonce === newer.nonce ? { kind: 'unknown', reason: 'no answer' } : ownKeys.check(link, digest),
    }
    await seller.publish([older, newer])
    expect(skus(await show(seller.address))).toEqual([])
  })
})

it('catalog:22 takes a link of an account that had no code, once it has', async () => {
  const seller = world.seller(54)
  world.ctx.signatures = says(() => ({ kind: 'invalid', code: 'SIGNER', reason: 'no', account: 'none' }))
  await seller.publish([await seller.offer('lamp', 5, now() - 50)])
  expect(skus(await show(seller.address))).toEqual([])
  world.ctx.signatures = says(() => ({ kind: 'valid', signer: seller.address, block: 9n }))
  await later(seller.address, 2)
  expect(skus(await show(seller.address))).toEqual(['lamp'])
})

it('verifies a link once, however often its chunk is written anew', async () => {
  const seller = world.seller(55)
  let calls = 0
  world.ctx.signatures = {
    async check(link, digest) {
      calls += 1
      const verdict = verifyEoaSignature(link, digest)
      if (!verdict.ok) throw new Error(verdict.code)
      return { kind: 'valid', signer: verdict.signer, block: null }
    },
  }
  const links = [await seller.offer('a', 1, now() - 50)]
  for (const sku of ['b', 'c', 'd']) {
    links.push(await seller.offer(sku, 1, now() - 40))
    await seller.publish(links)
    if (sku === 'b') await show(seller.address)
    else await world.follow()
  }
  expect(calls).toBe(4)
})

it('two replicas that read the same avatar at once leave one index', async () => {
  const seller = world.seller(56)
  await seller.publish([await seller.offer('a', 1, now() - 50), await seller.offer('b', 1, now() - 49)])
  const other = createIndexer(() => world.ctx)
  await Promise.all([world.ctx.indexer.ensure([seller.address], 5000), other.ensure([seller.address], 5000)])
  expect(skus(await show(seller.address))).toEqual(['b', 'a'])
  const { rows } = await sql<{ n: string }>`
    select count(*) as n from catalog_products where seller_address = ${seller.address}`.execute(world.ctx.db)
  expect(rows[0]!.n).toBe('2')
  await other.stop()
})

it('shows a route and a gateway as soon as the operator has set them', async () => {
  const seller = world.seller(57)
  const gateway = `0x${'9a'.repeat(20)}`
  const offer = {
    '@type': 'Offer',
    price: 5,
    priceCurrency: 'CRC',
    potentialAction: { '@type': 'PayAction', recipient: { '@id': `eip155:100:${gateway}` } },
  }
  await seller.publish([await seller.offer('code', 5, now() - 50, { offers: [offer] })])
  const look = async () => (await world.page({ avatars: seller.address })).body.products[0]
  const before = await look()
  expect(before.market).toEqual({
    availabilityFeed: null,
    inventoryFeed: null,
    totalInventory: null,
    buyable: false,
    // Nobody vouches for that address yet (catalog.md 6.4).
    payAction: null,
  })
  expect(before.product.offers[0].potentialAction).toMatchObject({
    price: 5,
    recipient: { '@id': `eip155:100:${gateway}` },
  })
  const { db } = world.ctx
  await upsertRoute(db, { chainId: 100, seller: seller.address, sku: 'code', offerType: 'codedispenser' })
  expect(await upsertGateway(db, { chainId: 100, seller: seller.address, gateway })).toBe('created')
  expect(await upsertGateway(db, { chainId: 100, seller: seller.address, gateway })).toBe('unchanged')
  const after = await until(
    'the page in memory is forgotten',
    async () => {
      const item = await look()
      return item.market.payAction ? item : undefined
    },
    1,
  )
  expect(after.market).toMatchObject({
    availabilityFeed: `${world.url}/inventory/availability/100/${seller.address}/code`,
    inventoryFeed: `${world.url}/inventory/inventory/100/${seller.address}/code`,
    buyable: true,
    payAction: { '@type': 'PayAction', price: 5, recipient: { '@id': `eip155:100:${gateway}` } },
  })
  expect(after.product.offers[0]).toMatchObject({
    availabilityFeed: after.market.availabilityFeed,
    fulfillmentEndpoint: null,
  })
  const pure = await fetch(`${world.url}/api/operator/${OPERATOR}/catalog/${seller.address}/code?compat=0`)
  expect(((await pure.json()) as { product: { offers: object[] } }).product.offers).toEqual([offer])
})
