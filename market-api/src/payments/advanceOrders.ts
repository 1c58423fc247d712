import { inTransaction } from '@market/kit/db'
import { LeaseLostError } from '@market/kit/lease'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { Leadership } from './leadership.ts'
import type { BlockRef } from './paymentSource.ts'
import { settleOrders, tellSettled } from './settleOrders.ts'

const BATCH = 500

/**
 * Settles every order that this head has something to do for. They say themselves at which head that is, so that a poll reads
 * what is due and nothing else, however many orders are open.
 */
export async function advanceOrders(ctx: MarketContext, leadership: Leadership, head: BlockRef): Promise<void> {
  const failures: unknown[] = []
  let after = { block: -1, orderId: '' }
  for (;;) {
    const batch = await ctx.db
      .selectFrom('orders')
      .select(['order_id', 'settle_at_block'])
      .where('chain_id', '=', ctx.config.CHAIN_ID)
      .where('settle_at_block', '<=', head.number)
      .where(sql<boolean>`(settle_at_block, order_id) > (${after.block}::bigint, ${after.orderId}::text)`)
      .orderBy('settle_at_block')
      .orderBy('order_id')
      .limit(BATCH)
      .execute()
    if (batch.length > 0) {
      const ids = batch.map(({ order_id }) => order_id)
      await settleBatch(ctx, leadership, ids, head).catch(async (error) => {
        if (error instanceof LeaseLostError) throw error
        // One that can't be settled must not hold up the others.
        for (const id of ids) {
          await settleBatch(ctx, leadership, [id], head).catch((cause) => {
            ctx.log.error({ orderId: id, err: cause }, 'order not settled')
            failures.push(cause)
          })
        }
      })
      after = { block: Number(batch.at(-1)!.settle_at_block), orderId: batch.at(-1)!.order_id }
    }
    if (batch.length < BATCH) break
  }
  if (failures.length > 0) throw failures[0]
}

/** One transaction: the new states, their history, jobs and notifications, or none of it. */
export async function settleBatch(
  ctx: MarketContext,
  leadership: Leadership,
  orderIds: string[],
  head: BlockRef,
): Promise<void> {
  await leadership.keep()
  const settled = await inTransaction(ctx.db, async (tx) => {
    await leadership.assert(tx)
    return settleOrders(ctx, tx, orderIds, head.number)
  })
  tellSettled(ctx, settled)
}
