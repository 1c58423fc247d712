import { createHash } from 'node:crypto'
import type { FulfillmentRequest, FulfillmentStatus, LineResult } from '@market/contracts/fulfillment'
import { inTransaction } from '@market/kit/db'
import { ConflictError, InvalidError, messageOf } from '@market/kit/errors'
import type { Failpoint } from '@market/kit/failpoint'
import { type Generated, type Kysely, sql, type Transaction } from 'kysely'
import type { Adapter, Line, Run } from './adapter.ts'

export type RunsDatabase = {
  fulfillment_runs: {
    run_key: string
    chain_id: string | number
    seller_address: string
    payment_reference: string
    order_id: string
    request_hash: string
    status: 'started' | 'ok' | 'partial' | 'waiting' | 'error'
    response: Record<string, unknown> | null
    attempts: Generated<number>
    last_error: string | null
    created_at: Generated<Date>
    updated_at: Generated<Date>
    completed_at: Date | null
  }
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

/** What must be equal for a repeated key to mean the same request. */
function hashRequest(chainId: number, seller: string, request: FulfillmentRequest): string {
  const { orderId, paymentReference, trigger, buyer } = request
  const items = itemsOf(request).map((item) => [item.lineIndex, item.sku, item.quantity])
  return createHash('sha256')
    .update(JSON.stringify([chainId, seller, orderId, paymentReference, trigger, buyer?.toLowerCase() ?? null, items]))
    .digest('hex')
}

const itemsOf = ({ items, lineIndexes }: FulfillmentRequest) =>
  items.map((item, i) => ({ ...item, lineIndex: lineIndexes?.[i] ?? i })).toSorted((a, b) => a.lineIndex - b.lineIndex)

/**
 * Runs the adapter's delivery once per key (fulfilment.md 10, 14; adapters.md 11). A finished run answers from its stored
 * reply; one that could deliver only a part, or nothing yet, runs again for what is missing. Delivery and reply commit
 * together, so no crash can separate a code from the answer that carries it.
 *
 * @throws ConflictError the key was used for another request
 * @throws InvalidError a quantity over the adapter's limit
 */
export async function runOnce<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  adapter: Adapter<DB, Mapping, Result>,
  database: Kysely<DB>,
  failpoint: Failpoint,
  run: Run,
  request: FulfillmentRequest,
): Promise<Answer> {
  // The gate knows only the kit's own table; the adapter sees its whole schema.
  const db = database as unknown as Kysely<RunsDatabase>
  const requestHash = hashRequest(run.chainId, run.seller, request)
  try {
    return await inTransaction(db, async (tx) => {
      const free = await tryLockKey(tx, run.key)
      const earlier = await tx
        .selectFrom('fulfillment_runs')
        .select(['status', 'response', 'request_hash'])
        .where('run_key', '=', run.key)
        .executeTakeFirst()
      if (earlier && earlier.request_hash !== requestHash) {
        throw new ConflictError('idempotency_key_reused', 'This idempotency key was used for another request')
      }
      if (earlier?.status === 'ok') {
        return { httpStatus: 200, body: { ...earlier.response, message: 'Already processed' } }
      }
      if (!free) {
        return { httpStatus: 202, body: reply(adapter, run, 'inProgress', [], { message: 'Already in progress' }) }
      }
      await startRun(tx, run, requestHash)

      const before = (earlier?.response?.lines ?? []) as Result[]
      const { status, lines, body } = await deliver(adapter, tx as never, run, request, before.filter(isDelivered))
      const response = reply(adapter, run, status, lines, body)
      failpoint('adapter.delivered')
      await tx
        .updateTable('fulfillment_runs')
        .set({
          status: status === 'ok' ? 'ok' : status === 'partial' ? 'partial' : 'waiting',
          response,
          last_error: null,
          updated_at: sql`now()`,
          completed_at: status === 'ok' ? sql`now()` : null,
        })
        .where('run_key', '=', run.key)
        .execute()
      return { httpStatus: 200, body: response }
    })
  } catch (error) {
    if (!(error instanceof ConflictError) && !(error instanceof InvalidError))
      await recordFailure(db, run, requestHash, error)
    throw error
  }
}

/**
 * One transaction a key; false when another has it. Held until the transaction ends, so a dead process lets go by itself.
 * The time-outs are for the process that is neither dead nor alive: its machine is gone, or it waits for one whose is.
 */
