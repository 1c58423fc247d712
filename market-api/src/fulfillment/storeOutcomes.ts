import { inTransaction } from '@market/kit/db'
import { messageOf } from '@market/kit/errors'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import { settleReservations } from '../serviceRoutes/reservations.ts'
import type { Errand } from './askAdapter.ts'
import type { JobOutcome } from './outcome.ts'
import { tellCompletions } from './tellCompletion.ts'

/** What became of an errand, to be stored. */
export type Ending = Pick<Errand, 'job' | 'lines'> & { httpStatus: number | null; outcome: JobOutcome }

/**
 * Commits outcomes with what their buyers may see, all in one transaction: together they cost little more than one. Those that
 * the database refuses together are stored one by one; an answer that it can't keep is left to a person.
 */
export async function storeOutcomes(ctx: MarketContext, endings: readonly Ending[]): Promise<void> {
  try {
    tell(ctx, endings, await store(ctx, endings))
  } catch (error) {
    if (endings.length > 1) {
      for (const ending of endings) await storeOutcomes(ctx, [ending])
      return
    }
    const ending = endings[0]!
    if (!isUnstorable(error)) {
      // Its hold runs out; whoever takes it then asks again, and is told the same.
      ctx.log.error({ jobId: ending.job.job_id, err: error }, 'outcome of a job not stored')
      return
    }
    ctx.log.error({ jobId: ending.job.job_id, reason: messageOf(error) }, 'what the adapter answered can not be stored')
    await storeOutcomes(ctx, [{ ...ending, outcome: UNSTORABLE }])
  }
}

const UNSTORABLE: JobOutcome = {
  status: 'needs_attention',
  reason: 'answer_not_storable',
  retryInMs: undefined,
  delivered: undefined,
}

/** The database said no to the values themselves, such as a NUL in the adapter's text. */
const isUnstorable = (error: unknown) => /^(22|54)/.test(String((error as { code?: unknown }).code))

/** Gives the ids of those that were still this worker's. */
async function store(ctx: MarketContext, endings: readonly Ending[]): Promise<Set<string>> {
  const rows = endings.map(({ job, httpStatus, outcome: { status, reason, retryInMs, delivered } }) => ({
    job_id: job.job_id,
    attempts: job.attempts,
    status,
    reason,
    retry_seconds: retryInMs === undefined ? null : retryInMs / 1000,
    http_status: httpStatus,
    delivered: delivered ?? null,
  }))
  return inTransaction(ctx.db, async (tx) => {
    const { rows: stored } = await sql<{ job_id: string; order_id: string }>`
      with ended as (
        select * from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as e (job_id uuid, attempts integer, status text,
          reason text, retry_seconds float8, http_status integer, delivered jsonb)
      ), mine as (
        select j.job_id from fulfillment_jobs j join ended using (job_id, attempts)
        where j.job_id = any(${endings.map(({ job }) => job.job_id)}::uuid[]) and j.status = 'running'
        order by j.job_id for update of j
      ), stored as (
        update fulfillment_jobs j set status = e.status, reason = e.reason, locked_by = null, locked_until = null,
          next_attempt_at = now() + make_interval(secs => e.retry_seconds), last_http_status = e.http_status,
          last_error = case when e.status <> 'done' then e.reason end, result = coalesce(e.delivered, j.result),
          updated_at = now(), completed_at = case when e.status = 'done' then now() end
        from ended e join mine using (job_id) where j.job_id = e.job_id
        returning j.job_id, j.order_id, j.attempts, e.status, e.reason, e.http_status, e.delivered
      ), shown as (
        insert into order_outbox as o (order_id, job_id, source, payload)
        select order_id, job_id, 'fulfillment', delivered from stored where delivered is not null
        on conflict (job_id) do update set payload = excluded.payload
      ), told as (
        insert into fulfillment_job_events (job_id, kind, detail)
        select job_id, 'attempted', jsonb_build_object('attempt', attempts, 'status', status, 'reason', reason,
          'httpStatus', http_status) from stored
      )
      select job_id, order_id from stored`.execute(tx)
    const mine = new Set(stored.map(({ job_id }) => job_id))
    await settleReservations(
      tx,
      endings.flatMap(({ job, lines, outcome }) => {
        if (outcome.status !== 'done' || !mine.has(job.job_id)) return []
        return lines.map(({ sku }) => ({ orderId: job.order_id, seller: job.seller_address, sku }))
      }),
    )
    await tellCompletions(tx, [...new Set(stored.map(({ order_id }) => order_id))])
    return mine
  })
}

function tell(ctx: MarketContext, endings: readonly Ending[], stored: Set<string>): void {
  for (const { job, outcome } of endings) {
    const { status, reason, retryInMs } = outcome
    if (!stored.has(job.job_id)) {
      ctx.log.warn(
        { jobId: job.job_id },
        'job was taken over while its adapter answered; the other worker stores the answer',
      )
      continue
    }
    ctx.metrics.fulfillments.inc({ outcome: status === 'done' ? 'succeeded' : 'failed' })
    const fields = { jobId: job.job_id, orderId: job.order_id, offerType: job.offer_type, attempts: job.attempts }
    if (status === 'done') ctx.log.info(fields, 'fulfilled')
    else ctx.log.warn({ ...fields, status, reason, retryInMs }, 'not fulfilled')
  }
}
