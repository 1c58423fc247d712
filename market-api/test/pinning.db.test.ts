import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Agent, type ClientRequest, request } from 'node:http'
import { LINK_CONTEXT, linkDigest } from '@market/contracts/link'
import { cidV0, MAX_OBJECT_BYTES } from '@market/contracts/cid'
import { stripMetadata } from '@market/contracts/media'
import { safeMessageHash } from '@market/contracts/safeMessage'
import { until } from '@market/testkit/until'
import { keccak256, stringToBytes } from 'viem'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Ipfs, IpfsMismatchError, IpfsTooLargeError, IpfsUnavailableError } from '../src/catalog/ipfs/ipfs.ts'
import { purgePinQuotas } from '../src/pinning/store.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

const vectors = <T>(name: string): T =>
  JSON.parse(readFileSync(new URL(`../../packages/contracts/vectors/${name}.json`, import.meta.url), 'utf8'))

const MARKET_CONTEXT = 'https://aboutcircles.com/contexts/circles-market/'
const PROFILE_CONTEXT = 'https://aboutcircles.com/contexts/circles-profile/'
const NAMESPACE_CONTEXT = 'https://aboutcircles.com/contexts/circles-namespace/'
const LD_JSON = 'application/ld+json; charset=utf-8'

const product = {
  '@context': ['https://schema.org/', MARKET_CONTEXT],
  '@type': 'Product',
  name: 'Mug',
  sku: 'clay-mug',
  offers: [{ '@type': 'Offer', price: 1, priceCurrency: 'CRC' }],
}
/** A profile of exactly so many bytes: white space around JSON is part of the object. */
const profileOf = (bytes: number) =>
  new TextEncoder().encode(JSON.stringify({ '@context': PROFILE_CONTEXT, '@type': 'Profile' }).padEnd(bytes, ' '))

const { link } = vectors<{ link: Record<string, unknown> }>('safe')
const draft = { ...link, signature: '' }

const PNG = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'base64',
)
const GIF = Buffer.from('R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7', 'base64')
/** Told by its first box alone. */
const AVIF = Buffer.from('0000001c667479706176696600000000617669666d6966316d696166', 'hex')
const WEBP = Buffer.from('UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==', 'base64')
/** The smallest that has a place where it was taken: marker, Exif segment, quantisation table, scan, end. */
const JPEG = Buffer.concat([
  Buffer.from('ffd8', 'hex'),
  segment(0xe1, Buffer.from('Exif\0\0MM\0*\0\0\0\x08here I live', 'latin1')),
  segment(0xdb, Buffer.alloc(65, 1)),
  segment(0xc0, Buffer.from('080001000101011100', 'hex')),
  segment(0xda, Buffer.from('010100003f00', 'hex')),
  Buffer.from('0102030405ffd9', 'hex'),
])
function segment(marker: number, content: Buffer) {
  return Buffer.concat([Buffer.from([0xff, marker, (content.length + 2) >> 8, (content.length + 2) & 255]), content])
}

let market: MarketApi
let realIpfs: Ipfs
let clock = new Date()
const undo: MarketApi[] = []
const start = async (env: Record<string, string> = {}) => {
  const started = await startMarketApi({ env, overrides: { now: () => clock } })
  undo.push(started)
  return started
}
beforeAll(async () => {
  market = await start({ MARKET_ANONYMOUS_PIN_BYTES_PER_DAY: '1000000000' })
  realIpfs = market.ctx.ipfs
})
beforeEach(() => {
  clock = new Date()
  market.ctx.ipfs = realIpfs
})
afterAll(async () => {
  for (const one of undo) await one.close()
})

type Send = { type?: string | null; headers?: Record<string, string>; at?: MarketApi; method?: string }

/** One request; a body that is no text or bytes is sent as JSON. */
async function send(path: string, body?: unknown, { type = LD_JSON, headers = {}, at = market, method }: Send = {}) {
  const response = await fetch(at.url + path, {
    method: method ?? (body === undefined ? 'GET' : 'POST'),
    headers: { ...(type === null || body === undefined ? {} : { 'Content-Type': type }), ...headers },
    ...(body === undefined
      ? {}
      : {
          body:
            typeof body === 'string' || body instanceof Uint8Array
              ? (body as string | Uint8Array<ArrayBuffer>)
              : JSON.stringify(body),
        }),
  })
  const bytes = Buffer.from(await response.arrayBuffer())
  const contentType = response.headers.get('content-type') ?? ''
  const json = contentType.includes('json') && bytes.length > 0 ? JSON.parse(bytes.toString()) : undefined
  return { status: response.status, headers: response.headers, contentType, bytes, text: bytes.toString(), json }
}

/** What every refusal of these routes looks like. */
function problem(status: number, members: object) {
  return expect.objectContaining({
    status,
    contentType: 'application/problem+json',
    json: expect.objectContaining({
      status,
      title: expect.stringMatching(/\S/),
      code: expect.stringMatching(/^[a-z_]+$/),
      requestId: expect.stringMatching(/\S/),
      ...members,
    }),
  })
}

const tokenOf = async (at: MarketApi, address = `0x${randomBytes(20).toString('hex')}`) => {
  const { token } = await at.ctx.tokens.issue({ address, chainId: 100 }, 'shop.example.com')
  return { address, headers: { Authorization: `Bearer ${token}` } }
}
const quotas = (at: MarketApi) => at.ctx.db.selectFrom('pin_quotas').select(['subject', 'objects', 'bytes']).execute()

