import { messageOf } from './errors.ts'
import type { Log } from './log.ts'

export type Loop = {
  readonly name: string
  /** Runs the step soon instead of at the next interval. */
  wake(): void
  /** Lets the step under way finish, then stays still. */
  stop(): Promise<void>
  /** Message of the last failure, undefined while the loop does well. */
  readonly failing: string | undefined
}

export type LoopOptions = {
  name: string
  intervalMs: number
  log: Log
  /** One step; `true` = there is more to do at once. It must be safe to repeat at any time. */
  step(signal: AbortSignal): Promise<boolean | void>
}

const MAX_BACKOFF_MS = 30_000

/** A timer around a verb. Failures are logged when they begin, change and end, and slow the loop down, never stop it. */
export function startLoop({ name, intervalMs, log, step }: LoopOptions): Loop {
  const stopping = new AbortController()
  let failures = 0
  let failing: string | undefined
  let wakeUp: (() => void) | undefined
  let woken = false

  const pause = (ms: number) =>
    new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer)
        wakeUp = undefined
        resolve()
      }
      const timer = setTimeout(done, ms)
      wakeUp = done
      if (stopping.signal.aborted) done()
    })

  const run = async () => {
    while (!stopping.signal.aborted) {
      woken = false
      let more = false
      try {
        more = (await step(stopping.signal)) === true
        if (failing !== undefined) log.info({ loop: name }, 'loop recovered')
        failures = 0
        failing = undefined
      } catch (error) {
        failures += 1
        const message = messageOf(error)
        if (message !== failing) log.error({ loop: name, err: error }, 'loop failed')
        failing = message
      }
      if (failing !== undefined) await pause(Math.min(MAX_BACKOFF_MS, intervalMs * 2 ** Math.min(failures, 6)))
      else if (!more && !woken) await pause(intervalMs)
    }
  }
  const running = run()

  return {
    name,
    wake() {
      woken = true
      if (failing === undefined) wakeUp?.()
    },
    async stop() {
      stopping.abort()
      wakeUp?.()
      await running
    },
    get failing() {
      return failing
    },
  }
}
