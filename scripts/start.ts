import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { env, readConfig } from '@market/kit/config'
import { messageOf } from '@market/kit/errors'
import { DevstackError } from '@market/devstack/errors'
import { type Stack, startStack } from '@market/devstack/stack'
import * as z from 'zod'

const PORTS = ['MARKET_API_PORT', 'MARKET_CODE_DISPENSER_PORT', 'MARKET_POSTGRES_PORT', 'DEV_CHAIN_PORT'] as const
/** Also when other fields are wrong: every problem is told at once. */
const always = { when: () => true }

const Config = z
  .object({
    MARKET_DATA_DIR: z.string().default('.market'),
    MARKET_API_PORT: env.int(1, 65535, 65001),
    MARKET_CODE_DISPENSER_PORT: env.int(1, 65535, 65003),
    MARKET_POSTGRES_PORT: env.int(1, 65535, 65004),
    DEV_CHAIN_PORT: env.int(1, 65535, 65020),
    POSTGRES_HOST: z
      .string()
      .regex(/^[\w.:-]+$/, 'must be the name or address of a PostgreSQL server')
      .optional(),
    POSTGRES_PORT: env.int(1, 65535, 5432),
    POSTGRES_USER: z.string().default('postgres'),
    POSTGRES_PASSWORD: z.string().optional(),
    IPFS_RPC_URL: env.url().optional(),
    IPFS_RPC_BEARER: env.secret().optional(),
    RPC: env.url().optional(),
    CIRCLES_RPC: env.url().optional(),
  })
  .refine((c) => c.POSTGRES_HOST === undefined || c.POSTGRES_PASSWORD !== undefined, {
    path: ['POSTGRES_PASSWORD'],
    error: "is required with POSTGRES_HOST: the password of the server's superuser",
    ...always,
  })
  .refine((c) => c.CIRCLES_RPC === undefined || c.RPC !== undefined, {
    path: ['RPC'],
    error: 'is required with CIRCLES_RPC: JSON-RPC of a node of the same chain',
    ...always,
  })
  .superRefine((c, { addIssue }) => {
    for (const [i, name] of PORTS.entries()) {
      const same = PORTS.slice(0, i).find((other) => c[other] === c[name])
      if (same) addIssue({ code: 'custom', path: [name], message: `must differ from ${same}, both are ${c[name]}` })
    }
  })

const started = Date.now()
const seconds = () => ((Date.now() - started) / 1000).toFixed(1)
const say = (text: string) => console.log(text)
const complain = (text: string) => console.error(`circles-market: ${text}`)

const interrupted = new AbortController()
let starting: Promise<Stack> | undefined
let isUp = false
let ending: Promise<never> | undefined
let endingSince = 0

/** Stops what runs and what is just being started, in order, and ends this process. */
function end(code: number): Promise<never> {
  endingSince ||= Date.now()
  ending ??= (async () => {
    interrupted.abort()
    // A start that failed has stopped everything already.
    await starting?.then(
      (stack) => stack.stop(),
      () => {},
    )
    process.exit(code)
  })()
  return ending
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (!ending) {
      say('\nStopping …')
      void end(isUp ? 0 : 130)
    } else if (Date.now() - endingSince > 1000) {
      // A second Ctrl-C means it; the tethers stop every child when this process is gone. Not sooner, because npm passes
      // on the very Ctrl-C that the terminal has sent here already.
      process.exit(130)
    }
  })
}
// A closed terminal or pipe can't be written to; that must not keep us from stopping in order.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
for (const event of ['uncaughtException', 'unhandledRejection'] as const) process.on(event, fail)

function fail(error: unknown): Promise<never> {
  // What fails because we are stopping is no news.
  if (!ending) {
    complain(messageOf(error))
    if (process.env.LOG_LEVEL === 'debug') console.error(error)
  }
  return end(1)
}

