import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { FulfillmentRequest, FulfillmentStatus, LineResult } from '@market/contracts/fulfillment'
import { inTransaction } from '@market/kit/db'
import { ConflictError, InvalidError, messageOf } from '@market/kit/errors'
import type { Failpoint } from '@market/kit/failpoint'
import { LeaseLostError } from '@market/kit/lease'
import type { Log } from '@market/kit/log'
import { withTimeout } from '@market/kit/timeout'
import { type Generated, type Kysely, type Selectable, sql, type Transaction } from 'kysely'
import type { Delivery, Line, Run } from './adapter.ts'
import type { SecretBox } from './secrets.ts'
import { bySteps, LEASE_MS, type RunLease, type RunsUnderWay, type StepResult } from './steps.ts'

export type RunsDatabase = {
  fulfillment_runs: {
    run_key: string
    chain_id: string | number
    seller_address: string
    payment_reference: string
    order_id: string
    request_hash: string
    status: 'started' | 'ok' | 'partial' | 'waiting' | 'error'
    /** Of versions that did not seal; when there is one, it is the newer of the two. */
    response: Record<string, unknown> | null
    sealed_response: string | null
    attempts: Generated<number>
    /** A run by steps is somebody's until then. */
    lease_until: Date | null
    last_error: string | null
    created_at: Generated<Date>
    updated_at: Generated<Date>
    completed_at: Date | null
  }
  fulfillment_run_steps: { run_key: string; step: string; result: StepResult; at: Generated<Date> }
}

/** What a run needs besides its request. */
export type Gate<DB extends RunsDatabase, Mapping, Result extends LineResult> = {
  adapter: { resultType: string; maxQuantity: number }
  delivery: Delivery<DB, Mapping, Result>
  db: Kysely<DB>
  secrets: SecretBox
  log: Log
  failpoint: Failpoint
  /** Where runs by steps are followed that nobody waits for any more. */
  runs: RunsUnderWay
  /** Of the work of a run by steps (`FULFILL_BUDGET_MS`). */
  budgetMs: number
  /** How long a caller waits for a run by steps before it is told to come again. As long as the budget when that is less. */
  waitMs?: number
  /** 15 s; tests have less patience. */
  leaseMs?: number
  /** Told of each run that was worked on, when it ends. */
  onEnd?: (seconds: number) => void
  /** Begins runs that come at one moment together; `createTogether`. */
  together?: (run: Run, requestHash: string) => Promise<Begun<Mapping, Result>>
}

export type Answer = { httpStatus: 200 | 202; body: Record<string, unknown> }

const CONTEXT = ['https://schema.org/', 'https://aboutcircles.com/contexts/circles-market/']
const MAX_KEY_LENGTH = 255

/**
 * The header, else the body's member. Old callers send neither; theirs is the triple the older adapters locked on
 * (fulfilment.md 10).
 *
 * @throws InvalidError the key is too long to be one
 */
export function runKeyOf(
  chainId: number,
  seller: string,
  request: FulfillmentRequest,
  header: string | undefined,
): string {
  const key = header?.trim() || request.idempotencyKey || `${chainId}:${seller}:${request.paymentReference}`
  if (key.length > MAX_KEY_LENGTH) {
    throw new InvalidError('invalid_idempotency_key', `The idempotency key exceeds ${MAX_KEY_LENGTH} characters`)
  }
  return key
}

/**
 * What must be equal for a repeated key to mean the same request. Names, addresses and contacts aren't in it: they say where to,
 * not what. A caller may send them corrected, or no longer have them, and what was delivered must be replayed all the same; and
 * of personal data not even a digest should outlive its purpose.
 */
function hashRequest(chainId: number, seller: string, request: FulfillmentRequest): string {
  const { orderId, paymentReference, trigger, buyer } = request
  const items = itemsOf(request).map((item) => [item.lineIndex, item.sku, item.quantity])
  return createHash('sha256')
    .update(JSON.stringify([chainId, seller, orderId, paymentReference, trigger, buyer?.toLowerCase() ?? null, items]))
    .digest('hex')
}

