import { execFile } from 'node:child_process'
import { inTransaction } from '@market/kit/db'
import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startDispatcher } from '../src/fulfillment/dispatcher.ts'
import { holdJobs } from '../src/fulfillment/holdJobs.ts'
import { cancelJob } from '../src/fulfillment/operators/cancelJob.ts'
import { JobNotKnownError, JobRefusedError } from '../src/fulfillment/operators/jobRecords.ts'
import { listJobs } from '../src/fulfillment/operators/listJobs.ts'
import { resolveJob } from '../src/fulfillment/operators/resolveJob.ts'
import { retryJob } from '../src/fulfillment/operators/retryJob.ts'
import { showDelivery, showJob } from '../src/fulfillment/operators/showJob.ts'
import { wakeWaitingJobs } from '../src/fulfillment/operators/wakeWaitingJobs.ts'
import type { JobStatus } from '../src/fulfillment/outcome.ts'
import { stripDeliveredOrders } from '../src/privacy/purge.ts'
import type { FulfillmentCall } from '../src/serviceRoutes/adapterClient.ts'
import { openLevels, reserveForOrder } from '../src/serviceRoutes/reservations.ts'
import { BUYER, type Orders, PERSONAL, S1, S2, startOrders, type TestLine } from './orderWorld.ts'

const script = new URL('../../scripts/dist/ops.js', import.meta.url).pathname

const GIFT: TestLine = { seller: S1, sku: 'gift', name: 'Gift code', price: 5, quantity: 2 }
const PRINT: TestLine = { seller: S1, sku: 'print-1', name: 'Heron print', price: 40, isOneOff: true }
const MUG: TestLine = { seller: S2, sku: 'mug', name: 'Mug', price: 7.5 }
const LAMP: TestLine = { seller: S2, sku: 'lamp', name: 'Lamp', price: 30 }

let world: Orders
beforeAll(async () => {
  world = await startOrders({ ORDER_PERSONAL_DATA_DAYS: '1' })
  await world.route(S1, 'gift', 'codedispenser')
  await world.route(S1, 'print-1', null)
  await world.route(S2, 'mug', 'odoo')
})
afterAll(() => world.close())

beforeEach(async () => {
  await sql`truncate orders, order_lines, order_sellers, orders_status_history, order_events, order_event_audience,
    order_events_held, fulfillment_jobs, fulfillment_job_events, order_outbox, stock_reservations, stock_levels,
    one_off_sales cascade`.execute(world.db)
  await sql`delete from market_service_routes where sku = 'lamp'`.execute(world.db)
})

const ACT = { by: 'ada', reason: 'ticket 812' }

/** A complete order and the id of its only job. */
async function ordered(...lines: TestLine[]): Promise<{ orderId: string; jobId: string }> {
  const orderId = await world.place({ lines })
  await world.complete(orderId)
  const [job] = await world.jobs(orderId)
  return { orderId, jobId: job!.job_id }
}

async function put(jobId: string, set: Record<string, unknown>): Promise<void> {
  await world.db.updateTable('fulfillment_jobs').set(set).where('job_id', '=', jobId).execute()
}
const jobOf = (jobId: string) =>
  world.db.selectFrom('fulfillment_jobs').selectAll().where('job_id', '=', jobId).executeTakeFirstOrThrow()
const eventsOf = (jobId: string) =>
  world.db
    .selectFrom('fulfillment_job_events')
    .select(['kind', 'detail'])
    .where('job_id', '=', jobId)
    .orderBy('id')
    .execute()
const outboxOf = (jobId: string) =>
  world.db.selectFrom('order_outbox').select('payload').where('job_id', '=', jobId).execute()

/** A job that waits for a person, and has been tried. */
const waiting = (status: JobStatus = 'rejected', reason: string | null = 'HTTP 400', attempts = 3) => ({
  status,
  reason,
  attempts,
  next_attempt_at: null,
  locked_until: null,
  locked_by: null,
})
const held = (seconds: number) => ({
  status: 'running' as const,
  attempts: 1,
  locked_by: 'somebody',
  locked_until: sql`now() + make_interval(secs => ${seconds})`,
  next_attempt_at: sql`now() + make_interval(secs => ${seconds})`,
})

/** Pieces that an order holds of a stock, or null. */
const heldStock = async (orderId: string) =>
  (await world.db.selectFrom('stock_reservations').select('quantity').where('order_id', '=', orderId).execute()).reduce(
    (sum, { quantity }) => sum + quantity,
    0,
  )
const levels = async (sku: string) => {
  const { rows } = await sql<{ reserved: number; delivered: number }>`
    select sum(reserved)::int as reserved, sum(delivered)::int as delivered from stock_levels where sku = ${sku}`.execute(
    world.db,
  )
  return rows[0]!
}
async function reserve(orderId: string, ...lines: TestLine[]): Promise<void> {
  const stock = lines.map(({ seller, sku, quantity = 1 }, line) => {
    return { seller, sku, quantity, available: 100, deliveredBefore: 0n, isFirst: true, line }
  })
  await openLevels(world.db, 100, stock)
  await inTransaction(world.db, (tx) => reserveForOrder(tx, { orderId, chainId: 100 }, { stock, oneOffs: [] }))
}

