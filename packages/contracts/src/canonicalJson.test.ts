import { readFileSync } from 'node:fs'
import { utf8ToBytes } from '@noble/hashes/utils.js'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type JsonValue,
  CanonicalJsonError,
  canonicalize,
  parseStrictJson,
  parseStrictJsonBytes,
  parseStrictObject,
  refusesToSign,
} from './canonicalJson.ts'
import { linkDigest, linkPreimage } from './link.ts'

interface Accepted {
  id: string
  input: string
  rfc8785: string
  keccak: string
}
const vectors = JSON.parse(readFileSync(new URL('../vectors/canonical.json', import.meta.url), 'utf8')) as {
  accept: Accepted[]
  reject: Array<{ id: string; input: string }>
}
const accepted = (id: string): Accepted => vectors.accept.find((vector) => vector.id === id)!

const json = fc.jsonValue({ maxDepth: 4 }).map((value) => value as JsonValue)
/** The same value with every object's members the other way round. */
const reversed = (value: JsonValue): JsonValue => {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(reversed)
  return Object.fromEntries(
    Object.entries(value)
      .toReversed()
      .map(([name, item]) => [name, reversed(item)]),
  )
}
const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth)

const positionIn = (text: string): number | undefined => {
  try {
    parseStrictJson(text)
  } catch (error) {
    return (error as CanonicalJsonError).position
  }
  return undefined
}

describe('canonical JSON', () => {
  it.each(vectors.accept)('catalog:1 gives $id its RFC 8785 text and digest', ({ input, rfc8785, keccak }) => {
    const link = parseStrictObject(input)
    expect(linkPreimage(link)).toBe(rfc8785)
    expect(linkDigest(link)).toBe(keccak)
  })

  it('catalog:2 gives reordered and signed forms of one link the same bytes', () => {
    const texts = ['minimal', 'reordered', 'signature-removed'].map((id) =>
      linkPreimage(parseStrictObject(accepted(id).input)),
    )
    expect(new Set(texts).size).toBe(1)
  })

  it.each(vectors.reject)('catalog:3 refuses $id', ({ input }) => {
    expect(() => parseStrictObject(input)).toThrow(CanonicalJsonError)
  })

  it('catalog:3 names the place where the text went wrong', () => {
    expect(positionIn('{"a":1,"\\u0061":2}')).toBe(7)
    expect(positionIn('{"a":1} x')).toBe(8)
    expect(positionIn('["ok","\\ud800"]')).toBe(6)
    expect(positionIn('{"a":')).toBe(5)
    expect(positionIn('[1,]')).toBe(3)
    expect(positionIn('["\n"]')).toBe(2)
    expect(positionIn('["ab')).toBe(1)
    expect(positionIn('[1e400]')).toBe(1)
    expect(positionIn('[tru]')).toBe(1)
    expect(positionIn('["\\x"]')).toBe(1)
  })

  it('catalog:3 counts nesting to 64 and no further, in reading and writing', () => {
    const deepest = parseStrictJson(nested(64))
    expect(canonicalize(deepest)).toBe(nested(64))
    expect(() => parseStrictJson(nested(65))).toThrow(CanonicalJsonError)
    expect(() => canonicalize([deepest])).toThrow(CanonicalJsonError)
  })

  it('catalog:3 refuses bytes that are no UTF-8, and a BOM in bytes', () => {
    expect(() => parseStrictJsonBytes(Uint8Array.of(0x22, 0xff, 0x22))).toThrow(CanonicalJsonError)
    expect(() => parseStrictJsonBytes(Uint8Array.of(0xef, 0xbb, 0xbf, 0x31))).toThrow(CanonicalJsonError)
    expect(parseStrictJsonBytes(utf8ToBytes('"Größe 🌊"'))).toBe('Größe 🌊')
  })

  it.each(['u2028', 'key-escape', 'utf16-key-order', 'numbers', 'big-exponent', 'beyond-double', 'negative-exponent'])(
    'catalog:4 refuses to sign %s',
    (id) => {
      expect(refusesToSign(parseStrictJson(accepted(id).input))).toEqual(expect.any(String))
    },
  )

  it.each(['unicode-name', 'html-chars', 'nested-signature-kept'])('catalog:4 signs %s', (id) => {
    expect(refusesToSign(parseStrictJson(accepted(id).input))).toBeUndefined()
  })

  it('catalog:4 refuses a lone surrogate and an unsafe member name at any depth', () => {
    expect(refusesToSign({ a: ['\ud800'] })).toEqual(expect.any(String))
    expect(refusesToSign({ a: [{ 'b c': 1 }] })).toEqual(expect.any(String))
    expect(refusesToSign({ a: -0 })).toEqual(expect.any(String))
    expect(refusesToSign({ a: [{ 'b.c/d:e-f_g@h': 2 ** 53 - 1 }] })).toBeUndefined()
  })

  it('keeps a member called __proto__ as a member', () => {
    const text = '{"__proto__":{"polluted":true},"a":1}'
    const value = parseStrictObject(text)
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype)
    expect(value.polluted).toBeUndefined()
    expect(canonicalize(value)).toBe(text)
    expect(linkPreimage(value)).toContain('"__proto__":{"polluted":true}')
    expect(() => parseStrictJson('{"__proto__":1,"__proto__":2}')).toThrow(CanonicalJsonError)
  })

  it('has no canonical form for what JSON cannot hold', () => {
    const hole = Array.from({ length: 1 })
    delete hole[0]
    for (const value of [undefined, Number.NaN, Infinity, 1n, [undefined], hole, { a: undefined }, '\udc00']) {
      expect(() => canonicalize(value as JsonValue)).toThrow(CanonicalJsonError)
    }
  })

  it('reads back what it wrote', () => {
    fc.assert(
      fc.property(json, (value) => {
        // -0 is written 0: compare texts of values, as JSON.stringify does the same.
        expect(JSON.stringify(parseStrictJson(canonicalize(value)))).toBe(JSON.stringify(sorted(value)))
      }),
    )
  })

  it('agrees with JSON.parse on every text JSON.stringify makes', () => {
    fc.assert(
      fc.property(json, fc.constantFrom(undefined, 1, '\t'), (value, indent) => {
        const text = JSON.stringify(value, undefined, indent)
        expect(parseStrictJson(text)).toEqual(JSON.parse(text))
      }),
    )
  })

  it('is idempotent and blind to member order', () => {
    fc.assert(
      fc.property(json, (value) => {
        const text = canonicalize(value)
        expect(canonicalize(parseStrictJson(text))).toBe(text)
        expect(canonicalize(reversed(value))).toBe(text)
      }),
    )
  })

  it('never fails on any text with anything but its own error', () => {
    const scraps = fc.array(fc.constantFrom(...'{}[],:"a\\1- ', 'u00', 'null'))
    fc.assert(
      fc.property(scraps, (pieces) => {
        const text = pieces.join('')
        let expected: unknown
        try {
          expected = JSON.parse(text)
        } catch {
          expect(() => parseStrictJson(text)).toThrow(CanonicalJsonError)
          return
        }
        // Repeated names are all that JSON.parse lets through among these pieces.
        try {
          expect(parseStrictJson(text)).toEqual(expected)
        } catch (error) {
          expect((error as Error).message).toMatch(/Repeated member name/)
        }
      }),
      { numRuns: 2000 },
    )
  })
})

function sorted(value: JsonValue): JsonValue {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(sorted)
  const names = Object.keys(value).toSorted()
  return Object.fromEntries(names.map((name) => [name, sorted(value[name]!)]))
}