const itemsOf = ({ items, lineIndexes }: FulfillmentRequest) =>
  items.map((item, i) => ({ ...item, lineIndex: lineIndexes?.[i] ?? i })).toSorted((a, b) => a.lineIndex - b.lineIndex)

/** How long the end of a run by steps is tried to be written while Postgres doesn't answer. */
const TERMINAL_MS = 15_000
const TERMINAL_PAUSE_MS = 250
const DEFAULT_WAIT_MS = 30_000

/**
 * Runs the adapter's delivery once per key (fulfilment.md 10, 14; adapters.md 11). A finished run answers from its stored
 * reply; one that could deliver only a part, or nothing yet, runs again for what is missing.
 *
 * Delivered in the database, delivery and reply commit together, so no crash can separate a code from the answer that carries
 * it. Delivered by steps, the run is held by a lease, goes on without its caller, and ends with a reply or an error whatever
 * happens; a caller who would have to wait too long is told 202 and comes again.
 *
 * @throws ConflictError the key was used for another request
 * @throws InvalidError a quantity over the adapter's limit
 */
export async function runOnce<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  gate: Gate<DB, Mapping, Result>,
  run: Run,
): Promise<Answer> {
  const started = performance.now()
  const ended = () => gate.onEnd?.((performance.now() - started) / 1000)
  const requestHash = hashRequest(run.chainId, run.seller, run.request)
  let begun: Begun<Mapping, Result>
  try {
    begun = await (gate.together?.(run, requestHash) ?? beginAlone(gate, run, requestHash))
  } catch (error) {
    if (!(error instanceof ConflictError) && !(error instanceof InvalidError)) {
      await recordFailure(runsOf(gate.db), run, requestHash, error)
      ended()
    }
    throw error
  }
  if ('lease' in begun) return followSteps(gate, run, begun, ended)
  if (begun.worked) ended()
  return begun.answer
}

/** The gate knows only the kit's own tables; the adapter sees its whole schema. */
export const runsOf = (db: Kysely<any>) => db as Kysely<RunsDatabase>

/** An answer already, or what is left to do outside. */
export type Begun<Mapping, Result> =
  { answer: Answer; worked: boolean } | { lease: RunLease; plan: Plan<Mapping, Result> }

export const beginAlone = <DB extends RunsDatabase, Mapping, Result extends LineResult>(
  gate: Gate<DB, Mapping, Result>,
  run: Run,
  requestHash: string,
) => inTransaction(runsOf(gate.db), (tx) => begin(gate, tx, run, requestHash))

async function begin<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  gate: Gate<DB, Mapping, Result>,
  tx: Transaction<RunsDatabase>,
  run: Run,
  requestHash: string,
): Promise<Begun<Mapping, Result>> {
  const { delivery, secrets, failpoint } = gate
  const leaseMs = 'fulfillBySteps' in delivery ? (gate.leaseMs ?? LEASE_MS) : null
  const [earlier] = await beginRuns(tx, [{ run, requestHash }], leaseMs)
  const answer = answerOf(gate, run, earlier!)
  if (answer) return { answer, worked: false }
  const before = deliveredBefore<Result>(secrets, run.key, earlier!)
  const skus = skusToFind(run, before)
  const mappings = await delivery.findMappings(tx as never, run.chainId, run.seller, skus)
  const plan = planLines(gate, run, before, mappings)
  const attempt = earlier!.attempt!
  if (leaseMs !== null && plan.mapped.length > 0) return { lease: { runKey: run.key, attempt, leaseMs }, plan }
  const results =
    'fulfill' in delivery && plan.mapped.length > 0 ? await delivery.fulfill(tx as never, run, plan.mapped) : []
  const body = replyOf(gate, run, plan, results)
  failpoint('adapter.delivered')
  await storeAnswer(tx, secrets, run.key, attempt, body)
  return { answer: { httpStatus: 200, body }, worked: true }
}

