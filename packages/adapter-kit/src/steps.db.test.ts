import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { FulfillmentRequest, type LineResult } from '@market/contracts/fulfillment'
import { type Child, spawnTethered } from '@market/devstack/tether'
import { type Database, openDatabase } from '@market/kit/db'
import { ConflictError, InvalidError } from '@market/kit/errors'
import { failpointOf } from '@market/kit/failpoint'
import { listen } from '@market/kit/http'
import { LeaseLostError } from '@market/kit/lease'
import { createLog } from '@market/kit/log'
import { createMetrics } from '@market/kit/metrics'
import { migrateToLatest } from '@market/kit/migrate'
import { startLocalServer } from '@market/testkit/localServer'
import { createTestDatabase, type TestDatabase } from '@market/testkit/testDatabase'
import { until } from '@market/testkit/until'
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { Line, Run } from './adapter.ts'
import { adapterApp } from './app.ts'
import { kitMigrations } from './migrations.ts'
import { type Gate, type RunsDatabase, runOnce } from './runGate.ts'
import { openSecretBox } from './secrets.ts'
import { runsUnderWay, type StepResult, type Steps } from './steps.ts'

const SELLER = `0x${'1'.repeat(40)}`
const SERVICE_KEY = 'a service key of some length'
const SECRETS_KEY = `a:${Buffer.alloc(32, 'a').toString('base64')}`
const log = createLog('test', 'fatal')

let home: TestDatabase
let database: Database<RunsDatabase>
let world: Outside
const children: Child[] = []

beforeAll(async () => {
  home = await createTestDatabase()
  database = openDatabase<RunsDatabase>(home.url, { name: 'test' })
  await migrateToLatest(database.db, kitMigrations, log)
  world = await outside()
})
afterEach(() => world.release())
afterAll(async () => {
  for (const child of children) child.kill()
  await Promise.all(children.map((child) => child.exited))
  await world.stop()
  await database.close()
  await home.drop()
})

type Outside = Awaited<ReturnType<typeof outside>>

/** What no transaction reaches: an effect a path, which can be looked up and is answered when it is let. */
async function outside() {
  const effects: string[] = []
  let answered = Promise.resolve()
  let release = () => {}
  const server = await startLocalServer(async (request, response) => {
    const path = request.url!.slice(1)
    if (request.method === 'POST') {
      effects.push(path)
      await answered
    } else if (!effects.includes(path)) response.statusCode = 404
    response.end()
  })
  return {
    url: server.url,
    of: (key: string) => effects.filter((path) => path.startsWith(`${key}/`)).map((path) => path.split('/')[1]),
    hold: () => (answered = new Promise((resolve) => (release = resolve))),
    release: () => release(),
    stop: server.stop,
  }
}

/** Two effects in the world, in two steps that look before they act. Child processes get it as text: it uses nothing around it. */
async function courier(url: string, steps: Steps, run: Run, lines: Line<string>[]): Promise<LineResult[]> {
  for (const what of ['book', 'send']) {
    await steps.once(what, async () => {
      const effect = `${url}/${run.key}/${what}`
      if ((await fetch(effect)).status === 404) await fetch(effect, { method: 'POST' })
      return what
    })
  }
  return lines.map(({ lineIndex, sku, quantity }) => ({ lineIndex, sku, quantity, status: 'ok', message: null }))
}

type Work = (steps: Steps, run: Run, lines: Line<string>[]) => Promise<LineResult[]>

const deliver: Work = (steps, run, lines) => courier(world.url, steps, run, lines)

const all = (lines: Line<string>[], status: (line: Line<string>) => string = () => 'ok'): LineResult[] =>
  lines.map((line) => ({
    lineIndex: line.lineIndex,
    sku: line.sku,
    quantity: line.quantity,
    status: status(line),
    message: null,
  }))

