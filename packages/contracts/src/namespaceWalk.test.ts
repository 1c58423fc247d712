import { existsSync, readFileSync } from 'node:fs'
import { keccak_256 } from '@noble/hashes/sha3.js'
import { bytesToHex, utf8ToBytes } from '@noble/hashes/utils.js'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type JsonValue, canonicalize, parseStrictJson, parseStrictJsonBytes } from './canonicalJson.ts'
import {
  type NameIndexDoc,
  type NamespaceChunk,
  type StoredDocument,
  namespaceEntry,
  parseNameIndexDoc,
  parseNamespaceChunk,
  parseProfile,
} from './catalogDocuments.ts'
import { type CustomDataLink, linkDigest, signLink, verifyEoaSignature } from './link.ts'
import {
  type AppendedLink,
  type NamespaceLink,
  type PayloadRead,
  type ReadPayload,
  type Selection,
  type WalkedChunk,
  appendLink,
  appendToIndex,
  compareLinks,
  orderLinks,
  resolveNamespace,
  verifyNamespaceLinks,
} from './namespaceWalk.ts'

const vectors = new URL('../vectors/', import.meta.url)
const readVector = (name: string) => JSON.parse(readFileSync(new URL(name, vectors), 'utf8'))

interface ExpectedProduct {
  seller: string
  sku: string
  productCid: string
  publishedAt: number
  indexInChunk: number
  chunkDepth: number
  linkKeccak: string
  price: number
}
interface ExpectedRun {
  products: ExpectedProduct[]
  errors: Array<{ avatar: string; stage: string; cid: string; reason?: string; index?: number }>
  dropped: Array<{ avatar: string; name: string; reason: string }>
}
type Window = { start: number; end: number }
interface Request {
  avatars: string[]
  window: Window
}
const expected = readVector('catalog/expected.json') as {
  operator: string
  chainId: number
  main: Request & ExpectedRun & { tombstoned: Array<{ seller: string; sku: string }> }
  narrowWindow: { window: Window; products: string[] }
  windowResurrects: { window: Window; products: string[] }
  scenarios: Array<Request & { id: string; required: ExpectedRun }>
}
const manifest = readVector('catalog/manifest.json') as { nameRegistry: Record<string, { profileCid: string }> }
const negative = readVector('negative.json') as {
  links: Array<{ id: string; link: CustomDataLink; firstUse: CustomDataLink }>
}
const rotation = readVector('rotation.json') as {
  signer: string
  payloadCid: string
  closedChunk: { cid: string; links: number; bytes: number }
  head: { cid: string; links: number; prev: string }
  index: { cid: string; entries: number; head: string }
  firstSignature: string
  lastSignature: string
  replaceInFullHead: {
    name: string
    cid: string
    signedAt: number
    nonceLabel: string
    headCid: string
    prev: string
  }
}

const clayMug = {
  older: 'QmVpUrsUrqo5BCDw8PYpMaEedYoCcsaw22cvYUpzukyQDy',
  newer: 'Qmdm5mTg5iyimumZUib4AZYcDBFaD6dWQR8D3k9GdZMuXv',
}
const vaseTombstone = 'QmYT2faknE2f7q443BkNYEVdKhsShPRK2fiepPWmvrJPos'

const blockUrl = (cid: string) => new URL(`catalog/blocks/${cid}.json`, vectors)
const block = (cid: string): JsonValue => parseStrictJson(readFileSync(blockUrl(cid), 'utf8'))

const readBlock: ReadPayload = async (cid) =>
  existsSync(blockUrl(cid))
    ? { kind: 'bytes', value: new Uint8Array(readFileSync(blockUrl(cid))) }
    : { kind: 'unavailable', reason: 'BLOCK_UNAVAILABLE' }

/** The store with one payload that answers differently. */
const readingBut =
  (cid: string, answer: PayloadRead): ReadPayload =>
  async (asked) =>
    asked === cid ? answer : readBlock(asked)

