import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { access, mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { DEMO_CODE_SKU, demoOperator, demoSeller } from '@market/dev-chain/demo'
import { assertPortFree, freePort } from '@market/devstack/ports'
import { lookUpProcess } from '@market/devstack/processes'
import { type StackOptions, startStack } from '@market/devstack/stack'
import { until } from '@market/testkit/until'
import { expect } from 'vitest'

const run = promisify(execFile)
const script = (name: string) => fileURLToPath(new URL(`../scripts/dist/${name}.js`, import.meta.url))

/** Blank, which counts as unset, so that neither the developer's shell nor their `.env` decides what a test sees. */
const UNSET = Object.fromEntries(
  `POSTGRES_HOST POSTGRES_PORT POSTGRES_USER POSTGRES_PASSWORD IPFS_RPC_URL IPFS_RPC_BEARER RPC CIRCLES_RPC CHAIN_ID LOG_LEVEL
  FAILPOINT PUBLIC_BASE_URL INIT_DB_WAIT_SECONDS DB_MARKET_API_PASSWORD DB_CODEDISP_PASSWORD CIRCLES_SERVICE_KEY
  MARKET_JWT_PRIVATE_KEY`
    .split(/\s+/)
    .map((name) => [name, '']),
)

/** A data folder that does not exist yet, and free ports. */
export async function place() {
  // A blank and an umlaut: a home folder may have them.
  const dataDir = join(await mkdtemp(join(tmpdir(), 'market-start-')), 'Märkte hier')
  const [market, codeDispenser, postgres, devChain] = await Promise.all([
    freePort(),
    freePort(),
    freePort(),
    freePort(),
  ])
  const ports = { market: market!, codeDispenser: codeDispenser!, postgres: postgres!, devChain: devChain! }
  return { dataDir, ports, marketUrl: `http://127.0.0.1:${market}`, chainUrl: `http://127.0.0.1:${devChain}` }
}
export type Place = Awaited<ReturnType<typeof place>>

export type Start = {
  readonly pid: number
  stdout(): string
  /** Complete lines. */
  stderr(): string[]
  /** Resolves when stdout shows the text; rejects when the command ends instead. */
  shows(text: string): Promise<void>
  ready(): Promise<void>
  kill(signal: NodeJS.Signals): void
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

const environment = ({ dataDir, ports }: Place, env: Record<string, string>) => ({
  ...process.env,
  ...UNSET,
  MARKET_DATA_DIR: dataDir,
  MARKET_API_PORT: String(ports.market),
  MARKET_CODE_DISPENSER_PORT: String(ports.codeDispenser),
  MARKET_POSTGRES_PORT: String(ports.postgres),
  DEV_CHAIN_PORT: String(ports.devChain),
  // What a killed service leaves taken is free again the sooner.
  LEASE_SECONDS: '2',
  ...env,
})

/** What `npm start` runs, as a process of its own. */
export function start(where: Place, env: Record<string, string> = {}): Start {
  const child = spawn(process.execPath, [script('start')], {
    env: environment(where, env),
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk) => (stdout += String(chunk)))
  child.stderr.on('data', (chunk) => (stderr += String(chunk)))
  let isOver = false
  const ended = (once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>).then(([code, signal]) => {
    isOver = true
    return { code, signal }
  })
  const shows = async (text: string) => {
    const found = await until(`npm start shows ${text}`, () => (stdout.includes(text) ? 'shown' : isOver && 'over'), 45)
    if (found === 'over' && !stdout.includes(text))
      throw new Error(`npm start ended before it showed ${text}: ${stderr}`)
  }
  return {
    pid: child.pid!,
    stdout: () => stdout,
    stderr: () => stderr.split('\n').filter(Boolean),
    shows,
    ready: () => shows('Circles Market is up'),
    kill: (signal) => void child.kill(signal),
    ended,
  }
}

type Process = { pid: number; parent: number; command: string }

async function listProcesses(): Promise<Process[]> {
  const { stdout } = await run('ps', ['-eww', '-o', 'pid=,ppid=,args='], { maxBuffer: 16 * 1024 * 1024 })
  return stdout
    .split('\n')
    .map((line) => /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line))
    .filter((match) => match !== null)
    .map(([, pid, parent, command]) => ({ pid: Number(pid), parent: Number(parent), command: command! }))
}

/** Everything the command has started, to the last worker of Postgres. */
export async function descendantsOf({ pid }: { pid: number }): Promise<Process[]> {
  const all = await listProcesses()
  const below = (parent: number): Process[] =>
    all.filter((process) => process.parent === parent).flatMap((process) => [process, ...below(process.pid)])
  return below(pid)
}

/** The program itself, not the shells that tether it. */
export async function pidOf(started: { pid: number }, program: RegExp): Promise<number> {
  const found = (await descendantsOf(started)).filter(
    ({ command }) => program.test(command) && !command.startsWith('/bin/sh'),
  )
  // Postgres' own children come after it.
  if (!found[0]) throw new Error(`no process ${program}`)
  return found[0].pid
}

/** Neither a process, nor a lock, nor a port that is taken. */
export async function expectNothingLeft({ dataDir, ports }: Place, processes: Process[] = []) {
  await until(
    'every process is gone',
    () => processes.every(({ pid }) => !lookUpProcess(pid).alive) && processesOf(dataDir).length === 0,
  )
  await expect(access(join(dataDir, 'start.lock'))).rejects.toThrow('ENOENT')
  for (const port of Object.values(ports)) await assertPortFree(port, 'nobody')
}

/** By what they inherit or where they stand, for those that nobody saw start. */
function processesOf(dataDir: string): number[] {
  if (process.platform !== 'linux') return []
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
  return pids.map(Number).filter((pid) => {
    if (!lookUpProcess(pid).alive) return false
    const look = (read: () => string) => {
      try {
        return read()
      } catch {
        return ''
      }
    }
    const traces = ['environ', 'cmdline'].map((file) => look(() => readFileSync(`/proc/${pid}/${file}`, 'utf8')))
    return [...traces, look(() => readlinkSync(`/proc/${pid}/cwd`))].some((text) => text.includes(dataDir))
  })
}

/** Runs the command where it must not work; gives the one line it says. */
export async function refusal(where: Place, env: Record<string, string> = {}): Promise<string> {
  const started = start(where, env)
  const { code } = await started.ended
  expect({ code, lines: started.stderr() }).toEqual({ code: 1, lines: [expect.stringMatching(/^circles-market: /)] })
  await expectNothingLeft(where)
  return started.stderr()[0]!
}

/** As `refusal`, of what the command runs, without the command: gives what it would say behind its name. */
export async function stackRefusal(where: Place, options: Partial<StackOptions> = {}): Promise<string> {
  const { dataDir, ports } = where
  const error = await startStack({ dataDir, ports, fast: true, env: environment(where, {}), ...options }).then(
    (stack) => stack.stop(),
    (reason: Error) => reason,
  )
  expect(error).toMatchObject({ name: 'DevstackError', message: expect.not.stringContaining('\n') })
  await expectNothingLeft(where)
  return (error as Error).message
}

/** `npm run demo -- --json` */
export async function buyOne({ marketUrl, chainUrl }: Place, ...more: string[]) {
  const { stdout } = await run(process.execPath, [
    script('demo'),
    '--market',
    marketUrl,
    '--rpc',
    chainUrl,
    '--json',
    ...more,
  ])
  return JSON.parse(stdout) as { ok: boolean; buyer: string; orderId: string; codes: string[] }
}

type Listed = {
  productCid: string
  publishedAt: number
  product: { sku: string; offers: { inventoryFeed: string | null }[] }
}

export async function listedProducts({ marketUrl }: Place): Promise<Listed[]> {
  const response = await fetch(`${marketUrl}/api/operator/${demoOperator}/catalog?avatars=${demoSeller}`)
  return ((await response.json()) as { products: Listed[] }).products
}

/** How many codes are left, from the feed that the offer names. */
export async function stock(where: Place): Promise<number> {
  const code = (await listedProducts(where)).find(({ product }) => product.sku === DEMO_CODE_SKU)!
  const response = await fetch(code.product.offers[0]!.inventoryFeed!)
  return ((await response.json()) as { value: number }).value
}
