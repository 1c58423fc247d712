import { normalizeAddress } from '@market/contracts/address'
import { inTransaction } from '@market/kit/db'
import { type Kysely, sql, type Transaction } from 'kysely'
import type { CodesDatabase } from './database.ts'

export type { CodesDatabase } from './database.ts'

/** Creates the pool when it is missing. */
async function ensurePool(tx: Transaction<CodesDatabase>, poolId: string) {
  await tx
    .insertInto('code_pools')
    .values({ pool_id: poolId })
    .onConflict((conflict) => conflict.doNothing())
    .execute()
}

export type SeedResult = {
  poolId: string
  submitted: number
  added: number
  duplicate: number
  alreadyDispensed: number
}

const BATCH = 10_000

/**
 * Adds codes to a pool in the given order, creating the pool when missing. Blank lines are dropped; a code the pool has or
 * ever had is left as it is, so a dispensed code never comes back (adapters.md 7.2, A-4). Repeating it changes nothing.
 */
export async function seedPool(
  db: Kysely<CodesDatabase>,
  poolId: string,
  codes: readonly string[],
  onProgress: (done: number) => void = () => {},
): Promise<SeedResult> {
  const trimmed = codes.map((code) => code.trim()).filter((code) => code !== '')
  const unique = [...new Set(trimmed)]
  let added = 0
  let alreadyDispensed = 0
  await inTransaction(db, (tx) => ensurePool(tx, poolId))
  for (let from = 0; from < unique.length; from += BATCH) {
    const batch = unique.slice(from, from + BATCH)
    const counts = await inTransaction(db, (tx) => seedBatch(tx, poolId, batch))
    added += counts.added
    alreadyDispensed += counts.dispensed
    onProgress(from + batch.length)
  }
  const submitted = trimmed.length
  return { poolId, submitted, added, duplicate: submitted - added - alreadyDispensed, alreadyDispensed }
}

async function seedBatch(tx: Transaction<CodesDatabase>, poolId: string, batch: string[]) {
  // One seeder at a time: two that insert the same codes in different orders would wait for each other.
  await sql`select 1 from code_pools where pool_id = ${poolId} for no key update`.execute(tx)
  const { rows } = await sql<{ added: string; dispensed: string }>`
    with submitted as (
      select code collate "C" as code, place from unnest(${sql.val(batch)}::text[]) with ordinality as t (code, place)
    ),
    dispensed as (
      select count(*) as n from code_pool_codes
      where pool_id = ${poolId} and state <> 'available' and code in (select code from submitted)
    ),
    inserted as (
      insert into code_pool_codes (pool_id, code) select ${poolId}, code from submitted order by place
      on conflict (pool_id, code) do nothing returning 1
    )
    select (select count(*) from inserted) as added, (select n from dispensed) as dispensed`.execute(tx)
  return { added: Number(rows[0]!.added), dispensed: Number(rows[0]!.dispensed) }
}

export type CodeMapping = {
  chainId: number
  seller: string
  sku: string
  poolId: string
  downloadUrlTemplate: string | null
}

/**
 * Maps (chain, seller, sku) to a pool, creating the pool, enabling the mapping again if it was revoked. Seller and sku are
 * kept in lower case, as callers of `/fulfill` are read.
 *
 * @throws AddressError the seller is not an address
 */
export async function upsertCodeMapping(
  db: Kysely<CodesDatabase>,
  mapping: CodeMapping,
): Promise<'created' | 'updated' | 'unchanged'> {
  return inTransaction(db, async (tx) => {
    await ensurePool(tx, mapping.poolId)
    const key = {
      chain_id: mapping.chainId,
      seller_address: normalizeAddress(mapping.seller),
      sku: mapping.sku.trim().toLowerCase(),
    }
    const row = { pool_id: mapping.poolId, download_url_template: mapping.downloadUrlTemplate }
    const inserted = await tx
      .insertInto('code_mappings')
      .values({ ...key, ...row, revoked_at: null })
      .onConflict((conflict) => conflict.doNothing())
      .returning('sku')
      .executeTakeFirst()
    if (inserted) return 'created'
    const updated = await tx
      .updateTable('code_mappings')
      .set({ ...row, enabled: true, revoked_at: null })
      .where('chain_id', '=', key.chain_id)
      .where('seller_address', '=', key.seller_address)
      .where('sku', '=', key.sku)
      .where((is) =>
        is.or([
          is('pool_id', '<>', row.pool_id),
          is('download_url_template', 'is distinct from', row.download_url_template),
          is('enabled', '=', false),
          is('revoked_at', 'is not', null),
        ]),
      )
      .returning('sku')
      .executeTakeFirst()
    return updated ? 'updated' : 'unchanged'
  })
}
