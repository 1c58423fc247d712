import { type Kysely, type RawBuilder, sql, type Transaction } from 'kysely'
import type { CodesDatabase } from './database.ts'

/** Codes of the pool that nobody has yet. */
export async function countAvailable(db: Kysely<CodesDatabase>, poolId: string): Promise<number> {
  const { n } = await db
    .selectFrom('code_pool_codes')
    .select(sql<string>`count(*)`.as('n'))
    .where('pool_id', '=', poolId)
    .where('state', '=', 'available')
    .executeTakeFirstOrThrow()
  return Number(n)
}

/** Codes this run already holds for a line, in the order they were given out. */
export async function listAssigned(tx: Transaction<CodesDatabase>, runKey: string, lineIndex: number) {
  const rows = await tx
    .selectFrom('code_pool_codes')
    .select('code')
    .where('run_key', '=', runKey)
    .where('line_index', '=', lineIndex)
    .orderBy('code_id')
    .execute()
  return rows.map((row) => row.code)
}

/**
 * Takes exactly `count` codes for a line, the oldest first, or none and `undefined` when the pool has too few.
 *
 * The first try skips rows that others hold, so that buyers of one pool don't queue. Only when that comes up short does it
 * wait for them: whoever holds the last codes may yet roll back (adapters.md A8).
 */
export async function takeCodes(
  tx: Transaction<CodesDatabase>,
  poolId: string,
  count: number,
  holder: { runKey: string; lineIndex: number },
): Promise<string[] | undefined> {
  const free = async (lockedRows: RawBuilder<unknown>) => {
    const { rows } = await sql<{ code_id: string }>`
      select code_id from code_pool_codes
      where pool_id = ${poolId} and state = 'available'
      order by code_id limit ${count} for update ${lockedRows}`.execute(tx)
    return rows.map((row) => row.code_id)
  }
  await sql`savepoint before_waiting`.execute(tx)
  let ids = await free(sql`skip locked`)
  if (ids.length < count) {
    // Let go of what the first try locked: two callers that each keep a part and wait for the other's would deadlock.
    await sql`rollback to savepoint before_waiting`.execute(tx)
    ids = await free(sql``)
  }
  if (ids.length < count) return undefined
  const taken = await tx
    .updateTable('code_pool_codes')
    .set({ state: 'assigned', run_key: holder.runKey, line_index: holder.lineIndex, assigned_at: sql`now()` })
    .where('code_id', 'in', ids)
    .returning(['code_id', 'code'])
    .execute()
  return taken.sort((a, b) => (BigInt(a.code_id) < BigInt(b.code_id) ? -1 : 1)).map((row) => row.code)
}
