import { LeaseLostError } from '@market/kit/lease'
import type { MarketContext } from '../context.ts'
import { advanceOrders } from './advanceOrders.ts'
import { decideTrust, reconsiderIgnored } from './decideTrust.ts'
import { followReorgs, recordCheckpoint, recordObserved } from './followReorgs.ts'
import { takeLeadership } from './leadership.ts'
import { observeTransfers } from './observeTransfers.ts'
import { createPaymentMemory } from './paymentMemory.ts'
import { recheckWindow, rememberWindow } from './recheckWindow.ts'
import { type BlockRef, PaymentSourceError } from './paymentSource.ts'
import { resolveDoubts } from './resolveDoubts.ts'

/**
 * One round of the payment poller, on whichever replica holds the lease. Each step is safe to repeat and fails on its own: an
 * indexer that is down stops no order from being confirmed (payments.md W26). Throws the first failure after all steps had their
 * turn. True when there is more to read at once.
 */
export async function pollPayments(ctx: MarketContext): Promise<boolean> {
  const leadership = await takeLeadership(ctx)
  ctx.metrics.isLeader.set(leadership ? 1 : 0)
  if (!leadership) return false
  if (ctx.paymentMemory.epoch !== leadership.epoch) {
    Object.assign(ctx.paymentMemory, createPaymentMemory(), { epoch: leadership.epoch })
  }
  const failures: unknown[] = []
  /** Whether it went well. */
  const step = async (work: () => Promise<unknown>): Promise<boolean> => {
    try {
      await work()
      return true
    } catch (error) {
      // Another leads now: nothing more to do here.
      if (error instanceof LeaseLostError) throw error
      if (error instanceof PaymentSourceError) ctx.metrics.queryFailures.inc()
      failures.push(error)
      return false
    }
  }
  const asked = ctx.now()
  // With a head that nobody knows, payments are seen, and none of them is deep.
  let head: BlockRef = { number: -1, hash: '' }
  let more = false
  const isFollowed = await step(async () => {
    const newest = await ctx.paymentSource.readHead()
    ctx.metrics.headBlock.set(newest.number)
    await followReorgs(ctx, leadership, newest)
    await recordCheckpoint(ctx, leadership, newest)
    // Before anything is read anew: a payment in two places counts in one.
    await resolveDoubts(ctx, leadership)
    await rememberWindow(ctx, newest)
    head = newest
  })
  const isRead = await step(async () => (more = await observeTransfers(ctx, leadership, head)))
  if (isFollowed && isRead && !more) {
    const isComplete = await step(() => recheckWindow(ctx, leadership, head))
    // What an indexer showed of what was in doubt: it may not have noticed the reorg itself.
    await step(() => resolveDoubts(ctx, leadership))
    if (isComplete) await step(() => recordObserved(ctx, leadership, head, asked))
  }
  const { observedHead } = ctx.paymentMemory
  if (isFollowed && observedHead !== undefined) ctx.metrics.lagBlocks.set(Math.max(0, head.number - observedHead))
  if (!ctx.paymentMemory.reconsidered) {
    ctx.paymentMemory.reconsidered = await step(() => reconsiderIgnored(ctx, leadership, head))
  }
  await step(() => decideTrust(ctx, leadership, head))
  // Without a look at the chain nothing is known to be deep.
  if (isFollowed) await step(() => advanceOrders(ctx, leadership, head))
  if (failures.length > 0) throw failures[0]
  return more
}
