import { ConflictError, InvalidError } from '@market/kit/errors'
import { type Kysely, sql, type Transaction } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'

/** What an order wants to hold of a stock that an adapter counts, with what was known when the adapter was asked. */
export type StockHold = {
  seller: string
  /** In lower case. */
  sku: string
  quantity: number
  /** What the adapter had, everybody's reservations included. */
  available: number
  /** `ServiceRoute.delivered`, read before the adapter was asked. */
  deliveredBefore: bigint
  /** Nobody ever held any of it. */
  isFirst: boolean
  /** Place of the first line in the basket. */
  line: number
}

export type OneOffHold = { seller: string; sku: string }

/** Somebody else has it, paid or within the time to pay. */
export class OneOffSoldError extends ConflictError {
  constructor(chainId: number, { seller, sku }: OneOffHold) {
    super('one_off_sold', 'One-off item already sold', { chainId, seller, sku })
  }
}

export class InsufficientStockError extends InvalidError {
  constructor(line: number, { seller, sku }: { seller: string; sku: string }, wanted: number, available: number) {
    const message = `Requested quantity ${wanted} for seller=${seller}, sku=${sku} exceeds inventory ${available}.`
    super('insufficient_stock', message, { path: `/items/${line}` }, 422)
  }
}

/** One order for all who hold several rows, so that two of them never wait for each other. */
const bySku = (a: OneOffHold, b: OneOffHold) => compare(a.seller, b.seller) || compare(a.sku, b.sku)
const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)

/** Rows a sku is counted in. Orders of one sku queue at one of them, so that a sku in demand sells as fast as many do. */
const SLOTS = 8
/**
 * An order that takes less than this part of what is left looks at the sum as it stands, without waiting for those who are at it:
 * all orders that can be under way at once (connections, so fewer than these) take no more than there is. Any other locks all
 * the slots.
 */
const PLENTY = 1000

/**
 * Holds stock and one-offs for an order in the transaction that makes it. What was delivered since the adapter was asked is
 * missing from what it said, so a delivery at the same moment never lets the same piece be sold twice. The levels must be there
 * (`openLevels`).
 *
 * @throws OneOffSoldError 409, InsufficientStockError 422
 */
export async function reserveForOrder(
  tx: Transaction<MarketDatabase>,
  order: { orderId: string; chainId: number },
  { stock, oneOffs }: { stock: StockHold[]; oneOffs: OneOffHold[] },
): Promise<void> {
  await reserveOneOffs(tx, order, oneOffs.toSorted(bySku))
  // Last, and only now: the row of a sku in demand is held no longer than the rest of the transaction takes.
  await reserveStock(tx, order, stock.toSorted(bySku))
}

async function reserveOneOffs(
  tx: Transaction<MarketDatabase>,
  { orderId, chainId }: { orderId: string; chainId: number },
  oneOffs: OneOffHold[],
): Promise<void> {
  if (oneOffs.length === 0) return
  const taken = await tx
    .insertInto('one_off_sales')
    .values(oneOffs.map(({ seller, sku }) => ({ chain_id: chainId, seller_address: seller, sku, order_id: orderId })))
    .onConflict((conflict) => conflict.doNothing())
    .returning(['seller_address', 'sku'])
    .execute()
  const missed = oneOffs.find(({ seller, sku }) => !taken.some((t) => t.seller_address === seller && t.sku === sku))
  if (missed) throw new OneOffSoldError(chainId, missed)
}

async function reserveStock(
  tx: Transaction<MarketDatabase>,
  { orderId, chainId }: { orderId: string; chainId: number },
  holds: StockHold[],
): Promise<void> {
  if (holds.length === 0) return
  if ((await insertReservations(tx, orderId, chainId, holds)) === holds.length) return
  await tx.deleteFrom('stock_reservations').where('order_id', '=', orderId).execute()
  const levels = await tx
    .selectFrom('stock_levels')
    .select(['seller_address', 'sku', 'reserved', 'delivered'])
    .where('chain_id', '=', chainId)
    .where(
      sql<boolean>`(seller_address, sku) in (
      select * from unnest(${holds.map((h) => h.seller)}::text[], ${holds.map((h) => h.sku)}::text[]))`,
    )
    .execute()
  for (const hold of holds) {
    const { seller, sku, quantity, available, deliveredBefore, line } = hold
    const rows = levels.filter((row) => row.seller_address === seller && row.sku === sku)
    const taken = rows.reduce((sum, row) => sum + BigInt(row.reserved) + BigInt(row.delivered), -deliveredBefore)
    const left = BigInt(available) - taken
    if (BigInt(quantity) > left) throw new InsufficientStockError(line, hold, quantity, Math.max(0, Number(left)))
  }
  throw new Error(`order ${orderId} could not be counted`)
}

/**
 * Makes room to count skus that nobody held before. Ahead of the transaction, which would have to lock such rows in the order
 * in which they appear.
 */
export async function openLevels(db: Kysely<MarketDatabase>, chainId: number, holds: StockHold[]): Promise<void> {
  const fresh = holds.filter(({ isFirst }) => isFirst)
  if (fresh.length === 0) return
  await db
    .insertInto('stock_levels')
    .values(
      fresh
        .toSorted(bySku)
        .flatMap(({ seller, sku }) =>
          Array.from({ length: SLOTS }, (_, slot) => ({ chain_id: chainId, seller_address: seller, sku, slot })),
        ),
    )
    .onConflict((conflict) => conflict.doNothing())
    .execute()
}

