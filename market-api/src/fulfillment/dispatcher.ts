import { createGate } from '@market/kit/gate'
import { type Loop, startLoop } from '@market/kit/loop'
import type { MarketContext } from '../context.ts'
import type { FulfillmentCall } from '../serviceRoutes/adapterClient.ts'
import { askAdapter, type Errand, prepareErrands } from './askAdapter.ts'
import { claimJobs, type Job, putOff, renewHolds, RENEW_MS } from './claimJobs.ts'
import { createLanes, laneOf } from './lanes.ts'
import { type JobOutcome, outcomeOf } from './outcome.ts'
import { type Ending, storeOutcomes } from './storeOutcomes.ts'

/** Notifications make it quick; this poll makes it sure. */
const POLL_MS = 2000
/** A call that takes longer waits for somebody else, and costs no more than its connection: its place is given to another. */
const QUICK_MS = 1000
/** However slow they are, no more calls at a time than so many for each worker. */
const CALLS_A_WORKER = 8
/** When all places are taken, or others were at the same jobs. */
const COME_BACK_MS = 50
/** While more is due than there are places for, so long is waited for several to become free: claimed together they cost little more. */
const LINGER_MS = 10
/** Behind the jobs of full lanes the others' are searched for; no more than a fifth of the time goes into that. */
const SEARCH_PAUSE = 4

/**
 * Has adapters deliver what is due: `FULFILLMENT_WORKERS` calls at a time, `FULFILLMENT_SELLER_CONCURRENCY` of them for one lane. Calls
 * that are slow give their place to others, up to `FULFILLMENT_ADAPTER_CONCURRENCY` for one adapter.
 * Jobs are claimed and outcomes stored as many at once as there are; each is called for by itself.
 */
export function startDispatcher(ctx: MarketContext): Loop {
  const { FULFILLMENT_WORKERS: workers } = ctx.config
  const lanes = createLanes({
    seller: ctx.config.FULFILLMENT_SELLER_CONCURRENCY,
    adapter: ctx.config.FULFILLMENT_ADAPTER_CONCURRENCY,
  })
  const held = new Map<string, { job: Job; at: number }>()
  const underWay = new Set<Promise<void>>()
  const keep = createKeeper(ctx)
  let searchAgainAt = 0
  let hasMore = false
  let lingerUntil: number | undefined
  let comingBack: NodeJS.Timeout | undefined

  const work = async (errand: Errand) => {
    const { job } = errand
    try {
      const ending = await runErrand(ctx, errand)
      watch(job, laneOf(job), ending.isAnswered)
      await keep(ending)
    } catch (error) {
      ctx.log.error({ jobId: job.job_id, err: error }, 'job failed; its hold runs out')
    } finally {
      held.delete(job.job_id)
    }
  }

  const watch = (job: Job, lane: string, answered: boolean) => {
    const change = lanes.end(lane, answered)
    if (!change) return
    // A lane at rest is forgotten: what is not there is not open.
    ctx.metrics.openCircuits.set({ offer_type: job.offer_type }, lanes.open().get(job.offer_type) ?? 0)
    const pauseMs = lanes.pauseOf(lane)
    const fields = { seller: job.seller_address, offerType: job.offer_type }
    if (change === 'closed') return ctx.log.info(fields, 'circuit closed: the adapter answers again')
    ctx.log.error({ ...fields, pauseMs }, 'circuit opened: the adapter does not answer')
    putOff(ctx, job, pauseMs).catch((error) => ctx.log.warn({ ...fields, err: error }, 'jobs not put off'))
  }

  const places = () => {
    const slowSince = performance.now() - QUICK_MS
    const quick = [...held.values()].filter(({ at }) => at > slowSince).length
    return Math.min(workers - quick, workers * CALLS_A_WORKER - held.size)
  }

  const comeBack = (ms = COME_BACK_MS) => {
    comingBack ??= setTimeout(() => {
      comingBack = undefined
      loop.wake()
    }, ms).unref()
    return false
  }

  const step = async (): Promise<boolean> => {
    const free = places()
    if (free <= 0) return comeBack()
    if (hasMore && free < workers / 2) {
      lingerUntil ??= performance.now() + LINGER_MS
      if (performance.now() < lingerUntil) return comeBack(LINGER_MS)
    }
    lingerUntil = undefined
    const isSearch = [...lanes.rooms().values(), ...lanes.adapterRooms().values()].includes(0)
    const began = performance.now()
    if (isSearch && began < searchAgainAt) return comeBack(searchAgainAt - began)
    const claim = await claimJobs(ctx, free, lanes)
    const { jobs, isContended } = claim
    hasMore = claim.hasMore
    const ended = performance.now()
    if (isSearch && jobs.length < free) searchAgainAt = ended + SEARCH_PAUSE * (ended - began)
    if (jobs.length === 0) return isContended && comeBack()
    ctx.failpoint('fulfillment.claimed')
    for (const errand of await prepareErrands(ctx, jobs)) {
      held.set(errand.job.job_id, { job: errand.job, at: performance.now() })
      lanes.begin(laneOf(errand.job))
      const ending = work(errand).finally(() => {
        underWay.delete(ending)
        loop.wake()
      })
      underWay.add(ending)
    }
    return !hasMore && places() > 0
  }

  const renewing = setInterval(() => {
    if (held.size === 0) return
    renewHolds(
      ctx,
      [...held.values()].map(({ job }) => job),
    ).catch((error) => ctx.log.warn({ err: error }, 'holds on jobs not renewed'))
  }, RENEW_MS)
  const loop = startLoop({ name: 'fulfillment', intervalMs: POLL_MS, log: ctx.log, step })
  return {
    name: loop.name,
    wake: loop.wake,
    get failing() {
      return loop.failing
    },
    async stop() {
      await loop.stop()
      await Promise.all(underWay)
      clearInterval(renewing)
    },
  }
}

/** Asks the adapter and says what its answer makes of the job. Never throws. */
export async function runErrand(ctx: MarketContext, errand: Errand): Promise<Ending & { isAnswered: boolean }> {
  const { job, lines } = errand
  const call = await askAdapter(ctx, errand).catch((error): FulfillmentCall => {
    ctx.log.error({ jobId: job.job_id, err: error }, 'adapter not asked')
    return { kind: 'failed', httpStatus: null, error: 'internal error' }
  })
  ctx.failpoint('fulfillment.answered')
  const outcome: JobOutcome = call
    ? outcomeOf(call, job.attempts, 0.8 + Math.random() * 0.4)
    : { status: 'needs_attention', reason: 'route_not_found', retryInMs: undefined, delivered: undefined }
  const isAnswered = call === undefined || call.httpStatus !== null
  return { job, lines, httpStatus: call?.httpStatus ?? null, outcome, isAnswered }
}

/** Stores what has ended; what ends while that is under way is stored together afterwards. */
function createKeeper(ctx: MarketContext) {
  const oneAtATime = createGate(1)
  let waiting: Ending[] = []
  return async (ending: Ending) => {
    waiting.push(ending)
    await oneAtATime(async () => {
      const endings = waiting
      waiting = []
      if (endings.length === 0) return
      await storeOutcomes(ctx, endings)
      ctx.failpoint('fulfillment.stored')
    })
  }
}
