import { constants } from 'node:fs'
import { access, chmod, mkdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { causeOf, DevstackError } from './errors.ts'
import { assertPortFree } from './ports.ts'
import { type Child, type Exit, spawnTethered } from './tether.ts'

export interface AnvilOptions {
  port: number
  /** 100, Gnosis Chain, unless told otherwise. */
  chainId?: number
  /** Where the chain is kept between starts. Without it every start begins at block 0. */
  statePath?: string
  /** The variable to name when the port is in use. */
  portVariable?: string
  onLine?: (line: string) => void
}

export interface Anvil {
  readonly url: string
  readonly port: number
  readonly pid: number
  readonly exited: Promise<Exit>
  /** Resolves when the chain is written to `statePath`. */
  stop(): Promise<void>
  kill(): void
}

const START_LIMIT_MS = 60_000
const STOP_GRACE_MS = 30_000

/** Starts a chain of our own on 127.0.0.1, with free transactions, and resolves when it answers. */
export async function startAnvil({
  port,
  chainId = 100,
  portVariable,
  onLine,
  ...options
}: AnvilOptions): Promise<Anvil> {
  const statePath = options.statePath && resolve(options.statePath)
  const command = await findAnvil()
  await assertPortFree(port, 'anvil', portVariable)
  // Anvil starts without a word when it cannot write its state, and forgets everything at the end.
  if (statePath) await assertWritable(statePath)

  const lines: string[] = []
  const child = await spawnTethered({
    command,
    args: [
      '--host=127.0.0.1',
      `--port=${port}`,
      `--chain-id=${chainId}`,
      '--base-fee=0',
      '--gas-price=0',
      '--silent',
      ...(statePath ? [`--state=${statePath}`, '--state-interval=5'] : []),
    ],
    stopSignal: 'SIGTERM',
    onLine: (line) => {
      if (lines.push(line) > 20) lines.shift()
      onLine?.(line)
    },
  })
  const url = `http://127.0.0.1:${port}`
  const exit = await untilReady(child, url, chainId)
  if (exit) {
    const said = lines.join('\n')
    if (said.includes('Address already in use')) await assertPortFree(port, 'anvil', portVariable)
    const why = lines.findLast((line) => /error/i.test(line)) ?? `it ended with ${exit.signal ?? `code ${exit.code}`}`
    throw new DevstackError(
      statePath && said.includes('--state')
        ? `the chain's state file ${statePath} is damaged; delete that file to begin a new chain`
        : `anvil does not start: ${why}`,
    )
  }
  return { url, port, pid: child.pid, exited: child.exited, stop: () => child.stop(STOP_GRACE_MS), kill: child.kill }
}

/** Undefined when it answers with our chain id; how it ended when it did not live to. */
async function untilReady(child: Child, url: string, chainId: number): Promise<Exit | undefined> {
  let exit: Exit | undefined
  void child.exited.then((seen) => (exit = seen))
  const deadline = Date.now() + START_LIMIT_MS
  while (Date.now() < deadline) {
    if (exit) return exit
    if ((await askChainId(url)) === chainId) return undefined
    await Promise.race([delay(20), child.exited])
  }
  child.kill()
  throw new DevstackError(
    `anvil at ${url} was not ready after ${START_LIMIT_MS / 1000} s; free some memory and start again`,
  )
}

async function askChainId(url: string): Promise<number | undefined> {
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'eth_chainId', params: [] }),
      signal: AbortSignal.timeout(5_000),
    })
    return Number(((await response.json()) as { result?: string }).result)
  } catch {
    return undefined
  }
}

async function assertWritable(statePath: string): Promise<void> {
  try {
    await mkdir(dirname(statePath), { recursive: true })
    await access(dirname(statePath), constants.W_OK)
    await access(statePath, constants.W_OK).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
  } catch (error) {
    throw new DevstackError(
      `the chain's state file ${statePath} is not writable (${causeOf(error)}); make it writable or choose another folder`,
    )
  }
}

async function findAnvil(): Promise<string> {
  const platform = `${process.platform}-${process.arch === 'x64' ? 'amd64' : process.arch}`
  const require = createRequire(import.meta.url)
  let program: string
  try {
    // The package for this platform is a dependency of @foundry-rs/anvil, not of ours.
    const outer = createRequire(require.resolve('@foundry-rs/anvil/package.json'))
    program = join(dirname(outer.resolve(`@foundry-rs/anvil-${platform}/package.json`)), 'bin', 'anvil')
  } catch {
    throw new DevstackError(
      `the package @foundry-rs/anvil-${platform} is not installed; run npm install without --omit=optional, ` +
        'or point the market at a chain of your own',
    )
  }
  return executable(program)
}

/** npm sets the executable bit for what `bin` names, unless it is told not to. */
async function executable(program: string): Promise<string> {
  if (await isExecutable(program)) return program
  await chmod(program, 0o755).catch(() => {})
  if (await isExecutable(program)) return program
  throw new DevstackError(`${program} is not executable; allow it with: chmod +x ${program}`)
}

const isExecutable = (path: string) =>
  access(path, constants.X_OK).then(
    () => true,
    () => false,
  )
