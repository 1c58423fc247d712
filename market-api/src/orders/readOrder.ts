import { ORDER_ID } from '@market/contracts/ids'
import type { OrderStatus } from '@market/contracts/statuses'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { Caller } from '../signIn/tokens.ts'
import { OrderNotFoundError } from './errors.ts'
import { type Broker, type OrderSnapshot, orderView, type OutboxEntry, sellerView, type SoldLine } from './order.ts'

/** Whatever was last written about the order itself. */
const changedAt = sql<Date>`greatest(orders.created_at, paid_at, confirmed_at, finalized_at, cancelled_at)`

/** Of `orders`: what `buyerView` reads, deliveries included. What an operator wrote into the outbox is not the buyer's (W-36). */
export const BUYER_COLUMNS = [
  'orders.order_id',
  'orders.order_json',
  'orders.status',
  'orders.created_at',
  'orders.payment_due_by',
  'orders.listed',
  changedAt.as('changed_at'),
  sql<OutboxEntry[]>`coalesce((select jsonb_agg(jsonb_build_object('id', o.id, 'createdAt', o.created_at,
        'source', o.source, 'payload', o.payload) order by o.id)
      from order_outbox o where o.order_id = orders.order_id and o.source = 'fulfillment'), '[]')`.as('outbox'),
] as const

type BuyerRow = {
  order_id: string
  order_json: OrderSnapshot
  status: OrderStatus
  created_at: Date
  payment_due_by: Date
  changed_at: Date
  outbox: OutboxEntry[]
}

export function buyerView(row: BuyerRow) {
  const outbox = row.outbox.map((entry) => ({ ...entry, createdAt: new Date(entry.createdAt).toISOString() }))
  const last = Math.max(row.changed_at.getTime(), ...outbox.map(({ createdAt }) => Date.parse(createdAt)))
  return orderView(row.order_json, {
    orderId: row.order_id,
    status: row.status,
    createdAt: row.created_at,
    updatedAt: new Date(last),
    paymentDueBy: row.payment_due_by,
    outbox,
  })
}

/** Of `orders`: what `soldView` reads, picked line by line, so that nothing of the buyer or other sellers leaves the database. */
export const sellerColumns = (seller: string) =>
  [
    'orders.order_id',
    'orders.status',
    'orders.created_at',
    'orders.payment_reference',
    changedAt.as('changed_at'),
    sql<Broker>`order_json -> 'broker'`.as('broker'),
    sql<boolean>`jsonb_array_length(order_json -> 'acceptedOffer') = jsonb_array_length(order_json -> 'orderedItem')`.as(
      'aligned',
    ),
    sql<SoldLine[] | null>`(select jsonb_agg(jsonb_build_object('quantity', l.quantity,
          'offer', order_json -> 'acceptedOffer' -> l.line_index,
          'item', order_json -> 'orderedItem' -> l.line_index) order by l.line_index)
        from order_lines l where l.order_id = orders.order_id and l.seller_address = ${seller})`.as('lines'),
  ] as const

type SellerRow = {
  order_id: string
  status: OrderStatus
  created_at: Date
  payment_reference: string
  changed_at: Date
  broker: Broker
  aligned: boolean
  lines: SoldLine[] | null
}

export function soldView(row: SellerRow) {
  if (!row.aligned || !row.lines) throw new RangeError(`offers and lines of ${row.order_id} do not belong together`)
  return sellerView(
    { orderId: row.order_id, status: row.status, createdAt: row.created_at, updatedAt: row.changed_at },
    { paymentReference: row.payment_reference, broker: row.broker, lines: row.lines },
  )
}

/** The buyer's view of one order, with what was delivered. */
export async function readOrder(ctx: MarketContext, caller: Caller, orderId: string) {
  const [order] = await readOrders(ctx, caller, [orderId])
  if (!order) throw new OrderNotFoundError()
  return order
}

/** The caller's own among these, in this order and as often as they are named. */
export async function readOrders(ctx: MarketContext, caller: Caller, orderIds: string[]) {
  const wanted = [...new Set(orderIds.filter((id) => ORDER_ID.test(id)))]
  if (wanted.length === 0) return []
  const rows = await ctx.db
    .selectFrom('orders')
    .select(BUYER_COLUMNS)
    .where('buyer_address', '=', caller.address)
    .where('chain_id', '=', caller.chainId)
    .where('orders.order_id', 'in', wanted)
    .execute()
  const unlisted = rows.filter((row) => !row.listed).map((row) => row.order_id)
  if (unlisted.length > 0) await acknowledge(ctx, unlisted)
  const views = new Map(rows.map((row) => [row.order_id, buyerView(row)]))
  return orderIds.flatMap((id) => views.get(id) ?? [])
}

/** Whoever opens an order that was placed in their name without their token takes it for theirs. */
const acknowledge = (ctx: MarketContext, orderIds: string[]) =>
  ctx.db
    .updateTable('orders')
    .set({ listed: true })
    .where('order_id', 'in', orderIds)
    .where('listed', '=', false)
    .execute()

/** The view of a seller of at least one line. */
export async function readSellerOrder(ctx: MarketContext, caller: Caller, orderId: string) {
  if (!ORDER_ID.test(orderId)) throw new OrderNotFoundError()
  const row = await ctx.db
    .selectFrom('orders')
    .select(sellerColumns(caller.address))
    .where('orders.order_id', '=', orderId)
    .where('chain_id', '=', caller.chainId)
    .where((is) =>
      is.exists(
        is
          .selectFrom('order_sellers as s')
          .select('s.order_id')
          .where('s.order_id', '=', orderId)
          .where('s.seller_address', '=', caller.address),
      ),
    )
    .executeTakeFirst()
  if (!row) throw new OrderNotFoundError()
  return soldView(row)
}

/** Every status the order had, for its buyer; `status` and `timestamp` are what the explorer reads (clients.md 8). */
export async function readStatusHistory(ctx: MarketContext, caller: Caller, orderId: string) {
  if ((await findParty(ctx, caller, orderId)) !== 'buyer') throw new OrderNotFoundError()
  const rows = await ctx.db
    .selectFrom('orders_status_history')
    .select(['old_status', 'new_status', 'changed_at'])
    .where('order_id', '=', orderId)
    .orderBy('id')
    .execute()
  return {
    orderId,
    events: rows.map(({ old_status, new_status, changed_at }) => {
      const at = changed_at.toISOString()
      return { oldStatus: old_status, newStatus: new_status, changedAt: at, status: new_status, timestamp: at }
    }),
  }
}

/** What the caller is to the order; undefined: nothing, or there is no such order. Who is both counts as the buyer. */
export async function findParty(ctx: MarketContext, caller: Caller, orderId: string) {
  if (!ORDER_ID.test(orderId)) return undefined
  const row = await ctx.db
    .selectFrom('orders as o')
    .leftJoin('order_sellers as s', (join) =>
      join.onRef('s.order_id', '=', 'o.order_id').on('s.seller_address', '=', caller.address),
    )
    .select(['o.buyer_address', 's.seller_address'])
    .where('o.order_id', '=', orderId)
    .where('o.chain_id', '=', caller.chainId)
    .executeTakeFirst()
  if (row?.buyer_address === caller.address) return 'buyer'
  return row?.seller_address === caller.address ? 'seller' : undefined
}
