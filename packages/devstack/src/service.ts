import { setTimeout as delay } from 'node:timers/promises'
import { causeOf, DevstackError } from './errors.ts'
import { type Child, type Exit, spawnTethered } from './tether.ts'

export interface ServiceOptions {
  name: string
  /** Path of the compiled main. */
  script: string
  env: NodeJS.ProcessEnv
  /** Added at the first start only: a fault that was injected must not come back after the restart. */
  firstEnv?: NodeJS.ProcessEnv
  /** Answers 200 when the service is of use. */
  readyUrl: string
  readySeconds?: number
  /** Ends the wait for readiness: the service is stopped and the start fails. */
  signal?: AbortSignal | undefined
  onLine: (line: string) => void
  /** Told of an unexpected end and of the restart. */
  onNews?: ((news: string) => void) | undefined
  /** Told once, when it dies again and again and is left dead. */
  onGivenUp?: ((news: string) => void) | undefined
}

export interface Service {
  readonly name: string
  /** What every start gets; a replica is the same program with another port. */
  readonly env: NodeJS.ProcessEnv
  /** Of the process that runs now. */
  readonly pid: number
  /** How often it was started again. */
  readonly restarts: number
  /** SIGKILL; it comes back by itself. */
  kill(): void
  /** Stops it and starts it anew, with these variables for this one start. Resolves when it is ready again. */
  restart(extraEnv?: NodeJS.ProcessEnv): Promise<void>
  stop(): Promise<void>
}

const GRACE_MS = 12_000
const MAX_RESTARTS_A_MINUTE = 6

/**
 * Starts a service, waits until it is ready, and starts it again whenever it dies, as a container runtime would.
 * Throws `DevstackError` with the service's own last word when it never gets ready.
 */
export async function startService(options: ServiceOptions): Promise<Service> {
  const { name, onNews = () => {}, onGivenUp = () => {} } = options
  let stopping = false
  let lastProblem = ''
  let child: Child
  let asked: NodeJS.ProcessEnv | undefined
  const restarts: number[] = []

  const launch = (extra: NodeJS.ProcessEnv = {}) =>
    spawnTethered({
      command: process.execPath,
      args: [options.script],
      env: { ...options.env, ...extra },
      stopSignal: 'SIGTERM',
      onLine: (line) => {
        lastProblem = problemIn(line) ?? lastProblem
        options.onLine(line)
      },
    })

  const keepAlive = async () => {
    for (;;) {
      const exit = await child.exited
      if (stopping) return
      if (asked) {
        child = await launch(asked)
        asked = undefined
        continue
      }
      const recent = restarts.filter((at) => at > Date.now() - 60_000)
      if (recent.length >= MAX_RESTARTS_A_MINUTE) {
        onGivenUp(`${name} keeps dying: ${lastProblem || endedBy(exit)}`)
        return
      }
      onNews(`${name} died (${endedBy(exit)}), starting it again`)
      await delay(200 * recent.length)
      if (stopping) return
      lastProblem = ''
      child = await launch()
      restarts.push(Date.now())
      // Asked to stop while the new process came up: it was not there yet to be told.
      if (stopping) return child.stop(GRACE_MS)
    }
  }

  child = await launch(options.firstEnv)
  const ready = new AbortController()
  const outcome = await Promise.race([child.exited, untilReady(options, ready.signal)])
  ready.abort()
  if (outcome !== 'ready') {
    stopping = true
    await child.stop(GRACE_MS)
    const why = typeof outcome === 'string' ? `not ready in time, ${outcome}` : lastProblem || endedBy(outcome)
    throw new DevstackError(`${name} does not start: ${why}`)
  }
  const alive = keepAlive().catch((error) => onGivenUp(`${name} can't be started again (${causeOf(error)})`))

  return {
    name,
    env: options.env,
    get pid() {
      return child.pid
    },
    get restarts() {
      return restarts.length
    },
    kill: () => child.kill(),
    async restart(extraEnv = {}) {
      const { pid } = child
      asked = extraEnv
      await child.stop(GRACE_MS)
      while (child.pid === pid) await delay(10)
      const state = await untilReady(options, new AbortController().signal)
      if (state !== 'ready') throw new DevstackError(`${name} does not start again: ${lastProblem || state}`)
    },
    async stop() {
      stopping = true
      await child.stop(GRACE_MS)
      await alive
    },
  }
}

export const endedBy = ({ code, signal }: Exit) => signal ?? `exit code ${code}`

/** 'ready', or in what state the service was when the time was over. */
async function untilReady({ readyUrl, readySeconds = 30, signal }: ServiceOptions, ended: AbortSignal) {
  const deadline = Date.now() + readySeconds * 1000
  const over = signal ? AbortSignal.any([signal, ended]) : ended
  let answer = 'no answer'
  while (Date.now() < deadline && !over.aborted) {
    const response = await fetch(readyUrl, { signal: AbortSignal.timeout(2000) }).catch(() => undefined)
    const text = await response?.text().catch(() => undefined)
    if (response?.ok) return 'ready'
    answer = text?.slice(0, 200) || answer
    await delay(30)
  }
  return answer
}

/** What a line of the log says went wrong: the message of an error of ours, or the error that Node ends with. */
function problemIn(line: string): string | undefined {
  if (/^\w*Error\b/.test(line)) return line
  if (!line.includes('"level":"error"')) return undefined
  try {
    const { msg = '', err } = JSON.parse(line) as { msg?: string; err?: { message?: string } }
    const problem = msg.replace(/^cannot start: /, '')
    return err?.message && !problem.includes(err.message) ? `${problem}: ${err.message}` : problem
  } catch {
    return undefined
  }
}
