import { createApp, type ErrorBody, probes, problem } from '@market/kit/http'
import { sql } from 'kysely'
import { InvalidBasketError } from '../baskets/errors.ts'
import { basketRoutes } from '../baskets/routes.ts'
import { catalogRoutes } from '../catalog/routes.ts'
import type { MarketContext } from '../context.ts'
import { orderRoutes } from '../orders/routes.ts'
import { pinningRoutes } from '../pinning/routes.ts'
import { sellerRoutes, stockRoutes } from '../serviceRoutes/routes.ts'
import { signInRoutes } from '../signIn/routes.ts'
import { JSONLD } from './body.ts'
import { cors } from './cors.ts'

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

/** The paths whose clients read problem documents (market-api.md 0.4, E2). */
const PROBLEM_PATH = /^\/((api\/)?pin(-media)?$|api\/canonicalize$|(raw|ipfs|inventory)\/)/

const errorBody: ErrorBody = (error, requestId, path) =>
  (PROBLEM_PATH.test(path) ? problem : linkedData)(error, requestId, path)

/** The public listener. Assembles the features; decides nothing. */
export function publicApp(ctx: MarketContext, notReady: () => Promise<string[]>) {
  const app = createApp(ctx.log, ctx.metrics, errorBody)
  app.use(cors)
  app.route('/', probes({ metrics: ctx.metrics, pingDatabase: () => sql`select 1`.execute(ctx.db), notReady }))
  app.route('/api/auth', signInRoutes(ctx))
  app.route('/api/sellers', sellerRoutes(ctx))
  app.route('/api/operator', catalogRoutes(ctx))
  app.route('/api/cart/v1/baskets', basketRoutes(ctx))
  app.route('/api/cart/v1/orders', orderRoutes(ctx))
  app.route('/inventory', stockRoutes(ctx))
  app.route('/', pinningRoutes(ctx))
  return app
}
