import type { StatusEvent } from '@market/contracts/marketApi'
import { OrderStatus } from '@market/contracts/statuses'
import type { Connection } from './connection.ts'
import { MarketError } from './errors.ts'
import { readEvents } from './eventStream.ts'
import { isPassing, sleep } from './patience.ts'

export type WatchOptions = {
  /** Ends the watch; it throws the signal's reason. */
  signal?: AbortSignal | undefined
  /** A stream that is silent for so long is given up: the market's heartbeat comes every 20 s. */
  silenceMs?: number
  /** Between two looks where the market gives no stream. */
  pollMs?: number
}

/** Where changes come from. */
export type Watched = {
  connection: Connection
  /** Path of the event stream. */
  path: string
  /** What has changed since it was last asked, for where there is no stream or it can't say what was missed. */
  lookUp(): Promise<StatusEvent[]>
}

const SILENCE_MS = 60_000
const POLL_MS = 2000
const FIRST_WAIT_MS = 1000
const LONGEST_WAIT_MS = 30_000
/** A stream that lasted so long was a good one. */
const GOOD_AFTER_MS = 10_000
/** How long nobody asks again for a stream that was refused; the market may have said otherwise. */
const REFUSED_FOR_MS = 60_000
/** Too many streams, or something between that knows none. */
const REFUSALS = new Set([404, 405, 406, 429, 501])

/**
 * Every change once, from now on, until the signal says otherwise. A stream that ends, breaks or falls silent is opened anew
 * after its last event, with the token of then; where there is none to be had, changes are looked up.
 *
 * @throws MarketError when the market refuses for good, such as 401 when nobody is signed in any more
 */
export async function* watchChanges(watched: Watched, options: WatchOptions = {}): AsyncGenerator<StatusEvent> {
  const { signal, silenceMs = SILENCE_MS } = options
  const firstTime = onceEach()
  let lastEventId: string | undefined
  for (let fruitless = 0; ; fruitless += 1) {
    signal?.throwIfAborted()
    const began = Date.now()
    try {
      const stream = await openStream(watched, lastEventId, signal)
      if (stream instanceof MarketError) {
        yield* poll(watched, stream, firstTime, options)
        continue
      }
      try {
        // Without an event to go on from, the stream can't tell what happened before it was there.
        if (lastEventId === undefined) yield* (await watched.lookUp()).filter(firstTime)
        for await (const { id, name, data } of readEvents(stream.body, silenceMs)) {
          lastEventId = id ?? lastEventId
          fruitless = 0
          const event = name === 'order-status' || name === 'message' ? eventOf(data) : undefined
          if (event && firstTime(event)) yield event
        }
      } finally {
        stream.close()
      }
    } catch (error) {
      signal?.throwIfAborted()
      if (!isPassing(error)) throw error
    }
    if (Date.now() - began > GOOD_AFTER_MS) fruitless = 0
    // Thousands lose their streams in one moment when a market restarts; they don't come back in one.
    await sleep(Math.random() * Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(fruitless, 10)), signal)
  }
}

/** The stream, or why there is none. */
async function openStream({ connection, path }: Watched, lastEventId: string | undefined, signal?: AbortSignal) {
  const headers = { Accept: 'text/event-stream', ...(lastEventId !== undefined && { 'Last-Event-ID': lastEventId }) }
  try {
    return await connection.stream({ path, headers, signed: true }, { signal })
  } catch (error) {
    if (error instanceof MarketError && REFUSALS.has(error.status)) return error
    throw error
  }
}

async function* poll(
  { lookUp }: Watched,
  { retryAfterSeconds }: MarketError,
  firstTime: (event: StatusEvent) => boolean,
  { signal, pollMs = POLL_MS }: WatchOptions,
): AsyncGenerator<StatusEvent> {
  const until = Date.now() + (retryAfterSeconds === undefined ? REFUSED_FOR_MS : retryAfterSeconds * 1000)
  do {
    yield* (await lookUp()).filter(firstTime)
    await sleep(pollMs * (0.5 + Math.random()), signal)
  } while (Date.now() < until)
}

function eventOf(data: string): StatusEvent | undefined {
  try {
    const event = JSON.parse(data) as Partial<StatusEvent> | null
    return event?.orderId && event.newStatus && event.changedAt ? (event as StatusEvent) : undefined
  } catch {
    return undefined
  }
}

const REMEMBERED = 10_000

/** Whether a change was not met before, by what the stream and the history say of it alike. */
function onceEach(): (event: StatusEvent) => boolean {
  const met = new Set<string>()
  return ({ orderId, newStatus, changedAt }) => {
    const key = `${orderId} ${newStatus} ${changedAt}`
    if (met.has(key)) return false
    met.add(key)
    if (met.size > REMEMBERED) met.delete(met.values().next().value!)
    return true
  }
}

type Change = Pick<StatusEvent, 'oldStatus' | 'newStatus' | 'changedAt'>
type Listed = { orderId: string; status: StatusEvent['newStatus']; paymentReference: string }

/**
 * Looks up changes among the newest orders. The first look only learns how they stand; of an order that comes later every
 * change is told, except that it was made: the stream does not tell that either.
 */
export function lookUpChanges(
  newest: () => Promise<Listed[]>,
  historyOf: (orderId: string) => Promise<Change[]>,
): Watched['lookUp'] {
  let known: Map<string, string> | undefined
  return async () => {
    const orders = await newest()
    const found: StatusEvent[] = []
    for (const { orderId, status, paymentReference } of orders) {
      const before = known ? (known.get(orderId) ?? OrderStatus.paymentDue) : status
      if (status === before) continue
      const history = await historyOf(orderId)
      const since = history.findLastIndex(({ newStatus }) => newStatus === before) + 1
      for (const { oldStatus, newStatus, changedAt } of history.slice(since)) {
        found.push({ orderId, paymentReference, oldStatus, newStatus, changedAt })
      }
    }
    known = new Map(orders.map(({ orderId, status }) => [orderId, status]))
    return found.toSorted((a, b) => (a.changedAt < b.changedAt ? -1 : 1))
  }
}

/** Nothing follows these. */
export const isFinal = (status: string): boolean =>
  status === OrderStatus.paymentComplete || status === OrderStatus.cancelled
