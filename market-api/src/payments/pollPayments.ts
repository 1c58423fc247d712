import { acquireLease } from '@market/kit/lease'
import type { MarketContext } from '../context.ts'
import { advanceOrders } from './advanceOrders.ts'
import { decideTrust } from './decideTrust.ts'
import { observeTransfers } from './observeTransfers.ts'

/** Pages read in one round before the other steps get their turn, so that a long backlog holds up nobody's confirmation. */
const PAGES_A_ROUND = 20

/**
 * One round of the payment poller, on whichever replica holds the lease: see new transfers, decide their tokens, move
 * orders. Each step is safe to repeat and fails on its own: an indexer that is down stops no order from being confirmed.
 * Throws the first failure after all steps had their turn. True when transfers are left to read.
 */
export async function pollPayments(ctx: MarketContext): Promise<boolean> {
  const lease = await acquireLease(ctx.db, 'payments', ctx.instance, ctx.config.LEASE_SECONDS)
  if (!lease) return false
  const failures: unknown[] = []
  let more = false
  const step = async (work: () => Promise<void>) => {
    try {
      await work()
    } catch (error) {
      failures.push(error)
    }
  }
  await step(async () => {
    try {
      for (let page = 0; page < PAGES_A_ROUND; page += 1) {
        const asked = ctx.now()
        more = await observeTransfers(ctx, lease)
        if (!more) return await recordObserved(ctx, asked)
      }
    } catch (error) {
      ctx.metrics.queryFailures.inc()
      throw error
    }
  })
  await step(() => decideTrust(ctx, lease))
  await step(async () => advanceOrders(ctx, lease, await ctx.paymentSource.readHead()))
  if (failures.length > 0) throw failures[0]
  return more
}

/** Every payment the source knew of at this time is stored; unpaid orders may be cancelled up to then. */
async function recordObserved(ctx: MarketContext, at: Date): Promise<void> {
  await ctx.db
    .insertInto('payments_observed')
    .values({ chain_id: ctx.config.CHAIN_ID, observed_at: at })
    .onConflict((conflict) => conflict.column('chain_id').doUpdateSet({ observed_at: at }))
    .execute()
}
