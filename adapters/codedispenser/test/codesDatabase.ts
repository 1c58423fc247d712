import { kitMigrations } from '@market/adapter-kit/migrations'
import { type Database, openDatabase } from '@market/kit/db'
import { createLog } from '@market/kit/log'
import { migrateToLatest } from '@market/kit/migrate'
import { createTestDatabase } from '@market/testkit/testDatabase'
import type { CodesDatabase } from '../src/database.ts'
import { migrations } from '../src/migrations/index.ts'

export type TestCodes = Database<CodesDatabase> & { url: string; remove(): Promise<void> }

/** A database of the suite's own with the dispenser's tables. */
export async function createCodesDatabase(): Promise<TestCodes> {
  const home = await createTestDatabase()
  const database = openDatabase<CodesDatabase>(home.url, { name: 'test', poolSize: 30 })
  await migrateToLatest(database.db, { ...kitMigrations, ...migrations }, createLog('test', 'fatal'))
  return {
    ...database,
    url: home.url,
    async remove() {
      await database.close()
      await home.drop()
    },
  }
}
