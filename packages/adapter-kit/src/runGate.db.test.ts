import { FulfillmentRequest, type LineResult } from '@market/contracts/fulfillment'
import { type Database, openDatabase } from '@market/kit/db'
import { InvalidError } from '@market/kit/errors'
import { failpointOf } from '@market/kit/failpoint'
import { createLog } from '@market/kit/log'
import { migrateToLatest } from '@market/kit/migrate'
import { createTestDatabase, type TestDatabase } from '@market/testkit/testDatabase'
import { until } from '@market/testkit/until'
import { sql, type Transaction } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Delivery, Line, Run } from './adapter.ts'
import { kitMigrations } from './migrations.ts'
import { type RunsDatabase, runKeyOf, runOnce, sealStoredAnswers } from './runGate.ts'
import { openSecretBox, SecretsError } from './secrets.ts'
import { runsUnderWay } from './steps.ts'

const SELLER = `0x${'1'.repeat(40)}`
const KEYS = ['a', 'b'].map((id) => `${id}:${Buffer.alloc(32, id).toString('base64')}`)
const secrets = openSecretBox(KEYS[0]!)

let home: TestDatabase
let database: Database<RunsDatabase>

beforeAll(async () => {
  home = await createTestDatabase()
  database = openDatabase<RunsDatabase>(home.url, { name: 'test' })
  await migrateToLatest(database.db, kitMigrations, createLog('test', 'fatal'))
})
afterAll(async () => {
  await database.close()
  await home.drop()
})

type Parcel = LineResult & { parcel: string }

/** An adapter whose goods are numbered parcels. `stock` says what a line gets; it may throw or take its time. */
function parcels(
  stock: (line: Line<string>) => Promise<string> | string,
  mapped: (sku: string) => boolean = () => true,
) {
  let packed = 0
  const asked: number[] = []
  const delivery: Delivery<RunsDatabase, string, Parcel> & Delivers = {
    findMappings: async (_db, _chainId, _seller, skus) => new Map(skus.filter(mapped).map((sku) => [sku, sku])),
    inventory: async () => 0,
    async fulfill(_tx, _run, lines) {
      const results: Parcel[] = []
      for (const line of lines) {
        asked.push(line.lineIndex)
        const { lineIndex, sku, quantity } = line
        results.push({
          lineIndex,
          sku,
          quantity,
          status: await stock(line),
          message: null,
          parcel: `parcel ${++packed}`,
        })
      }
      return results
    },
    summarize: (lines) => ({ parcels: lines.filter((line) => line.status === 'ok').map((line) => line.parcel) }),
  }
  return { delivery, asked }
}

type Delivers = { fulfill(tx: Transaction<RunsDatabase>, run: Run, lines: Line<string>[]): Promise<Parcel[]> }

let keys = 0
const newKey = () => `key ${++keys}`

type Shape = Partial<{ skus: string[]; quantity: number; orderId: string; lineIndexes: number[]; buyer: string }>

function ask(
  { delivery }: Pick<ReturnType<typeof parcels>, 'delivery'>,
  key: string,
  { skus = ['tea'], quantity = 1, orderId = 'ord_1', lineIndexes, buyer }: Shape = {},
  { db = database.db, box = secrets } = {},
) {
  const request = FulfillmentRequest.parse({
    orderId,
    paymentReference: 'pay_1',
    items: skus.map((sku) => ({ sku, quantity })),
    trigger: 'finalized',
    lineIndexes,
    buyer,
  })
  return runOnce(
    {
      adapter: { resultType: 'circles:ParcelResult', maxQuantity: 10 },
      delivery,
      db,
      secrets: box,
      log: createLog('test', 'fatal'),
      failpoint: failpointOf(undefined),
      runs: runsUnderWay(),
      budgetMs: 30_000,
    },
    { key, chainId: 100, seller: SELLER, orderId, paymentReference: 'pay_1', request },
  )
}

const findRun = (key: string) =>
  database.db.selectFrom('fulfillment_runs').selectAll().where('run_key', '=', key).executeTakeFirst()

/** A promise and the hand that settles it. */
function signal() {
  let give = () => {}
  const given = new Promise<void>((resolve) => (give = resolve))
  return { give, given }
}

