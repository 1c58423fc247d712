import { createTestDatabase, type TestDatabase } from '@market/testkit/testDatabase'
import { until } from '@market/testkit/until'
import { type Kysely, sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDatabase, parseConnection, waitForDatabase } from './db.ts'
import { StartupError } from './errors.ts'
import { acquireLease, assertLease, LeaseLostError, releaseLease } from './lease.ts'
import { createLog } from './log.ts'
import { migrateToLatest } from './migrate.ts'

type Any = any

let database: TestDatabase
let one: ReturnType<typeof openDatabase<Any>>
let two: ReturnType<typeof openDatabase<Any>>
const log = createLog('test', 'error')

const migrations = {
  '0001_leases': {
    up: (db: Kysely<unknown>) =>
      sql`create table leases (name text primary key, holder text, expires_at timestamptz, epoch bigint)`
        .execute(db)
        .then(() => {}),
  },
}

beforeAll(async () => {
  database = await createTestDatabase()
  one = openDatabase(database.url, { name: 'one', poolSize: 2 })
  two = openDatabase(database.url, { name: 'two', poolSize: 2 })
})
afterAll(async () => {
  await Promise.all([one.close(), two.close()])
  await database.drop()
})

describe('statements that come again', () => {
  const prepared = async () =>
    (await sql<{ statement: string }>`select statement from pg_prepared_statements`.execute(single.db)).rows.map(
      ({ statement }) => statement,
    )
  let single: typeof one
  beforeAll(() => {
    single = openDatabase(database.url, { name: 'single', poolSize: 1 })
  })
  afterAll(() => single.close())

  it('are planned once a connection, those that come once are not', async () => {
    const often = (n: number) => sql<{ n: number }>`select ${n}::int + 1 as n`.execute(single.db)
    for (const n of [1, 2, 3, 4]) expect((await often(n)).rows).toEqual([{ n: n + 1 }])
    await sql`select ${1}::int as only_once`.execute(single.db)
    expect(await prepared()).toEqual(['select $1::int + 1 as n'])
  })

  it('survive that a migration changes what they give', async () => {
    await sql`create table changing (id int)`.execute(single.db)
    await sql`insert into changing values (1)`.execute(single.db)
    const read = () => sql`select * from changing where id = ${1}`.execute(single.db)
    for (let i = 0; i < 4; i += 1) await read()
    await sql`alter table changing add column more text default 'x'`.execute(one.db)
    expect((await read()).rows).toEqual([{ id: 1, more: 'x' }])
    // In a transaction the one under way is lost, the next is not.
    await sql`alter table changing drop column more`.execute(one.db)
    const inside = () =>
      single.db
        .transaction()
        .execute(async (tx) => (await sql`select * from changing where id = ${1}`.execute(tx)).rows)
    await expect(inside()).rejects.toMatchObject({ code: '0A000' })
    expect(await inside()).toEqual([{ id: 1 }])
  })
})

describe('migrateToLatest', () => {
  it('two at once apply each migration once', async () => {
    await Promise.all([migrateToLatest(one.db, migrations, log), migrateToLatest(two.db, migrations, log)])
    const { rows } = await sql`select name from kysely_migration`.execute(one.db)
    expect(rows).toEqual([{ name: '0001_leases' }])
  })

  it('a migration that fails leaves nothing behind and ends the start', async () => {
    const failing = {
      ...migrations,
      '0002_half': {
        async up(db: Kysely<unknown>) {
          await sql`create table half (id int)`.execute(db)
          await sql`select 1/0`.execute(db)
        },
      },
    }
    await expect(migrateToLatest(one.db, failing, log)).rejects.toThrow(
      new StartupError('migration 0002_half failed: division by zero'),
    )
    await expect(sql`select 1 from half`.execute(one.db)).rejects.toThrow('does not exist')
  })
})

describe('lease', () => {
  it('payments:P29 goes to another only when it has run out', async () => {
    const first = await acquireLease(one.db, 'poll', 'A', 60)
    expect(first).toEqual({ name: 'poll', holder: 'A', epoch: '1' })
    expect(await acquireLease(two.db, 'poll', 'B', 60)).toBeUndefined()
    expect(await acquireLease(one.db, 'poll', 'A', 60)).toEqual(first)
    await releaseLease(two.db, 'poll', 'B')
    expect(await acquireLease(two.db, 'poll', 'B', 60)).toBeUndefined()
    await releaseLease(one.db, 'poll', 'A')
    await sql`select pg_sleep(0.01)`.execute(one.db)
    expect(await acquireLease(two.db, 'poll', 'B', 60)).toEqual({ name: 'poll', holder: 'B', epoch: '2' })
  })

  it('payments:P30 turns away a holder that slept through a takeover', async () => {
    const old = (await acquireLease(one.db, 'sleepy', 'A', -1))!
    const next = (await acquireLease(two.db, 'sleepy', 'B', 60))!
    await expect(one.db.transaction().execute((tx: Any) => assertLease(tx, old))).rejects.toThrow(LeaseLostError)
    await two.db.transaction().execute((tx: Any) => assertLease(tx, next))
  })

  it('of twenty who ask at once, one gets it', async () => {
    const asked = await Promise.all(
      Array.from({ length: 20 }, (_, i) => acquireLease(i % 2 ? one.db : two.db, 'race', `h${i}`, 60)),
    )
    expect(asked.filter((lease) => lease !== undefined)).toHaveLength(1)
  })
})

