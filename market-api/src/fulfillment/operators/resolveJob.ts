import { handOver } from '../handOver.ts'
import { PAYMENT_REVERTED } from '../holdJobs.ts'
import { type Act, assertNotHeld, type Changed, type Db, JobRefusedError, withJob } from './jobRecords.ts'

/**
 * Ends a job whose goods a person has handed over: the buyer reads the message, and what was held of the stock is delivered. Said
 * again, nothing happens twice.
 *
 * @throws JobNotKnownError
 * @throws JobRefusedError: it was delivered otherwise, cancelled, is in a worker's hands, or its payment is gone from the chain
 */
export async function resolveJob(
  db: Db,
  idOrPrefix: string,
  { by, reason, message, dryRun = false }: Act & { message?: string | undefined; dryRun?: boolean },
): Promise<Changed> {
  return withJob(db, idOrPrefix, async (tx, job) => {
    const { job_id: jobId } = job
    const changed = (result: Changed['result']): Changed => ({ jobId, orderId: job.order_id, result })
    if (job.status === 'done') {
      const resolved = await tx
        .selectFrom('fulfillment_job_events')
        .select('id')
        .where('job_id', '=', jobId)
        .where('kind', '=', 'resolved')
        .executeTakeFirst()
      if (resolved) return changed('unchanged')
      throw new JobRefusedError(`${jobId} is delivered already, and not by an operator`)
    }
    if (job.status === 'cancelled') throw new JobRefusedError(`${jobId} is cancelled, and that is final`)
    assertNotHeld(job)
    if (job.reason === PAYMENT_REVERTED) {
      throw new JobRefusedError(
        `${jobId} is not paid any more: it goes on by itself when its payment is back; \`jobs cancel\` if it never shall`,
      )
    }
    if (!dryRun) {
      const was = { status: job.status, reason: job.reason }
      await handOver(tx, job, message || 'Delivered by hand', { kind: 'resolved', detail: { by, reason, was } })
    }
    return changed('updated')
  })
}
