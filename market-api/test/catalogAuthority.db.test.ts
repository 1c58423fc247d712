import { readFileSync } from 'node:fs'
import { productLinkName } from '@market/contracts/catalogDocuments'
import { keccak256 } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startCatalog } from './catalogWorld.ts'

const NOW = Math.floor(Date.now() / 1000)

let world: Awaited<ReturnType<typeof startCatalog>>
beforeAll(async () => {
  world = await startCatalog({ CATALOG_HOLD_TO_SIGNING_KEYS: 'true' })
})
afterAll(() => world?.close())

type Seller = ReturnType<(typeof world)['seller']>
type Item = {
  seller: string
  productCid: string
  linkKeccak: string
  product: { sku: string; offers: { price: number }[] }
}

/** What is listed under these sellers, what is wrong, and how many links were dropped for what. */
async function listing(sellers: Seller[], operator?: string) {
  const { body } = await world.page({ avatars: sellers.map(({ address }) => address), diagnostics: '1' }, {}, operator)
  return {
    listed: (body.products as Item[]).map(
      ({ seller, product }) => `${seller} ${product.sku} ${product.offers[0]!.price}`,
    ),
    errors: body.errors as object[],
    dropped: body.diagnostics.dropped as Record<string, number>,
  }
}

/** A profile's `signingKeys` with the keys of these sellers. */
const keysOf = (...keys: [Seller, object][]) => ({
  signingKeys: Object.fromEntries(
    keys.map(([{ key }, members]) => {
      const { publicKey } = privateKeyToAccount(key as `0x${string}`)
      // X and Y without the 04 in front (catalog.md 2.6).
      const fingerprint = keccak256(`0x${publicKey.slice(4)}`)
      return [fingerprint, { '@type': 'SigningKey', publicKey, validFrom: NOW - 10_000, ...members }]
    }),
  ),
})

