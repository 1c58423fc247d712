import { type Selectable, sql, type Transaction } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'
import { settleReservations } from '../serviceRoutes/reservations.ts'
import { JOB_COLUMNS, type ViewedJob } from './jobView.ts'
import { tellCompletion } from './tellCompletion.ts'

type Job = Pick<
  Selectable<MarketDatabase['fulfillment_jobs']>,
  'job_id' | 'order_id' | 'seller_address' | 'line_indexes' | 'result'
>

/**
 * Ends a job whose goods somebody handed over, and tells the buyer. In a transaction that holds the job's row and knows that it may
 * be ended; the last thing in it. What an adapter has delivered of it before stays with the buyer, beside the message.
 */
export async function handOver(
  tx: Transaction<MarketDatabase>,
  job: Job,
  message: string,
  event: { kind: 'completed' | 'resolved'; detail: Record<string, unknown> },
): Promise<ViewedJob> {
  const { job_id, order_id } = job
  const payload = job.result ? { ...job.result, status: 'ok', message } : { '@type': 'Message', text: message }
  const done = await tx
    .updateTable('fulfillment_jobs')
    .set({
      status: 'done',
      reason: null,
      last_error: null,
      next_attempt_at: null,
      locked_by: null,
      locked_until: null,
      result: payload,
      updated_at: sql`now()`,
      completed_at: sql`now()`,
    })
    .where('job_id', '=', job_id)
    .returning(JOB_COLUMNS)
    .executeTakeFirstOrThrow()
  const skus = await skusOf(tx, job)
  await settleReservations(
    tx,
    skus.map((sku) => ({ orderId: order_id, seller: job.seller_address, sku })),
  )
  await tx
    .insertInto('order_outbox')
    .values({ order_id, job_id, source: 'fulfillment', payload })
    // An operator may have written a note there by hand.
    .onConflict((conflict) => conflict.column('job_id').doUpdateSet({ source: 'fulfillment', payload }))
    .execute()
  await tx
    .insertInto('fulfillment_job_events')
    .values({ job_id, kind: event.kind, detail: { status: 'done', ...event.detail } })
    .execute()
  await tellCompletion(tx, order_id)
  return done
}

async function skusOf(tx: Transaction<MarketDatabase>, job: Job): Promise<string[]> {
  const lines = await tx
    .selectFrom('order_lines')
    .select('sku')
    .where('order_id', '=', job.order_id)
    .where('line_index', 'in', job.line_indexes)
    .execute()
  return lines.map(({ sku }) => sku)
}