describe('waitForDatabase', () => {
  const wait = async (connection: string, seconds: number) => {
    const opened = openDatabase(connection, { name: 'wait', poolSize: 1 })
    try {
      await waitForDatabase(connection, opened, seconds)
      return 'ok'
    } catch (error) {
      expect(error).toBeInstanceOf(StartupError)
      return (error as Error).message
    } finally {
      await opened.close()
    }
  }

  it('comes back when the database answers', async () => {
    expect(await wait(database.url, 5)).toBe('ok')
  })

  it('does not wait for what waiting can not mend', async () => {
    const wrongPassword = database.url.replace(/:[^:@]+@/, ':wrong@')
    expect(await wait(wrongPassword, 60)).toMatch(/refused the connection: password authentication failed.*run init-db/)
    expect(await wait(database.url.replace(/[^/]+$/, 'nowhere'), 60)).toMatch(/database nowhere .* does not exist/)
  })
})

describe('a lost connection', () => {
  const killBackends = (name: string) =>
    sql`select pg_terminate_backend(pid) from pg_stat_activity where application_name = ${name}`.execute(two.db)

  it('fails the transaction it broke, commits nothing of it, and the next one works', async () => {
    const victim = openDatabase<Any>(database.url, { name: 'victim', poolSize: 1 })
    await sql`create table kept (n int)`.execute(two.db)
    const broken = victim.db.transaction().execute(async (tx: Any) => {
      await sql`insert into kept values (1)`.execute(tx)
      await killBackends('victim')
      await sql`insert into kept values (2)`.execute(tx)
    })
    await expect(broken).rejects.toThrow()
    expect((await sql`select n from kept`.execute(two.db)).rows).toEqual([])
    await sql`insert into kept values (3)`.execute(victim.db)
    expect((await sql`select n from kept`.execute(two.db)).rows).toEqual([{ n: 3 }])
    await victim.close()
  })

  it('is given up when it stays silent, in a transaction or outside, and the next one works', async () => {
    const patient = openDatabase<Any>(database.url, { name: 'patient', poolSize: 1 })
    // Before it is told so, it waits as long as a migration may take.
    expect((await sql`select 1 as n from pg_sleep(0.5)`.execute(patient.db)).rows).toEqual([{ n: 1 }])
    patient.loseSilentConnections(300)
    const began = performance.now()
    await expect(sql`select pg_sleep(30)`.execute(patient.db)).rejects.toThrow(/did not answer within 300 ms/)
    const inside = patient.db.transaction().execute((tx: Any) => sql`select pg_sleep(30)`.execute(tx))
    await expect(inside).rejects.toThrow(/did not answer within 300 ms|terminated|not queryable/)
    expect(performance.now() - began).toBeLessThan(10_000)
    expect((await sql`select 2 as n`.execute(patient.db)).rows).toEqual([{ n: 2 }])
    await killBackends('patient')
    await patient.close()
  })

  it('is listened on again, and the callback comes once for what was missed', async () => {
    const listener = openDatabase<Any>(database.url, { name: 'listener', poolSize: 1 })
    let calls = 0
    const listening = await listener.listen('news', () => {
      calls += 1
    })
    await sql`select pg_notify('news', '')`.execute(two.db)
    await until('the first', () => calls === 1)
    await killBackends('listener')
    await until('it is told that it may have missed some', () => calls === 2)
    await sql`select pg_notify('news', '')`.execute(two.db)
    await until('the next', () => calls === 3)
    await listening.stop()
    await listener.close()
  })
})

describe('parseConnection', () => {
  it('reads URLs and the older form, and quotes neither in its complaint', () => {
    const parts = { host: 'db', port: 6543, database: 'shop', username: 'ann', password: "p'@;x" }
    expect(parseConnection("postgres://ann:p'%40%3Bx@db:6543/shop")).toEqual(parts)
    expect(parseConnection('Host=db;Port=6543;Database=shop;Username=ann;Password=a=b$')).toEqual({
      ...parts,
      password: 'a=b$',
    })
    expect(() => parseConnection('sesame open')).toThrow(/^POSTGRES_CONNECTION is not understood: (?!.*sesame)/)
  })
})
