import type { Log } from '@market/kit/log'
import { type Loop, startLoop } from '@market/kit/loop'
import type { Metrics } from '@market/kit/metrics'
import { type Kysely, sql } from 'kysely'
import type { CodesDatabase } from './database.ts'
import { listPools } from './pools.ts'

const EVERY_MS = 5000

/**
 * Keeps in mind where the free codes of each pool begin, shows its stock as metrics, and says once when one falls to or under its threshold and once when it is above it
 * again: of all replicas the one whose update finds the change.
 */
export function watchStock(db: Kysely<CodesDatabase>, log: Log, metrics: Metrics, intervalMs = EVERY_MS): Loop {
  const available = metrics.gauge('adapter_codedispenser_pool_available', 'Codes that nobody has yet', ['pool'])
  const lowStock = metrics.gauge('adapter_codedispenser_pool_low_stock', '1 = at or under its threshold', ['pool'])
  return startLoop({
    name: 'stock',
    intervalMs,
    log,
    async step() {
      await findFirstCodes(db)
      const pools = await listPools(db)
      available.reset()
      lowStock.reset()
      for (const { poolId, available: stock, lowStockThreshold: threshold, lowSince } of pools) {
        const isLow = threshold !== null && stock <= threshold
        available.set({ pool: poolId }, stock)
        lowStock.set({ pool: poolId }, isLow ? 1 : 0)
        if (isLow === (lowSince !== null) || !(await note(db, poolId, isLow))) continue
        const said = { pool: poolId, available: stock, threshold }
        if (isLow) log.warn(said, 'pool is low on codes')
        else log.info(said, 'pool is restocked')
      }
    },
  })
}

/**
 * Where the free codes of each pool begin. Until vacuum comes, the index still holds those that were dispensed, and each buyer would
 * walk past all of them.
 */
async function findFirstCodes(db: Kysely<CodesDatabase>): Promise<void> {
  await sql`
    update code_pools p set first_code_id = f.code_id from (
      select pool_id, (select code_id from code_pool_codes c where c.pool_id = code_pools.pool_id and c.state = 'available'
        order by code_id + 0 limit 1) as code_id from code_pools) as f
    where f.pool_id = p.pool_id and f.code_id <> p.first_code_id`.execute(db)
}

async function note(db: Kysely<CodesDatabase>, poolId: string, isLow: boolean): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('code_pools')
    .set({ low_since: isLow ? sql`now()` : null })
    .where('pool_id', '=', poolId)
    .where('low_since', isLow ? 'is' : 'is not', null)
    .executeTakeFirst()
  return numUpdatedRows > 0n
}
