import type { Kysely, Transaction } from 'kysely'
import { sql } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'
import type { Basket } from './basket.ts'

export type StoredBasket = {
  basket: Basket
  version: string
  status: 'Draft' | 'CheckedOut'
  modifiedAt: Date
  expiresAt: Date
  orderId: string | null
  /** Whose token it was made with. */
  maker: string | null
  owned: boolean
  /** SHA-256 of the basket's own token. */
  tokenHash: Buffer | null
  tokenRequired: boolean
}

export async function findBasket(db: Kysely<MarketDatabase>, basketId: string): Promise<StoredBasket | undefined> {
  const row = await db.selectFrom('baskets').selectAll().where('basket_id', '=', basketId).executeTakeFirst()
  return (
    row && {
      basket: row.basket_json,
      version: String(row.version),
      status: row.status,
      modifiedAt: row.modified_at,
      expiresAt: row.expires_at,
      orderId: row.order_id,
      maker: row.maker_address,
      owned: row.owned,
      tokenHash: row.token_hash,
      tokenRequired: row.token_required,
    }
  )
}

export async function insertBasket(
  db: Kysely<MarketDatabase>,
  basket: Basket,
  access: { maker: string | null; owned: boolean; tokenHash: Buffer },
  now: Date,
) {
  await db
    .insertInto('baskets')
    .values({
      basket_id: basket.basketId,
      basket_json: basket,
      created_at: now,
      modified_at: now,
      expires_at: new Date(now.getTime() + basket.ttlSeconds * 1000),
      order_id: null,
      maker_address: access.maker,
      owned: access.owned,
      token_hash: access.tokenHash,
    })
    .execute()
}

/** From now on the basket asks who comes. */
export async function closeBasket(
  db: Kysely<MarketDatabase>,
  basketId: string,
  { owned, tokenRequired }: { owned: boolean; tokenRequired: boolean },
) {
  await db
    .updateTable('baskets')
    .set({ ...(owned ? { owned } : {}), ...(tokenRequired ? { token_required: true } : {}) })
    .where('basket_id', '=', basketId)
    .execute()
}

/**
 * Merges the members into the stored basket; two patches of different members both stay. Undefined when it is no draft, or
 * not in the version that was asked for.
 */
export async function mergeIntoDraft(
  db: Kysely<MarketDatabase>,
  basketId: string,
  members: Partial<Basket>,
  now: Date,
  version: string | undefined,
) {
  const row = await db
    .updateTable('baskets')
    .set({
      basket_json: sql`basket_json || ${sql.val(members)}::jsonb`,
      version: sql`version + 1`,
      modified_at: now,
      expires_at: sql`${now}::timestamptz
        + make_interval(secs => coalesce(${members.ttlSeconds ?? null}::integer, (basket_json ->> 'ttlSeconds')::integer))`,
    })
    .where('basket_id', '=', basketId)
    .where('status', '=', 'Draft')
    .where('expires_at', '>', now)
    .$if(version !== undefined, (query) => query.where('version', '=', version!))
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