const gateOf = (
  work: Work,
  more: Partial<Gate<RunsDatabase, string, LineResult>> = {},
): Gate<RunsDatabase, string, LineResult> => ({
  adapter: { resultType: 'circles:CourierResult', maxQuantity: 10 },
  delivery: {
    findMappings: async (_db, _chainId, _seller, skus) =>
      new Map(skus.filter((sku) => sku !== 'soap').map((sku) => [sku, sku])),
    inventory: async () => 0,
    summarize: () => ({}),
    fulfillBySteps: work,
  },
  db: database.db,
  secrets: openSecretBox(SECRETS_KEY),
  log,
  failpoint: failpointOf(undefined),
  runs: runsUnderWay(),
  budgetMs: 30_000,
  ...more,
})

let keys = 0
const newKey = () => `key-${++keys}`

const bodyOf = (key: string, { skus = ['tea'], quantity = 1 } = {}) => ({
  orderId: 'ord_1',
  paymentReference: 'pay_1',
  items: skus.map((sku) => ({ sku, quantity })),
  trigger: 'finalized',
  idempotencyKey: key,
})

function ask(
  work: Work,
  key: string,
  more: Parameters<typeof gateOf>[1] & { skus?: string[]; quantity?: number } = {},
) {
  const request = FulfillmentRequest.parse(bodyOf(key, more))
  const { orderId, paymentReference } = request
  return runOnce(gateOf(work, more), { key, chainId: 100, seller: SELLER, orderId, paymentReference, request })
}

const findRun = (key: string) =>
  database.db.selectFrom('fulfillment_runs').selectAll().where('run_key', '=', key).executeTakeFirst()

const stepsOf = async (key: string) =>
  (
    await database.db.selectFrom('fulfillment_run_steps').selectAll().where('run_key', '=', key).orderBy('at').execute()
  ).map(({ step, result }) => [step, result])

const endLease = (key: string) =>
  sql`update fulfillment_runs set lease_until = now() - interval '1 ms' where run_key = ${key}`.execute(database.db)

/** A promise and the hand that settles it. */
function signal() {
  let give = () => {}
  const given = new Promise<void>((resolve) => (give = resolve))
  return { give, given }
}

/** Works until it is released, having said that it began. */
function held(then: Work = async (_steps, _run, lines) => all(lines)) {
  const [started, released] = [signal(), signal()]
  const work: Work = async (steps, run, lines) => {
    started.give()
    await released.given
    return then(steps, run, lines)
  }
  return { work, started: started.given, release: released.give }
}

