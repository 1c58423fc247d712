import { type EmbeddedPostgres, startEmbeddedPostgres } from '@market/devstack/embeddedPostgres'
import { freePort } from '@market/devstack/ports'
import { execFile } from 'node:child_process'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, it } from 'vitest'

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const passwords = { DB_MARKET_API_PASSWORD: 'market secret', DB_CODEDISP_PASSWORD: 'codes secret' }

let dir: string
let server: EmbeddedPostgres

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'init-db-'))
  // mkdtemp makes folders that `nobody`, as whom root's Postgres runs, cannot enter.
  await chmod(dir, 0o755)
  server = await startEmbeddedPostgres({
    dataDir: join(dir, 'data'),
    port: await freePort(),
    password: 'super secret',
    fast: true,
  })
})
afterAll(async () => {
  await server?.stop()
  await rm(dir, { recursive: true, force: true })
})

interface Run {
  code: number
  out: string[]
  err: string[]
}

const lines = (text: string) => text.split('\n').filter((line) => line !== '')

/** Runs init-db as compose does, with nothing in its environment but this. */
function initDb(environment: NodeJS.ProcessEnv): Promise<Run> {
  const env = {
    POSTGRES_HOST: server.host,
    POSTGRES_PORT: String(server.port),
    POSTGRES_PASSWORD: server.password,
    ...environment,
  }
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [MAIN], { env }, (_, stdout, stderr) => {
      resolve({ code: child.exitCode ?? -1, out: lines(stdout), err: lines(stderr) })
    })
  })
}

async function queryAs(user: string, password: string, database: string, text: string) {
  const sql = postgres({ host: server.host, port: server.port, user, password, database, max: 1 })
  try {
    return [...(await sql.unsafe(text))]
  } finally {
    await sql.end({ timeout: 1 })
  }
}
const queryAsSuperuser = (database: string, text: string) => queryAs(server.user, server.password, database, text)

/** Which transaction wrote each row that init-db could have changed: equal only if nothing was written at all. */
async function catalog(...databases: string[]) {
  const snapshot = await queryAsSuperuser(
    'postgres',
    `select xmin::text, rolname as name from pg_authid union all select xmin::text, datname from pg_database order by 2`,
  )
  for (const database of databases)
    snapshot.push(...(await queryAsSuperuser(database, `select xmin::text, nspname from pg_namespace order by 2`)))
  return snapshot
}

it('adapters:A-50 changes nothing the second time, and skips what has no password', async () => {
  const first = await initDb({ ...passwords, DB_WOOCOMMERCE_PASSWORD: '' })
  expect(first).toMatchObject({ code: 0, err: [] })
  expect(first.out).toEqual([
    `[provision-dbs] server: databases 'postgres' and 'template1', grants updated`,
    `[provision-dbs] market: role 'market_api' created, database 'circles_market_api' created, grants updated`,
    `[provision-dbs] codedispenser: role 'codedisp' created, database 'circles_codedisp' created, grants updated`,
    '[provision-dbs] odoo: skipped, DB_ODOO_PASSWORD is empty',
    '[provision-dbs] unlock: skipped, DB_UNLOCK_PASSWORD is empty',
    '[provision-dbs] woocommerce: skipped, DB_WOOCOMMERCE_PASSWORD is empty',
    '[provision-dbs] ordertrace: skipped, DB_ORDERTRACE_PASSWORD is empty',
  ])
  const before = await catalog('circles_market_api', 'circles_codedisp')
  const second = await initDb(passwords)
  expect(second).toMatchObject({ code: 0, err: [] })
  expect(second.out).toEqual(first.out.map((line) => line.replace(/created|updated/g, 'unchanged')))
  expect(await catalog('circles_market_api', 'circles_codedisp')).toEqual(before)
})

it('lets a service make tables in its own database', async () => {
  await initDb(passwords)
  const text = 'create table if not exists kept (n int); select current_user'
  await queryAs('market_api', passwords.DB_MARKET_API_PASSWORD, 'circles_market_api', text)
  await queryAs('codedisp', passwords.DB_CODEDISP_PASSWORD, 'circles_codedisp', text)
  expect(
    await queryAsSuperuser('circles_market_api', `select tableowner from pg_tables where tablename = 'kept'`),
  ).toEqual([{ tableowner: 'market_api' }])
})

it.each(['circles_codedisp', 'postgres', 'template1'])('keeps a service out of %s', async (database) => {
  await initDb(passwords)
  await expect(queryAs('market_api', passwords.DB_MARKET_API_PASSWORD, database, 'select 1')).rejects.toMatchObject({
    code: '42501',
  })
  expect(await queryAsSuperuser(database, 'select 1 as n')).toEqual([{ n: 1 }])
})

