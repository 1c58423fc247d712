import {
  IDEMPOTENCY_KEY_HEADER,
  PROXY_HOP_HEADER,
  QuantitativeValue,
  SERVICE_KEY_HEADER,
} from '@market/contracts/fulfillment'
import { Availability } from '@market/contracts/statuses'
import { createGuardedFetch, type GuardedFetchOptions, OutboundError } from '@market/kit/guardedFetch'

export type FulfillmentCall =
  | { kind: 'answered'; httpStatus: number; body: unknown }
  /** No usable answer: the adapter may or may not have delivered. */
  | { kind: 'failed'; httpStatus: number | null; error: string }

/**
 * The market's side of the adapter contract (fulfilment.md 5, 7, 9). Reads ask now; with `maxAgeMs` an outcome that old,
 * failures included, will do, and whoever asks meanwhile shares the call: 0 shares a call under way and nothing older.
 */
export type AdapterClient = {
  inventory(url: string, maxAgeMs?: number): Promise<QuantitativeValue>
  /** One of the two schema.org availability IRIs. */
  availability(url: string, maxAgeMs?: number): Promise<string>
  /** Never throws: what went wrong is part of the answer, for the job to record. */
  fulfill(url: string, idempotencyKey: string, body: object): Promise<FulfillmentCall>
}

export type AdapterClientOptions = {
  /** Service key by configured origin. It is sent there and nowhere else: URLs come from rows, trust from configuration. */
  keys: ReadonlyMap<string, string>
  inventoryTimeoutMs: number
  availabilityTimeoutMs: number
  fulfillmentTimeoutMs: number
} & Omit<GuardedFetchOptions, 'configured'>

export function createAdapterClient(options: AdapterClientOptions): AdapterClient {
  const { keys, inventoryTimeoutMs, availabilityTimeoutMs, fulfillmentTimeoutMs, ...guards } = options
  const configured = new Map([...keys].map(([origin, key]) => [origin, { [SERVICE_KEY_HEADER]: key }]))
  const guardedFetch = createGuardedFetch({ ...guards, configured })
  const headers = { [PROXY_HOP_HEADER]: '1', Accept: 'application/json' }

  const read = async (url: string, timeoutMs: number): Promise<unknown> => {
    const { status, text } = await guardedFetch(url, { headers, timeoutMs })
    if (status < 200 || status > 299) throw wrongAnswer(`HTTP ${status}`)
    try {
      return JSON.parse(text)
    } catch {
      throw new OutboundError('upstream_invalid', 'Upstream sent invalid response', 'The answer is not JSON')
    }
  }

  return {
    inventory: shareable(async (url) => parseInventory(await read(url, inventoryTimeoutMs))),
    availability: shareable(async (url) => parseAvailability(await read(url, availabilityTimeoutMs))),

    async fulfill(url, idempotencyKey, body) {
      try {
        const { status, text } = await guardedFetch(url, {
          method: 'POST',
          headers: {
            ...headers,
            'Content-Type': 'application/json; charset=utf-8',
            [IDEMPOTENCY_KEY_HEADER]: idempotencyKey,
          },
          body: JSON.stringify(body),
          timeoutMs: fulfillmentTimeoutMs,
          // A buyer's address goes to nobody whom configuration does not name.
          configuredOnly: true,
          repeatable: true,
        })
        try {
          return { kind: 'answered', httpStatus: status, body: JSON.parse(text) }
        } catch {
          return { kind: 'failed', httpStatus: status, error: `HTTP ${status} without a JSON body` }
        }
      } catch (error) {
        if (!(error instanceof OutboundError)) throw error
        return { kind: 'failed', httpStatus: null, error: `${error.message}: ${error.details.detail}` }
      }
    },
  }
}

const wrongAnswer = (detail: string) => new OutboundError('upstream_error', 'Upstream error', detail)

function parseInventory(body: unknown): QuantitativeValue {
  const parsed = QuantitativeValue.safeParse(body)
  // An ERP that sold more than it had says so with a negative count (market-api.md W-50).
  if (parsed.success) return { ...parsed.data, value: Math.max(0, parsed.data.value) }
  const isObject = typeof body === 'object' && body !== null && !Array.isArray(body)
  throw wrongAnswer((isObject && parsed.error.issues[0]?.message) || 'inventoryFeed must be a QuantitativeValue object')
}

function parseAvailability(body: unknown): string {
  if (body === Availability.inStock || body === Availability.outOfStock) return body
  if (typeof body !== 'string') throw wrongAnswer('availabilityFeed must be a single JSON string')
  if (body.trim() === '') throw wrongAnswer('availabilityFeed string is empty')
  if (!URL.canParse(body)) throw wrongAnswer('availabilityFeed value must be an absolute URI')
  const detail = `Expected ${Availability.inStock} or ${Availability.outOfStock}`
  throw new OutboundError('upstream_invalid', 'Upstream sent invalid response', detail)
}

/** URLs whose last outcome is kept; the oldest goes first. */
const MAX_KEPT = 10_000

/** `ask`, and outcomes of `maxAgeMs` and less for those who take them. What asks now neither waits for others nor tells them. */
function shareable<T>(ask: (url: string) => Promise<T>): (url: string, maxAgeMs?: number) => Promise<T> {
  const kept = new Map<string, { outcome: Promise<T>; knownAt?: number }>()
  return (url, maxAgeMs) => {
    if (maxAgeMs === undefined) return ask(url)
    const found = kept.get(url)
    const isFresh = found && (found.knownAt === undefined || performance.now() - found.knownAt < maxAgeMs)
    if (isFresh) return found.outcome
    const call: { outcome: Promise<T>; knownAt?: number } = { outcome: ask(url) }
    const settle = () => void (call.knownAt = performance.now())
    call.outcome.then(settle, settle)
    kept.delete(url)
    kept.set(url, call)
    if (kept.size > MAX_KEPT) kept.delete(kept.keys().next().value!)
    return call.outcome
  }
}