const SHAPE = 'Unsupported JSON-LD shape'
const paths = { pin: ['/api/pin', '/pin'], media: ['/api/pin-media', '/pin-media'] }

describe('pin', () => {
  type PinCase = { id: string; body: string; required: { accept: boolean; at?: string; rule?: string } }
  it.each(vectors<{ cases: PinCase[] }>('pin').cases)(
    'catalog:51 decides as required: $id',
    async ({ body, required }) => {
      const answer = await send('/api/pin', body)
      if (required.accept) {
        expect(answer).toMatchObject({
          status: 200,
          contentType: 'application/json; charset=utf-8',
          json: { cid: cidV0(Buffer.from(body)) },
        })
      } else {
        const { at, rule } = required
        const detail = expect.stringContaining(at === '$' ? 'document' : at!)
        const pointer = expect.stringMatching(/^(\/.+)?$/)
        expect(answer).toEqual(problem(400, { title: SHAPE, code: 'unsupported_shape', at, rule, detail, pointer }))
      }
    },
  )

  it('market-api:A-160 pins a product', async () => {
    const answer = await send('/api/pin', product)
    expect(answer).toMatchObject({ status: 200, json: { cid: cidV0(Buffer.from(JSON.stringify(product))) } })
  })

  it('market-api:A-161 refuses an aggregate', async () => {
    const body = {
      '@context': 'https://aboutcircles.com/contexts/circles-market-aggregate/',
      '@type': 'AggregatedCatalog',
    }
    expect(await send('/api/pin', body)).toEqual(problem(400, { title: SHAPE, at: '@context' }))
  })

  it('market-api:A-162 refuses a currency in small letters, and says so', async () => {
    const body = { '@context': 'https://schema.org/', '@type': 'Offer', price: 1, priceCurrency: 'crc' }
    const detail = expect.stringContaining('priceCurrency')
    expect(await send('/api/pin', body)).toEqual(problem(400, { title: SHAPE, detail, pointer: '/priceCurrency' }))
  })

  it('market-api:A-163 refuses an index whose head is no CIDv0, and says so', async () => {
    const head = 'bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi'
    const body = { '@context': NAMESPACE_CONTEXT, '@type': 'NameIndexDoc', head, entries: {} }
    const detail = expect.stringContaining('CIDv0')
    expect(await send('/api/pin', body)).toEqual(problem(400, { title: SHAPE, detail, at: 'head' }))
  })

  it('market-api:A-164 takes a hundred links in a chunk and no more', async () => {
    const signed = { ...link, signature: `0x${'11'.repeat(65)}` }
    const chunk = (links: number) => ({
      '@context': NAMESPACE_CONTEXT,
      '@type': 'NamespaceChunk',
      prev: null,
      links: Array.from({ length: links }, () => signed),
    })
    expect(await send('/api/pin', chunk(100))).toMatchObject({ status: 200 })
    expect(await send('/api/pin', chunk(101))).toEqual(problem(400, { title: SHAPE, at: 'links' }))
  })

  it('catalog:52 pins the bytes it was given, odd spacing included, and gives back the same', async () => {
    const body = ` {\n\t"@type" :"Tombstone", "@context":"${MARKET_CONTEXT}" ,\r\n "sku": "clay-mug", "at":1.50e3, "x":"\\u00e4" } \n`
    for (const path of paths.pin) {
      const { json } = await send(path, body)
      expect(json).toEqual({ cid: cidV0(Buffer.from(body)) })
      expect(await send(`/raw/${json.cid}`)).toMatchObject({ status: 200, text: body })
    }
  })

  it.each([null, 'application/json', 'application/ld+json; charset=utf-8', 'application/Foo+JSON'])(
    'takes the content type %s',
    async (type) => {
      // fetch names a text plain unless it comes as bytes.
      const body = Buffer.from(JSON.stringify(product))
      for (const path of paths.pin) expect(await send(path, body, { type })).toMatchObject({ status: 200 })
    },
  )

  it('keeps a record of what it pinned, once for each who did', async () => {
    const { address, headers } = await tokenOf(market)
    const body = JSON.stringify({ ...product, name: 'Recorded' })
    const { json } = await send('/api/pin', body, { headers })
    clock = new Date(clock.getTime() + 5000)
    await send('/api/pin', body, { headers })
    await send('/api/pin', body)
    const rows = await market.ctx.db
      .selectFrom('pins')
      .select(['cid', 'subject', 'kind', 'size', 'pinned_at'])
      .where('cid', '=', json.cid)
      .orderBy('subject')
      .execute()
    expect(rows).toEqual([
      { cid: json.cid, subject: address, kind: 'Product', size: body.length, pinned_at: clock },
      expect.objectContaining({ subject: expect.stringMatching(/^anonymous:[0-9a-f]{32}$/), size: body.length }),
    ])
  })
})