/**
 * What can be said of a run without working on it; undefined when it is ours.
 *
 * @throws ConflictError the key was used for another request
 */
export function answerOf<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  { adapter, secrets }: Gate<DB, Mapping, Result>,
  run: Run,
  earlier: Earlier,
): Answer | undefined {
  if (earlier.outcome === 'anotherRequest') {
    throw new ConflictError('idempotency_key_reused', 'This idempotency key was used for another request')
  }
  if (earlier.outcome === 'underWay') return inProgress(adapter, run, 'Already in progress')
  if (earlier.outcome === 'mine') return undefined
  return { httpStatus: 200, body: { ...openAnswer(secrets, run.key, earlier), message: 'Already processed' } }
}

/** The lines that earlier rounds of a run have delivered. */
export const deliveredBefore = <Result extends LineResult>(
  secrets: SecretBox,
  key: string,
  earlier: Earlier,
): Result[] => ((openAnswer(secrets, key, earlier)?.lines ?? []) as Result[]).filter(isDelivered)

/** Waits for a run by steps as long as a caller should have to. The run goes on when nobody waits. */
async function followSteps<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  gate: Gate<DB, Mapping, Result>,
  run: Run,
  begun: { lease: RunLease; plan: Plan<Mapping, Result> },
  ended: () => void,
): Promise<Answer> {
  const { adapter, runs, budgetMs, waitMs = DEFAULT_WAIT_MS } = gate
  const working = workBySteps(gate, run, begun)
    .finally(ended)
    .then(
      (answer) => ({ answer }),
      (error: unknown) => ({ error }),
    )
  runs.follow(working)
  // It never rejects, so what is caught is that the time is up.
  const end = await withTimeout(working, Math.min(waitMs, budgetMs)).catch(() => undefined)
  if (!end) return inProgress(adapter, run, 'Still in progress')
  if ('error' in end) throw end.error
  return end.answer
}

/** Everything after the run was taken: it ends `ok`, `partial`, `waiting` or `error`, unless another process has taken it over. */
async function workBySteps<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  gate: Gate<DB, Mapping, Result>,
  run: Run,
  { lease, plan }: { lease: RunLease; plan: Plan<Mapping, Result> },
): Promise<Answer> {
  const { adapter, delivery, secrets, budgetMs, failpoint, log, runs } = gate
  const db = runsOf(gate.db)
  const fields = { orderId: run.orderId, runKey: run.key, attempt: lease.attempt }
  try {
    if (!('fulfillBySteps' in delivery)) throw new Error('an adapter that delivers in its database has no steps')
    const results = await bySteps({ db, lease, budgetMs, stop: runs.stop, failpoint }, (steps) =>
      delivery.fulfillBySteps(steps, run, plan.mapped),
    )
    const body = replyOf(gate, run, plan, results)
    failpoint('adapter.delivered')
    await insist(() => storeAnswer(db, secrets, run.key, lease.attempt, body))
    return { httpStatus: 200, body }
  } catch (error) {
    if (error instanceof LeaseLostError) {
      log.warn(fields, 'run was taken over while it was worked on; its new holder answers')
      return inProgress(adapter, run, 'Already in progress')
    }
    log.error({ ...fields, err: error }, 'run failed')
    await insist(() => storeFailure(db, lease, error)).catch((failure: unknown) =>
      log.error({ ...fields, err: failure }, 'end of the run not recorded; it is taken over when its lease is over'),
    )
    throw error
  }
}

/** What happened outside must not be forgotten because Postgres was away for a moment. */
async function insist(write: () => Promise<void>): Promise<void> {
  const deadline = performance.now() + TERMINAL_MS
  for (;;) {
    try {
      return await write()
    } catch (error) {
      if (error instanceof LeaseLostError || performance.now() > deadline) throw error
      await delay(TERMINAL_PAUSE_MS)
    }
  }
}

const isDelivered = (line: LineResult) => line.status === 'ok'

