import { FulfillmentResponse } from '@market/contracts/fulfillment'
import type { FulfillmentCall } from '../serviceRoutes/adapterClient.ts'

export type JobStatus =
  | 'pending'
  | 'running'
  | 'done'
  | 'partial'
  | 'rejected'
  | 'failed'
  | 'needs_attention'
  /** A person decided that it is not delivered. */
  | 'cancelled'

/** What an adapter's answer makes of a job. `retryInMs` absent: only a person moves it on. */
export type JobOutcome = {
  status: Exclude<JobStatus, 'running' | 'cancelled'>
  reason: string | null
  retryInMs: number | undefined
  /** The answer to keep and to show the buyer: something was delivered. */
  delivered: Record<string, unknown> | undefined
}

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
/** Then hourly, until GIVE_UP_AFTER attempts: about a day (fulfilment.md 14). */
const BACKOFF_MS = [5 * SECOND, 30 * SECOND, 2 * MINUTE, 10 * MINUTE, HOUR]
const GIVE_UP_AFTER = BACKOFF_MS.length + 23
const SHORT_RETRY_MS = 2 * SECOND
/** Stock comes back when somebody restocks; looking costs little. */
const RESTOCK_MS = MINUTE

/**
 * The mapping of fulfilment.md 14. Only an explicit yes is done; what is not understood is not known yet, and tried again.
 * @param attempts how often the job ran, this time included
 * @param jitter 0.8 to 1.2
 */
export function outcomeOf(call: FulfillmentCall, attempts: number, jitter: number): JobOutcome {
  const later = (reason: string): JobOutcome => {
    if (attempts >= GIVE_UP_AFTER) return person('failed', reason)
    const wait = BACKOFF_MS[attempts - 1] ?? HOUR
    return { status: 'pending', reason, retryInMs: Math.round(wait * jitter), delivered: undefined }
  }
  const person = (status: JobOutcome['status'], reason: string): JobOutcome => ({
    status,
    reason,
    retryInMs: undefined,
    delivered: undefined,
  })

  if (call.kind === 'failed') return later(call.error)
  const { httpStatus } = call
  if (httpStatus === 202) {
    return { status: 'pending', reason: 'inProgress', retryInMs: SHORT_RETRY_MS, delivered: undefined }
  }
  const parsed = FulfillmentResponse.safeParse(call.body)
  const status = parsed.success ? parsed.data.status : undefined
  const outOfStock = status === 'depleted' || status === 'insufficientStock'
  if (outOfStock) {
    return {
      status: 'needs_attention',
      reason: status,
      retryInMs: Math.round(RESTOCK_MS * jitter),
      delivered: undefined,
    }
  }
  // Too many requests and time-outs are the adapter's trouble, not the request's.
  if (httpStatus >= 400 && httpStatus < 500 && ![408, 425, 429].includes(httpStatus)) {
    return person('rejected', `HTTP ${httpStatus}${status ? ` ${status}` : ''}`)
  }
  if (httpStatus < 200 || httpStatus >= 300) return later(`HTTP ${httpStatus}`)
  if (!parsed.success) return later('the answer has no known status')
  const delivered = parsed.data as Record<string, unknown>
  switch (parsed.data.status) {
    case 'ok':
      return { status: 'done', reason: null, retryInMs: undefined, delivered }
    case 'partial':
      return { status: 'partial', reason: 'partial', retryInMs: Math.round(RESTOCK_MS * jitter), delivered }
    case 'inProgress':
      return { status: 'pending', reason: 'inProgress', retryInMs: SHORT_RETRY_MS, delivered: undefined }
    case 'notApplicable':
      return person('needs_attention', 'notApplicable')
    case 'ambiguous':
      return person('rejected', 'ambiguous')
    default:
      return later(readable(parsed.data.message) ?? parsed.data.status)
  }
}

/** A few words of an adapter's, without what Postgres can't keep. */
const readable = (text: string | null | undefined) => text?.slice(0, 200).replaceAll(/[\0\p{Cs}]/gu, '')