/** Workers with an adapter that a test answers for; gives how often it was asked. */
async function withWorkers<T>(
  answer: (key: string) => Promise<FulfillmentCall> | FulfillmentCall,
  work: (calls: string[], wake: () => void) => Promise<T>,
): Promise<T> {
  const calls: string[] = []
  const real = world.ctx.adapters.fulfill
  world.ctx.adapters.fulfill = async (_url, key) => {
    calls.push(key)
    return answer(key)
  }
  const dispatcher = startDispatcher(world.ctx)
  try {
    return await work(calls, dispatcher.wake)
  } finally {
    await dispatcher.stop()
    world.ctx.adapters.fulfill = real
  }
}
const OK: FulfillmentCall = { kind: 'answered', httpStatus: 200, body: { status: 'ok', codes: ['ABC-123'] } }

describe('listJobs', () => {
  it('shows what waits, newest first, a page at a time, with how many there are of each kind', async () => {
    const made: string[] = []
    for (const [i, reason] of ['depleted', 'route_not_found', 'HTTP 400 ambiguous', 'ask Ada Lovelace'].entries()) {
      const { jobId } = await ordered(GIFT)
      await put(jobId, { ...waiting('needs_attention', reason), created_at: new Date(Date.UTC(2026, 0, 1, 0, i)) })
      made.unshift(jobId)
    }
    const { jobId: done } = await ordered(GIFT)
    await put(done, { status: 'done', reason: null })
    const { jobId: due } = await ordered(MUG)

    const first = await listJobs(world.db, { waiting: true, limit: 3 })
    expect(first.jobs.map(({ jobId }) => jobId)).toEqual(made.slice(0, 3))
    // What an adapter said in words of its own may name a person.
    expect(first.jobs.map(({ reason }) => reason)).toEqual(['adapter_error', 'HTTP 400', 'route_not_found'])
    expect(first.next).toBe(made[2])
    const second = await listJobs(world.db, { waiting: true, limit: 3, after: first.next })
    expect([second.jobs.map(({ jobId }) => jobId), second.next]).toEqual([[made[3]], undefined])
    expect(first.counts).toEqual([
      ...['HTTP 400', 'adapter_error', 'depleted', 'route_not_found'].map((reason) => ({
        status: 'needs_attention',
        reason,
        jobs: 1,
        oldestAt: expect.any(Date),
      })),
      { status: 'pending', reason: null, jobs: 1, oldestAt: expect.any(Date) },
    ])

    const ids = async (of: object) => (await listJobs(world.db, { limit: 50, ...of })).jobs.map(({ jobId }) => jobId)
    expect(await ids({})).toHaveLength(6)
    expect(await ids({ waiting: true, oldestFirst: true })).toEqual(made.toReversed())
    expect(await ids({ status: 'done' })).toEqual([done])
    expect(await ids({ reason: 'HTTP 400' })).toEqual([made[1]])
    expect(await ids({ reason: 'adapter_error' })).toEqual([made[0]])
    expect(await ids({ seller: S2 })).toEqual([due])
    expect(await ids({ offerType: 'odoo' })).toEqual([due])
    expect(await ids({ olderThanMinutes: 60 })).toEqual(made)
    expect(await ids({ chainId: 1 })).toEqual([])
    expect(await ids({ orderId: (await jobOf(due)).order_id })).toEqual([due])
    await expect(listJobs(world.db, { limit: 1, after: '00000000' })).rejects.toThrow(JobNotKnownError)
  })

  it('pages through jobs made at one moment without leaving one out', async () => {
    const all: string[] = []
    for (let i = 0; i < 7; i++) all.push((await ordered(LAMP)).jobId)
    await sql`update fulfillment_jobs set created_at = '2026-01-01T00:00:00.123456Z'`.execute(world.db)
    for (const oldestFirst of [false, true]) {
      const seen: string[] = []
      for (let after: string | undefined, more = true; more;) {
        const page = await listJobs(world.db, { waiting: true, limit: 2, after, oldestFirst })
        seen.push(...page.jobs.map(({ jobId }) => jobId))
        after = page.next
        more = after !== undefined
      }
      expect(seen.toSorted()).toEqual(all.toSorted())
    }
  })
})

