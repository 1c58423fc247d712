import { type Loop, startLoop } from '@market/kit/loop'
import { PURGE_SECONDS, purgeCatalog } from './catalog/indexer.ts'
import { CATALOG_CHANNEL } from './catalog/pageCache.ts'
import type { MarketContext } from './context.ts'
import { JOBS_CHANNEL } from './fulfillment/insertJobs.ts'
import { runFulfillmentJob } from './fulfillment/runFulfillmentJob.ts'
import { pollPayments } from './payments/pollPayments.ts'
import { purgePinQuotas } from './pinning/store.ts'
import { SWEEP_SECONDS, sweepPins } from './pinning/sweepPins.ts'
import { purgeChallenges } from './signIn/verifyChallenge.ts'

/** Notifications make workers quick; this poll makes them sure. */
const WORKER_POLL_MS = 2000

/** Every background loop of the service: name, interval, the verb it calls. */
export async function startJobs(ctx: MarketContext) {
  const { config, log } = ctx
  const every = (name: string, seconds: number, step: (signal: AbortSignal) => Promise<boolean | void>) =>
    startLoop({ name, intervalMs: seconds * 1000, log, step })

  const workers: Loop[] = Array.from({ length: config.FULFILLMENT_WORKERS }, (_, i) =>
    startLoop({ name: `fulfillment-${i}`, intervalMs: WORKER_POLL_MS, log, step: () => runFulfillmentJob(ctx) }),
  )
  const loops: Loop[] = [
    every('payments', config.POLL_SECONDS, () => pollPayments(ctx)),
    every('catalog', config.CATALOG_POLL_SECONDS, () => ctx.indexer.follow()),
    every('catalog-purge', PURGE_SECONDS, () => purgeCatalog(ctx)),
    every('purge', 3600, async () => void (await Promise.all([purgeChallenges(ctx), purgePinQuotas(ctx)]))),
    every('pin-sweep', SWEEP_SECONDS, (signal) => sweepPins(ctx, signal)),
    ...workers,
  ]
  const listening = await ctx.database.listen(JOBS_CHANNEL, () => {
    for (const worker of workers) worker.wake()
  })
  const catalog = await ctx.database.listen(CATALOG_CHANNEL, (avatar) => ctx.pages.clear(avatar))

  return {
    /** Messages of loops that fail at the moment, for readiness. */
    failing: () => [
      ...new Set(loops.map((loop) => loop.failing).filter((message): message is string => message !== undefined)),
    ],
    async stop() {
      await Promise.all([listening.stop(), catalog.stop()])
      await Promise.all(loops.map((loop) => loop.stop()))
      await ctx.indexer.stop()
    },
  }
}
