/** CRC amounts: 18 decimals, bigint wei inside, decimal strings or JSON numbers at the edge. */

const DECIMALS = 18
const WEI_PER_CRC = 10n ** 18n
/** numeric(78,0), the column of every amount, holds any uint256. */
const MAX_WEI = 2n ** 256n - 1n

export class MoneyError extends Error {}

/** Wei of a decimal text such as `19.5` or `1e-3`. Throws `MoneyError`: not a decimal, over 18 fraction digits, over uint256. */
export function weiFromDecimal(text: string): bigint {
  const match = /^(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?$/.exec(text.trim())
  if (!match) throw new MoneyError(`not a decimal number: ${text.slice(0, 40)}`)
  const [, sign, whole = '', fraction = '', exponent = '0'] = match
  const shift = DECIMALS - fraction.length + Number(exponent)
  const digits = BigInt(whole + fraction)
  if (shift < 0 && digits % 10n ** BigInt(-shift) !== 0n) {
    throw new MoneyError(`more than ${DECIMALS} fraction digits: ${text.slice(0, 40)}`)
  }
  const magnitude = shift >= 0 ? digits * 10n ** BigInt(shift) : digits / 10n ** BigInt(-shift)
  if (magnitude > MAX_WEI) throw new MoneyError(`amount out of range: ${text.slice(0, 40)}`)
  return sign === '-' ? -magnitude : magnitude
}

/** Wei of a price as JSON carries it: the shortest decimal text of the double is what the seller wrote. */
export function weiFromJsonNumber(value: number): bigint {
  if (!Number.isFinite(value)) throw new MoneyError('not a finite number')
  return weiFromDecimal(String(value))
}

/** Decimal text of an amount without trailing zeros: `19.5`. */
export function decimalFromWei(wei: bigint): string {
  const magnitude = wei < 0n ? -wei : wei
  const fraction = (magnitude % WEI_PER_CRC).toString().padStart(DECIMALS, '0').replace(/0+$/, '')
  return `${wei < 0n ? '-' : ''}${magnitude / WEI_PER_CRC}${fraction && `.${fraction}`}`
}

/** The JSON number of an amount. Existing clients do arithmetic on prices, so the wire can't carry strings (clients.md 6). */
export function jsonNumberFromWei(wei: bigint): number {
  return Number(decimalFromWei(wei))
}
