import { createApp, type ErrorBody, probes } from '@market/kit/http'
import { cors } from 'hono/cors'
import { sql } from 'kysely'
import { InvalidBasketError } from '../baskets/errors.ts'
import { basketRoutes } from '../baskets/routes.ts'
import { catalogRoutes } from '../catalog/routes.ts'
import type { MarketContext } from '../context.ts'
import { orderRoutes } from '../orders/routes.ts'
import { sellerRoutes, stockRoutes } from '../serviceRoutes/routes.ts'
import { signInRoutes } from '../signIn/routes.ts'
import { JSONLD } from './body.ts'

/** What existing front ends parse: `error` and `details`; `code` and `requestId` beside them (market-api.md 0.4). */
const linkedData: ErrorBody = (error, requestId) => ({
  contentType: JSONLD,
  body: {
    error: error.message,
    details: error.details ?? null,
    code: error.code,
    requestId,
    ...(error instanceof InvalidBasketError ? { validation: error.validation } : {}),
  },
})

/** The public listener. Assembles the features; decides nothing. */
export function publicApp(ctx: MarketContext, notReady: () => Promise<string[]>) {
  const app = createApp(ctx.log, ctx.metrics, linkedData)
  app.use(
    cors({
      origin: (origin) => origin,
      credentials: true,
      allowMethods: ['GET', 'POST', 'PATCH', 'PUT', 'DELETE', 'OPTIONS'],
      exposeHeaders: ['X-Next-Cursor', 'Link', 'ETag', 'Retry-After', 'X-Request-Id'],
      maxAge: 600,
    }),
  )
  app.route('/', probes({ metrics: ctx.metrics, pingDatabase: () => sql`select 1`.execute(ctx.db), notReady }))
  app.route('/api/auth', signInRoutes(ctx))
  app.route('/api/sellers', sellerRoutes(ctx))
  app.route('/api/operator', catalogRoutes(ctx))
  app.route('/api/cart/v1/baskets', basketRoutes(ctx))
  app.route('/api/cart/v1/orders', orderRoutes(ctx))
  app.route('/inventory', stockRoutes(ctx))
  return app
}
