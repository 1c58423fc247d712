import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, cp, mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embeddedPostgres.ts'
import { freePort } from './ports.ts'

const isRoot = process.getuid?.() === 0
const password = `se'cret$`

let dir: string
/** A stopped data folder with one row in it, copied by the tests that damage one. */
let template: string

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'devstack-pg-'))
  if (isRoot) await openFolder(dir)
  template = join(dir, 'template')
  const server = await start(template)
  await query(server, `create table kept as select 'é' as word`)
  await server.stop()
})
afterAll(() => rm(dir, { recursive: true, force: true }))

/** mkdtemp makes folders that `nobody`, as whom root's Postgres runs, cannot enter. */
const openFolder = (path: string) => chmod(path, 0o755)

const start = async (dataDir: string, more: { port?: number; password?: string } = {}) =>
  startEmbeddedPostgres({ dataDir, port: await freePort(), password, fast: true, ...more })

async function query(server: EmbeddedPostgres, text: string) {
  const { host, port, user } = server
  const sql = postgres({ host, port, user, password: server.password, database: 'postgres', max: 1 })
  try {
    return [...(await sql.unsafe(text))]
  } finally {
    await sql.end()
  }
}

async function copyOfTemplate(name: string): Promise<string> {
  const copy = join(dir, name)
  await cp(template, copy, { recursive: true })
  return copy
}

it('makes databases that read and compare text as production does', async () => {
  const server = await start(join(dir, 'fresh'))
  expect(
    await query(
      server,
      `select current_setting('server_encoding') as encoding, upper('é') as upper, 'a' > 'B' as bytes`,
    ),
  ).toEqual([{ encoding: 'UTF8', upper: 'É', bytes: true }])
  expect(await query(server, 'show max_connections')).toEqual([{ max_connections: '200' }])
  await server.stop()
  expect(await server.exited).toEqual({ code: 0, signal: null })
})

it('keeps the data over a stop and a start', async () => {
  const server = await start(await copyOfTemplate('restarted'))
  expect(await query(server, 'select word from kept')).toEqual([{ word: 'é' }])
  await server.stop()
})

it('starts again after Postgres was killed', async () => {
  const dataDir = await copyOfTemplate('killed')
  const server = await start(dataDir)
  process.kill(server.pid, 'SIGKILL')
  expect(await server.exited).toEqual({ code: null, signal: 'SIGKILL' })
  const again = await start(dataDir)
  expect(await query(again, 'select word from kept')).toEqual([{ word: 'é' }])
  await again.stop()
})

it('waits for the Postgres of a launcher that was killed a moment ago', async () => {
  const dataDir = await copyOfTemplate('orphaned')
  const source = `
    import { startEmbeddedPostgres } from ${JSON.stringify(new URL('../dist/embeddedPostgres.js', import.meta.url).href)}
    await startEmbeddedPostgres(${JSON.stringify({ dataDir, password, fast: true, port: await freePort() })})
    console.log('up')`
  const launcher = spawn(process.execPath, ['--input-type=module', '-e', source], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(createInterface({ input: launcher.stdout }), 'line')
  launcher.kill('SIGKILL')
  const server = await start(dataDir)
  await server.stop()
})

it('does not mistake another program for the Postgres of an old pid file', async () => {
  const dataDir = await copyOfTemplate('reused')
  const other = spawn('sleep', ['60'], isRoot ? { uid: (await stat(dataDir)).uid } : {})
  await writeFile(join(dataDir, 'postmaster.pid'), `${other.pid}\n${dataDir}\n1\n5432\n\n127.0.0.1\n 1 1\nready\n`)
  const server = await start(dataDir)
  await server.stop()
  other.kill()
})

it('recovers from an initdb that was interrupted', async () => {
  const dataDir = join(dir, 'interrupted')
  await mkdir(join(`${dataDir}.init`, 'data', 'global'), { recursive: true })
  await writeFile(join(`${dataDir}.init`, 'data', 'PG_VERSION'), '18\n')
  const server = await start(dataDir)
  await server.stop()
  expect(await readdir(dir)).not.toContain('interrupted.init')
})

it.runIf(isRoot && process.platform === 'linux')('runs below a folder that nobody can enter', async () => {
  const closed = join(dir, 'closed')
  await mkdir(closed, { mode: 0o700 })
  const server = await start(join(closed, 'data'))
  await query(server, 'create table t as select 1 as n; checkpoint')
  await server.stop()
  const again = await start(join(closed, 'data'))
  expect(await query(again, 'select n from t')).toEqual([{ n: 1 }])
  await again.stop()
})

const refusal = async (starting: Promise<EmbeddedPostgres>) => {
  const error = await starting.then(
    async (server) => server.stop(),
    (reason: Error) => reason,
  )
  expect(error).toMatchObject({ name: 'DevstackError', message: expect.not.stringContaining('\n') })
  return (error as Error).message
}

describe('says in one line what is wrong', () => {
  it('port in use', async () => {
    const port = await freePort()
    const server = createServer().listen(port, '127.0.0.1')
    expect(await refusal(start(await copyOfTemplate('port'), { port }))).toBe(
      `port ${port} (postgres) is in use; stop what listens there or set MARKET_POSTGRES_PORT`,
    )
    server.close()
  })

  it.each(['PG_VERSION', 'global/pg_control'])('half a data folder: %s is missing', async (file) => {
    const dataDir = await copyOfTemplate(`half-${file.replace('/', '-')}`)
    await rm(join(dataDir, file))
    expect(await refusal(start(dataDir))).toContain(`data folder ${dataDir} is not empty and not a complete Postgres`)
    expect(await readdir(dataDir)).toContain('base')
  })

  it('another major version', async () => {
    const dataDir = await copyOfTemplate('version')
    await writeFile(join(dataDir, 'PG_VERSION'), '15\n')
    expect(await refusal(start(dataDir))).toContain('was made by PostgreSQL 15, this is PostgreSQL 18; choose another')
  })

  it('a damaged file, with what Postgres says about it', async () => {
    const dataDir = await copyOfTemplate('damaged')
    await writeFile(join(dataDir, 'global/pg_control'), Buffer.alloc(8192))
    expect(await refusal(start(dataDir))).toMatch(/does not start on data folder .*FATAL.*delete it to start/)
  })

  it('another password', async () => {
    const dataDir = await copyOfTemplate('password')
    expect(await refusal(start(dataDir, { password: 'other' }))).toContain('made with another superuser password')
    const server = await start(dataDir)
    await server.stop()
  })

  it('a folder that cannot be written', async () => {
    await writeFile(join(dir, 'file'), '')
    expect(await refusal(start(join(dir, 'file', 'data')))).toContain('is not writable (ENOTDIR)')
  })

  it('a Postgres that runs there already', async () => {
    const dataDir = await copyOfTemplate('twice')
    const server = await start(dataDir)
    expect(await refusal(start(dataDir))).toBe(
      `Postgres is already running on ${dataDir} (pid ${server.pid}); stop it with: kill -INT ${server.pid}`,
    )
    await server.stop()
  })
})