describe('showJob', () => {
  it('tells of lines, routes and events, and of what was given only how much', async () => {
    const { orderId, jobId } = await ordered(GIFT)
    for (let i = 0; i < 3; i++) await world.answer(jobId, 'needs_attention', 'depleted')
    await world.answer(jobId, 'done', null, {
      status: 'ok',
      codes: ['ABC-123', 'DEF-456'],
      downloadUrl: 'https://x/ABC-123',
    })
    const { order, job } = await showJob(world.db, jobId.slice(0, 13))
    expect(order).toMatchObject({ orderId, revertedAt: null, finalizedAt: expect.any(Date) })
    expect(job.lines).toEqual([
      {
        lineIndex: 0,
        seller: S1,
        sku: 'gift',
        name: 'Gift code',
        quantity: 2,
        route: { offerType: 'codedispenser', isOneOff: false, enabled: true, offerTypeEnabled: true },
      },
    ])
    expect(job.events.map(({ kind, times }) => [kind, times])).toEqual([
      ['created', 1],
      ['attempted', 3],
      ['attempted', 1],
    ])
    expect(job.given?.payload).toEqual({ status: 'ok', codes: '2 not shown', downloadUrl: 'not shown' })
    expect(JSON.stringify(job)).not.toContain('ABC-123')
    const revealed = await showJob(world.db, jobId, { reveal: true })
    expect(revealed.job.given?.payload).toMatchObject({ codes: ['ABC-123', 'DEF-456'] })
    expect(JSON.stringify(revealed)).not.toContain(PERSONAL.givenName)
  })

  it('knows a job by a beginning that no other has', async () => {
    const { jobId } = await ordered(GIFT)
    const { jobId: other } = await ordered(GIFT)
    const twin = `${jobId.slice(0, 13)}${other.slice(13)}`
    await sql`delete from fulfillment_job_events where job_id = ${other}`.execute(world.db)
    await sql`update fulfillment_jobs set job_id = ${twin} where job_id = ${other}`.execute(world.db)
    for (const text of [jobId, ` ${jobId.toUpperCase()} `, jobId.replaceAll('-', '')]) {
      expect((await showJob(world.db, text)).job.jobId).toBe(jobId)
    }
    for (const text of [jobId.slice(0, 8), '', 'xyz', jobId.slice(0, 3), '00000000', `${jobId}0`, "'; drop"]) {
      await expect(showJob(world.db, text), text).rejects.toThrow(JobNotKnownError)
    }
  })

  it('finds paid lines that have no job', async () => {
    const { orderId, jobId } = await ordered(GIFT)
    expect((await showDelivery(world.db, orderId)).linesWithoutJob).toEqual([])
    await sql`delete from fulfillment_job_events where job_id = ${jobId}`.execute(world.db)
    await sql`delete from fulfillment_jobs where job_id = ${jobId}`.execute(world.db)
    expect(await showDelivery(world.db, orderId)).toMatchObject({ jobs: [], linesWithoutJob: [{ sku: 'gift' }] })
    const unpaid = await world.place({ lines: [GIFT] })
    expect(await showDelivery(world.db, unpaid)).toMatchObject({ lines: [{ sku: 'gift' }], linesWithoutJob: [] })
  })
})

describe('retryJob', () => {
  it.each([
    ['needs_attention', 'route_not_found'],
    ['rejected', 'ambiguous'],
    ['failed', 'HTTP 503'],
    ['partial', 'partial'],
    ['pending', 'HTTP 503'],
  ] as [JobStatus, string][])('makes a job that is %s due, once, and says by whom and why', async (status, reason) => {
    const { orderId, jobId } = await ordered(GIFT)
    const set =
      status === 'pending'
        ? { ...waiting(status, reason), next_attempt_at: sql`now() + interval '1 hour'` }
        : waiting(status, reason)
    await put(jobId, set)
    expect(await retryJob(world.db, jobId, { ...ACT, dryRun: true })).toMatchObject({ result: 'updated' })
    expect(await jobOf(jobId)).toMatchObject({ status, reason, attempts: 3 })

    expect(await retryJob(world.db, jobId, ACT)).toEqual({ jobId, orderId, result: 'updated' })
    expect(await retryJob(world.db, jobId, ACT)).toEqual({ jobId, orderId, result: 'unchanged' })
    expect(await jobOf(jobId)).toMatchObject({ status: 'pending', reason: null, attempts: 0, locked_until: null })
    expect((await jobOf(jobId)).next_attempt_at!.getTime()).toBeLessThanOrEqual(Date.now())
    expect((await eventsOf(jobId)).slice(1)).toEqual([
      { kind: 'retried', detail: { ...ACT, attempts: 3, was: { status, reason } } },
    ])
  })

  it('refuses what can not be tried, and leaves it as it was', async () => {
    const cases: [string, object, string][] = [
      ['done', { status: 'done' }, 'is delivered'],
      ['cancelled', { status: 'cancelled' }, 'is cancelled'],
      ['held', held(60), 'is being delivered this moment'],
      ['reverted', waiting('needs_attention', 'payment_reverted', 0), 'is not paid any more'],
    ]
    for (const [what, set, message] of cases) {
      const { orderId, jobId } = await ordered(GIFT)
      await put(jobId, set as Record<string, unknown>)
      if (what === 'reverted') {
        await sql`update orders set payment_reverted_at = now() where order_id = ${orderId}`.execute(world.db)
      }
      const before = await jobOf(jobId)
      const refused = retryJob(world.db, jobId, ACT)
      await expect(refused, what).rejects.toThrow(JobRefusedError)
      await expect(refused, what).rejects.toThrow(message)
      expect(await jobOf(jobId), what).toEqual(before)
      expect(await eventsOf(jobId), what).toHaveLength(1)
    }
    const { jobId: manual } = await ordered(PRINT)
    await expect(retryJob(world.db, manual, ACT)).rejects.toThrow('is for its seller to hand over')
    await expect(retryJob(world.db, '0000000000', ACT)).rejects.toThrow(JobNotKnownError)
  })

  it('leaves a job to the next worker whose worker died', async () => {
    const { jobId } = await ordered(GIFT)
    await put(jobId, held(-1))
    expect(await retryJob(world.db, jobId, ACT)).toMatchObject({ result: 'unchanged' })
    expect(await jobOf(jobId)).toMatchObject({ status: 'running', attempts: 1 })
  })

  it.each(['pending', 'running'] as const)('brings a %s job back that no worker would ever come to', async (status) => {
    const { orderId, jobId } = await ordered(GIFT)
    await put(jobId, { status, next_attempt_at: null, attempts: 1, locked_until: null })
    expect(await showDelivery(world.db, orderId)).toMatchObject({ linesWithoutJob: [{ sku: 'gift' }] })
    expect(await retryJob(world.db, jobId, ACT)).toMatchObject({ result: 'updated' })
    expect(await jobOf(jobId)).toMatchObject({ status: 'pending', next_attempt_at: expect.any(Date) })
    expect(await showDelivery(world.db, orderId)).toMatchObject({ linesWithoutJob: [] })
  })

  it('fulfilment:F-35 does not try again what is only confirmed and waits for final', async () => {
    const { orderId, jobId } = await ordered(GIFT)
    await put(jobId, waiting())
    await sql`update orders set finalized_at = null where order_id = ${orderId}`.execute(world.db)
    await withWorkers(
      () => OK,
      async (calls) => {
        await expect(retryJob(world.db, jobId, ACT)).rejects.toThrow(JobRefusedError)
        expect(calls).toEqual([])
      },
    )
    expect(await jobOf(jobId)).toMatchObject({ status: 'rejected' })
  })

  it('does not let what was begun pass for not begun when the payment goes', async () => {
    const begun = await ordered(GIFT)
    await put(begun.jobId, waiting())
    await retryJob(world.db, begun.jobId, ACT)
    const fresh = await ordered(GIFT)
    await put(fresh.jobId, waiting('needs_attention', 'route_not_found', 0))
    await retryJob(world.db, fresh.jobId, ACT)
    const cancelled = await ordered(GIFT)
    await cancelJob(world.db, cancelled.jobId, ACT)
    const orders = [begun, fresh, cancelled].map(({ orderId }) => orderId)
    expect([...(await inTransaction(world.db, (tx) => holdJobs(tx, orders)))]).toEqual([begun.orderId])
    expect(await jobOf(fresh.jobId)).toMatchObject({ reason: 'payment_reverted' })
    expect(await jobOf(begun.jobId)).toMatchObject({ status: 'pending' })
    expect(await jobOf(cancelled.jobId)).toMatchObject({ status: 'cancelled' })
  })
})

