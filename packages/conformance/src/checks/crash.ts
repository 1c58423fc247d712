import { spawn } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { type Check, Deviation, must, shortened, Untested } from '../check.ts'
import { type Answer, NoAnswerError } from '../httpCall.ts'
import { mustBeSameGoods, type Order, type Subject } from '../subject.ts'
import { codesOf } from './repeats.ts'

const ROUNDS = 3
const ORDERS_A_ROUND = 12
const GAP_MS = 4
/** Orders begin this long before the adapter is expected to die. */
const LEAD_MS = 25
const DEATH_MS = 15_000
const RESTART_MS = 60_000

type Sent = {
  order: Order
  answer: Answer | undefined
  /** When it died: the connection broke, or the work was to go on after a 202. */
  underWay: boolean
}

export const crashChecks: Check[] = [
  {
    id: 'crash',
    title: 'Killed in the middle of a delivery and started again, it delivers each key once',
    section: 'fulfilment.md 14, F-21, F-23; adapters.md 11',
    needs: ['sku', 'crashCommands'],
    units: ROUNDS * ORDERS_A_ROUND,
    async run(subject) {
      let dyingAfterMs = 0
      let underWay = 0
      for (let round = 1; round <= ROUNDS; round += 1) {
        const { sent, diedAfterMs, before } = await killUnderWay(subject, dyingAfterMs)
        dyingAfterMs = diedAfterMs
        await restart(subject)
        await mustHaveAll(subject, sent, before)
        underWay += sent.filter((one) => one.underWay).length
      }
      if (underWay === 0) throw new Untested(`${ROUNDS} times no delivery was under way when it died`)
    },
  },
]

/** Has the adapter killed while orders come in. `dyingAfterMs`: how long it took to die the last time. */
async function killUnderWay(subject: Subject, dyingAfterMs: number) {
  const before = await subject.stock()
  const killed = delay(Math.max(0, LEAD_MS - dyingAfterMs)).then(async () => {
    const at = performance.now()
    return { at, ending: runCommand(subject.target.killCommand!) }
  })
  await delay(Math.max(0, dyingAfterMs - LEAD_MS))
  const sent: Promise<Sent>[] = []
  const death = { noticed: false }
  while (sent.length < ORDERS_A_ROUND && !death.noticed) {
    const order = subject.newOrder()
    sent.push(
      subject.fulfil(order).then(
        (answer) => ({ order, answer, underWay: answer.status === 202 }),
        (error: unknown) => {
          if (!(error instanceof NoAnswerError)) throw error
          death.noticed ||= error.how !== 'late'
          return { order, answer: undefined, underWay: error.how === 'cut' }
        },
      ),
    )
    await delay(GAP_MS)
  }
  const { at, ending } = await killed
  while (!death.noticed && (await isUp(subject))) {
    if (performance.now() - at > DEATH_MS) {
      throw new Deviation('the adapter to be gone after --kill-command', `it still answers`)
    }
    await delay(10)
  }
  const diedAfterMs = performance.now() - at
  const { code, said } = await ending
  must(code === 0, '--kill-command to end with 0', `${code}. ${said}`)
  return { sent: await Promise.all(sent), diedAfterMs, before }
}

async function restart(subject: Subject): Promise<void> {
  const starting = launchCommand(subject.target.restartCommand!)
  const failed = starting.then(({ code, said }) => {
    if (code !== 0) throw new Deviation('--restart-command to end with 0', `${code}. ${said}`)
  })
  const deadline = Date.now() + RESTART_MS
  for (;;) {
    // A command that stays in the foreground is not waited for.
    await Promise.race([failed, delay(50)])
    if (await isUp(subject)) return
    must(
      Date.now() < deadline,
      `GET /health to be 200 within ${RESTART_MS / 1000} s of --restart-command`,
      'it was not',
    )
  }
}

/** All that was asked for is there, once, and what was told before the crash is told again. */
async function mustHaveAll(subject: Subject, sent: Sent[], before: number): Promise<void> {
  const codes: string[] = []
  for (const { order, answer } of sent) {
    const again = await subject.deliver(order)
    if (answer?.status === 200) mustBeSameGoods(answer, again)
    mustBeSameGoods(again, await subject.deliver(order))
    codes.push(...codesOf(again))
  }
  must(new Set(codes).size === codes.length, 'different codes for each key', codes.join(', '))
  await subject.stockBecomes(before - sent.length, `${sent.length} keys, each delivered once`)
}

async function isUp(subject: Subject): Promise<boolean> {
  try {
    const answer = await subject.ask({ method: 'GET', path: '/health' }, { serviceKey: null })
    return answer.status < 500
  } catch (error) {
    if (error instanceof NoAnswerError) return false
    throw error
  }
}

type Ended = { code: number | null; said: string }

/** By a shell; the end of what it complains about comes along. */
function runCommand(command: string): Promise<Ended> {
  return new Promise((resolve) => {
    const child = spawn(command, { shell: true, stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said = `${said}${text}`.slice(-2000)))
    child.once('error', (error) => resolve({ code: null, said: error.message }))
    child.once('close', (code) => resolve({ code, said: shortened(said.trim()) }))
  })
}

/** As `runCommand`, of one that leaves a process behind: that keeps none of our pipes, and we don't wait for it at the end. */
function launchCommand(command: string): Promise<Ended> {
  return new Promise((resolve) => {
    const child = spawn(command, { shell: true, stdio: 'ignore' })
    child.once('error', (error) => resolve({ code: null, said: error.message }))
    child.once('exit', (code) => resolve({ code, said: 'Run it by hand to see why.' }))
    child.unref()
  })
}
