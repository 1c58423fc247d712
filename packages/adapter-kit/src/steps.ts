import { setMaxListeners } from 'node:events'
import type { Failpoint } from '@market/kit/failpoint'
import { LeaseLostError } from '@market/kit/lease'
import { TimeoutError } from '@market/kit/timeout'
import { type Kysely, sql } from 'kysely'
import type { RunsDatabase } from './runGate.ts'

/** What can be stored of a step: JSON, without `undefined` and without secrets. */
export type StepResult = null | string | number | boolean | StepResult[] | { [name: string]: StepResult }

/** The work of one run that leaves the database, step by step (adapters.md 11). */
export type Steps = {
  /**
   * Takes the step, stores what it gave, and gives that back; a step that is on record is not taken again, in no later attempt
   * of the run either. So what may turn out otherwise next time (stock, a price) is no step, and a step that is about some of
   * the lines has them in its name. One that died between its effect and its record is taken again: it has to look for its
   * effect first.
   *
   * @throws LeaseLostError another process has taken the run over; whatever the step throws
   */
  once<T extends StepResult>(name: string, work: () => Promise<T>): Promise<T>
  /** Aborted when the run's time is up or another process has it. */
  signal: AbortSignal
}

/** An attempt at a run and how long it stays ours unless renewed. `attempt` is the fence: who takes the run over raises it. */
export type RunLease = { runKey: string; attempt: number; leaseMs: number }

/** Long enough for a pause of the process, short enough that a dead one's run need not wait. */
export const LEASE_MS = 15_000
const RENEWALS_A_LEASE = 3

export type StepsOptions = {
  db: Kysely<RunsDatabase>
  lease: RunLease
  /** Then the signal is aborted; what is under way has one more lease to come to its end. */
  budgetMs: number
  /** Aborts the work as the budget does, at once. */
  stop: AbortSignal
  failpoint: Failpoint
}

/**
 * Does the work while it holds the run's lease, with nobody waiting for it. Ends when the work does; before that when the lease
 * is lost, or when the work doesn't end though its time is up. What it still does then, it can't record.
 *
 * @throws LeaseLostError another process has the run now
 * @throws TimeoutError the work went on after its budget
 */
export async function bySteps<T>(options: StepsOptions, work: (steps: Steps) => Promise<T>): Promise<T> {
  const { db, lease, budgetMs, failpoint } = options
  const ending = new AbortController()
  let giveUp = (_reason: Error) => {}
  const givenUp = new Promise<never>((_, reject) => (giveUp = reject))
  let heldUntil = performance.now() + lease.leaseMs

  const abandon = (reason: Error) => {
    ending.abort(reason)
    giveUp(reason)
  }
  const renew = async () => {
    const asked = performance.now()
    if (await renewLease(db, lease)) heldUntil = asked + lease.leaseMs
    else abandon(leaseLost(lease))
  }
  const renewing = setInterval(() => {
    // Postgres silent, or this process asleep: another may have the run without our having been told.
    if (performance.now() > heldUntil) abandon(leaseLost(lease))
    else renew().catch(() => {})
  }, lease.leaseMs / RENEWALS_A_LEASE)
  const late = new TimeoutError(`no end within ${budgetMs} ms`)
  const over = setTimeout(() => ending.abort(late), budgetMs)
  const tooLate = setTimeout(() => giveUp(late), budgetMs + lease.leaseMs)
  const stop = () => ending.abort(options.stop.reason)
  if (options.stop.aborted) stop()
  options.stop.addEventListener('abort', stop)

  try {
    return await Promise.race([
      work({ once: stepsOf(db, lease, ending.signal, failpoint), signal: ending.signal }),
      givenUp,
    ])
  } finally {
    clearInterval(renewing)
    clearTimeout(over)
    clearTimeout(tooLate)
    options.stop.removeEventListener('abort', stop)
    // Whatever the work left running learns that nobody will hear of it.
    ending.abort(new LeaseLostError(`run ${lease.runKey} has ended`))
  }
}

const leaseLost = ({ runKey }: RunLease) => new LeaseLostError(`run ${runKey} was taken over`)

