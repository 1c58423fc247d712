import { type RawBuilder, sql } from 'kysely'
import {
  type Db,
  findJobId,
  jobColumns,
  JobNotKnownError,
  type JobRow,
  type ListedJob,
  listedJob,
} from './jobRecords.ts'

export type ShownLine = {
  lineIndex: number
  seller: string
  sku: string
  name: string | null
  quantity: number
  /** As it is now, switched off or not; null = there is none. */
  route: {
    offerType: string | null
    isOneOff: boolean
    enabled: boolean
    /** Of its offer type; null = it has none. */
    offerTypeEnabled: boolean | null
  } | null
}

/** One, or several in a row that differ in nothing but the attempt; `detail` is the last one's. */
export type JobEvent = { kind: string; detail: Record<string, unknown> | null; at: Date; until: Date; times: number }

/** `payload` without what was given, unless that was asked for. */
export type Given = { at: Date; source: string; payload: Record<string, unknown> }

export type ShownJob = ListedJob & {
  /** As the adapter or its network said it. */
  lastError: string | null
  lastHttpStatus: number | null
  completedAt: Date | null
  lines: ShownLine[]
  /** The first and the newest of very many. */
  events: JobEvent[]
  given: Given | null
}

export type OrderStanding = {
  orderId: string
  status: string
  confirmedAt: Date | null
  finalizedAt: Date | null
  cancelledAt: Date | null
  revertedAt: Date | null
}

export type ShownDelivery = {
  order: OrderStanding
  lines: ShownLine[]
  jobs: ShownJob[]
  /** Lines whose trigger has come and that no job delivers, or one that no worker comes to: there must be none (reconcileJobs.ts). */
  linesWithoutJob: ShownLine[]
}

const MAX_EVENTS = 500

/**
 * All that is known about one job.
 *
 * @param of.reveal what the buyer was given, codes and all; else only of what kind and how many
 * @throws JobNotKnownError
 */
export async function showJob(
  db: Db,
  idOrPrefix: string,
  { reveal = false }: { reveal?: boolean } = {},
): Promise<{ order: OrderStanding; job: ShownJob }> {
  const jobId = await findJobId(db, idOrPrefix)
  const [job] = await readJobs(db, sql`j.job_id = ${jobId}`, reveal)
  if (!job) throw new JobNotKnownError(`no job is known as ${idOrPrefix}`)
  return { order: await readStanding(db, job.orderId), job }
}

/** All that is known about the delivery of an order. @throws JobNotKnownError when there is no such order */
export async function showDelivery(
  db: Db,
  orderId: string,
  { reveal = false }: { reveal?: boolean } = {},
): Promise<ShownDelivery> {
  const order = await readStanding(db, orderId)
  const jobs = await readJobs(db, sql`j.order_id = ${orderId}`, reveal)
  const due = sql`case l.fulfillment_trigger when 'confirmed' then o.confirmed_at else o.finalized_at end is not null`
  const linesWithoutJob = await readLines(
    db,
    sql`l.order_id = ${orderId} and ${due} and o.cancelled_at is null and not exists (
      select from fulfillment_jobs j where j.order_id = l.order_id and l.line_index = any(j.line_indexes)
        and (j.status not in ('pending', 'running') or j.next_attempt_at is not null))`,
  )
  const lines = await readLines(db, sql`l.order_id = ${orderId}`)
  return { order, lines, jobs, linesWithoutJob }
}

async function readStanding(db: Db, orderId: string): Promise<OrderStanding> {
  const row = await db
    .selectFrom('orders')
    .select(['status', 'confirmed_at', 'finalized_at', 'cancelled_at', 'payment_reverted_at'])
    .where('order_id', '=', orderId)
    .executeTakeFirst()
  if (!row) throw new JobNotKnownError(`no order is known as ${orderId}`)
  return {
    orderId,
    status: row.status,
    confirmedAt: row.confirmed_at,
    finalizedAt: row.finalized_at,
    cancelledAt: row.cancelled_at,
    revertedAt: row.payment_reverted_at,
  }
}

