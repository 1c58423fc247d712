import { MARKET_CONTEXT, PROFILE_CONTEXT } from '@market/contracts/catalogDocuments'
import { addressOfPrivateKey } from '@market/contracts/link'
import { describe, expect, it } from 'vitest'
import { CHAIN, NOW, OPERATOR, publishingSeller } from '../test/catalog.ts'
import { verifyItem } from './verify.ts'
import { type SellerToVerify, verifyListed, verifySeller } from './verifySeller.ts'

const STRANGER = `0x${'66'.repeat(32)}`

type Seller = ReturnType<typeof publishingSeller>
const verify = ({ address, read }: Seller, profileCid: string, more: Partial<SellerToVerify> = {}) =>
  verifySeller({ seller: address, operator: OPERATOR, chainId: CHAIN, profileCid, read, nowSeconds: NOW, ...more })
const skus = ({ products }: { products: { sku: string }[] }) => products.map(({ sku }) => sku)

describe('what a seller sells', () => {
  it('is what the seller signed, newest first, over as many chunks as there are', async () => {
    const seller = publishingSeller()
    const products = Array.from({ length: 120 }, (_, i) => seller.product(`sku-${i}`, i + 1))
    const links = products.map(({ cid }, i) => seller.link(`sku-${i}`, cid, { signedAt: NOW - 200 + i }))
    const profile = seller.publish(links)
    const catalog = await verify(seller, profile)
    expect(skus(catalog)).toEqual(Array.from({ length: 120 }, (_, i) => `sku-${119 - i}`))
    expect(catalog.errors).toEqual([])

    const item = seller.item(products[7]!, links[7])
    const product = await verifyItem(item, seller.read)
    verifyListed(product, catalog)
    const few = await verify(seller, profile, { skus: ['sku-7', 'sku-110', 'none'] })
    expect(skus(few)).toEqual(['sku-110', 'sku-7'])
    verifyListed(product, few)
  })

  it('is not what others signed, what is of yesterday, or what was taken down', async () => {
    const seller = publishingSeller()
    const old = seller.product('tote', 5)
    const now = seller.product('tote', 9)
    const gone = seller.product('gone', 1)
    const tombstone = seller.put({ '@context': MARKET_CONTEXT, '@type': 'Tombstone', sku: 'gone' })
    const forged = seller.product('forged', 1)
    const oldLink = seller.link('tote', old.cid, { signedAt: NOW - 100 })
    const newLink = seller.link('tote', now.cid)
    const forgedLink = seller.link('forged', forged.cid, { by: STRANGER })
    const future = seller.link('later', seller.product('later', 1).cid, { signedAt: NOW + 3600 })
    const links = [
      oldLink,
      newLink,
      seller.link('gone', gone.cid),
      seller.link('gone', tombstone.cid),
      forgedLink,
      future,
    ]
    // Links of one name replace each other in a chunk; here both stand, as in two chunks.
    const padding = Array.from({ length: 99 }, (_, i) => seller.link(`p-${i}`, old.cid, { signedAt: NOW - 200 }))
    const catalog = await verify(seller, seller.publish([oldLink, ...padding, ...links.slice(1)]), {
      skus: ['tote', 'gone', 'forged', 'later'],
    })
    expect(skus(catalog)).toEqual(['tote'])
    const listed = async (product: typeof old, link: typeof oldLink) =>
      verifyListed(await verifyItem(seller.item(product, link), seller.read), catalog)
    await listed(now, newLink)
    for (const [product, link] of [
      [old, oldLink],
      [now, oldLink],
      [gone, links[2]!],
      [forged, forgedLink],
    ] as const) {
      await expect(listed(product, link)).rejects.toMatchObject({ name: 'VerificationError', code: 'not_signed' })
    }
  })

  it('takes the word of a key that the profile lists, and of whoever judges contract accounts', async () => {
    const seller = publishingSeller()
    const tote = seller.product('tote', 5)
    const links = [seller.link('tote', tote.cid, { by: STRANGER })]
    const signingKeys = {
      [`0x${'00'.repeat(12)}${addressOfPrivateKey(STRANGER).slice(2)}`]: { validFrom: NOW - 1000 },
    }
    expect(skus(await verify(seller, seller.publish(links)))).toEqual([])
    expect(skus(await verify(seller, seller.publish(links, { signingKeys })))).toEqual(['tote'])

    const contract = seller.link('tote', tote.cid)
    const profile = seller.publish([{ ...contract, signature: '0x1234' }])
    expect(skus(await verify(seller, profile))).toEqual([])
    const checkSignature: SellerToVerify['checkSignature'] = async (link) => ({ ok: true, signer: link.signerAddress })
    expect(skus(await verify(seller, profile, { checkSignature }))).toEqual(['tote'])
  })

  it('of a nonce used twice is only the newest, though the other has a name nobody asked for', async () => {
    const seller = publishingSeller()
    const tote = seller.product('tote', 5)
    const nonce = `0x${'77'.repeat(16)}`
    const profile = seller.publish([
      seller.link('tote', tote.cid, { nonce, signedAt: NOW - 100 }),
      seller.link('mug', seller.product('mug', 1).cid, { nonce }),
    ])
    expect(skus(await verify(seller, profile, { skus: ['tote'] }))).toEqual([])
    expect(skus(await verify(seller, profile))).toEqual(['mug'])
  })

  it('is not known when a document on the way is another, none or not there', async () => {
    const seller = publishingSeller()
    const tote = seller.product('tote', 5)
    const profile = seller.publish([seller.link('tote', tote.cid)])
    const reading = (change: (cid: string) => Uint8Array | undefined) =>
      verify(seller, profile, { read: async (cid) => change(cid) ?? (await seller.read(cid)) })
    await expect(reading(() => tote.bytes)).rejects.toMatchObject({ code: 'cid_mismatch' })
    await expect(verify(seller, tote.cid)).rejects.toMatchObject({ code: 'not_signed' })
    await expect(verify(seller, 'Qm')).rejects.toMatchObject({ code: 'not_signed' })
    await expect(verify(seller, profile, { operator: `0x${'0c'.repeat(20)}` })).rejects.toMatchObject({
      code: 'not_signed',
    })
    const broken = seller.put({ '@context': PROFILE_CONTEXT, '@type': 'Profile', namespaces: 'none' })
    await expect(verify(seller, broken.cid)).rejects.toMatchObject({ code: 'not_signed' })

    seller.store.delete(tote.cid)
    const catalog = await verify(seller, profile)
    expect([skus(catalog), catalog.errors]).toEqual([
      [],
      [expect.objectContaining({ code: 'PAYLOAD_UNAVAILABLE', sku: 'tote' })],
    ])
    const lying = await reading((cid) => (cid === tote.cid ? seller.product('tote', 1).bytes : undefined))
    expect(skus(lying)).toEqual([])
  })
})
