import { inTransaction } from '@market/kit/db'
import { until } from '@market/testkit/until'
import { sql, type Transaction } from 'kysely'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { createCodesDatabase, type TestCodes } from '../test/codesDatabase.ts'
import type { CodesDatabase } from './database.ts'
import { countAvailable, takeCodes, type Want } from './pools.ts'

let home: TestCodes
let names = 0

beforeAll(async () => {
  home = await createCodesDatabase()
})
afterAll(() => home.remove())

const codes = (prefix: string, n: number) => Array.from({ length: n }, (_, i) => `${prefix}${i + 1}`)

async function newPool(n: number) {
  const poolId = `pool ${++names}`
  await home.seed(poolId, codes('c', n))
  return poolId
}

/** Runs `work` in a transaction that has a run to assign codes to. */
function asRun<T>(work: (tx: Transaction<CodesDatabase>, runKey: string) => Promise<T>): Promise<T> {
  const run = `run ${++names}`
  return inTransaction(home.db, async (tx) => {
    await tx
      .insertInto('fulfillment_runs')
      .values({
        run_key: run,
        chain_id: 100,
        seller_address: 's',
        payment_reference: 'p',
        order_id: 'o',
        request_hash: 'h',
        status: 'started',
        response: null,
        last_error: null,
        completed_at: null,
      })
      .execute()
    return work(tx, run)
  })
}

type LineWant = Omit<Want, 'runKey'>

/** What each line got, by its index. */
const take = (wants: LineWant[], then: () => Promise<unknown> = async () => {}) =>
  asRun(async (tx, runKey) => {
    const taken = await takeCodes(
      tx,
      home.keys,
      wants.map((want) => ({ ...want, runKey })),
    )
    await then()
    return Object.fromEntries(taken.flatMap((got, i) => (got ? [[wants[i]!.lineIndex, got] as const] : [])))
  })

const one = (poolId: string, quantity: number, lineIndex = 0): LineWant => ({ poolId, quantity, lineIndex })

/** Sessions of this suite that wait for a row somebody else holds. */
const waiting = async () =>
  (
    await sql`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(
      home.db,
    )
  ).rows.length

function signal() {
  let give = () => {}
  const given = new Promise<void>((resolve) => (give = resolve))
  return { give, given }
}

it('gives the oldest codes first, in line order', async () => {
  const poolId = await newPool(12)
  expect(await take([one(poolId, 2, 5), one(poolId, 3, 1)])).toEqual({ 5: ['c1', 'c2'], 1: ['c3', 'c4', 'c5'] })
  expect(await take([one(poolId, 7)])).toEqual({ 0: ['c6', 'c7', 'c8', 'c9', 'c10', 'c11', 'c12'] })
})

it('gives a line all of its codes or none, and a later smaller line what is there', async () => {
  const poolId = await newPool(3)
  expect(await take([one(poolId, 4, 0), one(poolId, 2, 1), one(poolId, 2, 2)])).toEqual({ 1: ['c1', 'c2'] })
  expect(await countAvailable(home.db, poolId)).toBe(1)
})

it('does not make a buyer wait for another while there are codes for both', async () => {
  const poolId = await newPool(4)
  const [holding, release] = [signal(), signal()]
  const first = take([one(poolId, 2)], async () => {
    holding.give()
    await release.given
  })
  await holding.given
  expect(await take([one(poolId, 2)])).toEqual({ 0: ['c3', 'c4'] })
  release.give()
  expect(await first).toEqual({ 0: ['c1', 'c2'] })
})

it.each([
  ['rolls back', { 0: ['c1', 'c2', 'c3'] }],
  ['commits', {}],
])(
  'waits for the holder of the last codes before it calls a pool depleted: the holder %s',
  async (ending, expected) => {
    const poolId = await newPool(3)
    const [holding, release] = [signal(), signal()]
    const holder = take([one(poolId, 2)], async () => {
      holding.give()
      await release.given
      if (ending === 'rolls back') throw new Error('changed my mind')
    }).catch(() => {})
    await holding.given
    const waiter = take([one(poolId, 3)])
    await until('the second buyer waits', async () => (await waiting()) > 0)
    release.give()
    await holder
    expect(await waiter).toEqual(expected)
  },
)

it('never waits in a circle: callers of the same pools in any order, lines of one pool apart', async () => {
  for (let round = 0; round < 5; round++) {
    const [p, q, r] = [await newPool(14), await newPool(14), await newPool(14)]
    const orders = [
      [p, q, r, p],
      [r, q, p, p],
      [q, r, q, p],
      [p, p, r, q],
    ]
    const results = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        take(orders[i % 4]!.map((poolId, lineIndex) => one(poolId, 1 + (i % 2), lineIndex))),
      ),
    )
    const given = (await home.codesOf({ poolId: [p, q, r] })).filter(({ state }) => state === 'assigned')
    expect(results.flatMap((lines) => Object.values(lines).flat())).toHaveLength(given.length)
    // Twenty callers want more than there is: single codes are wanted to the last one.
    for (const poolId of [p, q, r]) expect(await countAvailable(home.db, poolId)).toBeLessThanOrEqual(1)
  }
})

it('two lines of one pool that meet another buyer in the middle both get what they want', async () => {
  const poolId = await newPool(6)
  // Each takes two, sees the other's two, and comes up short for its second line: with line by line they would deadlock.
  const results = await Promise.all([1, 2, 3].map(() => take([one(poolId, 2, 0), one(poolId, 2, 1)])))
  const given = results.flatMap((lines) => Object.values(lines).flat())
  expect(new Set(given).size).toBe(given.length)
  expect(await countAvailable(home.db, poolId)).toBe(6 - given.length)
  expect(given).toHaveLength(6)
})
