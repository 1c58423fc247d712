import { createHash } from 'node:crypto'
import { type JsonObject, type JsonValue, parseStrictJsonBytes } from '@market/contracts/canonicalJson'
import {
  MARKET_CONTEXT,
  type NameIndexDoc,
  type NamespaceChunk,
  type Profile,
  PROFILE_CONTEXT,
  SCHEMA_ORG_CONTEXT,
  storedDocument,
} from '@market/contracts/catalogDocuments'
import { cidToDigest, cidV0, digestToCid } from '@market/contracts/cid'
import { addressOfPrivateKey, type CustomDataLink, type LinkDraft, signLink } from '@market/contracts/link'
import { type CheckSignature, resolveNamespace } from '@market/contracts/namespaceWalk'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type CatalogRegistry,
  type CatalogSigner,
  type CatalogStorage,
  publishCatalog,
  type PublishJournal,
  type PublishOptions,
  type PublishProgress,
} from './publishCatalog.ts'

const CHAIN = 100
const OPERATOR = `0x${'0a'.repeat(20)}`
const OTHER_OPERATOR = `0x${'0b'.repeat(20)}`
const KEY = `0x${'11'.repeat(32)}`
const OTHER_KEY = `0x${'12'.repeat(32)}`
const SELLER = addressOfPrivateKey(KEY)
const NO_PROFILE = `0x${'0'.repeat(64)}`
const BASE = 1_780_000_000
const DAY = 86_400