/** `before`: the lines an earlier run delivered; they stay as they were told to the buyer. */
export type Plan<Mapping, Result> = { before: Result[]; mapped: Line<Mapping>[]; notMapped: LineResult[] }

const missingOf = (run: Run, before: LineResult[]) => {
  const done = new Set(before.map((line) => line.lineIndex))
  return itemsOf(run.request).filter((item) => !done.has(item.lineIndex))
}

export const skusToFind = (run: Run, before: LineResult[]) => [
  ...new Set(missingOf(run, before).map((item) => item.sku)),
]

/**
 * Finds what is missing, and who of it is ours.
 *
 * @throws InvalidError a quantity over the adapter's limit
 */
export function planLines<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  { adapter: { maxQuantity } }: Gate<DB, Mapping, Result>,
  run: Run,
  before: Result[],
  mappings: ReadonlyMap<string, Mapping>,
): Plan<Mapping, Result> {
  const missing = missingOf(run, before)
  const mapped: Line<Mapping>[] = []
  const notMapped: LineResult[] = []
  for (const item of missing) {
    const mapping = mappings.get(item.sku)
    if (mapping === undefined) notMapped.push({ ...item, status: 'notMapped', message: 'No mapping for seller/sku' })
    else mapped.push({ ...item, mapping })
  }
  for (const sku of new Set(missing.map((item) => item.sku))) {
    const quantity = mapped.filter((line) => line.sku === sku).reduce((sum, line) => sum + line.quantity, 0)
    if (quantity > maxQuantity) {
      throw new InvalidError('quantity_limit', `Requested quantity exceeds limit (max ${maxQuantity})`)
    }
  }
  return { before, mapped, notMapped }
}

/** What the adapter said of the lines it was asked for, with what was told before. */
export function replyOf<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  { adapter, delivery }: Gate<DB, Mapping, Result>,
  run: Run,
  { before, mapped, notMapped }: Plan<Mapping, Result>,
  fresh: Result[],
): Record<string, unknown> {
  const asked = mapped.map((line) => line.lineIndex)
  const told = fresh.map((line) => line.lineIndex).toSorted((a, b) => a - b)
  // A line that was forgotten would count as delivered.
  if (String(asked) !== String(told)) throw new Error(`the adapter was asked for lines ${asked}, and answered ${told}`)
  const results = [...before, ...fresh].toSorted(byLineIndex)
  const lines = [...results, ...notMapped].toSorted(byLineIndex)
  return reply(adapter, run, overall(lines), lines, delivery.summarize(results))
}

const byLineIndex = (a: LineResult, b: LineResult) => a.lineIndex - b.lineIndex

function overall(lines: LineResult[]): FulfillmentStatus {
  const all = (status: string) => lines.every((line) => line.status === status)
  const some = (status: string) => lines.some((line) => line.status === status)
  if (all('ok')) return 'ok'
  if (all('notMapped')) return 'notApplicable'
  if (some('ok')) return 'partial'
  return (['depleted', 'insufficientStock', 'ambiguous'] as const).find(some) ?? 'error'
}

const inProgress = (adapter: { resultType: string }, run: Run, message: string): Answer => ({
  httpStatus: 202,
  body: reply(adapter, run, 'inProgress', [], { message }),
})

/** Every answer has all of these members (fulfilment.md 8). */
function reply(
  adapter: { resultType: string },
  run: Run,
  status: FulfillmentStatus,
  lines: LineResult[],
  body: Record<string, unknown>,
): Record<string, unknown> {
  return {
    '@context': CONTEXT,
    '@type': adapter.resultType,
    status,
    orderId: run.orderId,
    paymentReference: run.paymentReference,
    seller: run.seller,
    sku: lines[0]?.sku ?? null,
    message: status === 'notApplicable' ? 'No items mapped to this adapter' : null,
    codes: [],
    lines,
    ...body,
  }
}

export type Earlier = {
  outcome: 'mine' | 'underWay' | 'finished' | 'anotherRequest'
  /** The number of ours. */
  attempt: number | null
} & StoredAnswer

