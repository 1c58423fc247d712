import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import postgresClient from 'postgres'
import { startAnvil } from './anvil.ts'
import { startEmbeddedPostgres } from './embeddedPostgres.ts'
import { DevstackError } from './errors.ts'
import { lockDataDir } from './lock.ts'
import { assertNeighboursAnswer, callRpc } from './neighbours.ts'
import { assertPortFree, momentaryPort } from './ports.ts'
import { openSecrets, type Secrets } from './secrets.ts'
import { endedBy, type Service, startService } from './service.ts'
import { type Exit, spawnTethered } from './tether.ts'

export type ServiceName = 'market-api' | 'codedispenser'

export interface StackOptions {
  dataDir: string
  ports: { market: number; codeDispenser: number; postgres: number; devChain: number }
  /** A server that is there already; undefined = embedded. */
  postgres?: { host: string; port: number; user: string; password: string } | undefined
  /** Kubo's RPC; undefined = blocks in the data folder. */
  ipfsRpcUrl?: string | undefined
  /** A chain that is there already; undefined = the dev chain. */
  chain?: { rpc: string; circlesRpc: string } | undefined
  /** What every process inherits. */
  env: NodeJS.ProcessEnv
  /** For one service, over what the stack itself sets for it: a test puts stand-ins between it and its neighbours. */
  serviceEnv?: Partial<Record<ServiceName, NodeJS.ProcessEnv>>
  /** For one service's first start only. */
  firstEnv?: Partial<Record<ServiceName, NodeJS.ProcessEnv>>
  /** Tests only: trades durability of the embedded Postgres for speed. */
  fast?: boolean
  onLine?: (source: string, line: string) => void
  /** Told what happens, in a few words, for whoever waits. */
  onProgress?: (text: string) => void
  /** Something died and was not, or not any more, started again. The rest still runs, to be stopped by the caller. */
  onGivenUp?: (news: string) => void
  /** Ends a start that is under way: what is there so far is stopped, then `startStack` rejects. */
  signal?: AbortSignal
}

export interface Stack {
  marketUrl: string
  codeDispenserUrl: string
  /** JSON-RPC of the chain, `circles_query` included. */
  rpcUrl: string
  /** Postgres URLs of the two databases, as their own roles. */
  connections: { market: string; codedisp: string }
  postgres: { host: string; port: number; user: string; password: string }
  services: Record<ServiceName, Service>
  /** Where blocks are kept; undefined when Kubo does. */
  ipfsStoreDir: string | undefined
  secrets: Secrets
  /** Stops everything in order. May be called again. */
  stop(): Promise<void>
}

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
const dist = (...path: string[]) => join(ROOT, ...path)
const PROGRAMS = {
  initDb: dist('init-db/dist/main.js'),
  devChain: dist('tools/dev-chain/dist/main.js'),
  codedispenser: dist('adapters/codedispenser/dist/main.js'),
  'market-api': dist('market-api/dist/main.js'),
}

/** Whoever waits for a server of their own sees the mistake soon; one that comes up together with us still makes it. */
const POSTGRES_WAIT_SECONDS = '5'
/** Processes of a start that was killed are told to stop at once; those that don't are killed after 30 s. */
const ORPHAN_PATIENCE_MS = 35_000
const DEV_CHAIN_ID = 100

type Part = { stop(): Promise<unknown> }
type Parts = { add(part: Part): void; watch(name: string, exited: Promise<Exit>): void }

