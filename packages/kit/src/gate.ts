import { AppError } from './errors.ts'

export type Gate = <T>(work: () => Promise<T>) => Promise<T>

/** Lets `places` pieces of work run at a time and `maxWaiting` more wait their turn, in order; refuses the rest with 503. */
export function createGate(places: number, maxWaiting = Infinity): Gate {
  let free = places
  const waiting: (() => void)[] = []

  return async (work) => {
    if (free > 0) free -= 1
    else if (waiting.length < maxWaiting) await new Promise<void>((resolve) => waiting.push(resolve))
    else throw new AppError(503, 'busy', 'Too many requests at once', { retryAfterSeconds: 1 })
    try {
      return await work()
    } finally {
      // A place is handed over, never free in between: whoever comes now stands behind those who wait.
      const next = waiting.shift()
      if (next) next()
      else free += 1
    }
  }
}
