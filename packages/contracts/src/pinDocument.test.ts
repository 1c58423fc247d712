import { readFileSync } from 'node:fs'
import { utf8ToBytes } from '@noble/hashes/utils.js'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type JsonObject, type JsonValue, isJsonObject, parseStrictJson } from './canonicalJson.ts'
import {
  MARKET_CONTEXT,
  NAMESPACE_CONTEXT,
  parseNameIndexDoc,
  parseNamespaceChunk,
  parseProduct,
  parseProfile,
  parseTombstone,
  PROFILE_CONTEXT,
  SCHEMA_ORG_CONTEXT,
} from './catalogDocuments.ts'
import { type CustomDataLink, checkLinkShape, signLink } from './link.ts'
import { CHAT_CONTEXT, GIST_CONTEXT, parsePinDocument } from './pinDocument.ts'

const readVectors = (name: string) => JSON.parse(readFileSync(new URL(`../vectors/${name}`, import.meta.url), 'utf8'))
interface PinCase {
  id: string
  body: string
  required: { accept: true } | { accept: false; at: string; rule: string }
}
const { cases } = readVectors('pin.json') as { cases: PinCase[] }
const { link: published } = readVectors('crosscheck.json') as { link: { stored: CustomDataLink } }
const { keys } = readVectors('keys.json') as { keys: Array<{ privateKey: string; address: string; publicKey: string }> }
const seller = keys[0]!

const pin = (document: unknown) => parsePinDocument(utf8ToBytes(JSON.stringify(document)))
const refusal = (document: unknown) => {
  const decision = pin(document)
  return decision.ok ? 'pinned' : `${decision.at}: ${decision.rule}`
}

/** What a JSON pointer leads to, by RFC 6901; fails when a step before the last is missing. */
function follow(document: JsonValue, pointer: string): JsonValue | undefined {
  let place: JsonValue | undefined = document
  for (const step of pointer.split('/').slice(1)) {
    if (Array.isArray(place)) place = place[Number(step)]
    else if (isJsonObject(place)) place = place[step.replaceAll('~1', '/').replaceAll('~0', '~')]
    // An offer that is no object has no price, and that is what is said of it.
    else if (place === undefined) throw new Error(`no way to ${pointer}`)
    else place = undefined
  }
  return place
}

describe('the pin vectors', () => {
  it('catalog:51 are 101 cases', () => {
    expect(cases.length).toBe(101)
  })

  for (const { id, body, required } of cases) {
    it(`catalog:51 ${id}`, () => {
      const decision = parsePinDocument(utf8ToBytes(body))
      if (required.accept) {
        const document = JSON.parse(body)
        expect(decision).toEqual({ ok: true, type: document['@type'], document })
      } else {
        const { at, rule } = required
        expect(decision).toMatchObject({ ok: false, at, rule })
      }
    })
  }

  it('catalog:51 have a JSON pointer to the same place as the path', () => {
    const pointers = new Map<string, string>()
    for (const { body } of cases) {
      const decision = parsePinDocument(utf8ToBytes(body))
      if (!decision.ok) pointers.set(decision.at, decision.pointer)
    }
    expect(Object.fromEntries(pointers)).toMatchObject({
      $: '',
      '@context': '/@context',
      name: '/name',
      'image[0].contentUrl': '/image/0/contentUrl',
      'links[0]': '/links/0',
      'offers[0].requiredSlots[]': '/offers/0/requiredSlots',
      'offers[0].potentialAction.recipient.@id': '/offers/0/potentialAction/recipient/@id',
      'offers[1].priceCurrency': '/offers/1/priceCurrency',
    })
  })
})

describe('what pins as a product lists as a product', () => {
  const accepted = cases.filter(({ body, required }) => required.accept && JSON.parse(body)['@type'] === 'Product')

  it.each(accepted)('catalog:56 the catalog reads $id', ({ body }) => {
    expect(parseProduct(parseStrictJson(body)).ok).toBe(true)
  })

  it('catalog:56 and the other way round, with any one member changed', () => {
    const bodies = cases.map(({ body }) => body).filter((body) => body.includes('"@type":"Product"'))
    const documents = bodies.filter((body) => body.endsWith('}')).map((body) => JSON.parse(body) as JsonObject)
    const members = [...new Set(documents.flatMap((document) => Object.keys(document)))]
    fc.assert(
      fc.property(fc.constantFrom(...documents), fc.constantFrom(...members), anyJson, (document, member, value) => {
        const changed = { ...document, [member]: value, '@type': 'Product' }
        expect(pin(changed).ok).toBe(parseProduct(changed).ok)
      }),
      { numRuns: 500 },
    )
  })
})

