import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer as createHttpServer } from 'node:http'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { demoKey, demoSeller } from '@market/dev-chain/demo'
import { freePort } from '@market/devstack/ports'
import { lookUpProcess } from '@market/devstack/processes'
import { startService } from '@market/devstack/service'
import { Market } from '@market/sdk/market'
import { until } from '@market/testkit/until'
import { privateKeyToAccount } from 'viem/accounts'
import { afterAll, afterEach, describe, expect, inject, it } from 'vitest'
import {
  buyOne,
  descendantsOf,
  expectNothingLeft,
  listedProducts,
  pidOf,
  type Place,
  place,
  refusal,
  type Start,
  stackRefusal,
  start,
  stock,
} from './startCommand.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('..', import.meta.url))

/** What the tests have set up, undone last first. */
const undo: (() => unknown)[] = []
const starts: Start[] = []
async function newPlace() {
  const created = await place()
  undo.push(() => rm(dirname(created.dataDir), { recursive: true, force: true }))
  return created
}
async function newFolder() {
  const folder = await mkdtemp(join(tmpdir(), 'market-start-'))
  undo.push(() => rm(folder, { recursive: true }))
  return folder
}
function begin(where: Place, env?: Record<string, string>) {
  const started = start(where, env)
  starts.push(started)
  return started
}
// Only a failed test leaves one running; its tethers stop what it has started.
afterEach(({ task }) => {
  if (task.result?.state === 'fail') for (const started of starts) started.kill('SIGKILL')
})
afterAll(async () => {
  for (const step of undo.toReversed()) await step()
})

/** Stops it by that signal and sees that nothing is left. */
async function stopBy(signal: NodeJS.Signals, started: Start, where: Place) {
  const processes = await descendantsOf(started)
  started.kill(signal)
  expect({ ...(await started.ended), stderr: started.stderr() }).toEqual({ code: 0, signal: null, stderr: [] })
  await expectNothingLeft(where, processes)
}

const isReady = async ({ marketUrl, ports }: Place) => {
  const urls = [`${marketUrl}/health/ready`, `http://127.0.0.1:${ports.codeDispenser}/health/ready`]
  return (
    await Promise.all(
      urls.map((url) =>
        fetch(url).then(
          ({ ok }) => ok,
          () => false,
        ),
      ),
    )
  ).every(Boolean)
}

