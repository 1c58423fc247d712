import { ErrorBody, Problem } from '@market/contracts/marketApi/errors'
import * as z from 'zod'
import { operations } from '../src/openapi/document.ts'
import { ANSWER_HEADERS, type Operation } from '../src/openapi/operation.ts'

/** The same schema with members it does not know refused, at every depth; what is open on purpose stays open. */
export function strictly(schema: z.ZodType): z.ZodType {
  if (schema instanceof z.ZodObject) {
    const shape = Object.fromEntries(
      Object.entries(schema.shape as Record<string, z.ZodType>).map(([name, member]) => [name, strictly(member)]),
    )
    return schema.def.catchall === undefined ? z.strictObject(shape) : z.looseObject(shape)
  }
  if (schema instanceof z.ZodArray) return z.array(strictly(schema.element as z.ZodType))
  if (schema instanceof z.ZodNullable) return z.nullable(strictly(schema.unwrap() as z.ZodType))
  if (schema instanceof z.ZodOptional) return z.optional(strictly(schema.unwrap() as z.ZodType))
  return schema
}

/** What of a value the schema does not say; undefined when it says it all. */
export function departure(schema: z.ZodType, value: unknown): string | undefined {
  // What becomes strict loses its bounds: both have to hold.
  for (const one of [schema, strictly(schema)]) {
    const parsed = one.safeParse(value)
    if (!parsed.success)
      return parsed.error.issues.map(({ path, message }) => `/${path.join('/')} ${message}`).join('; ')
  }
  return undefined
}

const byPath = operations
  .flatMap((operation) =>
    [operation.path, ...(operation.aliases ?? [])].map((path) => ({
      operation,
      form: new RegExp(`^${path.replaceAll('.', '\\.').replaceAll(/\{\w+\}/g, '[^/]+')}$`),
      holes: path.split('{').length,
    })),
  )
  // `by-buyer` before `{orderId}`.
  .toSorted((a, b) => a.holes - b.holes)

export function findOperation(method: string, path: string): Operation | undefined {
  const wanted = method === 'HEAD' ? 'get' : method.toLowerCase()
  return byPath.find(({ operation, form }) => operation.method === wanted && form.test(path))?.operation
}

/**
 * Until `stop`, holds every answer that `fetch` gets from the market at `url` to the document. `faults` says what the document
 * does not; `seen` holds `operation status` and `operation status code` of all that it does.
 */
export function watchAnswers(url: string) {
  const faults: string[] = []
  const seen = new Set<string>()
  const underWay = new Set<Promise<void>>()
  const original = globalThis.fetch
  globalThis.fetch = async (input, init) => {
    const request = new Request(input, init)
    const { origin, pathname, searchParams } = new URL(request.url)
    const response = await original(input, init)
    if (origin !== new URL(url).origin || request.method === 'OPTIONS') return response
    const copy = response.clone()
    const look = check(request.method, decodeURI(pathname), searchParams, copy, seen)
      .catch((error: unknown) => [`not read: ${String(error)}`])
      .then((found) => void faults.push(...found.map((fault) => `${request.method} ${pathname}: ${fault}`)))
      .finally(() => underWay.delete(look))
    underWay.add(look)
    return response
  }
  return {
    seen,
    /** Gives `fetch` back and everything that was wrong. */
    async stop(): Promise<string[]> {
      globalThis.fetch = original
      await Promise.all(underWay)
      return faults
    },
  }
}

/** Any request may be refused so. */
const EVERYWHERE: Record<number, string[]> = { 429: ['rate_limited'], 500: ['internal_error'] }

async function check(method: string, path: string, query: URLSearchParams, response: Response, seen: Set<string>) {
  const { status } = response
  const type = response.headers.get('content-type')?.split(';', 1)[0] ?? ''
  const isStream = type === 'text/event-stream'
  const text = isStream || method === 'HEAD' ? '' : await response.text()
  if (isStream) await response.body?.cancel()
  const operation = findOperation(method, path)
  if (!operation) {
    const code = (JSON.parse(text || '{"code":"not_found"}') as { code?: unknown }).code
    return code === 'not_found' || code === 'method_not_allowed' ? [] : [`no such operation, but ${status} ${text}`]
  }
  const { id, answers, problems } = operation
  const faults: string[] = []
  const answer = answers[status]
  if (answer) {
    seen.add(`${id} ${status}`)
    const unknown = [...query.keys()].filter((name) => !Object.hasOwn(operation.query?.shape ?? {}, name))
    if (unknown.length > 0) faults.push(`${status} with unknown parameters ${unknown.join()}`)
    const wanted = [answer.type ?? ''].flat()
    if (!wanted.some((one) => one === type || (one.endsWith('/*') && type.startsWith(one.slice(0, -1))))) {
      faults.push(`${status} is ${type}, not ${wanted.join(' or ')}`)
    }
    if (answer.schema && method !== 'HEAD') {
      const wrong = departure(answer.schema, JSON.parse(text))
      if (wrong !== undefined) faults.push(`${status} ${wrong}: ${text}`)
    }
    if (answer.headers?.includes('ETag') && !response.headers.has('etag')) faults.push(`${status} has no ETag`)
    // What stands on every answer, or on every private one.
    const everywhere = /^(x-request-id|ratelimit-|cache-control$)/i
    const told = new Set<string>(answer.headers)
    const more = Object.keys(ANSWER_HEADERS).filter(
      (name) => response.headers.has(name) && !told.has(name) && !everywhere.test(name),
    )
    if (more.length > 0) faults.push(`${status} with ${more.join()}`)
    return faults
  }
  if (method === 'HEAD') return faults
  const [errorType, schema] = problems ? ['application/problem+json', Problem] : ['application/ld+json', ErrorBody]
  if (type !== errorType) faults.push(`${status} is ${type}, not ${errorType}`)
  const body = JSON.parse(text) as { code: never }
  const wrong = departure(schema, body)
  if (wrong !== undefined) faults.push(`${status} ${wrong}: ${text}`)
  seen.add(`${id} ${status} ${body.code}`)
  const codes = [...(operation.errors[status] ?? []), ...(EVERYWHERE[status] ?? [])]
  if (!codes.includes(body.code)) faults.push(`${status} ${String(body.code)} is not in the document`)
  return faults
}
