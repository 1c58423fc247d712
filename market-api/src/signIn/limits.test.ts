import { LimitError } from '@market/kit/errors'
import { beforeEach, expect, it } from 'vitest'
import { createSignInLimits, type SignInLimits } from './limits.ts'

let clock = 0
let limits: SignInLimits
beforeEach(() => {
  clock = 0
  limits = createSignInLimits({ enabled: true, nowMs: () => clock })
})

const until = (step: () => void) => {
  let steps = 0
  try {
    for (; steps < 1000; steps += 1) step()
  } catch (error) {
    expect(error).toBeInstanceOf(LimitError)
    const { status, code, details } = error as LimitError
    expect([status, code]).toEqual([429, 'too_many_sign_ins'])
    return { steps, waitSeconds: details!.retryAfterSeconds }
  }
  return { steps, waitSeconds: undefined }
}

it('market-api:W-34 lets an address have so many challenges and signatures a minute', () => {
  clock = 100
  expect(until(() => limits.challenge('0xa'))).toEqual({ steps: 60, waitSeconds: 60 })
  clock = 40_100
  expect(until(() => limits.challenge('0xa'))).toEqual({ steps: 0, waitSeconds: 20 })
  // Each of its own: another address, and the signatures of this one.
  expect(until(() => limits.verify('0xa')).steps).toBe(120)
  expect(until(() => limits.challenge('0xb')).steps).toBe(60)
  clock = 60_100
  expect(until(() => limits.challenge('0xa')).steps).toBe(60)
})

it('limits nobody when limits are off', () => {
  const off = createSignInLimits({ enabled: false, nowMs: () => clock })
  expect(until(() => off.challenge('0xa')).steps).toBe(1000)
  expect(until(() => off.verify('0xa')).steps).toBe(1000)
})

it('ends a challenge after ten wrong answers, whatever else is limited', () => {
  const off = createSignInLimits({ enabled: false, nowMs: () => clock })
  for (let failure = 0; failure < 10; failure += 1) {
    expect(off.isSpent('a')).toBe(false)
    off.countFailure('a')
  }
  expect([off.isSpent('a'), off.isSpent('b')]).toEqual([true, false])
})

it('forgets the challenge that failed longest ago when too many did', () => {
  for (let failure = 0; failure < 10; failure += 1) for (const id of ['first', 'second']) limits.countFailure(id)
  for (let other = 0; other < 19_999; other += 1) limits.countFailure(`other ${other}`)
  expect([limits.isSpent('first'), limits.isSpent('second')]).toEqual([false, true])
})
