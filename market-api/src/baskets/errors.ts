import { ConflictError, GoneError, InvalidError, NotFoundError } from '@market/kit/errors'
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

export class BasketVersionConflictError extends ConflictError {
  constructor() {
    super('basket_version_conflict', 'The basket changed since you last read it')
  }
}

/** A line that can't be sold as it stands. `line` is its place in the basket. */
export class UnsellableLineError extends InvalidError {
  constructor(code: string, message: string, line: number) {
    super(code, message, { path: `/items/${line}` }, 422)
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
 * The seller published something else since the buyer put it into the basket. A PATCH of the items takes the products as they
 * are now; its answer shows them.
 */
export class ProductChangedError extends ConflictError {
  constructor(changes: LineChange[]) {
    const [first] = changes
    const others = changes.length - 1
    const more = others === 0 ? '' : `, and ${others} more ${others === 1 ? 'line' : 'lines'} changed`
    super('product_changed', `${describe(first!)}${more}. Update the basket to accept that`, {
      path: `/items/${first!.line}`,
      changes: changes.map(({ line, before, now }) => ({
        path: `/items/${line}`,
        before: identify(before),
        now: identify(now),
      })),
    })
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
  readonly validation: ValidationResult
  constructor(validation: ValidationResult) {
    super('invalid_basket', 'invalid basket')
    this.validation = validation
  }
}
