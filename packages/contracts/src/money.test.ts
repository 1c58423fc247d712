import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decimalFromWei, jsonNumberFromWei, MoneyError, weiFromDecimal, weiFromJsonNumber } from './money.ts'

describe('money', () => {
  it('reads decimals exactly, exponents included', () => {
    expect(weiFromDecimal('19.5')).toBe(19_500_000_000_000_000_000n)
    expect(weiFromJsonNumber(1e-7)).toBe(100_000_000_000n)
    expect(weiFromJsonNumber(1e21)).toBe(10n ** 39n)
    expect(weiFromJsonNumber(0.1) + weiFromJsonNumber(0.2)).toBe(weiFromJsonNumber(0.3))
    expect(weiFromDecimal('-5')).toBe(-5n * 10n ** 18n)
  })

  it('refuses what is not an amount', () => {
    for (const text of ['', 'abc', '1,5', '0x10', '1.', '1e9999', `0.${'1'.repeat(19)}`, '9'.repeat(60)]) {
      expect(() => weiFromDecimal(text), text).toThrow(MoneyError)
    }
    expect(() => weiFromJsonNumber(Number.NaN)).toThrow(MoneyError)
  })

  it('gives back every amount it prints', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 10n ** 30n }), (wei) => weiFromDecimal(decimalFromWei(wei)) === wei),
    )
  })

  it('shows sums of prices as the number a person would write', () => {
    expect(jsonNumberFromWei(3n * weiFromJsonNumber(0.1))).toBe(0.3)
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 10_000 }), fc.integer({ min: 0, max: 99 }), (whole, cents) => {
        const price = Number(`${whole}.${String(cents).padStart(2, '0')}`)
        return jsonNumberFromWei(weiFromJsonNumber(price)) === price
      }),
    )
  })
})