describe('a run by steps', () => {
  it('adapters:A-2 fulfilment:F-26 takes each step once, and answers a repeated key from the stored reply', async () => {
    const key = newKey()
    const first = await ask(deliver, key)
    expect(first).toMatchObject({ httpStatus: 200, body: { status: 'ok', message: null, lines: [{ status: 'ok' }] } })
    expect(await ask(deliver, key)).toEqual({ httpStatus: 200, body: { ...first.body, message: 'Already processed' } })
    expect(world.of(key)).toEqual(['book', 'send'])
    expect(await stepsOf(key)).toEqual([
      ['book', 'book'],
      ['send', 'send'],
    ])
    const run = await findRun(key)
    expect(run).toMatchObject({ status: 'ok', attempts: 1, lease_until: null, completed_at: expect.any(Date) })
    expect(run!.sealed_response).toMatch(/^v1:a:/)
  })

  it('is worked on once among twenty callers of one key', async () => {
    const key = newKey()
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(deliver, key)))
    expect(world.of(key)).toEqual(['book', 'send'])
    const told = answers.map(({ httpStatus, body }) => [httpStatus, body.status].join())
    expect([...new Set(told)].toSorted()).toEqual(['200,ok', '202,inProgress'])
  })

  it('fulfilment:F-27 answers its own key with inProgress while its lease is live, and another body with 409', async () => {
    const { work, started, release } = held()
    const key = newKey()
    const first = ask(work, key)
    await started
    expect(await findRun(key)).toMatchObject({ status: 'started', lease_until: expect.any(Date) })
    expect(await ask(deliver, key)).toMatchObject({
      httpStatus: 202,
      body: { status: 'inProgress', message: 'Already in progress', lines: [] },
    })
    await expect(ask(deliver, key, { quantity: 2 })).rejects.toThrow(ConflictError)
    expect(world.of(key)).toEqual([])
    release()
    expect(await first).toMatchObject({ httpStatus: 200, body: { status: 'ok' } })
    await expect(ask(deliver, key, { quantity: 2 })).rejects.toThrow(ConflictError)
    expect(await findRun(key)).toMatchObject({ status: 'ok', attempts: 1 })
  })

  it('keeps its lease for as long as it works', async () => {
    const { work, started, release } = held()
    const key = newKey()
    const leaseMs = 900
    const first = ask(work, key, { leaseMs })
    await started
    const { created_at: begun } = (await findRun(key))!
    await until('the lease has been renewed a few times', async () => {
      const { lease_until: end } = (await findRun(key))!
      return end!.getTime() > begun.getTime() + 2 * leaseMs
    })
    expect(await ask(deliver, key)).toMatchObject({ httpStatus: 202 })
    release()
    expect(await first).toMatchObject({ body: { status: 'ok' } })
    expect(await findRun(key)).toMatchObject({ status: 'ok', attempts: 1 })
  })

  it('asks nobody for lines without a mapping, and leaves no row of a refused request', async () => {
    const never: Work = () => Promise.reject(new Error('was asked'))
    const key = newKey()
    expect(await ask(never, key, { skus: ['soap'] })).toMatchObject({ body: { status: 'notApplicable' } })
    expect(await findRun(key)).toMatchObject({ status: 'waiting', lease_until: null })
    const refused = newKey()
    await expect(ask(never, refused, { quantity: 11 })).rejects.toThrow(InvalidError)
    expect(await findRun(refused)).toBeUndefined()
  })

  it('goes on with the lines that are missing, and tells those delivered before as they were', async () => {
    const asked: number[][] = []
    const stock = (coffee: string): Work => {
      return async (_steps, _run, lines) => {
        asked.push(lines.map((line) => line.lineIndex))
        return all(lines, ({ sku }) => (sku === 'coffee' ? coffee : 'ok'))
      }
    }
    const key = newKey()
    const skus = ['tea', 'coffee', 'soap']
    expect(await ask(stock('insufficientStock'), key, { skus })).toMatchObject({ body: { status: 'partial' } })
    expect(await findRun(key)).toMatchObject({ status: 'partial', completed_at: null, lease_until: null })
    expect((await ask(stock('ok'), key, { skus })).body.lines).toMatchObject([
      { status: 'ok' },
      { status: 'ok' },
      { status: 'notMapped' },
    ])
    expect(asked).toEqual([[0, 1], [1]])
  })

  it('says why nothing was delivered', async () => {
    const answer = async (...statuses: string[]) => {
      const work: Work = async (_steps, _run, lines) => all(lines, ({ lineIndex }) => statuses[lineIndex]!)
      return (await ask(work, newKey(), { skus: ['tea', 'coffee'].slice(0, statuses.length) })).body.status
    }
    expect(await answer('insufficientStock')).toBe('insufficientStock')
    expect(await answer('error', 'depleted')).toBe('depleted')
    expect(await answer('ambiguous', 'error')).toBe('ambiguous')
    expect(await answer('unknownProduct')).toBe('error')
  })

  it.each<[string, Work]>([
    ['forgets a line', async (_steps, _run, lines) => all(lines.slice(1))],
    ['answers a line twice', async (_steps, _run, lines) => [...all(lines), ...all(lines.slice(1))]],
    [
      'answers a line that nobody asked for',
      async (_steps, _run, lines) => [...all(lines), { ...all(lines)[0]!, lineIndex: 7 }],
    ],
  ])('believes no adapter that %s', async (_what, work) => {
    const key = newKey()
    await expect(ask(work, key, { skus: ['tea', 'coffee'] })).rejects.toThrow('the adapter was asked for lines 0,1')
    expect(await findRun(key)).toMatchObject({ status: 'error' })
  })
})