/**
 * Decides in one call who has each of these runs, of different keys, and takes those that are free (kit_begin_run). The transaction
 * waits for nobody's lock longer than `lockTimeout`, in Postgres's own words; '0' = as long as a statement may.
 */
export async function beginRuns(
  tx: Transaction<RunsDatabase>,
  runs: readonly { run: Run; requestHash: string }[],
  leaseMs: number | null,
  lockTimeout = '0',
): Promise<Earlier[]> {
  const column = <T>(of: (run: Run) => T) => runs.map(({ run }) => of(run))
  const { rows } = await sql<Earlier>`
    select outcome, attempt, response, sealed_response, set_config('lock_timeout', ${lockTimeout}, true)
    from unnest(${column((run) => run.key)}::text[], ${column((run) => run.chainId)}::bigint[],
        ${column((run) => run.seller)}::text[], ${column((run) => run.paymentReference)}::text[],
        ${column((run) => run.orderId)}::text[], ${runs.map(({ requestHash }) => requestHash)}::text[])
      with ordinality as r (key, chain_id, seller, payment_reference, order_id, hash, n),
      lateral kit_begin_run(key, chain_id, seller, payment_reference, order_id, hash, ${leaseMs}) order by n`.execute(
    tx,
  )
  return rows
}

/** @throws LeaseLostError the run is another's, or has ended */
async function storeAnswer(
  db: Kysely<RunsDatabase>,
  secrets: SecretBox,
  key: string,
  attempt: number,
  body: Record<string, unknown>,
): Promise<void> {
  await storeAnswers(db, secrets, [{ key, attempt, body }])
}

/** @throws LeaseLostError one of the runs is another's, or has ended; in a transaction nothing is stored then */
export async function storeAnswers(
  db: Kysely<RunsDatabase>,
  secrets: SecretBox,
  answers: readonly { key: string; attempt: number; body: Record<string, unknown> }[],
): Promise<void> {
  const statusOf = (body: Record<string, unknown>) =>
    body.status === 'ok' ? 'ok' : body.status === 'partial' ? 'partial' : 'waiting'
  const stored = await sql`
    update fulfillment_runs r set status = a.status, sealed_response = a.sealed, response = null, last_error = null,
      lease_until = null, updated_at = now(), completed_at = case when a.status = 'ok' then now() end
    from unnest(${answers.map(({ key }) => key)}::text[], ${answers.map(({ attempt }) => attempt)}::integer[],
      ${answers.map(({ body }) => statusOf(body))}::text[],
      ${answers.map(({ key, body }) => sealAnswer(secrets, key, body))}::text[]) as a (run_key, attempt, status, sealed)
    where r.run_key = a.run_key and r.attempts = a.attempt and r.status = 'started'`.execute(db)
  if (stored.numAffectedRows !== BigInt(answers.length)) {
    throw new LeaseLostError(`run ${answers.map(({ key }) => key).join(', ')} was taken over`)
  }
}

/** A text that Postgres takes, whatever the outside put into it. */
const lastError = (error: unknown) => messageOf(error).replaceAll('\0', '\ufffd').slice(0, 2000)

/** Nothing, when the run is another's. An earlier reply stays. */
async function storeFailure(db: Kysely<RunsDatabase>, { runKey, attempt }: RunLease, error: unknown): Promise<void> {
  await db
    .updateTable('fulfillment_runs')
    .set({ status: 'error', last_error: lastError(error), lease_until: null, updated_at: sql`now()` })
    .where('run_key', '=', runKey)
    .where('attempts', '=', attempt)
    .where('status', '=', 'started')
    .execute()
}

/**
 * The failed transaction left no trace of itself; this row is what an operator finds. It comes after the key was free for
 * a moment: when somebody else has the key or has finished meanwhile, theirs is the truth. An earlier reply stays.
 */