const ok = <T extends { ok: boolean }>(verdict: T): Extract<T, { ok: true }> => {
  expect(verdict).toMatchObject({ ok: true })
  return verdict as Extract<T, { ok: true }>
}

/** Registry → profile → index → head → prev …, what the indexer does over IPFS. */
function chunksOf(avatar: string): WalkedChunk[] {
  const { profile } = ok(parseProfile(block(manifest.nameRegistry[avatar]!.profileCid)))
  const { index } = ok(parseNameIndexDoc(block(String(namespaceEntry(profile, expected.operator)))))
  const chunks: WalkedChunk[] = []
  for (let cid: string | null | undefined = index.head; cid;) {
    const { chunk }: { chunk: NamespaceChunk } = ok(parseNamespaceChunk(block(cid)))
    chunks.push({ cid, links: chunk.links })
    cid = chunk.prev
  }
  return chunks
}

async function aggregate({ avatars, window }: Request, readPayload = readBlock): Promise<Selection> {
  const runs = await Promise.all(
    avatars.map((avatar) =>
      resolveNamespace(chunksOf(avatar), { avatar, chainId: expected.chainId, window }, readPayload),
    ),
  )
  return {
    winners: runs.flatMap(({ winners }) => winners).toSorted(compareLinks),
    tombstoned: runs.flatMap(({ tombstoned }) => tombstoned),
    dropped: runs.flatMap(({ dropped }) => dropped),
    errors: runs.flatMap(({ errors }) => errors),
  }
}

const productsOf = ({ winners }: Selection): ExpectedProduct[] =>
  winners.map(({ avatar, sku, link, signedAt, indexInChunk, depth, linkKeccak, product }) => ({
    seller: avatar,
    sku,
    productCid: link.cid,
    publishedAt: signedAt,
    indexInChunk,
    chunkDepth: depth,
    linkKeccak,
    price: product.offers[0]!.price,
  }))
const skusOf = ({ winners }: Selection): string[] => winners.map(({ sku }) => sku)
const text = (value: unknown): string => JSON.stringify(value)
const sortedByText = <T>(items: T[]): T[] => items.toSorted((a, b) => (text(a) < text(b) ? -1 : 1))

/** The vectors list what was found in any order; they name the reader's reason where the entry has a code. */
function expectRun(run: Selection, wanted: ExpectedRun): void {
  expect(productsOf(run)).toEqual(wanted.products)
  expect(sortedByText(run.dropped.map(({ avatar, name, code }) => ({ avatar, name, reason: code })))).toEqual(
    sortedByText(wanted.dropped),
  )
  const seen = run.errors.map(({ avatar, stage, cid, code, reason, index }) => ({
    avatar,
    stage,
    cid,
    ...(stage === 'link' ? { index } : { reason: code === 'PAYLOAD_UNAVAILABLE' ? reason : code }),
  }))
  expect(sortedByText(seen)).toEqual(sortedByText(wanted.errors))
}