function stepsOf(db: Kysely<RunsDatabase>, lease: RunLease, signal: AbortSignal, failpoint: Failpoint): Steps['once'] {
  const taken = new Map<string, Promise<StepResult>>()
  const take = async (name: string, work: () => Promise<StepResult>): Promise<StepResult> => {
    signal.throwIfAborted()
    const earlier = await findStep(db, lease, name)
    if (earlier) return earlier.result
    signal.throwIfAborted()
    const result = await work()
    failpoint('adapter.stepTaken')
    await storeStep(db, lease, name, result)
    failpoint('adapter.stepStored')
    return result
  }
  return <T extends StepResult>(name: string, work: () => Promise<T>) => {
    const known = taken.get(name)
    if (known) return known as Promise<T>
    const taking = take(name, work)
    taken.set(name, taking)
    taking.catch(() => taken.delete(name))
    return taking as Promise<T>
  }
}

const until = ({ leaseMs }: RunLease) => sql<Date>`clock_timestamp() + ${leaseMs} * interval '1 millisecond'`

async function renewLease(db: Kysely<RunsDatabase>, lease: RunLease): Promise<boolean> {
  const renewed = await sql`
    update fulfillment_runs set lease_until = ${until(lease)}
    where run_key = ${lease.runKey} and attempts = ${lease.attempt} and status = 'started'`.execute(db)
  return renewed.numAffectedRows === 1n
}

/** Looks a step up, and renews the lease with that: a step begins with the whole of it before it. */
async function findStep(
  db: Kysely<RunsDatabase>,
  lease: RunLease,
  name: string,
): Promise<{ result: StepResult } | undefined> {
  const { rows } = await sql<{ known: boolean; result: StepResult }>`
    with mine as (
      update fulfillment_runs set lease_until = ${until(lease)}
      where run_key = ${lease.runKey} and attempts = ${lease.attempt} and status = 'started'
      returning run_key
    )
    select step is not null as known, result
    from mine left join fulfillment_run_steps s on s.run_key = mine.run_key and s.step = ${name}`.execute(db)
  if (!rows[0]) throw leaseLost(lease)
  return rows[0].known ? rows[0] : undefined
}

/** Only while the run is still ours: a takeover waits for the row, or has happened. */
async function storeStep(db: Kysely<RunsDatabase>, lease: RunLease, name: string, result: StepResult): Promise<void> {
  const json = JSON.stringify(result)
  const stored = await sql`
    with mine as (
      select run_key from fulfillment_runs
      where run_key = ${lease.runKey} and attempts = ${lease.attempt} and status = 'started' for no key update
    )
    insert into fulfillment_run_steps (run_key, step, result) select run_key, ${name}, ${json}::json from mine`.execute(
    db,
  )
  if (stored.numAffectedRows !== 1n) throw leaseLost(lease)
}

/** Runs whose work goes on without their callers. */
export type RunsUnderWay = {
  /** Aborted when the process stops before they end. */
  stop: AbortSignal
  follow(run: Promise<unknown>): void
  /**
   * For the shutdown, after the last request and before the database is closed: waits until all runs have ended, at most `ms`,
   * then stops those that haven't and gives them a second to record that; they are `error` and run again when asked again.
   * One that doesn't stop keeps its lease: the next process has it when that is over. Never rejects.
   */
  drain(ms: number): Promise<void>
}

const STOPPING_MS = 1000

export function runsUnderWay(): RunsUnderWay {
  const runs = new Set<Promise<unknown>>()
  const stopping = new AbortController()
  setMaxListeners(0, stopping.signal)
  return {
    stop: stopping.signal,
    follow(run) {
      const ended = run.catch(() => {}).finally(() => runs.delete(ended))
      runs.add(ended)
    },
    async drain(ms) {
      await within(ms, Promise.all(runs))
      stopping.abort(new Error('the adapter was stopped'))
      await within(STOPPING_MS, Promise.all(runs))
    },
  }
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  await Promise.race([work, new Promise((resolve) => (timer = setTimeout(resolve, ms)))])
  clearTimeout(timer)
}
