import { runOnce } from '@market/adapter-kit/runGate'
import { runsUnderWay } from '@market/adapter-kit/steps'
import { FulfillmentRequest } from '@market/contracts/fulfillment'
import { failpointOf } from '@market/kit/failpoint'
import { createLog } from '@market/kit/log'
import { createMetrics } from '@market/kit/metrics'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { createCodesDatabase, type TestCodes } from '../test/codesDatabase.ts'
import { codedispenser, type CodeLine } from './adapter.ts'
import type { CodesDatabase } from './database.ts'
import { type CodeSource, upsertCodeMapping } from './mappings.ts'
import { countAvailable } from './pools.ts'

const SELLER = `0x${'ab'.repeat(20)}`

let home: TestCodes
let gate: Parameters<typeof runOnce<CodesDatabase, CodeSource, CodeLine>>[0]

beforeAll(async () => {
  home = await createCodesDatabase()
  const { db, keys } = home
  const log = createLog('test', 'fatal')
  const delivery = await codedispenser.open({ db, ...keys, log, metrics: createMetrics('test'), config: {} })
  const failpoint = failpointOf(undefined)
  gate = { adapter: codedispenser, delivery, db, ...keys, log, failpoint, runs: runsUnderWay(), budgetMs: 30_000 }
})
afterAll(async () => {
  await Promise.all(gate.delivery.loops!.map((loop) => loop.stop()))
  await home.remove()
})

type Item = { sku: string; quantity: number }
type Step =
  { do: 'seed'; pool: number; codes: number[] } | { do: 'fulfill'; items: Item[] } | { do: 'repeat'; which: number }

/** Small numbers: they are what makes callers meet. */
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant('seed' as const), pool: fc.nat(1), codes: fc.array(fc.nat(12), { maxLength: 6 }) }),
  fc.record({
    do: fc.constant('fulfill' as const),
    items: fc.array(fc.record({ sku: fc.constantFrom('a', 'b', 'b2'), quantity: fc.integer({ min: 1, max: 3 }) }), {
      minLength: 1,
      maxLength: 3,
    }),
  }),
  fc.record({ do: fc.constant('repeat' as const), which: fc.nat(9) }),
)

type Body = { status: string; codes: string[]; lines: { status: string; quantity: number; codes: string[] }[] }

let worlds = 0

it('whatever is seeded, fulfilled and repeated at once: a code has one run, none is lost, a key keeps its codes', async () => {
  await fc.assert(
    // Each inner array happens at once, the outer in order.
    fc.asyncProperty(
      fc.array(fc.array(step, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 6 }),
      async (rounds) => {
        const world = ++worlds
        const pools = [`p ${world}`, `q ${world}`]
        // Two skus draw from one pool.
        for (const [sku, pool] of [
          ['a', 0],
          ['b', 1],
          ['b2', 1],
        ] as const) {
          await upsertCodeMapping(home.db, {
            chainId: world,
            seller: SELLER,
            sku,
            poolId: pools[pool]!,
            downloadUrlTemplate: null,
          })
        }
        const seeded = pools.map(() => new Set<string>())
        const runs: { key: string; items: Item[]; told: string[][] }[] = []

        const fulfil = async (run: (typeof runs)[number]) => {
          const request = FulfillmentRequest.parse({
            orderId: 'o',
            paymentReference: 'p',
            items: run.items,
            trigger: 'confirmed',
          })
          const at = { key: run.key, chainId: world, seller: SELLER, orderId: 'o', paymentReference: 'p', request }
          const answer = await runOnce(gate, at)
          const { status, codes, lines } = answer.body as Body
          if (status === 'inProgress') return expect(answer.httpStatus).toBe(202)
          expect(codes).toEqual(lines.flatMap((line) => line.codes))
          for (const [i, line] of lines.entries()) {
            expect(line.codes).toHaveLength(line.status === 'ok' ? line.quantity : 0)
            // What a line was told once it is told for ever.
            if (run.told[i]?.length) expect(line.codes).toEqual(run.told[i])
            if (line.codes.length) run.told[i] = line.codes
          }
          expect(status).toBe(lines.every((l) => l.status === 'ok') ? 'ok' : codes.length > 0 ? 'partial' : 'depleted')
        }

        for (const round of rounds) {
          await Promise.all(
            round.map(async (action) => {
              if (action.do === 'seed') {
                const codes = action.codes.map((n) => `${pools[action.pool]} code ${n}`)
                for (const code of codes) seeded[action.pool]!.add(code)
                await home.seed(pools[action.pool]!, codes)
              } else if (action.do === 'fulfill') {
                const run = { key: `${world} run ${runs.length}`, items: action.items, told: [] }
                runs.push(run)
                await fulfil(run)
              } else if (runs.length > 0) {
                await fulfil(runs[action.which % runs.length]!)
              }
            }),
          )
          const told = runs.flatMap((run) => run.told.flat())
          expect(new Set(told).size, 'a code told to one line only').toBe(told.length)
          const rows = (await home.codesOf({ poolId: pools })).filter(({ state }) => state === 'assigned')
          expect(rows.map((row) => row.code).toSorted()).toEqual(told.toSorted())
          for (const run of runs) {
            const mine = rows.filter((row) => row.runKey === run.key).map((row) => row.code)
            expect(mine.toSorted()).toEqual(run.told.flat().toSorted())
          }
          const available = await Promise.all(pools.map((pool) => countAvailable(home.db, pool)))
          expect(available[0]! + available[1]! + told.length).toBe(seeded[0]!.size + seeded[1]!.size)
        }
      },
    ),
    { numRuns: 30 },
  )
})
