import { isAddress } from '@market/contracts/address'
import type { LineResult } from '@market/contracts/fulfillment'
import { env, readConfig } from '@market/kit/config'
import { openDatabase, waitForDatabase } from '@market/kit/db'
import { StartupError } from '@market/kit/errors'
import { failpointOf } from '@market/kit/failpoint'
import { listen } from '@market/kit/http'
import { createLog } from '@market/kit/log'
import { createMetrics } from '@market/kit/metrics'
import { migrateToLatest } from '@market/kit/migrate'
import { type Running, runService } from '@market/kit/service'
import * as z from 'zod'
import type { Adapter } from './adapter.ts'
import { adminApp, issuerKeys } from './admin.ts'
import { adapterApp } from './app.ts'
import { kitMigrations } from './migrations.ts'
import { type RunsDatabase, sealStoredAnswers } from './runGate.ts'
import { runsUnderWay } from './steps.ts'
import { openFingerprint, openSecretBox, type SecretBox, SecretsError } from './secrets.ts'

/** Every variable an adapter built on the kit reads. */
const Config = (defaultPort: number) =>
  z.object({
    POSTGRES_CONNECTION: env.secret('is required: postgres://user:password@host:port/database'),
    CIRCLES_SERVICE_KEY: env.secret('is required: the key shared with market-api'),
    /** While the key changes: the one that callers may still send. */
    CIRCLES_SERVICE_KEY_PREVIOUS: env.secret().optional(),
    /** `id:base64` of 32 bytes, several by comma; the first seals. */
    ADAPTER_SECRETS_KEY: env.secret('is required: id:base64 of 32 bytes; openssl rand -base64 32 makes them'),
    PORT: env.int(1, 65535, defaultPort),
    /** Address to listen on; unset = all of them. */
    HOST: env.text().optional(),
    LOG_LEVEL: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
    DB_WAIT_SECONDS: env.int(0, 600, 30),
    /** Of one run by steps. The market's time-out for a call has to be longer. */
    FULFILL_BUDGET_MS: env.int(1000, 3_600_000, 30_000),
    /** The sign-in service whose tokens open the admin listener; unset = there is none. */
    AUTH_SERVICE_URL: env.url().optional(),
    AUTH_JWT_ISSUER: env.text().default('circles-auth'),
    /** Who may use the admin listener. */
    ADMIN_ADDRESSES: env
      .list()
      .refine((list) => list.every((one) => isAddress(one.toLowerCase())), 'must be 0x addresses, several by comma')
      .transform((list) => list.map((one) => one.toLowerCase()))
      .default([]),
    /** Fault tests only: the process kills itself at this named instant. */
    FAILPOINT: z.string().optional(),
  })

/** With the servers' drain, this must fit into what a stopping process is given (kit/service). */
const RUNS_DRAIN_MS = 3000

/** The whole `main.ts` of an adapter: config, database, migrations, HTTP, drain. */
export async function serveAdapter<
  DB extends RunsDatabase,
  Mapping,
  Result extends LineResult,
  Variables extends z.ZodRawShape,
>(adapter: Adapter<DB, Mapping, Result, Variables>, environment: NodeJS.ProcessEnv): Promise<void> {
  const log = createLog(`adapter-${adapter.offerType}`, environment.LOG_LEVEL)
  await runService(log, async (): Promise<Running> => {
    const { adminPort } = adapter
    const own = z.object({ ...adapter.variables, [adminPort.variable]: env.int(1, 65535, adminPort.default) })
    const config = readConfig(z.intersection(Config(adapter.defaultPort), own), environment)
    const secrets = openKeys(config.ADAPTER_SECRETS_KEY.reveal())
    const serviceKey = config.CIRCLES_SERVICE_KEY.reveal()
    if (serviceKey.length < 16) log.warn({}, 'CIRCLES_SERVICE_KEY is shorter than 16 characters')
    const connection = config.POSTGRES_CONNECTION.reveal()
    const database = openDatabase<DB>(connection, { name: `adapter-${adapter.offerType}` })
    const runs = runsUnderWay()
    let stopping = false
    try {
      await waitForDatabase(connection, database, config.DB_WAIT_SECONDS)
      await migrateToLatest(database.db, { ...kitMigrations, ...adapter.migrations }, log)
      const metrics = createMetrics(`adapter-${adapter.offerType}`)
      const fingerprint = await sealedWith(() => openFingerprint(database.db, secrets))
      const answers = await sealedWith(() => sealStoredAnswers(database.db, secrets))
      if (answers > 0) log.info({ answers }, 'stored answers sealed under the key that seals now')
      const delivery = await sealedWith(() =>
        adapter.open({ db: database.db, secrets, fingerprint, log, metrics, config: config as never }),
      )
      database.loseSilentConnections()
      const app = adapterApp({
        adapter,
        delivery,
        db: database.db,
        secrets,
        runs,
        budgetMs: config.FULFILL_BUDGET_MS,
        serviceKey,
        previousServiceKey: config.CIRCLES_SERVICE_KEY_PREVIOUS?.reveal(),
        log,
        metrics,
        failpoint: failpointOf(config.FAILPOINT),
        stopping: () => stopping,
      })
      const server = await listen(app, config.PORT, 'PORT', config.HOST)
      const servers = [server]
      const { AUTH_SERVICE_URL: authServiceUrl, ADMIN_ADDRESSES: addresses, AUTH_JWT_ISSUER: issuer } = config
      if (authServiceUrl === undefined) {
        log.info({}, 'no admin listener: AUTH_SERVICE_URL is not set')
      } else {
        if (addresses.length === 0) log.warn({}, 'the admin listener lets nobody in: ADMIN_ADDRESSES is empty')
        const auth = { issuer, addresses, keys: issuerKeys(authServiceUrl) }
        const port = (config as Record<string, unknown>)[adminPort.variable] as number
        servers.push(await listen(adminApp(auth, delivery.admin, log, metrics), port, adminPort.variable, config.HOST))
        log.info({ port }, 'admin listener ready')
      }
      log.info({ port: config.PORT }, 'ready')
      return {
        servers,
        async quiesce() {
          stopping = true
          await Promise.all((delivery.loops ?? []).map((loop) => loop.stop()))
        },
        async close() {
          await runs.drain(RUNS_DRAIN_MS)
          await database.close()
        },
      }
    } catch (error) {
      await database.close()
      throw error
    }
  })
}

/** What was sealed with a key that is gone ends the start in one line: whatever ran would find nothing readable. */
async function sealedWith<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof SecretsError)) throw error
    throw new StartupError(`ADAPTER_SECRETS_KEY lacks the key this database was sealed with: ${error.message}`)
  }
}

function openKeys(text: string): SecretBox {
  try {
    return openSecretBox(text)
  } catch (error) {
    if (error instanceof SecretsError) throw new StartupError(`configuration: ADAPTER_SECRETS_KEY ${error.message}`)
    throw error
  }
}
