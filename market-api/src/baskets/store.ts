import type { Kysely, Transaction } from 'kysely'
import { sql } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'
import type { Basket } from './basket.ts'
import { BasketCheckedOutError, BasketExpiredError, BasketNotFoundError } from './errors.ts'

export type StoredBasket = {
  basket: Basket
  version: string
  status: 'Draft' | 'CheckedOut'
  modifiedAt: Date
  orderId: string | null
}

/** Throws BasketNotFoundError, or BasketExpiredError past its time. */
export async function readStoredBasket(db: Kysely<MarketDatabase>, basketId: string, now: Date): Promise<StoredBasket> {
  const row = await db.selectFrom('baskets').selectAll().where('basket_id', '=', basketId).executeTakeFirst()
  if (!row) throw new BasketNotFoundError()
  if (row.expires_at <= now) throw new BasketExpiredError()
  const { basket_json: basket, status, modified_at: modifiedAt, order_id: orderId } = row
  return { basket, version: String(row.version), status, modifiedAt, orderId }
}

/** As `readStoredBasket`, and throws BasketCheckedOutError when it can't change any more. */
export async function readDraft(db: Kysely<MarketDatabase>, basketId: string, now: Date): Promise<StoredBasket> {
  const stored = await readStoredBasket(db, basketId, now)
  if (stored.status === 'CheckedOut') throw new BasketCheckedOutError()
  return stored
}

export async function insertBasket(db: Kysely<MarketDatabase>, basket: Basket, now: Date) {
  await db
    .insertInto('baskets')
    .values({
      basket_id: basket.basketId,
      basket_json: basket,
      created_at: now,
      modified_at: now,
      expires_at: expiry(basket, now),
      order_id: null,
      maker_address: null,
      token_hash: null,
    })
    .execute()
}

/** Merges the members into the stored basket; two patches of different members both stay. Undefined when it is no draft. */
export async function mergeIntoDraft(
  db: Kysely<MarketDatabase>,
  basketId: string,
  members: Partial<Basket>,
  now: Date,
) {
  const row = await db
    .updateTable('baskets')
    .set({
      basket_json: sql`basket_json || ${sql.val(members)}::jsonb`,
      version: sql`version + 1`,
      modified_at: now,
      expires_at: sql`${now}::timestamptz
        + make_interval(secs => (basket_json || ${sql.val(members)}::jsonb ->> 'ttlSeconds')::integer)`,
    })
    .where('basket_id', '=', basketId)
    .where('status', '=', 'Draft')
    .where('expires_at', '>', now)
    .returning(['basket_json', 'version', 'modified_at'])
    .executeTakeFirst()
  return row && { basket: row.basket_json, version: String(row.version), modifiedAt: row.modified_at }
}

/** Binds the draft to its order, if it is still the draft that was read. */
export async function freezeBasket(
  tx: Transaction<MarketDatabase>,
  basketId: string,
  version: string,
  orderId: string,
): Promise<boolean> {
  const row = await tx
    .updateTable('baskets')
    .set({ status: 'CheckedOut', order_id: orderId, version: sql`version + 1` })
    .where('basket_id', '=', basketId)
    .where('status', '=', 'Draft')
    .where('version', '=', version)
    .returning('basket_id')
    .executeTakeFirst()
  return row !== undefined
}

const expiry = (basket: Basket, now: Date) => new Date(now.getTime() + basket.ttlSeconds * 1000)
