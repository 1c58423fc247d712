import { Hono } from 'hono'
import type { MarketContext } from '../context.ts'
import { type CallerEnv, requireCaller } from '../http/auth.ts'
import { jsonLd } from '../http/body.ts'
import { listFulfillments, listOrders, readOrder, readStatusHistory } from './readOrder.ts'

const MAX_PAGE = 1_000_000

export const orderRoutes = (ctx: MarketContext) =>
  new Hono<CallerEnv>()
    .use(requireCaller(ctx))
    .get('/by-buyer', async (c) => {
      const page = positive(c.req.query('page'), 1, MAX_PAGE)
      const pageSize = Math.min(100, numeric(c.req.query('pageSize'), 20))
      return jsonLd(c, await listOrders(ctx, c.var.caller, page, Math.max(1, pageSize)))
    })
    .get('/:orderId', async (c) => jsonLd(c, await readOrder(ctx, c.var.caller, c.req.param('orderId'))))
    .get('/:orderId/status-history', async (c) =>
      jsonLd(c, await readStatusHistory(ctx, c.var.caller, c.req.param('orderId'))),
    )
    .get('/:orderId/fulfillments', async (c) =>
      jsonLd(c, await listFulfillments(ctx, c.var.caller, c.req.param('orderId'))),
    )

const numeric = (text: string | undefined, fallback: number) =>
  text !== undefined && /^-?[0-9]{1,10}$/.test(text) ? Number(text) : fallback

/** Unreadable, zero and negative read as the first page, as existing clients expect (market-api.md 1.3). */
const positive = (text: string | undefined, fallback: number, max: number) => {
  const n = numeric(text, fallback)
  return n <= 0 ? fallback : Math.min(max, n)
}
