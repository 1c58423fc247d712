import { kitMigrations } from '@market/adapter-kit/migrations'
import { type Database, openDatabase } from '@market/kit/db'
import { createLog } from '@market/kit/log'
import { migrateToLatest } from '@market/kit/migrate'
import { createTestDatabase } from '@market/testkit/testDatabase'
import { sql } from 'kysely'
import { type CodeKeys, openCode, openCodeKeys } from '../src/codeKeys.ts'
import type { CodesDatabase } from '../src/database.ts'
import { migrations } from '../src/migrations/index.ts'
import { seedPool, type SeedResult } from '../src/seedPool.ts'

export const SECRETS_KEY = `t1:${Buffer.alloc(32, 7).toString('base64')}`

export type TestCodes = Database<CodesDatabase> & {
  url: string
  keys: CodeKeys
  seed(poolId: string, codes: readonly string[]): Promise<SeedResult>
  /** Readable, in the order of their rows. */
  codesOf(of: { poolId?: string | string[]; runKey?: string }): Promise<StoredCode[]>
  remove(): Promise<void>
}

export type StoredCode = { code: string; state: string; runKey: string | null }

/** A database of the suite's own with the dispenser's tables. */
export async function createCodesDatabase(): Promise<TestCodes> {
  const home = await createTestDatabase()
  const database = openDatabase<CodesDatabase>(home.url, { name: 'test', poolSize: 30 })
  const { db } = database
  await migrateToLatest(db, { ...kitMigrations, ...migrations }, createLog('test', 'fatal'))
  const keys = await openCodeKeys(db, SECRETS_KEY)
  return {
    ...database,
    url: home.url,
    keys,
    seed: (poolId, codes) => seedPool(db, keys, poolId, codes),
    async codesOf({ poolId, runKey }) {
      const { rows } = await sql<any>`
        select pool_id, sealed, fingerprint, state, run_key from code_pool_codes
          where (${poolId ?? null}::text is null or pool_id = any (${[poolId ?? []].flat()}))
            and (${runKey ?? null}::text is null or run_key = ${runKey ?? null})
          order by code_id`.execute(db)
      return rows.map((row) => ({ code: openCode(keys, row), state: row.state, runKey: row.run_key }))
    },
    async remove() {
      await database.close()
      await home.drop()
    },
  }
}