describe('pin-media', () => {
  it.each([
    ['PNG', PNG, 'image/png'],
    ['JPEG', JPEG, 'image/jpeg'],
    ['GIF', GIF, 'image/gif'],
    ['WebP', WEBP, 'image/webp'],
    ['AVIF', AVIF, 'image/avif'],
  ])('pins %s whatever it is called, and shows it as what it is', async (_, bytes, type) => {
    for (const path of paths.media) {
      for (const called of ['image/png', 'image/svg+xml', 'application/octet-stream', null]) {
        expect(await send(path, bytes, { type: called })).toMatchObject({ status: 200, json: { cid: cidV0(bytes) } })
      }
    }
    const shown = await send(`/ipfs/${cidV0(bytes)}`)
    expect([shown.status, shown.contentType, shown.bytes.equals(bytes)]).toEqual([200, type, true])
  })

  it('catalog:53 market-api:A-166 refuses nothing at all', async () => {
    for (const path of paths.media) {
      const answer = await send(path, new Uint8Array(), { type: 'image/png' })
      expect(answer).toEqual(problem(400, { title: 'Invalid request', detail: 'Empty media payload' }))
    }
  })

  it.each([
    ['HTML', '<!doctype html><script>alert(1)</script>'],
    ['SVG', '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'],
    ['JSON', '{}'],
    ['a PNG cut off', PNG.subarray(0, 4)],
  ])('catalog:53 refuses %s called image/png', async (_, body) => {
    const answer = await send('/api/pin-media', Buffer.from(body), { type: 'image/png' })
    expect(answer).toEqual(problem(400, { title: 'Invalid request', code: 'unsupported_media' }))
  })

  it('takes the metadata out when asked, and only then', async () => {
    const stripped = stripMetadata(JPEG, 'image/jpeg')
    expect(Buffer.from(stripped).includes('here I live')).toBe(false)
    const { json } = await send('/api/pin-media?strip=exif', JPEG, { type: 'image/jpeg' })
    expect(json).toEqual({ cid: cidV0(stripped) })
    expect((await send(`/ipfs/${json.cid}`)).bytes.equals(stripped)).toBe(true)

    const kept = await send('/api/pin-media', JPEG, { type: 'image/jpeg' })
    expect((await send(`/ipfs/${kept.json.cid}`)).bytes.includes('here I live')).toBe(true)
    const broken = JPEG.subarray(0, 40)
    const answer = await send('/api/pin-media?strip=exif', broken, { type: 'image/jpeg' })
    expect(answer).toEqual(problem(400, { title: 'Invalid request', code: 'damaged_media' }))
    // A word it does not know must not leave in what somebody wanted out.
    const unknown = await send('/api/pin-media?strip=gps', JPEG, { type: 'image/jpeg' })
    expect(unknown).toEqual(problem(400, { title: 'Invalid request' }))
  })
})

describe('limits of a body', () => {
  it('takes 8 MiB', async () => {
    const body = profileOf(MAX_OBJECT_BYTES)
    const answer = await send('/api/pin', body)
    expect(answer).toMatchObject({ status: 200, json: { cid: cidV0(body) } })
    expect((await send(`/raw/${answer.json.cid}`)).bytes.equals(body)).toBe(true)
    expect(await upload('/api/pin', body, { chunked: true })).toMatchObject({ status: 200 })
  })

  it.each(['/api/pin', '/pin', '/api/pin-media', '/pin-media', '/api/canonicalize'])(
    'catalog:53 market-api:A-165 answers 413 to %s of a byte more, declared or not',
    async (path) => {
      const type = path.includes('media') ? 'image/png' : LD_JSON
      const body = profileOf(MAX_OBJECT_BYTES + 1)
      expect(await send(path, body, { type })).toEqual(problem(413, { code: 'body_too_large' }))
      const counted = await upload(path, body, { chunked: true, type })
      expect(counted).toMatchObject({ status: 413, connection: 'close' })
    },
  )

  it('answers by the declared length before a byte has come', async () => {
    const open = begin('/api/pin', { 'Content-Length': String(MAX_OBJECT_BYTES + 1) })
    expect(await open.answer).toMatchObject({ status: 413, connection: 'close' })
    open.request.destroy()
  })

  it('answers before the end of a body that has none', async () => {
    const open = begin('/api/pin', { 'Transfer-Encoding': 'chunked' })
    const piece = Buffer.alloc(65_536, ' ')
    let sent = 0
    const pour = () => {
      while (!open.answered() && sent < 4 * MAX_OBJECT_BYTES) {
        sent += piece.length
        if (!open.request.write(piece)) return void open.request.once('drain', pour)
      }
    }
    pour()
    expect(await open.answer).toMatchObject({ status: 413, connection: 'close' })
    open.request.destroy()
  })

  it.each([...paths.pin, '/api/canonicalize', ...paths.media])(
    'catalog:53 answers 415 to %s of another type',
    async (path) => {
      for (const type of ['text/plain', 'text/html', 'application/xml', 'multipart/form-data; boundary=x']) {
        expect(await send(path, PNG, { type })).toEqual(problem(415, { code: 'unsupported_media_type' }))
      }
      const other = path.includes('media') ? 'application/json' : 'image/png'
      expect(await send(path, PNG, { type: other })).toEqual(problem(415, {}))
    },
  )

  it('reads the largest index there can be, and nothing that is all structure', async () => {
    const cid = cidV0(PNG)
    const names = Array.from({ length: 67_000 }, (_, i) => [`product/${String(i).padStart(60, '0')}`, cid])
    const index = {
      '@context': NAMESPACE_CONTEXT,
      '@type': 'NameIndexDoc',
      head: cid,
      entries: Object.fromEntries(names),
    }
    const pinned = await send('/api/pin', index)
    expect(pinned).toMatchObject({ status: 200 })
    expect((await send(`/raw/${pinned.json.cid}`)).contentType).toContain('json')

    for (const piece of ['[],', '"\\n",']) {
      const list = `[${piece.repeat(Math.floor((MAX_OBJECT_BYTES - 200) / piece.length)).slice(0, -1)}]`
      const profile = `{"@context":"${PROFILE_CONTEXT}","@type":"Profile","x":${list}}`
      for (const path of ['/api/pin', '/api/canonicalize']) {
        expect(await send(path, profile)).toEqual(problem(400, { code: 'document_too_dense' }))
      }
      const elsewhere = await realIpfs.put(Buffer.from(profile))
      expect((await send(`/raw/${elsewhere}`)).contentType).toBe('application/octet-stream')
    }
  })

  it('charges nobody for a body that never came whole', async () => {
    const { address, headers } = await tokenOf(market)
    const open = begin('/api/pin', { ...headers, 'Content-Length': '1000' })
    open.request.write(JSON.stringify(product))
    await until('it arrived', () => open.request.socket?.bytesWritten)
    open.request.destroy()
    expect(await send('/api/pin', product, { headers })).toMatchObject({ status: 200 })
    const [row] = (await quotas(market)).filter(({ subject }) => subject === address)
    expect(row).toMatchObject({ objects: 1 })
  })
})

