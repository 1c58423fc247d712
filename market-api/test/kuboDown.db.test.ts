import { startKubo } from '@market/testkit/kubo'
import { storedDocument } from '@market/contracts/catalogDocuments'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { connectKubo } from '../src/catalog/ipfs/kubo.ts'
import { startCatalog } from './catalogWorld.ts'

let kubo: Awaited<ReturnType<typeof startKubo>>
let world: Awaited<ReturnType<typeof startCatalog>>
beforeAll(async () => {
  kubo = await startKubo()
  world = await startCatalog({ IPFS_RPC_URL: kubo.url, IPFS_TIMEOUT_MS: '500' })
})
afterAll(async () => {
  await world?.close()
  await kubo?.stop()
})

const now = () => Math.floor(Date.now() / 1000)
type Body = { products: { product: { sku: string } }[]; errors: { code: string }[] }
const show = async (avatar: string) => {
  world.ctx.pages.clear()
  const started = performance.now()
  const { status, body } = await world.page({ avatars: avatar })
  const { products, errors } = body as Body
  return { status, skus: products.map((item) => item.product.sku), errors, ms: performance.now() - started }
}

it('a Kubo that is down keeps nobody from what is indexed, and what changed meanwhile is read when it is back', async () => {
  const seller = world.seller(70)
  const links = [await seller.offer('a', 1, now() - 50)]
  await seller.publish(links)
  expect(await show(seller.address)).toMatchObject({ status: 200, skus: ['a'], errors: [] })

  links.push(await seller.offer('b', 1, now() - 40))
  await seller.publish(links)
  // Published by somebody else: this process has seen none of it.
  world.ctx.ipfs = connectKubo(kubo.url, { timeoutMs: 500 })
  kubo.fault('down')
  await expect(world.ctx.ipfs.check()).rejects.toThrow()
  await world.follow()
  const meanwhile = await show(seller.address)
  expect(meanwhile).toMatchObject({ status: 200, skus: ['a'], errors: [{ code: 'UNAVAILABLE' }] })
  expect(meanwhile.ms).toBeLessThan(400)
  const document = storedDocument({
    '@context': 'https://aboutcircles.com/contexts/circles-market/',
    '@type': 'Tombstone',
    sku: 'x',
    at: 1,
  })
  const pinned = await fetch(`${world.url}/api/pin`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/ld+json' },
    body: document.bytes as Uint8Array<ArrayBuffer>,
  })
  expect(pinned.status).toBe(502)

  kubo.fault()
  await world.retryNow()
  await world.follow()
  expect(await show(seller.address)).toMatchObject({ skus: ['b', 'a'], errors: [] })
})
