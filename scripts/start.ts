import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { env, readConfig } from '@market/kit/config'
import { messageOf, StartupError } from '@market/kit/errors'
import { DevstackError } from '@market/devstack/errors'
import { type Stack, startStack } from '@market/devstack/stack'
import * as z from 'zod'
import { demoOperator, demoSeller, seedDemoSeller } from './demoSeller.ts'

const Config = z
  .object({
    MARKET_DATA_DIR: z.string().default('.market'),
    MARKET_API_PORT: env.int(1, 65535, 65001),
    MARKET_CODE_DISPENSER_PORT: env.int(1, 65535, 65003),
    MARKET_POSTGRES_PORT: env.int(1, 65535, 65004),
    DEV_CHAIN_PORT: env.int(1, 65535, 65020),
    POSTGRES_HOST: z.string().optional(),
    POSTGRES_PORT: env.int(1, 65535, 5432),
    POSTGRES_USER: z.string().default('postgres'),
    POSTGRES_PASSWORD: z.string().optional(),
    IPFS_RPC_URL: env.url().optional(),
    RPC: env.url().optional(),
    CIRCLES_RPC: env.url().optional(),
  })
  .refine((c) => c.POSTGRES_HOST === undefined || c.POSTGRES_PASSWORD !== undefined, {
    path: ['POSTGRES_PASSWORD'],
    error: 'is required with POSTGRES_HOST: the password of the server\'s superuser',
  })
  .refine((c) => c.CIRCLES_RPC === undefined || c.RPC !== undefined, {
    path: ['RPC'],
    error: 'is required with CIRCLES_RPC: JSON-RPC of a node of the same chain',
  })

const started = Date.now()
const seconds = () => ((Date.now() - started) / 1000).toFixed(1)
const say = (text: string) => console.log(text)

let stack: Stack | undefined
let ending: Promise<never> | undefined

function end(code: number): Promise<never> {
  ending ??= (async () => {
    await stack?.stop()
    process.exit(code)
  })()
  return ending
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    // A second Ctrl-C means it: the tethers still stop every child when this process is gone.
    if (ending) process.exit(130)
    say('\nStopping …')
    if (stack) void end(0)
    else process.exit(130)
  })
}

try {
  const envFile = fileURLToPath(new URL('../../.env', import.meta.url))
  if (existsSync(envFile)) process.loadEnvFile(envFile)
  const config = readConfig(Config, process.env)
  const dataDir = resolve(config.MARKET_DATA_DIR)
  const { RPC: rpc, CIRCLES_RPC: circlesRpc = rpc } = config
  stack = await startStack({
    dataDir,
    ports: {
      market: config.MARKET_API_PORT,
      codeDispenser: config.MARKET_CODE_DISPENSER_PORT,
      postgres: config.MARKET_POSTGRES_PORT,
      devChain: config.DEV_CHAIN_PORT,
    },
    postgres:
      config.POSTGRES_HOST === undefined
        ? undefined
        : {
            host: config.POSTGRES_HOST,
            port: config.POSTGRES_PORT,
            user: config.POSTGRES_USER,
            password: config.POSTGRES_PASSWORD!,
          },
    ipfsRpcUrl: config.IPFS_RPC_URL,
    chain: rpc && circlesRpc ? { rpc, circlesRpc } : undefined,
    // The dev chain is quick; waiting for it as for Gnosis Chain would only bore. Anything set in the environment wins.
    env: { POLL_SECONDS: '1', CATALOG_POLL_SECONDS: '1', ...process.env },
    onLine: printLine,
    onProgress: (text) => say(`[${seconds()} s] ${text}`),
    onGivenUp: (news) => {
      console.error(`circles-market: ${news}`)
      void end(1)
    },
  })
  const seller = rpc === undefined ? await seed(stack, config.IPFS_RPC_URL) : undefined
  printReady(stack, seller, dataDir)
} catch (error) {
  const known = error instanceof StartupError || error instanceof DevstackError
  console.error(`circles-market: ${messageOf(error)}`)
  if (!known && process.env.LOG_LEVEL === 'debug') console.error(error)
  await end(1)
}

/** The demo seller lives on the dev chain; a chain of the operator's own has its own sellers. */
async function seed(running: Stack, ipfsRpcUrl: string | undefined): Promise<string> {
  const outcome = await seedDemoSeller({
    rpcUrl: running.rpcUrl,
    connections: running.connections,
    ipfs: { IPFS_RPC_URL: ipfsRpcUrl, IPFS_STORE_DIR: running.ipfsStoreDir ?? '' },
  })
  const url = `${running.marketUrl}/api/operator/${demoOperator}/catalog?avatars=${demoSeller}`
  const deadline = Date.now() + 20_000
  for (;;) {
    const page = (await (await fetch(url)).json()) as { products?: unknown[]; errors?: unknown[] }
    if ((page.products?.length ?? 0) >= 3) return `${demoSeller} (${page.products?.length} products, ${outcome})`
    if (Date.now() > deadline) {
      throw new DevstackError(`the demo catalog does not show up: ${JSON.stringify(page.errors).slice(0, 200)}`)
    }
    await new Promise((done) => setTimeout(done, 100))
  }
}

/** Chatter of healthy services stays in the background unless asked for; warnings and errors are shown at once. */
function printLine(source: string, line: string) {
  const verbose = ['info', 'debug'].includes(process.env.LOG_LEVEL ?? '')
  const notable = /"level":"(warn|error)"|FATAL|PANIC/.test(line)
  if (verbose || notable) console.log(`${source.padEnd(13)} | ${line}`)
}

function printReady({ marketUrl, codeDispenserUrl, rpcUrl, postgres }: Stack, seller: string | undefined, dataDir: string) {
  say(`
Circles Market is up after ${seconds()} s

  market-api      ${marketUrl}
  code dispenser  ${codeDispenserUrl}
  chain RPC       ${rpcUrl}
  Postgres        ${postgres.host}:${postgres.port}
  demo seller     ${seller ?? 'none: RPC is set, so the dev chain and its seller are not there'}
  data            ${dataDir}

Next, in another terminal:
  npm run demo            buys one code as a buyer would
  npm run ops -- --help   what an operator can do
LOG_LEVEL=info npm start shows every service's log. Ctrl-C stops everything; the data stays.
`)
}
