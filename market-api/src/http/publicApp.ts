import { createApp, earlyHeader, type Edge, type ErrorBody, probes, problem } from '@market/kit/http'
import { sql } from 'kysely'
import { basketRoutes } from '../baskets/routes.ts'
import { catalogRoutes } from '../catalog/routes.ts'
import type { MarketContext } from '../context.ts'
import { documentationRoutes } from '../openapi/routes.ts'
import { orderRoutes } from '../orders/routes.ts'
import { pinningRoutes } from '../pinning/routes.ts'
import { sellerRoutes, stockRoutes } from '../serviceRoutes/routes.ts'
import { keyRoutes, signInRoutes } from '../signIn/routes.ts'
import { JSONLD } from './body.ts'
import { cors } from './cors.ts'
import { createRateLimits } from './rateLimits.ts'

/** What existing front ends parse: `error` and `details`; `code` and `requestId` beside them (market-api.md 0.4). */
const linkedData: ErrorBody = (error, requestId) => ({
  contentType: JSONLD,
  body: {
    error: error.message,
    details: error.details ?? null,
    ...error.extra,
    code: error.code,
    requestId,
  },
})

/** The paths whose clients read problem documents (market-api.md 0.4, E2). */
const PROBLEM_PATH = /^\/((api\/)?pin(-media)?$|api\/canonicalize$|(raw|ipfs|inventory)\/)/

const errorBody: ErrorBody = (error, requestId, path) =>
  (PROBLEM_PATH.test(path) ? problem : linkedData)(error, requestId, path)

/** Who is signed in, what they buy and where they live: nothing for a cache, errors included (market-api.md 8.4). */
const PRIVATE_PATH = /^\/api\/(auth|cart)(\/|$)/

function edgeOf(ctx: MarketContext): Edge {
  const countRequest = createRateLimits(ctx.config)
  return (c) => {
    const preflight = cors(c)
    if (preflight) return preflight
    if (PRIVATE_PATH.test(c.req.path)) earlyHeader(c, 'Cache-Control', 'no-store')
    countRequest?.(c)
    return undefined
  }
}

/** The public listener. Assembles the features; decides nothing. */
export function publicApp(ctx: MarketContext, notReady: () => Promise<string[]>) {
  const app = createApp(ctx.log, ctx.metrics, errorBody, edgeOf(ctx))
  app.route('/', probes({ metrics: ctx.metrics, pingDatabase: () => sql`select 1`.execute(ctx.db), notReady }))
  app.route('/api/auth', signInRoutes(ctx))
  app.route('/.well-known', keyRoutes(ctx))
  app.route('/api/sellers', sellerRoutes(ctx))
  app.route('/api/operator', catalogRoutes(ctx))
  app.route('/api/cart/v1/baskets', basketRoutes(ctx))
  app.route('/api/cart/v1/orders', orderRoutes(ctx))
  app.route('/inventory', stockRoutes(ctx))
  app.route('/', pinningRoutes(ctx))
  app.route('/', documentationRoutes(ctx))
  return app
}