const product = (sku: string, price = 5, more: object = {}) => ({
  '@context': [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
  '@type': 'Product',
  name: `The ${sku}`,
  sku,
  offers: [{ '@type': 'Offer', price, priceCurrency: 'CRC' }],
  ...more,
})

const nonce = (label: string) => `0x${createHash('sha256').update(label).digest('hex').slice(0, 32)}`

type World = {
  blocks: Map<string, Uint8Array>
  digest: string
  now: number
  puts: { cid: string; mediaType: string | undefined }[]
  signed: CustomDataLink[]
  writes: string[]
  slept: number
  storage: CatalogStorage
  registry: CatalogRegistry
  signer: CatalogSigner
}

const template = signLink(
  { name: 'product/a', cid: cidV0(new Uint8Array()), chainId: CHAIN, signedAt: 0, nonce: nonce('x') },
  KEY,
)
const slowly = { sign: (draft: LinkDraft) => signLink(draft, KEY) }
/** Where hundreds of links are signed and what is proved is something else: a signature and its check take 4 ms. */
const quickly = {
  sign: (draft: LinkDraft): CustomDataLink => ({ ...template, ...draft }),
  checkSignature: (async ({ signerAddress }) => ({ ok: true, signer: signerAddress.toLowerCase() })) as CheckSignature,
}

/** A seller with a store and a registry of their own, and a clock that stands until it is moved. */
function seller({
  sign,
  ...check
}: { sign(draft: LinkDraft): CustomDataLink; checkSignature?: CheckSignature } = slowly) {
  const blocks = new Map<string, Uint8Array>()
  const world: World = {
    blocks,
    digest: NO_PROFILE,
    now: BASE,
    puts: [] as { cid: string; mediaType: string | undefined }[],
    signed: [] as CustomDataLink[],
    writes: [] as string[],
    slept: 0,
    storage: {
      async get(cid: string) {
        const bytes = blocks.get(cid)
        if (!bytes) throw new Error(`no ${cid}`)
        return bytes
      },
      async put(bytes: Uint8Array, mediaType?: string) {
        const cid = cidV0(bytes)
        world.puts.push({ cid, mediaType })
        blocks.set(cid, bytes)
        return cid
      },
    },
    registry: {
      readDigest: async () => world.digest,
      async writeDigest(digest, expected) {
        if (world.digest !== expected) return 'moved'
        world.digest = digest
        world.writes.push(digest)
        return 'written'
      },
    },
    signer: {
      address: SELLER,
      sign(draft: LinkDraft) {
        const link = sign(draft)
        world.signed.push(link)
        return link
      },
    },
  }
  const json = (cid: string) => parseStrictJsonBytes(blocks.get(cid)!) as JsonObject
  const profile = () => json(digestToCid(world.digest)) as unknown as Profile
  const index = (operator = OPERATOR) => json(String(profile().namespaces![operator])) as unknown as NameIndexDoc
  const chunks = (operator = OPERATOR) => {
    const found: { cid: string; links: JsonValue[] }[] = []
    for (let cid: string | null | undefined = index(operator).head; cid;) {
      const { links, prev }: NamespaceChunk = json(cid) as unknown as NamespaceChunk
      found.push({ cid, links })
      cid = prev
    }
    return found
  }
  /** Puts anything there, as another writer might. */
  const place = (document: object) => {
    const { bytes, cid } = storedDocument(document)
    blocks.set(cid, bytes)
    return cid
  }
  return Object.assign(world, {
    publish: (products: readonly unknown[], more: Partial<PublishOptions> = {}) =>
      publishCatalog({
        ...check,
        products,
        operator: OPERATOR,
        chainId: CHAIN,
        signer: world.signer,
        storage: world.storage,
        registry: world.registry,
        nowSeconds: () => world.now,
        sleep: async (ms) => {
          world.slept += ms
          world.now += ms / 1000
        },
        ...more,
      }),
    json,
    profile,
    index,
    chunks,
    place,
    /** What the market would list. */
    async listed() {
      if (world.digest === NO_PROFILE) return {}
      const { winners, errors } = await resolveNamespace(
        chunks(),
        {
          avatar: SELLER,
          chainId: CHAIN,
          window: { start: 0, end: world.now },
          signingKeys: profile().signingKeys as JsonValue,
        },
        async (cid) => ({ kind: 'bytes', value: blocks.get(cid)! }),
        check,
      )
      expect(errors).toEqual([])
      return Object.fromEntries(
        winners.map(({ sku, product: { offers } }): [string, number] => [sku, offers[0]!.price]).toSorted(),
      )
    },
    link: (name: string, cid: string, signedAt: number, key = KEY) =>
      signLink({ name, cid, chainId: CHAIN, signedAt, nonce: nonce(`${name} ${cid} ${signedAt}`) }, key),
    /** A namespace of just these chunks, oldest first. */
    placeNamespace(linksByChunk: CustomDataLink[][], more: object = {}) {
      let prev: string | undefined
      const entries: Record<string, string> = {}
      for (const links of linksByChunk) {
        prev = place({
          '@context': 'https://aboutcircles.com/contexts/circles-namespace/',
          '@type': 'NamespaceChunk',
          prev: prev ?? null,
          links,
        })
        for (const { name } of links) entries[name] = prev!
      }
      const indexCid = place({
        '@context': 'https://aboutcircles.com/contexts/circles-namespace/',
        '@type': 'NameIndexDoc',
        head: prev,
        entries,
      })
      const document = {
        '@context': PROFILE_CONTEXT,
        '@type': 'Profile',
        namespaces: { [OPERATOR]: indexCid },
        ...more,
      }
      world.digest = cidToDigest(place(document))
    },
  })
}

describe('publishing', () => {
  it('lists what it is given, says what became of each, and does nothing the second time', async () => {
    const shop = seller()
    const first = await shop.publish([product('mug', 24), product('print', 42)], { newProfile: { name: 'Harbour' } })
    expect(first).toMatchObject({
      status: 'published',
      counts: { created: 2, updated: 0, unchanged: 0, removed: 0, refused: 0 },
      previousDigest: NO_PROFILE,
      digest: shop.digest,
      profileCid: digestToCid(shop.digest),
    })
    expect(await shop.listed()).toEqual({ mug: 24, print: 42 })
    expect(shop.profile()).toMatchObject({ '@type': 'Profile', name: 'Harbour' })

    const [puts, signed] = [shop.puts.length, shop.signed.length]
    // Other order of members, and one that is undefined: the same product.
    const { offers, sku, ...rest } = product('mug', 24, { description: undefined })
    shop.now += 60
    const again = await shop.publish([{ sku, offers, ...rest }, product('print', 42)])
    expect(again).toMatchObject({ status: 'unchanged', counts: { created: 0, updated: 0, unchanged: 2 } })
    expect([shop.puts.length, shop.signed.length, shop.writes.length]).toEqual([puts, signed, 1])

    const third = await shop.publish([product('mug', 25), product('print', 42), product('vase')])
    expect(third.outcomes.map(({ sku: name, outcome }) => [name, outcome])).toEqual([
      ['mug', 'updated'],
      ['print', 'unchanged'],
      ['vase', 'created'],
    ])
    expect(await shop.listed()).toEqual({ mug: 25, print: 42, vase: 5 })
    // Two payloads, head, index and profile; nothing of the one that did not change.
    expect([shop.puts.length, shop.signed.length]).toEqual([puts + 5, signed + 2])
  })

  it('takes down what it is told to, and with prune what it is not told of', async () => {
    const shop = seller()
    await shop.publish([product('mug'), product('print'), product('vase')])
    shop.now += 10
    const removed = await shop.publish([], { remove: ['mug', 'never-there'] })
    expect(removed.counts).toMatchObject({ removed: 1, unchanged: 1 })
    expect(await shop.listed()).toEqual({ print: 5, vase: 5 })
    const { cid } = removed.outcomes[0]!
    expect(shop.json(cid!)).toEqual({ '@context': MARKET_CONTEXT, '@type': 'Tombstone', sku: 'mug', at: shop.now })

    expect(await shop.publish([], { remove: ['mug'] })).toMatchObject({ status: 'unchanged', counts: { unchanged: 1 } })
    shop.now += 10
    const pruned = await shop.publish([product('vase')], { prune: true })
    expect(pruned.counts).toMatchObject({ removed: 1, unchanged: 1, created: 0 })
    expect(await shop.listed()).toEqual({ vase: 5 })
    expect(await shop.publish([product('vase')], { prune: true })).toMatchObject({ status: 'unchanged' })

    shop.now += 10
    await shop.publish([product('mug', 7)])
    expect(await shop.listed()).toEqual({ mug: 7, vase: 5 })
  })

  it('refuses all that is wrong at once, each with its place and rule, before anything is pinned', async () => {
    const shop = seller()
    const result = await shop.publish(
      [
        product('mug', -1),
        product('vase'),
        product('vase'),
        product('lamp', 5, { offers: [] }),
        'no product',
        product('tote', 5, { image: ['/rooted.png'] }),
        { ...product('print'), sku: 'Print' },
        { ...product('poem'), description: '\ud800' },
      ],
      { remove: ['vase', 'No Sku'] },
    )
    expect(result.status).toBe('refused')
    expect(result.refused).toEqual([
      { index: 0, sku: 'mug', at: 'offers[0].price', rule: 'greater than zero' },
      { index: 2, sku: 'vase', at: 'sku', rule: 'only once' },
      { index: 3, sku: 'lamp', at: 'offers', rule: 'non-empty array' },
      { index: 4, at: '$', rule: 'root object' },
      { index: 5, sku: 'tote', at: 'image[0]', rule: 'absolute URI' },
      { index: 6, at: 'sku', rule: 'pattern' },
      { index: 7, sku: 'poem', at: '$', rule: 'Lone surrogate in a string' },
      { sku: 'vase', at: 'sku', rule: 'published or removed, not both' },
      { sku: 'No Sku', at: 'sku', rule: 'pattern' },
    ])
    expect(result.counts.refused).toBe(9)
    expect([shop.puts, shop.signed, shop.writes]).toEqual([[], [], []])
  })

  it('with skip publishes the others, and prunes no product for being refused', async () => {
    const shop = seller()
    await shop.publish([product('mug', 3), product('vase')])
    shop.now += 1
    const result = await shop.publish([product('mug', -3), product('lamp')], { onRefused: 'skip', prune: true })
    expect(result).toMatchObject({ status: 'published', counts: { created: 1, removed: 1, refused: 1 } })
    expect(await shop.listed()).toEqual({ mug: 3, lamp: 5 })
  })

  it('in a dry run tells what would change and touches nothing', async () => {
    const shop = seller()
    await shop.publish([product('mug'), product('vase')])
    shop.now += 1
    const before = [shop.puts.length, shop.signed.length, shop.digest]
    const result = await shop.publish([product('mug', 6), product('lamp')], { prune: true, dryRun: true })
    expect(result).toMatchObject({ status: 'dry-run', counts: { created: 1, updated: 1, removed: 1 } })
    expect(result.digest).toBeUndefined()
    expect([shop.puts.length, shop.signed.length, shop.digest]).toEqual(before)
  })

  it('leaves the registry to somebody else when told to', async () => {
    const shop = seller()
    const result = await shop.publish([product('mug')], { register: false })
    expect(result).toMatchObject({ status: 'pinned', digest: expect.stringMatching(/^0x[0-9a-f]{64}$/) })
    expect(shop.digest).toBe(NO_PROFILE)
    shop.digest = result.digest!
    expect(await shop.listed()).toEqual({ mug: 5 })
  })

  it("keeps other operators' namespaces and members of the profile it does not know", async () => {
    const shop = seller()
    await shop.publish([product('mug')], { operator: OTHER_OPERATOR })
    const others = shop.profile().namespaces![OTHER_OPERATOR]
    shop.digest = cidToDigest(shop.place({ ...shop.profile(), location: { city: 'Kiel' }, name: 'Mine' }))
    await shop.publish([product('vase')], { newProfile: { name: 'Not mine' } })
    expect(shop.profile()).toMatchObject({ location: { city: 'Kiel' }, name: 'Mine' })
    expect(shop.profile().namespaces).toEqual({ [OTHER_OPERATOR]: others, [OPERATOR]: expect.any(String) })
  })

  it('completes a profile that has no context, and refuses to write over one of another kind', async () => {
    const shop = seller()
    shop.digest = cidToDigest(shop.place({ name: 'From a wallet', previewImageUrl: 'data:,' }))
    await shop.publish([product('vase')])
    expect(shop.profile()).toMatchObject({
      '@context': PROFILE_CONTEXT,
      '@type': 'Profile',
      name: 'From a wallet',
      previewImageUrl: 'data:,',
    })
    shop.digest = cidToDigest(shop.place({ '@type': 'Recipe', name: 'Soup' }))
    await expect(shop.publish([product('vase')])).rejects.toMatchObject({ code: 'unreadable' })
  })

  it('writes over nothing it can not read, unless it is told to begin anew', async () => {
    const shop = seller()
    await shop.publish([product('mug')])
    const [digest, profile] = [shop.digest, digestToCid(shop.digest)]
    for (const cid of [shop.chunks()[0]!.cid, String(shop.profile().namespaces![OPERATOR]), profile]) {
      const bytes = shop.blocks.get(cid)!
      shop.blocks.delete(cid)
      await expect(shop.publish([product('vase')])).rejects.toMatchObject({ code: 'unavailable' })
      shop.blocks.set(cid, new TextEncoder().encode('{"a":1,"a":2}'))
      await expect(shop.publish([product('vase')])).rejects.toMatchObject({ code: 'unreadable' })
      shop.blocks.set(cid, bytes)
    }
    expect(shop.digest).toBe(digest)
    shop.blocks.delete(shop.chunks()[0]!.cid)
    const result = await shop.publish([product('mug'), product('vase')], { startOver: true })
    expect(result).toMatchObject({ status: 'published', counts: { created: 2 } })
    expect(await shop.listed()).toEqual({ mug: 5, vase: 5 })
  })

  it('asks the registry to be written only after every pin is confirmed', async () => {
    const shop = seller()
    await shop.publish([product('mug')])
    const { put } = shop.storage
    for (let failing = 0; failing < 5; failing += 1) {
      const digest = shop.digest
      shop.now += 1
      let n = 0
      shop.storage.put = async (...args) => {
        n += 1
        if (n === failing + 1) throw new Error('disk full')
        return put(...args)
      }
      // Two payloads, then head, index, profile.
      await expect(shop.publish([product('mug', 6), product('vase')]), `pin ${failing}`).rejects.toThrow('disk full')
      expect(shop.digest).toBe(digest)
    }
    shop.storage.put = async (bytes) => (await put(bytes)).replace(/.$/, '1')
    await expect(shop.publish([product('mug', 6)])).rejects.toMatchObject({ code: 'storage' })
    expect(await shop.listed()).toEqual({ mug: 5 })
  })

  it('pins sixteen payloads at a time, each full chunk once, and no head in between', async () => {
    const shop = seller(quickly)
    const { put } = shop.storage
    let [now, most] = [0, 0]
    shop.storage.put = async (...args) => {
      now += 1
      most = Math.max(most, now)
      await new Promise((resolve) => setTimeout(resolve))
      now -= 1
      return put(...args)
    }
    const products = Array.from({ length: 250 }, (_, i) => product(`sku-${i}`))
    const told: PublishProgress[] = []
    await shop.publish(products, { onProgress: (progress) => told.push(progress) })
    expect(most).toBe(16)
    // 250 payloads, three chunks, index, profile.
    expect(shop.puts).toHaveLength(250 + 3 + 2)
    expect(shop.chunks().map(({ links }) => links.length)).toEqual([50, 100, 100])
    const steps = told.filter(({ phase }) => phase === 'products')
    expect(steps.map(({ done }) => done)).toEqual(Array.from({ length: 500 }, (_, i) => i + 1))
    expect(new Set(steps.map(({ total }) => total))).toEqual(new Set([500]))
    expect(told.at(-1)).toEqual({ phase: 'registry', done: 1, total: 1 })

    // One that is in the head is replaced there; another one of an older chunk does not open a new one for it.
    shop.now += 1
    await shop.publish([product('sku-0', 9), ...products.slice(1, 249), product('sku-249', 9)])
    expect(shop.chunks().map(({ links }) => links.length)).toEqual([51, 100, 100])
    expect(await shop.listed()).toMatchObject({ 'sku-0': 9, 'sku-1': 5, 'sku-249': 9 })
  })

  it('replaces what is in the head before the head is full', async () => {
    const shop = seller(quickly)
    await shop.publish(Array.from({ length: 99 }, (_, i) => product(`sku-${i}`)))
    shop.now += 1
    await shop.publish([product('new-1'), product('new-2'), product('sku-0', 9)])
    // 101 names, and no link of sku-0 left behind in the chunk that was closed.
    expect(shop.chunks().map(({ links }) => links.length)).toEqual([1, 100])
  })

  it('puts back what a storage that knows has lost of unchanged products', async () => {
    const shop = seller()
    shop.storage.has = async (cid) => shop.blocks.has(cid)
    const { outcomes } = await shop.publish([product('mug'), product('vase')])
    shop.blocks.delete(outcomes[0]!.cid!)
    expect(await shop.publish([product('mug'), product('vase')])).toMatchObject({ status: 'unchanged' })
    expect(await shop.listed()).toEqual({ mug: 5, vase: 5 })
    expect(shop.signed).toHaveLength(2)

    delete shop.storage.has
    shop.blocks.delete(outcomes[0]!.cid!)
    await shop.publish([product('mug'), product('vase')])
    expect(shop.blocks.has(outcomes[0]!.cid!)).toBe(false)
    await shop.publish([product('mug'), product('vase')], { repin: true })
    expect(await shop.listed()).toEqual({ mug: 5, vase: 5 })
    expect(shop.signed).toHaveLength(2)
  })

  it('pins the pictures of products that are new, by their type, and not of those that are not', async () => {
    const shop = seller()
    const picture = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 1, 2, 3])
    const cid = cidV0(picture)
    const media = new Map([[cid, { mediaType: 'image/png', read: async () => picture }]])
    const pictured = product('mug', 5, { image: [`ipfs://${cid}`, 'https://shop.example/mug.png'] })
    await shop.publish([pictured], { media })
    expect(shop.puts.filter((put) => put.mediaType === 'image/png')).toEqual([{ cid, mediaType: 'image/png' }])
    shop.now += 1
    await shop.publish([pictured, product('vase')], { media })
    expect(shop.puts.filter((put) => put.mediaType !== undefined)).toHaveLength(1)
  })

  it('stops when it is called off', async () => {
    const shop = seller()
    const off = new AbortController()
    const { put } = shop.storage
    shop.storage.put = async (bytes) => {
      if (shop.puts.length === 20) off.abort(new Error('enough'))
      return put(bytes)
    }
    const products = Array.from({ length: 100 }, (_, i) => product(`sku-${i}`))
    await expect(shop.publish(products, { signal: off.signal })).rejects.toThrow('enough')
    expect(shop.puts.length).toBeLessThan(60)
    expect(shop.writes).toEqual([])
  })
})

