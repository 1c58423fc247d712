import { ErrorBody, Problem } from '@market/contracts/marketApi/errors'
import { until } from '@market/testkit/until'
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { publicApp } from '../src/http/publicApp.ts'
import { operations } from '../src/openapi/document.ts'
import type { Operation } from '../src/openapi/operation.ts'
import { departure, findOperation } from './documented.ts'
import {
  type Answer,
  answersIn,
  type Asked,
  bodyOf,
  createClient,
  type Plan,
  planOf,
  rawPath,
  rawRequests,
  sendRaw,
  type Slot,
  sweepOf,
} from './fuzzRequests.ts'
import { type FuzzWorld, startFuzzWorld } from './fuzzWorld.ts'

/** FUZZ_RUNS: so many times as many requests. The same FUZZ_SEED sends the same ones, but for ids. */
const TIMES = Number(process.env.FUZZ_RUNS ?? 1)
const SEED = Number(process.env.FUZZ_SEED ?? 4)
const TIMEOUT_MS = 60_000 * Math.max(1, TIMES)
const runs = (numRuns: number) => ({
  seed: SEED,
  numRuns: Math.ceil(numRuns * TIMES),
  // A hang takes its time again with each try to make it smaller.
  interruptAfterTimeLimit: TIMEOUT_MS - 10_000,
  markInterruptAsFailure: true,
})

let world: FuzzWorld
let client: ReturnType<typeof createClient>
let rowsOfVera: unknown[]
/** What the market wrote into its log. */
let log = ''
const trouble: unknown[] = []
const onTrouble = (error: unknown) => void trouble.push(error)

beforeAll(async () => {
  vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    log += String(chunk)
    return true
  })
  process.on('unhandledRejection', onTrouble)
  process.on('uncaughtException', onTrouble)
  world = await startFuzzWorld()
  client = createClient(world.url)
  rowsOfVera = await world.rowsOfVera()
})
afterAll(async () => {
  process.off('unhandledRejection', onTrouble)
  process.off('uncaughtException', onTrouble)
  client?.close()
  await world?.close()
  vi.restoreAllMocks()
})

const routes = operations.flatMap((operation) =>
  [operation.path, ...(operation.aliases ?? [])].map((path) => ({ path, operation })),
)

