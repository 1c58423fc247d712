import type { ServiceRoute } from '../serviceRoutes/resolveRoute.ts'

export type JobLine = { lineIndex: number; seller: string; offerType: string | null }
/** `waitsFor`: why nothing can be done by itself; null = a worker takes it. */
export type PlannedJob = {
  seller: string
  offerType: string
  lineIndexes: number[]
  waitsFor: 'route_not_found' | 'manual' | null
}

/** Offer type of lines nobody is set up to deliver: their job waits for a person, so that no paid line vanishes. */
export const UNROUTED = 'unrouted'
/** Offer type of one-offs that no adapter delivers: their seller hands them over and says so (completeManualJob.ts). */
export const MANUAL = 'manual'

/** Who delivers a line by the route it has now; null = nobody. `isOneOff`: it was one when it was ordered. */
export function offerTypeOf(
  route: Pick<ServiceRoute, 'offerType' | 'isOneOff' | 'fulfillmentUrl'> | undefined,
  isOneOff: boolean,
): string | null {
  if (route?.fulfillmentUrl === undefined && (route?.isOneOff ?? isOneOff)) return MANUAL
  return route?.offerType ?? null
}

/** One job a seller and offer type, each with only its own lines (fulfilment.md 14). */
export function planJobs(lines: readonly JobLine[]): PlannedJob[] {
  const jobs = new Map<string, PlannedJob>()
  for (const { lineIndex, seller, offerType } of lines) {
    const key = `${seller}:${offerType ?? UNROUTED}`
    const job = jobs.get(key) ?? {
      seller,
      offerType: offerType ?? UNROUTED,
      lineIndexes: [],
      waitsFor: offerType === null ? 'route_not_found' : offerType === MANUAL ? 'manual' : null,
    }
    job.lineIndexes.push(lineIndex)
    jobs.set(key, job)
  }
  return [...jobs.values()]
}
