import fc from 'fast-check'
import { expect, it } from 'vitest'
import { createRateLimiter } from './rateLimit.ts'

const at = (limit: number, windowSeconds: number) => {
  const clock = { nowMs: 1000 }
  return { clock, limiter: createRateLimiter({ limit, windowSeconds, nowMs: () => clock.nowMs }) }
}

it('allows so many in a window, says what is left and when it is whole again', () => {
  const { clock, limiter } = at(2, 60)
  expect(limiter.take('a')).toEqual({ ok: true, limit: 2, remaining: 1, resetSeconds: 60 })
  clock.nowMs += 10_500
  expect(limiter.take('a')).toEqual({ ok: true, limit: 2, remaining: 0, resetSeconds: 50 })
  expect(limiter.take('a')).toEqual({ ok: false, limit: 2, remaining: 0, resetSeconds: 50 })
  clock.nowMs += 49_499
  expect(limiter.take('a')).toMatchObject({ ok: false, resetSeconds: 1 })
  clock.nowMs += 1
  expect(limiter.take('a')).toMatchObject({ ok: true, remaining: 1, resetSeconds: 60 })
})

it('tells a whole window as what it is at any time', () => {
  const { clock, limiter } = at(1, 60)
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 700_000 }), fc.uuid(), (sevenths, key) => {
      clock.nowMs = sevenths / 7
      expect(limiter.take(key).resetSeconds).toBe(60)
    }),
  )
})

it('counts each key by itself, from its own first call', () => {
  const { clock, limiter } = at(1, 60)
  expect(limiter.take('a').ok).toBe(true)
  clock.nowMs += 30_000
  expect(limiter.take('b')).toMatchObject({ ok: true, resetSeconds: 60 })
  expect(limiter.take('a')).toMatchObject({ ok: false, resetSeconds: 30 })
})

it('takes what a call costs, all of it or nothing; never more than there can be', () => {
  const { limiter } = at(10, 60)
  expect(limiter.take('a', 4)).toMatchObject({ ok: true, remaining: 6 })
  expect(limiter.take('a', 7)).toMatchObject({ ok: false, remaining: 6 })
  expect(limiter.take('a', 6)).toMatchObject({ ok: true, remaining: 0 })
  expect(limiter.take('b', 11)).toMatchObject({ ok: true, remaining: 0 })
  expect(limiter.take('b', 11)).toMatchObject({ ok: false, remaining: 0 })
})

it('forgets the oldest of more than 100,000 keys, and keeps the rest', () => {
  const { limiter } = at(1, 60)
  for (let i = 0; i < 100_001; i += 1) limiter.take(`key-${i}`)
  expect(limiter.take('key-1').ok).toBe(false)
  expect(limiter.take('key-100000').ok).toBe(false)
  expect(limiter.take('key-0').ok).toBe(true)
})

it('never lets a key have more than its limit within a window of its own', () => {
  const call = fc.record({
    key: fc.constantFrom('a', 'b', 'c'),
    afterMs: fc.nat(900),
    cost: fc.integer({ min: 1, max: 4 }),
  })
  fc.assert(
    fc.property(fc.array(call, { maxLength: 60 }), fc.integer({ min: 1, max: 6 }), (calls, limit) => {
      const { clock, limiter } = at(limit, 2)
      // The same rule, kept the long way: what was granted since the first call of the window.
      const windows = new Map<string, { since: number; granted: number }>()
      for (const { key, afterMs, cost } of calls) {
        clock.nowMs += afterMs
        let window = windows.get(key)
        if (!window || clock.nowMs - window.since >= 2000) window = { since: clock.nowMs, granted: 0 }
        windows.set(key, window)
        const price = Math.min(cost, limit)
        const expected = window.granted + price <= limit
        if (expected) window.granted += price
        const { ok, remaining, resetSeconds } = limiter.take(key, cost)
        expect([ok, remaining]).toEqual([expected, limit - window.granted])
        expect(resetSeconds).toBe(Math.max(1, Math.ceil((window.since + 2000 - clock.nowMs) / 1000)))
      }
    }),
  )
})