describe('the time of a link', () => {
  it('is newer than that of the link it replaces, which within one second is waited for', async () => {
    const shop = seller()
    await shop.publish([product('mug')])
    await shop.publish([product('mug', 6)])
    await shop.publish([], { remove: ['mug'] })
    expect(shop.signed.map(({ signedAt }) => signedAt - BASE)).toEqual([0, 1, 2])
    expect(shop.slept).toBe(2000)
    // Nothing is replaced by a new one, so nothing is waited for.
    await shop.publish([product('vase')])
    expect(shop.slept).toBe(2000)
  })

  it('is waited for as long as readers allow a clock to be ahead, and no longer', async () => {
    const shop = seller()
    const old = shop.place(product('mug', 1))
    shop.placeNamespace([[shop.link('product/mug', old, BASE + 30)]])
    await shop.publish([product('mug', 2)])
    expect(shop.signed[0]!.signedAt).toBe(BASE + 31)
    expect(shop.now).toBe(BASE + 31)
    await expect(shop.publish([product('mug', 3)], { sleep: async () => {} })).rejects.toMatchObject({ code: 'clock' })
  })

  it('says which product has a link dated in the future, and writes over it where it can', async () => {
    const shop = seller()
    const old = shop.place(product('mug', 1))
    const ahead = shop.link('product/mug', old, BASE + DAY)
    shop.placeNamespace([[ahead]])
    expect(await shop.publish([product('mug', 2)])).toMatchObject({ status: 'published' })
    shop.now += 2 * DAY
    expect(await shop.listed()).toEqual({ mug: 2 })

    const stuck = seller()
    stuck.place(product('mug', 1))
    stuck.placeNamespace([[ahead], [stuck.link('product/vase', stuck.place(product('vase')), BASE)]])
    const refusal = { sku: 'mug', at: 'signedAt', rule: expect.stringContaining('future') }
    const result = await stuck.publish([product('lamp'), product('mug', 2)])
    expect(result).toMatchObject({ status: 'refused', refused: [{ index: 1, ...refusal }] })
    expect(await stuck.publish([], { prune: true })).toMatchObject({ refused: [refusal] })
    expect(stuck.writes).toEqual([])
    // In a full head nothing is replaced, so it would stay.
    const full = seller()
    const others = Array.from({ length: 99 }, (_, i) => ({ ...ahead, name: `product/sku-${i}` }))
    full.place(product('mug', 1))
    full.placeNamespace([[ahead, ...others]])
    expect(await full.publish([product('mug', 2)])).toMatchObject({ status: 'refused', refused: [refusal] })

    // The same product as will be there then does no harm.
    const same = seller()
    const { outcomes } = await same.publish([product('mug', 2)], { register: false })
    same.placeNamespace([
      [same.link('product/mug', outcomes[0]!.cid!, BASE + DAY)],
      [same.link('product/vase', old, BASE)],
    ])
    expect(await same.publish([product('mug', 2)])).toMatchObject({ status: 'published' })
  })
})

