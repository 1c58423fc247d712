export type JobLine = { lineIndex: number; seller: string; offerType: string | null }
export type PlannedJob = { seller: string; offerType: string; lineIndexes: number[]; routed: boolean }

/** Offer type of lines nobody is set up to deliver: their job waits for a person, so that no paid line vanishes. */
export const UNROUTED = 'unrouted'

/** One job a seller and offer type, each with only its own lines (fulfilment.md 14). */
export function planJobs(lines: readonly JobLine[]): PlannedJob[] {
  const jobs = new Map<string, PlannedJob>()
  for (const { lineIndex, seller, offerType } of lines) {
    const key = `${seller}:${offerType ?? UNROUTED}`
    const job = jobs.get(key) ?? {
      seller,
      offerType: offerType ?? UNROUTED,
      lineIndexes: [],
      routed: offerType !== null,
    }
    job.lineIndexes.push(lineIndex)
    jobs.set(key, job)
  }
  return [...jobs.values()]
}
