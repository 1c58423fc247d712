import { kitMigrations } from '@market/adapter-kit/migrations'
import { openDatabase } from '@market/kit/db'
import { createLog } from '@market/kit/log'
import { migrateToLatest } from '@market/kit/migrate'
import { createTestDatabase } from '@market/testkit/testDatabase'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { openCode, openCodeKeys } from '../src/codeKeys.ts'
import type { CodesDatabase } from '../src/database.ts'
import { migrations } from '../src/migrations/index.ts'
import { countToReseal, resealAdapterSecrets, resealCodes, sealStoredAnswers } from '../src/ops.ts'
import { countAvailable, takeCodes, voidCode } from '../src/pools.ts'
import { sealPlainCodes } from '../src/sealPlainCodes.ts'
import { seedPool } from '../src/seedPool.ts'
import { createCodesDatabase, SECRETS_KEY, type TestCodes } from './codesDatabase.ts'
import { fulfil, launch, SELLER, startDispenser } from './runningDispenser.ts'

const NEW_KEY = `t2:${Buffer.alloc(32, 9).toString('base64')}`
const log = createLog('test', 'fatal')

/** A database as the release before 0003 left it: codes readable, one of them dispensed. */
async function olderDatabase(codes: number) {
  const home = await createTestDatabase()
  const { db, close } = openDatabase<CodesDatabase>(home.url, { name: 'test', poolSize: 5 })
  onTestFinished(async () => {
    await close()
    await home.drop()
  })
  const older = Object.fromEntries(
    Object.entries({ ...kitMigrations, ...migrations }).filter(([name]) => name <= '0002_code_pools'),
  )
  await migrateToLatest(db, older, log)
  await sql`insert into code_pools (pool_id) values ('p')`.execute(db)
  await sql`
    insert into fulfillment_runs
      (run_key, chain_id, seller_address, payment_reference, order_id, request_hash, status, response)
      values ('r', 100, 's', 'p', 'o', 'h', 'ok', '{"codes":["PLAIN-1"],"lines":[]}')`.execute(db)
  await sql`
    insert into code_pool_codes (pool_id, code) select 'p', 'PLAIN-' || n from generate_series(1, ${codes}) n`.execute(
    db,
  )
  await sql`
    update code_pool_codes set state = 'assigned', run_key = 'r', line_index = 0, assigned_at = now()
      where code = 'PLAIN-1'`.execute(db)
  return { url: home.url, db, migrate: () => migrateToLatest(db, { ...kitMigrations, ...migrations }, log) }
}

/** Everything the database holds, as text. */
async function dump(db: TestCodes['db']): Promise<string> {
  const tables = ['code_pool_codes', 'fulfillment_runs', 'adapter_secrets', 'code_pools', 'code_pool_counts']
  const parts = []
  for (const table of tables) {
    const { rows } = await sql<{ row: string }>`select t::text as row from ${sql.table(table)} t`.execute(db)
    parts.push(...rows.map(({ row }) => row))
  }
  return parts.join('\n')
}

describe('codes of an older release', () => {
  it('are sealed by several at once, are counted, and keep their place', async () => {
    const { db, migrate } = await olderDatabase(5000)
    await migrate()
    expect(await countAvailable(db, 'p')).toBe(4999)
    const keys = await openCodeKeys(db, SECRETS_KEY)
    const sealed = await Promise.all([sealPlainCodes(db, keys), sealPlainCodes(db, keys), sealPlainCodes(db, keys)])
    expect(sealed.reduce((a, b) => a + b)).toBe(5000)
    expect(await sealPlainCodes(db, keys)).toBe(0)
    const { rows } = await sql<any>`
      select pool_id, sealed, fingerprint, state, plain from code_pool_codes order by code_id`.execute(db)
    expect(rows.map((row) => openCode(keys, row))).toEqual(Array.from({ length: 5000 }, (_, i) => `PLAIN-${i + 1}`))
    expect(rows.filter(({ plain }) => plain !== null)).toEqual([])
    expect(await countAvailable(db, 'p')).toBe(4999)
    // The one that was dispensed stays so.
    expect(await seedPool(db, keys, 'p', ['PLAIN-1', 'PLAIN-2', 'NEW'])).toMatchObject({
      added: 1,
      alreadyDispensed: 1,
      duplicate: 1,
    })
  })

  it('are known to a seeder that comes before the first start', async () => {
    const { db, migrate } = await olderDatabase(3)
    await migrate()
    const keys = await openCodeKeys(db, SECRETS_KEY)
    expect(await seedPool(db, keys, 'p', ['PLAIN-1', 'PLAIN-3', 'PLAIN-4'])).toMatchObject({
      added: 1,
      alreadyDispensed: 1,
      duplicate: 1,
    })
  })

  it('can not come back readable, and a process of that release fails rather than hand out nothing', async () => {
    const { db, migrate } = await olderDatabase(3)
    await migrate()
    await expect(sql`insert into code_pool_codes (pool_id, plain) values ('p', 'PLAIN-9')`.execute(db)).rejects.toThrow(
      'code_is_sealed',
    )
    await expect(sql`select code_id, code from code_pool_codes for update skip locked`.execute(db)).rejects.toThrow(
      'column "code" does not exist',
    )
  })

  it('and its stored answers are sealed by a start, and dispensed as before', async () => {
    const { db, url } = await olderDatabase(3)
    const dispenser = await startDispenser(url)
    expect(await dump(db)).not.toContain('PLAIN')
    await sql`
      insert into code_mappings (chain_id, seller_address, sku, pool_id) values (100, ${SELLER}, 'v', 'p')`.execute(db)
    expect(await fulfil(dispenser, { sku: 'v', quantity: 2 })).toMatchObject({
      body: { status: 'ok', codes: ['PLAIN-2', 'PLAIN-3'] },
    })
    expect(await dump(db)).not.toContain('PLAIN')
    await dispenser.child.stop(5000)
  })
})