describe('who signs', () => {
  it('publishes again what a link with a bad signature was to publish', async () => {
    const shop = seller()
    const { outcomes } = await shop.publish([product('mug'), product('vase')])
    const mug = outcomes[0]!.cid!
    const good = shop.link('product/mug', mug, BASE)
    const forged = { ...good, signature: shop.link('product/mug', mug, BASE, OTHER_KEY).signature }
    shop.placeNamespace([[forged, shop.link('product/vase', outcomes[1]!.cid!, BASE)]])
    expect(await shop.listed()).toEqual({ vase: 5 })
    shop.now += 1
    const result = await shop.publish([product('mug'), product('vase')])
    expect(result.counts).toMatchObject({ created: 1, unchanged: 1 })
    expect(await shop.listed()).toEqual({ mug: 5, vase: 5 })
  })

  it('goes by the newest link that counts where a nonce was used twice', async () => {
    const shop = seller()
    const one = shop.place(product('mug', 1))
    const two = (await shop.publish([product('mug', 2)], { register: false })).outcomes[0]!.cid!
    const older = shop.link('product/mug', one, BASE - 20)
    const replay = signLink(
      { name: 'product/mug', cid: two, chainId: CHAIN, signedAt: BASE - 10, nonce: nonce('twice') },
      KEY,
    )
    const rival = signLink(
      { name: 'product/vase', cid: two, chainId: CHAIN, signedAt: BASE - 5, nonce: nonce('twice') },
      KEY,
    )
    shop.placeNamespace([[older], [replay], [rival]])
    // Price 2 is written in a newer link, which does not count.
    expect((await shop.publish([product('mug', 2)])).counts).toMatchObject({ updated: 1 })
  })

  it('lets a key sign that the profile lists, and no other', async () => {
    const shop = seller()
    const signer = { address: addressOfPrivateKey(OTHER_KEY), sign: (draft: LinkDraft) => signLink(draft, OTHER_KEY) }
    await expect(shop.publish([product('mug')], { signer, avatar: SELLER })).rejects.toMatchObject({ code: 'signer' })
    expect(shop.puts).toEqual([])

    const fingerprint = `0x${'0'.repeat(24)}${signer.address.slice(2)}`
    const signingKeys = { [fingerprint]: { '@type': 'SigningKey', validFrom: BASE - 10 } }
    await shop.publish([product('mug')], { signer, avatar: SELLER, signingKeys })
    expect(shop.profile().signingKeys).toEqual(signingKeys)
    expect(await shop.listed()).toEqual({ mug: 5 })
    shop.now += 1
    await shop.publish([product('mug', 6)], { signer, avatar: SELLER })
    expect(await shop.listed()).toEqual({ mug: 6 })
    // The key is in the list; it is neither added again nor changed.
    const later = { [fingerprint]: { '@type': 'SigningKey', validFrom: BASE - 5 } }
    const again = { signer, avatar: SELLER, signingKeys: later }
    expect(await shop.publish([product('mug', 6)], again)).toMatchObject({ status: 'unchanged' })
    await shop.publish([product('vase')], again)
    expect(shop.profile().signingKeys).toEqual(signingKeys)
  })

  it.each([
    ['for something else', (draft: LinkDraft) => signLink({ ...draft, name: 'product/vase' }, KEY)],
    ['with a date in the future', (draft: LinkDraft) => signLink({ ...draft, signedAt: BASE + 10 }, KEY)],
    ['that is not newer', (draft: LinkDraft) => signLink({ ...draft, signedAt: BASE - 100 }, KEY)],
    ['by another key', (draft: LinkDraft) => signLink(draft, OTHER_KEY)],
    ['with a signature of other bytes', (draft: LinkDraft) => ({ ...signLink(draft, KEY), nonce: nonce('other') })],
    [
      'that demands what nobody knows',
      (draft: LinkDraft) => signLink({ ...draft, extensions: { x: {} }, criticalExtensions: ['x'] }, KEY),
    ],
    ['for another chain', (draft: LinkDraft) => signLink({ ...draft, chainId: 1 }, KEY)],
  ])('takes no link %s', async (_, sign) => {
    const shop = seller()
    shop.placeNamespace([[shop.link('product/mug', shop.place(product('mug', 1)), BASE - 50)]])
    const { digest } = shop
    await expect(shop.publish([product('mug')], { signer: { address: SELLER, sign } })).rejects.toMatchObject({
      code: 'signer',
    })
    expect(shop.digest).toBe(digest)
  })

  it('asks about signatures where it is told to, and stops when nobody can tell', async () => {
    const shop = seller()
    const safe = `0x${'5a'.repeat(20)}`
    const sign = (draft: LinkDraft) => ({ ...signLink(draft, KEY), signerAddress: safe, signature: '0x' })
    const signer = { address: safe, sign }
    const checkSignature: CheckSignature = async (link) => ({ ok: true, signer: link.signerAddress })
    expect(await shop.publish([product('mug')], { signer, checkSignature })).toMatchObject({ status: 'published' })
    expect(await shop.publish([product('mug')], { signer, checkSignature })).toMatchObject({ status: 'unchanged' })
    const unsure: CheckSignature = async () => {
      throw new Error('no node answers')
    }
    await expect(shop.publish([product('mug', 6)], { signer, checkSignature: unsure })).rejects.toThrow('no node')
  })
})