it.each([`a'b$c`, `$$'; drop role postgres; --`, 'back\\slash "double" %L', 'Zaubertränk ☕ 合言葉'])(
  'adapters:A-51 gives the role exactly this password: %s',
  async (password) => {
    const names = { DB_MARKET_API: `mar'ket "$db`, DB_MARKET_API_USER: `o'market "$user` }
    const { code, err } = await initDb({ ...passwords, ...names, DB_MARKET_API_PASSWORD: password })
    expect({ code, err }).toEqual({ code: 0, err: [] })
    expect(
      await queryAs(names.DB_MARKET_API_USER, password, names.DB_MARKET_API, 'select current_database() as name'),
    ).toEqual([{ name: names.DB_MARKET_API }])
  },
)

it('puts back what somebody changed, and says so', async () => {
  await initDb(passwords)
  await queryAsSuperuser(
    'circles_market_api',
    `alter role market_api password 'other'; alter database circles_market_api owner to postgres;
     grant connect on database circles_market_api to public; grant usage on schema public to public`,
  )
  const { out } = await initDb(passwords)
  expect(out).toContain(
    `[provision-dbs] market: role 'market_api' updated, database 'circles_market_api' updated, grants updated`,
  )
  await queryAsSuperuser('postgres', 'alter role codedisp nologin')
  expect((await initDb(passwords)).out).toContain(
    `[provision-dbs] codedispenser: role 'codedisp' updated, database 'circles_codedisp' unchanged, grants unchanged`,
  )
  expect((await initDb(passwords)).out.join()).not.toContain('updated')
})

it('survives being started twice at once', async () => {
  const names = { DB_MARKET_API: 'twice', DB_MARKET_API_USER: 'twice' }
  const runs = await Promise.all([1, 2, 3].map(() => initDb({ ...passwords, ...names })))
  expect(runs.map(({ code }) => code)).toEqual([0, 0, 0])
})

it('names every missing password and touches nothing', async () => {
  const before = await catalog()
  const { code, err, out } = await initDb({ DB_MARKET_API_USER: 'newcomer' })
  expect({ code, out }).toEqual({ code: 1, out: [] })
  expect(err).toEqual([
    `[provision-dbs] ERROR: No password provided for user 'newcomer' (set DB_MARKET_API_PASSWORD)`,
    `[provision-dbs] ERROR: No password provided for user 'codedisp' (set DB_CODEDISP_PASSWORD)`,
  ])
  expect(await catalog()).toEqual(before)
})

it('does not wait when the server refuses the superuser, and tells no password', async () => {
  const start = Date.now()
  const { code, err } = await initDb({ ...passwords, POSTGRES_PASSWORD: 'not it' })
  expect(code).toBe(1)
  expect(err).toEqual([
    `[provision-dbs] ERROR: 127.0.0.1:${server.port} refuses user 'postgres': ` +
      'password authentication failed for user "postgres" (check POSTGRES_USER and POSTGRES_PASSWORD)',
  ])
  expect(Date.now() - start).toBeLessThan(10_000)
})

it('refuses a service role that is a superuser', async () => {
  await queryAsSuperuser('postgres', `create role mighty superuser login`)
  const { code, err } = await initDb({ ...passwords, DB_CODEDISP_USER: 'mighty' })
  expect(code).toBe(1)
  expect(err).toEqual([`[provision-dbs] ERROR: codedispenser: user 'mighty' is a superuser; choose another name`])
})

it('says so when a password cannot be what it was set to', async () => {
  const { code, err } = await initDb({ ...passwords, DB_CODEDISP_PASSWORD: 'no\u00a0break' })
  expect(code).toBe(1)
  expect(err.join()).toContain(`does not accept the password that was just set for 'codedisp'`)
  expect((await initDb(passwords)).code).toBe(0)
})

it('waits for a server that comes up later, also behind a proxy that hangs up', async () => {
  const port = await freePort()
  const proxy = createServer((socket) => socket.destroy()).listen(port, '127.0.0.1')
  const run = initDb({ ...passwords, POSTGRES_PORT: String(port), INIT_DB_WAIT_SECONDS: '40' })
  await new Promise((resolve) => proxy.once('connection', resolve))
  proxy.close()
  const late = await startEmbeddedPostgres({ dataDir: join(dir, 'late'), port, password: server.password, fast: true })
  const { code, out } = await run
  await late.stop()
  expect({ code, err: (await run).err }).toEqual({ code: 0, err: [] })
  expect(out.join('\n')).toContain(`role 'market_api' created`)
})

it('gives up when the time is over, naming the server and the last error', async () => {
  const port = await freePort()
  const { code, out, err } = await initDb({ ...passwords, POSTGRES_PORT: String(port), INIT_DB_WAIT_SECONDS: '2' })
  expect(code).toBe(1)
  expect(out[0]).toBe(`[provision-dbs] waiting for 127.0.0.1:${port}, 0 of 2 s: connect ECONNREFUSED 127.0.0.1:${port}`)
  expect(err.join()).toContain(`127.0.0.1:${port} does not accept connections after 2 s: connect ECONNREFUSED`)
})