describe('resolveJob', () => {
  it('gives the buyer the message, settles the stock, tells the streams, once', async () => {
    const { orderId, jobId } = await ordered(GIFT)
    await reserve(orderId, GIFT)
    await put(jobId, waiting())
    const toldBefore = (await world.db.selectFrom('order_events').select('event_id').execute()).length
    const act = { ...ACT, message: 'Sent by e-mail' }
    expect(await resolveJob(world.db, jobId, { ...act, dryRun: true })).toMatchObject({ result: 'updated' })
    expect(await outboxOf(jobId)).toEqual([])

    expect(await resolveJob(world.db, jobId, act)).toEqual({ jobId, orderId, result: 'updated' })
    expect(await resolveJob(world.db, jobId, { ...act, message: 'Again' })).toEqual({
      jobId,
      orderId,
      result: 'unchanged',
    })
    expect(await jobOf(jobId)).toMatchObject({ status: 'done', reason: null, completed_at: expect.any(Date) })
    expect(await outboxOf(jobId)).toEqual([{ payload: { '@type': 'Message', text: 'Sent by e-mail' } }])
    expect(await heldStock(orderId)).toBe(0)
    expect(await levels('gift')).toEqual({ reserved: 0, delivered: 2 })
    expect((await world.db.selectFrom('order_events').select('event_id').execute()).length).toBe(toldBefore + 1)
    expect((await eventsOf(jobId)).at(-1)).toEqual({
      kind: 'resolved',
      detail: { status: 'done', ...ACT, was: { status: 'rejected', reason: 'HTTP 400' } },
    })
    const { text } = await world.get(`/${orderId}/timeline`, BUYER)
    expect(text).toContain('Delivered by hand: Gift code.')
    for (const secret of Object.values(ACT)) expect(text).not.toContain(secret)
  })

  it('leaves the buyer what an adapter gave in part', async () => {
    const { jobId } = await ordered(GIFT)
    const result = { status: 'partial', codes: ['ABC-123'] }
    await put(jobId, { ...waiting('partial', 'partial'), result })
    await world.db
      .insertInto('order_outbox')
      .values({ order_id: (await jobOf(jobId)).order_id, job_id: jobId, source: 'fulfillment', payload: result })
      .execute()
    await resolveJob(world.db, jobId, { ...ACT, message: 'The second came by post' })
    expect(await outboxOf(jobId)).toEqual([
      { payload: { status: 'ok', codes: ['ABC-123'], message: 'The second came by post' } },
    ])
  })

  it('refuses what is delivered otherwise, cancelled, at work or not paid any more', async () => {
    for (const set of [
      { status: 'done' },
      { status: 'cancelled' },
      held(60),
      waiting('needs_attention', 'payment_reverted'),
    ]) {
      const { jobId } = await ordered(GIFT)
      await put(jobId, set)
      await expect(resolveJob(world.db, jobId, ACT)).rejects.toThrow(JobRefusedError)
      expect(await outboxOf(jobId)).toEqual([])
    }
  })

  it("says for a seller what they can't say themselves", async () => {
    const { orderId, jobId } = await ordered(PRINT)
    await resolveJob(world.db, jobId, ACT)
    const { body } = await world.get(`/${orderId}/fulfillments`, BUYER)
    expect(body.lines).toMatchObject([{ state: 'succeeded' }])
  })
})

