import { UnauthorizedError } from '@market/kit/errors'
import { createMiddleware } from 'hono/factory'
import type { AppEnv } from '@market/kit/http'
import type { MarketContext } from '../context.ts'
import type { Caller } from '../signIn/tokens.ts'

export type CallerEnv = { Variables: AppEnv['Variables'] & { caller: Caller } }

/** Lets only signed-in callers through; `c.var.caller` says who. Used where a route needs it, nowhere else (W-31). */
export const requireCaller = (ctx: MarketContext) =>
  createMiddleware<CallerEnv>(async (c, next) => {
    const [scheme, token] = (c.req.header('authorization') ?? '').split(' ', 2)
    const caller = scheme?.toLowerCase() === 'bearer' && token ? await ctx.tokens.verify(token) : undefined
    if (!caller) throw new UnauthorizedError('unauthorized', 'A valid bearer token is required')
    c.set('caller', caller)
    await next()
  })
