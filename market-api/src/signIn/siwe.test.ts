import fc from 'fast-check'
import { parseSiweMessage } from 'viem/siwe'
import { describe, expect, it } from 'vitest'
import { isStatement, lifetimeMinutes, signInMessage, signInOrigin } from './siwe.ts'

const ADDRESS = '0x7e5f4552091a69125d5dfcb7b8c2659029395bdf'
const FROM = new Date('2026-01-01T00:00:00Z')
const TO = new Date('2026-01-01T00:10:00Z')
const NONCE = '0x00112233445566778899aabbccddeeff'

describe('a statement', () => {
  it.each([
    ['Sign in to Circles Market', true],
    ['Anmelden im Markt – grüß Gott 🥐', true],
    ['x'.repeat(200), true],
    ['x'.repeat(201), false],
    ['hi\n\nURI: https://evil.example', false],
    ['hi\rURI: https://evil.example', false],
    ['hi\u2028URI: https://evil.example', false],
    ['hi\u0085there', false],
    ['tab\there', false],
    ['', false],
  ])('market-api:A-135 %j: %s', (text, fine) => {
    expect(isStatement(text)).toBe(fine)
  })
})

describe('the text', () => {
  it('is what a reader of EIP-4361 reads, whatever the statement', () => {
    const statement = fc.string({ minLength: 1, maxLength: 200, unit: 'grapheme' }).filter(isStatement)
    const host = fc.constantFrom('market.example.com', 'shop.example.com:8443', 'localhost:5173', '127.0.0.1:65001')
    fc.assert(
      fc.property(statement, host, (text, domain) => {
        const request = { address: ADDRESS, chainId: 100, statement: text }
        const message = signInMessage(request, new URL(`http://${domain}/page`), NONCE, FROM, TO)
        expect(message.split('\n')).toHaveLength(11)
        const { statement: _read, ...fields } = parseSiweMessage(message)
        expect(fields).toEqual({
          domain,
          address: '0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf',
          uri: `http://${domain}`,
          version: '1',
          chainId: 100,
          nonce: NONCE,
          issuedAt: FROM,
          expirationTime: TO,
        })
        expect(message.split('\n')[3]).toBe(text)
      }),
    )
  })

  it('can be for any host that a page can be on', () => {
    for (const base of ['http://market:65001', 'http://[::1]:3000', 'https://xn--bcher-kva.xn--p1ai']) {
      const message = signInMessage({ address: ADDRESS, chainId: 100 }, new URL(base), NONCE, FROM, TO)
      expect(message.split('\n')[0]).toBe(`${base.split('//')[1]} wants you to sign in with your Ethereum account:`)
      expect(message.split('\n').slice(2, 6)).toEqual(['', 'Sign in to Circles Market', '', `URI: ${base}`])
    }
  })
})

describe('where a sign-in is for', () => {
  const BASE = 'https://market.example.com/api'
  const host = (pageOrigin: string | undefined, ...allowed: string[]) => signInOrigin(pageOrigin, BASE, allowed)?.origin

  it.each([
    ['https://shop.example.com', ['shop.example.com', 'market.example.com'], 'https://shop.example.com'],
    ['https://shop.example.com:8443', ['Shop.Example.com:8443'], 'https://shop.example.com:8443'],
    ['https://shop.example.com:8443', ['shop.example.com', 'market.example.com'], 'https://market.example.com'],
    ['https://evil.example', ['market.example.com'], 'https://market.example.com'],
    ['https://evil.example', ['shop.example.com'], undefined],
    ['https://evil.example', ['*'], 'https://evil.example'],
    ['null', ['*'], 'https://market.example.com'],
    ['chrome-extension://abc', ['*'], 'https://market.example.com'],
    [undefined, ['market.example.com'], 'https://market.example.com'],
    [undefined, ['shop.example.com'], undefined],
  ])('%s with %j allowed: %s', (pageOrigin, allowed, expected) => {
    expect(host(pageOrigin, ...allowed)).toBe(expected)
  })
})

it.each([
  [undefined, 10],
  [999, 30],
  [30, 30],
  [1.9, 1],
  [0, 1],
  [-5, 1],
])('market-api:A-134 %s minutes asked for are %i', (asked, minutes) => {
  expect(lifetimeMinutes(asked)).toBe(minutes)
})
