/** Order statuses on the wire (market-api.md 5.4). Confirmation has no status of its own. */
export const OrderStatus = {
  paymentDue: 'https://schema.org/OrderPaymentDue',
  paymentProcessing: 'https://aboutcircles.com/status/PaymentProcessing',
  paymentComplete: 'https://schema.org/PaymentComplete',
  cancelled: 'https://schema.org/OrderCancelled',
} as const
export type OrderStatus = (typeof OrderStatus)[keyof typeof OrderStatus]

export const Availability = {
  inStock: 'https://schema.org/InStock',
  outOfStock: 'https://schema.org/OutOfStock',
} as const
