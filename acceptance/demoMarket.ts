import type { StackOptions } from '@market/devstack/stack'
import { Market } from '@market/sdk/market'
import { type RunningMarket, startRunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import { demoOperator, demoSeller, seedDemoSeller } from '../scripts/demoSeller.ts'

/** The whole market with its demo seller, as `npm start` leaves it. */
export async function startDemoMarket(options: Partial<StackOptions> = {}): Promise<RunningMarket> {
  const market = await startRunningMarket(options)
  try {
    await seedDemoSeller({
      rpcUrl: market.rpcUrl,
      connections: market.connections,
      ipfs: { IPFS_RPC_URL: options.ipfsRpcUrl, IPFS_STORE_DIR: market.ipfsStoreDir ?? '' },
    })
    const anybody = new Market(market.marketUrl)
    await until(
      'the demo catalog is listed',
      async () => (await anybody.catalog(demoOperator, [demoSeller])).products.length === 3,
    )
    return market
  } catch (error) {
    await market.remove()
    throw error
  }
}
