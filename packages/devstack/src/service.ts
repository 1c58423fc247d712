import { setTimeout as delay } from 'node:timers/promises'
import { DevstackError } from './errors.ts'
import { type Child, spawnTethered } from './tether.ts'

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
  onLine: (line: string) => void
  /** Told of an unexpected end and of the restart, and when restarting is given up. */
  onNews?: (news: string) => void
  onGivenUp?: (news: string) => void
}

export interface Service {
  readonly name: string
  /** Of the process that runs now. */
  readonly pid: number
  /** How often it was started again. */
  readonly restarts: number
  /** SIGKILL; it comes back by itself. */
  kill(): void
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
      const { code, signal } = await child.exited
      if (stopping) return
      const recent = restarts.filter((at) => at > Date.now() - 60_000)
      if (recent.length >= MAX_RESTARTS_A_MINUTE) {
        onGivenUp(`${name} keeps dying${lastProblem && `: ${lastProblem}`}`)
        return
      }
      onNews(`${name} died (${signal ?? `exit code ${code}`}), starting it again`)
      await delay(200 * recent.length)
      if (stopping) return
      child = await launch()
      restarts.push(Date.now())
    }
  }

  child = await launch(options.firstEnv)
  const early = await Promise.race([child.exited, untilReady(options, () => stopping)])
  if (early !== 'ready') {
    stopping = true
    await child.stop(GRACE_MS)
    const why = lastProblem || (early ? `it ended with ${early.signal ?? `exit code ${early.code}`}` : 'no answer in time')
    throw new DevstackError(`${name} does not start: ${why}`)
  }
  void keepAlive()

  return {
    name,
    get pid() {
      return child.pid
    },
    get restarts() {
      return restarts.length
    },
    kill: () => child.kill(),
    async stop() {
      stopping = true
      await child.stop(GRACE_MS)
    },
  }
}

async function untilReady({ readyUrl, readySeconds = 30 }: ServiceOptions, stopping: () => boolean) {
  const deadline = Date.now() + readySeconds * 1000
  while (Date.now() < deadline && !stopping()) {
    const response = await fetch(readyUrl, { signal: AbortSignal.timeout(2000) }).catch(() => undefined)
    await response?.body?.cancel()
    if (response?.ok) return 'ready'
    await delay(30)
  }
  return undefined
}

/** The message of an error line of a JSON log. */
function problemIn(line: string): string | undefined {
  if (!line.includes('"level":"error"')) return undefined
  try {
    const { msg, err } = JSON.parse(line) as { msg?: string; err?: { message?: string } }
    return err?.message ? `${msg}: ${err.message}` : msg
  } catch {
    return undefined
  }
}