try {
  const envFile = fileURLToPath(new URL('../../.env', import.meta.url))
  if (existsSync(envFile)) process.loadEnvFile(envFile)
  const config = readConfig(Config, process.env)
  const dataDir = resolve(config.MARKET_DATA_DIR)
  const { RPC: rpc, CIRCLES_RPC: circlesRpc = rpc } = config
  starting = startStack({
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
    // The dev chain is quick, and one machine needs no patience with a replica that was killed; waiting as in production
    // would only bore. Anything set in the environment wins.
    env: { POLL_SECONDS: '1', CATALOG_POLL_SECONDS: '1', LEASE_SECONDS: '5', ...process.env },
    onLine: printLine,
    onProgress: (text) => say(`[${seconds()} s] ${text}`),
    onGivenUp: (news) => {
      if (!ending) complain(news)
      void end(1)
    },
    signal: interrupted.signal,
  })
  // Takes a third of a second to load, which a start that fails at once and a chain without demo seller need not spend.
  const demo = rpc === undefined ? import('./demoSeller.ts') : undefined
  const stack = await starting
  const seller = demo && (await seed(await demo, stack, config))
  if (!ending) printReady(stack, seller, dataDir)
  isUp = true
} catch (error) {
  await fail(error)
}

/** The demo seller lives on the dev chain; a chain of the operator's own has its own sellers. */
async function seed(
  { DEMO_PRODUCTS, demoOperator, demoSeller, seedDemoSeller }: typeof import('./demoSeller.ts'),
  running: Stack,
  ipfs: Pick<z.infer<typeof Config>, 'IPFS_RPC_URL' | 'IPFS_RPC_BEARER'>,
): Promise<string> {
  const outcome = await seedDemoSeller({
    rpcUrl: running.rpcUrl,
    connections: running.connections,
    adapterSecretsKey: running.secrets.adapterSecretsKey,
    ipfs: { ...ipfs, IPFS_STORE_DIR: running.ipfsStoreDir ?? '' },
  })
  const url = `${running.marketUrl}/api/operator/${demoOperator}/catalog?avatars=${demoSeller}`
  const deadline = Date.now() + 20_000
  for (;;) {
    const page = await readPage(url)
    if (page?.products.length === DEMO_PRODUCTS) return `${demoSeller} (${page.products.length} products, ${outcome})`
    if (Date.now() > deadline) {
      throw new DevstackError(
        `the demo catalog does not show up: ${JSON.stringify(page?.errors ?? 'no answer').slice(0, 200)}`,
      )
    }
    await delay(50)
  }
}

/** Undefined while market-api is being started again. */
async function readPage(url: string) {
  const answer = await fetch(url)
    .then((response) => response.json())
    .catch(() => undefined)
  return answer as { products: unknown[]; errors?: unknown[] } | undefined
}

/**
 * Chatter of healthy services stays in the background unless asked for; warnings and errors are shown at once. Not those of
 * a start, which are either overcome or why it fails, and then told in one line.
 */
function printLine(source: string, line: string) {
  const verbose = ['info', 'debug'].includes(process.env.LOG_LEVEL ?? '')
  const notable = isUp ? /"level":"(warn|error)"|FATAL|PANIC/ : /"level":"warn"/
  if (verbose || (!ending && notable.test(line))) say(`${source.padEnd(13)} | ${line}`)
}

function printReady(
  { marketUrl, codeDispenserUrl, rpcUrl, postgres }: Stack,
  seller: string | undefined,
  dataDir: string,
) {
  say(`
Circles Market is up after ${seconds()} s

  market-api      ${marketUrl}
  code dispenser  ${codeDispenserUrl}
  chain RPC       ${rpcUrl}
  Postgres        ${postgres.host}:${postgres.port}
  demo seller     ${seller ?? 'none: RPC is set, so the dev chain and its seller are not there'}
  data            ${dataDir}

Next, in another terminal:
${seller ? '  npm run demo            buys one code as a buyer would\n' : ''}  npm run ops -- --help   what an operator can do
LOG_LEVEL=info npm start shows every service's log. Ctrl-C stops everything; the data stays.
`)
}
