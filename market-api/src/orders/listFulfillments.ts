import { OrderStatus } from '@market/contracts/statuses'
import type { MarketContext } from '../context.ts'
import { type FulfillmentState, JOB_COLUMNS, jobView, publicReason, stateOfJob } from '../fulfillment/jobView.ts'
import type { JobStatus } from '../fulfillment/outcome.ts'
import type { Caller } from '../signIn/tokens.ts'
import { OrderNotFoundError } from './errors.ts'
import { findParty } from './readOrder.ts'

export type LineState = 'awaitingPayment' | 'cancelled' | FulfillmentState

/**
 * Where delivery stands: `items` one a job, `lines` one a line, which always has a state (W-08). The buyer sees all, a seller
 * their own (market-api.md 9.7).
 */
export async function listFulfillments(ctx: MarketContext, caller: Caller, orderId: string) {
  const party = await findParty(ctx, caller, orderId)
  if (!party) throw new OrderNotFoundError()
  const findJobs = ctx.db
    .selectFrom('fulfillment_jobs')
    .select(JOB_COLUMNS)
    .where('order_id', '=', orderId)
    .$if(party === 'seller', (query) => query.where('seller_address', '=', caller.address))
    .orderBy('created_at')
    .orderBy('job_id')
  const findLines = ctx.db
    .selectFrom('order_lines as l')
    .innerJoin('orders as o', 'o.order_id', 'l.order_id')
    .select(['l.line_index', 'l.sku', 'l.quantity', 'l.seller_address', 'o.status', 'o.paid_at'])
    .where('l.order_id', '=', orderId)
    .$if(party === 'seller', (query) => query.where('l.seller_address', '=', caller.address))
    .orderBy('l.line_index')
  const [jobs, lines] = await Promise.all([findJobs.execute(), findLines.execute()])
  const jobOfLine = new Map(jobs.flatMap((job) => job.line_indexes.map((line) => [line, job] as const)))
  return {
    orderId,
    items: jobs.map(jobView),
    lines: lines.map((line) => {
      const job = jobOfLine.get(line.line_index)
      return {
        lineIndex: line.line_index,
        sku: line.sku,
        quantity: line.quantity,
        seller: line.seller_address,
        state: stateOfLine(line, job),
        reason: publicReason(job?.reason ?? null),
      }
    }),
  }
}

function stateOfLine(
  order: { status: OrderStatus; paid_at: Date | null },
  job: { status: JobStatus; offer_type: string } | undefined,
): LineState {
  if (job) return stateOfJob(job)
  if (order.status === OrderStatus.cancelled) return 'cancelled'
  return order.paid_at ? 'pending' : 'awaitingPayment'
}
