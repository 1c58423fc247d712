import { type Kysely, sql } from 'kysely'
import type { MarketDatabase } from '../../db/types.ts'

/** Postgres channel on which every process is told that there are new events. Without payload. */
export const ORDER_EVENTS_CHANNEL = 'order_events'

/** Who listens, and as what. The address in lower case. */
export type Audience = { side: 'buyer' | 'seller'; address: string; chainId: number }

/** What is told of a change, the same to buyer and seller: nothing of one that the other must not know (market-api.md 1.4). */
export type OrderEvent = {
  id: number
  orderId: string
  paymentReference: string
  oldStatus: string | null
  newStatus: string
  /** In the form of the status history: wallets drop what both tell by comparing the text (clients.md 8). */
  changedAt: string
}

type EventRow = {
  event_id: string
  order_id: string
  payment_reference: string
  old_status: string | null
  new_status: string
  changed_at: Date
}

const toEvent = (row: EventRow): OrderEvent => ({
  id: Number(row.event_id),
  orderId: row.order_id,
  paymentReference: row.payment_reference,
  oldStatus: row.old_status,
  newStatus: row.new_status,
  changedAt: row.changed_at.toISOString(),
})

/** The newest event anybody could have been told; 0 when there is none. */
export async function readLastEventId(db: Kysely<MarketDatabase>): Promise<number> {
  const { rows } = await sql<{ id: string }>`select coalesce(max(event_id), 0) as id from order_events`.execute(db)
  return Number(rows[0]!.id)
}

/**
 * The next events after one, oldest first, with who hears of each (`audienceKey`) and the seconds since the change began.
 * Ids are given out in commit order (migration 0013), so nothing can appear later at or before the last one read.
 */
export async function listEventsAfter(
  db: Kysely<MarketDatabase>,
  after: number,
  limit: number,
): Promise<(OrderEvent & { audience: string[]; ageSeconds: number })[]> {
  const { rows } = await sql<EventRow & { audience: string[]; age_seconds: number }>`
    select e.event_id, e.order_id, o.payment_reference, h.old_status, h.new_status, h.changed_at,
      extract(epoch from clock_timestamp() - e.created_at)::float8 as age_seconds,
      array(select concat_ws(':', a.side, a.address, a.chain_id) from order_event_audience a
            where a.event_id = e.event_id) as audience
    from order_events e
    join orders_status_history h on h.id = e.history_id
    join orders o on o.order_id = e.order_id
    where e.event_id > ${after}
    order by e.event_id
    limit ${limit}`.execute(db)
  return rows.map((row) => ({ ...toEvent(row), audience: row.audience, ageSeconds: row.age_seconds }))
}

export const audienceKey = ({ side, address, chainId }: Audience) => `${side}:${address}:${chainId}`

/** The next events of one audience after one, oldest first. */
export async function listEventsOf(
  db: Kysely<MarketDatabase>,
  { side, address, chainId }: Audience,
  after: number,
  limit: number,
): Promise<OrderEvent[]> {
  const { rows } = await sql<EventRow>`
    select a.event_id, e.order_id, o.payment_reference, h.old_status, h.new_status, h.changed_at
    from order_event_audience a
    join order_events e using (event_id)
    join orders_status_history h on h.id = e.history_id
    join orders o on o.order_id = e.order_id
    where a.side = ${side} and a.address = ${address} and a.chain_id = ${chainId} and a.event_id > ${after}
    order by a.event_id
    limit ${limit}`.execute(db)
  return rows.map(toEvent)
}
