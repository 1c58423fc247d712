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

export type Want = { poolId: string; lineIndex: number; quantity: number }

/**
 * Takes codes for the lines of a run, the oldest first, and gives them by line index. A line gets all it wants or is left
 * out because its pool has too few.
 *
 * Pools are visited in one order by everybody, each once, whatever the order of lines: callers that hold codes of one pool
 * and wait for another's never wait in a circle.
 */
export async function takeCodes(
  tx: Transaction<CodesDatabase>,
  runKey: string,
  wants: readonly Want[],
): Promise<Map<number, string[]>> {
  const taken = new Map<number, string[]>()
  for (const poolId of [...new Set(wants.map((want) => want.poolId))].toSorted()) {
    const ofPool = wants.filter((want) => want.poolId === poolId)
    const free = await lockFree(
      tx,
      poolId,
      ofPool.reduce((sum, want) => sum + want.quantity, 0),
    )
    for (const { lineIndex, quantity } of ofPool) {
      if (free.length < quantity) continue
      const mine = free.splice(0, quantity)
      await tx
        .updateTable('code_pool_codes')
        .set({ state: 'assigned', run_key: runKey, line_index: lineIndex, assigned_at: sql`now()` })
        .where(
          'code_id',
          'in',
          mine.map((row) => row.code_id),
        )
        .execute()
      taken.set(
        lineIndex,
        mine.map((row) => row.code),
      )
    }
  }
  return taken
}

/**
 * Locks up to `count` free codes, the oldest first. The first try skips rows that others hold, so that buyers of one pool
 * don't queue. Only when that comes up short does it wait for them: whoever holds the last codes may yet roll back
 * (adapters.md A8).
 */
async function lockFree(tx: Transaction<CodesDatabase>, poolId: string, count: number) {
  const lock = async (others: RawBuilder<unknown>) => {
    const { rows } = await sql<{ code_id: string; code: string }>`
      select code_id, code from code_pool_codes
      where pool_id = ${poolId} and state = 'available'
      order by code_id limit ${count} for update ${others}`.execute(tx)
    return rows
  }
  await sql`savepoint before_waiting`.execute(tx)
  const free = await lock(sql`skip locked`)
  if (free.length === count) return free
  // Let go first: two callers that each keep a part of the pool and wait for the other's would deadlock.
  await sql`rollback to savepoint before_waiting`.execute(tx)
  return lock(sql``)
}
