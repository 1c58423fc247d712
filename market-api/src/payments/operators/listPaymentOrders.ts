import { type RawBuilder, sql } from 'kysely'
import {
  type Db,
  NotKnownError,
  OF_ORDERS,
  OF_TRANSFERS,
  orderColumns,
  type OrderRow,
  type PaidOrder,
  paidOrder,
  stuckSince,
} from './records.ts'

export const PAYMENT_STATES = [
  'reverted',
  'late',
  'overpaid',
  'underpaid',
  'undecided',
  'orphaned',
  'settling',
] as const
export type PaymentState = (typeof PAYMENT_STATES)[number]

/** With each state that it is in. */
export type ListedOrder = PaidOrder & { states: PaymentState[] }

/**
 * Orders in a state, newest first; without one, all that wait for a person: reverted, late, overpaid, underpaid with the time to
 * pay over, undecided for longer than a poll can take.
 *
 * @param of.after the last order of the page before; throws NotKnownError when there is no such order
 * @returns `next` is the order to go on after
 */
export async function listPaymentOrders(
  db: Db,
  of: { state?: PaymentState | undefined; limit: number; after?: string | undefined; chainId?: number | undefined },
): Promise<{ orders: ListedOrder[]; next: string | undefined }> {
  const place = of.after === undefined ? undefined : await findPlace(db, of.after)
  const onPage = sql`${of.chainId === undefined ? sql`true` : sql`o.chain_id = ${sql.lit(of.chainId)}`}
    and ${place ? sql`(o.created_at, o.order_id) < (${place.created_at}::timestamptz, ${of.after})` : sql`true`}`
  const newest = sql`order by o.created_at desc, o.order_id desc limit ${of.limit + 1}`
  const inOrders = (where: RawBuilder<unknown>) =>
    sql`(select o.order_id from orders o where ${where} and ${onPage} ${newest})`
  // The limit says that there is one order a reference: a planner that believes in many transfers would read all orders instead.
  const byTransfers = (where: RawBuilder<unknown>) => sql`(
    with concerned as materialized (
      select distinct t.chain_id, t.payment_reference from payment_transfers t where ${where})
    select o.order_id from concerned c cross join lateral (
      select * from orders where chain_id = c.chain_id and payment_reference = c.payment_reference limit 1) o
     where ${onPage} ${newest})`
  const picked = of.state
    ? isOfTransfers(of.state)
      ? byTransfers(OF_TRANSFERS[of.state])
      : inOrders(OF_ORDERS[of.state])
    : sql.join(
        [
          inOrders(OF_ORDERS.reverted),
          inOrders(OF_ORDERS.late),
          inOrders(OF_ORDERS.overpaid),
          inOrders(sql`${OF_ORDERS.underpaid} and o.payment_due_by < now()`),
          byTransfers(sql`${OF_TRANSFERS.undecided} and t.observed_at < ${stuckSince}`),
        ],
        sql` union `,
      )
  const states = PAYMENT_STATES.map((state) => sql`case when ${isIn(state)} then ${sql.lit(state)} end`)
  const { rows } = await sql<OrderRow & { states: PaymentState[] }>`
    select ${orderColumns}, array_remove(array[${sql.join(states)}], null) as states
      from (${picked}) as picked join orders o using (order_id) ${newest}`.execute(db)
  const orders = rows.slice(0, of.limit).map((row) => ({ ...paidOrder(row), states: row.states }))
  return { orders, next: rows.length > of.limit ? orders.at(-1)?.orderId : undefined }
}

const isOfTransfers = (state: PaymentState): state is keyof typeof OF_TRANSFERS => state in OF_TRANSFERS

/** Whether an order `o` is. */
const isIn = (state: PaymentState) =>
  isOfTransfers(state)
    ? sql`(select bool_or(${OF_TRANSFERS[state]}) from payment_transfers t
        where t.payment_reference = o.payment_reference and t.chain_id = o.chain_id)`
    : OF_ORDERS[state]

/** As text: a Date would round, and an order at the edge would show twice or never. */
async function findPlace(db: Db, orderId: string) {
  const { rows } = await sql<{ created_at: string }>`
    select created_at::text from orders where order_id = ${orderId}`.execute(db)
  if (!rows[0]) throw new NotKnownError(`--after names an order that is not known: ${orderId}`)
  return rows[0]
}
