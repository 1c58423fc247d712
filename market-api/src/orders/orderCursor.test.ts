import fc from 'fast-check'
import { expect, it } from 'vitest'
import { decodeOrderCursor, encodeOrderCursor } from './orderCursor.ts'

const orderId = fc
  .array(fc.constantFrom(...'0123456789ABCDEF'), { minLength: 32, maxLength: 32 })
  .map((digits) => `ord_${digits.join('')}`)
const micros = fc.bigInt({ min: 0n, max: 10n ** 17n - 1n }).map(String)

it('reads back what it wrote', () => {
  fc.assert(
    fc.property(micros, orderId, (createdAtMicros, id) => {
      const cursor = encodeOrderCursor({ createdAtMicros, orderId: id })
      expect(cursor).toMatch(/^[A-Za-z0-9_-]+$/)
      expect(decodeOrderCursor(cursor)).toEqual({ createdAtMicros, orderId: id })
    }),
  )
})

it('reads nothing else', () => {
  const id = `ord_${'A'.repeat(32)}`
  const wrong = [
    `1.${id.toLowerCase()}`,
    `-1.${id}`,
    `1.${id}x`,
    `1. ${id}`,
    `.${id}`,
    `1e3.${id}`,
    `${'9'.repeat(18)}.${id}`,
  ]
  const encoded = (text: string) => Buffer.from(text).toString('base64url')
  const garbled = [`${encoded(`1.${id}`)}=`, `!${encoded(`1.${id}`)}`, `${encoded(`1.${id}`)} `, '', `1.${id}`]
  for (const text of [...wrong.map(encoded), ...garbled]) expect(decodeOrderCursor(text), text).toBeUndefined()
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(decodeOrderCursor(text)).toBeUndefined()
    }),
  )
})
