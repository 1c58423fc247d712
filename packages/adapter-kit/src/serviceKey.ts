import { createHash, timingSafeEqual } from 'node:crypto'
import { SERVICE_KEY_HEADER } from '@market/contracts/fulfillment'
import { UnauthorizedError } from '@market/kit/errors'
import type { MiddlewareHandler } from 'hono'

/** Digests have one length, so the comparison takes the same time whatever was sent. */
const digest = (text: string) => createHash('sha256').update(text).digest()

/** Lets only callers with the shared service key through (adapters.md 1). */
export function requireServiceKey(key: string): MiddlewareHandler {
  const expected = digest(key)
  return async (c, next) => {
    const sent = c.req.header(SERVICE_KEY_HEADER)?.trim()
    if (!sent) throw new UnauthorizedError('missing_service_key', 'Unauthorized: missing api key')
    if (!timingSafeEqual(digest(sent), expected)) {
      throw new UnauthorizedError('invalid_service_key', 'Unauthorized: invalid api key')
    }
    await next()
  }
}