/** Oldest first. @param where of jobs `j` */
async function readJobs(db: Db, where: RawBuilder<unknown>, reveal: boolean): Promise<ShownJob[]> {
  type Row = JobRow & { last_error: string | null; last_http_status: number | null; completed_at: Date | null }
  const { rows } = await sql<Row>`
    select ${jobColumns}, coalesce(j.last_error, j.reason) as last_error, j.last_http_status, j.completed_at
      from fulfillment_jobs j where ${where} order by j.created_at, j.job_id`.execute(db)
  const jobs: ShownJob[] = []
  for (const row of rows) {
    const lines = await readLines(db, sql`l.order_id = ${row.order_id}`)
    jobs.push({
      ...listedJob(row),
      lastError: row.last_error,
      lastHttpStatus: row.last_http_status,
      completedAt: row.completed_at,
      lines: lines.filter(({ lineIndex }) => row.line_indexes.includes(lineIndex)),
      events: await readEvents(db, row.job_id),
      given: await readGiven(db, row.job_id, reveal),
    })
  }
  return jobs
}

/** @param where of lines `l` and their orders `o` */
async function readLines(db: Db, where: RawBuilder<unknown>): Promise<ShownLine[]> {
  const { rows } = await sql<{
    line_index: number
    seller_address: string
    sku: string
    name: string | null
    quantity: number
    has_route: boolean
    offer_type: string | null
    is_one_off: boolean | null
    enabled: boolean | null
    offer_type_enabled: boolean | null
  }>`
    select l.line_index, l.seller_address, l.sku, l.quantity, r.sku is not null as has_route, r.offer_type, r.is_one_off,
           r.enabled, t.enabled as offer_type_enabled,
           o.order_json #>> array['orderedItem', l.line_index::text, 'orderedItem', 'name'] as name
      from order_lines l join orders o using (order_id)
      left join market_service_routes r
        on r.chain_id = o.chain_id and r.seller_address = l.seller_address and r.sku = lower(trim(l.sku))
      left join offer_types t on t.offer_type = r.offer_type
     where ${where} order by l.line_index`.execute(db)
  return rows.map((row) => ({
    lineIndex: row.line_index,
    seller: row.seller_address,
    sku: row.sku,
    name: row.name,
    quantity: row.quantity,
    route: row.has_route
      ? {
          offerType: row.offer_type,
          isOneOff: row.is_one_off === true,
          enabled: row.enabled === true,
          offerTypeEnabled: row.offer_type_enabled,
        }
      : null,
  }))
}

/** Runs of equal events as one: a job that waits for stock writes one a minute. */
async function readEvents(db: Db, jobId: string): Promise<JobEvent[]> {
  const { rows } = await sql<JobEvent>`
    select kind, (array_agg(detail order by id desc))[1] as detail, min(at) as at, max(at) as until, count(*)::int as times
      from (
        select id, kind, detail, at, row_number() over (order by id)
               - row_number() over (partition by kind, detail - 'attempt' order by id) as run
          from fulfillment_job_events where job_id = ${jobId}
      ) e
     group by kind, detail - 'attempt', run order by min(id)`.execute(db)
  return rows.length <= MAX_EVENTS ? rows : [rows[0]!, ...rows.slice(1 - MAX_EVENTS)]
}

async function readGiven(db: Db, jobId: string, reveal: boolean): Promise<Given | null> {
  const row = await db
    .selectFrom('order_outbox')
    .select(['created_at', 'source', 'payload'])
    .where('job_id', '=', jobId)
    .executeTakeFirst()
  if (!row) return null
  const payload = reveal ? row.payload : withoutGoods(row.payload)
  return { at: row.created_at, source: row.source, payload }
}

/** Words of the contract. Everything else may be a code, a link to the goods, or a word to the buyer alone. */
const HARMLESS = new Set(['@type', 'status', 'sku', 'seller', 'orderId', 'paymentReference'])

function withoutGoods(payload: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(payload)
      .filter(([name, value]) => name !== '@context' && value !== null)
      .map(([name, value]) => {
        if (HARMLESS.has(name) && typeof value === 'string') return [name, value]
        return [name, Array.isArray(value) ? `${value.length} not shown` : 'not shown']
      }),
  )
}
