import { randomBytes, randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { readConfig } from '@market/kit/config'
import { openDatabase, waitForDatabase } from '@market/kit/db'
import { messageOf } from '@market/kit/errors'
import { failpointOf } from '@market/kit/failpoint'
import { listen } from '@market/kit/http'
import { releaseLease } from '@market/kit/lease'
import { createLog } from '@market/kit/log'
import { migrateToLatest } from '@market/kit/migrate'
import { type Running, runService } from '@market/kit/service'
import { connectNameRegistry } from './catalog/nameRegistry.ts'
import { Config } from './config.ts'
import type { MarketContext } from './context.ts'
import { migrations } from './db/migrations/index.ts'
import type { MarketDatabase } from './db/types.ts'
import { publicApp } from './http/publicApp.ts'
import { startJobs } from './jobs.ts'
import { createMarketMetrics } from './metrics.ts'
import { openIpfs } from './ops.ts'
import { connectCirclesRpc } from './payments/circlesRpc.ts'
import { createAdapterClient } from './serviceRoutes/adapterClient.ts'
import { codeDispenserOrigin } from './serviceRoutes/resolveRoute.ts'
import { createTokens } from './signIn/tokens.ts'

const log = createLog('market-api', process.env.LOG_LEVEL)

await runService(log, async (): Promise<Running> => {
  const config = readConfig(Config, process.env)
  const connection = config.POSTGRES_CONNECTION.reveal()
  const tokens = await createTokens({
    privateKeyJwk: config.MARKET_JWT_PRIVATE_KEY.reveal(),
    issuer: config.MARKET_JWT_ISSUER,
    audience: config.MARKET_JWT_AUDIENCE,
    allowedDomains: config.MARKET_AUTH_ALLOWED_DOMAINS,
  })
  const ipfs = await openIpfs(config)
  const database = openDatabase<MarketDatabase>(connection, { poolSize: config.POSTGRES_POOL_SIZE, name: 'market-api' })
  try {
    await waitForDatabase(connection, database, config.DB_WAIT_SECONDS)
    await migrateToLatest(database.db, migrations, log)

    const dispenserKey = config.MARKET_CODE_DISPENSER_TOKEN ?? config.CIRCLES_SERVICE_KEY
    const ctx: MarketContext = {
      config,
      database,
      db: database.db,
      now: () => new Date(),
      random16: () => randomBytes(16),
      log,
      metrics: createMarketMetrics(database.db),
      failpoint: failpointOf(config.FAILPOINT),
      tokens,
      ipfs,
      nameRegistry: connectNameRegistry(config.RPC, config.NAME_REGISTRY_ADDRESS, config.RPC_TIMEOUT_MS),
      paymentSource: connectCirclesRpc({
        circlesRpc: config.CIRCLES_RPC ?? config.RPC,
        rpc: config.RPC,
        timeoutMs: config.RPC_TIMEOUT_MS,
      }),
      adapters: createAdapterClient({
        keys: new Map([[new URL(codeDispenserOrigin(config)).origin, dispenserKey.reveal()]]),
        inventoryTimeoutMs: config.OUTBOUND_INVENTORY_TIMEOUT_MS,
        availabilityTimeoutMs: config.OUTBOUND_AVAILABILITY_TIMEOUT_MS,
        fulfillmentTimeoutMs: config.OUTBOUND_FULFILLMENT_TIMEOUT_MS,
        maxResponseBytes: config.OUTBOUND_MAX_RESPONSE_BYTES,
      }),
      instance: `${hostname()}:${randomUUID()}`,
    }

    const jobs = await startJobs(ctx)
    let stopping = false
    const notReady = async () => {
      const ipfsFault = await ipfs.check().then(
        () => [],
        (error) => [`ipfs (${messageOf(error)})`],
      )
      return [...(stopping ? ['stopping'] : []), ...ipfsFault, ...jobs.failing()]
    }
    const server = await listen(publicApp(ctx, notReady), config.PORT, 'PORT', config.HOST).catch(async (error) => {
      await jobs.stop()
      throw error
    })
    log.info({ port: config.PORT, ipfs: ipfs.kind, chainId: config.CHAIN_ID }, 'ready')
    return {
      servers: [server],
      async quiesce() {
        stopping = true
        await jobs.stop()
        for (const name of ['payments', 'catalog']) await releaseLease(ctx.db, name, ctx.instance)
      },
      close: database.close,
    }
  } catch (error) {
    await database.close()
    throw error
  }
})