async function recordFailure(db: Kysely<RunsDatabase>, run: Run, requestHash: string, error: unknown) {
  const failure = { status: 'error' as const, last_error: lastError(error) }
  try {
    await inTransaction(db, async (tx) => {
      const { rows } = await sql<{ free: boolean }>`
        select pg_try_advisory_xact_lock(hashtextextended(${run.key}, 0)) as free`.execute(tx)
      if (!rows[0]!.free) return
      await tx
        .insertInto('fulfillment_runs')
        .values({
          run_key: run.key,
          chain_id: run.chainId,
          seller_address: run.seller,
          payment_reference: run.paymentReference,
          order_id: run.orderId,
          request_hash: requestHash,
          ...failure,
        })
        .onConflict((conflict) =>
          conflict
            .column('run_key')
            .doUpdateSet({ ...failure, attempts: sql`fulfillment_runs.attempts + 1`, updated_at: sql`now()` })
            .where('fulfillment_runs.status', 'not in', ['ok', 'started'])
            .where('fulfillment_runs.request_hash', '=', requestHash),
        )
        .execute()
    })
  } catch {
    // The database itself is the trouble; the caller gets the first error and comes again.
  }
}

type StoredAnswer = Pick<Selectable<RunsDatabase['fulfillment_runs']>, 'response' | 'sealed_response'>

const answerPlace = (key: string) => `fulfillment_runs.sealed_response/${key}`

const sealAnswer = (secrets: SecretBox, key: string, body: Record<string, unknown>) =>
  secrets.seal(JSON.stringify(body), answerPlace(key))

/** Undefined when nothing was answered yet. Throws `SecretsError` when it can't be opened. */
function openAnswer(secrets: SecretBox, key: string, stored: StoredAnswer): Record<string, unknown> | undefined {
  if (stored.response) return stored.response
  if (stored.sealed_response === null) return undefined
  return JSON.parse(secrets.open(stored.sealed_response, answerPlace(key))) as Record<string, unknown>
}

const SEAL_BATCH = 500

/**
 * Seals stored answers that lie readable, as versions before 0003_kit_run_leases left them, and seals anew those whose key is on
 * its way out. `serveAdapter` calls it at every start, after the migrations; while other processes work, and again, it does no
 * harm. Returns how many it sealed. After a start with a new first key of `ADAPTER_SECRETS_KEY`, and when no process with the
 * old order is left, one more start makes sure that nothing needs the old key.
 *
 * @throws SecretsError an answer was sealed by a key that is no longer in `ADAPTER_SECRETS_KEY`
 */
export async function sealStoredAnswers<DB extends RunsDatabase>(db: Kysely<DB>, secrets: SecretBox): Promise<number> {
  const isStale = sql`(response is not null or split_part(sealed_response, ':', 2) <> ${secrets.keyId})`
  // Most starts find nothing, and one look from front to back is much cheaper than the walk in the order of keys.
  const { rows: some } = await sql`select 1 from fulfillment_runs where ${isStale} limit 1`.execute(db)
  if (some.length === 0) return 0
  let sealed = 0
  for (let after = ''; ;) {
    const { rows } = await sql<StoredAnswer & { run_key: string; version: string }>`
      select run_key, response, sealed_response, xmin::text as version from fulfillment_runs
      where run_key > ${after} and ${isStale} order by run_key limit ${SEAL_BATCH}`.execute(db)
    const fresh = rows.map((row) => sealAnswer(secrets, row.run_key, openAnswer(secrets, row.run_key, row)!))
    // A row that changed meanwhile has an answer of its own, which its writer sealed.
    const updated = await sql`
      update fulfillment_runs r set sealed_response = f.sealed, response = null
      from unnest(${rows.map((row) => row.run_key)}::text[], ${rows.map((row) => row.version)}::text[], ${fresh}::text[])
        as f(run_key, version, sealed)
      where r.run_key = f.run_key and r.xmin::text = f.version`.execute(db)
    sealed += Number(updated.numAffectedRows)
    if (rows.length < SEAL_BATCH) return sealed
    after = rows.at(-1)!.run_key
  }
}
