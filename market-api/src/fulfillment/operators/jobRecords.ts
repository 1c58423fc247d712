import { inTransaction } from '@market/kit/db'
import { type Kysely, type Selectable, sql, type Transaction } from 'kysely'
import type { MarketDatabase } from '../../db/types.ts'
import { TOLD } from '../jobView.ts'
import type { JobStatus } from '../outcome.ts'

// Jobs as they are on record, and what more than one of the operators' verbs asks of them.

export type Db = Kysely<MarketDatabase>

export class JobNotKnownError extends Error {}
/** The job is in no state for that; the message says which, and what can be done instead. */
export class JobRefusedError extends Error {}

export const JOB_STATUSES: readonly JobStatus[] = [
  'pending',
  'running',
  'done',
  'partial',
  'rejected',
  'failed',
  'needs_attention',
  'cancelled',
]
/** What waits for a person, or for stock that a person brings. */
export const WAITING: readonly JobStatus[] = ['needs_attention', 'partial', 'rejected', 'failed']

/** Who did it, and why; kept with the job for good. */
export type Act = { by: string; reason: string | null }

export type Changed = { jobId: string; orderId: string; result: 'updated' | 'unchanged' }

/** Of jobs `j`: a word of ours, `HTTP 503`, or `adapter_error`. What an adapter said may name a person, and no two are alike. */
export const reasonWord = sql<string | null>`case
  when j.reason is null or j.reason in (${sql.join([...TOLD].map((reason) => sql.lit(reason)))}) then j.reason
  when j.reason ~ '^HTTP [0-9]{3}' then substring(j.reason from '^HTTP [0-9]{3}')
  else 'adapter_error' end`

export type JobRow = Pick<
  Selectable<MarketDatabase['fulfillment_jobs']>,
  | 'job_id'
  | 'order_id'
  | 'chain_id'
  | 'seller_address'
  | 'offer_type'
  | 'trigger'
  | 'line_indexes'
  | 'status'
  | 'attempts'
  | 'next_attempt_at'
  | 'locked_until'
  | 'created_at'
  | 'updated_at'
> & { word: string | null }

/** Of jobs `j`, what `listedJob` reads. */
export const jobColumns = sql`j.job_id, j.order_id, j.chain_id, j.seller_address, j.offer_type, j.trigger, j.line_indexes,
  j.status, j.attempts, j.next_attempt_at, j.locked_until, j.created_at, j.updated_at, ${reasonWord} as word`

export type ListedJob = {
  jobId: string
  orderId: string
  chainId: number
  seller: string
  offerType: string
  trigger: string
  lineIndexes: number[]
  status: JobStatus
  /** See `reasonWord`. */
  reason: string | null
  attempts: number
  createdAt: Date
  updatedAt: Date
  /** When a worker takes it by itself; null = never. */
  nextAttemptAt: Date | null
  /** Until when the worker that has it is trusted to live. */
  lockedUntil: Date | null
}

export const listedJob = (row: JobRow): ListedJob => ({
  jobId: row.job_id,
  orderId: row.order_id,
  chainId: Number(row.chain_id),
  seller: row.seller_address,
  offerType: row.offer_type,
  trigger: row.trigger,
  lineIndexes: row.line_indexes,
  status: row.status,
  reason: row.word,
  attempts: row.attempts,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
  nextAttemptAt: row.next_attempt_at,
  lockedUntil: row.locked_until,
})

const LEAST_PREFIX = 4

/**
 * The id of the one job whose id begins so; blanks at the ends and dashes may be left out.
 *
 * @throws JobNotKnownError when there is none, or more than one
 */
export async function findJobId(db: Db, idOrPrefix: string): Promise<string> {
  const hex = idOrPrefix.trim().toLowerCase().replaceAll('-', '')
  if (!/^[0-9a-f]{1,32}$/.test(hex)) throw new JobNotKnownError(`not the id of a job: ${idOrPrefix}`)
  if (hex.length < LEAST_PREFIX) {
    throw new JobNotKnownError(`at least ${LEAST_PREFIX} digits of a job's id are needed (got: ${idOrPrefix})`)
  }
  // A range, so that the primary key finds it.
  const { rows } = await sql<{ job_id: string }>`
    select job_id from fulfillment_jobs
     where job_id between ${hex.padEnd(32, '0')}::uuid and ${hex.padEnd(32, 'f')}::uuid
     order by job_id limit 5`.execute(db)
  if (!rows[0]) throw new JobNotKnownError(`no job is known as ${idOrPrefix}`)
  if (rows.length > 1) {
    throw new JobNotKnownError(
      `more than one job begins with ${idOrPrefix}: ${rows.map(({ job_id }) => job_id).join(', ')}`,
    )
  }
  return rows[0].job_id
}

export type LockedJob = Selectable<MarketDatabase['fulfillment_jobs']> & {
  /** A worker has it and is not known to be dead. */
  isHeld: boolean
  /** The payment that its trigger waits for stands. */
  isPaid: boolean
}

/**
 * Does something to a job that nobody else can change meanwhile.
 *
 * @throws JobNotKnownError
 */
export async function withJob<T>(
  db: Db,
  idOrPrefix: string,
  work: (tx: Transaction<MarketDatabase>, job: LockedJob) => Promise<T>,
): Promise<T> {
  const jobId = await findJobId(db, idOrPrefix)
  return inTransaction(db, async (tx) => work(tx, await lockJob(tx, jobId)))
}

async function lockJob(tx: Transaction<MarketDatabase>, jobId: string): Promise<LockedJob> {
  // The order first, as settlement does: of two that each held one and wanted the other's, one would be shot.
  const { rows: orders } = await sql<{ paid: boolean; confirmed: boolean; complete: boolean }>`
    select payment_reverted_at is null and cancelled_at is null as paid, confirmed_at is not null as confirmed,
           finalized_at is not null as complete
      from orders where order_id = (select order_id from fulfillment_jobs where job_id = ${jobId}) for share`.execute(
    tx,
  )
  const job = await tx
    .selectFrom('fulfillment_jobs')
    .selectAll()
    // Not now(): it may have waited for its turn.
    .select(sql<boolean>`coalesce(locked_until > clock_timestamp(), false)`.as('isHeld'))
    .where('job_id', '=', jobId)
    .forUpdate()
    .executeTakeFirst()
  const order = orders[0]
  if (!job || !order) throw new JobNotKnownError(`no job is known as ${jobId}`)
  return { ...job, isPaid: order.paid && (job.trigger === 'confirmed' ? order.confirmed : order.complete) }
}

/** @throws JobRefusedError when a worker has the job in hand: its answer may come this moment */
export function assertNotHeld({ job_id, status, isHeld }: LockedJob): void {
  if (status === 'running' && isHeld) {
    throw new JobRefusedError(`${job_id} is being delivered this moment: say it again when that has ended`)
  }
}

export async function recordAct(
  tx: Transaction<MarketDatabase>,
  jobId: string,
  kind: 'retried' | 'cancelled',
  detail: Record<string, unknown>,
): Promise<void> {
  await tx.insertInto('fulfillment_job_events').values({ job_id: jobId, kind, detail }).execute()
}
