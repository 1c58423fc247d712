import { readConfig } from '@market/kit/config'
import { openDatabase, waitForDatabase } from '@market/kit/db'
import { listen, watchCheck } from '@market/kit/http'
import { releaseLease } from '@market/kit/lease'
import { createLog } from '@market/kit/log'
import { migrateToLatest } from '@market/kit/migrate'
import { type Running, runService } from '@market/kit/service'
import { Config } from './config.ts'
import { createContext } from './createContext.ts'
import { migrations } from './db/migrations/index.ts'
import type { MarketDatabase } from './db/types.ts'
import { publicApp } from './http/publicApp.ts'
import { startJobs } from './jobs.ts'

const log = createLog('market-api', process.env.LOG_LEVEL)

await runService(log, async (): Promise<Running> => {
  const config = readConfig(Config, process.env)
  const connection = config.POSTGRES_CONNECTION.reveal()
  const ctx = await createContext(config, log, () =>
    openDatabase<MarketDatabase>(connection, { poolSize: config.POSTGRES_POOL_SIZE, name: 'market-api' }),
  )
  const { database, ipfs } = ctx
  try {
    await waitForDatabase(connection, database, config.DB_WAIT_SECONDS)
    await migrateToLatest(database.db, migrations, log)
    database.loseSilentConnections()

    const jobs = await startJobs(ctx)
    let stopping = false
    const ipfsAnswers = watchCheck(log, 'ipfs', () => ipfs.check())
    const notReady = async () => [
      ...(stopping ? ['stopping'] : []),
      ...((await ipfsAnswers()) ? [] : ['ipfs']),
      ...jobs.failing(),
    ]
    const server = await listen(publicApp(ctx, notReady), config.PORT, 'PORT', config.HOST).catch(async (error) => {
      await jobs.stop()
      throw error
    })
    log.info({ port: config.PORT, ipfs: ipfs.kind, chainId: config.CHAIN_ID }, 'ready')
    return {
      servers: [server],
      async quiesce() {
        stopping = true
        ctx.orderStreams.close()
        await jobs.stop()
        for (const name of ['payments', 'catalog', 'catalog-purge', 'pin-sweep'])
          await releaseLease(ctx.db, name, ctx.instance)
      },
      close: database.close,
    }
  } catch (error) {
    await database.close()
    throw error
  }
})
