import type { Basket, ValidationResult } from '@market/contracts/marketApi'

type Refusal = {
  /** Stable, such as `product_changed`; undefined when it was not the market itself that answered. */
  code?: string | undefined
  details?: Record<string, unknown> | undefined
  /** What its operator finds the request by. */
  requestId?: string | undefined
  /** With `invalid_basket`: what is missing. */
  validation?: ValidationResult | undefined
  /** With `product_changed` and `offer_changed`: the basket as it would be now. */
  basket?: Basket | undefined
  /** When it is worth another try, if the market said so. */
  retryAfterSeconds?: number | undefined
}

/** The market said no. */
export class MarketError extends Error {
  readonly status: number
  readonly code: Refusal['code']
  readonly details: Refusal['details']
  readonly requestId: Refusal['requestId']
  readonly validation: Refusal['validation']
  readonly basket: Refusal['basket']
  readonly retryAfterSeconds: Refusal['retryAfterSeconds']

  constructor(status: number, message: string, refusal: Refusal = {}) {
    super(message)
    this.name = 'MarketError'
    this.status = status
    this.code = refusal.code
    this.details = refusal.details
    this.requestId = refusal.requestId
    this.validation = refusal.validation
    this.basket = refusal.basket
    this.retryAfterSeconds = refusal.retryAfterSeconds
  }
}

/**
 * The market was not reached, or its answer did not come through. Nobody knows then whether it did what it was asked.
 * `broken`: something answered, but not to the end, or not as a market does.
 */
export class NetworkError extends Error {
  readonly reason: 'unreachable' | 'timeout' | 'broken'

  constructor(reason: NetworkError['reason'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'NetworkError'
    this.reason = reason
  }
}

/** What a refused request's answer says, whichever of the market's two shapes it has (market-api.md 0.4), or a proxy's none. */
export function marketError(status: number, headers: Headers, text: string): MarketError {
  const body = objectOf(text)
  const { error, title, detail, code, requestId, validation, basket, status: _, ...members } = body
  const message = [error ?? title ?? `HTTP ${status}`, detail].filter((part) => typeof part === 'string').join(': ')
  const details = error === undefined ? members : body.details
  return new MarketError(status, message, {
    code: typeof code === 'string' ? code : undefined,
    details: isObject(details) ? details : undefined,
    requestId: typeof requestId === 'string' ? requestId : (headers.get('x-request-id') ?? undefined),
    validation: validation as ValidationResult | undefined,
    basket: basket as Basket | undefined,
    retryAfterSeconds: secondsOf(headers.get('retry-after')),
  })
}

function objectOf(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    return isObject(value) ? value : {}
  } catch {
    return {}
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Markets send seconds; a proxy between may send a date. */
function secondsOf(retryAfter: string | null): number | undefined {
  if (retryAfter === null) return undefined
  if (/^[0-9]{1,9}$/.test(retryAfter)) return Number(retryAfter)
  const at = Date.parse(retryAfter)
  return Number.isNaN(at) ? undefined : Math.max(0, Math.ceil((at - Date.now()) / 1000))
}