describe('npm start, from the first time on', () => {
  let where: Place
  let market: Start
  let catalog: Awaited<ReturnType<typeof listedProducts>>
  let order: { buyer: string; orderId: string; codes: string[] }

  it('gets ready, says where and what to do next, and has something to sell', async () => {
    where = await newPlace()
    market = begin(where)
    await market.ready()
    await market.shows('Ctrl-C stops everything')
    for (const text of [
      where.marketUrl,
      where.chainUrl,
      `127.0.0.1:${where.ports.postgres}`,
      where.dataDir,
      demoSeller,
      'npm run demo',
    ]) {
      expect(market.stdout()).toContain(text)
    }
    expect(market.stderr()).toEqual([])
    catalog = await listedProducts(where)
    expect(catalog.length).toBeGreaterThanOrEqual(3)
    expect(await stock(where)).toBe(100)
    order = await buyOne(where, '--seed', '7')
    expect(order).toMatchObject({ ok: true, codes: [expect.stringMatching(/^HARBOUR-/)] })
  })

  it('says so when it runs already, and the first goes on', async () => {
    const second = begin(where)
    expect(await second.ended).toMatchObject({ code: 1 })
    const line = second.stderr().join('\n')
    expect(line).toMatch(/^circles-market: the market is already running in [^\n]*$/)
    expect(line).toContain(where.dataDir)
    expect(line).toContain(`pid ${market.pid}`)
    expect(await isReady(where)).toBe(true)
  })

  it('starts a service again that was killed, and the market answers', async () => {
    const programs = [/market-api\/dist\/main\.js/, /codedispenser\/dist\/main\.js/, /dev-chain\/dist\/main\.js/]
    const before = await Promise.all(programs.map((program) => pidOf(market, program)))
    for (const pid of before) process.kill(pid, 'SIGKILL')
    await until('three others run', async () => {
      const now = await Promise.all(programs.map((program) => pidOf(market, program)))
      return now.every((pid, i) => pid !== before[i]) && isReady(where)
    })
    for (const name of ['market-api', 'codedispenser', 'dev-chain'])
      expect(market.stdout()).toContain(`${name} died (SIGKILL), starting`)
    expect(await buyOne(where)).toMatchObject({ ok: true })
  })

  it('stops everything at one Ctrl-C', async () => {
    const chain = (await (await fetch(where.chainUrl)).json()) as { head: number }
    await stopBy('SIGINT', market, where)
    const state = JSON.parse(await readFile(join(where.dataDir, 'chain', 'state.json'), 'utf8')) as {
      block: { number: string }
    }
    expect(Number(state.block.number)).toBeGreaterThanOrEqual(chain.head)
  })

  it('keeps the data when it is started again, and seeds nothing twice', async () => {
    market = begin(where)
    await market.ready()
    expect(market.stdout()).toContain(`${demoSeller} (3 products, already seeded)`)
    expect(await listedProducts(where)).toEqual(catalog)
    expect(await stock(where)).toBe(98)
    const account = privateKeyToAccount(demoKey('buyer/7'))
    const buyer = new Market(where.marketUrl)
    await buyer.signIn({ address: account.address, signMessage: (message) => account.signMessage({ message }) }, 100)
    const { orderStatus, outbox } = await buyer.order(order.orderId)
    expect(orderStatus).toContain('PaymentComplete')
    expect(outbox.flatMap(({ payload }) => payload.codes)).toEqual(order.codes)
  })

  it('leaves no orphan when it is killed, and starts again at once', async () => {
    const orphans = await descendantsOf(market)
    expect(orphans.length).toBeGreaterThan(10)
    market.kill('SIGKILL')
    await market.ended
    market = begin(where)
    await market.ready()
    // A tether gives 30 s to a program that does not listen.
    await until('the orphans are gone', () => orphans.every(({ pid }) => !lookUpProcess(pid).alive), 35)
    expect(await stock(where)).toBe(98)
  })

  it('ends with one line when Postgres dies', async () => {
    const processes = await descendantsOf(market)
    process.kill(await pidOf(market, /bin\/postgres -D/), 'SIGKILL')
    expect(await market.ended).toMatchObject({ code: 1 })
    expect(market.stderr()).toEqual([
      'circles-market: Postgres died (SIGKILL); everything is stopped and the data kept, start again',
    ])
    await expectNothingLeft(where, processes)
  })

  it('sells on when all else than Postgres is lost', async () => {
    // Also what a crash of the chain leads to, which loses its last seconds: market-api has read what is not there any more.
    await rm(join(where.dataDir, 'chain'), { recursive: true })
    await rm(join(where.dataDir, 'ipfs'), { recursive: true })
    market = begin(where)
    await market.ready()
    expect(await buyOne(where, '--seed', '7')).toMatchObject({ ok: true })
    // For some seconds the market goes by what the adapter said at checkout.
    await until('the code is out of stock', async () => (await stock(where)) === 97)
    await stopBy('SIGTERM', market, where)
  })
})

describe('npm start, interrupted', () => {
  let where: Place

  it.each([
    ['before anything runs', 'SIGHUP', undefined],
    ['while Postgres starts', 'SIGTERM', 'dev chain is ready'],
    ['while the services start', 'SIGINT', 'codedispenser is ready'],
  ] as const)('leaves nothing running: %s', async (_, signal, text) => {
    where = await newPlace()
    const market = begin(where)
    if (text) await market.shows(text)
    // The lock comes first of all.
    else await until('it has begun', () => readFile(join(where.dataDir, 'start.lock')))
    const processes = await descendantsOf(market)
    market.kill(signal)
    expect({ ...(await market.ended), stderr: market.stderr() }).toEqual({ code: 130, signal: null, stderr: [] })
    await expectNothingLeft(where, processes)
  })

  it('starts after that, and ends with one line when the chain dies', async () => {
    const market = begin(where)
    await market.ready()
    const processes = await descendantsOf(market)
    process.kill(await pidOf(market, /bin\/anvil /), 'SIGKILL')
    expect(await market.ended).toMatchObject({ code: 1 })
    expect(market.stderr()).toEqual([
      'circles-market: anvil, the dev chain, died (SIGKILL); everything is stopped and the data kept, start again',
    ])
    await expectNothingLeft(where, processes)
  })
})

