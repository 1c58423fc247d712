import { readdirSync, readFileSync } from 'node:fs'
import type * as z from 'zod'
import { describe, expect, it } from 'vitest'
import { departure } from '../../test/documented.ts'
import { openApiDocument, operations } from './document.ts'
import { ERROR_CODES } from './errorCodes.ts'
import { ANSWER_HEADERS, REQUEST_HEADERS, TAGS } from './operation.ts'
import { sampleOf } from './sample.ts'

const document = openApiDocument()
const { components, paths } = document
const described = Object.entries(paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
)

/** Every object of the document, with its place. */
function* objectsIn(value: unknown, place = '#'): Generator<{ place: string; object: Record<string, unknown> }> {
  if (typeof value !== 'object' || value === null) return
  if (!Array.isArray(value)) yield { place, object: value as Record<string, unknown> }
  for (const [name, member] of Object.entries(value)) {
    yield* objectsIn(member, `${place}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`)
  }
}

describe('docs/openapi.json', () => {
  it('is what the schemas and the table of operations say', () => {
    const committed = readFileSync(new URL('../../../docs/openapi.json', import.meta.url), 'utf8')
    // Whoever formatted it; the order counts.
    const isCurrent = JSON.stringify(JSON.parse(committed)) === JSON.stringify(document)
    expect(isCurrent, 'docs/openapi.json is out of date: run `npm run openapi` and commit it').toBe(true)
  })

  it('is the same every time', () => {
    expect(JSON.stringify(openApiDocument())).toBe(JSON.stringify(document))
  })
})

describe('the OpenAPI document', () => {
  it('refers only to what it has', () => {
    const places = new Set([...objectsIn(document)].map(({ place }) => place))
    const references = [...objectsIn(document)].flatMap(({ object }) =>
      typeof object.$ref === 'string' ? [object.$ref] : [],
    )
    expect(references.length).toBeGreaterThan(100)
    expect(references.filter((reference) => !places.has(reference))).toEqual([])
  })

  it('has nothing that nobody refers to', () => {
    const text = JSON.stringify(document)
    const unused = Object.entries(components)
      .filter(([kind]) => kind !== 'securitySchemes')
      .flatMap(([kind, members]) => Object.keys(members).map((name) => `#/components/${kind}/${name}`))
      .filter((reference) => !text.includes(`"${reference}"`))
    expect(unused).toEqual([])
  })

  it('names components as OpenAPI allows', () => {
    const names = Object.values(components).flatMap((members) => Object.keys(members))
    expect(names.filter((name) => !/^[a-zA-Z0-9._-]+$/.test(name))).toEqual([])
  })

  it('gives every operation an id of its own, and a tag it describes', () => {
    const ids = described.map(({ operation }) => operation.operationId)
    expect(new Set(ids).size).toBe(ids.length)
    expect(new Set(described.flatMap(({ operation }) => operation.tags))).toEqual(new Set(Object.keys(TAGS)))
  })

  it('declares each parameter of a path, and no other', () => {
    for (const { path, operation } of described) {
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name!)
      const declared = (operation.parameters ?? []).flatMap((one) => ('in' in one && one.in === 'path' ? [one] : []))
      expect(
        declared.map(({ name, required }) => [name, required]),
        path,
      ).toEqual(inPath.map((name) => [name, true]))
    }
  })

  it('declares a parameter once', () => {
    for (const { path, operation } of described) {
      const names = (operation.parameters ?? []).map((one) => ('$ref' in one ? one.$ref : `${one.in} ${one.name}`))
      expect(new Set(names).size, path).toBe(names.length)
    }
  })

  it('says nothing in words of older versions, or of zod', () => {
    const strange = [...objectsIn({ paths, components })].filter(({ place, object }) => {
      const isSchema = /\/(schema|schemas\/\w+|items|anyOf\/\d+)$/.test(place)
      return isSchema && ['nullable', 'example', 'id', '$schema', '$defs'].some((word) => word in object)
    })
    expect(strange.map(({ place }) => place)).toEqual([])
  })

  it('keeps what is asked and answered open for members to come, but not a change of a basket', () => {
    const closed = [...objectsIn({ paths, components })].filter(({ object }) => object.additionalProperties === false)
    expect(closed.length).toBeGreaterThan(0)
    expect(closed.every(({ place }) => /baskets~1\{basketId\}\/patch\/requestBody/.test(place))).toBe(true)
  })

  it('shows answers that the answers could be', () => {
    const answers = operations.flatMap(({ id, answers: byStatus, events = {} }) => [
      ...Object.entries(byStatus).flatMap(([status, answer]) =>
        answer?.schema ? [[`${id} ${status}`, answer.schema]] : [],
      ),
      ...Object.entries(events).map(([name, schema]) => [`${id} ${name}`, schema]),
    ]) as [string, z.ZodType][]
    expect(answers.length).toBeGreaterThan(25)
    for (const [where, schema] of answers) {
      const { content } = openApiAnswer(where)
      const media = Object.values(content ?? {})[0]!
      const shown = media['x-events'] ? Object.values(media['x-events'])[0]! : media.schema
      expect(departure(schema, sampleOf(shown, components.schemas)), where).toBeUndefined()
    }
  })

  it('shows bodies that the routes take', () => {
    const bodies = operations.flatMap(({ id, body }) =>
      body?.schema ? [{ id, schema: body.schema, example: body.example }] : [],
    )
    expect(bodies.map(({ id }) => id)).toHaveLength(6)
    for (const { id, schema, example } of bodies) expect(schema.safeParse(example).success, id).toBe(true)
  })

  it('uses every header it explains', () => {
    const asked = new Set(operations.flatMap(({ headers = [] }) => headers))
    expect([...asked].toSorted()).toEqual(Object.keys(REQUEST_HEADERS).toSorted())
    const text = JSON.stringify(paths) + JSON.stringify(components.responses)
    for (const name of Object.keys(ANSWER_HEADERS)) expect(text).toContain(`#/components/headers/${name}"`)
  })
})

