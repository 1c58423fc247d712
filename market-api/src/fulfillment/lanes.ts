/** One seller's adapter of one kind: what is slow or dead there is that seller's trouble alone. */
export type LaneKey = { seller_address: string; offer_type: string }

export const laneOf = ({ seller_address, offer_type }: LaneKey) => `${seller_address} ${offer_type}`

/** Calls in a row without any answer, after which the lane is left alone for a while. */
const FAILURES_TO_OPEN = 5
const FIRST_PAUSE_MS = 5_000
const LONGEST_PAUSE_MS = 60_000

type Lane = { inFlight: number; failures: number; pauseMs: number; openUntil: number }

/** Calls at a time, to one lane and to all lanes of an adapter. */
export type LaneLimits = { seller: number; adapter: number }

/**
 * How much each lane may be asked for at the moment: `limits.seller` calls at a time, none while its circuit is open, one when it may
 * be closed again. Of this process alone; each replica finds out for itself.
 */
export function createLanes(limits: LaneLimits, now: () => number = Date.now) {
  const lanes = new Map<string, Lane>()
  const adapters = new Map<string, number>()
  const adapterOf = (key: string) => key.slice(key.indexOf(' ') + 1)
  const count = (key: string, change: 1 | -1) => {
    const calls = (adapters.get(adapterOf(key)) ?? 0) + change
    if (calls === 0) adapters.delete(adapterOf(key))
    else adapters.set(adapterOf(key), calls)
  }
  const laneAt = (key: string) => {
    const lane = lanes.get(key) ?? { inFlight: 0, failures: 0, pauseMs: 0, openUntil: 0 }
    lanes.set(key, lane)
    return lane
  }
  const roomOf = ({ inFlight, pauseMs, openUntil }: Lane) => {
    if (pauseMs === 0) return limits.seller - inFlight
    return now() < openUntil ? 0 : 1 - inFlight
  }

  return {
    limits,
    begin(key: string) {
      laneAt(key).inFlight += 1
      count(key, 1)
    },
    /** A call came to its end. Tells what that made of the circuit. */
    end(key: string, answered: boolean): 'opened' | 'closed' | undefined {
      const lane = laneAt(key)
      lane.inFlight -= 1
      count(key, -1)
      if (answered) {
        const wasOpen = lane.pauseMs > 0
        Object.assign(lane, { failures: 0, pauseMs: 0, openUntil: 0 })
        if (lane.inFlight === 0) lanes.delete(key)
        return wasOpen ? 'closed' : undefined
      }
      lane.failures += 1
      // Calls that began before it opened say nothing new.
      if (lane.failures < FAILURES_TO_OPEN || now() < lane.openUntil) return undefined
      lane.pauseMs = Math.min(LONGEST_PAUSE_MS, lane.pauseMs === 0 ? FIRST_PAUSE_MS : lane.pauseMs * 2)
      lane.openUntil = now() + lane.pauseMs
      return 'opened'
    },
    /** How long the lane's circuit stays open; 0 = it is closed, or may be tried. */
    pauseOf: (key: string) => Math.max(0, (lanes.get(key)?.openUntil ?? 0) - now()),
    /** Adapters that are called, and for how many more calls at a time each has room. */
    adapterRooms: (): Map<string, number> =>
      new Map([...adapters].map(([offerType, calls]) => [offerType, Math.max(0, limits.adapter - calls)] as const)),
    /** Lanes with less room than the limit, and how much. */
    rooms: (): Map<string, number> =>
      new Map([...lanes].map(([key, lane]) => [key, Math.max(0, roomOf(lane))] as const)),
    /** Open circuits by offer type. */
    open(): Map<string, number> {
      const counts = new Map<string, number>()
      for (const [key, { pauseMs }] of lanes) {
        const offerType = adapterOf(key)
        counts.set(offerType, (counts.get(offerType) ?? 0) + (pauseMs > 0 ? 1 : 0))
      }
      return counts
    },
  }
}

export type Lanes = ReturnType<typeof createLanes>
