import type { LineResult } from '@market/contracts/fulfillment'
import { inTransaction } from '@market/kit/db'
import type { Transaction } from 'kysely'
import type { Delivery, Run } from './adapter.ts'
import {
  answerOf,
  type Begun,
  beginAlone,
  beginRuns,
  deliveredBefore,
  type Earlier,
  type Gate,
  planLines,
  replyOf,
  type RunsDatabase,
  runsOf,
  skusToFind,
  storeAnswers,
} from './runGate.ts'

const MAX_RUNS = 32
/** Who waits longer for somebody's lock waits by himself: those who came with him may want something else. */
const LOCK_TIMEOUT = '250ms'
/** Transactions at a time. What comes while all are busy waits for the next, and goes together. */
const AT_ONCE = 3

type Caller<Mapping, Result> = {
  run: Run
  requestHash: string
  resolve: (begun: Begun<Mapping, Result>) => void
  reject: (error: unknown) => void
}

/**
 * Has runs that come at the same moment begin, deliver and end in one transaction: a tenth of the ways to the database, and one
 * commit. A run by itself goes as it always does; so does each of those whose transaction came to nothing, whoever's fault
 * it was. Runs of one key never share a transaction.
 */
export function createTogether<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  gate: Gate<DB, Mapping, Result>,
): (run: Run, requestHash: string) => Promise<Begun<Mapping, Result>> {
  let waiting: Caller<Mapping, Result>[] = []
  let busy = 0

  const takeSome = () => {
    const taken = new Map<string, Caller<Mapping, Result>>()
    waiting = waiting.filter((caller) => {
      if (taken.size === MAX_RUNS || taken.has(caller.run.key)) return true
      taken.set(caller.run.key, caller)
      return false
    })
    return [...taken.values()]
  }

  const work = async () => {
    busy += 1
    while (waiting.length > 0) await beginSome(gate, takeSome())
    busy -= 1
  }

  return (run, requestHash) =>
    new Promise((resolve, reject) => {
      waiting.push({ run, requestHash, resolve, reject })
      if (busy < AT_ONCE) void work()
    })
}

/** Answers all of them, one way or the other. Never throws. */
async function beginSome<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  gate: Gate<DB, Mapping, Result>,
  callers: Caller<Mapping, Result>[],
): Promise<void> {
  if (callers.length > 1) {
    const answers = await inTransaction(runsOf(gate.db), (tx) => beginTogether(gate, tx, callers)).catch(
      () => undefined,
    )
    if (answers) {
      for (const [i, { resolve, reject }] of callers.entries()) {
        const answer = answers[i]!
        if ('error' in answer) reject(answer.error)
        else resolve(answer)
      }
      return
    }
  }
  await Promise.all(
    callers.map(({ run, requestHash, resolve, reject }) => beginAlone(gate, run, requestHash).then(resolve, reject)),
  )
}

type Mine<Result> = { at: number; run: Run; attempt: number; before: Result[] }

async function beginTogether<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  gate: Gate<DB, Mapping, Result>,
  tx: Transaction<RunsDatabase>,
  callers: readonly Caller<Mapping, Result>[],
): Promise<(Begun<Mapping, Result> | { error: unknown })[]> {
  const earlier = await beginRuns(tx, callers, null, LOCK_TIMEOUT)
  const answers = callers.map(({ run }, i) => saidOf(gate, run, earlier[i]!))
  const mine = callers.flatMap(({ run }, at): Mine<Result>[] => {
    if (answers[at] !== undefined) return []
    const before = deliveredBefore<Result>(gate.secrets, run.key, earlier[at]!)
    return [{ at, run, attempt: earlier[at]!.attempt!, before }]
  })
  if (mine.length > 0) {
    const bodies = await deliver(gate, tx as never, mine)
    gate.failpoint('adapter.delivered')
    await storeAnswers(
      tx,
      gate.secrets,
      mine.map(({ run, attempt }, i) => ({ key: run.key, attempt, body: bodies[i]! })),
    )
    for (const [i, { at }] of mine.entries()) {
      answers[at] = { answer: { httpStatus: 200, body: bodies[i]! }, worked: true }
    }
  }
  return answers.map((answer) => answer!)
}

function saidOf<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  gate: Gate<DB, Mapping, Result>,
  run: Run,
  earlier: Earlier,
): Begun<Mapping, Result> | { error: unknown } | undefined {
  try {
    const answer = answerOf(gate, run, earlier)
    return answer && { answer, worked: false }
  } catch (error) {
    return { error }
  }
}

async function deliver<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  gate: Gate<DB, Mapping, Result>,
  tx: Transaction<DB>,
  mine: readonly Mine<Result>[],
): Promise<Record<string, unknown>[]> {
  const { delivery } = gate
  const mappings = await findAllMappings(delivery, tx, mine)
  const plans = mine.map(({ run, before }) => ({
    run,
    plan: planLines(gate, run, before, mappings.get(sellerOf(run))!),
  }))
  const asked = plans.filter(({ plan }) => plan.mapped.length > 0)
  if (!('fulfillTogether' in delivery && delivery.fulfillTogether))
    throw new Error('an adapter that delivers one by one')
  const results = await delivery.fulfillTogether(
    tx,
    asked.map(({ run, plan }) => ({ run, lines: plan.mapped })),
  )
  const fresh = new Map(asked.map(({ run }, i) => [run.key, results[i]!]))
  return plans.map(({ run, plan }) => replyOf(gate, run, plan, fresh.get(run.key) ?? []))
}

const sellerOf = ({ chainId, seller }: Run) => `${chainId}:${seller}`

/** By seller, each asked for once. */
async function findAllMappings<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  delivery: Delivery<DB, Mapping, Result>,
  tx: Transaction<DB>,
  mine: readonly Mine<Result>[],
): Promise<Map<string, Map<string, Mapping>>> {
  const found = new Map<string, Map<string, Mapping>>()
  for (const { run } of mine) {
    if (found.has(sellerOf(run))) continue
    const skus = mine.flatMap((one) => (sellerOf(one.run) === sellerOf(run) ? skusToFind(one.run, one.before) : []))
    found.set(sellerOf(run), await delivery.findMappings(tx, run.chainId, run.seller, [...new Set(skus)]))
  }
  return found
}