describe('cancelJob', () => {
  it('ends it for good, lets the stock go, tells the buyer that it failed and nothing more', async () => {
    const { orderId, jobId } = await ordered(GIFT)
    await reserve(orderId, GIFT)
    await put(jobId, waiting())
    expect(await cancelJob(world.db, jobId, { ...ACT, dryRun: true })).toMatchObject({ result: 'updated' })
    expect(await heldStock(orderId)).toBe(2)

    expect(await cancelJob(world.db, jobId, ACT)).toEqual({ jobId, orderId, result: 'updated' })
    expect(await cancelJob(world.db, jobId, ACT)).toEqual({ jobId, orderId, result: 'unchanged' })
    expect(await jobOf(jobId)).toMatchObject({ status: 'cancelled', next_attempt_at: null, completed_at: null })
    expect(await heldStock(orderId)).toBe(0)
    // What was not delivered makes nobody's stock older.
    expect(await levels('gift')).toEqual({ reserved: 0, delivered: 0 })
    expect((await eventsOf(jobId)).slice(1)).toEqual([
      { kind: 'cancelled', detail: { ...ACT, was: { status: 'rejected', reason: 'HTTP 400' } } },
    ])
    const { body } = await world.get(`/${orderId}/fulfillments`, BUYER)
    expect(body).toMatchObject({
      items: [{ state: 'failed', reason: 'cancelled' }],
      lines: [{ state: 'failed', reason: 'cancelled' }],
    })
    const { text } = await world.get(`/${orderId}/timeline`, BUYER)
    expect(text).toContain('The operator of the market has decided not to deliver Gift code.')
    for (const secret of Object.values(ACT)) expect(text).not.toContain(secret)
    for (const act of [retryJob, resolveJob]) {
      await expect(act(world.db, jobId, ACT)).rejects.toThrow('is cancelled, and that is final')
    }
  })

  it('is the last word an order waited for', async () => {
    const { orderId, jobId } = await ordered(GIFT)
    const told = async () =>
      (await world.db.selectFrom('order_events').select('event_id').where('order_id', '=', orderId).execute()).length
    const before = await told()
    await cancelJob(world.db, jobId, ACT)
    expect(await told()).toBe(before + 1)
  })

  it('gives a one-off back for sale, and its seller can not hand it over any more', async () => {
    const { orderId, jobId } = await ordered(PRINT)
    await world.db
      .insertInto('one_off_sales')
      .values({ chain_id: 100, seller_address: S1, sku: 'print-1', order_id: orderId, ordered_at: new Date() })
      .execute()
    await cancelJob(world.db, jobId, ACT)
    expect(await world.db.selectFrom('one_off_sales').selectAll().execute()).toEqual([])
    const { status, body } = await world.post(`/${orderId}/fulfillments/${jobId}/complete`, S1, {})
    expect([status, body.code]).toEqual([409, 'fulfillment_cancelled'])
    expect((await world.get(`/${orderId}/fulfillments`, BUYER)).body.lines).toMatchObject([{ state: 'failed' }])
  })

  it('keeps what another delivery of the order still needs', async () => {
    const orderId = await world.place({ lines: [{ ...GIFT, trigger: 'confirmed' }, GIFT, MUG] })
    await reserve(orderId, { ...GIFT, quantity: 4 }, MUG)
    await world.complete(orderId)
    const jobs = await world.jobs(orderId)
    const gifts = jobs.filter(({ offer_type }) => offer_type === 'codedispenser').map(({ job_id }) => job_id)
    await cancelJob(world.db, gifts[0]!, ACT)
    expect(await heldStock(orderId)).toBe(5)
    await cancelJob(world.db, gifts[1]!, ACT)
    expect(await heldStock(orderId)).toBe(1)
  })

  it('refuses what is delivered or at work', async () => {
    for (const set of [{ status: 'done' }, held(60)]) {
      const { orderId, jobId } = await ordered(GIFT)
      await reserve(orderId, GIFT)
      await put(jobId, set)
      await expect(cancelJob(world.db, jobId, ACT)).rejects.toThrow(JobRefusedError)
      expect(await heldStock(orderId)).toBe(2)
    }
  })

  it('lets go of the personal data that only delivery needed', async () => {
    const { orderId, jobId } = await ordered(GIFT)
    await sql`update orders set finalized_at = now() - interval '2 days' where order_id = ${orderId}`.execute(world.db)
    const hasName = async () =>
      JSON.stringify(await world.db.selectFrom('orders').select('order_json').execute()).includes(PERSONAL.givenName)
    await put(jobId, waiting())
    await stripDeliveredOrders(world.ctx, new AbortController().signal)
    expect(await hasName()).toBe(true)
    await cancelJob(world.db, jobId, ACT)
    await stripDeliveredOrders(world.ctx, new AbortController().signal)
    expect(await hasName()).toBe(false)
  })
})