describe('a run by steps that failed', () => {
  it('fulfilment:F-28 is executed again, from the step that failed', async () => {
    const taken: string[] = []
    let broken = true
    const work: Work = async (steps, _run, lines) => {
      const label = await steps.once('label', async () => {
        taken.push('label')
        return { id: 7 }
      })
      await steps.once(`send ${label.id}`, async () => {
        taken.push('send')
        if (broken) throw new Error('the van\0broke down\nfar away')
        return null
      })
      return all(lines)
    }
    const key = newKey()
    await expect(ask(work, key)).rejects.toThrow('broke down')
    expect(await findRun(key)).toMatchObject({
      status: 'error',
      last_error: 'the van\ufffdbroke down',
      lease_until: null,
      sealed_response: null,
    })
    broken = false
    expect(await ask(work, key)).toMatchObject({ httpStatus: 200, body: { status: 'ok' } })
    expect(taken).toEqual(['label', 'send', 'send'])
    expect(await findRun(key)).toMatchObject({ status: 'ok', attempts: 2, last_error: null })
  })

  it('may take a step again in the same attempt, and takes one step for two who ask for it at once', async () => {
    let times = 0
    const flaky = () => {
      times += 1
      return times === 1 ? Promise.reject(new Error('once')) : Promise.resolve(times)
    }
    const results: unknown[] = []
    const work: Work = async (steps, _run, lines) => {
      await steps.once('flaky', flaky).catch(() => {})
      results.push(...(await Promise.all([steps.once('flaky', flaky), steps.once('flaky', flaky)])))
      return all(lines)
    }
    expect(await ask(work, newKey())).toMatchObject({ body: { status: 'ok' } })
    expect(results).toEqual([2, 2])
  })

  it('is recorded, though the database was away for a moment', async () => {
    const secrets = openSecretBox(SECRETS_KEY)
    let silent = 2
    const seal: typeof secrets.seal = (text, place) => {
      if (silent-- > 0) throw new Error('connection lost')
      return secrets.seal(text, place)
    }
    const key = newKey()
    expect(await ask(deliver, key, { secrets: { ...secrets, seal } })).toMatchObject({ body: { status: 'ok' } })
    expect(await findRun(key)).toMatchObject({ status: 'ok' })
  })

  it('gives a later attempt what a step gave, whatever it was', async () => {
    await fc.assert(
      fc.asyncProperty(fc.jsonValue({ maxDepth: 2 }), async (value) => {
        const given = JSON.parse(JSON.stringify(value)) as StepResult
        const seen: unknown[] = []
        const attempt = (fails: boolean): Work => {
          return async (steps, _run, lines) => {
            seen.push(await steps.once('give', async () => (fails ? given : 'taken twice')))
            if (fails) throw new Error('again')
            return all(lines)
          }
        }
        const key = newKey()
        await expect(ask(attempt(true), key)).rejects.toThrow('again')
        await ask(attempt(false), key)
        expect(seen).toEqual([given, given])
      }),
      { numRuns: 40, examples: [['\0'], [null], [{ half: '\ud83d' }]] },
    )
  })
})

