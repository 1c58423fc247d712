import { inTransaction } from '@market/kit/db'
import { OrderStatus } from '@market/contracts/statuses'
import { type Kysely, type RawBuilder, sql } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'
import { hasPersonalData, isDelivered, stripPersonalData } from '../orders/personalData.ts'

const BATCH = 500

/** What was done, or would be: rows deleted, orders whose personal data went, and orders that have to keep theirs for now. */
export type Erasure = {
  address: string
  baskets: number
  challenges: number
  /** Answers of checkouts, kept to be given again. */
  answers: number
  /** Orders are accounts and stay; what they said of a person went. */
  orders: number
  /** Orders that said nothing of a person. */
  unchanged: number
  waiting: { orderId: string; reason: 'unpaid' | 'undelivered' }[]
}

/**
 * Erases what the market keeps of the person behind an address (market-api.md W-40), on every chain. May be repeated, and has
 * to be once the orders in `waiting` are delivered; unpaid ones lose their data by themselves when they are cancelled.
 *
 * @param address in lower case
 */
export async function eraseAddress(
  db: Kysely<MarketDatabase>,
  address: string,
  { dryRun = false }: { dryRun?: boolean } = {},
): Promise<Erasure> {
  const orderIds = db.selectFrom('orders').select('order_id').where('buyer_address', '=', address)
  // Baskets first: no order can come of them any more.
  const baskets = await remove(
    db,
    'baskets',
    sql<boolean>`(basket_json ->> 'buyer' = ${address} or maker_address = ${address} or order_id in (${orderIds}))`,
    dryRun,
  )
  const challenges = await remove(db, 'auth_challenges', sql<boolean>`address = ${address}`, dryRun)
  const answers = await remove(
    db,
    'idempotency_keys',
    sql<boolean>`(scope = ${address} or answer ->> 'orderId' in (${orderIds}))`,
    dryRun,
  )

  const orders = await db
    .selectFrom('orders')
    .select(['order_id', 'status', 'paid_at'])
    .select([hasPersonalData.as('has_data'), isDelivered.as('is_delivered')])
    .where('buyer_address', '=', address)
    .orderBy('created_at')
    .orderBy('order_id')
    .execute()
  const withData = orders.filter((order) => order.has_data)
  const isOver = ({ status, is_delivered }: (typeof orders)[number]) => status === OrderStatus.cancelled || is_delivered
  const over = withData.filter(isOver).map((order) => order.order_id)
  if (!dryRun) {
    for (let i = 0; i < over.length; i += BATCH) {
      await inTransaction(db, (tx) => stripPersonalData(tx, over.slice(i, i + BATCH)))
    }
  }
  return {
    address,
    baskets,
    challenges,
    answers,
    orders: over.length,
    unchanged: orders.length - withData.length,
    waiting: withData
      .filter((order) => !isOver(order))
      .map((order) => ({ orderId: order.order_id, reason: order.paid_at ? 'undelivered' : 'unpaid' })),
  }
}

/** How many rows there were to remove. */
async function remove(
  db: Kysely<MarketDatabase>,
  table: 'baskets' | 'auth_challenges' | 'idempotency_keys',
  where: RawBuilder<boolean>,
  dryRun: boolean,
): Promise<number> {
  const name = sql.table(table)
  if (!dryRun) return Number((await sql`delete from ${name} where ${where}`.execute(db)).numAffectedRows ?? 0)
  const { rows } = await sql<{ n: string }>`select count(*) as n from ${name} where ${where}`.execute(db)
  return Number(rows[0]!.n)
}
