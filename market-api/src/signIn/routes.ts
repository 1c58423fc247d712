import { Address } from '@market/contracts/address'
import { InvalidError, NotFoundError } from '@market/kit/errors'
import { type Context, Hono } from 'hono'
import * as z from 'zod'
import type { MarketContext } from '../context.ts'
import { limitBody, parseBody, readJson, requireJsonType } from '../http/body.ts'
import { clientAddress } from '../http/clientAddress.ts'
import { issueChallenge } from './issueChallenge.ts'
import { verifyChallenge } from './verifyChallenge.ts'

const MAX_BODY_BYTES = 64 * 1024

export const ChallengeInput = z.object({
  address: Address,
  chainId: z.int(),
  statement: z
    .string()
    .nullish()
    .transform((text) => text?.trim() || undefined),
  expirationMinutes: z
    .number()
    .nullish()
    .transform((minutes) => minutes ?? undefined),
})

export const VerifyInput = z.object({ challengeId: z.guid(), signature: z.string() })

/** Sign-in by ourselves, or by the service that does it for us (market-api.md 1.5). */
export const signInRoutes = (ctx: MarketContext) =>
  new Hono()
    .use(limitBody(MAX_BODY_BYTES))
    .route('/', ctx.tokens.issues ? ownRoutes(ctx) : proxiedRoutes(ctx))
    .route('/', keyRoutes(ctx))

/** The keys that our tokens are verified with. */
export const keyRoutes = (ctx: MarketContext) =>
  new Hono().get('/jwks.json', (c) => {
    c.header('Cache-Control', 'public, max-age=300')
    return c.json(ctx.tokens.jwks)
  })

const ownRoutes = (ctx: MarketContext) =>
  new Hono()
    .post('/challenge', async (c) => {
      const input = parseBody(ChallengeInput, await readJson(c))
      return c.json(await issueChallenge(ctx, input, c.req.header('origin')))
    })
    .post('/verify', async (c) => {
      const input = parseBody(VerifyInput, await readJson(c))
      return c.json(await verifyChallenge(ctx, input))
    })

const proxiedRoutes = (ctx: MarketContext) => {
  const pass = async (c: Context, path: '/challenge' | '/verify', body: string, contentType: string) => {
    // Nobody to ask: tokens come from somewhere that clients know by themselves.
    if (!ctx.authService) throw new NotFoundError('not_found', 'This market signs nobody in')
    const origin = c.req.header('origin')
    const answer = await ctx.authService.post(path, { body, contentType, origin, client: forwardedFor(ctx, c) })
    return c.body(answer.body, answer.status as 200, answer.headers)
  }
  return new Hono()
    .post('/challenge', async (c) => {
      const asked = await readJson(c).catch((error: unknown) => {
        if (!(error instanceof InvalidError) || error.code !== 'invalid_json') throw error
        throw new InvalidError(error.code, 'Invalid JSON in challenge request', error.details)
      })
      const members = typeof asked === 'object' && !Array.isArray(asked) ? asked : {}
      const body = JSON.stringify({ ...members, audience: [ctx.config.MARKET_JWT_AUDIENCE] })
      return pass(c, '/challenge', body, 'application/json')
    })
    .post('/verify', async (c) => {
      requireJsonType(c)
      return pass(c, '/verify', await c.req.text(), c.req.header('content-type') || 'application/json')
    })
}

/** The client's address; of an IPv6 client its network's first, because the rest of it is nobody's business. */
function forwardedFor(ctx: MarketContext, c: Context): string | undefined {
  const client = clientAddress(c, ctx.config.TRUSTED_PROXY_HOPS).replace('/64', '')
  return client === 'unknown' ? undefined : client
}
