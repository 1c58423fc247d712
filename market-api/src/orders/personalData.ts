import { type RawBuilder, sql, type Transaction } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'

/** What of a person an order keeps besides the address that bought: names, addresses, contact, age. */
export const hasPersonalData: RawBuilder<boolean> = sql<boolean>`(
  order_json #>> '{customer,givenName}' is not null or order_json #>> '{customer,familyName}' is not null
  or order_json ->> 'billingAddress' is not null or order_json ->> 'shippingAddress' is not null
  or order_json ->> 'sellerContact' is not null or order_json ->> 'customerContact' is not null
  or order_json ->> 'customerAge' is not null)`

/**
 * Sets names, addresses, contacts and age in these orders to null; `customer.@id`, lines and prices stay (market-api.md W-40).
 * Orders without any are not written. Returns how many had some.
 */
export async function stripPersonalData(tx: Transaction<MarketDatabase>, orderIds: readonly string[]): Promise<number> {
  if (orderIds.length === 0) return 0
  const { numUpdatedRows } = await tx
    .updateTable('orders')
    .set({
      order_json: sql`order_json
        || '{"billingAddress": null, "shippingAddress": null, "sellerContact": null, "customerContact": null}'
        || case when order_json ? 'customerAge' then '{"customerAge": null}'::jsonb else '{}'::jsonb end
        || jsonb_build_object('customer',
             (order_json -> 'customer') || '{"givenName": null, "familyName": null}'::jsonb)`,
    })
    .where('order_id', 'in', orderIds)
    .where(hasPersonalData)
    .executeTakeFirst()
  return Number(numUpdatedRows)
}

/** Of `orders`: paid for good, and every line of it delivered or given up. Nobody needs to know where to any more. */
export const isDelivered: RawBuilder<boolean> = sql<boolean>`(
  finalized_at is not null and not exists (
    select from order_lines l where l.order_id = orders.order_id and not exists (
      select from fulfillment_jobs j
       where j.order_id = l.order_id and j.status in ('done', 'cancelled') and l.line_index = any (j.line_indexes))))`
