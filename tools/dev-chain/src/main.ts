import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { deployDevContracts, devContracts, devCurrencyAvatar } from './deployment.ts'
import { startFacade } from './facade.ts'
import { startMiner } from './mining.ts'
import { askNode, NodeDownError } from './node.ts'

const NODE_WAIT_MS = 3_000

try {
  await main()
} catch (error) {
  log('error', error instanceof Error ? error.message.split('\n')[0]! : String(error))
  process.exit(1)
}

async function main(): Promise<void> {
  const { nodeUrl, port, blockMs, depth } = readConfig(process.env)
  await untilAnvilAnswers(nodeUrl)
  // Whoever ran here before may have been killed while the chain stood still.
  await askNode(nodeUrl, 'evm_setAutomine', [true])
  const contracts = await deployDevContracts(nodeUrl)
  const miner = startMiner({
    nodeUrl,
    blockMs,
    depth,
    onTrouble: (error) => log('warn', error instanceof Error ? error.message : String(error)),
  })
  const facade = await startFacade({ nodeUrl, port, miner }).catch((error: NodeJS.ErrnoException) => {
    throw error.code === 'EADDRINUSE' ? new Error(`port ${port} is in use; free it or set PORT`) : error
  })
  log('info', 'ready', { url: facade.url, nodeUrl, contracts, ...devContracts, devCurrencyAvatar })

  await Promise.race([once(process, 'SIGTERM'), once(process, 'SIGINT')])
  await Promise.all([miner.stop(), facade.stop()])
  log('info', 'stopped')
  process.exit(0)
}

function readConfig(env: NodeJS.ProcessEnv) {
  const nodeUrl = env.NODE_URL ?? ''
  if (!URL.canParse(nodeUrl)) throw new Error('NODE_URL must be the URL of an anvil node')
  return {
    nodeUrl,
    port: integer('PORT', 65020, 65535),
    blockMs: integer('DEV_CHAIN_BLOCK_MS', 100, 60_000),
    depth: integer('DEV_CHAIN_DEPTH', 14, 1000),
  }

  function integer(name: string, otherwise: number, most: number): number {
    const text = env[name]
    if (text === undefined || text === '') return otherwise
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < 1 || value > most) {
      throw new Error(`${name} must be 1 to ${most}, not ${text}`)
    }
    return value
  }
}

/** Refuses any other node: this process deploys and mines, which is nobody's wish on a chain that others use. */
async function untilAnvilAnswers(nodeUrl: string): Promise<void> {
  const deadline = Date.now() + NODE_WAIT_MS
  for (;;) {
    try {
      const version = await askNode<string>(nodeUrl, 'web3_clientVersion')
      if (version.startsWith('anvil/')) return
      throw new Error(`NODE_URL ${nodeUrl} is not an anvil node but ${version}`)
    } catch (error) {
      if (!(error instanceof NodeDownError)) throw error
      if (Date.now() > deadline) {
        throw new Error(`NODE_URL ${nodeUrl} does not answer after ${NODE_WAIT_MS / 1000} s`, { cause: error })
      }
    }
    await delay(100)
  }
}

function log(level: 'info' | 'warn' | 'error', msg: string, fields: object = {}): void {
  console.log(JSON.stringify({ level, time: new Date().toISOString(), service: 'dev-chain', ...fields, msg }))
}
