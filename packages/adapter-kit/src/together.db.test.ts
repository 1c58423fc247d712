import { FulfillmentRequest, type LineResult } from '@market/contracts/fulfillment'
import { type Database, openDatabase } from '@market/kit/db'
import { ConflictError, InvalidError } from '@market/kit/errors'
import { failpointOf } from '@market/kit/failpoint'
import { createLog } from '@market/kit/log'
import { migrateToLatest } from '@market/kit/migrate'
import { createTestDatabase, type TestDatabase } from '@market/testkit/testDatabase'
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest'
import type { Delivery, Line, Run } from './adapter.ts'
import { kitMigrations } from './migrations.ts'
import { type Gate, type RunsDatabase, runOnce } from './runGate.ts'
import { openSecretBox } from './secrets.ts'
import { runsUnderWay } from './steps.ts'
import { createTogether } from './together.ts'

const SELLERS = ['1', '2'].map((digit) => `0x${digit.repeat(40)}`)

let home: TestDatabase
let database: Database<RunsDatabase>
let gate: Gate<RunsDatabase, string, LineResult>
/** Runs of each transaction in which the adapter delivered, committed or not. */
let batches: number[]
/** Breaks the delivery of a run. */
let breaks: (run: Run) => boolean

beforeAll(async () => {
  home = await createTestDatabase()
  database = openDatabase<RunsDatabase>(home.url, { name: 'test' })
  await migrateToLatest(database.db, kitMigrations, createLog('test', 'fatal'))
  await sql`create table goods (id bigint generated always as identity, run_key text not null, line_index integer not null)`.execute(
    database.db,
  )
})
afterAll(async () => {
  await database.close()
  await home.drop()
})
beforeEach(() => {
  batches = []
  breaks = () => false
  const fulfillTogether = async (tx: any, runs: readonly { run: Run; lines: Line<string>[] }[]) => {
    batches.push(runs.length)
    const results: LineResult[][] = []
    for (const { run, lines } of runs) {
      const lineResults: LineResult[] = []
      for (const { lineIndex, sku, quantity } of lines) {
        const { rows } = await sql<{ id: string }>`
          insert into goods (run_key, line_index) values (${run.key}, ${lineIndex}) returning id`.execute(tx)
        lineResults.push({ lineIndex, sku, quantity, status: 'ok', message: `good ${rows[0]!.id}` })
      }
      if (breaks(run)) throw new Error('the shelf fell down')
      results.push(lineResults)
    }
    return results
  }
  const delivery: Delivery<RunsDatabase, string, LineResult> = {
    findMappings: async (_db, _chainId, seller, skus) =>
      new Map(skus.filter((sku) => sku !== 'unknown').map((sku) => [sku, `${seller} ${sku}`])),
    inventory: async () => 0,
    fulfill: async (tx, run, lines) => (await fulfillTogether(tx, [{ run, lines }]))[0]!,
    fulfillTogether,
    summarize: (lines) => ({ goods: lines.map(({ message }) => message) }),
  }
  gate = {
    adapter: { resultType: 'circles:GoodsResult', maxQuantity: 10 },
    delivery,
    db: database.db,
    secrets: openSecretBox(`a:${Buffer.alloc(32, 1).toString('base64')}`),
    log: createLog('test', 'fatal'),
    failpoint: failpointOf(undefined),
    runs: runsUnderWay(),
    budgetMs: 30_000,
  }
  gate.together = createTogether(gate)
})

let keys = 0
const newKeys = (count: number) => Array.from({ length: count }, () => `key ${++keys}`)

function ask(key: string, { skus = ['tea'], quantity = 1, seller = SELLERS[0]!, orderId = `ord_${key}` } = {}) {
  const request = FulfillmentRequest.parse({
    orderId,
    paymentReference: `pay_${key}`,
    items: skus.map((sku) => ({ sku, quantity })),
    trigger: 'finalized',
  })
  return runOnce(gate, { key, chainId: 100, seller, orderId, paymentReference: `pay_${key}`, request })
}

async function goodsOf(wanted: readonly string[]): Promise<Map<string, string[]>> {
  const { rows } = await sql<{ run_key: string; goods: string[] }>`
    select run_key, array_agg('good ' || id order by line_index) as goods from goods
    where run_key = any(${wanted}::text[]) group by run_key`.execute(database.db)
  return new Map(rows.map((row) => [row.run_key, row.goods]))
}

