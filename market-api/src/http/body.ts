import { AddressError } from '@market/contracts/address'
import { CanonicalJsonError, parseStrictJson } from '@market/contracts/canonicalJson'
import { InvalidError } from '@market/kit/errors'
import type { Context } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import * as z from 'zod'

export const JSONLD = 'application/ld+json; charset=utf-8'

/** Refuses bodies over `bytes` with 413, before they are read whole. */
export const limitBody = (bytes: number) =>
  bodyLimit({
    maxSize: bytes,
    onError: (c) => {
      // The server cuts the connection when the rest of the body keeps coming; the next request must not be on it.
      c.header('Connection', 'close')
      throw new InvalidError('body_too_large', `Body exceeds ${bytes} bytes`, undefined, 413)
    },
  })

/** Any JSON media type will do, and none at all (market-api.md 0.3). Not asked of PATCH: clients send what they like there. */
export function requireJsonType(c: Context): void {
  const type = c.req.header('content-type')
  if (type && !/^application\/([a-z0-9.+-]+\+)?json\s*(;|$)/i.test(type)) {
    throw new InvalidError('unsupported_media_type', 'The body must be JSON', undefined, 415)
  }
}

/** The body as JSON, duplicate member names refused (market-api.md W-24); empty or absent reads as `whenEmpty`. */
export async function readJson(c: Context, whenEmpty?: unknown): Promise<unknown> {
  const text = await c.req.text()
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
