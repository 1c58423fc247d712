import { rawResponse } from '@market/kit/rawResponse'
import { requestHeader } from '@market/kit/http'
import type { Context } from 'hono'
import type { MarketContext } from '../../context.ts'
import type { CallerEnv } from '../../http/auth.ts'
import { STREAM_HEADERS } from './orderStreams.ts'
import type { Audience } from './readOrderEvents.ts'

/**
 * Answers with the events of the caller's orders, or of those the caller sells in, until the token ends (market-api.md 1.4).
 * `Last-Event-ID` has what came after that event sent first; one that is no id of ours is ignored.
 */
export async function streamOrderEvents(ctx: MarketContext, c: Context<CallerEnv>, side: Audience['side']) {
  if (c.req.method === 'HEAD') return c.body(null, 200, STREAM_HEADERS)
  const { address, chainId, expiresAtMs } = c.var.caller
  const lastEventId = requestHeader(c, 'last-event-id')
  const { response, answered } = rawResponse(c)
  await ctx.orderStreams.open(response, {
    audience: { side, address, chainId },
    expiresAtMs,
    after: lastEventId !== undefined && /^[0-9]{1,15}$/.test(lastEventId) ? Number(lastEventId) : undefined,
    log: c.var.log,
  })
  return answered
}