// At once, because most of them wait for something.
describe.concurrent('says in one line what is wrong, and leaves nothing behind', () => {
  async function listenOn(server: Server, port = 0) {
    await once(server.listen(port, '127.0.0.1'), 'listening')
    undo.push(() => server.close())
    return (server.address() as AddressInfo).port
  }

  it('every variable that is malformed, at once', async () => {
    const line = await refusal(await newPlace(), {
      MARKET_API_PORT: 'http',
      DEV_CHAIN_PORT: '70000',
      IPFS_RPC_URL: 'ipfs:5001',
      POSTGRES_HOST: 'db',
      CIRCLES_RPC: 'http://127.0.0.1:1',
    })
    for (const name of ['MARKET_API_PORT', 'DEV_CHAIN_PORT', 'IPFS_RPC_URL']) expect(line).toContain(`${name} must be`)
    expect(line).toContain('POSTGRES_PASSWORD is required with POSTGRES_HOST')
    expect(line).toContain('RPC is required with CIRCLES_RPC')
  })

  it('two parts on one port', async () => {
    const where = await newPlace()
    expect(await refusal(where, { DEV_CHAIN_PORT: String(where.ports.market) })).toContain(
      `DEV_CHAIN_PORT must differ from MARKET_API_PORT, both are ${where.ports.market}`,
    )
  })

  it('a port in use', async () => {
    const port = await listenOn(createServer())
    expect(await refusal(await newPlace(), { DEV_CHAIN_PORT: String(port) })).toBe(
      `circles-market: port ${port} (the dev chain) is in use; stop what listens there or set DEV_CHAIN_PORT`,
    )
    for (const [part, variable] of [
      ['market', 'MARKET_API_PORT'],
      ['codeDispenser', 'MARKET_CODE_DISPENSER_PORT'],
      ['postgres', 'MARKET_POSTGRES_PORT'],
      ['devChain', 'DEV_CHAIN_PORT'],
    ] as const) {
      const where = await newPlace()
      const said = await stackRefusal(where, { ports: { ...where.ports, [part]: port } })
      expect(said).toMatch(new RegExp(`^port ${port} .* is in use; .* set ${variable}$`))
    }
  })

  it('a data folder that cannot be', async () => {
    const where = await newPlace()
    await writeFile(where.dataDir, '')
    const below = { ...where, dataDir: join(where.dataDir, 'below') }
    const started = begin(below)
    expect(await started.ended).toMatchObject({ code: 1 })
    expect(started.stderr()).toEqual([
      expect.stringMatching(/^circles-market: data folder .*Märkte hier\/below is not writable \(ENOTDIR\); /),
    ])
  })

  it.each([
    [
      'secrets.json',
      '{"postgresPassword":"x"',
      /secrets\.json is corrupted; restore it, or delete the folder .*Märkte hier to begin anew$/,
    ],
    ['chain/state.json', '{"blo', /chain\/state\.json is damaged; delete that file/],
    ['postgres/base/1', '', /data folder .*postgres is not empty and not a complete Postgres .*delete it/],
  ])('a damaged data folder: %s', async (file, text, said) => {
    const where = await newPlace()
    await mkdir(dirname(join(where.dataDir, file)), { recursive: true })
    await writeFile(join(where.dataDir, file), text)
    expect(await stackRefusal(where)).toMatch(said)
    expect(await readFile(join(where.dataDir, file), 'utf8')).toBe(text)
  })

  it('a service that keeps dying', async () => {
    const port = await freePort()
    const folder = await newFolder()
    const script = join(folder, 'service.mjs')
    // Lives once, then never again.
    await writeFile(
      script,
      `import { existsSync, writeFileSync } from 'node:fs'
       import { createServer } from 'node:http'
       if (existsSync('${folder}/lived')) throw new TypeError('my disk is gone')
       writeFileSync('${folder}/lived', '')
       createServer((_, response) => response.end('ready')).listen(${port}, '127.0.0.1')`,
    )
    const given: string[] = []
    const service = await startService({
      name: 'frail',
      script,
      env: process.env,
      readyUrl: `http://127.0.0.1:${port}`,
      onLine: () => {},
      onGivenUp: (news) => given.push(news),
    })
    service.kill()
    await until('it is given up', () => given.length > 0)
    expect(given).toEqual(['frail keeps dying: TypeError: my disk is gone'])
    expect(service.restarts).toBe(6)
    await service.stop()
  })

  it('a service that refuses its configuration', async () => {
    expect(await refusal(await newPlace(), { FINALIZE_CONFIRMATIONS: 'abc' })).toContain(
      ': market-api does not start: configuration: FINALIZE_CONFIRMATIONS must be a whole number',
    )
  })

  /** Answers whatever it is asked with that. */
  async function startPage(answer: string) {
    const server = createHttpServer((request, response) => {
      request.resume()
      response.end(answer)
    })
    return `http://127.0.0.1:${await listenOn(server)}`
  }

  it('a Postgres that is not there, or mute, or refuses us', async () => {
    const { hostname: host, port } = new URL(inject('postgresUrl'))
    const mute = await listenOn(createServer())
    const rpc = await startPage('{"jsonrpc":"2.0","id":1,"result":"0x64"}')
    const server = (at: number | string) => ({
      postgres: { host, port: Number(at), user: 'postgres', password: 'wrong' },
      chain: { rpc, circlesRpc: rpc },
    })
    const began = Date.now()
    const [absent, silent, refused] = await Promise.all([
      stackRefusal(await newPlace(), server(await freePort())),
      stackRefusal(await newPlace(), server(mute)),
      stackRefusal(await newPlace(), server(port)),
    ])
    expect(absent).toMatch(/^init-db failed: .* does not accept connections after 5 s: .*ECONNREFUSED.*POSTGRES_HOST/)
    expect(silent).toMatch(/^init-db failed: .* does not accept connections after 5 s: .*POSTGRES_HOST/)
    expect(refused).toMatch(/^init-db failed: .* refuses user 'postgres': .*POSTGRES_PASSWORD/)
    expect(Date.now() - began).toBeLessThan(20_000)
  })

  it('a chain or an IPFS that is not there, or something else', async () => {
    const nobody = `http://127.0.0.1:${await freePort()}`
    expect(await refusal(await newPlace(), { RPC: nobody })).toMatch(
      /: RPC 127\.0\.0\.1:\d+ does not answer \(ECONNREFUSED\); start .*correct RPC/,
    )
    expect(await stackRefusal(await newPlace(), { ipfsRpcUrl: `${nobody}/api/v0` })).toMatch(
      /^IPFS_RPC_URL 127\.0\.0\.1:\d+ does not answer \(ECONNREFUSED\); start .*correct IPFS_RPC_URL/,
    )
    const gnosis = await startPage('{"jsonrpc":"2.0","id":1,"result":"0x64"}')
    const chain = async (rpc: string, circlesRpc = rpc) =>
      stackRefusal(await newPlace(), { chain: { rpc, circlesRpc } })
    expect(await chain(await startPage('<html>'))).toMatch(/^RPC \S+ does not answer as JSON-RPC does; correct RPC$/)
    expect(await chain(await startPage('{"jsonrpc":"2.0","id":1,"result":"0x1"}'))).toMatch(
      /^RPC \S+ is a node of chain 1, not of 100; correct RPC or CHAIN_ID$/,
    )
    expect(
      await chain(gnosis, await startPage('{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}')),
    ).toMatch(/^CIRCLES_RPC \S+ knows no circles_query; set CIRCLES_RPC to a Circles RPC host$/)
  })

  it('a Node that is too old', async () => {
    const folder = await newFolder()
    await cp(join(root, 'scripts/checkNode.mjs'), join(folder, 'scripts/checkNode.mjs'))
    const check = async (node: string) => {
      await writeFile(join(folder, 'package.json'), JSON.stringify({ engines: { node } }))
      return run(process.execPath, [join(folder, 'scripts/checkNode.mjs')]).then(
        ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
        ({ code, stdout, stderr }: { code: number; stdout: string; stderr: string }) => ({ code, stdout, stderr }),
      )
    }
    const [major, minor] = process.versions.node.split('.').map(Number)
    const tooOld = {
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(
        /^circles-market: Node \S+ is too old: this project needs Node 99 or later\. Install .*\n$/,
      ) as string,
    }
    expect(await check('>=99')).toEqual(tooOld)
    expect(await check(`>=${major}.${minor! + 1}`)).toMatchObject({ code: 1 })
    for (const enough of [`>=${major}.${minor}`, `>=${major! - 1}.99`])
      expect(await check(enough)).toEqual({ code: 0, stdout: '', stderr: '' })
    const { scripts } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as {
      scripts: Record<string, string>
    }
    for (const name of ['prestart', 'pretest']) expect(scripts[name]).toMatch(/^node scripts\/checkNode\.[cm]js && /)
  })

  it('a project that is not built', async () => {
    const folder = await newFolder()
    await cp(join(root, 'packages/devstack/dist'), join(folder, 'packages/devstack/dist'), { recursive: true })
    await writeFile(join(folder, 'package.json'), '{"type":"module"}')
    await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
    const source = `
      import { startStack } from './packages/devstack/dist/stack.js'
      await startStack({ dataDir: './data', ports: {}, env: {} }).catch((error) => console.log(error.message))`
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', source], { cwd: folder })
    expect(stdout).toMatch(/^the project is not built \(.*dist\/main\.js is missing\); run: npm run build\n$/)
  })
})
