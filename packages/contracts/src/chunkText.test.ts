import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { CanonicalJsonError, type JsonValue } from './canonicalJson.ts'
import { parseChunkText } from './chunkText.ts'

const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth)

describe('a chunk with a link nobody can read strictly', () => {
  const bad = [
    '{"a":1,"a":2}',
    '{"a":1,"\\u0061":2}',
    '{"name":"\\ud800"}',
    '{"n":1e400}',
    nested(70),
    '{"x":{"y":1,"y":2}}',
  ]

  it.each(bad)('reads %s as null and the others as they are', (broken) => {
    const text = `{ "@type":"NamespaceChunk", "links" : [ {"a":[1,"]",{"b":"}\\""}]} , ${broken},{"c":",[{"} ] , "prev":null}`
    expect(parseChunkText(text)).toEqual({
      '@type': 'NamespaceChunk',
      links: [{ a: [1, ']', { b: '}"' }] }, null, { c: ',[{' }],
      prev: null,
    })
  })

  it('loses exactly the broken ones, whatever stands around them', () => {
    fc.assert(
      fc.property(fc.array(fc.option(fc.jsonValue({ maxDepth: 3 }), { nil: undefined }), { maxLength: 6 }), (links) => {
        const twice = '{"twice":1,"twice":1}'
        const text = `{"links":[${links.map((link) => (link === undefined ? twice : JSON.stringify(link))).join(' , ')}],"z":1}`
        const read = parseChunkText(text) as { links: JsonValue[] }
        expect(JSON.stringify(read.links)).toBe(JSON.stringify(links.map((link) => link ?? null)))
      }),
    )
  })

  it.each([
    ['a repeated member of the chunk itself', '{"links":[{"a":1,"a":1}],"prev":null,"prev":null}'],
    ['links that come twice', '{"links":[{"a":1,"a":1}],"links":[]}'],
    ['a repeated member elsewhere', '{"links":[],"x":{"a":1,"a":1}}'],
    ['links that are no array', '{"links":{"a":1,"a":1}}'],
    ['what is no JSON', '{"links":[{"a":1,"a":1}'],
    ['a root that is no object', '[{"a":1,"a":1}]'],
  ])('refuses %s', (_, text) => {
    expect(() => parseChunkText(text)).toThrow(CanonicalJsonError)
  })

  it('takes texts as long as a chunk may be', () => {
    const text = `{"links":[{"a":"${'\\\\n'.repeat(4_000_000)}"},{"b":1,"b":2}]}`
    expect((parseChunkText(text) as { links: JsonValue[] }).links[1]).toBeNull()
  })

  it('never throws anything else', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          parseChunkText(`{"links":[${text}],"a":1,"a":2}`)
        } catch (error) {
          expect(error).toBeInstanceOf(CanonicalJsonError)
        }
      }),
    )
  })
})
