import { readFileSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import { ErrorBody, Problem } from '@market/contracts/marketApi/errors'
import * as z from 'zod'
import { basketOperations } from './basketOperations.ts'
import { catalogOperations } from './catalogOperations.ts'
import { ERROR_CODES, type ErrorCode } from './errorCodes.ts'
import {
  allOf,
  ANSWER_HEADERS,
  type Answer,
  type AnswerHeader,
  type Body,
  JSON_LD,
  JSON_TYPE,
  type Operation,
  REQUEST_HEADERS,
  TAGS,
} from './operation.ts'
import { orderOperations } from './orderOperations.ts'
import { serviceOperations, signInOperations } from './serviceOperations.ts'

/** Everything the public port does. */
export const operations: readonly Operation[] = [
  ...signInOperations,
  ...catalogOperations,
  ...basketOperations,
  ...orderOperations,
  ...serviceOperations,
]

export type JsonSchema = z.core.JSONSchema.BaseSchema
export type MediaType = { schema: JsonSchema; example?: unknown; 'x-events'?: Record<string, JsonSchema> }
export type Reference = { $ref: string }
export type Parameter = {
  name: string
  in: 'path' | 'query' | 'header'
  required: boolean
  description?: string
  schema: JsonSchema
}
export type AnswerObject = {
  description: string
  headers?: Record<string, Reference>
  content?: Record<string, MediaType>
}
export type OperationObject = {
  operationId: string
  tags: string[]
  summary: string
  description?: string
  security?: Record<string, string[]>[]
  parameters?: (Parameter | Reference)[]
  requestBody?: { required: boolean; content: Record<string, MediaType> }
  responses: Record<string, AnswerObject | Reference>
  /** The path that does the same. */
  'x-alias-of'?: string
}
export type OpenApiDocument = {
  openapi: string
  info: { title: string; version: string; description: string; license: { name: string; identifier: string } }
  servers: { url: string }[]
  tags: { name: string; description: string }[]
  paths: Record<string, Record<string, OperationObject>>
  components: {
    securitySchemes: Record<string, object>
    parameters: Record<string, Parameter>
    headers: Record<string, { description: string; schema: JsonSchema }>
    responses: Record<string, AnswerObject>
    schemas: Record<string, JsonSchema>
  }
}

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

const ABOUT = `The public interface of a Circles market: what sellers published, baskets, orders, and how they are paid and delivered.

An error has a stable \`code\`; texts may change. Members and codes may be added at any time, and clients ignore the ones they don't know. Amounts are JSON numbers, exact as decimals. Every answer has \`X-Request-Id\`; pages of any origin may call everything.`

/** The public port as an OpenAPI 3.1 document; the same input gives the same text. `baseUrl`: where the market is reached. */
export function openApiDocument(baseUrl = '/'): OpenApiDocument {
  const schemas = createSchemas()
  const responses: Record<string, AnswerObject> = {}
  const paths: OpenApiDocument['paths'] = {}
  for (const operation of operations) {
    const { method, path, aliases = [] } = operation
    const described = describe(operation, schemas, responses)
    ;(paths[path] ??= {})[method] = described
    for (const [i, alias] of aliases.entries()) {
      const operationId = `${operation.id}Alias${i === 0 ? '' : i + 1}`
      const description = `The same as \`${path}\`.`
      ;(paths[alias] ??= {})[method] = { ...described, operationId, description, 'x-alias-of': path }
    }
  }
  return {
    openapi: '3.1.1',
    info: {
      title: 'Circles Market',
      version,
      description: ABOUT,
      license: { name: 'Apache License 2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: baseUrl }],
    tags: Object.entries(TAGS).map(([name, description]) => ({ name, description })),
    paths,
    components: {
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: 'From `POST /api/auth/verify`.' },
      },
      parameters: Object.fromEntries(
        Object.entries(REQUEST_HEADERS).map(([name, description]) => [
          name,
          { name, in: 'header', required: false, description, schema: { type: 'string' } },
        ]),
      ),
      headers: Object.fromEntries(
        Object.entries(ANSWER_HEADERS).map(([name, description]) => [
          name,
          { description, schema: { type: 'string' } },
        ]),
      ),
      responses: sorted(responses),
      schemas: sorted(schemas.named),
    },
  }
}

function describe(operation: Operation, schemas: Schemas, shared: Record<string, AnswerObject>): OperationObject {
  const { id, tag, summary, description, auth, body } = operation
  const parameters = [
    ...parametersOf('path', operation.params, schemas),
    ...parametersOf('query', operation.query, schemas),
    ...(operation.headers ?? []).map((name) => ({ $ref: `#/components/parameters/${name}` })),
  ]
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(description === undefined ? {} : { description }),
    ...(auth === undefined ? {} : { security: [...(auth === 'optional' ? [{}] : []), { bearer: [] }] }),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body === undefined ? {} : { requestBody: bodyOf(body, schemas) }),
    responses: { ...answersOf(operation, schemas), ...errorsOf(operation, schemas, shared) },
  }
}

function parametersOf(place: 'path' | 'query', shape: z.ZodObject | undefined, schemas: Schemas): Parameter[] {
  const { properties = {}, required = [] } = shape ? schemas.convert(shape, 'input') : {}
  return Object.entries(properties).map(([name, property]) => {
    const { description, ...schema } = property as JsonSchema
    return {
      name,
      in: place,
      required: required.includes(name),
      ...(description === undefined ? {} : { description }),
      schema,
    }
  })
}

