import { type Expression, sql, type SqlBool } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { Caller } from '../signIn/tokens.ts'
import { encodeOrderCursor, type OrderPlace } from './orderCursor.ts'
import { BUYER_COLUMNS, buyerView, sellerColumns, soldView } from './readOrder.ts'

/** Where a page begins: behind an order, or, for clients that count pages, after a number of them. */
export type OrderPage = { size: number } & ({ after: OrderPlace } | { offset: number })

/** Skipping costs what is skipped. Whoever wants more than this many takes the cursor. */
const MAX_SKIPPED = 100_000

/** The buyer's orders, newest first; past the end is an empty list. Orders placed in their name by others are left out. */
export async function listOrders(ctx: MarketContext, caller: Caller, page: OrderPage) {
  if (isTooDeep(page)) return { items: [] }
  const ids = ctx.db
    .selectFrom('orders')
    .select(['order_id', 'created_at'])
    .where('buyer_address', '=', caller.address)
    .where('chain_id', '=', caller.chainId)
    // Not `= true`: the partial index has to be seen to fit without knowing parameters.
    .where(sql<boolean>`listed`)
    .where(behind(page))
    .orderBy('created_at', 'desc')
    .orderBy('order_id', 'desc')
    .limit(page.size + 1)
    .offset(offsetOf(page))
  const rows = await ctx.db
    .selectFrom(ids.as('page'))
    .innerJoin('orders', 'orders.order_id', 'page.order_id')
    .orderBy('page.created_at', 'desc')
    .orderBy('page.order_id', 'desc')
    .select(micros.as('micros'))
    .select(BUYER_COLUMNS)
    .execute()
  return { items: rows.slice(0, page.size).map(buyerView), ...next(page, rows) }
}

/** The orders that the caller sells something in, newest first; of each, only the caller's lines. */
export async function listSales(ctx: MarketContext, caller: Caller, page: OrderPage) {
  if (isTooDeep(page)) return { items: [] }
  const ids = ctx.db
    .selectFrom('order_sellers')
    .select(['order_id', 'created_at'])
    .where('seller_address', '=', caller.address)
    .where('chain_id', '=', caller.chainId)
    .where(behind(page))
    .orderBy('created_at', 'desc')
    .orderBy('order_id', 'desc')
    .limit(page.size + 1)
    .offset(offsetOf(page))
  const rows = await ctx.db
    .selectFrom(ids.as('page'))
    .innerJoin('orders', 'orders.order_id', 'page.order_id')
    .orderBy('page.created_at', 'desc')
    .orderBy('page.order_id', 'desc')
    .select(micros.as('micros'))
    .select(sellerColumns(caller.address))
    .execute()
  return { items: rows.slice(0, page.size).map(soldView), ...next(page, rows) }
}

const micros = sql<string>`(extract(epoch from page.created_at) * 1000000)::bigint`

/** The comparison of both columns at once is what the index can begin at. */
function behind(page: OrderPage): Expression<SqlBool> {
  if (!('after' in page)) return sql<SqlBool>`true`
  const { createdAtMicros, orderId } = page.after
  return sql<SqlBool>`(created_at, order_id) <
    ('epoch'::timestamptz + ${createdAtMicros}::bigint * interval '1 microsecond', ${orderId})`
}

const offsetOf = (page: OrderPage) => ('offset' in page ? page.offset : 0)
const isTooDeep = (page: OrderPage) => offsetOf(page) + page.size > MAX_SKIPPED

/** The one row too many says that there is more. */
function next(page: OrderPage, rows: { order_id: string; micros: string }[]): { nextCursor?: string } {
  const last = rows[page.size - 1]
  if (rows.length <= page.size || !last) return {}
  return { nextCursor: encodeOrderCursor({ createdAtMicros: last.micros, orderId: last.order_id }) }
}
