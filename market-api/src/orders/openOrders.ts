import { OrderStatus } from '@market/contracts/statuses'
import { LimitError } from '@market/kit/errors'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'

/** When an order that holds goods and is not paid runs out is known; this is how soon it is worth asking again. */
const RETRY_SECONDS = 60

/**
 * Keeps one buyer, or one client nobody vouches for, from holding everybody's goods in orders that nobody pays (W-05).
 * Off with the rate limits. Throws LimitError 429.
 */
export async function requireRoomForOrder(
  ctx: MarketContext,
  who: { buyer: string } | { client: string },
): Promise<void> {
  const { RATE_LIMIT_ENABLED, MARKET_OPEN_ORDERS_PER_BUYER, MARKET_ANONYMOUS_OPEN_ORDERS } = ctx.config
  if (!RATE_LIMIT_ENABLED) return
  const cap = 'buyer' in who ? MARKET_OPEN_ORDERS_PER_BUYER : MARKET_ANONYMOUS_OPEN_ORDERS
  const open = await ctx.db
    .selectFrom('orders')
    .select('order_id')
    // No parameter: the partial indexes have to be seen to fit.
    .where(sql<boolean>`status = ${sql.lit(OrderStatus.paymentDue)}`)
    .$call((query) =>
      'buyer' in who ? query.where('buyer_address', '=', who.buyer) : query.where('placed_from', '=', who.client),
    )
    .limit(cap)
    .execute()
  if (open.length < cap) return
  const message = `There are ${cap} orders waiting for payment already: pay or cancel one`
  throw new LimitError('too_many_open_orders', message, RETRY_SECONDS)
}
