import type { LineResult } from '@market/contracts/fulfillment'
import { env, readConfig } from '@market/kit/config'
import { openDatabase, waitForDatabase } from '@market/kit/db'
import { failpointOf } from '@market/kit/failpoint'
import { listen } from '@market/kit/http'
import { createLog } from '@market/kit/log'
import { createMetrics } from '@market/kit/metrics'
import { migrateToLatest } from '@market/kit/migrate'
import { type Running, runService } from '@market/kit/service'
import * as z from 'zod'
import type { Adapter } from './adapter.ts'
import { adapterApp } from './app.ts'
import { kitMigrations } from './migrations.ts'
import type { RunsDatabase } from './runGate.ts'

/** Every variable an adapter built on the kit reads. */
const Config = (defaultPort: number) =>
  z.object({
    POSTGRES_CONNECTION: env.secret('is required: postgres://user:password@host:port/database'),
    CIRCLES_SERVICE_KEY: env.secret('is required: the key shared with market-api'),
    PORT: env.int(1, 65535, defaultPort),
    /** Address to listen on; unset = all of them. */
    HOST: env.text().optional(),
    LOG_LEVEL: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
    DB_WAIT_SECONDS: env.int(0, 600, 30),
    /** Fault tests only: the process kills itself at this named instant. */
    FAILPOINT: z.string().optional(),
  })

/** The whole `main.ts` of an adapter: config, database, migrations, HTTP, drain. */
export async function serveAdapter<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  adapter: Adapter<DB, Mapping, Result>,
  environment: NodeJS.ProcessEnv,
): Promise<void> {
  const log = createLog(`adapter-${adapter.offerType}`, environment.LOG_LEVEL)
  await runService(log, async (): Promise<Running> => {
    const config = readConfig(Config(adapter.defaultPort), environment)
    const serviceKey = config.CIRCLES_SERVICE_KEY.reveal()
    if (serviceKey.length < 16) log.warn({}, 'CIRCLES_SERVICE_KEY is shorter than 16 characters')
    const connection = config.POSTGRES_CONNECTION.reveal()
    const database = openDatabase<DB>(connection, { name: `adapter-${adapter.offerType}` })
    let stopping = false
    try {
      await waitForDatabase(connection, database, config.DB_WAIT_SECONDS)
      await migrateToLatest(database.db, { ...kitMigrations, ...adapter.migrations }, log)
      const app = adapterApp({
        adapter,
        db: database.db,
        serviceKey,
        log,
        metrics: createMetrics(`adapter-${adapter.offerType}`),
        failpoint: failpointOf(config.FAILPOINT),
        stopping: () => stopping,
      })
      const server = await listen(app, config.PORT, 'PORT', config.HOST)
      log.info({ port: config.PORT }, 'ready')
      return {
        servers: [server],
        quiesce: () => {
          stopping = true
        },
        close: database.close,
      }
    } catch (error) {
      await database.close()
      throw error
    }
  })
}