describe('a finished run', () => {
  it('adapters:A-2 fulfilment:F-26 answers a repeated key from the stored reply, without asking the adapter', async () => {
    const shop = parcels(() => 'ok')
    const key = newKey()
    const first = await ask(shop, key)
    expect(first.body).toMatchObject({ status: 'ok', message: null, parcels: ['parcel 1'] })
    expect(await ask(shop, key)).toEqual({ httpStatus: 200, body: { ...first.body, message: 'Already processed' } })
    expect(shop.asked).toEqual([0])
    expect(await findRun(key)).toMatchObject({
      status: 'ok',
      attempts: 1,
      last_error: null,
      completed_at: expect.any(Date),
    })
  })

  it('answers many repeats at once, all alike', async () => {
    const shop = parcels(() => 'ok')
    const key = newKey()
    const { body } = await ask(shop, key)
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(shop, key)))
    for (const answer of answers)
      expect(answer).toEqual({ httpStatus: 200, body: { ...body, message: 'Already processed' } })
  })

  it.each<[string, Shape]>([
    ['quantity', { quantity: 2 }],
    ['sku', { skus: ['coffee'] }],
    ['number of lines', { skus: ['tea', 'tea'] }],
    ['order', { orderId: 'ord_2' }],
    ['line index', { lineIndexes: [3] }],
    ['buyer', { buyer: SELLER }],
  ])('refuses its key for a request with another %s', async (_what, other) => {
    const shop = parcels(() => 'ok')
    const key = newKey()
    await ask(shop, key)
    await expect(ask(shop, key, other)).rejects.toMatchObject({ status: 409, code: 'idempotency_key_reused' })
    expect(shop.asked).toEqual([0])
    expect(await findRun(key)).toMatchObject({ status: 'ok', attempts: 1 })
  })
})

describe('a run under way', () => {
  it('fulfilment:F-27 answers its own key with inProgress, another body with 409, another key by itself', async () => {
    const [started, released] = [signal(), signal()]
    const shop = parcels(async () => {
      started.give()
      await released.given
      return 'ok'
    })
    const key = newKey()
    const first = ask(shop, key)
    await started.given
    expect(await ask(shop, key)).toMatchObject({
      httpStatus: 202,
      body: { status: 'inProgress', message: 'Already in progress', codes: [], lines: [] },
    })
    expect(
      await ask(
        parcels(() => 'ok'),
        newKey(),
      ),
    ).toMatchObject({ httpStatus: 200, body: { status: 'ok' } })
    expect(shop.asked).toEqual([0])
    released.give()
    expect(await first).toMatchObject({ httpStatus: 200, body: { status: 'ok', parcels: ['parcel 1'] } })
  })

  it('is decided once among twenty callers of one key', async () => {
    const shop = parcels(() => 'ok')
    const key = newKey()
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(shop, key)))
    expect(shop.asked).toEqual([0])
    const delivered = answers.filter((answer) => answer.httpStatus === 200)
    expect(delivered.length).toBeGreaterThan(0)
    for (const { body } of delivered) expect(body.parcels).toEqual(['parcel 1'])
  })
})