describe('the sample catalogs', () => {
  it('catalog:31 lists the main case, in order and with everything dropped or reported', async () => {
    const run = await aggregate(expected.main)
    expectRun(run, expected.main)
    expect(run.tombstoned.map(({ avatar, sku }) => ({ seller: avatar, sku }))).toEqual(expected.main.tombstoned)
    const rowan = run.errors.find(({ sku }) => sku === 'rowan')
    expect(rowan).toMatchObject({ stage: 'payload', code: 'PAYLOAD_UNAVAILABLE' })
  })

  it.each(['narrowWindow', 'windowResurrects'] as const)('catalog:33 lists %s', async (name) => {
    const { window, products } = expected[name]
    // The window vectors show seller A alone.
    const run = await aggregate({ avatars: expected.main.avatars.slice(0, 1), window })
    expect(skusOf(run)).toEqual(products)
  })

  for (const scenario of expected.scenarios) {
    it(`catalog:34 gives ${scenario.id} what is required`, async () => {
      expectRun(await aggregate(scenario), scenario.required)
    })
  }

  it('catalog:35 never brings a product back because its tombstone is out of reach', async () => {
    const read = readingBut(vaseTombstone, { kind: 'unavailable', reason: 'timeout' })
    const run = await aggregate(expected.main, read)
    expect(skusOf(run)).not.toContain('old-vase')
    expect(run.tombstoned).toEqual([])
    expect(run.errors.filter(({ sku }) => sku === 'old-vase')).toMatchObject([{ code: 'PAYLOAD_UNAVAILABLE' }])
  })

  it('catalog:36 hides a product rather than showing an old price', async () => {
    const read = readingBut(clayMug.newer, { kind: 'unavailable', reason: 'timeout' })
    const run = await aggregate(expected.main, read)
    expect(skusOf(run)).not.toContain('clay-mug')
  })

  const badForEver: Record<string, PayloadRead> = {
    PAYLOAD_INVALID: { kind: 'bytes', value: utf8ToBytes('{"@type":"Product"}') },
    PAYLOAD_MALFORMED: { kind: 'bytes', value: utf8ToBytes('{"@type":') },
    TYPE: { kind: 'bytes', value: utf8ToBytes('[]') },
    PAYLOAD_REFUSED: { kind: 'bad', reason: 'TOO_LARGE' },
  }
  it.each(Object.entries(badForEver))('catalog:37 falls back to the older mug on %s', async (code, answer) => {
    const run = await aggregate(expected.main, readingBut(clayMug.newer, answer))
    const mug = productsOf(run).find(({ sku }) => sku === 'clay-mug')
    expect(mug).toMatchObject({ productCid: clayMug.older, price: 24, chunkDepth: 1 })
    expect(run.errors.filter(({ sku }) => sku === 'clay-mug')).toMatchObject([{ stage: 'payload', code }])
  })

  it('catalog:37 takes no tombstone that names another product', async () => {
    const other = utf8ToBytes(JSON.stringify({ ...(block(vaseTombstone) as object), sku: 'new-vase' }))
    const run = await aggregate(expected.main, readingBut(vaseTombstone, { kind: 'bytes', value: other }))
    expect(skusOf(run)).toContain('old-vase')
    expect(run.errors.filter(({ sku }) => sku === 'old-vase')).toMatchObject([{ code: 'SKU_MISMATCH' }])
  })

  it('catalog:37 passes in silence over a payload of another type', async () => {
    const snippet: PayloadRead = { kind: 'bytes', value: utf8ToBytes('{"@type":"Snippet","content":""}') }
    const run = await aggregate(expected.main, readingBut(clayMug.newer, snippet))
    expect(productsOf(run).find(({ sku }) => sku === 'clay-mug')).toMatchObject({ price: 24 })
    expect(run.errors.filter(({ sku }) => sku === 'clay-mug')).toEqual([])
  })

  it('catalog:50 hands products on as they were pinned', async () => {
    for (const { product, link } of (await aggregate(expected.main)).winners) {
      expect(canonicalize(product as unknown as JsonValue)).toBe(canonicalize(block(link.cid)))
    }
  })

  it('reads older payloads only when the newer one is of no use', async () => {
    const asked: string[] = []
    await aggregate(expected.main, (cid) => {
      asked.push(cid)
      return readBlock(cid)
    })
    expect(asked).toContain(clayMug.newer)
    expect(asked).not.toContain(clayMug.older)
    expect(new Set(asked).size).toBe(asked.length)
  })

  it('reads no more payloads at a time than it may', async () => {
    let [reading, most] = [0, 0]
    const avatar = expected.main.avatars[2]!
    const scope = { avatar, chainId: 100, window: expected.main.window }
    const countingRead: ReadPayload = async (cid) => {
      most = Math.max(most, ++reading)
      const answer = await readBlock(cid)
      reading -= 1
      return answer
    }
    const narrow = await resolveNamespace(chunksOf(avatar), scope, countingRead, { parallel: 2 })
    expect(most).toBe(2)
    expect(narrow).toEqual(await resolveNamespace(chunksOf(avatar), scope, readBlock))
  })

  it('gives the same answer whatever the order in which payloads arrive', async () => {
    const avatar = expected.main.avatars[2]!
    const scope = { avatar, chainId: 100, window: expected.main.window }
    const inTime = await resolveNamespace(chunksOf(avatar), scope, readBlock)
    let delayMs = 20
    const lastFirst: ReadPayload = async (cid) => {
      delayMs -= 2
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, delayMs)))
      return readBlock(cid)
    }
    expect(await resolveNamespace(chunksOf(avatar), scope, lastFirst)).toEqual(inTime)
  })

  it('takes verdicts from the caller and recovers nothing itself', async () => {
    const avatar = expected.main.avatars[0]!
    const scope = { avatar, chainId: 100, window: expected.main.window }
    const verdicts = new Map<string, string>()
    for (const { links } of chunksOf(avatar)) {
      for (const link of links as CustomDataLink[]) verdicts.set(linkDigest(link), link.signerAddress)
    }
    const stored = await verifyNamespaceLinks(chunksOf(avatar), scope, (_link, digest) => ({
      ok: true,
      signer: verdicts.get(digest)!,
    }))
    expect(stored).toEqual(await verifyNamespaceLinks(chunksOf(avatar), scope, verifyEoaSignature))
  })
})

