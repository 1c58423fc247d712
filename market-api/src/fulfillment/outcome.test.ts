import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { FulfillmentCall } from '../serviceRoutes/adapterClient.ts'
import { outcomeOf } from './outcome.ts'

const answered = (httpStatus: number, body: unknown): FulfillmentCall => ({ kind: 'answered', httpStatus, body })
const outcome = (call: FulfillmentCall, attempts = 1) => outcomeOf(call, attempts, 1)

describe('outcomeOf', () => {
  it('is done only by an explicit yes', () => {
    const body = { status: 'ok', codes: ['A'] }
    expect(outcome(answered(200, body))).toEqual({
      status: 'done',
      reason: null,
      retryInMs: undefined,
      delivered: body,
    })
    fc.assert(
      fc.property(fc.integer({ min: 100, max: 599 }), fc.json(), (httpStatus, json) => {
        const any: unknown = JSON.parse(json)
        const yes =
          httpStatus >= 200 && httpStatus < 300 && httpStatus !== 202 && (any as { status?: unknown })?.status === 'ok'
        expect(outcome(answered(httpStatus, any)).status === 'done').toBe(yes)
      }),
    )
  })

  it('fulfilment:F-18 takes a 200 that says error for no delivery', () => {
    expect(outcome(answered(200, { status: 'error', message: 'no' }))).toMatchObject({
      status: 'pending',
      retryInMs: 5000,
      delivered: undefined,
    })
  })

  it('fulfilment:F-19 lets a depleted pool wait visibly, and looks again by itself', () => {
    for (const status of ['depleted', 'insufficientStock']) {
      for (const http of [200, 409]) {
        expect(outcome(answered(http, { status }))).toMatchObject({
          status: 'needs_attention',
          reason: status,
          retryInMs: 60_000,
        })
      }
    }
  })

  it('leaves to a person what trying again can not mend', () => {
    expect(outcome(answered(200, { status: 'notApplicable' }))).toMatchObject({
      status: 'needs_attention',
      retryInMs: undefined,
    })
    expect(outcome(answered(200, { status: 'ambiguous' }))).toMatchObject({ status: 'rejected', retryInMs: undefined })
    expect(outcome(answered(400, { error: 'bad' }))).toMatchObject({ status: 'rejected', retryInMs: undefined })
    expect(outcome(answered(409, { error: 'reused' }))).toMatchObject({ status: 'rejected' })
  })

  it('stores what a partial answer delivered, and goes on', () => {
    const body = { status: 'partial', codes: ['A'] }
    expect(outcome(answered(200, body))).toMatchObject({ status: 'partial', delivered: body, retryInMs: 60_000 })
  })

  it('asks again soon while the adapter is at it', () => {
    for (const call of [answered(202, {}), answered(200, { status: 'inProgress' })]) {
      expect(outcome(call)).toMatchObject({ status: 'pending', reason: 'inProgress', retryInMs: 2000 })
    }
  })

  it('fulfilment:F-20 tries again after 5 s, 30 s, 2 min, 10 min, then hourly for a day, then calls a person', () => {
    const failed: FulfillmentCall = { kind: 'failed', httpStatus: null, error: 'down' }
    const waits = Array.from({ length: 28 }, (_, i) => outcome(failed, i + 1))
    expect(waits.slice(0, 6).map(({ retryInMs }) => retryInMs)).toEqual([
      5000, 30_000, 120_000, 600_000, 3_600_000, 3_600_000,
    ])
    expect(waits.slice(0, 27).every(({ status }) => status === 'pending')).toBe(true)
    expect(waits[27]).toMatchObject({ status: 'failed', retryInMs: undefined })
    for (const http of [500, 502, 503, 408, 429]) {
      expect(outcome(answered(http, {}))).toMatchObject({ status: 'pending', retryInMs: 5000 })
    }
  })

  it('spreads retries by the jitter it is given', () => {
    expect(outcomeOf({ kind: 'failed', httpStatus: 500, error: '' }, 1, 0.8).retryInMs).toBe(4000)
  })
})
