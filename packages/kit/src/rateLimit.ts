/** What a caller has left of its budget. `resetSeconds` is when it is whole again, at least 1. */
export type Allowance = { ok: boolean; limit: number; remaining: number; resetSeconds: number }

export type RateLimiter = {
  /** Takes `cost` (1) of `key`'s budget, if that much is left. What costs more than the whole budget costs the whole. */
  take(key: string, cost?: number): Allowance
}

const MAX_KEYS = 100_000

/**
 * `limit` units of cost a key in each window of `windowSeconds`, counted in this process: with several replicas a caller has as many
 * budgets. The window of a key begins with its first call. Of more than 100,000 keys at once the oldest are forgotten.
 */
export function createRateLimiter({
  limit,
  windowSeconds,
  nowMs = () => performance.now(),
}: {
  limit: number
  windowSeconds: number
  nowMs?: () => number
}): RateLimiter {
  const windows = new Map<string, { taken: number; endsAtMs: number }>()

  const windowOf = (key: string, now: number) => {
    const known = windows.get(key)
    if (known && known.endsAtMs > now) return known
    // Out and in again, so that the map stays in the order in which windows began.
    windows.delete(key)
    if (windows.size >= MAX_KEYS) windows.delete(windows.keys().next().value!)
    const opened = { taken: 0, endsAtMs: now + windowSeconds * 1000 }
    windows.set(key, opened)
    return opened
  }

  return {
    take(key, cost = 1) {
      // Whole: with fractions, what begins now could end in 60.00000000000001 s, which is told as 61.
      const now = Math.floor(nowMs())
      const window = windowOf(key, now)
      const price = Math.min(cost, limit)
      const ok = window.taken + price <= limit
      if (ok) window.taken += price
      const resetSeconds = Math.max(1, Math.ceil((window.endsAtMs - now) / 1000))
      return { ok, limit, remaining: limit - window.taken, resetSeconds }
    },
  }
}