describe('when somebody else writes at the same time', () => {
  /** Lets another writer publish just before our write arrives. */
  const interfering = (
    shop: ReturnType<typeof seller>,
    interfere: (n: number) => Promise<unknown>,
  ): CatalogRegistry => {
    let n = 0
    return {
      ...shop.registry,
      async writeDigest(digest, expected) {
        n += 1
        await interfere(n)
        return shop.registry.writeDigest(digest, expected)
      },
    }
  }

  it('begins again from what they wrote: both are kept, and nothing is signed twice', async () => {
    const shop = seller()
    await shop.publish([product('mug')])
    shop.now += 1
    const registry = interfering(shop, async (n) => {
      if (n <= 2) await shop.publish([product(`theirs-${n}`)], { signer: other })
    })
    const other = { address: SELLER, sign: (draft: LinkDraft) => signLink(draft, KEY) }
    const result = await shop.publish([product('mug', 7), product('ours')], { registry })
    expect(result).toMatchObject({ status: 'published', counts: { created: 1, updated: 1 } })
    expect(await shop.listed()).toEqual({ mug: 7, ours: 5, 'theirs-1': 5, 'theirs-2': 5 })
    expect(shop.signed).toHaveLength(3)
  })

  it('gives up after three more tries', async () => {
    const shop = seller()
    let tries = 0
    const registry = interfering(shop, async (n) => {
      tries = n
      await shop.publish([product(`theirs-${n}`)])
    })
    await expect(shop.publish([product('ours')], { registry })).rejects.toMatchObject({ code: 'registry_moved' })
    expect(tries).toBe(4)
    expect(Object.keys(await shop.listed())).not.toContain('ours')
  })

  it('notices a writer who looked before and wrote after it', async () => {
    const shop = seller()
    await shop.publish([product('mug')])
    const before = shop.digest
    shop.now += 1
    let calls = 0
    const registry: CatalogRegistry = {
      ...shop.registry,
      async writeDigest(digest, expected) {
        calls += 1
        const outcome = await shop.registry.writeDigest(digest, expected)
        if (calls === 1) {
          const ours = shop.digest
          shop.digest = before
          await shop.publish([product('theirs')])
          expect(shop.digest).not.toBe(ours)
        }
        return outcome
      },
    }
    const result = await shop.publish([product('ours')], { registry })
    expect(result).toMatchObject({ status: 'published', counts: { created: 1 } })
    expect(await shop.listed()).toEqual({ mug: 5, ours: 5, theirs: 5 })
  })

  it('is content when somebody has built on what it wrote', async () => {
    const shop = seller()
    let calls = 0
    const registry: CatalogRegistry = {
      ...shop.registry,
      async writeDigest(digest, expected) {
        calls += 1
        const outcome = await shop.registry.writeDigest(digest, expected)
        await shop.publish([product('theirs')])
        return outcome
      },
    }
    const result = await shop.publish([product('ours')], { registry })
    expect(result).toMatchObject({ status: 'published', counts: { created: 1 } })
    expect(calls).toBe(1)
    expect(await shop.listed()).toEqual({ ours: 5, theirs: 5 })
  })

  it('does not mind a node that shows the old digest for a while', async () => {
    const shop = seller()
    const registry: CatalogRegistry = { ...shop.registry, readDigest: async () => NO_PROFILE }
    expect(await shop.publish([product('mug')], { registry })).toMatchObject({ status: 'published' })
    expect(shop.writes).toHaveLength(1)
  })
})

