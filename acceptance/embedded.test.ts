import { access, mkdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { demoSeller } from '@market/dev-chain/demo'
import { startAnvil } from '@market/devstack/anvil'
import { startEmbeddedPostgres } from '@market/devstack/embeddedPostgres'
import { freePort } from '@market/devstack/ports'
import { readSecrets } from '@market/devstack/secrets'
import { startService } from '@market/devstack/service'
import { startKubo } from '@market/testkit/kubo'
import { createPublicClient, type Hex, http } from 'viem'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { seedDemoSeller } from '@market/testkit/demoSeller'
import {
  buyOne,
  descendantsOf,
  expectNothingLeft,
  listedProducts,
  type Place,
  place,
  start,
  type Start,
} from './startCommand.ts'

/** What a test has set up, undone last first. */
const undo: (() => Promise<unknown>)[] = []
afterAll(async () => {
  for (const step of undo.toReversed()) await step()
})

async function newPlace() {
  const created = await place()
  undo.push(() => rm(dirname(created.dataDir), { recursive: true, force: true }))
  return created
}

/** The settings that name a PostgreSQL server somebody else runs. */
let postgresElsewhere: Record<string, string>
beforeAll(async () => {
  const { dataDir } = await newPlace()
  await mkdir(dataDir)
  const server = await startEmbeddedPostgres({
    dataDir: join(dataDir, 'server'),
    port: await freePort(),
    password: `it's ;&/ours`,
    fast: true,
  })
  undo.push(() => server.stop())
  postgresElsewhere = {
    POSTGRES_HOST: server.host,
    POSTGRES_PORT: String(server.port),
    POSTGRES_USER: server.user,
    POSTGRES_PASSWORD: server.password,
  }
})

/** A chain somebody else runs: the node, and the Circles RPC in front of it. */
async function startChain() {
  const node = await startAnvil({ port: await freePort() })
  undo.push(() => node.stop())
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const facade = await startService({
    name: 'dev-chain',
    script: fileURLToPath(new URL('../tools/dev-chain/dist/main.js', import.meta.url)),
    env: { ...process.env, PORT: String(port), NODE_URL: node.url },
    readyUrl: `${url}/ready`,
    onLine: () => {},
  })
  undo.push(() => facade.stop())
  const { contracts } = (await (await fetch(url)).json()) as { contracts: { nameRegistry: string } }
  return { node, url, nameRegistry: contracts.nameRegistry }
}

async function stopped(signal: NodeJS.Signals, market: Start, where: Place) {
  const processes = await descendantsOf(market)
  market.kill(signal)
  expect({ ...(await market.ended), stderr: market.stderr() }).toEqual({ code: 0, signal: null, stderr: [] })
  await expectNothingLeft(where, processes)
}

const commandsOf = async (market: Start) => (await descendantsOf(market)).map(({ command }) => command).join('\n')
const isAbsent = (path: string) => expect(access(path)).rejects.toThrow('ENOENT')

it('uses the Postgres and the IPFS that are set, and starts none', async () => {
  const where = await newPlace()
  const kubo = await startKubo()
  undo.push(() => kubo.stop())
  const env = { ...postgresElsewhere, IPFS_RPC_URL: kubo.url }
  const market = start(where, env)
  await market.ready()
  undo.push(async () => market.kill('SIGKILL'))

  const listed = await listedProducts(where)
  expect(listed).toHaveLength(3)
  // What the seller signed went in there, and what the market shows it has read from there.
  for (const { productCid } of listed) expect([...kubo.pins]).toContain(productCid)
  expect(kubo.calls.filter((call) => call.startsWith('cat?')).length).toBeGreaterThanOrEqual(5)
  expect(await buyOne(where)).toMatchObject({ ok: true })
  const commands = await commandsOf(market)
  expect(commands).toContain('anvil')
  expect(commands).not.toContain('postgres')
  for (const folder of ['postgres', 'ipfs']) await isAbsent(join(where.dataDir, folder))
  expect(market.stdout()).toContain(`${postgresElsewhere.POSTGRES_HOST}:${postgresElsewhere.POSTGRES_PORT}`)

  // Another store than last time, and empty: the seller publishes again.
  kubo.blocks.clear()
  const secrets = (await readSecrets(where.dataDir))!
  const { marketPassword, codedispPassword } = secrets
  const server = `${postgresElsewhere.POSTGRES_HOST}:${postgresElsewhere.POSTGRES_PORT}`
  const again = await seedDemoSeller({
    rpcUrl: where.chainUrl,
    connections: {
      market: `postgres://market_api:${marketPassword}@${server}/circles_market_api`,
      codedisp: `postgres://codedisp:${codedispPassword}@${server}/circles_codedisp`,
    },
    secrets,
    ipfsRpcUrl: kubo.url,
  })
  expect(again).toBe('seeded')
  expect(kubo.blocks.size).toBeGreaterThanOrEqual(6)
  await stopped('SIGHUP', market, where)
})

it('uses the chain that is set, starts none, and puts no demo seller on it', async () => {
  const where = await newPlace()
  const chain = await startChain()
  const market = start(where, {
    ...postgresElsewhere,
    // Databases of their own, as two markets on one server have them.
    DB_MARKET_API: 'other_market',
    DB_MARKET_API_USER: 'other_market',
    DB_CODEDISP: 'other_codes',
    DB_CODEDISP_USER: 'other_codes',
    RPC: chain.node.url,
    CIRCLES_RPC: chain.url,
    NAME_REGISTRY_ADDRESS: chain.nameRegistry,
  })
  await market.ready()
  undo.push(async () => market.kill('SIGKILL'))
  expect(market.stdout()).toContain('demo seller     none')
  expect(market.stdout()).not.toContain('npm run demo')
  expect(await (await fetch(`${where.marketUrl}/api/sellers`)).json()).toEqual([])
  const client = createPublicClient({ transport: http(chain.node.url) })
  expect(await client.getTransactionCount({ address: demoSeller as Hex })).toBe(0)
  const commands = await commandsOf(market)
  for (const program of ['anvil', 'dev-chain', 'postgres']) expect(commands).not.toContain(program)
  await isAbsent(join(where.dataDir, 'chain'))
  expect(await (await fetch(`${where.marketUrl}/health/ready`)).text()).toBe('Healthy')
  await stopped('SIGINT', market, where)
})
