import { sql } from 'kysely'
import type { MarketContext } from '../../context.ts'

/** Seconds between two looks for completions that wait too long. */
export const OVERDUE_SECONDS = 30

const BATCH = 100
const PURGE_BATCH = 5000

/**
 * Tells completions that were held for longer than SSE_HOLD_SECONDS, whatever the jobs do: goods may take days, and a market
 * whose workers are down tells all the same. Any number of replicas may do it at once. True when there are more.
 */
export async function tellOverdueCompletions(ctx: MarketContext): Promise<boolean> {
  // The order's row before the lock that all tellers share, as everywhere (docs/adr/0009). What somebody else has in hand is
  // left to them.
  const { rows } = await sql`
    with overdue as (
      select h.order_id from order_events_held h join orders o using (order_id)
      where h.held_since < now() - make_interval(secs => ${ctx.config.SSE_HOLD_SECONDS})
      order by h.held_since limit ${BATCH}
      for update of h skip locked for key share of o skip locked
    ), told as (
      delete from order_events_held h using overdue where h.order_id = overdue.order_id
      returning h.order_id, h.history_id
    )
    select emit_order_event(order_id, history_id) from told`.execute(ctx.db)
  return rows.length === BATCH
}

/** Events of more than seven days ago: nobody reconnects after that long, tokens live for minutes. */
export async function purgeOrderEvents(ctx: MarketContext): Promise<void> {
  for (;;) {
    const { rows } = await sql<{ gone: string }>`
      with gone as (
        delete from order_events where event_id in (
          select event_id from order_events where created_at < now() - interval '7 days'
          order by created_at limit ${PURGE_BATCH})
        returning event_id
      ), forgotten as (
        delete from order_event_audience where event_id in (select event_id from gone)
      )
      select count(*) as gone from gone`.execute(ctx.db)
    if (Number(rows[0]!.gone) < PURGE_BATCH) return
  }
}