describe('a run whose process is gone or slow', () => {
  it('is taken over when its lease is over; the slow one is fenced off, and nothing it does after that counts', async () => {
    const stepAfter = signal()
    const fenced: unknown[] = []
    const { work, started, release } = held(async (steps, _run, lines) => {
      for (const name of ['book', 'its own']) {
        await steps.once(name, () => Promise.resolve('slow')).catch((error: unknown) => fenced.push(error))
      }
      stepAfter.give()
      return all(lines, () => 'depleted')
    })
    const key = newKey()
    const slow = ask(work, key)
    await started
    await endLease(key)
    const second = held(deliver)
    const taking = ask(second.work, key)
    await second.started
    release()
    await stepAfter.given
    expect(fenced).toMatchObject([expect.any(LeaseLostError), expect.any(LeaseLostError)])
    expect(await slow).toMatchObject({ httpStatus: 202, body: { status: 'inProgress' } })
    expect(await findRun(key)).toMatchObject({ status: 'started', attempts: 2 })
    second.release()
    expect(await taking).toMatchObject({ httpStatus: 200, body: { status: 'ok' } })
    expect(await stepsOf(key)).toEqual([
      ['book', 'book'],
      ['send', 'send'],
    ])
  })

  it('keeps the record of its step from a slow one that was taken over while it was in it', async () => {
    const [inStep, go] = [signal(), signal()]
    let lost: unknown
    const key = newKey()
    const slow = ask(async (steps, _run, lines) => {
      await steps
        .once('book', async () => {
          inStep.give()
          await go.given
          return 'slow'
        })
        .catch((error: unknown) => (lost = error))
      return all(lines)
    }, key)
    await inStep.given
    await endLease(key)
    const second = held(deliver)
    const taking = ask(second.work, key)
    await second.started
    go.give()
    expect(await slow).toMatchObject({ httpStatus: 202 })
    expect(lost).toBeInstanceOf(LeaseLostError)
    expect(await stepsOf(key)).toEqual([])
    second.release()
    expect(await taking).toMatchObject({ httpStatus: 200, body: { status: 'ok' } })
  })

  it('is told by its signal that it was taken over', async () => {
    const begun = signal()
    const key = newKey()
    const slow = ask(
      async (steps) => {
        begun.give()
        await once(steps.signal, 'abort')
        throw steps.signal.reason
      },
      key,
      { leaseMs: 300 },
    )
    await begun.given
    await sql`update fulfillment_runs set attempts = attempts + 1 where run_key = ${key}`.execute(database.db)
    expect(await slow).toMatchObject({ httpStatus: 202 })
    expect(await findRun(key)).toMatchObject({ status: 'started', last_error: null })
  })

  it.each([
    ['adapter.stepStored', 'with its first step on record, it goes on with the second'],
    ['adapter.stepTaken', 'with its first step taken and not on record, it looks, and does nothing twice'],
    ['adapter.delivered', 'with all steps on record and no answer, it answers'],
  ])('killed as kill -9 would at %s, %s', async (failpoint) => {
    const key = newKey()
    const { child } = await startCourier(key, { FAILPOINT: failpoint })
    expect(await child.exited).toEqual({ code: null, signal: 'SIGKILL' })
    expect(world.of(key)).toEqual(failpoint === 'adapter.delivered' ? ['book', 'send'] : ['book'])
    expect((await stepsOf(key)).length).toBe({ stepTaken: 0, stepStored: 1, delivered: 2 }[failpoint.split('.')[1]!])

    const answer = await until('its lease is over', async () => {
      const { httpStatus, body } = await ask(deliver, key)
      return httpStatus === 200 && body
    })
    expect(answer).toMatchObject({ status: 'ok', message: null })
    expect(world.of(key)).toEqual(['book', 'send'])
    expect(await findRun(key)).toMatchObject({ status: 'ok', attempts: 2 })
  })

  it('frozen longer than its lease, does nothing more when it wakes up', async () => {
    const key = newKey()
    void world.hold()
    const { child, lines } = await startCourier(key, {})
    await until('it is in its first step', () => world.of(key).length > 0)
    process.kill(child.pid, 'SIGSTOP')
    world.release()
    const second = held(deliver)
    const taking = until('its lease is over', async () => {
      const answer = await ask(second.work, key)
      return answer.httpStatus === 200 && answer
    })
    await second.started
    process.kill(child.pid, 'SIGCONT')
    expect(await child.exited).toEqual({ code: 0, signal: null })
    expect(JSON.parse(lines.at(-1)!)).toMatchObject({ httpStatus: 202, body: { status: 'inProgress' } })
    expect(world.of(key)).toEqual(['book'])
    second.release()
    expect(await taking).toMatchObject({ body: { status: 'ok' } })
    expect(world.of(key)).toEqual(['book', 'send'])
  })
})