/**
 * Starts everything one market needs on this machine and waits until it is ready. What is started is stopped again when
 * any part fails; `DevstackError` then says which and why in one line.
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  const { dataDir, ports, env, signal, onLine = () => {}, onProgress = () => {}, onGivenUp = () => {} } = options
  const started: Part[] = []
  let stopped: Promise<void> | undefined
  const stop = () => {
    stopped ??= (async () => {
      // One that can't be stopped must not keep the others running.
      for (const part of started.toReversed()) await part.stop().catch(() => {})
    })()
    return stopped
  }
  const parts: Parts = {
    add: (part) => started.push(part),
    // Not started again: they hold data, and whoever killed them (the kernel for want of memory?) should be heard of.
    watch: (name, exited) =>
      void exited.then((exit) => {
        if (!stopped) onGivenUp(`${name} died (${endedBy(exit)}); everything is stopped and the data kept, start again`)
      }),
  }
  try {
    await assertBuilt()
    const killedBefore = await exists(join(dataDir, 'start.lock'))
    const lock = await lockDataDir(dataDir)
    parts.add({ stop: () => lock.release() })
    await assertPortsFree(options, killedBefore ? ORPHAN_PATIENCE_MS : 0)
    await assertNeighboursAnswer(options)
    const secrets = operatorsOwn(await openSecrets(dataDir), env)
    signal?.throwIfAborted()

    const database = (async () => {
      const postgres = options.postgres ?? (await embeddedPostgres(options, secrets, parts))
      await initDb(options, secrets, postgres)
      return postgres
    })()
    const chain = options.chain ? { ...options.chain, env: {} } : devChain(options, parts)
    const [postgres, { rpc, circlesRpc, env: chainEnv }] = await bothSettled(database, chain)
    signal?.throwIfAborted()

    const host = postgres.host.includes(':') ? `[${postgres.host}]` : postgres.host
    const connection = (user: string, password: string, name: string) =>
      `postgres://${[user, password].map(encodeURIComponent).join(':')}@${host}:${postgres.port}/${encodeURIComponent(name)}`
    const connections = {
      market: connection(
        env.DB_MARKET_API_USER || 'market_api',
        secrets.marketPassword,
        env.DB_MARKET_API || 'circles_market_api',
      ),
      codedisp: connection(
        env.DB_CODEDISP_USER || 'codedisp',
        secrets.codedispPassword,
        env.DB_CODEDISP || 'circles_codedisp',
      ),
    }

    if (!options.chain) await outgrowLedger(rpc, connections.market)

    const marketUrl = `http://127.0.0.1:${ports.market}`
    const codeDispenserUrl = `http://127.0.0.1:${ports.codeDispenser}`
    const ipfsStoreDir = options.ipfsRpcUrl ? undefined : join(dataDir, 'ipfs')

    const launch = async (name: ServiceName, url: string, own: NodeJS.ProcessEnv) => {
      const service = await startService({
        name,
        script: PROGRAMS[name],
        env: {
          ...inherited(env),
          // Demo keys are known to everybody, and any page may sign in: nobody else's business.
          HOST: env.HOST || '127.0.0.1',
          CIRCLES_SERVICE_KEY: secrets.serviceKey,
          // One key for both ends; a token of its own would be known to only one of them.
          MARKET_CODE_DISPENSER_TOKEN: '',
          ...own,
          ...options.serviceEnv?.[name],
        },
        readyUrl: `${url}/health/ready`,
        signal,
        onLine: (line) => onLine(name, line),
        onNews: onProgress,
        onGivenUp,
        ...(options.firstEnv?.[name] ? { firstEnv: options.firstEnv[name] } : {}),
      })
      parts.add(service)
      onProgress(`${name} is ready on ${url}`)
      return service
    }
    const [codedispenser, market] = await bothSettled(
      launch('codedispenser', codeDispenserUrl, {
        PORT: String(ports.codeDispenser),
        POSTGRES_CONNECTION: connections.codedisp,
        ADAPTER_SECRETS_KEY: secrets.adapterSecretsKey,
        CODEDISP_ADMIN_PORT: env.MARKET_CODEDISP_ADMIN_PORT || '65007',
      }),
      launch('market-api', marketUrl, {
        PORT: String(ports.market),
        POSTGRES_CONNECTION: connections.market,
        PUBLIC_BASE_URL: env.PUBLIC_BASE_URL || marketUrl,
        MARKET_AUTH_ALLOWED_DOMAINS: env.MARKET_AUTH_ALLOWED_DOMAINS || '*',
        MARKET_JWT_PRIVATE_KEY: secrets.jwtPrivateKey,
        MARKET_CODE_DISPENSER_ORIGIN: codeDispenserUrl,
        RPC: rpc,
        CIRCLES_RPC: circlesRpc,
        ...chainEnv,
        ...rateLimits(env),
        ...(options.ipfsRpcUrl ? { IPFS_RPC_URL: options.ipfsRpcUrl } : { IPFS_STORE_DIR: ipfsStoreDir }),
      }),
    )
    signal?.throwIfAborted()
    return {
      marketUrl,
      codeDispenserUrl,
      rpcUrl: circlesRpc,
      connections,
      postgres,
      services: { 'market-api': market, codedispenser },
      ipfsStoreDir,
      secrets,
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Both are waited for even when one fails: what the other started must be known to be stopped. */
async function bothSettled<A, B>(a: A | Promise<A>, b: B | Promise<B>): Promise<[A, B]> {
  const failure = (await Promise.allSettled([a, b])).find((result) => result.status === 'rejected')
  if (failure) throw failure.reason
  return [await a, await b]
}

