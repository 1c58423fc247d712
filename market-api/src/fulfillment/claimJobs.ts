import { type Selectable, sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import type { Lanes } from './lanes.ts'

export type Job = Selectable<MarketDatabase['fulfillment_jobs']>

/**
 * A worker's hold on its job, renewed while the adapter works, so that a dead worker's job waits seconds and not for the
 * longest call. Two workers on one job, should one be that slow, do no harm: the idempotency key is the same.
 */
const HOLD_SECONDS = 4
export const RENEW_MS = 1300

/** Due jobs that are looked at for each that is wanted, so that a lane that is full doesn't hide the others. */
const LOOK_AHEAD = 8

const inSeconds = (seconds: number) => sql<Date>`now() + make_interval(secs => ${seconds})`

/**
 * Takes up to `count` due jobs, those first that wait longest, of each lane no more than it has room for. A worker that dies
 * leaves them held until `locked_until`; the next asks with the same idempotency keys. `isContended`: another worker was at some
 * that were wanted, and there may be more behind them; `hasMore`: there are.
 */
export async function claimJobs(
  ctx: MarketContext,
  count: number,
  lanes: Lanes,
): Promise<{ jobs: Job[]; isContended: boolean; hasMore: boolean }> {
  const full = (rooms: Map<string, number>) => [...rooms].flatMap(([name, room]) => (room === 0 ? [name] : []))
  const [rooms, adapterRooms] = [lanes.rooms(), lanes.adapterRooms()]
  const { rows } = await sql<Job & { wanted: string }>`
    with due as (
      select * from due_jobs(${full(adapterRooms)}::text[], ${full(rooms)}::text[], ${count * LOOK_AHEAD})
    ), placed as (
      select *, row_number() over (partition by lane order by next_attempt_at, job_id) as place from due
    ), of_lane as (
      select placed.*, row_number() over (partition by offer_type order by next_attempt_at, job_id) as adapter_place
      from placed left join unnest(${[...rooms.keys()]}::text[], ${[...rooms.values()]}::integer[])
        as limited (lane, room) using (lane)
      where place <= coalesce(room, ${lanes.limits.seller})
    ), fair as (
      select job_id
      from of_lane left join unnest(${[...adapterRooms.keys()]}::text[], ${[...adapterRooms.values()]}::integer[])
        as limited (offer_type, room) using (offer_type)
      where adapter_place <= coalesce(room, ${lanes.limits.adapter})
    ), free as (
      -- As arrays: for a join the planner reads the whole table, while it is small, and whatever updates have left in it.
      select job_id from fulfillment_jobs where job_id = any(array(select job_id from fair)) and next_attempt_at <= now()
      order by next_attempt_at + interval '0' limit ${count} for update skip locked
    ), claimed as (
      update fulfillment_jobs set status = 'running', attempts = attempts + 1, locked_by = ${ctx.instance},
        locked_until = ${inSeconds(HOLD_SECONDS)},
        -- The moment another worker may take it over: a lost worker's job is due again by itself.
        next_attempt_at = ${inSeconds(HOLD_SECONDS)}, updated_at = now()
      where job_id = any(array(select job_id from free)) returning *
    )
    select claimed.*, wanted from (select count(*) as wanted from fair) as f left join claimed on true`.execute(ctx.db)
  const jobs = rows.filter(({ job_id }) => job_id !== null)
  const wanted = Number(rows[0]!.wanted)
  return { jobs, isContended: jobs.length < Math.min(count, wanted), hasMore: jobs.length < wanted }
}

/** Keeps what is held from being taken over. */
export async function renewHolds(ctx: MarketContext, jobs: readonly Job[]): Promise<void> {
  await sql`
    update fulfillment_jobs j set locked_until = ${inSeconds(HOLD_SECONDS)}, next_attempt_at = ${inSeconds(HOLD_SECONDS)}
    from unnest(${jobs.map((job) => job.job_id)}::uuid[], ${jobs.map((job) => job.attempts)}::integer[])
      as held (job_id, attempts)
    where j.job_id = held.job_id and j.attempts = held.attempts and j.status = 'running'`.execute(ctx.db)
}

const PUT_OFF_AT_ONCE = 1000

/**
 * Puts off what is due of a lane whose circuit is open: it waits without using up its attempts, and out of the way of the others.
 * Not all at one moment afterwards, for the sake of whoever has just come back.
 */
export async function putOff(
  ctx: MarketContext,
  { seller_address, offer_type }: Pick<Job, 'seller_address' | 'offer_type'>,
  pauseMs: number,
): Promise<void> {
  for (;;) {
    const { numAffectedRows } = await sql`
      update fulfillment_jobs set next_attempt_at = now() + make_interval(secs => ${pauseMs / 1000} * (1 + random() / 5))
      where job_id in (
        select job_id from fulfillment_jobs
        where next_attempt_at <= now() and seller_address = ${seller_address} and offer_type = ${offer_type}
          and status <> 'running'
        limit ${PUT_OFF_AT_ONCE} for update skip locked)`.execute(ctx.db)
    if (Number(numAffectedRows ?? 0) < PUT_OFF_AT_ONCE) return
  }
}
