import { NotFoundError } from '@market/kit/errors'

/** "Not yours" and "not there" look the same on purpose (market-api.md 1.3). */
export class OrderNotFoundError extends NotFoundError {
  constructor() {
    super('order_not_found', 'Order not found')
  }
}