/** On one machine everybody is one client; whoever wants to see the limits says so. */
export function rateLimits(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const said = Object.entries(env).some(([name, value]) => name.startsWith('RATE_LIMIT_') && value?.trim())
  return said ? {} : { RATE_LIMIT_ENABLED: 'false' }
}

/** Each process gets its own secrets only; the superuser's and the roles' stay here. */
function inherited(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(env).filter(
      ([name]) => !name.startsWith('POSTGRES_') && name !== 'ADAPTER_SECRETS_KEY' && !/^DB_.*PASSWORD$/.test(name),
    ),
  )
}

/** What the operator has set wins: on a server of theirs, a role of other processes must not get a password of ours. */
function operatorsOwn(secrets: Secrets, env: NodeJS.ProcessEnv): Secrets {
  const choose = (name: string, ours: string) => {
    const theirs = env[name]?.trim()
    return !theirs || theirs.startsWith(';;;;') ? ours : theirs
  }
  return {
    ...secrets,
    marketPassword: choose('DB_MARKET_API_PASSWORD', secrets.marketPassword),
    codedispPassword: choose('DB_CODEDISP_PASSWORD', secrets.codedispPassword),
    serviceKey: choose('CIRCLES_SERVICE_KEY', secrets.serviceKey),
    adapterSecretsKey: choose('ADAPTER_SECRETS_KEY', secrets.adapterSecretsKey),
    jwtPrivateKey: choose('MARKET_JWT_PRIVATE_KEY', secrets.jwtPrivateKey),
  }
}

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  )

async function assertBuilt() {
  for (const program of Object.values(PROGRAMS)) {
    if (await exists(program)) continue
    throw new DevstackError(`the project is not built (${program} is missing); run: npm run build`)
  }
}

/** All four before anything is started, so that a wrong port costs no wait. */
async function assertPortsFree({ ports, postgres, chain, signal, onProgress }: StackOptions, patienceMs: number) {
  const deadline = Date.now() + patienceMs
  let told = false
  for (;;) {
    try {
      await assertPortFree(ports.market, 'market-api', 'MARKET_API_PORT')
      await assertPortFree(ports.codeDispenser, 'codedispenser', 'MARKET_CODE_DISPENSER_PORT')
      if (!postgres) await assertPortFree(ports.postgres, 'postgres', 'MARKET_POSTGRES_PORT')
      if (!chain) await assertPortFree(ports.devChain, 'the dev chain', 'DEV_CHAIN_PORT')
      return
    } catch (error) {
      if (Date.now() > deadline || signal?.aborted) throw error
      if (!told) onProgress?.(`waiting for what a killed start left: ${(error as Error).message}`)
      told = true
      await delay(50)
    }
  }
}

async function embeddedPostgres(
  { dataDir, ports, fast, onLine, onProgress }: StackOptions,
  secrets: Secrets,
  parts: Parts,
) {
  const postgres = await startEmbeddedPostgres({
    dataDir: join(dataDir, 'postgres'),
    port: ports.postgres,
    password: secrets.postgresPassword,
    ...(fast ? { fast } : {}),
    onLine: (line) => onLine?.('postgres', line),
  })
  parts.add(postgres)
  parts.watch('Postgres', postgres.exited)
  onProgress?.(`Postgres is ready on 127.0.0.1:${ports.postgres}`)
  const { host, port, user, password } = postgres
  return { host, port, user, password }
}

