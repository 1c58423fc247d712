import { type Kysely, sql, type Transaction } from 'kysely'
import { type CodeKeys, fingerprintOf, openCode } from './codeKeys.ts'
import type { CodesDatabase } from './database.ts'

export type Pool = {
  poolId: string
  available: number
  assigned: number
  void: number
  lowStockThreshold: number | null
  /** Since when it has been at or under its threshold, as far as a running dispenser has seen. */
  lowSince: Date | null
}

/** All pools by id, or the one. */
export async function listPools(db: Kysely<CodesDatabase>, poolId?: string): Promise<Pool[]> {
  const { rows } = await sql<{
    pool_id: string
    available: string
    assigned: string
    void: string
    low_stock_threshold: number | null
    low_since: Date | null
  }>`
    select p.pool_id, p.low_stock_threshold, p.low_since, coalesce(sum(c.available), 0) as available,
        coalesce(sum(c.assigned), 0) as assigned, coalesce(sum(c.void), 0) as void
      from code_pools p left join code_pool_counts c using (pool_id)
      where ${poolId ?? null}::text is null or p.pool_id = ${poolId ?? null}
      group by p.pool_id order by p.pool_id`.execute(db)
  return rows.map((row) => ({
    poolId: row.pool_id,
    available: Number(row.available),
    assigned: Number(row.assigned),
    void: Number(row.void),
    lowStockThreshold: row.low_stock_threshold,
    lowSince: row.low_since,
  }))
}

/** Codes of the pool that nobody has yet. */
export async function countAvailable(db: Kysely<CodesDatabase>, poolId: string): Promise<number> {
  const { n } = await db
    .selectFrom('code_pool_counts')
    .select(sql<string>`coalesce(sum(available), 0)`.as('n'))
    .where('pool_id', '=', poolId)
    .executeTakeFirstOrThrow()
  return Number(n)
}

/** What a line of a run wants. */
export type Want = { runKey: string; lineIndex: number; poolId: string; quantity: number }

/**
 * Takes codes for lines of runs, the oldest first: for each want its codes, or undefined because its pool has too few; what comes
 * first is served first. How nobody waits for another buyer without need, and nobody in a circle: `take_codes` in migrations/0003.
 */
export async function takeCodes(
  tx: Transaction<CodesDatabase>,
  keys: CodeKeys,
  wants: readonly Want[],
): Promise<(string[] | undefined)[]> {
  const { rows } = await sql<{ want: number; pool_id: string; sealed: string; fingerprint: Buffer }>`
    select * from take_codes(${wants.map((want) => want.runKey)}::text[], ${wants.map((want) => want.poolId)}::text[],
      ${wants.map((want) => want.lineIndex)}::integer[], ${wants.map((want) => want.quantity)}::integer[])`.execute(tx)
  const taken: (string[] | undefined)[] = wants.map(() => undefined)
  for (const row of rows) (taken[row.want - 1] ??= []).push(openCode(keys, row))
  return taken
}

/** Takes a code out of circulation for good. One that was dispensed stays with its order. */
export async function voidCode(
  db: Kysely<CodesDatabase>,
  keys: CodeKeys,
  poolId: string,
  code: string,
): Promise<'voided' | 'already void' | 'dispensed' | 'unknown'> {
  const isCode = { pool_id: poolId, fingerprint: fingerprintOf(keys, poolId, code.trim()) }
  const { numUpdatedRows } = await db
    .updateTable('code_pool_codes')
    .set({ state: 'void' })
    .where((is) => is.and({ ...isCode, state: 'available' as const }))
    .executeTakeFirst()
  if (numUpdatedRows > 0n) return 'voided'
  const found = await db
    .selectFrom('code_pool_codes')
    .select('state')
    .where((is) => is.and(isCode))
    .executeTakeFirst()
  return found === undefined ? 'unknown' : found.state === 'void' ? 'already void' : 'dispensed'
}

/** Null: nobody is told. False when there is no such pool. */
export async function setLowStockThreshold(
  db: Kysely<CodesDatabase>,
  poolId: string,
  threshold: number | null,
): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('code_pools')
    .set({ low_stock_threshold: threshold })
    .where('pool_id', '=', poolId)
    .executeTakeFirst()
  return numUpdatedRows > 0n
}