/** JSON in which the words that decide something are not rare. */
const words = [
  'Product',
  'Offer',
  'CustomDataLink',
  'NamespaceChunk',
  SCHEMA_ORG_CONTEXT,
  MARKET_CONTEXT,
  '',
  'clay-mug',
]
const names = ['@context', '@type', '@id', 'name', 'sku', 'offers', 'links', 'price', 'namespaces', '__proto__', 'x']
const { value: anyJson } = fc.letrec<{ value: JsonValue }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    fc.oneof(fc.constantFrom<JsonValue>(...words, 0, -0, 1.5, 100, null, true), fc.string({ unit: 'binary' })),
    fc.array(tie('value'), { maxLength: 3 }),
    fc.dictionary(fc.constantFrom(...names), tie('value'), { maxKeys: 4, noNullPrototype: true }),
  ),
}))

describe('any input', () => {
  const decides = (bytes: Uint8Array) => {
    const decision = parsePinDocument(bytes)
    if (decision.ok) return
    expect(decision).toEqual({
      ok: false,
      at: expect.stringMatching(/./),
      pointer: expect.stringMatching(/^$|^\//),
      rule: expect.stringMatching(/./),
    })
  }

  it('of bytes is decided without throwing', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), decides), { numRuns: 1_000 })
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => decides(utf8ToBytes(text))),
      { numRuns: 1_000 },
    )
  })

  it('of JSON is decided without throwing', () => {
    fc.assert(
      fc.property(fc.json(), (text) => decides(utf8ToBytes(text))),
      { numRuns: 1_000 },
    )
    fc.assert(
      fc.property(anyJson, (value) => decides(utf8ToBytes(JSON.stringify(value)))),
      { numRuns: 2_000 },
    )
  })

  it('like a vector but for any one value is decided without throwing, with a pointer that leads somewhere', () => {
    const documents = cases.flatMap(({ body }) => {
      try {
        return [parseStrictJson(body)]
      } catch {
        return []
      }
    })
    fc.assert(
      fc.property(fc.constantFrom(...documents), fc.nat(), anyJson, (document, where, value) => {
        const changed = structuredClone(document)
        const places = containersIn(changed)
        const place = places[where % places.length]!
        const members = Object.keys(place)
        const key = members[Math.floor(where / places.length) % Math.max(1, members.length)] ?? '0'
        Object.assign(place, { [key]: value })
        const decision = parsePinDocument(utf8ToBytes(JSON.stringify(changed)))
        if (!decision.ok) follow(changed, decision.pointer)
      }),
      { numRuns: 3_000 },
    )
  })

  it('is decided in time that grows with its length only', () => {
    const offer = { '@context': SCHEMA_ORG_CONTEXT, '@type': 'Offer', price: 1, priceCurrency: 'EUR' }
    const image = { '@context': SCHEMA_ORG_CONTEXT, '@type': 'ImageObject' }
    const long = 'a'.repeat(100_000)
    const start = performance.now()
    for (const text of [
      `https://${long} `,
      `data:${long} `,
      `${'1'.repeat(100_000)}e1e`,
      `0x${long} `,
      `${' '.repeat(100_000)}x`,
    ]) {
      pin({ ...image, url: text })
      pin({ ...image, contentUrl: text })
      pin({ ...offer, price: text })
      pin({ ...offer, availability: text, dateModified: text })
      pin({ ...link, signature: text })
      pin({ ...link, encrypted: true, encryptionAlgorithm: 'x', encryptionKeyFingerprint: text })
    }
    // 30 documents of 100 KB take 40 ms; with one careless pattern, more than ten seconds.
    expect(performance.now() - start).toBeLessThan(3_000)
  })
})

function containersIn(value: JsonValue): Array<JsonObject | JsonValue[]> {
  if (typeof value !== 'object' || value === null) return []
  return [value, ...Object.values(value).flatMap(containersIn)]
}

const cid = 'QmVpUrsUrqo5BCDw8PYpMaEedYoCcsaw22cvYUpzukyQDy'
const link = signLink(
  {
    name: 'product/clay-mug',
    cid,
    chainId: 100,
    signedAt: 1_780_000_010,
    nonce: '0xc4961690fdeb0dc34ed20c18174108d8',
  },
  seller.privateKey,
)
const chunkOf = (...links: unknown[]) => ({
  '@context': NAMESPACE_CONTEXT,
  '@type': 'NamespaceChunk',
  prev: null,
  links,
})
const profile = { '@context': PROFILE_CONTEXT, '@type': 'Profile', name: 'x' }
const index = { '@context': NAMESPACE_CONTEXT, '@type': 'NameIndexDoc', head: cid, entries: { 'product/x': cid } }
const signingKey = {
  '@context': PROFILE_CONTEXT,
  '@type': 'SigningKey',
  publicKey: seller.publicKey,
  validFrom: 1_780_000_000,
}
const message = {
  '@context': CHAT_CONTEXT,
  '@type': 'BasicMessage',
  from: seller.address,
  to: keys[1]!.address,
  text: 'hi',
  ts: 1,
}
const snippet = { '@context': GIST_CONTEXT, '@type': 'Snippet', content: '' }
const image = { '@context': SCHEMA_ORG_CONTEXT, '@type': 'ImageObject', url: 'https://img.example/a.png' }