describe('quotas', () => {
  it('catalog:57 market-api:A-167 lets nobody pin without signing in where that is the rule', async () => {
    const strict = await start({ MARKET_ANONYMOUS_PIN_BYTES_PER_DAY: '0' })
    for (const path of [...paths.pin, ...paths.media]) {
      const [body, type] = path.includes('media') ? [PNG, 'image/png'] : [JSON.stringify(product), LD_JSON]
      const refused = await send(path, body, { type, at: strict })
      expect(refused).toEqual(problem(401, { code: 'unauthorized' }))
      expect(refused.headers.get('www-authenticate')).toBe('Bearer')
      const junk = { Authorization: 'Bearer junk' }
      expect(await send(path, body, { type, at: strict, headers: junk })).toEqual(problem(401, {}))
      // Checked before who asks.
      expect(await send(path, body, { type: 'text/html', at: strict })).toEqual(problem(415, {}))
      const { headers } = await tokenOf(strict)
      expect(await send(path, body, { type, at: strict, headers })).toMatchObject({ status: 200 })
    }
  })

  it('catalog:57 answers 429 when the day has no room left, and says until when', async () => {
    const body = JSON.stringify(product)
    const small = await start({ MARKET_ANONYMOUS_PIN_BYTES_PER_DAY: String(2 * body.length) })
    clock = new Date('2026-03-01T22:58:59.001Z')
    // Bytes that are there already count again: they are the same work.
    expect(await send('/pin', body, { at: small })).toMatchObject({ status: 200 })
    expect(await send('/pin', body, { at: small, headers: { Authorization: 'Bearer junk' } })).toMatchObject({
      status: 200,
    })
    const refused = await send('/pin', body, { at: small })
    expect(refused).toEqual(problem(429, { code: 'pin_quota_exceeded' }))
    expect(refused.headers.get('retry-after')).toBe('3661')
    expect(await send('/pin-media', PNG, { at: small, type: 'image/png' })).toEqual(problem(429, {}))

    const { headers } = await tokenOf(small)
    expect(await send('/pin', body, { at: small, headers })).toMatchObject({ status: 200 })
    clock = new Date('2026-03-02T00:00:00.000Z')
    expect(await send('/pin', body, { at: small })).toMatchObject({ status: 200 })
  })

  it('counts objects and bytes of a signed-in address, wherever it comes from', async () => {
    const body = JSON.stringify(product)
    const small = await start({ MARKET_PIN_OBJECTS_PER_DAY: '3', MARKET_PIN_BYTES_PER_DAY: '400' })
    const ada = await tokenOf(small)
    for (const sku of ['a', 'b', 'c']) {
      const tombstone = { '@context': MARKET_CONTEXT, '@type': 'Tombstone', sku }
      expect(await send('/pin', tombstone, { at: small, headers: ada.headers })).toMatchObject({ status: 200 })
    }
    expect(await send('/pin', body, { at: small, headers: ada.headers })).toEqual(problem(429, {}))
    const bob = await tokenOf(small)
    expect(await send('/pin', body, { at: small, headers: bob.headers })).toMatchObject({ status: 200 })
    expect(await send('/pin', profileOf(400 - body.length + 1), { at: small, headers: bob.headers })).toEqual(
      problem(429, {}),
    )
    expect(await send('/pin', profileOf(400 - body.length), { at: small, headers: bob.headers })).toMatchObject({
      status: 200,
    })
    expect(await quotas(small)).toEqual(
      expect.arrayContaining([expect.objectContaining({ subject: bob.address, objects: 2, bytes: '400' })]),
    )
  })

  it('gives away what is left once, however many ask at the same instant', async () => {
    const small = await start({ MARKET_PIN_OBJECTS_PER_DAY: '7' })
    const { address, headers } = await tokenOf(small)
    const answers = await Promise.all(Array.from({ length: 30 }, () => send('/pin', product, { at: small, headers })))
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(7)
    expect(answers.filter(({ status }) => status === 429)).toHaveLength(23)
    expect(await quotas(small)).toEqual([expect.objectContaining({ subject: address, objects: 7 })])
  })

  it('has no quota of nothing: an object above the whole of it makes no row', async () => {
    const small = await start({ MARKET_PIN_BYTES_PER_DAY: '10', MARKET_PIN_OBJECTS_PER_DAY: '0' })
    const { headers } = await tokenOf(small)
    expect(await send('/pin', product, { at: small, headers })).toEqual(problem(429, {}))
    expect(await quotas(small)).toEqual([])
  })

  it('gives back what could not be stored', async () => {
    const { address, headers } = await tokenOf(market)
    const failing = (error: Error): Ipfs => ({ ...realIpfs, put: () => Promise.reject(error) })
    const secret = 'http://kubo:5001 said no'
    for (const [error, status, code] of [
      [new IpfsUnavailableError('unreachable', secret), 502, 'ipfs_unavailable'],
      [new IpfsUnavailableError('timeout', secret), 504, 'ipfs_timeout'],
      [new IpfsMismatchError(secret), 502, 'ipfs_mismatch'],
      [new Error(secret), 500, 'internal_error'],
    ] as const) {
      market.ctx.ipfs = failing(error)
      for (const [path, body, type] of [
        ['/api/pin', JSON.stringify(product), LD_JSON],
        ['/api/pin-media', PNG, 'image/png'],
      ] as const) {
        const answer = await send(path, body, { headers, type })
        expect(answer).toEqual(problem(status, { code }))
        expect(answer.text).not.toContain('kubo')
      }
    }
    market.ctx.ipfs = realIpfs
    expect((await quotas(market)).filter(({ subject }) => subject === address)).toEqual([
      expect.objectContaining({ objects: 0, bytes: '0' }),
    ])
  })

  it('tells clients apart by the address a trusted proxy saw, and stores none of them', async () => {
    const body = JSON.stringify(product)
    const env = { MARKET_ANONYMOUS_PIN_BYTES_PER_DAY: String(body.length) }
    const behind = await start({ ...env, TRUSTED_PROXY_HOPS: '1' })
    const from = (client: string) => send('/pin', body, { at: behind, headers: { 'X-Forwarded-For': client } })
    expect(await from('198.51.100.1')).toMatchObject({ status: 200 })
    expect(await from('203.0.113.99, 198.51.100.1')).toMatchObject({ status: 429 })
    expect(await from('198.51.100.2')).toMatchObject({ status: 200 })
    expect(await from('2001:db8:0:1::1')).toMatchObject({ status: 200 })
    expect(await from('2001:db8:0:1:ffff::2')).toMatchObject({ status: 429 })
    expect(await from('2001:db8:0:2::1')).toMatchObject({ status: 200 })
    expect(await send('/pin', body, { at: behind })).toMatchObject({ status: 200 })

    const rows = await quotas(behind)
    expect(rows).toHaveLength(5)
    for (const { subject } of rows) expect(subject).toMatch(/^anonymous:[0-9a-f]{32}$/)
    clock = new Date(clock.getTime() + 86_400_000)
    await from('198.51.100.1')
    expect(new Set((await quotas(behind)).map(({ subject }) => subject)).size).toBe(6)

    const open = await start(env)
    expect(await send('/pin', body, { at: open, headers: { 'X-Forwarded-For': '198.51.100.1' } })).toMatchObject({
      status: 200,
    })
    expect(await send('/pin', body, { at: open, headers: { 'X-Forwarded-For': '198.51.100.2' } })).toMatchObject({
      status: 429,
    })
  })

  it('are forgotten when their day is over', async () => {
    const own = await start()
    clock = new Date('2026-03-01T12:00:00Z')
    await send('/pin', product, { at: own })
    clock = new Date('2026-03-02T23:59:00Z')
    await send('/pin', product, { at: own })
    await purgePinQuotas(own.ctx)
    expect(await quotas(own)).toHaveLength(2)
    clock = new Date('2026-03-03T00:01:00Z')
    await purgePinQuotas(own.ctx)
    expect(await quotas(own)).toHaveLength(1)
  })
})

