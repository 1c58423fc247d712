import { type RawBuilder, sql } from 'kysely'
import { PAYMENT_REVERTED } from '../holdJobs.ts'
import type { JobStatus } from '../outcome.ts'
import { MANUAL } from '../planJobs.ts'
import {
  type Db,
  findJobId,
  jobColumns,
  JobNotKnownError,
  type JobRow,
  type ListedJob,
  listedJob,
  reasonWord,
  WAITING,
} from './jobRecords.ts'

export type JobFilter = {
  /** Those that wait for a person or for stock; else a status, else all. */
  waiting?: boolean
  /** Neither for a seller to hand over nor held because the payment is gone. */
  retryable?: boolean
  status?: JobStatus | undefined
  /** See `reasonWord`. */
  reason?: string | undefined
  seller?: string | undefined
  offerType?: string | undefined
  orderId?: string | undefined
  olderThanMinutes?: number | undefined
  chainId?: number | undefined
}

export type JobCount = { status: JobStatus; reason: string | null; jobs: number; oldestAt: Date }

/**
 * Jobs, newest first; and of those that are not at their end, whatever their status and reason, how many there are of each.
 *
 * @param of.after the last job of the page before
 * @returns `next` is the job to go on after
 * @throws JobNotKnownError when `after` is not a job
 */
export async function listJobs(
  db: Db,
  of: JobFilter & { limit: number; after?: string | undefined; oldestFirst?: boolean },
): Promise<{ counts: JobCount[]; jobs: ListedJob[]; next: string | undefined }> {
  const among = where(
    of.seller !== undefined && sql`j.seller_address = ${of.seller}`,
    of.offerType !== undefined && sql`j.offer_type = ${of.offerType}`,
    of.orderId !== undefined && sql`j.order_id = ${of.orderId}`,
    of.chainId !== undefined && sql`j.chain_id = ${of.chainId}`,
    of.olderThanMinutes !== undefined &&
      sql`j.created_at < now() - make_interval(mins => ${of.olderThanMinutes}::integer)`,
  )
  // Written out: the index of jobs that are not done serves only who says so.
  const counts = await sql<{ status: JobStatus; reason: string | null; jobs: number; oldest_at: Date }>`
    select j.status, ${reasonWord} as reason, count(*)::int as jobs, min(j.created_at) as oldest_at
      from fulfillment_jobs j where j.status <> 'done' and j.status <> 'cancelled' and ${among}
     group by 1, 2 order by 1, 3 desc, 2`.execute(db)

  const place = of.after === undefined ? undefined : await findPlace(db, of.after)
  const statuses = of.waiting ? WAITING : of.status === undefined ? undefined : [of.status]
  const direction = of.oldestFirst ? sql`asc` : sql`desc`
  const beyond = of.oldestFirst ? sql`>` : sql`<`
  const onPage = where(
    among,
    statuses !== undefined && sql`j.status in (${sql.join(statuses.map((status) => sql.lit(status)))})`,
    of.retryable === true && sql`j.offer_type <> ${MANUAL} and j.reason is distinct from ${PAYMENT_REVERTED}`,
    of.reason !== undefined && sql`${reasonWord} = ${of.reason}`,
    place !== undefined &&
      sql`(j.created_at, j.job_id) ${beyond} (${place.created_at}::timestamptz, ${place.job_id}::uuid)`,
  )
  const { rows } = await sql<JobRow>`
    select ${jobColumns} from fulfillment_jobs j where ${onPage}
     order by j.created_at ${direction}, j.job_id ${direction} limit ${of.limit + 1}`.execute(db)
  const jobs = rows.slice(0, of.limit).map(listedJob)
  return {
    counts: counts.rows.map(({ oldest_at, ...count }) => ({ ...count, oldestAt: oldest_at })),
    jobs,
    next: rows.length > of.limit ? jobs.at(-1)?.jobId : undefined,
  }
}

function where(...conditions: (RawBuilder<unknown> | false)[]): RawBuilder<unknown> {
  return sql.join([sql`true`, ...conditions.filter((condition) => condition !== false)], sql` and `)
}

/** As text: a Date would round, and a job at the edge would show twice or never. */
async function findPlace(db: Db, after: string) {
  const { rows } = await sql<{ job_id: string; created_at: string }>`
    select job_id, created_at::text from fulfillment_jobs where job_id = ${await findJobId(db, after)}`.execute(db)
  if (!rows[0]) throw new JobNotKnownError(`--after names a job that is not known: ${after}`)
  return rows[0]
}
