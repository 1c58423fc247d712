import { sql, type Transaction } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'
import { JOBS_CHANNEL } from './insertJobs.ts'
import { MANUAL, UNROUTED } from './planJobs.ts'

/** Why a job waits whose order's payment went with a reorg. */
export const PAYMENT_REVERTED = 'payment_reverted'

/**
 * Stops the jobs of these orders that nobody has begun, and tells of which orders some were: what an adapter was asked for may be
 * delivered and is not taken back. A job that a worker holds this very moment counts as begun.
 */
export async function holdJobs(tx: Transaction<MarketDatabase>, orderIds: string[]): Promise<Set<string>> {
  if (orderIds.length === 0) return new Set()
  const { rows } = await sql<{ job_id: string }>`
    with idle as (
      select job_id from fulfillment_jobs j
      where order_id = any(${orderIds}::text[]) and attempts = 0 and status in ('pending', 'needs_attention')
        -- One that an operator had tried again counts from 0 once more.
        and not exists (select from fulfillment_job_events e
          where e.job_id = j.job_id and e.kind = 'retried' and (e.detail ->> 'attempts')::int > 0)
      for update skip locked
    )
    update fulfillment_jobs j
      set status = 'needs_attention', reason = ${PAYMENT_REVERTED}, next_attempt_at = null, updated_at = now()
      from idle where j.job_id = idle.job_id
      returning j.job_id`.execute(tx)
  await record(tx, rows, 'held')
  const begun = await tx
    .selectFrom('fulfillment_jobs')
    .select('order_id')
    .where(sql<boolean>`order_id = any(${orderIds}::text[])`)
    .where('reason', 'is distinct from', PAYMENT_REVERTED)
    // Given up before anything was delivered.
    .where(sql<boolean>`not (status = 'cancelled' and result is null)`)
    .execute()
  return new Set(begun.map(({ order_id }) => order_id))
}

/** Lets jobs that were held go on: the money is back. */
export async function releaseJobs(tx: Transaction<MarketDatabase>, orderIds: string[]): Promise<void> {
  if (orderIds.length === 0) return
  const { rows } = await sql<{ job_id: string }>`
    update fulfillment_jobs set updated_at = now(),
      status = case when offer_type in (${MANUAL}, ${UNROUTED}) then 'needs_attention' else 'pending' end,
      reason = case offer_type when ${MANUAL} then 'manual' when ${UNROUTED} then 'route_not_found' end,
      next_attempt_at = case when offer_type in (${MANUAL}, ${UNROUTED}) then null::timestamptz else now() end
    where order_id = any(${orderIds}::text[]) and status = 'needs_attention' and reason = ${PAYMENT_REVERTED}
    returning job_id`.execute(tx)
  await record(tx, rows, 'released')
  if (rows.length > 0) await sql`select pg_notify(${JOBS_CHANNEL}, '')`.execute(tx)
}

async function record(tx: Transaction<MarketDatabase>, jobs: { job_id: string }[], kind: string) {
  if (jobs.length === 0) return
  await tx
    .insertInto('fulfillment_job_events')
    .values(jobs.map(({ job_id }) => ({ job_id, kind, detail: { reason: PAYMENT_REVERTED } })))
    .execute()
}