describe('each kind of document', () => {
  it.each<[string, object]>([
    ['a link', link],
    ['a link of two owners of a Safe', { ...link, signature: `0x${'ab'.repeat(130)}` }],
    ['a link that a Safe approved on chain', { ...link, signature: '0x' }],
    ['a link with null for no critical extensions', { ...link, criticalExtensions: null }],
    ['a profile with a namespace', { ...profile, namespaces: { [seller.address]: cid }, location: 'Leipzig' }],
    ['a profile without', { ...profile, namespaces: null }],
    ['an index', index],
    ['a chunk of 100 links', chunkOf(...Array.from({ length: 100 }, () => link))],
    ['a chunk with a link stored years ago by another writer', chunkOf(published.stored)],
    ['a chunk with a link of two owners of a Safe', chunkOf({ ...link, signature: `0x${'ab'.repeat(130)}` })],
    ['a signing key', { ...signingKey, validTo: 1_790_000_000, revokedAt: null }],
    ['a message', message],
    ['a snippet', { ...snippet, createdAt: 1_780_000_000, source: { url: 'x' } }],
    ['an image', { ...image, contentUrl: 'ipfs://x' }],
    ['a snippet with its context in an array', { ...snippet, '@context': [GIST_CONTEXT, {}] }],
  ])('pins %s', (_what, document) => {
    expect(refusal(document)).toBe('pinned')
  })

  it.each<[string, object, string]>([
    ['a link without a name', { ...link, name: ' ' }, 'name: required'],
    ['a link with signedAt as text', { ...link, signedAt: '1780000010' }, 'signedAt: JSON integer'],
    ['a link from before time began', { ...link, signedAt: -1 }, 'signedAt: integer'],
    ['a link of a chain beyond 2^53', { ...link, chainId: 2 ** 53 }, 'chainId: integer'],
    ['a link without a signer', { ...link, signerAddress: undefined }, 'signerAddress: lowercase address'],
    ['a nonce in upper case', { ...link, nonce: link.nonce.toUpperCase() }, 'nonce: 16 bytes in lower-case 0x hex'],
    ['a nonce and a line feed', { ...link, nonce: `${link.nonce}\n` }, 'nonce: 16 bytes in lower-case 0x hex'],
    ['no signature', { ...link, signature: null }, 'signature: 0x hex of at most 4,096 characters'],
    ['half a byte', { ...link, signature: '0xabc' }, 'signature: 0x hex of at most 4,096 characters'],
    ['encrypted as text', { ...link, encrypted: 'false' }, 'encrypted: boolean'],
    ['an algorithm in clear', { ...link, encryptionAlgorithm: 'x' }, 'encryptionAlgorithm: null unless encrypted'],
    [
      'a fingerprint that is no hex',
      { ...link, encrypted: true, encryptionAlgorithm: 'x', encryptionKeyFingerprint: 'ab' },
      'encryptionKeyFingerprint: 0x hex',
    ],
    ['extensions in an array', { ...link, extensions: [] }, 'extensions: object'],
    ['an extension without a name', { ...link, extensions: { ' ': 1 } }, 'extensions: non-blank keys'],
    ['one critical extension as text', { ...link, criticalExtensions: 'a' }, 'criticalExtensions: array'],
    [
      'a blank critical extension',
      { ...link, extensions: {}, criticalExtensions: [''] },
      'criticalExtensions[]: non-empty string',
    ],
    [
      'a critical extension that every object inherits',
      { ...link, extensions: {}, criticalExtensions: ['toString'] },
      'criticalExtensions[]: must name a key of extensions',
    ],
    ['U+2028 in a link', { ...link, name: 'note/\u2028' }, '$: a string holds U+2028 or U+2029'],
    ['a fraction in a link', { ...link, extensions: { weight: 1.5 } }, '$: a number is no integer within 2^53-1'],
    ['a member name of a link beyond ASCII', { ...link, größe: 1 }, '$: a member name is outside [A-Za-z0-9@_.:/-]'],
    [
      'the same in a chunk',
      chunkOf(link, { ...link, größe: 1 }),
      'links[1]: a member name is outside [A-Za-z0-9@_.:/-]',
    ],
    ['text as a link', chunkOf('x'), 'links[0]: name, cid, signerAddress, signature needed'],
    ['a link without nonce in a chunk', chunkOf({ ...link, nonce: undefined }), 'links[0]: full link shape'],
    ['half an encrypted link in a chunk', chunkOf({ ...link, encrypted: true }), 'links[0]: full link shape'],
    [
      'an endless signature in a chunk',
      chunkOf({ ...link, signature: `0x${'ab'.repeat(2_048)}` }),
      'links[0]: full link shape',
    ],
    ['a chunk of 101 links', chunkOf(...Array.from({ length: 101 }, () => link)), 'links: at most 100 links'],
    ['an index with a nameless entry', { ...index, entries: { ' ': cid } }, 'entries: non-blank keys'],
    [
      'an index with a multihash of another kind',
      { ...index, entries: { a: `Qm${'z'.repeat(44)}` } },
      'entries: CIDv0',
    ],
    ['namespaces in an array', { ...profile, namespaces: [] }, 'namespaces: object'],
    ['a profile in two contexts', { ...profile, '@context': [PROFILE_CONTEXT] }, '@context: exact string'],
    ['an index in two contexts', { ...index, '@context': [NAMESPACE_CONTEXT] }, '@context: exact string'],
    ['a chunk in two contexts', { ...chunkOf(), '@context': [NAMESPACE_CONTEXT] }, '@context: exact string'],
    ['a profile in the wrong context', { ...profile, '@context': NAMESPACE_CONTEXT }, '@type: unsupported shape'],
    ['a key without a key', { ...signingKey, publicKey: ' ' }, 'publicKey: required'],
    ['a key valid from text', { ...signingKey, validFrom: '1' }, 'validFrom: JSON integer'],
    ['a key valid to text', { ...signingKey, validTo: '1' }, 'validTo: JSON integer'],
    ['a key revoked at half a second', { ...signingKey, revokedAt: 0.5 }, 'revokedAt: integer'],
    ['a message to nobody', { ...message, to: undefined }, 'to: lowercase address'],
    ['a message without text', { ...message, text: '' }, 'text: required'],
    ['a message at text', { ...message, ts: 'now' }, 'ts: integer'],
    ['a snippet without content', { ...snippet, content: undefined }, 'content: string'],
    ['a snippet of a day', { ...snippet, createdAt: 'Friday' }, 'createdAt: integer'],
    ['an image of nothing', { ...image, url: undefined }, '$: contentUrl or url needed'],
    ['an image by ftp', { ...image, contentUrl: 'ftp://x' }, 'contentUrl: transport'],
    ['a document without a type', { '@context': PROFILE_CONTEXT }, '@type: string required'],
    ['a document of an empty type', { '@context': PROFILE_CONTEXT, '@type': '' }, '@type: unsupported shape'],
  ])('refuses %s', (_what, document, expected) => {
    expect(refusal(document)).toBe(expected)
  })

  it('refuses bytes that are not UTF-8, and a byte order mark', () => {
    const malformed = { ok: false, at: '$', pointer: '', rule: 'malformed JSON' }
    expect(parsePinDocument(Uint8Array.of(0x22, 0xff, 0x22))).toEqual(malformed)
    expect(parsePinDocument(utf8ToBytes(`\uFEFF${JSON.stringify(profile)}`))).toEqual(malformed)
    expect(parsePinDocument(new Uint8Array())).toEqual(malformed)
  })

  it('never pins what the catalog could not read back', () => {
    const readers: Record<string, (value: unknown) => { ok: boolean }> = {
      Profile: parseProfile,
      NameIndexDoc: parseNameIndexDoc,
      NamespaceChunk: parseNamespaceChunk,
      Product: parseProduct,
      Tombstone: parseTombstone,
      CustomDataLink: (value) => {
        const { chainId, signedAt } = value as CustomDataLink
        return checkLinkShape(value, { chainId, window: { start: signedAt, end: signedAt } })
      },
    }
    const read = new Set<string>()
    for (const { body } of cases) {
      const decision = parsePinDocument(utf8ToBytes(body))
      const reader = decision.ok ? readers[decision.type] : undefined
      if (!decision.ok || !reader) continue
      read.add(decision.type)
      expect(reader(decision.document).ok).toBe(true)
    }
    expect([...read].toSorted()).toEqual(Object.keys(readers).toSorted())
  })
})
