import { sql } from 'kysely'
import { JOBS_CHANNEL } from '../insertJobs.ts'
import { MANUAL } from '../planJobs.ts'
import { type Act, assertNotHeld, type Changed, type Db, JobRefusedError, recordAct, withJob } from './jobRecords.ts'

/**
 * Makes a job due now, with all its attempts before it, and wakes a worker. Of one that is due already nothing changes but that.
 *
 * @throws JobNotKnownError
 * @throws JobRefusedError: it is at its end, in a worker's hands, its seller's to hand over, or not paid any more
 */
export async function retryJob(
  db: Db,
  idOrPrefix: string,
  { by, reason, dryRun = false }: Act & { dryRun?: boolean },
): Promise<Changed> {
  return withJob(db, idOrPrefix, async (tx, job) => {
    const { job_id: jobId } = job
    const refuse = (why: string) => {
      throw new JobRefusedError(`${jobId} ${why}`)
    }
    if (job.status === 'done') refuse('is delivered')
    if (job.status === 'cancelled') refuse('is cancelled, and that is final')
    if (job.offer_type === MANUAL) refuse('is for its seller to hand over: `jobs resolve` when that has happened')
    if (!job.isPaid) refuse('is not paid any more: it goes on by itself when its payment is back')
    assertNotHeld(job)

    // A worker that lost its hold may still answer; the next takes it over with its own number of attempts.
    const isUntried = job.status === 'running' || (job.status === 'pending' && job.attempts === 0)
    const isDue = isUntried && isPast(job.next_attempt_at)
    if (!dryRun) {
      if (!isDue) {
        await tx
          .updateTable('fulfillment_jobs')
          .set({
            status: 'pending',
            reason: null,
            attempts: 0,
            next_attempt_at: sql`now()`,
            locked_by: null,
            locked_until: null,
            updated_at: sql`now()`,
          })
          .where('job_id', '=', jobId)
          .execute()
        const was = { status: job.status, reason: job.reason }
        await recordAct(tx, jobId, 'retried', { by, reason, attempts: job.attempts, was })
      }
      await sql`select pg_notify(${JOBS_CHANNEL}, '')`.execute(tx)
    }
    return { jobId, orderId: job.order_id, result: isDue ? 'unchanged' : 'updated' }
  })
}

const isPast = (at: Date | null) => at !== null && at.getTime() <= Date.now()
