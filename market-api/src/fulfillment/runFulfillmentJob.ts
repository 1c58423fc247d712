import { parseEip155Id } from '@market/contracts/address'
import { inTransaction } from '@market/kit/db'
import { type Selectable, sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import { settleReservations } from '../serviceRoutes/reservations.ts'
import { findRoutes, routeKey } from '../serviceRoutes/resolveRoute.ts'
import type { FulfillmentCall } from '../serviceRoutes/adapterClient.ts'
import { type JobOutcome, outcomeOf } from './outcome.ts'
import { UNROUTED } from './planJobs.ts'
import { tellCompletion } from './tellCompletion.ts'

type Job = Selectable<MarketDatabase['fulfillment_jobs']>

/**
 * A worker's hold on its job, renewed while the adapter works, so that a dead worker's job waits seconds and not for the
 * longest call. Two workers on one job, should one be that slow, do no harm: the idempotency key is the same.
 */
const LOCK_SECONDS = 4
const RENEW_MS = 1300

/**
 * Claims one due job, asks its adapter to deliver, and commits the outcome with what the buyer may see. False when none is due.
 * A worker that dies in between leaves the job locked until `locked_until`; the next asks with the same idempotency key.
 */
export async function runFulfillmentJob(ctx: MarketContext): Promise<boolean> {
  const job = await claimJob(ctx)
  if (!job) return false
  ctx.failpoint('fulfillment.claimed')
  const lines = await linesOf(ctx, job)
  const url = await fulfillmentUrl(ctx, job, lines)
  const call = url === undefined ? undefined : await callAdapter(ctx, job, url, await requestBody(ctx, job, lines))
  ctx.failpoint('fulfillment.answered')
  const outcome: JobOutcome = call
    ? outcomeOf(call, job.attempts, 0.8 + Math.random() * 0.4)
    : { status: 'needs_attention', reason: 'route_not_found', retryInMs: undefined, delivered: undefined }
  const stored = await storeOutcome(ctx, job, lines, call, outcome)
  if (!stored) {
    ctx.log.warn(
      { jobId: job.job_id },
      'job was taken over while its adapter answered; the other worker stores the answer',
    )
    return true
  }
  ctx.failpoint('fulfillment.stored')
  ctx.metrics.fulfillments.inc({ outcome: outcome.status === 'done' ? 'succeeded' : 'failed' })
  const fields = { jobId: job.job_id, orderId: job.order_id, offerType: job.offer_type, attempts: job.attempts }
  if (outcome.status === 'done') ctx.log.info(fields, 'fulfilled')
  else
    ctx.log.warn(
      { ...fields, status: outcome.status, reason: outcome.reason, retryInMs: outcome.retryInMs },
      'not fulfilled',
    )
  return true
}

async function claimJob(ctx: MarketContext): Promise<Job | undefined> {
  return ctx.db
    .updateTable('fulfillment_jobs')
    .set({
      status: 'running',
      attempts: sql`attempts + 1`,
      locked_by: ctx.instance,
      locked_until: inSeconds(LOCK_SECONDS),
      // The moment another worker may take it over: a lost worker's job is due again by itself.
      next_attempt_at: inSeconds(LOCK_SECONDS),
      updated_at: sql`now()`,
    })
    .where('job_id', '=', (is) =>
      is
        .selectFrom('fulfillment_jobs')
        .select('job_id')
        .where('next_attempt_at', '<=', sql<Date>`now()`)
        .orderBy('next_attempt_at')
        .limit(1)
        .forUpdate()
        .skipLocked(),
    )
    .returningAll()
    .executeTakeFirst()
}

const inSeconds = (seconds: number) => sql<Date>`now() + make_interval(secs => ${seconds})`

async function callAdapter(ctx: MarketContext, job: Job, url: string, body: object): Promise<FulfillmentCall> {
  const renewing = setInterval(() => {
    ctx.db
      .updateTable('fulfillment_jobs')
      .set({ locked_until: inSeconds(LOCK_SECONDS), next_attempt_at: inSeconds(LOCK_SECONDS) })
      .where('job_id', '=', job.job_id)
      .where('status', '=', 'running')
      .where('attempts', '=', job.attempts)
      .execute()
      .catch((error) => ctx.log.warn({ jobId: job.job_id, err: error }, 'hold on the job not renewed'))
  }, RENEW_MS)
  try {
    return await ctx.adapters.fulfill(url, job.idempotency_key, body)
  } finally {
    clearInterval(renewing)
  }
}

/**
 * Routes are looked up again at execution; the offer type stays what it was when the job was made. A job that had none
 * then takes the one its lines have got since, if that is one for all of them.
 */
async function fulfillmentUrl(ctx: MarketContext, job: Job, lines: Lines): Promise<string | undefined> {
  const chainId = Number(job.chain_id)
  const routes = await findRoutes(
    ctx,
    chainId,
    lines.map((line) => ({ seller: job.seller_address, sku: line.sku })),
  )
  const urls = lines.map((line) => {
    const route = routes.get(routeKey(job.seller_address, line.sku))
    return job.offer_type === UNROUTED || route?.offerType === job.offer_type ? route?.fulfillmentUrl : undefined
  })
  return new Set(urls).size === 1 ? urls[0] : undefined
}

type Lines = Awaited<ReturnType<typeof linesOf>>

const linesOf = (ctx: MarketContext, job: Job) =>
  ctx.db
    .selectFrom('order_lines')
    .select(['line_index', 'sku', 'quantity'])
    .where('order_id', '=', job.order_id)
    .where('line_index', 'in', job.line_indexes)
    .orderBy('line_index')
    .execute()

/** Only this job's lines, and of the buyer only what the offers of these lines ask for (fulfilment.md 7, F1). */
async function requestBody(ctx: MarketContext, job: Job, lines: Lines): Promise<object> {
  const { order_json: order } = await ctx.db
    .selectFrom('orders')
    .select('order_json')
    .where('order_id', '=', job.order_id)
    .executeTakeFirstOrThrow()
  const slots = new Set(lines.flatMap((line) => order.acceptedOffer[line.line_index]?.requiredSlots ?? []))
  const asks = (root: string) => [...slots].some((slot) => slot === root || slot.startsWith(`${root}.`))
  const { givenName, familyName } = order.customer
  const name = [givenName, familyName].filter((part) => part?.trim()).join(' ')
  return {
    orderId: job.order_id,
    paymentReference: order.paymentReference,
    buyer: parseEip155Id(order.customer['@id'])?.address ?? null,
    customer: asks('customer') ? { name: name || null, givenName, familyName } : null,
    shippingAddress: asks('shippingAddress') ? order.shippingAddress : null,
    billingAddress: asks('billingAddress') ? order.billingAddress : null,
    contactPoint: asks('contactPoint') ? order.customerContact : null,
    items: lines.map(({ sku, quantity }) => ({ sku, quantity })),
    lineIndexes: lines.map((line) => line.line_index),
    trigger: job.trigger,
    idempotencyKey: job.idempotency_key,
  }
}

/** False when the job is no longer ours; the worker that took it over will be told the same by the adapter. */
async function storeOutcome(
  ctx: MarketContext,
  job: Job,
  lines: Lines,
  call: FulfillmentCall | undefined,
  { status, reason, retryInMs, delivered }: JobOutcome,
): Promise<boolean> {
  return inTransaction(ctx.db, async (tx) => {
    const updated = await tx
      .updateTable('fulfillment_jobs')
      .set({
        status,
        reason,
        next_attempt_at: retryInMs === undefined ? null : inSeconds(retryInMs / 1000),
        locked_by: null,
        locked_until: null,
        last_http_status: call?.httpStatus ?? null,
        last_error: status === 'done' ? null : reason,
        ...(delivered ? { result: delivered } : {}),
        updated_at: sql`now()`,
        completed_at: status === 'done' ? sql`now()` : null,
      })
      .where('job_id', '=', job.job_id)
      .where('status', '=', 'running')
      .where('attempts', '=', job.attempts)
      .returning('job_id')
      .executeTakeFirst()
    if (!updated) return false
    if (status === 'done') {
      await settleReservations(
        tx,
        job.order_id,
        job.seller_address,
        lines.map(({ sku }) => sku),
      )
    }
    if (delivered) {
      await tx
        .insertInto('order_outbox')
        .values({ order_id: job.order_id, job_id: job.job_id, source: 'fulfillment', payload: delivered })
        .onConflict((conflict) => conflict.column('job_id').doUpdateSet({ payload: delivered }))
        .execute()
    }
    await tx
      .insertInto('fulfillment_job_events')
      .values({
        job_id: job.job_id,
        kind: 'attempted',
        detail: { attempt: job.attempts, status, reason, httpStatus: call?.httpStatus ?? null },
      })
      .execute()
    await tellCompletion(tx, job.order_id)
    return true
  })
}
