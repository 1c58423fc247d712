import { createHmac, hkdfSync } from 'node:crypto'
import { UnauthorizedError } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'
import { findCaller } from '../http/auth.ts'
import { type Pinner, utcDay } from './store.ts'

/** Bytes are what bounds anonymous pins; this is more objects than bytes leave room for. */
const UNCOUNTED = 2_000_000_000

/**
 * Who pins: the signed-in address, else the client's own (architecture.md 3). A token that can't be trusted counts as none,
 * because wallets attach whatever they have stored. Throws `UnauthorizedError` where nobody pins without signing in.
 */
export async function findPinner(
  ctx: MarketContext,
  authorization: string | undefined,
  clientAddress: string,
): Promise<Pinner> {
  const { config } = ctx
  const caller = await findCaller(ctx, authorization)
  if (caller) {
    return {
      subject: caller.address,
      maxObjects: config.MARKET_PIN_OBJECTS_PER_DAY,
      maxBytes: config.MARKET_PIN_BYTES_PER_DAY,
    }
  }
  const maxBytes = config.MARKET_ANONYMOUS_PIN_BYTES_PER_DAY
  if (maxBytes === 0) throw new UnauthorizedError('unauthorized', 'A valid bearer token is required')
  return { subject: anonymousSubject(ctx, clientAddress), maxObjects: UNCOUNTED, maxBytes }
}

/**
 * Stands for a client address for one day: nobody without our key can tell the address from it (market-api.md W-39), and
 * nobody at all can tell that two days were the same client.
 */
function anonymousSubject(ctx: MarketContext, clientAddress: string): string {
  const secret = (ctx.config.MARKET_JWT_PRIVATE_KEY ?? ctx.config.CIRCLES_SERVICE_KEY).reveal()
  const key = Buffer.from(hkdfSync('sha256', secret, '', 'market-api: clients that pin', 32))
  const mac = createHmac('sha256', key)
    .update(`${utcDay(ctx.now())} ${clientAddress}`)
    .digest('hex')
  return `anonymous:${mac.slice(0, 32)}`
}
