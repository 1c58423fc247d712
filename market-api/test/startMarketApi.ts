import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '@market/devstack/ports'
import { readConfig } from '@market/kit/config'
import { openDatabase } from '@market/kit/db'
import { drain, listen } from '@market/kit/http'
import { createLog } from '@market/kit/log'
import { startLoop } from '@market/kit/loop'
import { migrateToLatest } from '@market/kit/migrate'
import { createTestDatabase } from '@market/testkit/testDatabase'
import { CATALOG_CHANNEL } from '../src/catalog/pageCache.ts'
import { Config } from '../src/config.ts'
import type { MarketContext } from '../src/context.ts'
import { createContext } from '../src/createContext.ts'
import { migrations } from '../src/db/migrations/index.ts'
import type { MarketDatabase } from '../src/db/types.ts'
import { publicApp } from '../src/http/publicApp.ts'
import { ORDER_EVENTS_CHANNEL } from '../src/orders/events/readOrderEvents.ts'
import { generateSigningKey } from '../src/signIn/tokens.ts'

export type MarketApi = {
  url: string
  /** The very object the routes work with: what a test puts into it counts from the next request on. */
  ctx: MarketContext
  /** Ends the server and forgets database and blocks. */
  close(): Promise<void>
}

/**
 * The market's public port in this process, on a real Postgres and a block store of its own; main.ts without its loops, but
 * for the one that reads events for open streams.
 * @param options.env over the defaults below; '' unsets one
 * @param options.overrides replace members of the context
 * @param options.databaseUrl another market's database: this one is a second replica, to be closed first
 */
export async function startMarketApi(
  options: { env?: Record<string, string>; overrides?: Partial<MarketContext>; databaseUrl?: string } = {},
): Promise<MarketApi> {
  const undo: (() => Promise<unknown>)[] = []
  const close = async () => {
    for (const step of undo.splice(0).toReversed()) await step()
  }
  try {
    const testDatabase = options.databaseUrl === undefined ? await createTestDatabase() : undefined
    if (testDatabase) undo.push(() => testDatabase.drop())
    const folder = await mkdtemp(join(tmpdir(), 'market-api-'))
    undo.push(() => rm(folder, { recursive: true, force: true }))
    const port = await freePort()
    const config = readConfig(Config, {
      PORT: String(port),
      HOST: '127.0.0.1',
      LOG_LEVEL: 'error',
      POSTGRES_CONNECTION: options.databaseUrl ?? testDatabase?.url,
      PUBLIC_BASE_URL: `http://127.0.0.1:${port}`,
      MARKET_AUTH_ALLOWED_DOMAINS: '*',
      MARKET_JWT_PRIVATE_KEY: await generateSigningKey(),
      CIRCLES_SERVICE_KEY: 'a-service-key-for-tests',
      IPFS_STORE_DIR: join(folder, 'ipfs'),
      // Nobody listens there: what needs no chain has to work without one.
      RPC: `http://127.0.0.1:${await freePort()}`,
      RPC_TIMEOUT_MS: '500',
      RATE_LIMIT_ENABLED: 'false',
      ...options.env,
    })
    const log = createLog('market-api', config.LOG_LEVEL)
    const ctx = await createContext(config, log, () =>
      openDatabase<MarketDatabase>(config.POSTGRES_CONNECTION.reveal(), {
        poolSize: config.POSTGRES_POOL_SIZE,
        name: 'market-api',
      }),
    )
    Object.assign(ctx, options.overrides)
    undo.push(() => ctx.database.close())
    await migrateToLatest(ctx.db, migrations, log)
    const listening = await ctx.database.listen(CATALOG_CHANNEL, (avatar) => ctx.pages.clear(avatar))
    undo.push(() => listening.stop())

    const events = startLoop({
      name: 'order-events',
      // Notifications are what makes it quick; a test that relied on the timer would wait this long.
      intervalMs: 10_000,
      log,
      step: () => ctx.orderStreams.read(),
    })
    undo.push(() => events.stop())
    const told = await ctx.database.listen(ORDER_EVENTS_CHANNEL, () => events.wake())
    undo.push(() => told.stop())

    undo.push(() => ctx.indexer.stop())
    const server = await listen(
      publicApp(ctx, async () => []),
      port,
      'PORT',
      config.HOST,
    )
    undo.push(() => drain(server, 0))
    return { url: `http://127.0.0.1:${port}`, ctx, close }
  } catch (error) {
    await close()
    throw error
  }
}
