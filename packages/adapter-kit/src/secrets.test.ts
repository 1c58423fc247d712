import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { openSecretBox, SecretsError } from './secrets.ts'

const key = (id: string) => `${id}:${randomBytes(32).toString('base64')}`
const PLACE = 'code_pool_codes.sealed/vouchers'

it('opens what it sealed, where it was sealed, whatever it is', () => {
  const box = openSecretBox(key('k1'))
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string(), (text, place) => {
      const sealed = box.seal(text, place)
      expect(sealed).toMatch(/^v1:k1:[\w-]+$/)
      expect(box.open(sealed, place)).toBe(text)
    }),
  )
})

it('never seals the same text to the same', () => {
  const box = openSecretBox(key('k1'))
  const seals = Array.from({ length: 100 }, () => box.seal('ABC-123', PLACE))
  expect(new Set(seals).size).toBe(100)
  expect(seals.join()).not.toContain('ABC')
})

it('opens nothing that was changed in any byte, cut, or moved', () => {
  const box = openSecretBox(key('k1'))
  const sealed = box.seal('ABC-123', PLACE)
  const [version, id, body = ''] = sealed.split(':')
  const bytes = Buffer.from(body, 'base64url')
  const withBody = (changed: Buffer) => `${version}:${id}:${changed.toString('base64url')}`
  for (let at = 0; at < bytes.length; at += 1) {
    const changed = Buffer.from(bytes)
    changed[at]! ^= 1
    expect(() => box.open(withBody(changed), PLACE), `byte ${at}`).toThrow(SecretsError)
    expect(() => box.open(withBody(bytes.subarray(0, at)), PLACE), `${at} bytes`).toThrow(SecretsError)
  }
  for (const place of ['', `${PLACE}2`, 'code_pool_codes.sealed/other']) {
    expect(() => box.open(sealed, place)).toThrow('moved from where it belongs')
  }
  for (const text of ['', 'ABC-123', 'v1', 'v1:k1', `v2:k1:${body}`, `v1:k2:${body}`]) {
    expect(() => box.open(text, PLACE)).toThrow(SecretsError)
  }
})

it('opens with the key before while keys change, seals with the first, and says which is which', () => {
  const [old, fresh] = [key('k1'), key('k2')]
  const before = openSecretBox(old)
  const during = openSecretBox(` ${fresh} , ${old} `)
  const after = openSecretBox(fresh)
  const sealed = before.seal('ABC-123', PLACE)
  expect([during.isCurrent(sealed), during.open(sealed, PLACE)]).toEqual([false, 'ABC-123'])
  const anew = during.seal('ABC-123', PLACE)
  expect([during.keyId, during.isCurrent(anew), after.open(anew, PLACE)]).toEqual(['k2', true, 'ABC-123'])
  expect(() => after.open(sealed, PLACE)).toThrow('not in ADAPTER_SECRETS_KEY')
  // Another key of the same name is another key.
  expect(() => openSecretBox(key('k1')).open(sealed, PLACE)).toThrow(SecretsError)
})

it.each([
  ['', 'must be id:base64'],
  [randomBytes(32).toString('base64'), 'must be id:base64'],
  [`:${randomBytes(32).toString('base64')}`, 'must be id:base64'],
  [`a b:${randomBytes(32).toString('base64')}`, 'must be id:base64'],
  [`k1:${randomBytes(16).toString('base64')}`, 'must hold keys of 32 bytes'],
  [`${key('k1')},`, 'must be id:base64'],
  [`${key('k1')},${key('k1')}`, 'names a key id twice'],
])('takes no %j for keys, and does not repeat it', (text, message) => {
  const error = (() => {
    try {
      return openSecretBox(text)
    } catch (thrown) {
      return thrown as Error
    }
  })() as Error
  expect(error).toBeInstanceOf(SecretsError)
  expect(error.message).toContain(message)
  for (const part of text.split(/[:,]/).filter((one) => one.length > 10)) expect(error.message).not.toContain(part)
})
