import { AddressError } from '@market/contracts/address'
import { CanonicalJsonError, parseStrictJson } from '@market/contracts/canonicalJson'
import { InvalidError } from '@market/kit/errors'
import { requestHeader } from '@market/kit/http'
import type { Context, MiddlewareHandler } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import * as z from 'zod'

export const JSONLD = 'application/ld+json; charset=utf-8'

/** Refuses bodies over `bytes` with 413, before they are read whole. */
export function limitBody(bytes: number): MiddlewareHandler {
  const limitChunks = bodyLimit({ maxSize: bytes, onError: (c) => refuseLargeBody(c, bytes) })
  return async (c, next) => {
    if (requestHeader(c, 'transfer-encoding') === undefined) {
      // The server lets no more than the declared length through.
      if (Number(requestHeader(c, 'content-length') ?? 0) > bytes) refuseLargeBody(c, bytes)
      return next()
    }
    let isRead = false
    try {
      await limitChunks(c, () => {
        isRead = true
        return next()
      })
    } catch (error) {
      throw isRead || error instanceof InvalidError ? error : incomplete()
    }
  }
}

/** The client went away, or was cut for being too slow; nobody reads this. */
const incomplete = () => new InvalidError('incomplete_body', 'The body ended early')

function refuseLargeBody(c: Context, bytes: number): never {
  // The server cuts the connection when the rest of the body keeps coming; the next request must not be on it.
  c.header('Connection', 'close')
  throw new InvalidError('body_too_large', `Body exceeds ${bytes} bytes`, undefined, 413)
}

/** The body as it came, refused with 413 past `maxBytes`: by its declared length at once, else as soon as that much has come. */
export async function readBytes(c: Context, maxBytes: number): Promise<Uint8Array> {
  const declared = c.req.header('content-length')
  if (Number(declared ?? 0) > maxBytes) return refuseLargeBody(c, maxBytes)
  try {
    // The server lets no more than the declared length through.
    if (declared !== undefined) return new Uint8Array(await c.req.arrayBuffer())
    const parts: Uint8Array[] = []
    let size = 0
    const reader = c.req.raw.body?.getReader()
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true, value: undefined }
      if (done) return Buffer.concat(parts)
      size += value.length
      if (size > maxBytes) return refuseLargeBody(c, maxBytes)
      parts.push(value)
    }
  } catch (error) {
    throw error instanceof InvalidError ? error : incomplete()
  }
}

const JSON_TYPE = /^application\/([a-z0-9.+-]+\+)?json\s*(;|$)/i
const MEDIA_TYPE = /^(image\/[a-z0-9.+-]+|application\/octet-stream)\s*(;|$)/i

/** Any JSON media type will do, and none at all (market-api.md 0.3). Not asked of PATCH: clients send what they like there. */
export const requireJsonType = (c: Context) => requireType(c, JSON_TYPE, 'The body must be JSON')

/** Any image type, plain bytes, and none at all (market-api.md 0.3). */
export const requireMediaType = (c: Context) => requireType(c, MEDIA_TYPE, 'The body must be an image')

function requireType(c: Context, wanted: RegExp, message: string): void {
  const type = c.req.header('content-type')
  if (type && !wanted.test(type)) throw new InvalidError('unsupported_media_type', message, undefined, 415)
}

/** The body as JSON, duplicate member names refused (market-api.md W-24); empty or absent reads as `whenEmpty`. */
export async function readJson(c: Context, whenEmpty?: unknown): Promise<unknown> {
  const text = await readText(c)
  if (text.trim() === '' && whenEmpty !== undefined) return whenEmpty
  // JSON can say it, Postgres can't keep it.
  if (text.includes('\\u0000')) throw new InvalidError('invalid_json', 'Invalid JSON', { detail: 'NUL in a text' })
  try {
    return parseStrictJson(text)
  } catch (error) {
    if (!(error instanceof CanonicalJsonError)) throw error
    throw new InvalidError('invalid_json', 'Invalid JSON', { detail: error.message })
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true })

async function readText(c: Context): Promise<string> {
  const bytes = await c.req.arrayBuffer().catch(() => {
    throw incomplete()
  })
  try {
    return utf8.decode(bytes)
  } catch {
    // Read leniently, a name or a street would be kept with holes in it.
    throw new InvalidError('invalid_json', 'Invalid JSON', { detail: 'not UTF-8' })
  }
}

/** Parses by schema; the first fault becomes a 400 with its JSON pointer. */
export function parseBody<S extends z.ZodType>(schema: S, value: unknown, message?: string): z.infer<S> {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  const path = `/${issue.path.join('/')}`
  throw new InvalidError('invalid_request', message ?? issue.message, { path, detail: issue.message })
}

/** Runs `work`, turning a malformed address into the 400 existing clients show. */
export function checkAddress<T>(path: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (error instanceof AddressError) throw new InvalidError('invalid_address', error.message, { path })
    throw error
  }
}

export function jsonLd(c: Context, body: unknown, status: 200 | 201 = 200) {
  return c.body(JSON.stringify(body), status, { 'Content-Type': JSONLD })
}
