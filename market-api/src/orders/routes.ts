import { InvalidError } from '@market/kit/errors'
import { type Context, Hono } from 'hono'
import * as z from 'zod'
import type { MarketContext } from '../context.ts'
import { CompleteJobInput, completeManualJob } from '../fulfillment/completeManualJob.ts'
import { type CallerEnv, requireCaller } from '../http/auth.ts'
import { jsonLd, limitBody, parseBody, readJson, requireJsonType } from '../http/body.ts'
import { cancelOrder } from './cancelOrder.ts'
import { streamOrderEvents } from './events/streamOrderEvents.ts'
import { listFulfillments } from './listFulfillments.ts'
import { listOrders, listSales, type OrderPage } from './listOrders.ts'
import { decodeOrderCursor } from './orderCursor.ts'
import { readOrder, readOrders, readSellerOrder, readStatusHistory } from './readOrder.ts'
import { readTimeline } from './readTimeline.ts'

const PAGE_SIZE = { fallback: 20, max: 100 }
const MAX_BATCH = 100
/** A hundred ids, or a message of two thousand characters. */
const MAX_BODY = 32 * 1024

const noIds = 'orderIds must be a non-empty array'
export const BatchInput = z.object(
  {
    orderIds: z
      .array(z.string({ error: 'orderIds must be texts' }), { error: noIds })
      .min(1, noIds)
      .max(MAX_BATCH, `orderIds length must be <= ${MAX_BATCH}`),
  },
  { error: noIds },
)

export const orderRoutes = (ctx: MarketContext) =>
  new Hono<CallerEnv>()
    // Before the token is looked at (market-api.md 0.3).
    .post('/batch', async (c, next) => {
      requireJsonType(c)
      await next()
    })
    .use(requireCaller(ctx))
    .post('/batch', limitBody(MAX_BODY), async (c) => {
      const { orderIds } = parseBody(BatchInput, await readJson(c))
      return jsonLd(c, { items: await readOrders(ctx, c.var.caller, orderIds) })
    })
    .get('/by-buyer', async (c) => sendPage(ctx, c, await listOrders(ctx, c.var.caller, pageOf(c))))
    .get('/by-seller', async (c) => sendPage(ctx, c, await listSales(ctx, c.var.caller, pageOf(c))))
    .get('/events', (c) => streamOrderEvents(ctx, c, 'buyer'))
    .get('/sales/events', (c) => streamOrderEvents(ctx, c, 'seller'))
    .get('/:orderId', async (c) => jsonLd(c, await readOrder(ctx, c.var.caller, c.req.param('orderId'))))
    .post('/:orderId/cancel', async (c) => {
      const orderId = c.req.param('orderId')
      await cancelOrder(ctx, c.var.caller, orderId)
      return jsonLd(c, await readOrder(ctx, c.var.caller, orderId))
    })
    .get('/:orderId/as-seller', async (c) =>
      jsonLd(c, await readSellerOrder(ctx, c.var.caller, c.req.param('orderId'))),
    )
    .get('/:orderId/status-history', async (c) =>
      jsonLd(c, await readStatusHistory(ctx, c.var.caller, c.req.param('orderId'))),
    )
    .get('/:orderId/fulfillments', async (c) =>
      jsonLd(c, await listFulfillments(ctx, c.var.caller, c.req.param('orderId'))),
    )
    .get('/:orderId/timeline', async (c) => jsonLd(c, await readTimeline(ctx, c.var.caller, c.req.param('orderId'))))
    .post('/:orderId/fulfillments/:id/complete', limitBody(MAX_BODY), async (c) => {
      requireJsonType(c)
      const { message } = parseBody(CompleteJobInput, await readJson(c, {}))
      const job = { orderId: c.req.param('orderId'), jobId: c.req.param('id') }
      return jsonLd(c, await completeManualJob(ctx, c.var.caller, job, message ?? undefined))
    })

function pageOf(c: Context): OrderPage {
  const size = Math.min(PAGE_SIZE.max, Math.max(1, integer(c.req.query('pageSize')) ?? PAGE_SIZE.fallback))
  const cursor = c.req.query('cursor')
  if (cursor) {
    const after = decodeOrderCursor(cursor)
    if (!after) throw new InvalidError('invalid_cursor', 'Invalid cursor', { path: '/cursor' })
    return { size, after }
  }
  const page = integer(c.req.query('page')) ?? 1
  // Zero and negative read as the first page, as existing clients expect (market-api.md 1.3).
  return { size, offset: page <= 1 ? 0 : (page - 1) * size }
}

/** Undefined when the text is no integer, which reads as if it were not there. */
const integer = (text: string | undefined) =>
  text !== undefined && /^[+-]?[0-9]+$/.test(text.trim()) ? Number(text) : undefined

/** With the way to the next page, when there is one, in the body and in both headers that clients know. */
function sendPage(ctx: MarketContext, c: Context, page: { items: object[]; nextCursor?: string }) {
  if (page.nextCursor !== undefined) {
    const next = new URLSearchParams({ cursor: page.nextCursor })
    const pageSize = c.req.query('pageSize')
    if (pageSize !== undefined) next.set('pageSize', pageSize)
    c.header('X-Next-Cursor', page.nextCursor)
    c.header('Link', `<${ctx.config.PUBLIC_BASE_URL}${c.req.path}?${next}>; rel="next"`)
  }
  return jsonLd(c, page)
}
