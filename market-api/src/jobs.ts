import { type Loop, startLoop } from '@market/kit/loop'
import { followAvatars } from './catalog/indexAvatar.ts'
import type { MarketContext } from './context.ts'
import { JOBS_CHANNEL } from './fulfillment/insertJobs.ts'
import { runFulfillmentJob } from './fulfillment/runFulfillmentJob.ts'
import { pollPayments } from './payments/pollPayments.ts'
import { purgeChallenges } from './signIn/verifyChallenge.ts'

/** Notifications make workers quick; this poll makes them sure. */
const WORKER_POLL_MS = 2000

/** Every background loop of the service: name, interval, the verb it calls. */
export async function startJobs(ctx: MarketContext) {
  const { config, log } = ctx
  const every = (name: string, seconds: number, step: () => Promise<boolean | void>) =>
    startLoop({ name, intervalMs: seconds * 1000, log, step })

  const workers: Loop[] = Array.from({ length: config.FULFILLMENT_WORKERS }, (_, i) =>
    startLoop({ name: `fulfillment-${i}`, intervalMs: WORKER_POLL_MS, log, step: () => runFulfillmentJob(ctx) }),
  )
  const loops: Loop[] = [
    every('payments', config.POLL_SECONDS, () => pollPayments(ctx)),
    every('catalog', config.CATALOG_POLL_SECONDS, () => followAvatars(ctx)),
    every('purge', 3600, () => purgeChallenges(ctx)),
    ...workers,
  ]
  const listening = await ctx.database.listen(JOBS_CHANNEL, () => {
    for (const worker of workers) worker.wake()
  })

  return {
    /** Messages of loops that fail at the moment, for readiness. */
    failing: () => [
      ...new Set(loops.map((loop) => loop.failing).filter((message): message is string => message !== undefined)),
    ],
    async stop() {
      await listening.stop()
      await Promise.all(loops.map((loop) => loop.stop()))
    },
  }
}
