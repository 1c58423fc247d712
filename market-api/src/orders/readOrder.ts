import { ORDER_ID } from '@market/contracts/ids'
import { NotFoundError } from '@market/kit/errors'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { Caller } from '../signIn/tokens.ts'
import { orderView } from './order.ts'

/** "Not yours" and "not there" look the same on purpose (market-api.md 1.3). */
class OrderNotFoundError extends NotFoundError {
  constructor() {
    super('order_not_found', 'Order not found')
  }
}

const ordersOf = (ctx: MarketContext, caller: Caller) =>
  ctx.db.selectFrom('orders').where('buyer_address', '=', caller.address).where('chain_id', '=', caller.chainId)

const withOutbox = (query: ReturnType<typeof ordersOf>) =>
  query.select((of) => [
    'order_json',
    'status',
    'created_at',
    sql<OutboxRow[]>`coalesce(${of
      .selectFrom('order_outbox as o')
      .whereRef('o.order_id', '=', 'orders.order_id')
      .select(
        sql`jsonb_agg(jsonb_build_object('id', o.id, 'createdAt', o.created_at, 'source', o.source,
        'payload', o.payload) order by o.id)`.as('rows'),
      )}, '[]')`.as('outbox'),
  ])

type OutboxRow = { id: number; createdAt: string; source: string; payload: object }
type OrderRow = Awaited<ReturnType<ReturnType<typeof withOutbox>['executeTakeFirstOrThrow']>>

const toView = (row: OrderRow) =>
  orderView(row.order_json, {
    status: row.status,
    createdAt: row.created_at,
    outbox: row.outbox.map((entry) => ({ ...entry, createdAt: new Date(entry.createdAt).toISOString() })),
  })

/** The buyer's view of one order, with what was delivered. */
export async function readOrder(ctx: MarketContext, caller: Caller, orderId: string) {
  if (!ORDER_ID.test(orderId)) throw new OrderNotFoundError()
  const row = await withOutbox(ordersOf(ctx, caller)).where('order_id', '=', orderId).executeTakeFirst()
  if (!row) throw new OrderNotFoundError()
  return toView(row)
}

/** The buyer's orders, newest first; past the end is an empty list. */
export async function listOrders(ctx: MarketContext, caller: Caller, page: number, pageSize: number) {
  const rows = await withOutbox(ordersOf(ctx, caller).where('listed', '=', true))
    .orderBy('created_at', 'desc')
    .orderBy('order_id', 'desc')
    .limit(pageSize)
    .offset((page - 1) * pageSize)
    .execute()
  return { items: rows.map(toView) }
}

export async function readStatusHistory(ctx: MarketContext, caller: Caller, orderId: string) {
  await assertBuyer(ctx, caller, orderId)
  const rows = await ctx.db
    .selectFrom('orders_status_history')
    .select(['old_status', 'new_status', 'changed_at'])
    .where('order_id', '=', orderId)
    .orderBy('id')
    .execute()
  return {
    orderId,
    events: rows.map((row) => ({
      oldStatus: row.old_status,
      newStatus: row.new_status,
      changedAt: row.changed_at.toISOString(),
    })),
  }
}

const STATE = {
  pending: 'pending',
  running: 'running',
  done: 'succeeded',
  partial: 'waiting',
  rejected: 'waiting',
  failed: 'failed',
  needs_attention: 'waiting',
} as const

/** Where each line's delivery stands; `waiting` means a person or new stock is needed, `reason` says which. */
export async function listFulfillments(ctx: MarketContext, caller: Caller, orderId: string) {
  await assertBuyer(ctx, caller, orderId)
  const rows = await ctx.db
    .selectFrom('fulfillment_jobs')
    .select(['job_id', 'seller_address', 'offer_type', 'trigger', 'line_indexes', 'status', 'reason', 'updated_at'])
    .where('order_id', '=', orderId)
    .orderBy('created_at')
    .orderBy('job_id')
    .execute()
  return {
    orderId,
    items: rows.map((row) => ({
      id: row.job_id,
      seller: row.seller_address,
      offerType: row.offer_type,
      trigger: row.trigger,
      lineIndexes: row.line_indexes,
      state: STATE[row.status],
      reason: row.reason,
      updatedAt: row.updated_at.toISOString(),
    })),
  }
}

async function assertBuyer(ctx: MarketContext, caller: Caller, orderId: string) {
  const found =
    ORDER_ID.test(orderId) &&
    (await ordersOf(ctx, caller).select('order_id').where('order_id', '=', orderId).executeTakeFirst())
  if (!found) throw new OrderNotFoundError()
}
