/** Identifiers of the market (market-api.md 5.1). The random part is always 128 bits from the caller's CSPRNG. */

export const ORDER_ID = /^ord_[0-9A-F]{32}$/
export const BASKET_ID = /^bkt_[0-9a-f]{32}$/

const hex = (random: Uint8Array) => {
  if (random.length !== 16) throw new RangeError('an id takes 16 random bytes')
  return Array.from(random, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

export const orderId = (random: Uint8Array) => `ord_${hex(random).toUpperCase()}`
export const paymentReference = (random: Uint8Array) => `pay_${hex(random).toUpperCase()}`
export const basketId = (random: Uint8Array) => `bkt_${hex(random)}`

/**
 * What a payer wrote into the transfer's data, as the market compares it (payments.md 3).
 * Undefined when it can't be a reference: blank, NUL inside, over 256 characters, or a malformed `pay_…`.
 */
export function normalizePaymentReference(text: string): string | undefined {
  const trimmed = text.trim()
  if (trimmed === '' || trimmed.includes('\0') || trimmed.length > 256) return undefined
  if (!/^pay_/i.test(trimmed)) return trimmed
  const digits = trimmed.slice(4)
  return /^[0-9a-f]{32}$/i.test(digits) ? `pay_${digits.toUpperCase()}` : undefined
}