/** Locks, compares and reserves in one go; gives how many there was enough of. */
async function insertReservations(
  tx: Transaction<MarketDatabase>,
  orderId: string,
  chainId: number,
  holds: StockHold[],
): Promise<number> {
  const column = <K extends keyof StockHold>(name: K) => holds.map((hold) => String(hold[name]))
  // Order ids are random.
  const slot = Number.parseInt(orderId.slice(-4), 16) % SLOTS
  const { numAffectedRows } = await sql`
    with wanted as (
      select w.*, quantity * ${PLENTY}::bigint > available - (delivered - delivered_before) - reserved as is_exact
      from unnest(${column('seller')}::text[], ${column('sku')}::text[], ${column('quantity')}::integer[],
        ${column('available')}::bigint[], ${column('deliveredBefore')}::bigint[])
        as w (seller_address, sku, quantity, available, delivered_before)
      cross join lateral (
        select sum(reserved)::bigint as reserved, sum(delivered)::bigint as delivered from stock_levels l
        where l.chain_id = ${chainId} and l.seller_address = w.seller_address and l.sku = w.sku) as total
    ), locked as (
      select l.seller_address, l.sku, l.reserved, l.delivered from stock_levels l join wanted using (seller_address, sku)
      where l.chain_id = ${chainId} and (is_exact or slot = ${slot})
      order by l.seller_address, l.sku, l.slot for no key update of l
    ), level as (
      select seller_address, sku, sum(reserved) as reserved, sum(delivered) as delivered from locked group by seller_address, sku
    )
    insert into stock_reservations (order_id, chain_id, seller_address, sku, slot, quantity)
    select ${orderId}, ${chainId}::bigint, seller_address, sku, ${slot}::smallint, quantity
    from wanted join level using (seller_address, sku)
    where not is_exact or quantity <= available - (delivered - delivered_before) - reserved`.execute(tx)
  return Number(numAffectedRows ?? 0)
}

/** Lets go of all that these unpaid orders hold. Before their status changes: whoever tells of a status waits for nobody then. */
export async function releaseReservations(tx: Transaction<MarketDatabase>, orderIds: string[]): Promise<void> {
  await tx.deleteFrom('one_off_sales').where('order_id', 'in', orderIds).execute()
  await dropReservations(tx, orderIds)
}

/**
 * Ends what orders held of these skus, because they have them now: the adapter's own stock is less by as much. Repeating it
 * changes nothing.
 */
export async function settleReservations(
  tx: Transaction<MarketDatabase>,
  delivered: readonly { orderId: string; seller: string; sku: string }[],
): Promise<void> {
  if (delivered.length === 0) return
  const { rows } = await sql<{ order_id: string }>`
    update stock_reservations r set delivered = true
    from unnest(${delivered.map(({ orderId }) => orderId)}::text[], ${delivered.map(({ seller }) => seller)}::text[],
      ${delivered.map(({ sku }) => sku.toLowerCase())}::text[]) as d (order_id, seller_address, sku)
    where r.order_id = d.order_id and r.seller_address = d.seller_address and r.sku = d.sku
    returning r.order_id`.execute(tx)
  if (rows.length > 0) await dropReservations(tx, [...new Set(rows.map(({ order_id }) => order_id))], true)
}

/** Lets go of what an order holds of these skus of a seller's: nobody will deliver them. Repeating it changes nothing. */
export async function releaseSkus(
  tx: Transaction<MarketDatabase>,
  orderId: string,
  seller: string,
  skus: string[],
): Promise<void> {
  if (skus.length === 0) return
  const lower = skus.map((sku) => sku.toLowerCase())
  await tx
    .deleteFrom('one_off_sales')
    .where('order_id', '=', orderId)
    .where('seller_address', '=', seller)
    .where('sku', 'in', lower)
    .execute()
  const mine = sql`order_id = ${orderId} and seller_address = ${seller} and sku = any(${lower}::text[])`
  await sql`
    select 1 from stock_levels l
    where (chain_id, seller_address, sku, slot) in (
      select chain_id, seller_address, sku, slot from stock_reservations where ${mine})
    order by chain_id, seller_address, sku, slot for no key update of l`.execute(tx)
  await sql`delete from stock_reservations where ${mine}`.execute(tx)
}

/** Deleting them counts them off by trigger; the levels are locked first, in the order in which everybody does. */
async function dropReservations(tx: Transaction<MarketDatabase>, orderIds: string[], deliveredOnly = false) {
  await sql`
    select 1 from stock_levels l
    where (chain_id, seller_address, sku, slot) in (
      select chain_id, seller_address, sku, slot from stock_reservations
      where order_id = any(${orderIds}::text[]) and (delivered or not ${deliveredOnly}::boolean))
    order by chain_id, seller_address, sku, slot for no key update of l`.execute(tx)
  await tx
    .deleteFrom('stock_reservations')
    .where('order_id', 'in', orderIds)
    .$if(deliveredOnly, (query) => query.where('delivered', '=', true))
    .execute()
}
