import { mkdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startAnvil } from './anvil.ts'
import { startEmbeddedPostgres } from './embeddedPostgres.ts'
import { DevstackError } from './errors.ts'
import { lockDataDir } from './lock.ts'
import { assertPortFree, freePort } from './ports.ts'
import { openSecrets, type Secrets } from './secrets.ts'
import { type Service, startService } from './service.ts'
import { spawnTethered } from './tether.ts'

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
  /** For one service's first start only. */
  firstEnv?: Partial<Record<ServiceName, NodeJS.ProcessEnv>>
  /** Tests only: trades durability of the embedded Postgres for speed. */
  fast?: boolean
  onLine?: (source: string, line: string) => void
  /** Told what happens, in a few words, for whoever waits. */
  onProgress?: (text: string) => void
  /** A service died and could not be kept alive. */
  onGivenUp?: (news: string) => void
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

/**
 * Starts everything one market needs on this machine and waits until it is ready. What is started is stopped again when
 * any part fails; `DevstackError` then says which and why in one line.
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  const { dataDir, ports, onLine = () => {}, onProgress = () => {} } = options
  const undo: (() => Promise<unknown>)[] = []
  let stopped: Promise<void> | undefined
  const stop = () => {
    stopped ??= (async () => {
      for (const step of undo.reverse()) await step()
    })()
    return stopped
  }
  try {
    const lock = await lockDataDir(dataDir)
    undo.push(() => lock.release())
    const secrets = await openSecrets(dataDir)
    await assertPortFree(ports.market, 'market-api', 'MARKET_API_PORT')
    await assertPortFree(ports.codeDispenser, 'codedispenser', 'MARKET_CODE_DISPENSER_PORT')
    await assertBuilt()

    const database = (async () => {
      const postgres = options.postgres ?? (await embedded(options, secrets, undo))
      await initDb(options, secrets, postgres)
      return postgres
    })()
    const chain = options.chain ? { ...options.chain, env: {} } : startDevChain(options, undo)
    // Both are waited for even when one fails: what the other started must be known to be stopped.
    const [postgresResult, chainResult] = await Promise.allSettled([database, chain])
    if (postgresResult.status === 'rejected') throw postgresResult.reason
    if (chainResult.status === 'rejected') throw chainResult.reason
    const postgres = postgresResult.value
    const { rpc, circlesRpc, env: chainEnv } = chainResult.value

    const connection = (user: string, password: string, name: string) =>
      `postgres://${user}:${encodeURIComponent(password)}@${postgres.host}:${postgres.port}/${name}`
    const { env } = options
    const connections = {
      market: connection(
        env.DB_MARKET_API_USER ?? 'market_api',
        secrets.marketPassword,
        env.DB_MARKET_API ?? 'circles_market_api',
      ),
      codedisp: connection(env.DB_CODEDISP_USER ?? 'codedisp', secrets.codedispPassword, env.DB_CODEDISP ?? 'circles_codedisp'),
    }
    const marketUrl = `http://127.0.0.1:${ports.market}`
    const codeDispenserUrl = `http://127.0.0.1:${ports.codeDispenser}`
    const ipfsStoreDir = options.ipfsRpcUrl ? undefined : join(dataDir, 'ipfs')

    const launch = async (name: ServiceName, script: string, url: string, own: NodeJS.ProcessEnv) => {
      const service = await startService({
        name,
        script,
        env: { ...inherited(env), CIRCLES_SERVICE_KEY: secrets.serviceKey, ...own },
        readyUrl: `${url}/health/ready`,
        onLine: (line) => onLine(name, line),
        onNews: onProgress,
        ...(options.firstEnv?.[name] ? { firstEnv: options.firstEnv[name] } : {}),
        ...(options.onGivenUp ? { onGivenUp: options.onGivenUp } : {}),
      })
      undo.push(() => service.stop())
      onProgress(`${name} is ready on ${url}`)
      return service
    }
    const started = await Promise.allSettled([
      launch('codedispenser', dist('adapters/codedispenser/dist/main.js'), codeDispenserUrl, {
        PORT: String(ports.codeDispenser),
        POSTGRES_CONNECTION: connections.codedisp,
      }),
      launch('market-api', dist('market-api/dist/main.js'), marketUrl, {
        PORT: String(ports.market),
        POSTGRES_CONNECTION: connections.market,
        PUBLIC_BASE_URL: env.PUBLIC_BASE_URL || marketUrl,
        MARKET_AUTH_ALLOWED_DOMAINS: env.MARKET_AUTH_ALLOWED_DOMAINS || '*',
        MARKET_JWT_PRIVATE_KEY: env.MARKET_JWT_PRIVATE_KEY || secrets.jwtPrivateKey,
        MARKET_CODE_DISPENSER_ORIGIN: codeDispenserUrl,
        RPC: rpc,
        CIRCLES_RPC: circlesRpc,
        ...chainEnv,
        ...(options.ipfsRpcUrl ? { IPFS_RPC_URL: options.ipfsRpcUrl } : { IPFS_STORE_DIR: ipfsStoreDir }),
      }),
    ])
    const [codedispenser, market] = started.map((result) => {
      if (result.status === 'rejected') throw result.reason
      return result.value
    })
    return {
      marketUrl,
      codeDispenserUrl,
      rpcUrl: circlesRpc,
      connections,
      postgres,
      services: { 'market-api': market!, codedispenser: codedispenser! },
      ipfsStoreDir,
      secrets,
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Each process gets its own secrets only; the superuser's and the roles' stay here. */
function inherited(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(env).filter(([name]) => !name.startsWith('POSTGRES_') && !/^DB_.*PASSWORD$/.test(name)),
  )
}

