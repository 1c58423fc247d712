import {
  AppError,
  ConflictError,
  GoneError,
  InvalidError,
  NotFoundError,
  PreconditionFailedError,
  UpstreamError,
} from '@market/kit/errors'
import type { BasketItem, ValidationResult } from './basket.ts'

export class BasketNotFoundError extends NotFoundError {
  constructor() {
    super('basket_not_found', 'Basket not found')
  }
}

export class BasketExpiredError extends GoneError {
  constructor() {
    super('basket_expired', 'The basket has expired')
  }
}

export class BasketCheckedOutError extends ConflictError {
  constructor() {
    super('basket_checked_out', 'The basket is already checked out')
  }
}

const CHANGED = ['basket_version_conflict', 'The basket changed since you last read it'] as const

/** It changed while the request was at work; trying again is all there is to do. */
export class BasketVersionConflictError extends ConflictError {
  constructor(version: string) {
    super(...CHANGED, { version: Number(version) })
  }
}

/** `If-Match` names another version. */
export class OtherVersionError extends PreconditionFailedError {
  constructor(version: string) {
    super(...CHANGED, { version: Number(version) })
  }
}

/** A line that can't be sold as it stands. `line` is its place in the basket. */
export class UnsellableLineError extends InvalidError {
  constructor(code: string, message: string, line: number) {
    super(code, message, { path: `/items/${line}` }, 422)
  }
}

/** Neither sellable nor not: what says so could not be read just now. */
export class CatalogUnavailableError extends UpstreamError {
  constructor(where: string) {
    super('catalog_unavailable', `The catalog can't say at the moment whether there is ${where}`)
  }
}

/** Stock of many lines, asked of slow adapters. */
export class UpstreamDeadlineError extends AppError {
  constructor(seconds: number) {
    super(503, 'upstream_deadline', `The stock of these lines could not be read within ${seconds} s`, {
      retryAfterSeconds: 1,
    })
  }
}

/** Amounts of two currencies have no sum. */
export class MixedCurrenciesError extends InvalidError {
  constructor(first: BasketItem, other: BasketItem, line: number) {
    const currencies = `${nameOf(other)} is in ${other.offerSnapshot.priceCurrency}, ${nameOf(first)} in ${first.offerSnapshot.priceCurrency}`
    super('mixed_currencies', `All lines of a basket must be in one currency: ${currencies}`, {
      path: `/items/${line}`,
    })
  }
}

/** `line` is the place in the basket. */
export type LineChange = { line: number; before: BasketItem; now: BasketItem }

/**
 * The seller published something else since the buyer put it into the basket. `basket` in the body shows it as it would be now;
 * a PATCH of the items accepts that. Whoever sent `If-Match` reads `offer_changed` (market-api.md 4.8), others what they know
 * (catalog.md 6.6).
 */
export class ProductChangedError extends ConflictError {
  constructor(changes: LineChange[], basket: object, byVersion: boolean) {
    const [first] = changes
    const others = changes.length - 1
    const more = others === 0 ? '' : `, and ${others} more ${others === 1 ? 'line' : 'lines'} changed`
    const code = byVersion ? 'offer_changed' : 'product_changed'
    super(code, `${describe(first!)}${more}. Update the basket to accept that`, {
      path: `/items/${first!.line}`,
      changes: changes.map(({ line, before, now }) => ({
        path: `/items/${line}`,
        before: identify(before),
        now: identify(now),
      })),
    })
    this.extra = { basket }
  }
}

function describe({ before, now }: LineChange): string {
  const [was, is] = [priceOf(before), priceOf(now)]
  return was === is
    ? `${nameOf(now)} was changed by its seller, at the same price`
    : `${nameOf(now)} costs ${is} now instead of ${was}`
}

const nameOf = (item: BasketItem) => item.orderedItem.sku
const priceOf = ({ offerSnapshot: { price, priceCurrency } }: BasketItem) => `${price} ${priceCurrency}`
const identify = ({ productCid, linkKeccak, offerSnapshot: { price, priceCurrency } }: BasketItem) => ({
  price,
  priceCurrency,
  productCid,
  linkKeccak,
})

/** `error` and `validation` side by side is what clients read (market-api.md 0.4, E5). */
export class InvalidBasketError extends InvalidError {
  constructor(validation: ValidationResult) {
    super('invalid_basket', 'invalid basket')
    this.extra = { validation }
  }
}
