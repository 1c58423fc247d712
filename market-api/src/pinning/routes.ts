import { AddressError, normalizeAddress } from '@market/contracts/address'
import { MAX_OBJECT_BYTES, parseCid } from '@market/contracts/cid'
import { AppError } from '@market/kit/errors'
import { createGate } from '@market/kit/gate'
import { type Context, Hono } from 'hono'
import type { MarketContext } from '../context.ts'
import { readBytes, requireJsonType, requireMediaType } from '../http/body.ts'
import { clientAddress } from '../http/clientAddress.ts'
import { createFairGate } from '../http/fairGate.ts'
import { byteRange } from './byteRange.ts'
import { canonicalizeDocument } from './canonicalizeDocument.ts'
import { InvalidRequestError } from './errors.ts'
import { pinDocument } from './pinDocument.ts'
import { findPinner } from './pinner.ts'
import { pinMedia } from './pinMedia.ts'
import { readImage, readObject, type StoredObject } from './readObject.ts'

const JSON_UTF8 = { 'Content-Type': 'application/json; charset=utf-8' }
/** Objects read from IPFS at a time, up to 8 MiB each, and requests that wait for their turn. */
const READS = { places: 16, maxWaiting: 500 }
/** Bodies of up to 8 MiB in memory at a time; of those that wait, only what the network has on the way. */
const UPLOADS = { places: 16, placesEach: 4, maxWaiting: 500 }

/** Documents and images go to IPFS here, and come back (catalog.md 5). Wallets know both paths (clients.md 9). */
export const pinningRoutes = (ctx: MarketContext) => {
  const gate = createGate(READS.places, READS.maxWaiting)
  const uploads = createFairGate(UPLOADS)
  const clientOf = (c: Context) => clientAddress(c, ctx.config.TRUSTED_PROXY_HOPS)
  const pinner = (c: Context) => findPinner(ctx, c.req.header('authorization'), clientOf(c))

  return new Hono()
    .on('POST', ['/api/pin', '/pin'], async (c) => {
      requireJsonType(c)
      const by = await pinner(c)
      const cid = await uploads(clientOf(c), async () => pinDocument(ctx, by, await readBytes(c, MAX_OBJECT_BYTES)))
      return c.body(JSON.stringify({ cid }), 200, JSON_UTF8)
    })
    .on('POST', ['/api/pin-media', '/pin-media'], async (c) => {
      requireMediaType(c)
      const strip = c.req.query('strip')
      if (strip !== undefined && strip !== 'exif') throw new InvalidRequestError('invalid_query', 'strip must be exif')
      const by = await pinner(c)
      const cid = await uploads(clientOf(c), async () =>
        pinMedia(ctx, by, await readBytes(c, MAX_OBJECT_BYTES), strip === 'exif'),
      )
      return c.body(JSON.stringify({ cid }), 200, JSON_UTF8)
    })
    .post('/api/canonicalize', async (c) => {
      requireJsonType(c)
      const safe = safeOf(c, ctx)
      const canonical = await uploads(clientOf(c), async () =>
        canonicalizeDocument(await readBytes(c, MAX_OBJECT_BYTES), safe),
      )
      if (canonical.linkKeccak) c.header('X-Link-Keccak', canonical.linkKeccak)
      if (canonical.safeHash) c.header('X-Safe-Hash', canonical.safeHash)
      return c.body(canonical.text, 200, JSON_UTF8)
    })
    .get('/raw/:cid', (c) => sendObject(c, (cid) => gate(() => readObject(ctx, cid))))
    .get('/ipfs/:cid', (c) => sendObject(c, (cid) => gate(() => readImage(ctx, cid))))
}

function safeOf(c: Context, ctx: MarketContext) {
  const { safe, chainId } = c.req.query()
  if (safe === undefined) return undefined
  if (chainId !== undefined && !/^[0-9]{1,15}$/.test(chainId)) {
    throw new InvalidRequestError('invalid_chain', 'chainId must be an integer')
  }
  try {
    const ofChain = chainId === undefined ? undefined : Number(chainId)
    return { address: normalizeAddress(safe), chainId: ofChain, defaultChainId: ctx.config.CHAIN_ID }
  } catch (error) {
    if (error instanceof AddressError) throw new InvalidRequestError('invalid_address', `safe: ${error.message}`)
    throw error
  }
}

/** What has a CID never changes: cached for ever, and known to be unchanged without a look at it. */
async function sendObject(c: Context, read: (cid: string) => Promise<StoredObject>) {
  // Until there is something to keep: that it's not there may be different next time.
  c.header('Cache-Control', 'no-store')
  const cid = c.req.param('cid') ?? ''
  if (!parseCid(cid)) throw new InvalidRequestError('invalid_cid', 'Not a CID')
  const keepForEver = () => {
    c.header('Cache-Control', 'public, max-age=31536000, immutable')
    c.header('ETag', `"${cid}"`)
  }
  if (names(c.req.header('if-none-match'), cid)) {
    keepForEver()
    return c.body(null, 304)
  }

  const { bytes, type } = await read(cid)
  const range = c.req.method === 'GET' && isOf(c.req.header('if-range'), cid) ? c.req.header('range') : undefined
  const part = byteRange(range, bytes.length)
  if (part === 'unsatisfiable') {
    c.header('Content-Range', `bytes */${bytes.length}`)
    throw new AppError(416, 'range_not_satisfiable', 'Range not satisfiable')
  }
  const sent = part ? bytes.subarray(part.first, part.last + 1) : bytes
  keepForEver()
  return c.body(sent as Uint8Array<ArrayBuffer>, part ? 206 : 200, {
    'Content-Type': type,
    'Content-Length': String(sent.length),
    'Accept-Ranges': 'bytes',
    ...(part ? { 'Content-Range': `bytes ${part.first}-${part.last}/${bytes.length}` } : {}),
    // Somebody else's bytes under our origin: shown by other sites' pages, run by none.
    'Content-Security-Policy': "default-src 'none'; sandbox",
    'Cross-Origin-Resource-Policy': 'cross-origin',
  })
}

/** Whether an If-None-Match header holds the object's ETag. */
function names(header: string | undefined, cid: string): boolean {
  return (header ?? '').split(',').some((tag) => tag.trim().replace(/^W\//, '') === `"${cid}"`)
}

/** If-Range: a part is asked for only of this very object (RFC 9110 13.1.5). */
function isOf(ifRange: string | undefined, cid: string): boolean {
  return ifRange === undefined || ifRange.trim() === `"${cid}"`
}
