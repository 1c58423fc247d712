import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import { sql, type Transaction } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import { findRoutes, routeKey } from '../serviceRoutes/resolveRoute.ts'
import { type JobLine, offerTypeOf, planJobs } from './planJobs.ts'

/** Postgres channel on which workers are told that a job is due. */
export const JOBS_CHANNEL = 'fulfillment_jobs'

export type DueJobs = { orderId: string; trigger: FulfillmentTrigger }

/**
 * The jobs that a trigger makes due for each of these orders, in the transaction that moved them. Repeating it adds nothing. Gives
 * back the orders for which something new is to be delivered.
 */
export async function insertJobs(
  ctx: MarketContext,
  tx: Transaction<MarketDatabase>,
  due: readonly DueJobs[],
): Promise<Set<string>> {
  if (due.length === 0) return new Set()
  const orderIds = due.map(({ orderId }) => orderId)
  const triggers = due.map(({ trigger }) => trigger)
  const { rows: lines } = await sql<{
    order_id: string
    trigger: FulfillmentTrigger
    chain_id: string
    line_index: number
    seller_address: string
    sku: string
    is_one_off: boolean
  }>`
    select l.order_id, l.fulfillment_trigger as trigger, o.chain_id, l.line_index, l.seller_address, l.sku,
           o.order_json #>> array['acceptedOffer', l.line_index::text, 'isOneOff'] is not distinct from 'true' as is_one_off
      from unnest(${orderIds}::text[], ${triggers}::text[]) as d (order_id, trigger)
      join order_lines l on l.order_id = d.order_id and l.fulfillment_trigger = d.trigger
      join orders o on o.order_id = l.order_id
     order by l.order_id, l.line_index`.execute(tx)
  if (lines.length === 0) return new Set()
  const chainId = Number(lines[0]!.chain_id)
  const routes = await findRoutes(
    ctx,
    chainId,
    lines.map((line) => ({ seller: line.seller_address, sku: line.sku })),
    tx,
  )
  const groups = new Map<string, typeof lines>()
  for (const line of lines) {
    const key = `${line.order_id}:${line.trigger}`
    const group = groups.get(key)
    if (group) group.push(line)
    else groups.set(key, [line])
  }
  const jobs = [...groups.values()].flatMap((group) => {
    const { order_id: orderId, trigger } = group[0]!
    return planJobs(
      group.map((line): JobLine => {
        const route = routes.get(routeKey(line.seller_address, line.sku))
        const offerType = offerTypeOf(route, line.is_one_off)
        return { lineIndex: line.line_index, seller: line.seller_address, offerType }
      }),
    ).map((job) => ({
      order_id: orderId,
      seller_address: job.seller,
      offer_type: job.offerType,
      trigger,
      line_indexes: job.lineIndexes,
      idempotency_key: `${orderId}:${chainId}:${job.seller}:${job.offerType}:${trigger}`,
      status: job.waitsFor === null ? 'pending' : 'needs_attention',
      reason: job.waitsFor,
    }))
  })
  // As one JSON text: lists of all lengths would each make a statement of their own.
  const { rows } = await sql<{ order_id: string }>`
    with made as (
      insert into fulfillment_jobs (order_id, chain_id, seller_address, offer_type, trigger, line_indexes, idempotency_key,
          status, reason, next_attempt_at)
        select order_id, ${chainId}::bigint, seller_address, offer_type, trigger, line_indexes, idempotency_key,
               status, reason, case when status = 'pending' then now() end
          from jsonb_to_recordset(${JSON.stringify(jobs)}::jsonb) as j (order_id text, seller_address text, offer_type text,
            trigger text, line_indexes integer[], idempotency_key text, status text, reason text)
        on conflict do nothing
        returning job_id, order_id, status, reason
    ), told as (
      insert into fulfillment_job_events (job_id, kind, detail)
        select job_id, 'created', jsonb_build_object('status', status, 'reason', reason) from made
    )
    select order_id, case when row_number() over () = 1 then pg_notify(${JOBS_CHANNEL}, '') end from made where status = 'pending'`.execute(
    tx,
  )
  return new Set(rows.map(({ order_id }) => order_id))
}