describe('raw', () => {
  it('gives any object with the type its bytes show', async () => {
    for (const [bytes, type] of [
      [Buffer.from('[1, 2]'), 'application/json; charset=utf-8'],
      [Buffer.from(' \n{"a":1}'), 'application/json; charset=utf-8'],
      [PNG, 'image/png'],
      [Buffer.from('{"a":'), 'application/octet-stream'],
      [Buffer.from('"text"'), 'application/octet-stream'],
      [Buffer.from('<script>alert(1)</script>'), 'application/octet-stream'],
      [Buffer.from([0x7b, 0xff, 0x7d]), 'application/octet-stream'],
      [Buffer.alloc(0), 'application/octet-stream'],
    ] as const) {
      const cid = await realIpfs.put(bytes)
      const answer = await send(`/raw/${cid}`)
      expect([answer.status, answer.contentType, answer.bytes.equals(bytes)]).toEqual([200, type, true])
      expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
      expect(answer.headers.get('content-security-policy')).toBe("default-src 'none'; sandbox")
    }
  })

  it.each(['raw', 'ipfs'])('%s answers what it can not give', async (route) => {
    const absent = cidV0(randomBytes(8))
    for (const cid of ['nope', 'Qm', `Qm${'z'.repeat(44)}`, `${absent}%0A`, 'bafy', '..%2f..%2fetc%2fpasswd']) {
      expect(await send(`/${route}/${cid}`)).toEqual(problem(400, { title: 'Invalid request', code: 'invalid_cid' }))
    }
    const missing = await send(`/${route}/${absent}`)
    expect(missing).toEqual(problem(404, { title: 'Not found' }))
    expect(missing.headers.get('cache-control')).toBe('no-store')

    for (const [error, status, code] of [
      [new IpfsUnavailableError('missing', 'secret'), 404, 'not_available'],
      [new IpfsUnavailableError('timeout', 'secret'), 404, 'not_available'],
      [new IpfsUnavailableError('unreachable', 'secret'), 502, 'ipfs_unavailable'],
      [new IpfsMismatchError('secret'), 502, 'ipfs_mismatch'],
      [new IpfsTooLargeError('secret'), 502, 'object_too_large'],
    ] as const) {
      market.ctx.ipfs = { ...realIpfs, get: () => Promise.reject(error) }
      const answer = await send(`/${route}/${absent}`)
      expect(answer).toEqual(problem(status, { code }))
      expect(answer.text).not.toContain('secret')
    }
  })
})