function bodyOf({ type, schema, optional = false, example }: Body, schemas: Schemas) {
  const content = (one: string): MediaType => ({
    schema: schema ? schemas.convert(schema, 'input') : unread(one),
    ...(example === undefined ? {} : { example }),
  })
  return { required: !optional, content: byType(type, content) }
}

const LIMITS: AnswerHeader[] = ['RateLimit-Limit', 'RateLimit-Remaining', 'RateLimit-Reset']

function answersOf({ answers, events, unlimited }: Operation, schemas: Schemas): Record<string, AnswerObject> {
  const answerOf = ({ description, type, schema, headers = [] }: Answer): AnswerObject => ({
    description,
    ...headersOf([...headers, ...(unlimited ? [] : LIMITS), 'X-Request-Id']),
    ...(type === undefined
      ? {}
      : {
          content: byType(type, (one) => ({
            schema: schema ? schemas.convert(schema, 'output') : unread(one),
            ...(events === undefined
              ? {}
              : { 'x-events': mapValues(events, (event) => schemas.convert(event, 'output')) }),
          })),
        }),
  })
  return mapValues(answers as Record<string, Answer>, answerOf)
}

/** One that means one thing is written down once for all operations. */
function errorsOf(operation: Operation, schemas: Schemas, shared: Record<string, AnswerObject>) {
  const [type, schema, suffix] = operation.problems
    ? ['application/problem+json', Problem, 'Problem']
    : [JSON_LD, ErrorBody, '']
  const { $ref } = schemas.convert(schema, 'output') as Reference
  const everywhere = allOf(operation.errors, {
    ...(operation.unlimited ? {} : { 429: ['rate_limited'] }),
    500: ['internal_error'],
  })
  const errorOf = (status: number, codes: ErrorCode[]): AnswerObject => ({
    description: codes.map((code) => `\`${code}\`: ${ERROR_CODES[code]}`).join('\n\n'),
    ...headersOf([
      ...(status === 401 ? (['WWW-Authenticate'] as const) : []),
      ...(status === 429 || status === 503 ? (['Retry-After'] as const) : []),
      ...(status === 429 ? LIMITS : []),
    ]),
    content: { [type]: { schema: { $ref, properties: { code: { enum: codes } } } } },
  })
  const answers: [string, AnswerObject | Reference][] = Object.entries(everywhere).map(([status, codes = []]) => {
    const answer = errorOf(Number(status), codes)
    if (codes.length !== 1) return [status, answer]
    const name = `${status}_${codes[0]}${suffix}`
    shared[name] = answer
    return [status, { $ref: `#/components/responses/${name}` }]
  })
  return Object.fromEntries(answers)
}

const headersOf = (names: AnswerHeader[]): Pick<AnswerObject, 'headers'> =>
  names.length === 0
    ? {}
    : { headers: Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }])) }

const byType = (type: string | string[], content: (one: string) => MediaType) =>
  Object.fromEntries([type].flat().map((one) => [one, content(one)]))

/** Of bodies that no schema reads. */
const unread = (type: string): JsonSchema =>
  type === JSON_TYPE || type === JSON_LD ? { type: 'object' } : type.startsWith('text/') ? { type: 'string' } : {}

const mapValues = <T, U>(object: Record<string, T>, change: (value: T) => U): Record<string, U> =>
  Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]))

const sorted = <T>(object: Record<string, T>): Record<string, T> =>
  Object.fromEntries(Object.entries(object).toSorted(([a], [b]) => (a < b ? -1 : 1)))

type Schemas = ReturnType<typeof createSchemas>

/** Turns zod schemas into those of the document; the ones with an id are written down once and referred to. */
function createSchemas() {
  const named: Record<string, JsonSchema> = {}
  const answers = new Map<z.ZodType, JsonSchema>()
  return {
    named,
    convert(schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
      // The error alone is part of every operation, and has a basket in it.
      const known = io === 'output' ? answers.get(schema) : undefined
      if (known) return known
      // Inside of another one, because the outermost is never a reference.
      const { properties, $defs = {} } = z.toJSONSchema(z.object({ it: schema }), { io, override: simplify })
      for (const [id, definition] of Object.entries($defs)) {
        const found = referToComponents(definition)
        const earlier = named[id]
        if (earlier && !isDeepStrictEqual(earlier, found)) throw new Error(`two schemas are called ${id}`)
        named[id] = found
      }
      const converted = referToComponents(properties!.it as JsonSchema)
      if (io === 'output') answers.set(schema, converted)
      return converted
    },
  }
}

const referToComponents = (schema: JsonSchema): JsonSchema =>
  JSON.parse(JSON.stringify(schema).replaceAll('"#/$defs/', '"#/components/schemas/'))

/** Formats whose regular expression, a line long, says nothing more. */
const PLAIN_FORMATS = new Set(['date-time', 'uuid'])

function simplify({ zodSchema, jsonSchema }: { zodSchema: z.core.$ZodTypes; jsonSchema: JsonSchema }): void {
  const { def } = zodSchema as z.ZodObject
  // Answers get new members; a client that refuses them would break then.
  if (def.type === 'object' && def.catchall === undefined) delete jsonSchema.additionalProperties
  if (PLAIN_FORMATS.has(jsonSchema.format ?? '')) delete jsonSchema.pattern
  // What a JSON number can hold anyway.
  if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum
  if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum
}