describe('the index', () => {
  it('forgets names that were taken down over ninety days ago, when it is written anyway', async () => {
    const shop = seller()
    await shop.publish([product('mug'), product('old'), product('vase')])
    shop.now += 1
    await shop.publish([], { remove: ['old'] })
    shop.now += 89 * DAY
    await shop.publish([], { remove: ['mug'] })
    const names = () => Object.keys(shop.index().entries)
    expect(names()).toEqual(['product/mug', 'product/old', 'product/vase'])

    shop.now += 2 * DAY
    const { digest } = shop
    expect(await shop.publish([product('vase')])).toMatchObject({ status: 'unchanged' })
    expect(shop.digest).toBe(digest)
    await shop.publish([product('lamp')])
    expect(names()).toEqual(['product/mug', 'product/vase', 'product/lamp'])
    expect(await shop.listed()).toEqual({ vase: 5, lamp: 5 })

    await shop.publish([product('old', 8)])
    expect(names()).toContain('product/old')
    expect(await shop.listed()).toEqual({ vase: 5, lamp: 5, old: 8 })
  })

  it('keeps a name whose payload can not be read', async () => {
    const shop = seller()
    await shop.publish([product('mug')])
    shop.now += 1
    const { outcomes } = await shop.publish([], { remove: ['mug'] })
    shop.blocks.delete(outcomes[0]!.cid!)
    shop.now += 100 * DAY
    await shop.publish([product('lamp')])
    expect(Object.keys(shop.index().entries)).toEqual(['product/mug', 'product/lamp'])
  })
})

