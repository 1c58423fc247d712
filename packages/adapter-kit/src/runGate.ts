import { createHash } from 'node:crypto'
import type { FulfillmentRequest, FulfillmentStatus, LineResult } from '@market/contracts/fulfillment'
import type { Failpoint } from '@market/kit/failpoint'
import { type Generated, type Kysely, sql } from 'kysely'
import { inTransaction } from '@market/kit/db'
import { ConflictError, InvalidError, messageOf } from '@market/kit/errors'
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

/** Old callers send no key; theirs is the triple the older adapters locked on (fulfilment.md 10). */
export function runKeyOf(chainId: number, seller: string, request: FulfillmentRequest, header: string | undefined): string {
  return header ?? request.idempotencyKey ?? `${chainId}:${seller}:${request.paymentReference}`
}

/** What must be equal for a repeated key to mean the same request. */
function hashRequest(chainId: number, seller: string, request: FulfillmentRequest): string {
  const { orderId, paymentReference, items, trigger } = request
  return createHash('sha256')
    .update(JSON.stringify([chainId, seller, orderId, paymentReference, trigger, items.map((i) => [i.sku, i.quantity])]))
    .digest('hex')
}

/**
 * Runs the adapter's delivery once per key (fulfilment.md 10, 14; adapters.md 11). A finished run answers from its stored
 * reply; one that could deliver only a part, or nothing yet, runs again and takes up where it left off. Delivery and reply
 * commit together, so no crash can separate a code from the answer that carries it.
 *
 * @throws ConflictError the key was used for another request
 * @throws InvalidError a quantity over the adapter's limit
 */
export async function runOnce<DB extends RunsDatabase, Mapping>(
  adapter: Adapter<DB, Mapping>,
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
      const lock = await sql<{ free: boolean }>`
        select pg_try_advisory_xact_lock(hashtextextended(${run.key}, 0)) as free`.execute(tx)
      if (!lock.rows[0]?.free) {
        return { httpStatus: 202, body: reply(adapter, run, 'inProgress', [], { message: 'Already in progress' }) }
      }
      const earlier = await tx
        .selectFrom('fulfillment_runs')
        .select(['status', 'response', 'request_hash'])
        .where('run_key', '=', run.key)
        .executeTakeFirst()
      if (earlier && earlier.request_hash !== requestHash) {
        throw new ConflictError('idempotency_key_reused', 'This idempotency key was used for another request')
      }
      if (earlier?.status === 'ok' && earlier.response) {
        return { httpStatus: 200, body: { ...earlier.response, message: 'Already processed' } }
      }
      await startRun(tx, run, requestHash)

      const { status, lines, body } = await deliver(adapter, tx as never, run, request)
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
    if (!(error instanceof ConflictError) && !(error instanceof InvalidError)) await recordFailure(db, run, requestHash, error)
    throw error
  }
}

async function deliver<DB extends RunsDatabase, Mapping>(
  adapter: Adapter<DB, Mapping>,
  tx: Parameters<Adapter<DB, Mapping>['fulfill']>[0],
  run: Run,
  request: FulfillmentRequest,
): Promise<{ status: FulfillmentStatus; lines: LineResult[]; body: Record<string, unknown> }> {
  const items = request.items.map((item, i) => ({ ...item, lineIndex: request.lineIndexes?.[i] ?? i }))
  if (items.some((item) => item.quantity > adapter.maxQuantity)) {
    throw new InvalidError('quantity_limit', `Requested quantity exceeds limit (max ${adapter.maxQuantity})`)
  }
  const skus = [...new Set(items.map((item) => item.sku))]
  const mappings = await adapter.findMappings(tx, run.chainId, run.seller, skus)
  const mapped: Line<Mapping>[] = []
  const notMapped: LineResult[] = []
  for (const item of items) {
    const mapping = mappings.get(item.sku)
    if (mapping === undefined) notMapped.push({ ...item, status: 'notMapped', message: 'No mapping for seller/sku' })
    else mapped.push({ ...item, mapping })
  }
  if (mapped.length === 0) {
    return { status: 'notApplicable', lines: notMapped, body: { message: 'No items mapped to this adapter', codes: [] } }
  }
  const delivery = await adapter.fulfill(tx, run, mapped)
  const lines = [...delivery.lines, ...notMapped].sort((a, b) => a.lineIndex - b.lineIndex)
  return { status: overall(lines), lines, body: delivery.body }
}

function overall(lines: LineResult[]): FulfillmentStatus {
  const done = lines.filter((line) => line.status === 'ok').length
  if (done === lines.length) return 'ok'
  if (done > 0) return 'partial'
  return lines.some((line) => line.status === 'depleted') ? 'depleted' : 'error'
}

function reply<DB extends RunsDatabase, Mapping>(
  adapter: Adapter<DB, Mapping>,
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
    message: null,
    lines,
    ...body,
  }
}

async function startRun(db: Kysely<RunsDatabase>, run: Run, requestHash: string) {
  await db
    .insertInto('fulfillment_runs')
    .values({
      run_key: run.key,
      chain_id: run.chainId,
      seller_address: run.seller,
      payment_reference: run.paymentReference,
      order_id: run.orderId,
      request_hash: requestHash,
      status: 'started',
      response: null,
      last_error: null,
      completed_at: null,
    })
    .onConflict((conflict) =>
      conflict.column('run_key').doUpdateSet({
        status: 'started',
        attempts: sql`fulfillment_runs.attempts + 1`,
        updated_at: sql`now()`,
      }),
    )
    .execute()
}

/** The failed transaction left no trace of itself; this row is what an operator finds. */
async function recordFailure(db: Kysely<RunsDatabase>, run: Run, requestHash: string, error: unknown) {
  try {
    await inTransaction(db, async (tx) => {
      await startRun(tx, run, requestHash)
      await tx
        .updateTable('fulfillment_runs')
        .set({ status: 'error', last_error: messageOf(error).slice(0, 2000) })
        .where('run_key', '=', run.key)
        .where('status', '=', 'started')
        .execute()
    })
  } catch {
    // The database itself is the trouble; the caller gets the first error and comes again.
  }
}