async function tryLockKey(tx: Transaction<RunsDatabase>, key: string): Promise<boolean> {
  const { rows } = await sql<{ free: boolean }>`
    select pg_try_advisory_xact_lock(hashtextextended(${key}, 0)) as free,
      set_config('statement_timeout', '10s', true),
      set_config('idle_in_transaction_session_timeout', '30s', true)`.execute(tx)
  return rows[0]!.free
}

const isDelivered = (line: LineResult) => line.status === 'ok'

/** Delivers what is missing. `before`: the lines an earlier run delivered; they stay as they were told to the buyer. */
async function deliver<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  adapter: Adapter<DB, Mapping, Result>,
  tx: Transaction<DB>,
  run: Run,
  request: FulfillmentRequest,
  before: Result[],
): Promise<{ status: FulfillmentStatus; lines: LineResult[]; body: Record<string, unknown> }> {
  const done = new Set(before.map((line) => line.lineIndex))
  const missing = itemsOf(request).filter((item) => !done.has(item.lineIndex))
  const skus = [...new Set(missing.map((item) => item.sku))]
  const mappings = await adapter.findMappings(tx, run.chainId, run.seller, skus)
  const mapped: Line<Mapping>[] = []
  const notMapped: LineResult[] = []
  for (const item of missing) {
    const mapping = mappings.get(item.sku)
    if (mapping === undefined) notMapped.push({ ...item, status: 'notMapped', message: 'No mapping for seller/sku' })
    else mapped.push({ ...item, mapping })
  }
  for (const sku of skus) {
    const quantity = mapped.filter((line) => line.sku === sku).reduce((sum, line) => sum + line.quantity, 0)
    if (quantity > adapter.maxQuantity) {
      throw new InvalidError('quantity_limit', `Requested quantity exceeds limit (max ${adapter.maxQuantity})`)
    }
  }
  const results = [...before, ...(mapped.length > 0 ? await adapter.fulfill(tx, run, mapped) : [])].toSorted(
    byLineIndex,
  )
  const lines = [...results, ...notMapped].toSorted(byLineIndex)
  return { status: overall(lines), lines, body: adapter.summarize(results) }
}

const byLineIndex = (a: LineResult, b: LineResult) => a.lineIndex - b.lineIndex

function overall(lines: LineResult[]): FulfillmentStatus {
  const all = (status: string) => lines.every((line) => line.status === status)
  if (all('ok')) return 'ok'
  if (all('notMapped')) return 'notApplicable'
  if (lines.some(isDelivered)) return 'partial'
  return lines.some((line) => line.status === 'depleted') ? 'depleted' : 'error'
}

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

const newRun = (run: Run, requestHash: string) => ({
  run_key: run.key,
  chain_id: run.chainId,
  seller_address: run.seller,
  payment_reference: run.paymentReference,
  order_id: run.orderId,
  request_hash: requestHash,
  response: null,
  completed_at: null,
})

const anotherAttempt = { attempts: sql<number>`fulfillment_runs.attempts + 1`, updated_at: sql<Date>`now()` }

async function startRun(tx: Transaction<RunsDatabase>, run: Run, requestHash: string) {
  await tx
    .insertInto('fulfillment_runs')
    .values({ ...newRun(run, requestHash), status: 'started', last_error: null })
    .onConflict((conflict) => conflict.column('run_key').doUpdateSet({ status: 'started', ...anotherAttempt }))
    .execute()
}

/**
 * The failed transaction left no trace of itself; this row is what an operator finds. It comes after the key was free for
 * a moment: when somebody else has the key or has finished meanwhile, theirs is the truth. An earlier reply stays.
 */
async function recordFailure(db: Kysely<RunsDatabase>, run: Run, requestHash: string, error: unknown) {
  const failure = { status: 'error' as const, last_error: messageOf(error).slice(0, 2000) }
  try {
    await inTransaction(db, async (tx) => {
      if (!(await tryLockKey(tx, run.key))) return
      await tx
        .insertInto('fulfillment_runs')
        .values({ ...newRun(run, requestHash), ...failure })
        .onConflict((conflict) =>
          conflict
            .column('run_key')
            .doUpdateSet({ ...failure, ...anotherAttempt })
            .where('fulfillment_runs.status', '<>', 'ok')
            .where('fulfillment_runs.request_hash', '=', requestHash),
        )
        .execute()
    })
  } catch {
    // The database itself is the trouble; the caller gets the first error and comes again.
  }
}
