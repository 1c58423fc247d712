import { UnauthorizedError } from '@market/kit/errors'
import { createMiddleware } from 'hono/factory'
import type { AppEnv } from '@market/kit/http'
import type { MarketContext } from '../context.ts'
import type { Caller } from '../signIn/tokens.ts'

export type CallerEnv = { Variables: AppEnv['Variables'] & { caller: Caller } }

/** Lets only signed-in callers through; `c.var.caller` says who. Used where a route needs it, nowhere else (W-31). */
export const requireCaller = (ctx: MarketContext) =>
  createMiddleware<CallerEnv>(async (c, next) => {
    const caller = await findCaller(ctx, c.req.header('authorization'))
    if (!caller) throw new UnauthorizedError('unauthorized', 'A valid bearer token is required')
    c.set('caller', caller)
    await next()
  })

/** Whose token it is; undefined without one, or with one that can't be trusted. */
export async function findCaller(ctx: MarketContext, authorization: string | undefined): Promise<Caller | undefined> {
  const token = /^bearer +([^ ]+) *$/i.exec(authorization ?? '')?.[1]
  return token === undefined ? undefined : ctx.tokens.verify(token)
}
