import { OrderStatus } from '@market/contracts/statuses'
import { type Kysely, sql, type Transaction } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'
import type { OrderLine, OrderSnapshot } from './order.ts'

export type NewOrder = {
  orderId: string
  basketId: string
  chainId: number
  buyer: string
  paymentReference: string
  priceWei: bigint
  expectedGateways: string[]
  snapshot: OrderSnapshot
  lines: OrderLine[]
  createdAt: Date
  /** When an order that nobody paid is cancelled. */
  paymentDueBy: Date
  /** Placed with the buyer's own token: shown in the buyer's lists at once. */
  listed: boolean
  /** Keyed hash of the client's network, for the cap on open orders. */
  placedFrom: string | null
}

/** The order, its lines, and the claim on transfers that were seen before it existed (payments.md P23). */
export async function insertOrder(tx: Transaction<MarketDatabase>, order: NewOrder) {
  const column = <K extends keyof OrderLine>(name: K) => order.lines.map((line) => line[name])
  // One statement: each more is a way to the database and back, with the basket's row held.
  await sql`
    with early as (
      update payment_transfers
      set ignored_reason = case when gateway_address = any(${order.expectedGateways}::text[]) then null else 'unknown_gateway' end
      where payment_reference = ${order.paymentReference} and chain_id = ${order.chainId} and ignored_reason = 'no_order'
      returning 1
    ), line as (
      select * from unnest(${column('lineIndex')}::integer[], ${column('seller')}::text[], ${column('sku')}::text[],
        ${column('quantity')}::integer[], ${column('trigger')}::text[], ${column('linkKeccak')}::text[])
        as l (line_index, seller_address, sku, quantity, fulfillment_trigger, link_keccak)
    ), made as (
      insert into orders (order_id, basket_id, chain_id, buyer_address, order_json, status, created_at, payment_reference,
        price_wei, expected_gateways, payment_due_by, listed, placed_from, payment_seen_at)
      select ${order.orderId}, ${order.basketId}, ${order.chainId}::bigint, ${order.buyer}, ${sql.val(order.snapshot)}::jsonb,
        ${OrderStatus.paymentDue}, ${order.createdAt}::timestamptz, ${order.paymentReference},
        ${order.priceWei.toString()}::numeric, ${order.expectedGateways}::text[], ${order.paymentDueBy}::timestamptz,
        ${order.listed}::boolean, ${order.placedFrom},
        case when exists (select 1 from early) then ${order.createdAt}::timestamptz end
    ), lines as (
      insert into order_lines (order_id, line_index, seller_address, sku, quantity, fulfillment_trigger, link_keccak)
      select ${order.orderId}, line.* from line
    )
    insert into order_sellers (order_id, seller_address, chain_id, created_at)
    select distinct ${order.orderId}, seller_address, ${order.chainId}::bigint, ${order.createdAt}::timestamptz from line`.execute(
    tx,
  )
}

export function findOrderOfBasket(db: Kysely<MarketDatabase>, basketId: string) {
  return db
    .selectFrom('orders')
    .select(['order_id', 'payment_reference'])
    .where('basket_id', '=', basketId)
    .executeTakeFirst()
}
