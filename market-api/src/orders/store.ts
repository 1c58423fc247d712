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
  const early = await tx
    .updateTable('payment_transfers')
    .set((is) => ({
      ignored_reason: is
        .case()
        .when(sql<boolean>`gateway_address = any(${order.expectedGateways}::text[])`)
        .then(null)
        .else('unknown_gateway')
        .end(),
    }))
    .where('payment_reference', '=', order.paymentReference)
    .where('chain_id', '=', order.chainId)
    .where('ignored_reason', '=', 'no_order')
    .returning('tx_hash')
    .execute()
  await tx
    .insertInto('orders')
    .values({
      order_id: order.orderId,
      basket_id: order.basketId,
      chain_id: order.chainId,
      buyer_address: order.buyer,
      order_json: order.snapshot,
      status: OrderStatus.paymentDue,
      created_at: order.createdAt,
      payment_reference: order.paymentReference,
      price_wei: order.priceWei.toString(),
      expected_gateways: order.expectedGateways,
      payment_seen_at: early.length > 0 ? order.createdAt : null,
      paid_at: null,
      paid_tx_hash: null,
      paid_log_index: null,
      confirmed_at: null,
      finalized_at: null,
      payment_due_by: order.paymentDueBy,
      listed: order.listed,
      placed_from: order.placedFrom,
    })
    .execute()
  await tx
    .insertInto('order_lines')
    .values(
      order.lines.map((line) => ({
        order_id: order.orderId,
        line_index: line.lineIndex,
        seller_address: line.seller,
        sku: line.sku,
        quantity: line.quantity,
        fulfillment_trigger: line.trigger,
        link_keccak: line.linkKeccak,
      })),
    )
    .execute()
  await tx
    .insertInto('order_sellers')
    .values(
      [...new Set(order.lines.map((line) => line.seller))].map((seller) => ({
        order_id: order.orderId,
        seller_address: seller,
        chain_id: order.chainId,
        created_at: order.createdAt,
      })),
    )
    .execute()
}

export function findOrderOfBasket(db: Kysely<MarketDatabase>, basketId: string) {
  return db
    .selectFrom('orders')
    .select(['order_id', 'payment_reference'])
    .where('basket_id', '=', basketId)
    .executeTakeFirst()
}
