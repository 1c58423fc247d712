import { Address } from '@market/contracts/address'
import { Hono } from 'hono'
import * as z from 'zod'
import type { MarketContext } from '../context.ts'
import { limitBody, parseBody, readJson } from '../http/body.ts'
import { issueChallenge } from './issueChallenge.ts'
import { verifyChallenge } from './verifyChallenge.ts'

const ChallengeInput = z.object({
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

const VerifyInput = z.object({ challengeId: z.guid(), signature: z.string().max(20_000) })

export const signInRoutes = (ctx: MarketContext) =>
  new Hono()
    .use(limitBody(64 * 1024))
    .post('/challenge', async (c) => {
      const input = parseBody(ChallengeInput, await readJson(c))
      c.header('Cache-Control', 'no-store')
      return c.json(await issueChallenge(ctx, input, c.req.header('origin')))
    })
    .post('/verify', async (c) => {
      const input = parseBody(VerifyInput, await readJson(c))
      c.header('Cache-Control', 'no-store')
      return c.json(await verifyChallenge(ctx, input))
    })
    .get('/jwks.json', (c) => {
      c.header('Cache-Control', 'public, max-age=300')
      return c.json(ctx.tokens.jwks)
    })
