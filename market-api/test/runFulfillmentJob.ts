import type { MarketContext } from '../src/context.ts'
import { prepareErrands } from '../src/fulfillment/askAdapter.ts'
import { claimJobs } from '../src/fulfillment/claimJobs.ts'
import { runErrand } from '../src/fulfillment/dispatcher.ts'
import { createLanes } from '../src/fulfillment/lanes.ts'
import { storeOutcomes } from '../src/fulfillment/storeOutcomes.ts'

/** Runs one due job from claim to outcome, as the dispatcher does with many. False when none is due. */
export async function runFulfillmentJob(ctx: MarketContext): Promise<boolean> {
  const { jobs } = await claimJobs(ctx, 1, createLanes({ seller: 8, adapter: 8 }))
  const [errand] = await prepareErrands(ctx, jobs)
  if (!errand) return false
  await storeOutcomes(ctx, [await runErrand(ctx, errand)])
  return true
}
