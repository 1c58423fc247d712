import { createHash, timingSafeEqual } from 'node:crypto'
import { SERVICE_KEY_HEADER } from '@market/contracts/fulfillment'
import { AppError } from '@market/kit/errors'
import type { MiddlewareHandler } from 'hono'

/** Digests have one length, so the comparison takes the same time whatever was sent. */
const digest = (text: string) => createHash('sha256').update(text).digest()

/** Lets only callers with the shared service key through (adapters.md 1), or with the one before while keys change. */
export function requireServiceKey(key: string, previous?: string): MiddlewareHandler {
  const expected = digest(key)
  // Two comparisons each time, whether there is one or not.
  const before = previous === undefined ? expected : digest(previous)
  return async (c, next) => {
    const sent = c.req.header(SERVICE_KEY_HEADER)?.trim()
    if (!sent) throw refused('missing_service_key', 'missing api key')
    const given = digest(sent)
    const isCurrent = timingSafeEqual(given, expected)
    const isPrevious = timingSafeEqual(given, before)
    if (!isCurrent && !isPrevious) throw refused('invalid_service_key', 'invalid api key')
    await next()
  }
}

const refused = (code: string, reason: string) => new AppError(401, code, 'Unauthorized', { reason })