describe('a run that was cut off', () => {
  const remembering = () => {
    const pinned = new Set<string>()
    const links: CustomDataLink[] = []
    const journal: PublishJournal = {
      isPinned: (cid) => pinned.has(cid),
      pinned: (cid) => void pinned.add(cid),
      linksOf: (name) => links.filter((link) => link.name === name),
      signed: (link) => void links.push(link),
    }
    return { journal, pinned, links }
  }

  it('goes on without pinning or signing again, tombstones included', async () => {
    const shop = seller(quickly)
    await shop.publish([product('gone')])
    shop.now += 1
    const { journal, pinned, links } = remembering()
    const products = Array.from({ length: 120 }, (_, i) => product(`sku-${i}`))
    const { put } = shop.storage
    let left = 50
    shop.storage.put = async (...args) => {
      left -= 1
      if (left < 0) throw new Error('cut off')
      return put(...args)
    }
    await expect(shop.publish(products, { journal, remove: ['gone'] })).rejects.toThrow('cut off')
    expect(pinned.size).toBeGreaterThan(30)
    expect(links.length).toBeGreaterThan(0)
    shop.storage.put = put
    shop.now += 500
    const [puts, signed] = [shop.puts.length, shop.signed.length]
    const alreadyPinned = pinned.size
    const result = await shop.publish(products, { journal, remove: ['gone'] })
    expect(result).toMatchObject({ status: 'published', counts: { created: 120, removed: 1 } })
    expect(shop.puts.length - puts).toBe(121 + 4 - alreadyPinned)
    expect(new Set(shop.puts.map(({ cid }) => cid)).size).toBe(shop.puts.length)
    // Never a second link for what had one.
    expect(signed).toBeGreaterThan(0)
    expect(new Set(shop.signed.map(({ name, cid }) => `${name} ${cid}`)).size).toBe(shop.signed.length)
    expect(Object.keys(await shop.listed())).toHaveLength(120)
  })

  it('signs again what somebody else has replaced meanwhile', async () => {
    const shop = seller()
    const { journal, links } = remembering()
    await shop.publish([product('mug', 1)], { journal, register: false })
    expect(links).toHaveLength(1)
    shop.now += 5
    await shop.publish([product('mug', 2)])
    shop.now += 5
    await shop.publish([product('mug', 1)], { journal })
    expect(links).toHaveLength(2)
    expect(await shop.listed()).toEqual({ mug: 1 })
  })
})

