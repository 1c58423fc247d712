import type { Log } from '@market/kit/log'
import { type Loop, startLoop } from '@market/kit/loop'
import type { Metrics } from '@market/kit/metrics'
import { type Kysely, sql } from 'kysely'
import type { CodesDatabase } from './database.ts'
import { listPools } from './pools.ts'

const EVERY_MS = 5000

/**
 * Shows the stock of each pool as metrics, and says once when one falls to or under its threshold and once when it is above it
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

async function note(db: Kysely<CodesDatabase>, poolId: string, isLow: boolean): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('code_pools')
    .set({ low_since: isLow ? sql`now()` : null })
    .where('pool_id', '=', poolId)
    .where('low_since', isLow ? 'is' : 'is not', null)
    .executeTakeFirst()
  return numUpdatedRows > 0n
}