async function assertBuilt() {
  try {
    await stat(dist('market-api/dist/main.js'))
  } catch {
    throw new DevstackError('the project is not built; run `npm run build`')
  }
}

async function embedded({ dataDir, ports, fast, onLine, onProgress }: StackOptions, secrets: Secrets, undo: (() => Promise<unknown>)[]) {
  const postgres = await startEmbeddedPostgres({
    dataDir: join(dataDir, 'postgres'),
    port: ports.postgres,
    password: secrets.postgresPassword,
    ...(fast ? { fast } : {}),
    onLine: (line) => onLine?.('postgres', line),
  })
  undo.push(() => postgres.stop())
  onProgress?.(`Postgres is ready on 127.0.0.1:${ports.postgres}`)
  const { host, port, user, password } = postgres
  return { host, port, user, password }
}

async function initDb(options: StackOptions, secrets: Secrets, postgres: Stack['postgres']) {
  const problems: string[] = []
  const child = await spawnTethered({
    command: process.execPath,
    args: [dist('init-db/dist/main.js')],
    env: {
      ...options.env,
      POSTGRES_HOST: postgres.host,
      POSTGRES_PORT: String(postgres.port),
      POSTGRES_USER: postgres.user,
      POSTGRES_PASSWORD: postgres.password,
      DB_MARKET_API_PASSWORD: secrets.marketPassword,
      DB_CODEDISP_PASSWORD: secrets.codedispPassword,
      INIT_DB_WAIT_SECONDS: '20',
    },
    stopSignal: 'SIGTERM',
    onLine: (line, stream) => {
      if (stream === 'stderr') problems.push(line)
      options.onLine?.('init-db', line)
    },
  })
  const { code } = await child.exited
  if (code !== 0) throw new DevstackError(`init-db failed: ${problems.at(-1) ?? `exit code ${code}`}`)
}

async function startDevChain(options: StackOptions, undo: (() => Promise<unknown>)[]) {
  const { dataDir, ports, onLine, onProgress } = options
  await assertPortFree(ports.devChain, 'the dev chain', 'DEV_CHAIN_PORT')
  const folder = join(dataDir, 'chain')
  await mkdir(folder, { recursive: true })
  const node = await startAnvil({
    port: await freePort(),
    statePath: join(folder, 'state.json'),
    onLine: (line) => onLine?.('anvil', line),
  })
  undo.push(() => node.stop())
  const url = `http://127.0.0.1:${ports.devChain}`
  const facade = await startService({
    name: 'dev-chain',
    script: dist('tools/dev-chain/dist/main.js'),
    env: { ...inherited(options.env), PORT: String(ports.devChain), NODE_URL: node.url },
    readyUrl: `${url}/ready`,
    onLine: (line) => onLine?.('dev-chain', line),
    ...(onProgress ? { onNews: onProgress } : {}),
    ...(options.onGivenUp ? { onGivenUp: options.onGivenUp } : {}),
  })
  undo.push(() => facade.stop())
  onProgress?.(`dev chain is ready on ${url}`)
  const { contracts } = (await (await fetch(url)).json()) as { contracts: { nameRegistry: string } }
  return { rpc: url, circlesRpc: url, env: { NAME_REGISTRY_ADDRESS: contracts.nameRegistry } }
}