const placed = (link: CustomDataLink, position: Partial<NamespaceLink> = {}): NamespaceLink => ({
  link,
  signer: link.signerAddress,
  signedAt: link.signedAt,
  avatar: link.signerAddress,
  linkKeccak: linkDigest(link),
  chunkCid: 'Qm',
  depth: 0,
  indexInChunk: 0,
  ...position,
})

describe('the order of links', () => {
  const { link: replayed, firstUse } = negative.links.find(({ id }) => id === 'nonce-replay')!
  it('catalog:15 keeps the newer of two links with one nonce, whatever the order of arrival', () => {
    // The older link stands at the higher index, so that nothing but the time makes the other one newer.
    const links = [placed(replayed, { indexInChunk: 1 }), placed(firstUse)]
    const shuffles = fc.shuffledSubarray(links, { minLength: links.length })
    fc.assert(
      fc.property(shuffles, (shuffled) => {
        const { links: kept, dropped } = orderLinks(shuffled)
        expect(kept.map(({ link }) => link.name)).toEqual([firstUse.name])
        expect(dropped).toMatchObject([{ name: replayed.name, code: 'NONCE_REPLAY' }])
      }),
      { numRuns: 100 },
    )
  })

  it('lets two namespaces share a nonce, and calls one link twice a duplicate', () => {
    const elsewhere = '0x8cbc268e730bb1c9542b773d64782aec509af5bf'
    expect(orderLinks([placed(firstUse), placed(firstUse, { avatar: elsewhere })]).dropped).toEqual([])
    const { links, dropped } = orderLinks([placed(firstUse, { depth: 1 }), placed(firstUse)])
    expect(links).toMatchObject([{ depth: 0 }])
    expect(dropped).toMatchObject([{ code: 'DUPLICATE_LINK' }])
  })

  it('is total: any arrival gives the same order', () => {
    const small = fc.nat(2)
    const position = fc.record({
      signedAt: small,
      depth: small,
      indexInChunk: small,
      avatar: small.map(String),
      linkKeccak: small.map(String),
    })
    fc.assert(
      fc.property(fc.array(position, { maxLength: 6 }), (positions) => {
        expect(positions.toReversed().toSorted(compareLinks)).toEqual(positions.toSorted(compareLinks))
      }),
    )
  })
})

const nonce = (label: string): string =>
  `0x${bytesToHex(keccak_256(utf8ToBytes(`market-catalog-vectors/v1/nonce/${label}`)).subarray(0, 16))}`