describe('wakeWaitingJobs', () => {
  it('makes due what waits for the stock that has come, and nothing else', async () => {
    const later = { next_attempt_at: sql`now() + interval '50 seconds'` }
    const of = async (line: TestLine, set: object) => {
      const { jobId } = await ordered(line)
      await put(jobId, set as Record<string, unknown>)
      return jobId
    }
    const depleted = await of(GIFT, { ...waiting('needs_attention', 'depleted'), ...later })
    const partial = await of({ ...GIFT, sku: 'GIFT' }, { ...waiting('partial', 'partial'), ...later })
    const others = [
      await of(GIFT, { ...waiting('pending', 'HTTP 503'), ...later }),
      await of(GIFT, { ...waiting('needs_attention', 'notApplicable'), ...later }),
      await of(GIFT, held(30)),
      await of(MUG, { ...waiting('needs_attention', 'depleted'), ...later }),
    ]
    const isDue = async (jobId: string) => {
      const { next_attempt_at: at } = await jobOf(jobId)
      return at !== null && at.getTime() <= Date.now()
    }
    const wake = (keys?: { chainId: number; seller: string; sku: string }[]) =>
      wakeWaitingJobs(world.db, { offerType: 'codedispenser', ...(keys ? { keys } : {}) })
    expect(await wake([])).toBe(0)
    expect(await wake([{ chainId: 100, seller: S1, sku: 'other' }])).toBe(0)
    expect(await wake([{ chainId: 1, seller: S1, sku: 'gift' }])).toBe(0)
    expect(
      await wake([
        { chainId: 100, seller: S1, sku: 'gift' },
        { chainId: 100, seller: S2, sku: 'gift' },
      ]),
    ).toBe(2)
    expect(await wake()).toBe(0)
    expect([await isDue(depleted), await isDue(partial)]).toEqual([true, true])
    for (const jobId of others) expect(await isDue(jobId)).toBe(false)
    await put(depleted, later)
    expect(await wake()).toBe(1)
    // Waking is no attempt and nobody's decision.
    expect(await eventsOf(depleted)).toHaveLength(1)
    expect(await jobOf(depleted)).toMatchObject({ status: 'needs_attention', attempts: 3 })
  })
})

describe('beside workers', () => {
  it('delivers at once what is tried again', async () => {
    const { jobId } = await ordered(GIFT)
    await put(jobId, waiting())
    await withWorkers(
      () => OK,
      async (calls) => {
        await retryJob(world.db, jobId, ACT)
        await until('it is delivered', async () => (await jobOf(jobId)).status === 'done')
        expect(calls).toHaveLength(1)
        expect((await eventsOf(jobId)).map(({ kind }) => kind)).toEqual(['created', 'retried', 'attempted'])
      },
    )
  })

  it('fulfilment:F-39 waits visibly when its route is gone, and is delivered when it is tried after the route is back', async () => {
    const { jobId } = await ordered(GIFT)
    const enable = (enabled: boolean) =>
      world.db.updateTable('market_service_routes').set({ enabled }).where('sku', '=', 'gift').execute()
    await enable(false)
    try {
      await withWorkers(
        () => OK,
        async (calls) => {
          await until('it was looked at', async () => (await jobOf(jobId)).status === 'needs_attention')
          expect(await jobOf(jobId)).toMatchObject({ reason: 'route_not_found', next_attempt_at: null })
          expect((await listJobs(world.db, { waiting: true, limit: 1 })).jobs).toMatchObject([{ jobId }])
          expect(calls).toEqual([])
          await enable(true)
          await retryJob(world.db, jobId, ACT)
          await until('it is delivered', async () => (await jobOf(jobId)).status === 'done')
          expect(calls).toHaveLength(1)
        },
      )
    } finally {
      await enable(true)
    }
  })

  it('asks the adapter as often as a retry was not refused, however many are said at once', async () => {
    const { jobId } = await ordered(GIFT)
    await put(jobId, waiting())
    await withWorkers(
      async () => OK,
      async (calls) => {
        const said = await Promise.allSettled(Array.from({ length: 20 }, () => retryJob(world.db, jobId, ACT)))
        await until('it is delivered', async () => (await jobOf(jobId)).status === 'done')
        const updated = said.filter((one) => one.status === 'fulfilled' && one.value.result === 'updated')
        expect(updated).toHaveLength(1)
        expect(calls).toHaveLength(1)
        for (const one of said) if (one.status === 'rejected') expect(one.reason).toBeInstanceOf(JobRefusedError)
        expect(await outboxOf(jobId)).toHaveLength(1)
      },
    )
  })

  it('takes nothing from a worker that is at it', async () => {
    const { jobId } = await ordered(GIFT)
    let answer: (call: FulfillmentCall) => void = () => {}
    const answered = new Promise<FulfillmentCall>((resolve) => (answer = resolve))
    await withWorkers(
      () => answered,
      async (calls) => {
        await until('the adapter is asked', async () => calls.length === 1)
        for (const act of [retryJob, resolveJob, cancelJob]) {
          await expect(act(world.db, jobId, ACT)).rejects.toThrow('is being delivered this moment')
        }
        answer(OK)
        await until('it is delivered', async () => (await jobOf(jobId)).status === 'done')
      },
    )
    expect(await outboxOf(jobId)).toEqual([{ payload: { status: 'ok', codes: ['ABC-123'] } }])
  })

  it.each([
    ['resolve', resolveJob, 'resolved'],
    ['cancel', cancelJob, 'cancelled'],
  ] as const)('has the database decide between %s and a worker', async (_, act, kind) => {
    const won = { person: 0, worker: 0 }
    await withWorkers(
      async () => OK,
      async (calls, wake) => {
        // Both sides win some, or it was no race.
        for (let round = 0; round < 20 && (round < 3 || won.person * won.worker === 0); round += 1) {
          const jobs: string[] = []
          // A worker may be quicker than what puts the job off.
          const before = calls.length
          for (let i = 0; i < 12; i++) {
            const { jobId } = await ordered(GIFT)
            await put(jobId, { next_attempt_at: sql`now() + interval '1 hour'` })
            jobs.push(jobId)
          }
          const asked = jobs.map((jobId) => act(world.db, jobId, ACT))
          await sql`update fulfillment_jobs set next_attempt_at = now() where status = 'pending'`.execute(world.db)
          wake()
          const said = await Promise.allSettled(asked)
          await until('all have ended', async () => {
            const open = await world.db
              .selectFrom('fulfillment_jobs')
              .select('job_id')
              .where('status', 'not in', ['done', 'cancelled'])
              .execute()
            return open.length === 0
          })
          for (const one of said) if (one.status === 'rejected') expect(one.reason).toBeInstanceOf(JobRefusedError)
          const persons = said.filter(({ status }) => status === 'fulfilled').length
          expect(calls.length - before).toBe(jobs.length - persons)
          for (const jobId of jobs) {
            const ends = (await eventsOf(jobId)).map((event) => event.kind).slice(1)
            expect([['attempted'], [kind]]).toContainEqual(ends)
          }
          won.person += persons
          won.worker += jobs.length - persons
        }
        expect(new Set(calls).size).toBe(calls.length)
      },
    )
    expect(Math.min(won.person, won.worker), JSON.stringify(won)).toBeGreaterThan(0)
  })
})