/** A process of its own that works on one run, prints the answer and ends. */
async function startCourier(key: string, env: NodeJS.ProcessEnv) {
  const program = `
    import { FulfillmentRequest } from '@market/contracts/fulfillment'
    import { openDatabase } from '@market/kit/db'
    import { failpointOf } from '@market/kit/failpoint'
    import { createLog } from '@market/kit/log'
    import { runOnce } from '@market/adapter-kit/runGate'
    import { openSecretBox } from '@market/adapter-kit/secrets'
    import { runsUnderWay } from '@market/adapter-kit/steps'
    const courier = ${courier.toString()}
    const { DATABASE, WORLD, BODY, SELLER, SECRETS_KEY, FAILPOINT } = process.env
    const { db, close } = openDatabase(DATABASE, { name: 'courier' })
    const request = FulfillmentRequest.parse(JSON.parse(BODY))
    const { orderId, paymentReference, idempotencyKey: key } = request
    const gate = {
      adapter: { resultType: 'circles:CourierResult', maxQuantity: 10 },
      delivery: {
        findMappings: async (db, chainId, seller, skus) => new Map(skus.map((sku) => [sku, sku])),
        summarize: () => ({}),
        fulfillBySteps: (steps, run, lines) => courier(WORLD, steps, run, lines),
      },
      db,
      secrets: openSecretBox(SECRETS_KEY),
      log: createLog('courier', 'fatal'),
      failpoint: failpointOf(FAILPOINT),
      runs: runsUnderWay(),
      budgetMs: 30_000,
      leaseMs: 2000,
    }
    console.log(JSON.stringify(await runOnce(gate, { key, chainId: 100, seller: SELLER, orderId, paymentReference, request })))
    await close()`
  const lines: string[] = []
  const child = await spawnTethered({
    command: process.execPath,
    args: ['--input-type=module', '--eval', program],
    cwd: new URL('..', import.meta.url).pathname,
    env: {
      PATH: process.env.PATH,
      DATABASE: home.url,
      WORLD: world.url,
      BODY: JSON.stringify(bodyOf(key)),
      SELLER,
      SECRETS_KEY,
      ...env,
    },
    stopSignal: 'SIGTERM',
    onLine: (line) => lines.push(line),
  })
  children.push(child)
  return { child, lines }
}

describe('the time of a run', () => {
  it('is bounded: a work that listens ends in error and is executed again when asked again', async () => {
    const key = newKey()
    const begun = signal()
    const work: Work = async (steps) => {
      begun.give()
      await once(steps.signal, 'abort')
      throw steps.signal.reason
    }
    const answering = ask(work, key, { budgetMs: 200, waitMs: 50 })
    await begun.given
    expect(await answering).toMatchObject({
      httpStatus: 202,
      body: { status: 'inProgress', message: 'Still in progress' },
    })
    const run = await until('the run has ended', async () => {
      const found = await findRun(key)
      return found?.status === 'error' && found
    })
    expect(run).toMatchObject({ last_error: 'no end within 200 ms', lease_until: null })
    expect(await ask(deliver, key)).toMatchObject({ httpStatus: 200, body: { status: 'ok' } })
  })

  it('is bounded: a work that does not listen is given up a lease later, and takes no step after that', async () => {
    const { work, started, release } = held(async (steps, _run, lines) => {
      late = await steps.once('late', () => Promise.resolve('taken')).catch((error: unknown) => error)
      return all(lines)
    })
    let late: unknown
    const key = newKey()
    expect(await ask(work, key, { budgetMs: 100, leaseMs: 2000 })).toMatchObject({ httpStatus: 202 })
    await started
    expect(await ask(deliver, key)).toMatchObject({ httpStatus: 202 })
    await until('the run has ended', async () => (await findRun(key))?.status === 'error')
    release()
    expect(await until('the work went on', () => late)).toMatchObject({ message: 'no end within 100 ms' })
    expect(await stepsOf(key)).toEqual([])
  })

  it('over, still has what was under way recorded', async () => {
    const key = newKey()
    const work: Work = async (steps, _run, lines) => {
      await steps.once('book', async () => {
        await once(steps.signal, 'abort')
        return 'done late'
      })
      return all(lines)
    }
    expect(await ask(work, key, { budgetMs: 200, waitMs: 50 })).toMatchObject({ httpStatus: 202 })
    await until('the run has ended', async () => (await findRun(key))?.status === 'ok')
    expect(await stepsOf(key)).toEqual([['book', 'done late']])
  })

  it('is longer than a caller has to wait', async () => {
    const { work, release } = held()
    const key = newKey()
    expect(await ask(work, key, { waitMs: 50 })).toMatchObject({ httpStatus: 202 })
    release()
    const answer = await until('the run has ended', async () => {
      const { httpStatus, body } = await ask(deliver, key)
      return httpStatus === 200 && body
    })
    expect(answer).toMatchObject({ status: 'ok', message: 'Already processed' })
    expect(world.of(key)).toEqual([])
  })
})

