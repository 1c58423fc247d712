import { DEMO_PRODUCTS, demoOperator, demoSeller } from '@market/dev-chain/demo'
import type { StackOptions } from '@market/devstack/stack'
import { Market } from '@market/sdk/market'
import { seedDemoSeller } from '@market/testkit/demoSeller'
import { type RunningMarket, startRunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'

/** The whole market with its demo seller, as `npm start` leaves it. */
export async function startDemoMarket(options: Partial<StackOptions> = {}): Promise<RunningMarket> {
  const market = await startRunningMarket(options)
  try {
    await seedDemoSeller({
      rpcUrl: market.rpcUrl,
      connections: market.connections,
      secrets: market.secrets,
      ipfsRpcUrl: options.ipfsRpcUrl,
      ipfsStoreDir: market.ipfsStoreDir,
    })
    const anybody = new Market(market.marketUrl)
    await until(
      'the demo catalog is listed',
      async () => (await anybody.catalog(demoOperator, [demoSeller])).products.length === DEMO_PRODUCTS,
    )
    return market
  } catch (error) {
    await market.remove()
    throw error
  }
}