it('gives each of many callers at once its own goods, in a few transactions, and the same ones again', async () => {
  const wanted = newKeys(100)
  const how = (i: number) => ({ seller: SELLERS[i % 2]!, skus: i % 3 === 0 ? ['tea', 'milk'] : ['tea'] })
  const answers = await Promise.all(wanted.map((key, i) => ask(key, how(i))))
  const goods = await goodsOf(wanted)
  expect(answers.map(({ body }) => body.goods)).toEqual(wanted.map((key) => goods.get(key)))
  expect(answers.map(({ body }) => [body.status, body.orderId])).toEqual(wanted.map((key) => ['ok', `ord_${key}`]))
  expect(batches.reduce((sum, runs) => sum + runs, 0)).toBe(100)
  expect(batches.length).toBeLessThan(12)

  const again = await Promise.all(wanted.map((key, i) => ask(key, how(i))))
  expect(again.map(({ body }) => body)).toEqual(answers.map(({ body }) => ({ ...body, message: 'Already processed' })))
  expect(await goodsOf(wanted)).toEqual(goods)
})

it('delivers once to many callers of one key', async () => {
  const [key, ...others] = newKeys(30) as [string, ...string[]]
  const answers = await Promise.all([...Array.from({ length: 20 }, () => ask(key)), ...others.map((one) => ask(one))])
  const goods = await goodsOf([key, ...others])
  expect(goods.get(key)).toHaveLength(1)
  expect(goods.size).toBe(30)
  for (const { httpStatus, body } of answers.slice(0, 20)) {
    if (httpStatus === 202) expect(body.status).toBe('inProgress')
    else expect(body.goods).toEqual(goods.get(key))
  }
})

it('refuses who is to be refused, and nobody who came with him', async () => {
  const [used, tooMany, ...others] = newKeys(20) as [string, string, ...string[]]
  await ask(used)
  const refused = [ask(used, { orderId: 'ord_another' }), ask(tooMany, { quantity: 11 })].map((answer) =>
    answer.catch((error: unknown) => error),
  )
  const answers = await Promise.all(others.map((key) => ask(key)))
  expect(await refused[0]).toBeInstanceOf(ConflictError)
  expect(await refused[1]).toBeInstanceOf(InvalidError)
  expect(answers.every(({ body }) => body.status === 'ok')).toBe(true)
  const goods = await goodsOf([used, tooMany, ...others])
  expect([goods.get(used)!.length, goods.has(tooMany), goods.size]).toEqual([1, false, 19])
  // Refused before anything began: no row.
  expect(await database.db.selectFrom('fulfillment_runs').selectAll().where('run_key', '=', tooMany).execute()).toEqual(
    [],
  )
})

it('delivers to the others when the adapter fails for one, which runs again when asked again', async () => {
  const [broken, ...others] = newKeys(12) as [string, ...string[]]
  breaks = (run) => run.key === broken
  const failed = ask(broken).catch((error: Error) => error.message)
  const answers = await Promise.all(others.map((key) => ask(key)))
  expect(await failed).toBe('the shelf fell down')
  expect(answers.every(({ body }) => body.status === 'ok')).toBe(true)
  const goods = await goodsOf([broken, ...others])
  expect(goods.has(broken)).toBe(false)
  expect([...goods.values()].every((one) => one.length === 1)).toBe(true)
  const row = await database.db
    .selectFrom('fulfillment_runs')
    .select(['status', 'last_error'])
    .where('run_key', '=', broken)
    .executeTakeFirst()
  expect(row).toEqual({ status: 'error', last_error: 'the shelf fell down' })

  breaks = () => false
  expect((await ask(broken)).body.status).toBe('ok')
  expect((await goodsOf([broken])).get(broken)).toHaveLength(1)
})

it('gives what is missing later, and keeps what was told', async () => {
  const wanted = newKeys(8)
  const partial = await Promise.all(wanted.map((key) => ask(key, { skus: ['tea', 'unknown'] })))
  expect(new Set(partial.map(({ body }) => body.status))).toEqual(new Set(['partial']))
  const first = await goodsOf(wanted)
  const { findMappings } = gate.delivery
  gate.delivery.findMappings = async (db, chainId, seller, skus) =>
    new Map([...(await findMappings(db, chainId, seller, skus)), ['unknown', 'known now']])
  const whole = await Promise.all(wanted.map((key) => ask(key, { skus: ['tea', 'unknown'] })))
  expect(whole.map(({ body }) => [body.status, (body.goods as string[])[0]])).toEqual(
    wanted.map((key) => ['ok', first.get(key)![0]]),
  )
  expect([...(await goodsOf(wanted)).values()].every((goods) => goods.length === 2)).toBe(true)
})