describe('ipfs', () => {
  let cid: string
  beforeAll(async () => {
    cid = await realIpfs.put(PNG)
  })
  const get = (headers: Record<string, string> = {}, method = 'GET') =>
    send(`/ipfs/${cid}`, undefined, { headers, method })

  it('shows an image that may be kept for ever and can do nothing', async () => {
    for (const method of ['GET', 'HEAD']) {
      const answer = await get({}, method)
      expect(answer.bytes.equals(method === 'GET' ? PNG : Buffer.alloc(0))).toBe(true)
      expect(answer.status).toBe(200)
      expect(Object.fromEntries(answer.headers)).toMatchObject({
        'content-type': 'image/png',
        'content-length': String(PNG.length),
        'accept-ranges': 'bytes',
        'cache-control': 'public, max-age=31536000, immutable',
        etag: `"${cid}"`,
        'x-content-type-options': 'nosniff',
        'content-security-policy': "default-src 'none'; sandbox",
        'cross-origin-resource-policy': 'cross-origin',
      })
    }
  })

  it('shows nothing but images', async () => {
    for (const text of ['<html></html>', '<svg xmlns="http://www.w3.org/2000/svg"/>', '{"a":1}', 'GIF', '']) {
      const other = await realIpfs.put(Buffer.from(text))
      const answer = await send(`/ipfs/${other}`)
      expect(answer).toEqual(problem(404, { code: 'not_an_image' }))
      expect(answer.headers.get('cache-control')).toBe('no-store')
    }
  })

  it('says 304 to who has it, without a look at IPFS', async () => {
    market.ctx.ipfs = { ...realIpfs, get: () => Promise.reject(new Error('read')) }
    for (const tag of [`"${cid}"`, `W/"${cid}"`, `"x", "${cid}"`]) {
      for (const method of ['GET', 'HEAD']) {
        const answer = await get({ 'If-None-Match': tag }, method)
        expect([answer.status, answer.bytes.length, answer.headers.get('etag')]).toEqual([304, 0, `"${cid}"`])
      }
    }
    market.ctx.ipfs = realIpfs
    for (const tag of [cid, '"x"', `"${cid}x"`])
      expect(await get({ 'If-None-Match': tag })).toMatchObject({ status: 200 })
  })

  it.each([
    ['bytes=0-3', 0, 3],
    ['bytes=4-', 4, PNG.length - 1],
    ['bytes=-5', PNG.length - 5, PNG.length - 1],
    ['bytes=60-9999', 60, PNG.length - 1],
  ])('gives the part %s', async (range, first, last) => {
    const answer = await get({ Range: range })
    expect(answer.status).toBe(206)
    expect(answer.bytes.equals(PNG.subarray(first, last + 1))).toBe(true)
    expect(answer.headers.get('content-range')).toBe(`bytes ${first}-${last}/${PNG.length}`)
    expect(answer.headers.get('content-length')).toBe(String(last - first + 1))
    expect(answer.contentType).toBe('image/png')
  })

  it('has no part behind the end, and gives all where no one part is meant', async () => {
    const behind = await get({ Range: `bytes=${PNG.length}-` })
    expect(behind).toEqual(problem(416, { code: 'range_not_satisfiable' }))
    expect(behind.headers.get('content-range')).toBe(`bytes */${PNG.length}`)
    for (const headers of [
      { Range: 'bytes=0-1,4-5' },
      { Range: 'lines=0-1' },
      { Range: 'bytes=0-1', 'If-Range': '"another"' },
    ] as Record<string, string>[]) {
      const answer = await get(headers)
      expect([answer.status, answer.bytes.length]).toEqual([200, PNG.length])
    }
    expect(await get({ Range: 'bytes=0-1', 'If-Range': `"${cid}"` })).toMatchObject({ status: 206 })
    expect((await get({ Range: 'bytes=0-1' }, 'HEAD')).headers.get('content-length')).toBe(String(PNG.length))
  })

  it('reads so many at a time, lets others wait, and turns away more', async () => {
    let reading = 0
    let most = 0
    let release: (() => void) | undefined
    const gate = new Promise<void>((resolve) => (release = resolve))
    market.ctx.ipfs = {
      ...realIpfs,
      async get(wanted) {
        reading += 1
        most = Math.max(most, reading)
        await gate
        reading -= 1
        return realIpfs.get(wanted)
      },
    }
    const refused: Awaited<ReturnType<typeof send>>[] = []
    const answers = Array.from({ length: 540 }, async () => {
      const answer = await send(`/ipfs/${cid}`)
      if (answer.status !== 200) refused.push(answer)
      return answer.status
    })
    await until('all are there', () => refused.length === 540 - 16 - 500)
    for (const answer of refused) expect(answer).toEqual(problem(503, { code: 'busy' }))
    expect(refused[0]!.headers.get('retry-after')).toBe('1')
    release!()
    const statuses = await Promise.all(answers)
    expect([most, statuses.filter((status) => status === 200).length]).toEqual([16, 516])
  })
})