describe('a run that failed', () => {
  it('fulfilment:F-28 is executed again, and says why it failed until then', async () => {
    let broken = true
    const shop = parcels(() => {
      if (broken) throw new Error('the shelf fell down\nand broke')
      return 'ok'
    })
    const key = newKey()
    await expect(ask(shop, key)).rejects.toThrow('the shelf fell down')
    expect(await findRun(key)).toMatchObject({
      status: 'error',
      last_error: 'the shelf fell down',
      attempts: 1,
      response: null,
    })
    await expect(ask(shop, key)).rejects.toThrow('the shelf fell down')
    expect(await findRun(key)).toMatchObject({ status: 'error', attempts: 2 })
    broken = false
    expect(await ask(shop, key)).toMatchObject({ httpStatus: 200, body: { status: 'ok', message: null } })
    expect(await findRun(key)).toMatchObject({ status: 'ok', last_error: null, attempts: 3 })
  })

  it('does not spoil the run that took its place before the failure was written', async () => {
    // With one connection the second attempt is first in the queue when the first attempt lets go of it.
    const single = openDatabase<RunsDatabase>(home.url, { name: 'test', poolSize: 1 })
    try {
      const [started, released] = [signal(), signal()]
      const failing = parcels(async () => {
        started.give()
        await released.given
        throw new Error('too late')
      })
      const key = newKey()
      const first = ask(failing, key, {}, { db: single.db })
      await started.given
      const second = ask(
        parcels(() => 'ok'),
        key,
        {},
        { db: single.db },
      )
      released.give()
      await expect(first).rejects.toThrow('too late')
      expect(await second).toMatchObject({ body: { status: 'ok' } })
      expect(await findRun(key)).toMatchObject({ status: 'ok', last_error: null, completed_at: expect.any(Date) })
      expect(
        await ask(
          parcels(() => 'ok'),
          key,
        ),
      ).toMatchObject({ body: { message: 'Already processed' } })
    } finally {
      await single.close()
    }
  })

  it('leaves no row when the request was refused', async () => {
    const shop = parcels(() => 'ok')
    const key = newKey()
    await expect(ask(shop, key, { quantity: 11 })).rejects.toThrow('Requested quantity exceeds limit (max 10)')
    await expect(ask(shop, key, { skus: ['tea', 'tea'], quantity: 6 })).rejects.toThrow(InvalidError)
    expect(await findRun(key)).toBeUndefined()
    expect(shop.asked).toEqual([])
    expect(await ask(shop, key, { skus: ['tea', 'coffee'], quantity: 6 })).toMatchObject({ body: { status: 'ok' } })
  })
})

describe('a run that could deliver only a part', () => {
  it('goes on with the lines that are missing, and keeps what the others were told', async () => {
    let coffee = 'depleted'
    const shop = parcels(({ sku }) => (sku === 'coffee' ? coffee : 'ok'))
    const key = newKey()
    const lines = { skus: ['tea', 'coffee', 'cocoa'], lineIndexes: [4, 2, 7] }
    const first = await ask(shop, key, lines)
    expect(first.body).toMatchObject({ status: 'partial', parcels: ['parcel 2', 'parcel 3'] })
    expect(await findRun(key)).toMatchObject({ status: 'partial', completed_at: null })
    coffee = 'ok'
    const second = await ask(shop, key, lines)
    expect(second.body).toMatchObject({
      status: 'ok',
      message: null,
      parcels: ['parcel 4', 'parcel 2', 'parcel 3'],
      lines: [
        { lineIndex: 2, sku: 'coffee' },
        { lineIndex: 4, sku: 'tea' },
        { lineIndex: 7, sku: 'cocoa' },
      ],
    })
    expect(shop.asked).toEqual([2, 4, 7, 2])
    expect(await findRun(key)).toMatchObject({ status: 'ok', completed_at: expect.any(Date) })
  })

  it('keeps a delivered line whose mapping is gone, also after a failure in between', async () => {
    let tea = true
    let coffee = () => 'depleted'
    const shop = parcels(
      ({ sku }) => (sku === 'coffee' ? coffee() : 'ok'),
      (sku) => sku !== 'tea' || tea,
    )
    const key = newKey()
    const lines = { skus: ['tea', 'coffee'] }
    await ask(shop, key, lines)
    tea = false
    coffee = () => {
      throw new Error('no')
    }
    await expect(ask(shop, key, lines)).rejects.toThrow('no')
    coffee = () => 'ok'
    expect((await ask(shop, key, lines)).body).toMatchObject({ status: 'ok', parcels: ['parcel 1', 'parcel 3'] })
  })

  it('is partial with a line nobody mapped, notApplicable with only such lines, depleted with nothing to give', async () => {
    const onlyTea = parcels(
      () => 'ok',
      (sku) => sku === 'tea',
    )
    const mixed = await ask(onlyTea, newKey(), { skus: ['soap', 'tea'] })
    expect(mixed.body).toMatchObject({ status: 'partial', lines: [{ status: 'notMapped' }, { status: 'ok' }] })
    const none = await ask(onlyTea, newKey(), { skus: ['soap'], quantity: 11 })
    expect(none.body).toMatchObject({
      status: 'notApplicable',
      message: 'No items mapped to this adapter',
      codes: [],
      parcels: [],
    })
    const empty = parcels(
      () => 'depleted',
      (sku) => sku === 'tea',
    )
    expect((await ask(empty, newKey(), { skus: ['tea', 'soap'] })).body).toMatchObject({
      status: 'depleted',
      parcels: [],
    })
  })
})