describe('stopping', () => {
  it('waits for the runs under way', async () => {
    const runs = runsUnderWay()
    const { work, started, release } = held()
    const key = newKey()
    const answer = ask(work, key, { runs, waitMs: 10 })
    await started
    expect(await answer).toMatchObject({ httpStatus: 202 })
    let drained = false
    const draining = runs.drain(20_000).then(() => (drained = true))
    expect(await findRun(key)).toMatchObject({ status: 'started' })
    expect(drained).toBe(false)
    release()
    await draining
    expect(await findRun(key)).toMatchObject({ status: 'ok' })
  })

  it('gives back those that take too long, for the next process to go on with', async () => {
    const runs = runsUnderWay()
    const begun = signal()
    const work: Work = async (steps) => {
      await steps.once('first', () => Promise.resolve(1))
      begun.give()
      await once(steps.signal, 'abort')
      throw steps.signal.reason
    }
    const key = newKey()
    const answering = ask(work, key, { runs })
    await begun.given
    const refused = expect(answering).rejects.toThrow('the adapter was stopped')
    await runs.drain(50)
    await refused
    expect(await findRun(key)).toMatchObject({ status: 'error', last_error: 'the adapter was stopped' })
    expect(await ask(deliver, key)).toMatchObject({ httpStatus: 200, body: { status: 'ok' } })
    expect((await stepsOf(key)).map(([step]) => step)).toEqual(['first', 'book', 'send'])
  })
})

it('a failure to begin does not spoil the run that took its place before it was written', async () => {
  // With one connection the second caller is first in the queue when the first lets go of it.
  const single = openDatabase<RunsDatabase>(home.url, { name: 'test', poolSize: 1 })
  try {
    const [looking, looked] = [signal(), signal()]
    const failing = gateOf(deliver, { db: single.db })
    failing.delivery = {
      ...failing.delivery,
      async findMappings() {
        looking.give()
        await looked.given
        throw new Error('too late')
      },
    }
    const key = newKey()
    const { orderId, paymentReference, ...request } = FulfillmentRequest.parse(bodyOf(key))
    const run = { key, chainId: 100, seller: SELLER, orderId, paymentReference }
    const first = runOnce(failing, { ...run, request: { orderId, paymentReference, ...request } })
    await looking.given
    const { work, started, release } = held()
    const second = ask(work, key, { db: single.db })
    looked.give()
    await expect(first).rejects.toThrow('too late')
    await started
    expect(await findRun(key)).toMatchObject({ status: 'started', attempts: 1, last_error: null })
    release()
    expect(await second).toMatchObject({ httpStatus: 200, body: { status: 'ok' } })
  } finally {
    await single.close()
  }
})

