import { ConflictError, GoneError, InvalidError, NotFoundError } from '@market/kit/errors'
import type { ValidationResult } from './basket.ts'

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

/** `error` and `validation` side by side is what clients read (market-api.md 0.4, E5). */
export class InvalidBasketError extends InvalidError {
  readonly validation: ValidationResult
  constructor(validation: ValidationResult) {
    super('invalid_basket', 'invalid basket')
    this.validation = validation
  }
}