describe('whose link counts', () => {
  it('catalog:W1 a link copied byte for byte into another namespace sells for its owner only', async () => {
    const [owner, copier] = [world.seller(101), world.seller(102)]
    const older = await owner.offer('vase', 50, NOW - 200)
    const newer = await owner.offer('vase', 60, NOW - 100)
    const own = await copier.offer('mug', 5, NOW - 300)
    await owner.publish([older, newer])
    // At the highest index, which is what decided in the reference.
    await copier.publish([own, older, newer])
    const both = await listing([owner, copier])
    expect(both.listed).toEqual([`${owner.address} vase 60`, `${copier.address} mug 5`])
    expect([both.errors, both.dropped]).toEqual([[], { SIGNER_NOT_OWNER: 2 }])
    expect((await listing([copier])).listed).toEqual([`${copier.address} mug 5`])
  })

  it('catalog:W2 a link that the operator signed counts for a seller who lists that key, and for no other', async () => {
    const [operator, stranger, client] = [world.seller(103), world.seller(104), world.seller(105)]
    const proposed = await operator.offer('tote', 18, NOW - 100)
    const at = { operator: operator.address }
    await stranger.publish([proposed], at)
    await client.publish([proposed], { ...at, profile: keysOf([operator, {}]) })
    const both = await listing([stranger, client], operator.address)
    expect([both.listed, both.errors]).toEqual([[`${client.address} tote 18`], []])
    expect(both.dropped).toEqual({ SIGNER_NOT_OWNER: 1 })
    expect((await listing([stranger], operator.address)).dropped).toEqual({ SIGNER_NOT_OWNER: 1 })
  })

  it('catalog:65 a key counts for what was signed while it was valid', async () => {
    const [client, current, expired, revoked, unset] = [110, 111, 112, 113, 114].map((n) => world.seller(n)) as [
      Seller,
      Seller,
      Seller,
      Seller,
      Seller,
    ]
    const signedAt = NOW - 100
    await client.publish(
      [
        await client.offer('own', 1, signedAt),
        await current.offer('current', 2, signedAt),
        await expired.offer('expired', 3, signedAt),
        await expired.offer('in-time', 4, signedAt - 1),
        await revoked.offer('revoked', 5, signedAt),
        await unset.offer('unset', 6, signedAt),
        await world.seller(115).offer('unlisted', 7, signedAt),
      ],
      {
        profile: keysOf(
          [client, {}],
          [current, { validTo: signedAt + 1 }],
          [expired, { validTo: signedAt }],
          [revoked, { revokedAt: signedAt - 50 }],
          [unset, { validTo: 0, revokedAt: 0 }],
        ),
      },
    )
    const { listed, errors, dropped } = await listing([client])
    expect(listed.toSorted()).toEqual(
      ['own 1', 'current 2', 'in-time 4', 'unset 6'].map((what) => `${client.address} ${what}`).toSorted(),
    )
    expect([errors, dropped]).toEqual([[], { SIGNING_KEY: 2, SIGNER_NOT_OWNER: 1 }])
  })

  it('catalog:65 an owner who lists keys is held to them, its own included', async () => {
    const [client, listed] = [world.seller(120), world.seller(121)]
    const links = [await client.offer('own', 1, NOW - 100), await listed.offer('listed', 2, NOW - 100)]
    await client.publish(links, { profile: keysOf([listed, {}]) })
    expect(await listing([client])).toEqual({
      listed: [`${client.address} listed 2`],
      errors: [],
      dropped: { SIGNING_KEY: 1 },
    })
    Object.assign(world.ctx.config, { CATALOG_HOLD_TO_SIGNING_KEYS: false })
    try {
      await world.forget()
      expect((await listing([client])).listed).toHaveLength(2)
    } finally {
      Object.assign(world.ctx.config, { CATALOG_HOLD_TO_SIGNING_KEYS: true })
    }
  })

  it('catalog:65 takes effect with the next profile, though the chunk is the same', async () => {
    const [client, helper] = [world.seller(130), world.seller(131)]
    const links = [await client.offer('own', 1, NOW - 100), await helper.offer('helped', 2, NOW - 90)]
    const keys = keysOf([client, {}], [helper, {}])
    const { chunks, index } = await client.publish(links, { profile: keys })
    const all = [`${client.address} helped 2`, `${client.address} own 1`]
    expect((await listing([client])).listed).toEqual(all)
    const reads = world.asked.ipfs
    const without = await client.publish(links, { profile: keysOf([client, {}]) })
    expect([without.chunks, without.index]).toEqual([chunks, index])
    await world.follow()
    expect(await listing([client])).toEqual({
      listed: [`${client.address} own 1`],
      errors: [],
      dropped: { SIGNER_NOT_OWNER: 1 },
    })
    // The profile, and nothing of what it leads to.
    expect(world.asked.ipfs - reads).toBe(1)

    await client.publish(links, { profile: keysOf([client, {}], [helper, { revokedAt: NOW - 95 }]) })
    await world.follow()
    expect((await listing([client])).dropped).toEqual({ SIGNING_KEY: 1 })
    await client.publish(links, { profile: keys })
    await world.follow()
    expect((await listing([client])).listed).toEqual(all)
  })

  it('catalog:65 brings back what the seller signed before, when the helper’s newer link no longer counts', async () => {
    const [client, helper] = [world.seller(132), world.seller(133)]
    const links = [await client.offer('mug', 24, NOW - 100), await helper.offer('mug', 26, NOW - 90)]
    await client.publish(links, { profile: keysOf([client, {}], [helper, {}]) })
    expect((await listing([client])).listed).toEqual([`${client.address} mug 26`])
    await client.publish(links)
    await world.follow()
    expect((await listing([client])).listed).toEqual([`${client.address} mug 24`])
  })
})

describe('what pins as a product lists as a product', () => {
  type PinCase = { id: string; body: string; required: { accept: boolean } }
  const { cases }: { cases: PinCase[] } = JSON.parse(
    readFileSync(new URL('../../packages/contracts/vectors/pin.json', import.meta.url), 'utf8'),
  )
  const accepted = cases.filter(({ body, required }) => required.accept && JSON.parse(body)['@type'] === 'Product')

  it('catalog:56 has cases', () => expect(accepted.length).toBeGreaterThan(5))

  it.each(accepted.map((one, i) => ({ ...one, seller: 200 + i })))('catalog:56 $id', async ({ body, seller: n }) => {
    const response = await fetch(`${world.url}/api/pin`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/ld+json; charset=utf-8' },
      body,
    })
    const { cid } = (await response.json()) as { cid: string }
    const document = JSON.parse(body) as { sku: string }
    const seller = world.seller(n)
    await seller.publish([seller.link({ name: productLinkName(document.sku), cid, signedAt: NOW - 100 })])
    const { body: page } = await world.page({ avatars: seller.address, compat: '0' })
    expect(page.errors).toEqual([])
    expect(page.products).toMatchObject([{ seller: seller.address, productCid: cid }])
    expect(page.products[0].product).toEqual(document)
  })
})
