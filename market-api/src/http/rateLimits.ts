import { LimitError } from '@market/kit/errors'
import { type AppEnv, earlyHeader } from '@market/kit/http'
import { createRateLimiter } from '@market/kit/rateLimit'
import type { Context } from 'hono'
import type { Config } from '../config.ts'
import { clientAddress } from './clientAddress.ts'

/** Asked every few seconds by machines that must not be told to wait. */
const EXEMPT = new Set(['/health', '/health/ready', '/metrics'])
const PINS = new Set(['/api/pin', '/pin', '/api/pin-media', '/pin-media', '/api/canonicalize'])
/** Each so many avatars in a catalog request count as a request of their own. */
const AVATARS_PER_UNIT = 50

/**
 * Counts requests by client network and throws `LimitError` (429) past a limit (market-api.md W-30). Signing in, checking out
 * and pinning have budgets of their own within that of everything. Every counted answer tells what is left of the budget
 * that ends first. Undefined where nobody is limited.
 */
export function createRateLimits(config: Config): ((c: Context<AppEnv>) => void) | undefined {
  if (!config.RATE_LIMIT_ENABLED) return undefined
  const limiter = (limit: number) =>
    createRateLimiter({ limit, windowSeconds: config.RATE_LIMIT_GLOBAL_WINDOW_SECONDS })
  const all = limiter(config.RATE_LIMIT_GLOBAL_LIMIT)
  const auth = limiter(config.RATE_LIMIT_AUTH_LIMIT)
  const checkout = limiter(config.RATE_LIMIT_CHECKOUT_LIMIT)
  const pin = limiter(config.RATE_LIMIT_PIN_LIMIT)

  const ownBudget = (path: string) => {
    if (path.startsWith('/api/auth/')) return auth
    if (path.startsWith('/api/cart/') && path.endsWith('/checkout')) return checkout
    return PINS.has(path) ? pin : undefined
  }
  return (c) => {
    const { method, path } = c.req
    if (EXEMPT.has(path)) return
    const client = clientAddress(c, config.TRUSTED_PROXY_HOPS)
    const own = method === 'POST' ? ownBudget(path)?.take(client) : undefined
    // What is refused there costs nothing here: the rest of a busy network goes on.
    const wide = own?.ok === false ? own : all.take(client, costOf(c, path))
    const tightest = own && wide.ok && own.remaining < wide.remaining ? own : wide
    earlyHeader(c, 'RateLimit-Limit', String(tightest.limit))
    earlyHeader(c, 'RateLimit-Remaining', String(tightest.remaining))
    earlyHeader(c, 'RateLimit-Reset', String(tightest.resetSeconds))
    if (tightest.ok) return
    c.set('quiet', true)
    throw new LimitError('rate_limited', 'Too many requests', tightest.resetSeconds)
  }
}

function costOf(c: Context, path: string): number {
  if (!path.startsWith('/api/operator/') || !hasManyParameters(c.req.url)) return 1
  return Math.max(1, Math.ceil((c.req.queries('avatars')?.length ?? 0) / AVATARS_PER_UNIT))
}

/** Taking a query apart costs more than all the rest of this. */
function hasManyParameters(url: string): boolean {
  let at = 0
  for (let n = 0; n < AVATARS_PER_UNIT; n += 1) {
    at = url.indexOf('&', at) + 1
    if (at === 0) return false
  }
  return true
}
