import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { kitMigrations } from '@market/adapter-kit/migrations'
import { createTestDatabase } from '@market/testkit/testDatabase'
import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { migrations } from '../src/migrations/index.ts'
import { upsertCodeMapping } from '../src/ops.ts'
import { createCodesDatabase, type TestCodes } from './codesDatabase.ts'
import {
  type Dispenser,
  fulfil,
  launch,
  newKey,
  ready,
  SELLER,
  SERVICE_KEY,
  startDispenser,
  stockOf,
} from './runningDispenser.ts'

let home: TestCodes
let names = 0
const started: { child: Dispenser['child'] }[] = []

beforeAll(async () => {
  home = await createCodesDatabase()
})
afterAll(async () => {
  for (const { child } of started) child.kill()
  await Promise.all(started.map(({ child }) => child.exited))
  await home.remove()
})

const remember = async (starting: Promise<Dispenser>) => {
  const dispenser = await starting
  started.push(dispenser)
  return dispenser
}
const start = (env?: NodeJS.ProcessEnv, url = home.url) => remember(startDispenser(url, env))

async function newSku(codes: string[]) {
  const name = `sku-${++names}`
  await home.seed(name, codes)
  await upsertCodeMapping(home.db, { chainId: 100, seller: SELLER, sku: name, poolId: name, downloadUrlTemplate: null })
  return name
}

type LogLine = { level: string; msg: string; migration?: string }
const parsed = ({ lines }: Dispenser) => lines.map((line) => JSON.parse(line) as LogLine)

describe('killed as kill -9 would', () => {
  it.each([
    ['adapter.delivered', 'with codes taken and not committed', null],
    ['adapter.committed', 'with codes committed and the answer not sent', 'Already processed'],
  ])('fulfilment:F-21 at %s, %s, it gives the repeated request one code, once', async (failpoint, _when, message) => {
    const sku = await newSku(['c1', 'c2'])
    const asked = { sku, quantity: 1, key: newKey() }
    const dying = await start({ FAILPOINT: failpoint })
    await expect(fulfil(dying, asked)).rejects.toThrow()
    expect(await dying.child.exited).toEqual({ code: null, signal: 'SIGKILL' })

    const next = await start()
    // Postgres may take a moment to notice that the first process is gone.
    const answer = await until('the repeated request is answered', async () => {
      const { status, body } = await fulfil(next, asked)
      return status === 200 && body
    })
    expect(answer).toMatchObject({ status: 'ok', codes: ['c1'], message })
    expect(await stockOf(next, sku)).toBe(1)
    expect(await home.codesOf({ runKey: asked.key })).toMatchObject([{ code: 'c1' }])
    await next.child.stop(5000)
  })
})

describe('starting', () => {
  it('two at the same instant on an empty database both come up', async () => {
    const empty = await createTestDatabase()
    try {
      const both = await Promise.all([start({}, empty.url), start({}, empty.url)])
      const migrated = both.flatMap(parsed).flatMap((line) => line.migration ?? [])
      expect(migrated.toSorted()).toEqual(Object.keys({ ...kitMigrations, ...migrations }).toSorted())
      await Promise.all(both.map(({ child }) => child.stop(5000)))
    } finally {
      await empty.drop()
    }
  })

  it.each<[string, () => NodeJS.ProcessEnv, string[]]>([
    [
      'with several settings wrong',
      () => ({ PORT: '70000', CIRCLES_SERVICE_KEY: ' ', DB_WAIT_SECONDS: 'soon', LOG_LEVEL: 'loud' }),
      [
        'POSTGRES_CONNECTION is required',
        'CIRCLES_SERVICE_KEY is required',
        'PORT must be',
        'DB_WAIT_SECONDS must be',
        'LOG_LEVEL',
      ],
    ],
    [
      'with a wrong password',
      () => ({ POSTGRES_CONNECTION: home.url.replace(/:[^:@]+@/, ':not-the-password@') }),
      ['refused the connection', 'Check POSTGRES_CONNECTION'],
    ],
    [
      'with Postgres down',
      () => ({ POSTGRES_CONNECTION: 'postgres://u:the-password@127.0.0.1:1/d', DB_WAIT_SECONDS: '0' }),
      ['database d on 127.0.0.1:1 as u does not answer', 'Start Postgres or correct POSTGRES_CONNECTION'],
    ],
  ])('%s ends in one line that says all of it, and exit code 1', async (_how, env, told) => {
    const { child, lines } = await remember(launch(env()))
    expect(await child.exited).toEqual({ code: 1, signal: null })
    expect(lines).toHaveLength(1)
    const { level, msg } = JSON.parse(lines[0]!) as LogLine
    expect(level).toBe('error')
    for (const part of told) expect(msg).toContain(part)
    expect(lines[0]).not.toContain('the-password')
    expect(lines[0]).not.toContain('stack')
  })
})

