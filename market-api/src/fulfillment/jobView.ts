import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import type { JobStatus } from './outcome.ts'
import { MANUAL } from './planJobs.ts'

/** How a delivery looks from outside. `waiting`: for stock, or for a person of the market; `manual`: for its seller. */
export type FulfillmentState = 'pending' | 'running' | 'succeeded' | 'waiting' | 'failed' | 'manual'

const STATE: Record<JobStatus, FulfillmentState> = {
  pending: 'pending',
  running: 'running',
  done: 'succeeded',
  partial: 'waiting',
  rejected: 'waiting',
  failed: 'failed',
  needs_attention: 'waiting',
  // With a reason of its own: clients know no further state.
  cancelled: 'failed',
}

/** Nothing happens to such a job any more. */
export const ENDED: ReadonlySet<JobStatus> = new Set(['done', 'cancelled'])

export function stateOfJob(job: { status: JobStatus; offer_type: string }): FulfillmentState {
  return job.offer_type === MANUAL && !ENDED.has(job.status) ? 'manual' : STATE[job.status]
}

/** Reasons that are words of ours. */
export const TOLD: ReadonlySet<string> = new Set([
  'route_not_found',
  'manual',
  'depleted',
  'insufficientStock',
  'partial',
  'inProgress',
  'notApplicable',
  'ambiguous',
  'payment_reverted',
  'cancelled',
])

/** A job's reason as buyers and sellers may read it: a word of ours. What an adapter or its network said is for the operator. */
export function publicReason(reason: string | null): string | null {
  return reason === null || TOLD.has(reason) ? reason : 'adapter_error'
}

/** The columns of `fulfillment_jobs` that `jobView` reads. */
export const JOB_COLUMNS = [
  'job_id',
  'seller_address',
  'offer_type',
  'trigger',
  'line_indexes',
  'status',
  'reason',
  'updated_at',
] as const

export type ViewedJob = {
  job_id: string
  seller_address: string
  offer_type: string
  trigger: FulfillmentTrigger
  line_indexes: number[]
  status: JobStatus
  reason: string | null
  updated_at: Date
}

/** A delivery as the order's buyer and its seller see it. */
export function jobView(job: ViewedJob) {
  return {
    id: job.job_id,
    seller: job.seller_address,
    offerType: job.offer_type,
    trigger: job.trigger,
    lineIndexes: job.line_indexes,
    state: stateOfJob(job),
    reason: publicReason(job.reason),
    updatedAt: job.updated_at.toISOString(),
  }
}
