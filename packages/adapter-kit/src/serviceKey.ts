import { createHash, timingSafeEqual } from 'node:crypto'
import { SERVICE_KEY_HEADER } from '@market/contracts/fulfillment'
import { AppError } from '@market/kit/errors'
import type { MiddlewareHandler } from 'hono'

/** Digests have one length, so the comparison takes the same time whatever was sent. */
const digest = (text: string) => createHash('sha256').update(text).digest()

/** Lets only callers with the shared service key through (adapters.md 1). */
export function requireServiceKey(key: string): MiddlewareHandler {
  const expected = digest(key)
  return async (c, next) => {
    const sent = c.req.header(SERVICE_KEY_HEADER)?.trim()
    if (!sent) throw refused('missing_service_key', 'missing api key')
    if (!timingSafeEqual(digest(sent), expected)) throw refused('invalid_service_key', 'invalid api key')
    await next()
  }
}

const refused = (code: string, reason: string) => new AppError(401, code, 'Unauthorized', { reason })