describe('the key of a run', () => {
  const request = FulfillmentRequest.parse({
    orderId: 'o',
    paymentReference: ' pay_9 ',
    items: [{ sku: 'a' }],
    trigger: 'confirmed',
    idempotencyKey: 'from body',
  })
  const old = { ...request, idempotencyKey: null }

  it('is the header, else the member, else what the older adapters locked on', () => {
    expect(runKeyOf(100, SELLER, request, ' from header ')).toBe('from header')
    expect(runKeyOf(100, SELLER, request, ' ')).toBe('from body')
    expect(runKeyOf(100, SELLER, old, undefined)).toBe(`100:${SELLER}:pay_9`)
  })

  it('has a length that an index can hold', () => {
    expect(() => runKeyOf(100, SELLER, request, 'x'.repeat(256))).toThrow(InvalidError)
  })
})

it('gives up waiting for a transaction whose process is gone without a word', async () => {
  const shop = parcels(() => 'ok')
  let limits: unknown
  const delivery: typeof shop.delivery = {
    ...shop.delivery,
    async fulfill(tx, run, lines) {
      const show = (name: string) =>
        tx.selectNoFrom((is) => is.fn<string>('current_setting', [is.val(name)]).as('value')).executeTakeFirstOrThrow()
      limits = [await show('statement_timeout'), await show('idle_in_transaction_session_timeout')]
      return shop.delivery.fulfill(tx, run, lines)
    },
  }
  await ask({ delivery }, newKey())
  expect(limits).toEqual([{ value: '10s' }, { value: '30s' }])
})

it('believes no delivery that forgets a line', async () => {
  const delivery = { ...parcels(() => 'ok').delivery, fulfill: async () => [] }
  const key = newKey()
  await expect(ask({ delivery }, key)).rejects.toThrow('the adapter was asked for lines 0, and answered ')
  expect(await findRun(key)).toMatchObject({ status: 'error' })
})

it('leaves a run alone that another process has by a lease', async () => {
  const key = newKey()
  const shop = parcels(() => 'depleted')
  await ask(shop, key)
  const lease = (end: string) =>
    sql`update fulfillment_runs set status = 'started', lease_until = now() + ${end}::interval where run_key = ${key}`.execute(
      database.db,
    )
  await lease('1 min')
  expect(await ask(shop, key)).toMatchObject({ httpStatus: 202, body: { status: 'inProgress' } })
  await lease('-1 ms')
  expect(await ask(shop, key)).toMatchObject({ httpStatus: 200, body: { status: 'depleted' } })
})

