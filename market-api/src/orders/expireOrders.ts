import { OrderStatus } from '@market/contracts/statuses'
import { inTransaction } from '@market/kit/db'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import { closeUnpaid } from './cancelOrder.ts'

const BATCH = 100
/** For an order that something was paid for: time to pay the rest. Without an end, dust would hold goods for ever. */
const PARTLY_PAID_SECONDS = 86_400
/** A transfer shows in the source this many polls after it was mined, at the latest. */
const POLLS_BEHIND = 2

/**
 * Cancels a batch of orders that nobody paid in time, with all that they held (W-05, W-21). Only up to the time until which
 * payments are known to be read: while the chain can't be, nobody loses an order that may be paid. True when there may be more.
 */
export async function expireOrders(ctx: MarketContext): Promise<boolean> {
  const expired = await inTransaction(ctx.db, async (tx) => {
    const due = await tx
      .selectFrom('orders as o')
      .innerJoin('payments_observed as p', 'p.chain_id', 'o.chain_id')
      .select('o.order_id')
      // No parameter: the partial index has to be seen to fit.
      .where(sql<boolean>`o.status = ${sql.lit(OrderStatus.paymentDue)}`)
      .where('o.payment_due_by', '<=', ctx.now())
      .where(
        sql<boolean>`o.payment_due_by <= p.observed_at - make_interval(secs => ${POLLS_BEHIND * ctx.config.POLL_SECONDS})`,
      )
      .where(
        sql<boolean>`(o.payment_due_by < ${ctx.now()}::timestamptz - make_interval(secs => ${PARTLY_PAID_SECONDS})
          or not exists (select 1 from payment_transfers t
            where t.payment_reference = o.payment_reference and t.chain_id = o.chain_id
              and t.gateway_address = any(o.expected_gateways) and t.eligible is distinct from false
              and t.ignored_reason is null and t.orphaned_at is null))`,
      )
      .orderBy('o.payment_due_by')
      .limit(BATCH)
      .forUpdate('o')
      .skipLocked()
      .execute()
    const orderIds = due.map(({ order_id }) => order_id)
    await closeUnpaid(ctx, tx, orderIds, 'expired')
    return orderIds
  })
  if (expired.length > 0) ctx.log.info({ orders: expired.length }, 'unpaid orders expired')
  return expired.length === BATCH
}