it('whatever is published one after the other, the market lists what was last wanted', async () => {
  const skus = ['a', 'b', 'c', 'd', 'e']
  const want = fc.dictionary(fc.constantFrom(...skus), fc.integer({ min: 1, max: 3 }), { maxKeys: 5 })
  const step = fc.record({
    want,
    mode: fc.constantFrom('add', 'prune', 'remove'),
    seconds: fc.constantFrom(0, 1, 40, 100 * DAY),
    filler: fc.constantFrom(0, 0, 0, 97),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 7 }), async (steps) => {
      const shop = seller(quickly)
      let wanted: Record<string, number> = {}
      for (const { want: next, mode, seconds, filler } of steps) {
        shop.now += seconds
        const others = Object.fromEntries(Array.from({ length: filler }, (_, i) => [`filler-${i}`, (i % 3) + 1]))
        const products = { ...others, ...next }
        if (mode === 'remove') {
          await shop.publish([], { remove: Object.keys(next) })
          wanted = Object.fromEntries(Object.entries(wanted).filter(([sku]) => !(sku in next)))
        } else {
          const documents = Object.entries(products).map(([sku, price]) => product(sku, price))
          await shop.publish(documents, { prune: mode === 'prune' })
          wanted = mode === 'prune' ? products : { ...wanted, ...products }
        }
        expect(await shop.listed()).toEqual(wanted)
        expect(shop.signed.every(({ signedAt }) => signedAt <= shop.now)).toBe(true)
      }
    }),
    { numRuns: 40 },
  )
})
