import { acquireLease } from '@market/kit/lease'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'

export const RECONCILE_SECONDS = 60
const BATCH = 5000
/** Entries of the history that are younger are read again: those before them may not be committed yet. */
const SETTLED_MINUTES = 5

/**
 * Looks for lines that are paid and that nobody will ever deliver: without a job, or with one that no worker comes to. The
 * transaction that has a line paid makes its job, so there are none; should there be some, it alarms until they are gone
 * (fulfilment.md 11). On one replica; it reads all of the history once, then what is new, so its work grows with what happens.
 */
export function createReconciler(ctx: MarketContext): (signal: AbortSignal) => Promise<void> {
  let readTo = '0'
  let suspects = new Set<string>()

  return async (signal) => {
    if (!(await acquireLease(ctx.db, 'fulfillment-reconcile', ctx.instance, 2 * RECONCILE_SECONDS))) return
    const orders = new Set(suspects)
    let mark = readTo
    for (;;) {
      const entries = await readHistory(ctx, mark)
      for (const order of await findForgotten(ctx, [...new Set(entries.map(({ order_id }) => order_id))])) {
        orders.add(order.order_id)
      }
      readTo = entries.findLast(({ is_settled }) => is_settled)?.id ?? readTo
      mark = entries.at(-1)?.id ?? mark
      if (entries.length < BATCH || signal.aborted) break
    }
    const forgotten = await findForgotten(ctx, [...orders])
    suspects = new Set(forgotten.map(({ order_id }) => order_id))
    const lines = forgotten.reduce((sum, order) => sum + Number(order.lines), 0)
    ctx.metrics.linesWithoutJob.set(lines)
    if (lines === 0) return
    ctx.log.error(
      { lines, orders: [...suspects].slice(0, 10) },
      'paid lines that no job delivers: a person has to look',
    )
  }
}

async function readHistory(ctx: MarketContext, after: string) {
  const { rows } = await sql<{ id: string; order_id: string; is_settled: boolean }>`
    select id, order_id, changed_at < now() - make_interval(mins => ${SETTLED_MINUTES}) as is_settled
    from orders_status_history where id > ${after} order by id limit ${BATCH}`.execute(ctx.db)
  return rows
}

/** Of these orders, those with such lines, and how many. */
async function findForgotten(ctx: MarketContext, orderIds: string[]) {
  if (orderIds.length === 0) return []
  const { rows } = await sql<{ order_id: string; lines: string }>`
    select order_id, count(*) as lines from orders join order_lines l using (order_id)
    where order_id = any(${orderIds}::text[])
      and case l.fulfillment_trigger when 'confirmed' then confirmed_at else finalized_at end is not null
      and not exists (
        select 1 from fulfillment_jobs j
        where j.order_id = l.order_id and j.trigger = l.fulfillment_trigger and l.line_index = any(j.line_indexes)
          and (j.status not in ('pending', 'running') or j.next_attempt_at is not null))
    group by order_id`.execute(ctx.db)
  return rows
}
