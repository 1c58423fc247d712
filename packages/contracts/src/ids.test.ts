import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { AddressError, normalizeAddress, parseEip155Id } from './address.ts'
import { BASKET_ID, basketId, normalizePaymentReference, ORDER_ID, orderId, paymentReference } from './ids.ts'

const random = fc.uint8Array({ minLength: 16, maxLength: 16 })

describe('ids', () => {
  it('keeps the forms existing clients check', () => {
    fc.assert(fc.property(random, (bytes) => ORDER_ID.test(orderId(bytes)) && BASKET_ID.test(basketId(bytes))))
  })

  it('payments:P3 market-api:A-107 reads an issued reference back in any case', () => {
    fc.assert(
      fc.property(random, (bytes) => {
        const issued = paymentReference(bytes)
        return normalizePaymentReference(` ${issued.toLowerCase()} `) === issued
      }),
    )
    expect(normalizePaymentReference('PAY_0123456789abcdef0123456789abcdef')).toBe(
      'pay_0123456789ABCDEF0123456789ABCDEF',
    )
  })

  it('payments:P4 payments:P5 payments:P6 keeps foreign text and refuses what cannot be a reference', () => {
    expect(normalizePaymentReference('pay_12')).toBeUndefined()
    expect(normalizePaymentReference(' invoice-77 ')).toBe('invoice-77')
    expect(normalizePaymentReference('x'.repeat(257))).toBeUndefined()
    expect(normalizePaymentReference('a\0b')).toBeUndefined()
    expect(normalizePaymentReference('  ')).toBeUndefined()
  })

  it('market-api:A-005 market-api:A-006 says what is wrong with an address', () => {
    expect(() => normalizeAddress('0x123')).toThrow(new AddressError('Address must be 42 chars and start with 0x'))
    expect(() => normalizeAddress('')).toThrow(new AddressError('Address is required'))
    expect(() => normalizeAddress(`0x${'g'.repeat(40)}`)).toThrow(AddressError)
    expect(normalizeAddress(`0X${'AB'.repeat(20)}`)).toBe(`0x${'ab'.repeat(20)}`)
    expect(parseEip155Id(`eip155:100:0x${'AB'.repeat(20)}`)).toEqual({ chainId: 100, address: `0x${'ab'.repeat(20)}` })
    expect(parseEip155Id('eip155:100:0x12')).toBeUndefined()
  })
})
