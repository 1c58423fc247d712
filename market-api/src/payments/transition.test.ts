import { describe, expect, it } from 'vitest'
import type { RecordedTransfer, Settlement } from './settle.ts'
import { type Standing, type Step, stepsOf } from './transition.ts'

const BY: RecordedTransfer = {
  blockNumber: 100,
  transactionIndex: 0,
  logIndex: 0,
  txHash: '0x1',
  gateway: '0x6a',
  amountWei: 10n,
  eligible: true,
  ignoredReason: null,
  orphaned: false,
  inDoubt: false,
}
/** What settlement can say of an order, from nothing to all. */
const SETTLEMENTS = {
  unpaid: { paidBy: undefined, confirmed: false, complete: false },
  paid: { paidBy: BY, confirmed: false, complete: false },
  confirmed: { paidBy: BY, confirmed: true, complete: false },
  complete: { paidBy: BY, confirmed: true, complete: true },
}
type Found = keyof typeof SETTLEMENTS
const FOUND = Object.keys(SETTLEMENTS) as Found[]
const settlement = (found: Found): Settlement => ({ seenWei: 0n, settleAt: undefined, ...SETTLEMENTS[found] })

const NEW: Standing = { paid: false, confirmed: false, complete: false, cancelled: false, reverted: false }
const PAID = { ...NEW, paid: true }
const CONFIRMED = { ...PAID, confirmed: true }
const COMPLETE = { ...CONFIRMED, complete: true }
/** Where an order can stand. */
const STANDINGS = {
  due: NEW,
  paid: PAID,
  confirmed: CONFIRMED,
  complete: COMPLETE,
  'paid, reverted': { ...PAID, reverted: true },
  'confirmed, reverted': { ...CONFIRMED, reverted: true },
  'complete, reverted': { ...COMPLETE, reverted: true },
  cancelled: { ...NEW, cancelled: true },
}
type Name = keyof typeof STANDINGS

/** The state table: what is to be done with an order that stands so when settlement finds this. */
const TABLE: Record<Name, Record<Found, Step[]>> = {
  due: {
    unpaid: [],
    paid: ['pay'],
    confirmed: ['pay', 'confirm'],
    complete: ['pay', 'confirm', 'complete'],
  },
  paid: { unpaid: ['takeBack'], paid: [], confirmed: ['confirm'], complete: ['confirm', 'complete'] },
  confirmed: { unpaid: ['takeBack'], paid: [], confirmed: [], complete: ['complete'] },
  complete: { unpaid: ['takeBack'], paid: [], confirmed: [], complete: [] },
  'paid, reverted': {
    unpaid: [],
    paid: ['restore'],
    confirmed: ['restore', 'confirm'],
    complete: ['restore', 'confirm', 'complete'],
  },
  'confirmed, reverted': {
    unpaid: [],
    paid: ['restore'],
    confirmed: ['restore'],
    complete: ['restore', 'complete'],
  },
  'complete, reverted': { unpaid: [], paid: ['restore'], confirmed: ['restore'], complete: ['restore'] },
  cancelled: { unpaid: [], paid: [], confirmed: [], complete: [] },
}

/** What the steps make of it, as settleOrders.ts writes it: nothing is taken back whose delivery has begun. */
function after(order: Standing, steps: Step[], hasBegun: boolean): Standing {
  const now = { ...order }
  for (const step of steps) {
    if (step === 'pay') now.paid = true
    if (step === 'confirm') now.confirmed = true
    if (step === 'complete') now.complete = true
    if (step === 'restore') now.reverted = false
    if (step !== 'takeBack') continue
    if (hasBegun || order.complete) now.reverted = true
    else Object.assign(now, { paid: false, confirmed: false })
  }
  return now
}

const cases = (Object.keys(TABLE) as Name[]).flatMap((name) => FOUND.map((found) => [name, found] as const))

describe('transition', () => {
  it.each(cases)('%s, found %s', (name, found) => {
    expect(stepsOf(STANDINGS[name], settlement(found))).toEqual(TABLE[name][found])
  })

  it('payments:P19 of an order that is where it belongs, nothing, whether its delivery had begun or not', () => {
    for (const [name, found] of cases) {
      for (const hasBegun of [false, true]) {
        const moved = after(STANDINGS[name], stepsOf(STANDINGS[name], settlement(found)), hasBegun)
        expect(stepsOf(moved, settlement(found)), `${name} found ${found}`).toEqual([])
      }
    }
  })

  it('leads to no other standing than these, and through none that makes no sense, whatever happens in whatever order', () => {
    const named = new Map(Object.entries(STANDINGS).map(([name, standing]) => [JSON.stringify(standing), name]))
    const reached = new Map([[JSON.stringify(NEW), NEW]])
    for (const order of reached.values()) {
      const next = FOUND.flatMap((found) => {
        const steps = stepsOf(order, settlement(found))
        return [after(order, steps, false), after(order, steps, true)]
      })
      // Only what is not paid is cancelled.
      if (!order.paid) next.push({ ...order, cancelled: true })
      for (const standing of next) {
        expect(!standing.confirmed || standing.paid, 'confirmed is paid').toBe(true)
        expect(!standing.complete || standing.confirmed, 'complete is confirmed').toBe(true)
        expect(!standing.reverted || standing.paid, 'reverted was paid').toBe(true)
        expect(!standing.cancelled || !standing.paid, 'cancelled is not paid').toBe(true)
        expect(!order.complete || standing.complete, 'complete stays complete').toBe(true)
        expect(!order.cancelled || standing.cancelled, 'cancelled stays cancelled').toBe(true)
        reached.set(JSON.stringify(standing), standing)
      }
    }
    expect([...reached.keys()].map((key) => named.get(key)).toSorted()).toEqual(Object.keys(STANDINGS).toSorted())
  })

  it('never completes or confirms an order without the payment, nor takes one back that is there', () => {
    const all = Array.from({ length: 32 }, (_, bits): Standing => ({
      paid: (bits & 1) > 0,
      confirmed: (bits & 2) > 0,
      complete: (bits & 4) > 0,
      cancelled: (bits & 8) > 0,
      reverted: (bits & 16) > 0,
    }))
    for (const order of all) {
      for (const found of FOUND) {
        const steps = stepsOf(order, settlement(found))
        const label = `${JSON.stringify(order)} found ${found}`
        expect(new Set(steps).size, label).toBe(steps.length)
        if (order.cancelled) expect(steps, label).toEqual([])
        if (found !== 'unpaid') expect(steps, label).not.toContain('takeBack')
        else expect([[], ['takeBack']], label).toContainEqual(steps)
        for (const [step, is] of [
          ['confirm', 'confirmed'],
          ['complete', 'complete'],
        ] as const) {
          if (!steps.includes(step)) continue
          expect(SETTLEMENTS[found][is], label).toBe(true)
          expect(order.paid || steps.includes('pay'), label).toBe(true)
        }
      }
    }
  })
})
