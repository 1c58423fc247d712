import {
  IDEMPOTENCY_KEY_HEADER,
  PROXY_HOP_HEADER,
  QuantitativeValue,
  SERVICE_KEY_HEADER,
} from '@market/contracts/fulfillment'
import { Availability } from '@market/contracts/statuses'
import { messageOf, UpstreamError } from '@market/kit/errors'
import { readCapped, TooLargeError } from '@market/kit/outbound'

export type FulfillmentCall =
  | { kind: 'answered'; httpStatus: number; body: unknown }
  /** No usable answer: the adapter may or may not have delivered. */
  | { kind: 'failed'; httpStatus: number | null; error: string }

/** The market's side of the adapter contract (fulfilment.md 5, 7, 9). */
export type AdapterClient = {
  inventory(url: string): Promise<QuantitativeValue>
  /** One of the two schema.org availability IRIs. */
  availability(url: string): Promise<string>
  /** Never throws: what went wrong is part of the answer, for the job to record. */
  fulfill(url: string, idempotencyKey: string, body: object): Promise<FulfillmentCall>
}

export type AdapterClientOptions = {
  /** Service key by trusted origin. Any other origin is refused: URLs come from rows, trust from configuration. */
  keys: ReadonlyMap<string, string>
  inventoryTimeoutMs: number
  availabilityTimeoutMs: number
  fulfillmentTimeoutMs: number
  maxResponseBytes: number
}

export function createAdapterClient(options: AdapterClientOptions): AdapterClient {
  const request = async (url: string, timeoutMs: number, init: RequestInit = {}) => {
    const key = options.keys.get(new URL(url).origin)
    if (key === undefined) throw new UpstreamError('upstream_blocked', 'Upstream blocked')
    const response = await fetch(url, {
      ...init,
      // A redirect would carry the service key to wherever it points.
      redirect: 'manual',
      signal: AbortSignal.timeout(timeoutMs),
      headers: { [SERVICE_KEY_HEADER]: key, [PROXY_HOP_HEADER]: '1', Accept: 'application/json', ...init.headers },
    })
    const bytes = await readCapped(response, options.maxResponseBytes)
    return { status: response.status, ok: response.ok, text: new TextDecoder().decode(bytes) }
  }

  const read = async (url: string, timeoutMs: number): Promise<unknown> => {
    let answer: Awaited<ReturnType<typeof request>>
    try {
      answer = await request(url, timeoutMs)
    } catch (error) {
      throw asUpstreamError(error)
    }
    if (!answer.ok) throw new UpstreamError('upstream_error', `HTTP ${answer.status}`)
    try {
      return JSON.parse(answer.text)
    } catch {
      throw new UpstreamError('upstream_invalid', 'The upstream did not answer with JSON')
    }
  }

  return {
    async inventory(url) {
      const parsed = QuantitativeValue.safeParse(await read(url, options.inventoryTimeoutMs))
      if (parsed.success) return { ...parsed.data, value: Math.max(0, parsed.data.value) }
      const message = parsed.error.issues[0]?.message ?? ''
      throw new UpstreamError('upstream_invalid', message || 'inventoryFeed must be a QuantitativeValue object')
    },

    async availability(url) {
      const value = await read(url, options.availabilityTimeoutMs)
      if (value === Availability.inStock || value === Availability.outOfStock) return value
      throw new UpstreamError(
        'upstream_invalid',
        `Upstream sent invalid response: expected ${Availability.inStock} or ${Availability.outOfStock}`,
      )
    },

    async fulfill(url, idempotencyKey, body) {
      try {
        const { status, text } = await request(url, options.fulfillmentTimeoutMs, {
          method: 'POST',
          headers: { 'Content-Type': 'application/json; charset=utf-8', [IDEMPOTENCY_KEY_HEADER]: idempotencyKey },
          body: JSON.stringify(body),
        })
        try {
          return { kind: 'answered', httpStatus: status, body: JSON.parse(text) }
        } catch {
          return { kind: 'failed', httpStatus: status, error: `HTTP ${status} without a JSON body` }
        }
      } catch (error) {
        return { kind: 'failed', httpStatus: null, error: asUpstreamError(error).message }
      }
    },
  }
}

function asUpstreamError(error: unknown): UpstreamError {
  if (error instanceof UpstreamError) return error
  const options = { cause: error }
  if (error instanceof TooLargeError)
    return new UpstreamError('upstream_too_large', `Upstream ${error.message}`, options)
  const timeout = error instanceof Error && error.name === 'TimeoutError'
  if (timeout) return new UpstreamError('upstream_timeout', 'Upstream did not answer in time', { ...options, timeout })
  const reason = error instanceof Error && error.cause ? messageOf(error.cause) : messageOf(error)
  return new UpstreamError('upstream_unreachable', `Upstream HTTP error: ${reason}`, options)
}