describe('writing a namespace', () => {
  const privateKey = `0x${bytesToHex(keccak_256(utf8ToBytes('market-catalog-vectors/v1/rotation')))}`
  const sign = (name: string, signedAt: number, nonceLabel: string, cid = rotation.payloadCid): CustomDataLink =>
    signLink({ name, cid, chainId: 100, signedAt, nonce: nonce(nonceLabel) }, privateKey)
  const numbered = (i: number) => sign(`product/n${String(i).padStart(3, '0')}`, 1_780_000_000 + i, `rot${i}`)
  const links = Array.from({ length: 101 }, (_, i) => numbered(i))

  let full: StoredDocument<NamespaceChunk> | undefined
  let index: StoredDocument<NameIndexDoc> | undefined
  let last: AppendedLink | undefined
  for (const link of links) {
    full = last?.head
    last = appendLink(full, link)
    index = appendToIndex(index?.document, last)
  }

  it('catalog:30 closes a full chunk, links it from the new head and indexes both', () => {
    const { head, closed } = last!
    expect(links[0]).toMatchObject({ signerAddress: rotation.signer, signature: rotation.firstSignature })
    expect(links.at(-1)!.signature).toBe(rotation.lastSignature)
    expect(closed).toMatchObject({ cid: rotation.closedChunk.cid })
    expect(closed!.bytes.length).toBe(rotation.closedChunk.bytes)
    expect(head.cid).toBe(rotation.head.cid)
    expect(head.document.prev).toBe(rotation.head.prev)
    expect(index!.cid).toBe(rotation.index.cid)
    expect(index!.document.head).toBe(rotation.index.head)
    expect(Object.keys(index!.document.entries)).toEqual(links.map(({ name }) => name))
  })

  it('catalog:30 rotates a full head even for a name it holds', () => {
    const { name, cid, signedAt, nonceLabel, headCid, prev } = rotation.replaceInFullHead
    const { head, closed, entries } = appendLink(full, sign(name, signedAt, nonceLabel, cid))
    expect(head.cid).toBe(headCid)
    expect(head.document).toMatchObject({ prev, links: [{ name }] })
    expect(closed).toBe(full)
    expect(entries[name]).toBe(headCid)
    expect(entries['product/n004']).toBe(prev)
    expect(Object.keys(entries).length).toBe(100)
  })

  it('replaces a link of the same name in place while the head has room', () => {
    const [first, second] = [appendLink(undefined, numbered(0)).head, numbered(1)]
    const replacement = sign('product/n000', 1_780_000_300, 'again')
    const { head, closed } = appendLink(appendLink(first, second).head, replacement)
    expect(closed).toBeUndefined()
    expect(head.document.links).toEqual([replacement, second])
    expect(first.document.links).toEqual([numbered(0)])
  })

  it('keeps what it does not know in a chunk and an index, and survives malformed neighbours', () => {
    const { head } = appendLink(undefined, numbered(0))
    const odd = { ...head.document, note: 'x', links: [1, { name: 2 }, ...head.document.links] }
    const appended = appendLink({ ...head, document: odd }, sign('__proto__', 1_780_000_400, 'proto'))
    expect(appended.head.document).toMatchObject({ note: 'x' })
    expect(appended.head.document.links.length).toBe(4)
    expect(Object.keys(appended.entries)).toEqual(['product/n000', '__proto__'])
    const written = appendToIndex({ ...index!.document, note: 'y' }, appended)
    const reread = ok(parseNameIndexDoc(parseStrictJsonBytes(written.bytes))).index
    expect(reread.note).toBe('y')
    expect(Object.hasOwn(reread.entries, '__proto__')).toBe(true)
    expect(reread.entries['product/n100']).toBe(rotation.head.cid)
  })

  it('writes what the walk reads back, newest first', async () => {
    const chunks = [last!.head, last!.closed!].map(({ cid, document }) => ({ cid, links: document.links }))
    const scope = { avatar: rotation.signer, chainId: 100, window: { start: 0, end: 1_780_001_000 } }
    const { links: verified, dropped, errors } = await verifyNamespaceLinks(chunks, scope)
    expect([dropped, errors]).toEqual([[], []])
    expect(orderLinks(verified).links.map(({ link }) => link)).toEqual(links.toReversed())
  })
})
