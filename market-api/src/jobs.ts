import { type Loop, startLoop } from '@market/kit/loop'
import { PURGE_SECONDS, purgeCatalog } from './catalog/indexer.ts'
import { CATALOG_CHANNEL } from './catalog/pageCache.ts'
import type { MarketContext } from './context.ts'
import { JOBS_CHANNEL } from './fulfillment/insertJobs.ts'
import { startDispatcher } from './fulfillment/dispatcher.ts'
import { createReconciler, RECONCILE_SECONDS } from './fulfillment/reconcileJobs.ts'
import { ORDER_EVENTS_CHANNEL } from './orders/events/readOrderEvents.ts'
import { OVERDUE_SECONDS, purgeOrderEvents, tellOverdueCompletions } from './orders/events/sweepOrderEvents.ts'
import { expireOrders } from './orders/expireOrders.ts'
import { pollPayments } from './payments/pollPayments.ts'
import { purgePinQuotas } from './pinning/store.ts'
import { SWEEP_SECONDS, sweepPins } from './pinning/sweepPins.ts'
import { purgeBaskets, STRIP_SECONDS, stripDeliveredOrders } from './privacy/purge.ts'
import { REFRESH_SECONDS } from './signIn/trustedIssuers.ts'
import { purgeChallenges } from './signIn/verifyChallenge.ts'

const EXPIRY_SECONDS = 2
/** Notifications make it quick; this poll makes it sure. Without open streams it reads nothing. */
const EVENTS_POLL_SECONDS = 2

/** Every background loop of the service: name, interval, the verb it calls. */
export async function startJobs(ctx: MarketContext) {
  const { config, log } = ctx
  const every = (name: string, seconds: number, step: (signal: AbortSignal) => Promise<boolean | void>) =>
    startLoop({ name, intervalMs: seconds * 1000, log, step })

  const dispatcher = config.FULFILLMENT_WORKERS > 0 ? [startDispatcher(ctx)] : []
  const events = every('order-events', EVENTS_POLL_SECONDS, () => ctx.orderStreams.read())
  const loops: Loop[] = [
    every('payments', config.POLL_SECONDS, () => pollPayments(ctx)),
    every('catalog', config.CATALOG_POLL_SECONDS, () => ctx.indexer.follow()),
    every('catalog-purge', PURGE_SECONDS, () => purgeCatalog(ctx)),
    every('order-expiry', EXPIRY_SECONDS, () => expireOrders(ctx)),
    every(
      'purge',
      3600,
      async () => void (await Promise.all([purgeChallenges(ctx), purgePinQuotas(ctx), purgeOrderEvents(ctx)])),
    ),
    every('basket-purge', 3600, (signal) => purgeBaskets(ctx, signal)),
    every('personal-data', STRIP_SECONDS, (signal) => stripDeliveredOrders(ctx, signal)),
    every('fulfillment-reconcile', RECONCILE_SECONDS, createReconciler(ctx)),
    events,
    every('overdue-completions', OVERDUE_SECONDS, () => tellOverdueCompletions(ctx)),
    every('issuer-keys', REFRESH_SECONDS, (signal) => ctx.issuers.refresh(signal)),
    every('pin-sweep', SWEEP_SECONDS, (signal) => sweepPins(ctx, signal)),
    ...dispatcher,
  ]
  const listening = await ctx.database.listen(JOBS_CHANNEL, () => {
    for (const loop of dispatcher) loop.wake()
  })
  const catalog = await ctx.database.listen(CATALOG_CHANNEL, (avatar) => ctx.pages.clear(avatar))
  const told = await ctx.database.listen(ORDER_EVENTS_CHANNEL, () => events.wake())

  return {
    /** Names of loops that fail at the moment, for readiness; why is in the log. */
    failing: () => loops.filter((loop) => loop.failing !== undefined).map(({ name }) => name),
    async stop() {
      await Promise.all([listening.stop(), catalog.stop(), told.stop()])
      await Promise.all(loops.map((loop) => loop.stop()))
      await ctx.indexer.stop()
    },
  }
}
