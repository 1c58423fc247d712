import { MarketError, NetworkError } from './errors.ts'

/** Resolves after that time; rejects with the signal's reason. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted()
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      if (signal?.aborted) reject(signal.reason as Error)
      else resolve()
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', done)
  })
}

const FIRST_WAIT_MS = 250
const LONGEST_WAIT_MS = 5000

/** Until the next try, after so many: twice as long each time, and never the same for two clients. */
const waitMs = (tries: number) =>
  Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(tries, 10)) * (0.5 + Math.random() / 2)

const PASSING = new Set([429, 502, 503, 504])

/** Whether the same request may well be answered otherwise in a moment. */
export const isPassing = (error: unknown): error is MarketError | NetworkError =>
  error instanceof NetworkError || (error instanceof MarketError && PASSING.has(error.status))

/** Until another try is due after `tries`; undefined when there is no point in one. */
export function msUntilRetry(error: unknown, tries: number): number | undefined {
  if (!isPassing(error)) return undefined
  const asked = error instanceof MarketError ? error.retryAfterSeconds : undefined
  return asked === undefined ? waitMs(tries) : asked * 1000 + waitMs(0)
}
