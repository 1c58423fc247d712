import { ORDER_ID } from '@market/contracts/ids'
import { inTransaction } from '@market/kit/db'
import { ConflictError, NotFoundError } from '@market/kit/errors'
import * as z from 'zod'
import type { MarketContext } from '../context.ts'
import { handOver } from './handOver.ts'
import { PAYMENT_REVERTED } from './holdJobs.ts'
import { JOB_COLUMNS, jobView } from './jobView.ts'
import { MANUAL } from './planJobs.ts'

/** `message` is what the buyer reads in the order's outbox. */
export const CompleteJobInput = z.object({ message: z.string().trim().max(2000).nullish() })

const JOB_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/**
 * The seller says that a one-off was handed over (market-api.md 9.7). Said again, nothing happens twice.
 *
 * @throws NotFoundError `fulfillment_not_found`: there is none of that id with lines of this seller in this order
 * @throws ConflictError `not_manual`: an adapter delivers it; `payment_reverted`: a reorg took the payment back;
 * `fulfillment_cancelled`: an operator decided that it is not delivered
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
      .select([...JOB_COLUMNS, 'order_id', 'result'])
      .where('job_id', '=', jobId)
      .where('order_id', '=', orderId)
      .where('seller_address', '=', seller.address)
      .where('chain_id', '=', seller.chainId)
      .forUpdate()
      .executeTakeFirst()
    if (!row) throw missing()
    if (row.offer_type !== MANUAL) throw new ConflictError('not_manual', 'This is delivered by an adapter')
    if (row.status === 'done') return { view: jobView(row), completed: false }
    if (row.status === 'cancelled') {
      throw new ConflictError('fulfillment_cancelled', 'The operator of the market has decided not to deliver this')
    }
    if (row.reason === PAYMENT_REVERTED) {
      throw new ConflictError('payment_reverted', 'The payment of this order is gone from the chain')
    }

    const done = await handOver(tx, row, message || 'Delivered by the seller', {
      kind: 'completed',
      detail: { by: 'seller' },
    })
    return { view: jobView(done), completed: true }
  })
  if (completed) ctx.log.info({ jobId, orderId }, 'handed over by its seller')
  return { orderId, ...view }
}