describe('a stored answer', () => {
  const plain = (key: string, response: object) =>
    database.db
      .updateTable('fulfillment_runs')
      .set({ response: JSON.stringify(response) as never, sealed_response: null })
      .where('run_key', '=', key)
      .execute()

  it('lies sealed, and opens only where it belongs', async () => {
    const shop = parcels(() => 'ok')
    const [key, other] = [newKey(), newKey()]
    await ask(shop, key)
    await ask(shop, other)
    const { response, sealed_response: sealed } = (await findRun(key))!
    expect(response).toBeNull()
    expect(sealed).toMatch(/^v1:a:[A-Za-z0-9_-]+$/)
    expect(Buffer.from(sealed!.split(':')[2]!, 'base64url').toString('latin1')).not.toContain('parcel')
    await database.db
      .updateTable('fulfillment_runs')
      .set({ sealed_response: sealed! })
      .where('run_key', '=', other)
      .execute()
    await expect(ask(shop, other)).rejects.toThrow(SecretsError)
    expect(await findRun(other)).toMatchObject({ status: 'ok', sealed_response: sealed, last_error: null })
  })

  it('of an older version is replayed, and what it delivered is not delivered again', async () => {
    const finished = newKey()
    const { body } = await ask(
      parcels(() => 'ok'),
      finished,
    )
    await plain(finished, body)
    const never = parcels(() => Promise.reject(new Error('asked')))
    expect((await ask(never, finished)).body).toEqual({ ...body, message: 'Already processed' })

    const part = newKey()
    let coffee = 'depleted'
    const shop = parcels(({ sku }) => (sku === 'coffee' ? coffee : 'ok'))
    const lines = { skus: ['tea', 'coffee'] }
    await plain(part, (await ask(shop, part, lines)).body)
    coffee = 'ok'
    expect((await ask(shop, part, lines)).body).toMatchObject({ status: 'ok', parcels: ['parcel 1', 'parcel 3'] })
    expect(shop.asked).toEqual([0, 1, 1])
    expect((await findRun(part))!.response).toBeNull()
  })

  it('is sealed at the next start when it was readable, and sealed anew when its key is on its way out', async () => {
    const empty = await createTestDatabase()
    const own = openDatabase<RunsDatabase>(empty.url, { name: 'test' })
    try {
      await migrateToLatest(own.db, kitMigrations, createLog('test', 'fatal'))
      const shop = parcels(() => 'ok')
      // More than a batch: those of an older version, those of the older key, and one without an answer.
      await sql`
        insert into fulfillment_runs (run_key, chain_id, seller_address, payment_reference, order_id, request_hash, status, response)
        select 'old ' || n, 100, ${SELLER}, 'pay', 'ord', '', 'ok', json_build_object('status', 'ok', 'codes', 'c' || n)
        from generate_series(1, 1100) n`.execute(own.db)
      await expect(
        ask(
          parcels(() => Promise.reject(new Error('no'))),
          'none',
          {},
          { db: own.db },
        ),
      ).rejects.toThrow('no')
      const told = await ask(shop, 'mine', {}, { db: own.db })
      expect(await sealStoredAnswers(own.db, secrets)).toBe(1100)
      expect(await sealStoredAnswers(own.db, secrets)).toBe(0)

      const rotated = openSecretBox([KEYS[1], KEYS[0]].join())
      expect(await sealStoredAnswers(own.db, rotated)).toBe(1101)
      expect(await sealStoredAnswers(own.db, rotated)).toBe(0)
      const newOnly = openSecretBox(KEYS[1]!)
      expect(await sealStoredAnswers(own.db, newOnly)).toBe(0)
      await expect(sealStoredAnswers(own.db, secrets)).rejects.toThrow(SecretsError)
      expect((await ask(shop, 'mine', {}, { db: own.db, box: newOnly })).body).toEqual({
        ...told.body,
        message: 'Already processed',
      })
      const { rows } = await sql<{ run_key: string; sealed_response: string; response: null }>`
        select run_key, sealed_response, response from fulfillment_runs where run_key like 'old %'`.execute(own.db)
      for (const { run_key: key, sealed_response: sealed, response } of rows) {
        expect(response).toBeNull()
        expect(JSON.parse(newOnly.open(sealed, `fulfillment_runs.sealed_response/${key}`))).toEqual({
          status: 'ok',
          codes: key.replace('old ', 'c'),
        })
      }
    } finally {
      await own.close()
      await empty.drop()
    }
  })

  it('that changes while others are sealed stays as it was written', async () => {
    const [started, released] = [signal(), signal()]
    let coffee = 'depleted'
    const shop = parcels(async ({ sku }) => {
      if (coffee === 'ok') {
        started.give()
        await released.given
      }
      return sku === 'coffee' ? coffee : 'ok'
    })
    const key = newKey()
    const lines = { skus: ['tea', 'coffee'] }
    const { body: before } = await ask(shop, key, lines)
    await sealStoredAnswers(database.db, secrets)
    await plain(key, before)
    coffee = 'ok'
    const running = ask(shop, key, lines)
    await started.given
    const sealing = sealStoredAnswers(database.db, secrets)
    await until('it waits for the run', async () => {
      const { rows } = await sql`
        select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(
        database.db,
      )
      return rows.length > 0
    })
    released.give()
    expect(await sealing).toBe(0)
    const { body } = await running
    expect(body).toMatchObject({ status: 'ok' })
    expect((await ask(shop, key, lines)).body).toEqual({ ...body, message: 'Already processed' })
  })
})