describe('codes at rest', () => {
  let home: TestCodes
  beforeAll(async () => {
    home = await createCodesDatabase()
  })
  afterAll(() => home.remove())

  it('do not open in another row, and no fingerprint tells that two pools share a code', async () => {
    await home.seed('one', ['X-1', 'X-2'])
    await home.seed('two', ['X-1'])
    const { rows } = await sql<any>`select pool_id, sealed, fingerprint from code_pool_codes order by code_id`.execute(
      home.db,
    )
    const [a, b, c] = rows
    expect(openCode(home.keys, a)).toBe('X-1')
    expect(() => openCode(home.keys, { ...a, sealed: b.sealed })).toThrow('moved')
    expect(() => openCode(home.keys, { ...a, pool_id: 'two' })).toThrow('moved')
    expect(a.fingerprint.equals(c.fingerprint)).toBe(false)
  })

  it('are taken as they are while the key changes, and need the old key no more afterwards', async () => {
    const { db } = home
    await home.seed('turning', ['T-1', 'T-2', 'T-3'])
    const both = await openCodeKeys(db, `${NEW_KEY},${SECRETS_KEY}`)
    await seedPool(db, both, 'turning', ['T-2', 'T-4'])
    const inAll = Number((await sql<any>`select count(*) as n from code_pool_codes`.execute(db)).rows[0].n)
    expect(await countToReseal(db, both)).toBe(inAll - 1)

    // Cut off after the first batch, as a kill would.
    const stop = new Error('killed')
    await expect(
      resealCodes(db, both, () => {
        throw stop
      }),
    ).rejects.toThrow(stop)
    await Promise.all([resealCodes(db, both), resealCodes(db, both)])
    await sealStoredAnswers(db, both.secrets)
    await resealAdapterSecrets(db, both.secrets)
    expect(await countToReseal(db, both)).toBe(0)
    expect(await dump(db)).not.toContain('v1:t1:')

    const after = await openCodeKeys(db, NEW_KEY)
    expect(await seedPool(db, after, 'turning', ['T-1', 'T-2', 'T-3', 'T-4'])).toMatchObject({ added: 0, duplicate: 4 })
    await sql`
      insert into fulfillment_runs (run_key, chain_id, seller_address, payment_reference, order_id, request_hash, status)
        values ('turn', 1, 's', 'p', 'o', 'h', 'started')`.execute(db)
    const taken = await db
      .transaction()
      .execute((tx) => takeCodes(tx, after, [{ runKey: 'turn', poolId: 'turning', lineIndex: 0, quantity: 4 }]))
    expect(taken[0]).toEqual(['T-1', 'T-2', 'T-3', 'T-4'])
    expect(await voidCode(db, after, 'turning', 'T-1')).toBe('dispensed')
  })
})

it('ends a start in one line when the key is not the one the database was sealed with', async () => {
  const home = await createCodesDatabase()
  try {
    const { child, lines } = await launch({ POSTGRES_CONNECTION: home.url, ADAPTER_SECRETS_KEY: NEW_KEY })
    expect(await child.exited).toEqual({ code: 1, signal: null })
    expect(lines).toHaveLength(1)
    expect(lines[0]).toContain('ADAPTER_SECRETS_KEY lacks the key this database was sealed with')
  } finally {
    await home.remove()
  }
})
