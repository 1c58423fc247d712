import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { SERVICE_KEY_HEADER } from '@market/contracts/fulfillment'
import { CHAIN_ID } from '@market/dev-chain/demo'
import { freePort } from '@market/devstack/ports'
import { openSecrets } from '@market/devstack/secrets'
import { type Child, spawnTethered } from '@market/devstack/tether'
import { startRunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { startFaultyAdapter } from './faultyAdapter.ts'
import type { Random } from './random.ts'
import { startTcpProxy } from './tcpProxy.ts'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
const GRACE_MS = 12_000
/** Of one call to the adapter. Shorter than in production, where a hung adapter costs 45 s a try. */
export const CALL_TIMEOUT_MS = 2500
/** Of a hundred calls that many go wrong at the adapter. */
const FAULT_SHARE = 30

export type World = Awaited<ReturnType<typeof startWorld>>

/**
 * A market as real processes, some of market-api and a code dispenser, in which each talks to the other and to Postgres through
 * something that can be told to fail:
 *
 *     market-api … ─ TCP ─ HTTP ─ codedispenser
 *          └─ TCP ─ Postgres ─ TCP ─┘
 *
 * What is done here on purpose (`sql`, `codes`, `ops`, `replicas[i].url`) goes straight.
 */
export async function startWorld(options: { replicas: number; random: Random }) {
  const dataDir = await mkdtemp(join(tmpdir(), 'market-chaos-'))
  const [market, codeDispenser, postgresPort, devChain, adapterFront, adapterProxy, marketDb, codesDb] =
    (await Promise.all(Array.from({ length: 8 }, () => freePort()))) as [number, ...number[]] & Record<number, number>
  const { marketPassword, codedispPassword } = await openSecrets(dataDir)
  const through = (port: number, user: string, password: string, name: string) =>
    `postgres://${user}:${encodeURIComponent(password)}@127.0.0.1:${port}/${name}`
  const links = {
    'market↔adapter': await startTcpProxy({ port: adapterFront!, target: adapterProxy! }),
    'market↔Postgres': await startTcpProxy({ port: marketDb!, target: postgresPort! }),
    'adapter↔Postgres': await startTcpProxy({ port: codesDb!, target: postgresPort! }),
  }
  const adapter = await startFaultyAdapter({
    port: adapterProxy!,
    target: codeDispenser!,
    random: options.random,
    share: FAULT_SHARE,
    tooLongMs: CALL_TIMEOUT_MS + 500,
  })
  const stopProxies = () => [adapter, ...Object.values(links)].forEach((proxy) => proxy.stop())

  const stack = await startRunningMarket({
    dataDir,
    ports: { market, codeDispenser: codeDispenser!, postgres: postgresPort!, devChain: devChain! },
    env: { ...process.env, PAYMENTS_SOURCE: 'evm', CATALOG_POLL_SECONDS: '3600' },
    serviceEnv: {
      'market-api': {
        MARKET_CODE_DISPENSER_ORIGIN: `http://127.0.0.1:${adapterFront}`,
        OUTBOUND_FULFILLMENT_TIMEOUT_MS: String(CALL_TIMEOUT_MS),
        POSTGRES_CONNECTION: through(marketDb!, 'market_api', marketPassword, 'circles_market_api'),
      },
      codedispenser: {
        POSTGRES_CONNECTION: through(codesDb!, 'codedisp', codedispPassword, 'circles_codedisp'),
      },
    },
  }).catch(async (error) => {
    stopProxies()
    await rm(dataDir, { recursive: true, force: true })
    throw error
  })
  const { 'market-api': first, codedispenser } = stack.services
  const log: string[] = []
  const replicas: Process[] = []
  const connect = (url: string, max: number) => postgres(url, { max, onnotice: () => {} })
  const superuser = connect(through(postgresPort!, stack.postgres.user, stack.postgres.password, 'postgres'), 1)
  const sql = connect(stack.connections.market, 4)
  const codes = connect(stack.connections.codedisp, 2)

  const remove = async () => {
    await Promise.all([...replicas, dispenser].map((one) => one.stop()))
    await Promise.all([superuser, sql, codes].map((one) => one.end()))
    await stack.remove()
    stopProxies()
  }
  // Who starts them again, and when, is decided here from now on.
  await Promise.all([first.stop(), codedispenser.stop()])
  const onLine = (name: string) => (line: string) => void log.push(`${name} ${line}`)
  for (let i = 0; i < options.replicas; i += 1) {
    const port = await freePort()
    const env = { ...first.env, PORT: String(port) }
    const name = `market-api ${i + 1}`
    replicas.push(processOf(name, `${ROOT}market-api/dist/main.js`, env, port, onLine(name)))
  }
  const dispenser = processOf(
    'codedispenser',
    `${ROOT}adapters/codedispenser/dist/main.js`,
    codedispenser.env,
    codeDispenser!,
    onLine('codedispenser'),
  )

  return {
    rpcUrl: stack.rpcUrl,
    secrets: stack.secrets,
    links,
    adapter,
    replicas,
    dispenser,
    superuser,
    sql,
    codes,
    /** What the processes logged, in the order in which it came. */
    log,
    /** `npm run ops -- …`, `input` on its standard input. Gives what it printed as JSON. */
    ops: (args: string[], input: string) =>
      runOps(args, input, {
        PATH: process.env.PATH,
        OPS_MARKET_URL: stack.connections.market,
        OPS_CODEDISP_URL: stack.connections.codedisp,
        ADAPTER_SECRETS_KEY: stack.secrets.adapterSecretsKey,
      }),
    /** How many of it the dispenser has, asked for as the market does. */
    async inventory(seller: string, sku: string): Promise<number> {
      const response = await fetch(`${dispenser.url}/inventory/${CHAIN_ID}/${seller}/${sku}`, {
        headers: { [SERVICE_KEY_HEADER]: stack.secrets.serviceKey },
      })
      return ((await response.json()) as { value: number }).value
    },
    remove,
  }
}

export type Process = ReturnType<typeof processOf>

/** A program that is started, killed, stalled and started again by name of what it is. */
function processOf(name: string, script: string, env: NodeJS.ProcessEnv, port: number, onLine: (line: string) => void) {
  const url = `http://127.0.0.1:${port}`
  let child: Child | undefined
  let starting: Promise<void> | undefined
  let wanted = false
  const exits: string[] = []
  let lastLine = ''

  const launch = async () => {
    const started = await spawnTethered({
      command: process.execPath,
      args: [script],
      env,
      stopSignal: 'SIGTERM',
      onLine: (line) => {
        lastLine = line
        onLine(line)
      },
    })
    child = started
    void started.exited.then(async () => {
      child = undefined
      if (!wanted) return
      // Nobody killed it. A container runtime would start it again, and so does this.
      exits.push(`${name}: ${lastLine}`)
      await delay(200)
      if (wanted) start()
    })
  }
  const start = () => {
    wanted = true
    if (child) return Promise.resolve()
    starting ??= launch().finally(() => (starting = undefined))
    return starting
  }
  const signal = (which: 'SIGSTOP' | 'SIGCONT') => {
    if (child) process.kill(child.pid, which)
  }
  return {
    name,
    url,
    /** For each time it ended by itself, what it said last. */
    exits,
    isUp: () => child !== undefined,
    start,
    async kill() {
      wanted = false
      const dying = child
      dying?.kill()
      await dying?.exited
    },
    stall: () => signal('SIGSTOP'),
    resume: () => signal('SIGCONT'),
    async stop() {
      wanted = false
      signal('SIGCONT')
      await starting
      await child?.stop(GRACE_MS)
    },
    untilReady: () => until(`${name} is ready`, async () => (await fetch(`${url}/health/ready`)).ok, 60),
  }
}

function runOps(args: string[], input: string, env: NodeJS.ProcessEnv): Promise<unknown> {
  const child = spawn(process.execPath, [`${ROOT}scripts/dist/ops.js`, '--json', ...args], { env })
  let out = ''
  let problems = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (problems += text))
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => {
      if (code === 0) resolve(JSON.parse(out.trim().split('\n').at(-1)!))
      else reject(new Error(`ops ${args.join(' ')} ended with ${code}: ${problems.trim()}`))
    })
  })
}