describe('the commands', () => {
  type Ran = { code: number; stdout: string; stderr: string }
  const ops = (...args: string[]): Promise<Ran> =>
    new Promise((resolve) => {
      const connection = world.ctx.config.POSTGRES_CONNECTION.reveal()
      execFile(
        process.execPath,
        [script, ...args],
        { env: { PATH: process.env.PATH, OPS_MARKET_URL: connection, USER: 'grace' } },
        (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
      )
    })
  const jobs = (...args: string[]) => ops('jobs', ...args)
  const jobsJson = async (...args: string[]) => JSON.parse((await ops('--json', 'jobs', ...args)).stdout)

  it('list: shows what waits in at most 100 columns', async () => {
    const { orderId, jobId } = await ordered(LAMP)
    const { jobId: rejected } = await ordered({ ...GIFT, seller: S2, sku: 'mug' })
    await put(rejected, { ...waiting('rejected', `HTTP 400 ${'x'.repeat(300)}`), offer_type: 'y'.repeat(60) })
    const { code, stdout, stderr } = await jobs('list')
    expect([code, stderr]).toEqual([0, ''])
    for (const line of stdout.split('\n')) expect(line.length, line).toBeLessThanOrEqual(100)
    expect(stdout).toMatch(/^NOT AT THEIR END +REASON +JOBS +OLDEST\nneeds_attention +route_not_found +1 +\d+ s ago\n/)
    expect(stdout).toMatch(
      new RegExp(
        `^${jobId.slice(0, 13)} +needs_attention +route_not_found +unrouted +0 +\\d+ s +never\n  ${orderId}  ${S2}$`,
        'm',
      ),
    )
    expect((await jobs('list', '--reason', 'depleted')).stdout).toContain('There is no such job.')
    expect(await jobsJson('list', '--order', orderId.toLowerCase())).toMatchObject({
      ok: true,
      jobs: [{ jobId }],
      next: null,
    })
    const page = await jobs('list', '--limit', '1')
    expect(page.stdout).toContain(`--after ${rejected}`)
  })

  it('show: says why it waits and which command makes the route', async () => {
    const { jobId } = await ordered(LAMP)
    const { code, stdout } = await jobs('show', jobId.slice(0, 8))
    expect(code).toBe(0)
    expect(stdout).toContain('needs_attention: no route says who delivers it')
    expect(stdout).toContain('1 × Lamp (lamp): no route')
    expect(stdout).toMatch(/UTC {2}due, but waits: no route says who delivers it/)
    expect(stdout).toContain(
      `    npm run ops -- mapping-codedisp 100 ${S2} lamp <pool>\n    npm run ops -- jobs retry ${jobId}`,
    )
    await world.route(S2, 'lamp', 'odoo')
    expect((await jobs('show', jobId)).stdout).toContain('There is a route by now: try again.')
    expect(await jobs('show', '00000000')).toMatchObject({ code: 1, stderr: 'Error: no job is known as 00000000\n' })
  })

  it('show: keeps codes to itself until it is told otherwise', async () => {
    const { jobId } = await ordered(GIFT)
    await world.answer(jobId, 'done', null, { status: 'ok', codes: ['ABC-123'] })
    for (const args of [
      ['show', jobId],
      ['show', jobId, '--json'],
    ]) {
      const { stdout } = await jobs(...args)
      expect(stdout).toMatch(/not shown here, codes 1|"codes":"1 not shown"/)
      expect(stdout).not.toContain('ABC-123')
    }
    expect((await jobs('show', jobId, '--reveal')).stdout).toContain('ABC-123')
  })

  it('retry, resolve, cancel: several at once, each for itself; exit code 1 when one was refused', async () => {
    const one = await ordered(GIFT)
    const two = await ordered(GIFT)
    const done = await ordered(GIFT)
    for (const { jobId } of [one, two]) await put(jobId, waiting())
    await put(done.jobId, { status: 'done' })
    const retried = await jobs('retry', one.jobId, done.jobId, '0000000000', two.jobId)
    expect(retried).toMatchObject({ code: 1, stderr: '' })
    expect(retried.stdout).toBe(
      [
        `updated ${one.jobId} ${one.orderId}`,
        `refused: ${done.jobId} is delivered`,
        'unknown: no job is known as 0000000000',
        `updated ${two.jobId} ${two.orderId}`,
        '[jobs] Done. updated 2, unchanged 0, refused 1, unknown 1\n',
      ].join('\n'),
    )
    expect(await jobsJson('retry', one.jobId)).toMatchObject({
      ok: true,
      unchanged: 1,
      jobs: [{ result: 'unchanged' }],
    })
    expect(await jobs('resolve', one.jobId, '--reason', 'by e-mail', '--message', 'Look into your mail')).toMatchObject(
      { code: 0 },
    )
    expect(await outboxOf(one.jobId)).toEqual([{ payload: { '@type': 'Message', text: 'Look into your mail' } }])
    expect(await jobsJson('cancel', two.jobId, '--reason', 'refunded', '--by', 'ada')).toMatchObject({
      ok: true,
      updated: 1,
    })
    expect((await eventsOf(one.jobId)).at(-1)!.detail).toMatchObject({ by: 'grace', reason: 'by e-mail' })
    expect((await eventsOf(two.jobId)).at(-1)!.detail).toMatchObject({ by: 'ada', reason: 'refunded' })
    expect((await jobs('show', two.jobId)).stdout).toContain('cancelled by ada, because: refunded')
  })

  it('retry --all: those that wait for a reason, oldest first, so many', async () => {
    const made: string[] = []
    for (let i = 0; i < 3; i++) made.push((await ordered(LAMP)).jobId)
    const { jobId: other } = await ordered(GIFT)
    await put(other, waiting())
    const { jobId: manual } = await ordered(PRINT)
    const dry = await jobsJson('retry', '--all', '--reason', 'route_not_found', '--limit', '2', '--dry-run')
    expect(dry).toMatchObject({ ok: true, dryRun: true, updated: 2 })
    expect(dry.jobs.map(({ job }: { job: string }) => job)).toEqual(made.slice(0, 2))
    expect(await jobOf(made[0]!)).toMatchObject({ status: 'needs_attention' })
    expect(await jobs('retry', '--all', '--reason', 'route_not_found')).toMatchObject({ code: 0 })
    for (const jobId of made) expect(await jobOf(jobId)).toMatchObject({ status: 'pending' })
    expect(await jobOf(other)).toMatchObject({ status: 'rejected' })
    expect(await jobsJson('retry', '--all')).toMatchObject({ ok: true, updated: 1, refused: 0 })
    expect(await jobOf(manual)).toMatchObject({ reason: 'manual' })
  })

  it('explain: tells of payment and delivery in one order, and how it stands', async () => {
    const { orderId, jobId } = await ordered(LAMP)
    const { code, stdout } = await ops('explain', orderId)
    expect(code).toBe(0)
    for (const line of stdout.split('\n'))
      expect(line.length, line).toBeLessThanOrEqual(100 + (line.includes('npm run') ? 40 : 0))
    expect(stdout).toContain('verdict            waits for a person: 1 × Lamp (lamp), no route says who delivers it')
    expect(stdout).toMatch(/placed: 1 × Lamp \(lamp\) for 30 CRC/)
    expect(stdout.indexOf('the payment is final')).toBeLessThan(stdout.indexOf('1 × Lamp (lamp): due, but waits'))
    expect(stdout).toContain('nothing of 1 × Lamp (lamp)')
    expect(stdout).toContain(`jobs retry ${jobId}`)
    await world.answer(jobId, 'done', null, { status: 'ok', codes: ['ABC-123'] })
    const after = await ops('explain', orderId, '--json')
    expect(JSON.parse(after.stdout)).toMatchObject({ ok: true, orders: [{ orderId, verdict: 'delivered' }] })
    expect(after.stdout).not.toContain('ABC-123')
    for (const secret of [PERSONAL.givenName, PERSONAL.contact.email]) expect(after.stdout).not.toContain(secret)
    expect(await ops('explain', `ord_${'0'.repeat(32)}`)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('no order'),
    })
  })

  it.each([
    [['list', '--status', 'odd'], '--status must be one of'],
    [['list', '--status', 'done', '--waiting'], 'either --waiting or --status'],
    [['list', '--seller', '0x12'], '--seller must be a 0x hex address'],
    [['list', '--order', 'pay_1'], '--order must be an order id'],
    [['list', '--limit', '0'], '--limit must be a whole number'],
    [['list', '--older-than', 'x'], '--older-than must be a whole number'],
    [['retry'], 'either ids of jobs, or --all'],
    [['retry', '1234', '--all'], 'either ids of jobs, or --all'],
    [['retry', '1234', '--status', 'failed'], 'filters choose among --all'],
    [['retry', '1234', '--by', ' '], 'say --by whom'],
    [['resolve', '1234'], "required option '--reason <text>' not specified"],
    [['resolve', '1234', '--reason', ' '], '--reason cannot be empty'],
    [['resolve', '1234', '--reason', 'x', '--message', ' '], '--message must have'],
    [['cancel', '1234'], "required option '--reason <text>' not specified"],
    [['cancel', '--reason', 'x'], 'missing required argument'],
  ])('says what is wrong with %j', async (args, message) => {
    expect(await jobs(...args)).toMatchObject({ code: 2, stderr: expect.stringContaining(message) })
  })

  it('explain themselves', async () => {
    for (const command of ['list', 'show', 'retry', 'resolve', 'cancel']) {
      const { code, stdout } = await jobs(command, '--help')
      expect([code, stdout]).toEqual([0, expect.stringContaining(`npm run ops -- jobs ${command}`)])
    }
    expect((await ops('explain', '--help')).stdout).toContain('npm run ops -- explain ord_')
  })
})
