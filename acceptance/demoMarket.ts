import { execFile } from 'node:child_process'
import { DEMO_PRODUCTS, demoOperator, demoSeller } from '@market/dev-chain/demo'
import type { StackOptions } from '@market/devstack/stack'
import { Market } from '@market/sdk/market'
import { type RunningMarket, startRunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'

/** The whole market with its demo seller, as `npm start` leaves it. */
export async function startDemoMarket(options: Partial<StackOptions> = {}): Promise<RunningMarket> {
  const market = await startRunningMarket(options)
  try {
    await seedDemoSeller({
      rpcUrl: market.rpcUrl,
      connections: market.connections,
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

/** What `npm start` does about its demo seller, from outside. */
export function seedDemoSeller(targets: {
  rpcUrl: string
  connections: { market: string; codedisp: string }
  ipfsRpcUrl?: string | undefined
  ipfsStoreDir?: string | undefined
}): Promise<'seeded' | 'already seeded'> {
  const script = new URL('../scripts/dist/demoSeed.js', import.meta.url).pathname
  return new Promise((resolve, reject) => {
    const child = execFile(process.execPath, [script], (error, stdout, stderr) => {
      if (error) reject(new Error(stderr.trim() || error.message))
      else resolve(stdout.trim() as 'seeded')
    })
    // On standard input: whoever lists processes reads arguments, and these hold passwords.
    child.stdin!.end(JSON.stringify(targets))
  })
}