describe('stopping', () => {
  it('lets a delivery under way finish, takes no new one, and exits with 0', async () => {
    const dispenser = await start()
    const sku = await newSku(['c1'])
    // Otherwise it waits for the caller to hang up, or some seconds.
    const asked = { sku, quantity: 1, headers: { Connection: 'close' } }
    const held = await home.db.transaction().execute(async (tx) => {
      await sql`select 1 from code_pool_codes where pool_id = ${sku} for update`.execute(tx)
      const running = fulfil(dispenser, asked)
      await until('the delivery waits', async () => {
        const { rows } = await sql`
          select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(
          home.db,
        )
        return rows.length > 0
      })
      process.kill(dispenser.child.pid, 'SIGTERM')
      await until('it says that it stops', () => parsed(dispenser).some((line) => line.msg === 'stopping'))
      await expect(fulfil(dispenser, asked)).rejects.toThrow()
      return { running }
    })
    expect(await held.running).toMatchObject({ status: 200, body: { status: 'ok', codes: ['c1'] } })
    expect(await dispenser.child.exited).toEqual({ code: 0, signal: null })
    expect(parsed(dispenser).map((line) => line.msg)).toContain('stopped')
  })
})

/** Postgres behind a wire that can be cut: every connection ends, and new ones are refused. */
async function cuttable(url: string) {
  const { hostname, port: postgresPort } = new URL(url)
  const clients = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connect(Number(postgresPort), hostname)
    clients.add(client)
    client.on('error', () => {}).on('close', () => (clients.delete(client), upstream.destroy()))
    upstream.on('error', () => {}).on('close', () => client.destroy())
    client.pipe(upstream).pipe(client)
  })
  const listen = (port: number) => new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  await listen(0)
  const { port } = server.address() as { port: number }
  return {
    url: url.replace(`${hostname}:${postgresPort}`, `127.0.0.1:${port}`),
    /** Resolves when the other side has closed its end too. */
    async cut() {
      server.close()
      await Promise.all([...clients].map((client) => new Promise((gone) => client.once('close', gone).end())))
    },
    mend: () => listen(port),
  }
}

describe('without its database', () => {
  it('says so, fails in one line, and is of use again when the database is back', async () => {
    const wire = await cuttable(home.url)
    const dispenser = await start({}, wire.url)
    const sku = await newSku(['c1', 'c2'])
    const asked = { sku, quantity: 1, key: newKey() }
    const health = async () => {
      const response = await fetch(`${dispenser.url}/health`)
      return [response.status, await response.json()]
    }
    // More deliveries under way than the pool has connections: none may be lost to it when they break.
    const answers = await home.db.transaction().execute(async (tx) => {
      await sql`select 1 from code_pool_codes where pool_id = ${sku} for update`.execute(tx)
      const running = Array.from({ length: 12 }, () => fulfil(dispenser, { sku, quantity: 1 }))
      await until('the deliveries wait', async () => {
        const { rows } = await sql`
          select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(
          home.db,
        )
        return rows.length >= 5
      })
      await wire.cut()
      return Promise.all(running)
    })
    for (const { status, body } of answers) {
      expect(status).toBe(500)
      expect(body).toEqual({ error: 'Internal error', code: 'internal_error', requestId: expect.any(String) })
    }
    expect(await health()).toEqual([503, { ok: false, checks: { postgres: 'failed' } }])
    expect(await (await fetch(`${dispenser.url}/health/ready`)).text()).toBe('Unhealthy: postgres')
    expect(await fulfil(dispenser, asked)).toMatchObject({ status: 500, body: { error: 'Internal error' } })

    await wire.mend()
    await ready(dispenser)
    expect(await health()).toEqual([200, { ok: true, checks: { postgres: 'ok' } }])
    const { body } = await until('it delivers', async () => {
      const answer = await fulfil(dispenser, asked)
      return answer.status === 200 && answer
    })
    // A session that was cut off may still have its hand on the first one.
    expect(body).toMatchObject({ status: 'ok', codes: [expect.stringMatching(/^c[12]$/)] })
    expect(await stockOf(dispenser, sku)).toBe(1)
    await wire.cut()
  })
})

describe('CODE_POOLS_DIR', () => {
  it('adapters:A-5 holding dispensed codes changes no inventory at a start; a missing folder is said and no more', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'pools-'))
    const sku = `sku-${++names}`
    await writeFile(join(folder, `${sku}.txt`), 'D-1\nD-2\n')
    const env = { CODE_POOLS_DIR: folder }
    const first = await start(env)
    await upsertCodeMapping(home.db, { chainId: 100, seller: SELLER, sku, poolId: sku, downloadUrlTemplate: null })
    expect(await fulfil(first, { sku, quantity: 1 })).toMatchObject({ body: { codes: ['D-1'] } })
    await first.child.stop(5000)
    const second = await start(env)
    expect(await stockOf(second, sku)).toBe(1)
    expect(await fulfil(second, { sku, quantity: 1 })).toMatchObject({ body: { codes: ['D-2'] } })
    await second.child.stop(5000)

    await rm(folder, { recursive: true })
    const third = await start(env)
    expect(parsed(third)).toContainEqual(
      expect.objectContaining({ level: 'warn', msg: 'CODE_POOLS_DIR does not exist' }),
    )
    await third.child.stop(5000)
  })

  it('with a file that can not be a pool ends the start', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'pools-'))
    await writeFile(join(folder, 'bad.txt'), `ok\n${'x'.repeat(3000)}`)
    const { child, lines } = await remember(launch({ POSTGRES_CONNECTION: home.url, CODE_POOLS_DIR: folder }))
    expect(await child.exited).toEqual({ code: 1, signal: null })
    expect(lines.at(-1)).toContain('CODE_POOLS_DIR: bad.txt was not seeded: code 2 is longer than 2000 characters')
    await rm(folder, { recursive: true })
  })
})

it('takes the service key before as well while keys change', async () => {
  const dispenser = await start({
    CIRCLES_SERVICE_KEY: 'the key of tomorrow',
    CIRCLES_SERVICE_KEY_PREVIOUS: SERVICE_KEY,
  })
  const sku = await newSku(['c1', 'c2'])
  const headers = { 'X-Circles-Service-Key': 'the key of tomorrow' }
  expect(await fulfil(dispenser, { sku, quantity: 1, headers })).toMatchObject({ body: { codes: ['c1'] } })
  expect(await fulfil(dispenser, { sku, quantity: 1 })).toMatchObject({ body: { codes: ['c2'] } })
  await dispenser.child.stop(5000)
})