describe('over HTTP', () => {
  async function serve(work: Work, more: Partial<Gate<RunsDatabase, string, LineResult>> = {}) {
    const metrics = createMetrics('test')
    const app = adapterApp({ ...gateOf(work, more), serviceKey: SERVICE_KEY, metrics, stopping: () => false })
    const server = await listen(app, 0, 'PORT', '127.0.0.1')
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    return {
      post: (key: string, init: RequestInit = {}, body: object = bodyOf(key)) =>
        fetch(`${url}/fulfill/100/${SELLER}`, {
          method: 'POST',
          headers: { 'X-Circles-Service-Key': SERVICE_KEY },
          body: JSON.stringify(body),
          ...init,
        }),
      metrics: async () => (await fetch(`${url}/metrics`)).text(),
      async [Symbol.asyncDispose]() {
        server.closeAllConnections()
        await once(server.close(), 'close')
      },
    }
  }

  it('fulfilment:F-31 adapters:A-12 leaves no run of a caller without the key', async () => {
    await using adapter = await serve(deliver)
    const key = newKey()
    expect((await adapter.post(key, { headers: {} })).status).toBe(401)
    expect((await adapter.post(key, { headers: { 'X-Circles-Service-Key': 'another' } })).status).toBe(401)
    expect(await findRun(key)).toBeUndefined()
    expect(world.of(key)).toEqual([])
  })

  it('fulfilment:F-25 hands the request to the adapter, read as the older adapters read it', async () => {
    let seen: unknown
    const work: Work = async (_steps, { request }, lines) => {
      seen = { request, lines }
      return all(lines)
    }
    await using adapter = await serve(work)
    const key = newKey()
    const body = {
      ...bodyOf(key),
      Items: [{ SKU: ' ABC ', Quantity: '2' }],
      items: undefined,
      trigger: ' Finalized ',
      buyer: null,
      Customer: { name: 'Ada Lovelace', GivenName: 'Ada', familyName: null, birthDate: '1815-12-10' },
      shippingaddress: { '@type': 'PostalAddress', streetAddress: 'Main St 1', addressCountry: 'DE' },
      billingAddress: null,
      contactPoint: { EMAIL: 'ada@example.org' },
    }
    const response = await adapter.post(key, {}, body)
    expect([response.status, await response.json()]).toMatchObject([
      200,
      { status: 'ok', lines: [{ sku: 'abc', quantity: 2 }] },
    ])
    expect(seen).toEqual({
      lines: [{ lineIndex: 0, sku: 'abc', quantity: 2, mapping: 'abc' }],
      request: {
        orderId: 'ord_1',
        paymentReference: 'pay_1',
        items: [{ sku: 'abc', quantity: 2 }],
        trigger: 'finalized',
        idempotencyKey: key,
        buyer: null,
        customer: { name: 'Ada Lovelace', givenName: 'Ada', familyName: null },
        shippingAddress: { streetAddress: 'Main St 1', addressCountry: 'DE' },
        billingAddress: null,
        contactPoint: { email: 'ada@example.org' },
      },
    })
    // Where to is not what: without it, or with another, it is the same request.
    const replayed = await adapter.post(key, {}, { ...body, Customer: { name: 'Ada King' }, shippingaddress: null })
    expect(await replayed.json()).toMatchObject({ message: 'Already processed' })
  })

  it.each<[string, Work]>([
    ['ok', async (_steps, _run, lines) => all(lines)],
    ['error', () => Promise.reject(new Error('no van'))],
  ])('fulfilment:F-30 ends %s when the client has hung up', async (status, then) => {
    const { work, started, release } = held(then)
    await using adapter = await serve(work)
    const key = newKey()
    const hangUp = new AbortController()
    const asking = adapter.post(key, { signal: hangUp.signal })
    await started
    hangUp.abort()
    await expect(asking).rejects.toThrow()
    release()
    await until('the run has ended', async () => (await findRun(key))?.status === status)
  })

  it('says when to come again, and measures runs whether or not somebody waited', async () => {
    const { work, release } = held()
    await using adapter = await serve(work, { waitMs: 20 })
    const key = newKey()
    for (let i = 0; i < 2; i++) {
      const response = await adapter.post(key)
      expect([response.status, response.headers.get('retry-after')]).toEqual([202, '1'])
    }
    expect(await adapter.metrics()).toMatch(/^adapter_run_seconds_count\{.*\} 0$/m)
    release()
    await until('the run is measured', async () => /^adapter_run_seconds_count\{.*\} 1$/m.test(await adapter.metrics()))
    expect(await (await adapter.post(key)).json()).toMatchObject({ status: 'ok', message: 'Already processed' })
  })
})