describe("no request breaks the market, or makes it say what is nobody else's business:", () => {
  it('every route of the market is asked, every path parameter has values', () => {
    const served = publicApp(world.ctx, async () => []).routes.filter(({ method }) => method !== 'ALL')
    const asked = new Set(routes.map(({ path, operation }) => `${operation.method.toUpperCase()} ${path}`))
    for (const { method, path } of served) {
      expect(asked).toContain(`${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`)
      for (const [, name] of path.matchAll(/:(\w+)/g)) expect(world.known).toHaveProperty([name!])
    }
  })

  it.each(operations.map((operation) => [operation.id, operation] as const))(
    '%s, one thing wrong at a time',
    async (id, operation) => {
      const bodies = (await world.bodiesOf(id)).slice(0, 2)
      const plans = sweepOf(operation, bodies, world.callerOf(id), world.cursors)
      for (const [i, plan] of plans.entries()) {
        const asked = await requestOf(plan, operation.path, operation)
        const answer = await client.ask(asked)
        // Conflict: it is the right one, and not in the right state.
        if (i === 0) expect(answer.status === 409 ? 200 : answer.status, answer.text).toBeLessThan(400)
        expectGood(asked, answer, operation)
      }
    },
    TIMEOUT_MS,
  )

  it.each(operations.filter(({ path }) => /\{(basketId|orderId)\}/.test(path)).map((one) => [one.id, one] as const))(
    "%s, of what is Vera's, by others and with forged tokens",
    async (id, operation) => {
      const [right] = sweepOf(operation, await world.bodiesOf(id), 0)
      const names = Object.keys(right!.params)
      const choices = names.reduce<Record<string, Slot>[]>(
        (all, name) => all.flatMap((one) => world.hers[name]!.map((raw) => ({ ...one, [name]: { raw } }))),
        [{}],
      )
      for (const params of choices) {
        for (const caller of world.identities.keys()) {
          const basketToken = caller % 2 === 0 ? 'none' : 'right'
          const asked = await requestOf({ ...right!, params, caller, basketToken }, operation.path, operation)
          const answer = await client.ask(asked)
          expect([401, 403, 404], `${asked.headers.join()} ${answer.text}`).toContain(answer.status)
          expectGood(asked, answer, operation)
        }
      }
    },
  )

  it.each(routes.map(({ path, operation }) => [operation.method.toUpperCase(), path, operation] as const))(
    '%s %s',
    async (_, path, operation) => {
      await fc.assert(
        fc.asyncProperty(planOf(operation, path), async (plan) => {
          const asked = await requestOf(plan, path, operation)
          const answer = await client.ask(asked)
          expectGood(asked, answer, operation)
        }),
        // Where nothing can be wrong but headers, there is little to try.
        runs(/\{/.test(path) || operation.body || operation.query ? 50 : 15),
      )
    },
    TIMEOUT_MS,
  )

  it(
    'any path, by any method',
    async () => {
      const method = fc.constantFrom('GET', 'POST', 'HEAD', 'OPTIONS', 'DELETE', 'PROPFIND', 'M-SEARCH')
      await fc.assert(
        fc.asyncProperty(method, rawPath, async (verb, target) => {
          const asked = { method: verb, target, headers: [], body: undefined, isChunked: false }
          expectGood(asked, await client.ask(asked))
        }),
        runs(150),
      )
    },
    TIMEOUT_MS,
  )

  it(
    'bytes that are no request',
    async () => {
      await fc.assert(
        fc.asyncProperty(rawRequests, async (several) => {
          const received = await Promise.all(several.map((bytes) => sendRaw(world.url, bytes)))
          for (const [i, text] of received.entries()) {
            const { answers, rest } = answersIn(text)
            const asked = { method: 'RAW', target: JSON.stringify(several[i]) }
            if (rest !== '') throw new Error(`${asked.target} got what is no answer: ${rest.slice(0, 300)}`)
            for (const answer of answers) expectGood(asked, answer)
          }
        }),
        runs(30),
      )
    },
    TIMEOUT_MS,
  )
})

describe('after all of it', () => {
  it('the market is well, nothing was left open, and Object is as it was', async () => {
    const health = await fetch(`${world.url}/health`)
    expect([health.status, await health.json()]).toEqual([200, { ok: true, checks: { postgres: 'ok' } }])
    const { ctx } = world
    // One that was not given back is not there for this.
    const pids = await Promise.all(
      Array.from({ length: ctx.config.POSTGRES_POOL_SIZE }, () =>
        sql<{ pid: number }>`select pg_backend_pid() as pid, pg_sleep(0.3)`.execute(ctx.db),
      ),
    )
    expect(new Set(pids.map(({ rows }) => rows[0]!.pid)).size).toBe(ctx.config.POSTGRES_POOL_SIZE)
    await until('streams to end', async () => {
      const { values } = await ctx.metrics.sseStreams.get()
      return values.every(({ value }) => value === 0)
    })
    expect([Object.keys(Object.prototype), ({} as { polluted?: unknown }).polluted]).toEqual([[], undefined])
    expect(trouble).toEqual([])
  })

  it("nobody has changed or read what is Vera's", async () => {
    expect(rowsOfVera.length).toBeGreaterThan(10)
    expect(await world.rowsOfVera()).toEqual(rowsOfVera)
  })

  it('nothing failed by the log, and it keeps the secrets too', () => {
    const lines = log.split('\n').filter((line) => line.startsWith('{'))
    expect(lines.length).toBeGreaterThan(routes.length)
    expect(lines.filter((line) => /"level":"error"|request failed/.test(line))).toEqual([])
    expect(lines.filter((line) => world.secrets.some((secret) => line.includes(secret)))).toEqual([])
  })
})

/** The request of a plan, with what this market has in it. */
async function requestOf(plan: Plan, path: string, operation: Operation): Promise<Asked> {
  const fill = async (name: string, slot: Slot) => {
    if ('raw' in slot) return slot.raw
    const values = (Object.hasOwn(world.known, name) && world.known[name]) || ['1', 'true', '100']
    const value = values[slot.known % values.length]!
    const text = encodeURIComponent(typeof value === 'string' ? value : await value())
    if (!slot.bent) return text
    const at = slot.bent.at % (text.length + 1)
    return text.slice(0, at) + slot.bent.by + text.slice(at + 1)
  }
  let target = path
  for (const [name, slot] of Object.entries(plan.params)) {
    const text = await fill(name, slot)
    target = target.replace(`{${name}}`, () => text)
  }
  const query: string[] = []
  for (const [name, slot] of plan.query) query.push(`${name}=${await fill(name, slot)}`)
  const authorization = world.callers[plan.caller % world.callers.length]
  const headers = [...plan.headers]
  if (authorization !== undefined) headers.push(['Authorization', authorization])
  if (plan.basketToken !== 'none')
    headers.push(['X-Basket-Token', plan.basketToken === 'right' ? world.basketToken : 'x'])
  return {
    method: plan.method,
    target: query.length > 0 ? `${target}?${query.join('&')}` : target,
    headers,
    body: plan.body && bodyOf(plan.body, await world.bodiesOf(operation.id)),
    isChunked: plan.isChunked,
  }
}

/** What nobody outside is told: how we are made, and what we asked our database. */
const INNARDS = [
  /node_modules/,
  /\.[tj]s:[0-9]+/,
  /\bat (async )?[\w.<>]+ \(/,
  /\b(Type|Range|Reference|Syntax|Zod|Database|Aggregate)Error\b/,
  /\bselect\b.{1,200}\bfrom\b/is,
  /\b(insert into|delete from)\b/i,
  /\brelation "|syntax error at|violates .* constraint|invalid byte sequence|invalid input syntax|out of range for type/,
  /\b(connect|read|write|getaddrinfo) E[A-Z]{3}/,
]
/** What was meant to be a text. */
const NO_TEXT = /\[object Object\]|\bundefined\b|\bNaN\b/

/** Answers that tell of somebody else's fault: the chain is not there, and some skus belong to a broken system. */
const isFaulted = (code: string, target: string) =>
  ['chain_unavailable', 'loop_detected'].includes(code) || (target.includes('fault-') && code.startsWith('upstream_'))

type Sent = Pick<Asked, 'method' | 'target'> & Partial<Asked>

function expectGood(sent: Sent, answer: Answer, operation?: Operation): void {
  const faults = faultsOf(sent, answer, operation)
  if (faults.length === 0) return
  const { method, target, headers = [], body = '' } = sent
  const lines = [
    ...faults,
    `${method} ${target}`,
    ...headers.map(([name, value]) => `${name}: ${value.slice(0, 100)}`),
    body.toString().slice(0, 2000),
    `${answer.status} ${JSON.stringify(answer.headers)}`,
    answer.text.slice(0, 2000),
  ]
  throw new Error(lines.join('\n'))
}

function faultsOf({ method, target, body: sent }: Sent, answer: Answer, operation?: Operation): string[] {
  const { status, headers, text } = answer
  const type = headers['content-type']?.split(';', 1)[0]
  const told = `${JSON.stringify(headers)}\n${text}`
  const faults = world.secrets.filter((secret) => told.includes(secret)).map((secret) => `it has «${secret}» in it`)
  // The document, its page and the figures are about such things.
  const forms = operation?.tag === 'Service' && status < 400 ? [] : INNARDS
  faults.push(...forms.filter((form) => form.test(told)).map((form) => `it looks like ${form}`))
  if (forms.length > 0 && !sent?.length && NO_TEXT.test(told) && !NO_TEXT.test(target)) faults.push('it is no text')

  // `..` and the like lead to another operation.
  const url = `http://market${target}`
  const found = URL.canParse(url) ? findOperation(method, new URL(url).pathname) : undefined
  const isOwn = operation !== undefined && found === operation
  if (method === 'HEAD') return status === 500 ? [...faults, 'a fault of ours'] : faults
  if (status < 400) {
    const schema = isOwn ? operation.answers[status]?.schema : undefined
    const wrong = schema && departure(schema, JSON.parse(text))
    return wrong === undefined ? faults : [...faults, `not as the document says: ${wrong}`]
  }
  let body: { code: string; requestId: string }
  try {
    body = JSON.parse(text)
  } catch {
    return [...faults, 'an error without a body']
  }
  const isProblem = type === 'application/problem+json'
  if (!isProblem && type !== 'application/ld+json') faults.push(`an error of type ${type}`)
  if (isOwn && body.code !== 'bad_request' && isProblem !== (operation.problems ?? false))
    faults.push('the wrong shape')
  const wrong = departure(isProblem ? Problem : ErrorBody, body)
  if (wrong !== undefined) faults.push(`no error as documented: ${wrong}`)
  if (body.requestId !== headers['x-request-id']) faults.push('requestId is not X-Request-Id')
  if (status >= 500 && !isFaulted(body.code, target)) faults.push('a fault of ours')
  const isKnown = [operation, found].some((one) => one?.errors[status]?.includes(body.code as never))
  if (operation && !isKnown && !EVERYWHERE.has(`${status} ${body.code}`)) faults.push('not in the document')
  return faults
}

/** Of any request, whatever it asks for. */
const EVERYWHERE = new Set([
  '404 not_found',
  '405 method_not_allowed',
  '400 bad_request',
  '431 headers_too_large',
  '413 body_too_large',
])
