import { normalizeAddress } from '@market/contracts/address'
import { inTransaction } from '@market/kit/db'
import { type Kysely, sql } from 'kysely'
import type { CodesDatabase } from './database.ts'
import { ensurePool } from './seedPool.ts'

export type CodeMapping = {
  chainId: number
  seller: string
  sku: string
  poolId: string
  downloadUrlTemplate: string | null
}

/** What a sku draws from. */
export type CodeSource = Pick<CodeMapping, 'poolId' | 'downloadUrlTemplate'>

/** Enabled mappings of a seller's skus, by sku. */
export async function findMappings(
  db: Kysely<CodesDatabase>,
  chainId: number,
  seller: string,
  skus: string[],
): Promise<Map<string, CodeSource>> {
  // One array, whatever the number of skus: the same statement, planned once.
  const { rows } = await sql<{ sku: string; pool_id: string; download_url_template: string | null }>`
    select sku, pool_id, download_url_template from code_mappings
      where chain_id = ${chainId} and seller_address = ${seller} and sku = any (${skus}) and enabled
        and revoked_at is null`.execute(db)
  return new Map(rows.map((row) => [row.sku, { poolId: row.pool_id, downloadUrlTemplate: row.download_url_template }]))
}

export type StoredMapping = CodeMapping & { enabled: boolean; revokedAt: Date | null }

/** All mappings, those that are off included; of one pool, or of one sku. */
export async function listMappings(
  db: Kysely<CodesDatabase>,
  of: Partial<Pick<CodeMapping, 'chainId' | 'seller' | 'sku' | 'poolId'>> = {},
): Promise<StoredMapping[]> {
  let query = db.selectFrom('code_mappings').selectAll().orderBy('chain_id').orderBy('seller_address').orderBy('sku')
  if (of.poolId !== undefined) query = query.where('pool_id', '=', of.poolId)
  if (of.chainId !== undefined) query = query.where('chain_id', '=', of.chainId)
  if (of.seller !== undefined) query = query.where('seller_address', '=', normalizeAddress(of.seller))
  if (of.sku !== undefined) query = query.where('sku', '=', skuOf(of.sku))
  return (await query.execute()).map((row) => ({
    chainId: Number(row.chain_id),
    seller: row.seller_address,
    sku: row.sku,
    poolId: row.pool_id,
    downloadUrlTemplate: row.download_url_template,
    enabled: row.enabled,
    revokedAt: row.revoked_at,
  }))
}

const skuOf = (text: string) => text.trim().toLowerCase()

/**
 * Maps (chain, seller, sku) to a pool, creating the pool. Enabled unless `enabled` is false; enabling takes a revocation back,
 * disabling revokes (adapters.md 1). Seller and sku are kept in lower case, as callers of `/fulfill` are read.
 *
 * @throws AddressError the seller is not an address
 */
export async function upsertCodeMapping(
  db: Kysely<CodesDatabase>,
  { enabled = true, ...mapping }: CodeMapping & { enabled?: boolean },
): Promise<'created' | 'updated' | 'unchanged'> {
  return inTransaction(db, async (tx) => {
    await ensurePool(tx, mapping.poolId)
    const key = {
      chain_id: mapping.chainId,
      seller_address: normalizeAddress(mapping.seller),
      sku: skuOf(mapping.sku),
    }
    const row = { pool_id: mapping.poolId, download_url_template: mapping.downloadUrlTemplate, enabled }
    const revoked_at = enabled ? null : sql<Date>`now()`
    const inserted = await tx
      .insertInto('code_mappings')
      .values({ ...key, ...row, revoked_at })
      .onConflict((conflict) => conflict.doNothing())
      .returning('sku')
      .executeTakeFirst()
    if (inserted) return 'created'
    const updated = await tx
      .updateTable('code_mappings')
      .set({ ...row, revoked_at })
      .where((is) => is.and(key))
      .where((is) =>
        is.or([
          is('pool_id', '<>', row.pool_id),
          is('download_url_template', 'is distinct from', row.download_url_template),
          is('enabled', '<>', enabled),
          is('revoked_at', enabled ? 'is not' : 'is', null),
        ]),
      )
      .returning('sku')
      .executeTakeFirst()
    return updated ? 'updated' : 'unchanged'
  })
}

/**
 * Turns a mapping off, and keeps its row. False when there is none.
 *
 * @throws AddressError the seller is not an address
 */
export async function revokeCodeMapping(
  db: Kysely<CodesDatabase>,
  { chainId, seller, sku }: Pick<CodeMapping, 'chainId' | 'seller' | 'sku'>,
): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('code_mappings')
    .set({ enabled: false, revoked_at: sql`coalesce(revoked_at, now())` })
    .where((is) => is.and({ chain_id: chainId, seller_address: normalizeAddress(seller), sku: skuOf(sku) }))
    .executeTakeFirst()
  return numUpdatedRows > 0n
}
