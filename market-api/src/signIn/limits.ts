import { LimitError } from '@market/kit/errors'
import { createRateLimiter, type RateLimiter } from '@market/kit/rateLimit'

export type SignInLimits = {
  /** One more challenge for the address. Throws `LimitError` `too_many_sign_ins`. */
  challenge(address: string): void
  /** One more signature for the address. Throws `LimitError` `too_many_sign_ins`. */
  verify(address: string): void
  /** Whether a challenge was answered wrongly too often. */
  isSpent(challengeId: string): boolean
  countFailure(challengeId: string): void
}

/**
 * A minute, of one address. More than the edge lets one client network through, so that no single one can use up an
 * address's budget and keep its owner from signing in.
 */
const CHALLENGES = 60
const VERIFICATIONS = 120
const FAILURES = 10
const CHALLENGES_WATCHED = 20_000

/** What signing in may cost us, counted in this process; `nowMs` as for `createRateLimiter`. */
export function createSignInLimits({ enabled, nowMs }: { enabled: boolean; nowMs: () => number }): SignInLimits {
  const perMinute = (limit: number) => createRateLimiter({ limit, windowSeconds: 60, nowMs })
  const challenges = perMinute(CHALLENGES)
  const verifications = perMinute(VERIFICATIONS)
  const failures = new Map<string, number>()

  const take = (budget: RateLimiter, address: string) => {
    if (!enabled) return
    const { ok, resetSeconds } = budget.take(address)
    const text = 'Too many sign-ins of this address; try again later'
    if (!ok) throw new LimitError('too_many_sign_ins', text, resetSeconds)
  }

  return {
    challenge: (address) => take(challenges, address),
    verify: (address) => take(verifications, address),
    isSpent: (challengeId) => (failures.get(challengeId) ?? 0) >= FAILURES,
    countFailure(challengeId) {
      const count = (failures.get(challengeId) ?? 0) + 1
      if (count === 1 && failures.size >= CHALLENGES_WATCHED) failures.delete(failures.keys().next().value!)
      failures.set(challengeId, count)
    },
  }
}
