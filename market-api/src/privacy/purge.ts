import { inTransaction } from '@market/kit/db'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import { hasPersonalData, isDelivered, stripPersonalData } from '../orders/personalData.ts'

/** Rows a statement deletes or writes at most: however many are due, nobody waits long for their locks. */
const BATCH = 1000
const DAY_MS = 86_400_000
/** A checkout is asked for again within this time or not at all. */
const ANSWERS_KEPT_MS = DAY_MS

/** Between two looks at orders that need their addresses no more. */
export const STRIP_SECONDS = 86_400

/**
 * Forgets baskets `BASKET_RETENTION_DAYS` after they ran out, whatever became of them, and answers kept for repeated checkouts
 * (market-api.md W-40).
 */
export async function purgeBaskets(ctx: MarketContext, signal: AbortSignal): Promise<void> {
  const { db } = ctx
  const expired = new Date(ctx.now().getTime() - ctx.config.BASKET_RETENTION_DAYS * DAY_MS)
  await repeat(signal, () =>
    db
      .deleteFrom('baskets')
      .where('basket_id', 'in', (of) =>
        of
          .selectFrom('baskets')
          .select('basket_id')
          .where('expires_at', '<', expired)
          .limit(BATCH)
          .forUpdate()
          .skipLocked(),
      )
      .executeTakeFirst(),
  )
  const old = new Date(ctx.now().getTime() - ANSWERS_KEPT_MS)
  await repeat(signal, () =>
    db
      .deleteFrom('idempotency_keys')
      .where(
        sql<boolean>`(scope, key) in (
          select scope, key from idempotency_keys where created_at < ${old} order by created_at limit ${BATCH}
             for update skip locked)`,
      )
      .executeTakeFirst(),
  )
}

async function repeat(signal: AbortSignal, remove: () => Promise<{ numDeletedRows: bigint }>): Promise<void> {
  while (!signal.aborted) {
    const { numDeletedRows } = await remove()
    if (numDeletedRows < BATCH) return
  }
}

/**
 * Takes names, addresses and contacts out of orders that were final `ORDER_PERSONAL_DATA_DAYS` ago and are delivered; 0 leaves
 * them. Walks all orders by id, which needs no index and holds nobody up.
 */
export async function stripDeliveredOrders(ctx: MarketContext, signal: AbortSignal): Promise<void> {
  const days = ctx.config.ORDER_PERSONAL_DATA_DAYS
  if (days === 0) return
  const final = new Date(ctx.now().getTime() - days * DAY_MS)
  let stripped = 0
  for (let after = ''; !signal.aborted;) {
    const rows = await ctx.db
      .selectFrom('orders')
      .select('order_id')
      .select(sql<boolean>`finalized_at < ${final} and ${hasPersonalData} and ${isDelivered}`.as('due'))
      .where('order_id', '>', after)
      .orderBy('order_id')
      .limit(BATCH)
      .execute()
    const due = rows.filter((row) => row.due).map((row) => row.order_id)
    if (due.length > 0) stripped += await inTransaction(ctx.db, (tx) => stripPersonalData(tx, due))
    const last = rows.at(-1)
    if (rows.length < BATCH || !last) break
    after = last.order_id
  }
  if (stripped > 0) ctx.log.info({ orders: stripped }, 'personal data removed from delivered orders')
}
