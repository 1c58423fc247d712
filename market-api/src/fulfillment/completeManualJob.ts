import { ORDER_ID } from '@market/contracts/ids'
import { inTransaction } from '@market/kit/db'
import { ConflictError, NotFoundError } from '@market/kit/errors'
import { sql } from 'kysely'
import * as z from 'zod'
import type { MarketContext } from '../context.ts'
import { PAYMENT_REVERTED } from './holdJobs.ts'
import { JOB_COLUMNS, jobView } from './jobView.ts'
import { MANUAL } from './planJobs.ts'
import { tellCompletion } from './tellCompletion.ts'

/** `message` is what the buyer reads in the order's outbox. */
export const CompleteJobInput = z.object({ message: z.string().trim().max(2000).nullish() })

const JOB_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/**
 * The seller says that a one-off was handed over (market-api.md 9.7). Said again, nothing happens twice.
 *
 * @throws NotFoundError `fulfillment_not_found`: there is none of that id with lines of this seller in this order
 * @throws ConflictError `not_manual`: an adapter delivers it; `payment_reverted`: a reorg took the payment back
 */
export async function completeManualJob(
  ctx: MarketContext,
  seller: { address: string; chainId: number },
  job: { orderId: string; jobId: string },
  message: string | undefined,
) {
  const missing = () => new NotFoundError('fulfillment_not_found', 'Fulfillment not found')
  const { orderId, jobId } = job
  if (!ORDER_ID.test(orderId) || !JOB_ID.test(jobId)) throw missing()
  const { view, completed } = await inTransaction(ctx.db, async (tx) => {
    const row = await tx
      .selectFrom('fulfillment_jobs')
      .select(JOB_COLUMNS)
      .where('job_id', '=', jobId)
      .where('order_id', '=', orderId)
      .where('seller_address', '=', seller.address)
      .where('chain_id', '=', seller.chainId)
      .forUpdate()
      .executeTakeFirst()
    if (!row) throw missing()
    if (row.offer_type !== MANUAL) throw new ConflictError('not_manual', 'This is delivered by an adapter')
    if (row.status === 'done') return { view: jobView(row), completed: false }
    if (row.reason === PAYMENT_REVERTED) {
      throw new ConflictError('payment_reverted', 'The payment of this order is gone from the chain')
    }

    const payload = { '@type': 'Message', text: message || 'Delivered by the seller' }
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
      .where('job_id', '=', jobId)
      .returning(JOB_COLUMNS)
      .executeTakeFirstOrThrow()
    await tx
      .insertInto('order_outbox')
      .values({ order_id: orderId, job_id: jobId, source: 'fulfillment', payload })
      // An operator may have written a note there by hand.
      .onConflict((conflict) => conflict.column('job_id').doUpdateSet({ source: 'fulfillment', payload }))
      .execute()
    await tx
      .insertInto('fulfillment_job_events')
      .values({ job_id: jobId, kind: 'completed', detail: { status: 'done', by: 'seller' } })
      .execute()
    await tellCompletion(tx, orderId)
    return { view: jobView(done), completed: true }
  })
  if (completed) ctx.log.info({ jobId, orderId }, 'handed over by its seller')
  return { orderId, ...view }
}
