import { freePort } from '@market/devstack/ports'
import { startLocalServer } from './localServer.ts'
import { type RunningMarket, startRunningMarket } from './runningMarket.ts'
import { startRpcProxy } from './rpcProxy.ts'
import { startStandInAdapter } from './standInAdapter.ts'

/** Where a market with stand-ins around it is found; plain data, for whatever process wants to use it. */
export type MarketPlace = {
  marketUrl: string
  /** The dev chain itself. */
  rpcUrl: string
  /** What stands between the market and the dev chain: see `failReads`. */
  rpcProxyUrl: string
  /** What answers as every adapter of this market: see `connectStandInAdapter`. */
  adapterUrl: string
  /** Postgres URL of the market's database. */
  database: string
  ipfsStoreDir: string
  /** What its market-api was started with. */
  env: NodeJS.ProcessEnv
}

export type StandInMarket = RunningMarket & { place: MarketPlace }

/** The whole market as real processes, with the adapter and the way to the chain in the tests' hands. */
export async function startStandInMarket(env: NodeJS.ProcessEnv = {}): Promise<StandInMarket> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await startOnce(env)
    } catch (error) {
      // Another run on this machine may have been quicker to use a port that both found free.
      if (tries === 3 || !String(error).includes('is in use')) throw error
    }
  }
}

async function startOnce(env: NodeJS.ProcessEnv): Promise<StandInMarket> {
  const [market, codeDispenser, postgres, devChain] = await Promise.all([1, 2, 3, 4].map(() => freePort()))
  const ports = { market: market!, codeDispenser: codeDispenser!, postgres: postgres!, devChain: devChain! }
  const adapter = await startStandInAdapter()
  const proxy = await startRpcProxy(`http://127.0.0.1:${devChain}`)
  const stopStandIns = () => Promise.all([adapter.stop(), proxy.stop()])
  try {
    const running = await startRunningMarket({
      ports,
      // A machine that runs three suites at once is slow, and no test is about how slow.
      env: { RATE_LIMIT_ENABLED: 'false', OUTBOUND_INVENTORY_TIMEOUT_MS: '3000', ...env },
      serviceEnv: { 'market-api': { MARKET_CODE_DISPENSER_ORIGIN: adapter.url, RPC: proxy.url } },
    })
    return {
      ...running,
      place: {
        marketUrl: running.marketUrl,
        rpcUrl: running.rpcUrl,
        rpcProxyUrl: proxy.url,
        adapterUrl: adapter.url,
        database: running.connections.market,
        ipfsStoreDir: running.ipfsStoreDir!,
        env: running.services['market-api'].env,
      },
      async remove() {
        await running.remove()
        await stopStandIns()
      },
    }
  } catch (error) {
    await stopStandIns()
    throw error
  }
}

/**
 * One market for all suites of a run that do it no harm, in whatever worker they run. Nothing is started until one asks.
 * `GET /` answers with its place, `GET /log` with what its services have logged, `text/plain`.
 */
export async function offerSharedMarket(): Promise<{ url: string; stop(): Promise<void> }> {
  let shared: Promise<StandInMarket> | undefined
  const server = await startLocalServer((request, response) => {
    shared ??= startStandInMarket()
    shared.then(
      ({ place, log }) =>
        response.end(request.url === '/log' ? log.map(({ line }) => line).join('\n') : JSON.stringify(place)),
      (error: unknown) => response.writeHead(500).end(String(error)),
    )
  })
  return {
    url: server.url,
    async stop() {
      await server.stop()
      await shared?.then(
        (market) => market.remove(),
        () => {},
      )
    },
  }
}
