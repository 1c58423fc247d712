import { sql, type Transaction } from 'kysely'
import type { MarketDatabase } from '../../db/types.ts'
import { releaseSkus } from '../../serviceRoutes/reservations.ts'
import { tellCompletion } from '../tellCompletion.ts'
import {
  type Act,
  assertNotHeld,
  type Changed,
  type Db,
  JobRefusedError,
  type LockedJob,
  recordAct,
  withJob,
} from './jobRecords.ts'

/**
 * Ends a job that will not be delivered, because a person decided so: the buyer sees that it failed, and what it held of the stock is
 * for sale again, a one-off too. That is final. Nothing is paid back: the market has no money.
 *
 * @throws JobNotKnownError
 * @throws JobRefusedError: it is delivered, or in a worker's hands
 */
export async function cancelJob(
  db: Db,
  idOrPrefix: string,
  { by, reason, dryRun = false }: Act & { dryRun?: boolean },
): Promise<Changed> {
  return withJob(db, idOrPrefix, async (tx, job) => {
    const { job_id: jobId } = job
    const changed = (result: Changed['result']): Changed => ({ jobId, orderId: job.order_id, result })
    if (job.status === 'cancelled') return changed('unchanged')
    if (job.status === 'done') throw new JobRefusedError(`${jobId} is delivered`)
    assertNotHeld(job)
    if (dryRun) return changed('updated')
    await tx
      .updateTable('fulfillment_jobs')
      .set({
        status: 'cancelled',
        reason: 'cancelled',
        next_attempt_at: null,
        locked_by: null,
        locked_until: null,
        updated_at: sql`now()`,
      })
      .where('job_id', '=', jobId)
      .execute()
    await releaseSkus(tx, job.order_id, job.seller_address, await skusOfNoOther(tx, job))
    await recordAct(tx, jobId, 'cancelled', { by, reason, was: { status: job.status, reason: job.reason } })
    await tellCompletion(tx, job.order_id)
    return changed('updated')
  })
}

/** Of the job's skus those that no other line of the order still waits for: a reservation is one for all of them. */
async function skusOfNoOther(tx: Transaction<MarketDatabase>, job: LockedJob): Promise<string[]> {
  const { rows } = await sql<{ sku: string }>`
    select distinct lower(l.sku) as sku from order_lines l
     where l.order_id = ${job.order_id} and l.line_index = any(${job.line_indexes}::integer[])
       and not exists (
         select from order_lines other
          where other.order_id = l.order_id and other.seller_address = l.seller_address
            and lower(other.sku) = lower(l.sku) and other.line_index <> all(${job.line_indexes}::integer[])
            and not exists (
              select from fulfillment_jobs j
               where j.order_id = other.order_id and other.line_index = any(j.line_indexes)
                 and j.status in ('done', 'cancelled')))`.execute(tx)
  return rows.map(({ sku }) => sku)
}