describe('canonicalize', () => {
  const canonicalize = (body: unknown, query = '') => send(`/api/canonicalize${query}`, body)

  it.each([
    ['market-api:A-168', '{"b":1,"a":2,"signature":"0x"}', '{"a":2,"b":1}'],
    ['market-api:A-169', '{"x":{"signature":1},"signature":2}', '{"x":{"signature":1}}'],
    ['market-api:A-171', '{"n":[1.0,1e2,0.000001,1e-7,-0,1.50e3]}', '{"n":[1,100,0.000001,1e-7,0,1500]}'],
    ['any object', ' {"<é>&":"\\u2028", "__proto__":[true,null]}\n', '{"<é>&":"\u2028","__proto__":[true,null]}'],
  ])('%s writes canonical text', async (_, body, expected) => {
    const answer = await canonicalize(body)
    expect([answer.status, answer.contentType, answer.text]).toEqual([200, 'application/json; charset=utf-8', expected])
    expect(answer.headers.get('x-link-keccak')).toBeNull()
  })

  const huge = `{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`
  it.each([
    ['market-api:A-170 catalog:55', '{"a":1,"a":2}'],
    ['market-api:A-170', '[1]'],
    ['market-api:A-172 catalog:55', '{"a":1} x'],
    ['catalog:55', '{"a":1,"\\u0061":2}'],
    ['catalog:55', '{"a":"\\ud800"}'],
    ['catalog:55', '{"\\udc00":1}'],
    ['giant exponent:', '{"a":1e999999999}'],
    ['depth 65:', `{"a":${'['.repeat(64)}${']'.repeat(64)}}`],
    ['depth 100,001:', huge],
    ['nothing:', ''],
    ['a word:', 'null'],
    ['byte order mark:', '\ufeff{}'],
    ...vectors<{ reject: { id: string; input: string }[] }>('canonical').reject.map(({ id, input }) => [
      `${id}:`,
      input,
    ]),
  ])('%s refuses %.40s', async (_, body) => {
    expect(await canonicalize(Buffer.from(body!))).toEqual(
      problem(400, { title: 'Invalid JSON', code: 'invalid_json' }),
    )
  })

  it('refuses bytes that are no text', async () => {
    const answer = await canonicalize(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))
    expect(answer).toEqual(problem(400, { title: 'Invalid JSON' }))
  })

  it('catalog:54 puts the two nulls into a link, and names it', async () => {
    const {
      encryptionAlgorithm: _algorithm,
      encryptionKeyFingerprint: _fingerprint,
      ...bare
    } = draft as Record<string, unknown>
    const { signature: _signature, ...unsigned } = bare
    const { canonical, keccak } = vectors<{ canonical: string; keccak: string }>('safe')
    for (const body of [draft, bare, unsigned, { ...bare, signature: null }, { ...bare, signature: '0x1234' }]) {
      const answer = await canonicalize(body)
      expect([answer.status, answer.text]).toEqual([200, canonical])
      expect(answer.text).toContain('"encryptionAlgorithm":null,"encryptionKeyFingerprint":null')
      expect(answer.headers.get('x-link-keccak')).toBe(keccak)
      expect(answer.headers.get('x-link-keccak')).toBe(keccak256(stringToBytes(answer.text)))
      expect(answer.headers.get('x-safe-hash')).toBeNull()
    }
  })

  type Accepted = { id: string; input: string; rfc8785: string; keccak: string }
  const written = new Set([
    'u2028',
    'key-escape',
    'utf16-key-order',
    'numbers',
    'big-exponent',
    'beyond-double',
    'negative-exponent',
  ])
  const isLink = ({ input }: Accepted) => JSON.parse(input)['@type'] === 'CustomDataLink'
  it.each(vectors<{ accept: Accepted[] }>('canonical').accept.filter(isLink))(
    'writes the link $id, or refuses what others would write in another way',
    async ({ id, input, rfc8785, keccak }) => {
      const answer = await canonicalize(input)
      if (written.has(id)) expect(answer).toEqual(problem(400, { title: SHAPE, code: 'unsafe_to_sign' }))
      else expect([answer.text, answer.headers.get('x-link-keccak')]).toEqual([rfc8785, keccak])
    },
  )

  it.each([
    ['no name', { name: undefined }],
    ['an empty name', { name: '' }],
    ['no cid', { cid: undefined }],
    ['a chain as text', { chainId: '100' }],
    ['no time', { signedAt: undefined }],
    ['half an encryption', { encrypted: true }],
    ['a short nonce', { nonce: '0x12' }],
    ['another type', { '@type': 'Thing' }],
    ['another context', { '@context': 'https://aboutcircles.com/contexts/circles‑linking/' }],
    ['contexts in an array', { '@context': [LINK_CONTEXT], '@type': 'Thing' }],
    ['no type', { '@type': undefined }],
    ['no context', { '@context': undefined }],
    ['a number for a signature', { signature: 1 }],
  ])('refuses a link with %s', async (_, members) => {
    const detail = expect.stringMatching(/^The link is malformed: ./)
    expect(await canonicalize({ ...draft, ...members })).toEqual(problem(400, { title: SHAPE, detail }))
  })

  it('says what the owners of a Safe sign', async () => {
    const { safe, paths: ways } = vectors<{ safe: string; paths: { hashOwnerSigns: string }[] }>('safe')
    const expected = ways[0]!.hashOwnerSigns
    const hashOf = async (query: string, body: object = draft) =>
      (await canonicalize(body, query)).headers.get('x-safe-hash')
    expect(await hashOf(`?safe=${safe}`)).toBe(expected)
    expect(await hashOf(`?safe=${safe.toUpperCase().replace('0X', '0x')}&chainId=100`)).toBe(expected)
    const other = { ...draft, chainId: 1 }
    const { text } = await canonicalize(other)
    expect(await hashOf(`?safe=${safe}`, other)).toBe(safeMessageHash(1, safe, Buffer.from(text)))
    expect(await hashOf(`?safe=${safe}`, { b: 1, a: 2 })).toBe(safeMessageHash(100, safe, Buffer.from('{"a":2,"b":1}')))
    expect(await hashOf(`?safe=${safe}&chainId=5`, { a: 2 })).toBe(safeMessageHash(5, safe, Buffer.from('{"a":2}')))
    expect(linkDigest(draft)).toBe(keccak256(stringToBytes((await canonicalize(draft)).text)))

    for (const query of [
      '?safe=',
      '?safe=0x12',
      `?safe=${safe}&chainId=x`,
      `?safe=${safe}&chainId=-1`,
      `?safe=${safe}&chainId=1`,
    ]) {
      expect(await canonicalize(draft, query)).toEqual(
        problem(400, { title: 'Invalid request', detail: expect.any(String) }),
      )
    }
  })

  it('asks nobody who they are and counts nothing', async () => {
    const strict = await start({ MARKET_ANONYMOUS_PIN_BYTES_PER_DAY: '0' })
    expect(await send('/api/canonicalize', '{}', { at: strict })).toMatchObject({ status: 200, text: '{}' })
    expect(await quotas(strict)).toEqual([])
  })
})

