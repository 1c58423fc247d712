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
/** While lanes are full, or other workers at the same jobs, the rest is searched for behind them, and not at every turn. */
const SEARCH_MS = 100

/**
 * Has adapters deliver what is due: `FULFILLMENT_WORKERS` calls at a time, `FULFILLMENT_SELLER_CONCURRENCY` of them for one lane.
 * Jobs are claimed and outcomes stored as many at once as there are; each is called for by itself.
 */
export function startDispatcher(ctx: MarketContext): Loop {
  const { FULFILLMENT_WORKERS: workers, FULFILLMENT_SELLER_CONCURRENCY: limit } = ctx.config
  const lanes = createLanes(limit)
  const held = new Map<string, Job>()
  const underWay = new Set<Promise<void>>()
  const keep = createKeeper(ctx)
  let searchedAt = 0
  let searching: NodeJS.Timeout | undefined

  const work = async (errand: Errand) => {
    const { job } = errand
    const ending = await runErrand(ctx, errand)
    watch(job, laneOf(job), ending.isAnswered)
    await keep(ending)
    held.delete(job.job_id)
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

  const comeBack = () => {
    searching ??= setTimeout(() => {
      searching = undefined
      loop.wake()
    }, SEARCH_MS).unref()
    return false
  }

  const step = async (): Promise<boolean> => {
    const free = workers - held.size
    if (free <= 0) return false
    const isSearch = [...lanes.rooms().values()].includes(0)
    if (isSearch && performance.now() - searchedAt < SEARCH_MS) return comeBack()
    if (isSearch) searchedAt = performance.now()
    const { jobs, isContended } = await claimJobs(ctx, free, lanes)
    if (jobs.length === 0) return isContended && comeBack()
    ctx.failpoint('fulfillment.claimed')
    for (const errand of await prepareErrands(ctx, jobs)) {
      held.set(errand.job.job_id, errand.job)
      lanes.begin(laneOf(errand.job))
      const ending = work(errand).finally(() => {
        underWay.delete(ending)
        loop.wake()
      })
      underWay.add(ending)
    }
    return held.size < workers
  }

  const renewing = setInterval(() => {
    if (held.size === 0) return
    renewHolds(ctx, [...held.values()]).catch((error) => ctx.log.warn({ err: error }, 'holds on jobs not renewed'))
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