async function initDb({ env, signal, onLine }: StackOptions, secrets: Secrets, postgres: Stack['postgres']) {
  signal?.throwIfAborted()
  const problems: string[] = []
  const child = await spawnTethered({
    command: process.execPath,
    args: [PROGRAMS.initDb],
    env: {
      ...env,
      POSTGRES_HOST: postgres.host,
      POSTGRES_PORT: String(postgres.port),
      POSTGRES_USER: postgres.user,
      POSTGRES_PASSWORD: postgres.password,
      DB_MARKET_API_PASSWORD: secrets.marketPassword,
      DB_CODEDISP_PASSWORD: secrets.codedispPassword,
      INIT_DB_WAIT_SECONDS: env.INIT_DB_WAIT_SECONDS || POSTGRES_WAIT_SECONDS,
    },
    stopSignal: 'SIGTERM',
    onLine: (line, stream) => {
      if (stream === 'stderr') problems.push(line.replace(/^\[provision-dbs\] ERROR: /, ''))
      onLine?.('init-db', line)
    },
  })
  const interrupt = () => void child.stop(5_000)
  signal?.addEventListener('abort', interrupt)
  const exit = await child.exited
  signal?.removeEventListener('abort', interrupt)
  signal?.throwIfAborted()
  if (exit.code !== 0) throw new DevstackError(`init-db failed: ${problems.join('; ') || endedBy(exit)}`)
}

async function devChain(options: StackOptions, parts: Parts) {
  const { dataDir, ports, signal, onLine, onProgress, onGivenUp } = options
  const node = await startAnvil({
    port: await momentaryPort(),
    chainId: DEV_CHAIN_ID,
    statePath: join(dataDir, 'chain', 'state.json'),
    onLine: (line) => onLine?.('anvil', line),
  })
  parts.add(node)
  parts.watch('anvil, the dev chain,', node.exited)
  const url = `http://127.0.0.1:${ports.devChain}`
  const facade = await startService({
    name: 'dev-chain',
    script: PROGRAMS.devChain,
    env: { ...inherited(options.env), PORT: String(ports.devChain), NODE_URL: node.url },
    readyUrl: `${url}/ready`,
    signal,
    onLine: (line) => onLine?.('dev-chain', line),
    onNews: onProgress,
    onGivenUp,
  })
  parts.add(facade)
  onProgress?.(`dev chain is ready on ${url}`)
  const { contracts } = (await (await fetch(url)).json()) as {
    contracts: { nameRegistry: string; gatewayFactory: string }
  }
  const env = {
    CHAIN_ID: String(DEV_CHAIN_ID),
    NAME_REGISTRY_ADDRESS: contracts.nameRegistry,
    PAYMENT_GATEWAY_FACTORY: contracts.gatewayFactory,
  }
  return { rpc: url, circlesRpc: url, env }
}

/**
 * A chain that was begun anew is far behind what market-api has read of the old one, and so looks like a node that is far behind
 * its chain: nothing is paid until it has grown as long.
 */
async function outgrowLedger(rpc: string, database: string) {
  const sql = postgresClient(database, { max: 1 })
  try {
    const [row] = await sql<{ seen: number | null }[]>`
      select max(last_block_number)::int as seen from payments_cursors where chain_id = ${DEV_CHAIN_ID}`
    const head = Number((await callRpc('RPC', rpc, 'eth_blockNumber', [])).result)
    const missing = (row?.seen ?? 0) - head
    if (missing > 0) await callRpc('RPC', rpc, 'anvil_mine', [`0x${missing.toString(16)}`])
  } catch (error) {
    // No such table: market-api has not been here yet.
    if ((error as { code?: string }).code !== '42P01') throw error
  } finally {
    await sql.end()
  }
}
