/** The last order of a page: those of the next one come after it, newest first. */
export type OrderPlace = {
  /** Microseconds since 1970 as Postgres keeps them; a Date would round, and an order at the edge would show twice or never. */
  createdAtMicros: string
  orderId: string
}

/** base64url of `{createdAtMicros}.{orderId}`. */
export function encodeOrderCursor({ createdAtMicros, orderId }: OrderPlace): string {
  return Buffer.from(`${createdAtMicros}.${orderId}`).toString('base64url')
}

const PLACE = /^([0-9]{1,17})\.(ord_[0-9A-F]{32})$/

/** Undefined when the text is none of ours. */
export function decodeOrderCursor(text: string): OrderPlace | undefined {
  const [, createdAtMicros, orderId] = PLACE.exec(Buffer.from(text, 'base64url').toString('latin1')) ?? []
  if (createdAtMicros === undefined || orderId === undefined) return undefined
  const place = { createdAtMicros, orderId }
  // Node reads past what is no base64.
  return encodeOrderCursor(place) === text ? place : undefined
}
