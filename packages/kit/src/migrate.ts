import { type Kysely, type Migration, Migrator } from 'kysely'
import { messageOf, StartupError } from './errors.ts'
import type { Log } from './log.ts'

/**
 * Brings the service's own schema up to date. Kysely's migrator takes an advisory lock, so of two replicas starting together
 * one migrates and the other finds nothing left to do; a failing migration rolls back. The lock is the session's: behind a
 * pooler in transaction mode, migrate over a direct connection.
 */
export async function migrateToLatest<DB>(db: Kysely<DB>, migrations: Record<string, Migration>, log: Log) {
  const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations } })
  const { error, results } = await migrator.migrateToLatest()
  for (const result of results ?? []) {
    if (result.status === 'Success') log.info({ migration: result.migrationName }, 'migrated')
  }
  if (error) {
    const failed = results?.find((result) => result.status === 'Error')?.migrationName
    const what = failed === undefined ? 'migrations' : `migration ${failed}`
    throw new StartupError(`${what} failed: ${messageOf(error)}`, { cause: error })
  }
}