describe('browsers', () => {
  it('may read the headers these routes answer with, on errors too', async () => {
    for (const path of ['/ipfs/nope', '/raw/nope']) {
      const { headers } = await send(path, undefined, { headers: { Origin: 'https://shop.example' } })
      expect(headers.get('access-control-allow-origin')).toBe('https://shop.example')
      const exposed = headers.get('access-control-expose-headers')?.split(/, ?/)
      expect(exposed).toEqual(
        expect.arrayContaining([
          'ETag',
          'Content-Range',
          'Retry-After',
          'X-Link-Keccak',
          'X-Safe-Hash',
          'X-Next-Cursor',
          'Link',
        ]),
      )
    }
    const preflight = await fetch(`${market.url}/pin-media`, {
      method: 'OPTIONS',
      headers: {
        Origin: 'https://shop.example',
        'Access-Control-Request-Method': 'POST',
        'Access-Control-Request-Headers': 'content-type',
      },
    })
    expect([preflight.status, preflight.headers.get('access-control-allow-headers')]).toEqual([204, 'content-type'])
  })

  it('get problem documents where they expect them, and the old shape elsewhere', async () => {
    const operator = `0x${'ab'.repeat(20)}`
    const stock = await send(`/inventory/inventory/100/${operator}/nope`)
    expect(stock).toEqual(problem(404, {}))
    expect(await send(`/inventory/availability/100/x/nope`)).toEqual(problem(400, {}))
    const catalog = await send(`/api/operator/${operator}/catalog`)
    expect(catalog).toMatchObject({ status: 400, contentType: 'application/ld+json; charset=utf-8' })
    expect(catalog.json).toMatchObject({ error: expect.any(String), code: expect.any(String) })
    expect(await send('/api/pinned')).toMatchObject({ status: 404, contentType: 'application/ld+json; charset=utf-8' })
  })
})

type Answer = { status: number | undefined; connection: string | undefined }

/** A request whose body is still to be written, on a connection of its own that would be kept. */
function begin(path: string, headers: Record<string, string>) {
  let answered = false
  const open: ClientRequest = request(market.url + path, {
    method: 'POST',
    agent: new Agent({ keepAlive: true }),
    headers: { 'Content-Type': LD_JSON, ...headers },
  })
  open.flushHeaders()
  const answer = new Promise<Answer>((resolve, reject) => {
    open.on('response', (response) => {
      answered = true
      response.resume()
      resolve({ status: response.statusCode, connection: response.headers.connection })
    })
    // Cut off while it still sends: only an answer that never came is a failure.
    open.on('error', (error) => (answered ? undefined : reject(error)))
  })
  answer.catch(() => {})
  return { request: open, answer, answered: () => answered }
}

async function upload(
  path: string,
  body: Uint8Array,
  { chunked, type = LD_JSON }: { chunked: boolean; type?: string },
) {
  const length: Record<string, string> = chunked
    ? { 'Transfer-Encoding': 'chunked' }
    : { 'Content-Length': String(body.length) }
  const { request: open, answer } = begin(path, { ...length, 'Content-Type': type })
  open.end(body)
  return answer
}