describe('error codes', () => {
  const documented = new Set(operations.flatMap(({ errors }) => Object.values(errors).flat()))

  it('are explained when an operation lists them, and listed when they are explained', () => {
    const everywhere = ['internal_error', 'rate_limited']
    expect([...documented, ...everywhere].toSorted()).toEqual(Object.keys(ERROR_CODES).toSorted())
  })

  it('that the sources throw are all there', () => {
    const thrown = new Set(sources().flatMap((source) => [...source.matchAll(THROWN)].map(([, code]) => code!)))
    expect(thrown.size).toBeGreaterThan(60)
    // Paths and methods that are not in the document.
    const elsewhere = ['method_not_allowed']
    expect([...thrown].filter((code) => !(code in ERROR_CODES) && !elsewhere.includes(code))).toEqual([])
    // What is explained and thrown by nobody is gone; these are thrown under names that a pattern doesn't see.
    const otherwise = [
      'basket_version_conflict',
      'offer_changed',
      'product_changed',
      'unauthorized',
      'unsupported_currency',
    ]
    const unseen = Object.keys(ERROR_CODES).filter((code) => !thrown.has(code) && !otherwise.includes(code))
    expect(unseen).toEqual([])
  })
})

/** `new SomeError('code'`, `super('code'`, and the short names that some files give to these. */
const THROWN =
  /(?:(?<!IpfsUnavailable)Error|super|invalid|notFound|refused|blocked)\(\s*(?:[0-9]{3},\s*)?'([a-z]+(?:_[a-z]+)*)'/g

/** What may answer at the public port. */
function sources(): string[] {
  const market = new URL('../', import.meta.url)
  const kit = new URL('../../../packages/kit/src/', import.meta.url)
  const files = readdirSync(market, { recursive: true, encoding: 'utf8' }).filter(
    (file) => file.endsWith('.ts') && !file.endsWith('.test.ts'),
  )
  return [
    ...files.map((file) => new URL(file, market)),
    ...['http.ts', 'gate.ts', 'guardedFetch.ts'].map((file) => new URL(file, kit)),
  ].map((file) => readFileSync(file, 'utf8'))
}

/** The answer that `operation status` or `operation event` names. */
function openApiAnswer(where: string) {
  const [id, status = ''] = where.split(' ')
  const { operation } = described.find((one) => one.operation.operationId === id)!
  const answer = operation.responses[status] ?? operation.responses['200']!
  if ('$ref' in answer) throw new Error(`${where} is a refusal`)
  return answer
}
