import { earlyHeader, requestHeader } from '@market/kit/http'
import type { Context } from 'hono'

const EXPOSED = [
  'X-Next-Cursor',
  'Link',
  'ETag',
  'Retry-After',
  'X-Request-Id',
  'X-Snapshot-Changed',
  'Content-Range',
  'X-Link-Keccak',
  'X-Safe-Hash',
  'RateLimit-Limit',
  'RateLimit-Remaining',
  'RateLimit-Reset',
  'Allow',
  'WWW-Authenticate',
].join(', ')

/**
 * Pages of any origin may call and read every answer, errors included (market-api.md 0.5); a preflight is answered here. Hono's
 * own does the same by copying the response for each header, which took longer than the rest of a catalog page.
 */
export function cors(c: Context): Response | undefined {
  // A cache between must not hand one page's answer to another.
  earlyHeader(c, 'Vary', 'Origin')
  const origin = requestHeader(c, 'origin')
  if (origin === undefined) return undefined
  earlyHeader(c, 'Access-Control-Allow-Origin', origin)
  earlyHeader(c, 'Access-Control-Allow-Credentials', 'true')
  if (c.req.method !== 'OPTIONS') {
    earlyHeader(c, 'Access-Control-Expose-Headers', EXPOSED)
    return undefined
  }
  earlyHeader(c, 'Access-Control-Allow-Methods', 'GET, HEAD, POST, PATCH, PUT, DELETE, OPTIONS')
  const wanted = requestHeader(c, 'access-control-request-headers')
  if (wanted !== undefined) earlyHeader(c, 'Access-Control-Allow-Headers', wanted)
  earlyHeader(c, 'Access-Control-Max-Age', '600')
  return c.body(null, 204)
}
