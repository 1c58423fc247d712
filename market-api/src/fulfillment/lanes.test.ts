import fc from 'fast-check'
import { expect, it } from 'vitest'
import { createLanes, laneOf } from './lanes.ts'

const A = laneOf({ seller_address: '0xa', offer_type: 'odoo' })
const B = laneOf({ seller_address: '0xb', offer_type: 'odoo' })

function start(limit = 4) {
  const clock = { ms: 1_000_000 }
  const lanes = createLanes({ seller: limit, adapter: 3 * limit }, () => clock.ms)
  const call = (key: string, answered: boolean) => {
    lanes.begin(key)
    return lanes.end(key, answered)
  }
  const fail = (key: string, times: number) => Array.from({ length: times }, () => call(key, false))
  return { lanes, clock, call, fail, roomOf: (key: string) => lanes.rooms().get(key) ?? limit }
}

it('has room for so many calls of a lane, whatever the others do', () => {
  const { lanes, roomOf } = start(2)
  lanes.begin(A)
  lanes.begin(A)
  expect([roomOf(A), roomOf(B)]).toEqual([0, 2])
  lanes.end(A, true)
  expect(roomOf(A)).toBe(1)
})

it('has room for so many calls of an adapter, whoever its sellers are', () => {
  const { lanes } = start(1)
  expect(lanes.adapterRooms().size).toBe(0)
  for (const lane of [A, B, laneOf({ seller_address: '0xc', offer_type: 'odoo' })]) lanes.begin(lane)
  lanes.begin(laneOf({ seller_address: '0xa', offer_type: 'codes' }))
  expect(lanes.adapterRooms()).toEqual(
    new Map([
      ['odoo', 0],
      ['codes', 2],
    ]),
  )
  lanes.end(A, false)
  expect(lanes.adapterRooms().get('odoo')).toBe(1)
})

it('opens after five calls in a row without an answer, and not before', () => {
  const { call, fail, roomOf, lanes } = start()
  fail(A, 4)
  call(A, true)
  expect(fail(A, 5)).toEqual([undefined, undefined, undefined, undefined, 'opened'])
  expect(lanes.pauseOf(A)).toBe(5000)
  expect([roomOf(A), roomOf(B)]).toEqual([0, 4])
  expect(lanes.open()).toEqual(new Map([['odoo', 1]]))
})

it('is tried with one call when the pause is over, and closes when that is answered', () => {
  const { lanes, clock, fail, roomOf } = start()
  fail(A, 5)
  clock.ms += 5000
  expect(roomOf(A)).toBe(1)
  lanes.begin(A)
  expect(roomOf(A)).toBe(0)
  expect(lanes.end(A, true)).toBe('closed')
  expect(roomOf(A)).toBe(4)
  expect([...lanes.open().values()].every((n) => n === 0)).toBe(true)
})

it('pauses longer each time, up to a minute', () => {
  const { lanes, clock, fail } = start()
  fail(A, 5)
  const pauses = Array.from({ length: 6 }, () => {
    clock.ms += lanes.pauseOf(A)
    expect(fail(A, 1)).toEqual(['opened'])
    return lanes.pauseOf(A) / 1000
  })
  expect(pauses).toEqual([10, 20, 40, 60, 60, 60])
})

it('learns nothing from calls that began before it opened', () => {
  const { lanes, fail } = start(8)
  for (let n = 0; n < 3; n += 1) lanes.begin(A)
  fail(A, 5)
  expect([lanes.end(A, false), lanes.end(A, false), lanes.pauseOf(A)]).toEqual([undefined, undefined, 5000])
  expect(lanes.end(A, true)).toBe('closed')
})

it('never lets more calls begin than there is room for, and forgets what is at rest', () => {
  const command = fc.record({
    lane: fc.constantFrom(A, B),
    answered: fc.boolean(),
    ms: fc.nat(9000),
    begin: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 3 }), fc.array(command, { maxLength: 60 }), (limit, commands) => {
      const { lanes, clock, roomOf } = start(limit)
      const inFlight = new Map<string, number>()
      for (const { lane, answered, ms, begin } of commands) {
        clock.ms += ms
        const calls = inFlight.get(lane) ?? 0
        if (begin && roomOf(lane) > 0) {
          lanes.begin(lane)
          inFlight.set(lane, calls + 1)
        } else if (calls > 0) {
          lanes.end(lane, answered)
          inFlight.set(lane, calls - 1)
        }
        expect(Math.max(...inFlight.values(), 0)).toBeLessThanOrEqual(limit)
        expect(roomOf(lane)).toBeGreaterThanOrEqual(0)
      }
      for (const [lane, calls] of inFlight) for (let n = 0; n < calls; n += 1) lanes.end(lane, true)
      for (const lane of [A, B]) {
        lanes.begin(lane)
        lanes.end(lane, true)
      }
      expect([lanes.rooms().size, lanes.adapterRooms().size]).toEqual([0, 0])
    }),
  )
})
