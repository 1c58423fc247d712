import { createGate, type Gate } from '@market/kit/gate'

/**
 * A gate of `places` of which a client has `placesEach` at most: whoever is slow in all of theirs keeps nobody else waiting.
 * The rest wait their turn; 503 with `Retry-After` is for those who come when `maxWaiting` of the client or of all do already.
 */
export function createFairGate({
  places,
  placesEach,
  maxWaiting,
}: {
  places: number
  placesEach: number
  maxWaiting: number
}) {
  const all = createGate(places, maxWaiting)
  const gates = new Map<string, { gate: Gate; users: number }>()

  return async <T>(client: string, work: () => Promise<T>): Promise<T> => {
    const own = gates.get(client) ?? { gate: createGate(placesEach, maxWaiting), users: 0 }
    gates.set(client, own)
    own.users += 1
    try {
      return await own.gate(() => all(work))
    } finally {
      own.users -= 1
      if (own.users === 0) gates.delete(client)
    }
  }
}
