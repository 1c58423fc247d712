import { readFileSync } from 'node:fs'
import { messageOf } from '@market/kit/errors'
import { seedDemoSeller } from './demoSeller.ts'

/** Makes the demo seller from outside `npm start`, for tests: what it works on comes as JSON on standard input. Development only. */
try {
  const { rpcUrl, connections, adapterSecretsKey, ipfsRpcUrl, ipfsStoreDir } = JSON.parse(readFileSync(0, 'utf8')) as {
    rpcUrl: string
    connections: { market: string; codedisp: string }
    adapterSecretsKey: string
    ipfsRpcUrl?: string
    ipfsStoreDir?: string
  }
  const ipfs = { IPFS_RPC_URL: ipfsRpcUrl, IPFS_STORE_DIR: ipfsStoreDir ?? '' }
  console.log(await seedDemoSeller({ rpcUrl, connections, adapterSecretsKey, ipfs }))
} catch (error) {
  console.error(messageOf(error))
  process.exitCode = 1
}
