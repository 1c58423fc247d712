import { formed } from '@market/contracts/marketApi/values'
import type * as z from 'zod'
import type { ErrorCode } from './errorCodes.ts'

export const JSON_TYPE = 'application/json'
export const JSON_LD = 'application/ld+json'

/** Headers a request may carry besides `Authorization`. */
export const REQUEST_HEADERS = {
  'If-Match': 'Only if the basket still has this version (its `ETag`); `*` is any. Otherwise 412.',
  'If-None-Match': 'Answers 304 when what the client has under this `ETag` is still right.',
  'Idempotency-Key':
    '1 to 255 visible ASCII characters. The same key gives the same answer again and never a second order; refusals are not kept.',
  'X-Basket-Token':
    "The basket's own token. Once a request carried it, the basket opens for nobody without it or its buyer's bearer token.",
  'Last-Event-ID': 'The `id` of the last event the client got: what came after it is sent first.',
  Range: 'One range of bytes.',
} as const
export type RequestHeader = keyof typeof REQUEST_HEADERS

/** Headers an answer may carry besides its type. */
export const ANSWER_HEADERS = {
  ETag: 'Names this version of what is answered.',
  Link: 'Where the next page is, `rel="next"`; absent on the last.',
  'X-Next-Cursor': 'The `cursor` of the next page; absent on the last.',
  'X-Snapshot-Changed': '`1`: the catalog changed since the cursor was given out, too long ago to show it as it was.',
  'Cache-Control': 'How long it may be kept.',
  'Content-Range': 'Which part of the object it is.',
  'X-Link-Keccak': "Of a link: its name, and what an account's own key signs.",
  'X-Safe-Hash': 'What the owners of the Safe sign.',
  'Retry-After': 'Seconds until it is worth trying again.',
  'WWW-Authenticate': 'Which scheme, and whether the token sent is no good.',
  'RateLimit-Limit': 'Requests in a window, of the budget that ends first. Absent where nobody is limited.',
  'RateLimit-Remaining': 'What is left of it.',
  'RateLimit-Reset': 'Seconds until it is full again.',
  'X-Request-Id': "Names the request in the operator's log; a client may set it.",
} as const
export type AnswerHeader = keyof typeof ANSWER_HEADERS

export type Answer = {
  description: string
  /** Absent: no body. */
  type?: string | string[]
  /** Absent with a type: bytes or text. */
  schema?: z.ZodType
  headers?: AnswerHeader[]
}

export type Body = {
  type: string | string[]
  /** The very schema the route reads with; absent where it reads bytes. */
  schema?: z.ZodType
  optional?: boolean
  example?: unknown
}

/** One method on one path of the public port. */
export type Operation = {
  /** Unique, camelCase: what a generated client calls it. */
  id: string
  method: 'get' | 'post' | 'patch'
  path: string
  /** Paths that do the same. */
  aliases?: string[]
  tag: Tag
  summary: string
  description?: string
  /** Whether it asks for a bearer token, or looks at one that is there. */
  auth?: 'required' | 'optional'
  headers?: RequestHeader[]
  params?: z.ZodObject
  query?: z.ZodObject
  body?: Body
  /** By status. */
  answers: Partial<Record<number, Answer>>
  /** Events of a stream by name: what is in their `data`. */
  events?: Record<string, z.ZodType>
  /** By status, besides those of every request. */
  errors: Errors
  /** Refusals are RFC 9457 problem documents; otherwise `Error` as JSON-LD. */
  problems?: true
  /** Asked by machines every few seconds, and never told to wait. */
  unlimited?: true
}

export type Errors = Partial<Record<number, ErrorCode[]>>

/** In the order of the reference page. */
export const TAGS = {
  'Signing in': 'A wallet signs a text (EIP-4361, "Sign-In with Ethereum") and gets a token of fifteen minutes.',
  Catalog: 'What sellers have signed and published, verified by the market.',
  Baskets: 'What a buyer puts together. The id of a basket is the key to it: keep it secret.',
  Orders: 'What baskets become: for their buyer, and line by line for their sellers.',
  Events: 'Changes of order status as they happen, as server-sent events.',
  Stock: 'Whether a product can be had, as its seller says.',
  Documents: 'What a seller signs goes to IPFS here, and comes back.',
  Service: 'For operators, and this document.',
} as const
export type Tag = keyof typeof TAGS

/** As clients may send it. */
export const anyAddress = formed(
  /^0x[0-9a-fA-F]{40}$/,
  '0x943186fbcfd74fd575bcf9aa76a53f56b2f06aba',
  'An address, in upper or lower case.',
)

/** All the codes of several lists, by status. */
export function allOf(...lists: Errors[]): Errors {
  const merged: Errors = {}
  for (const list of lists) {
    for (const [status, codes = []] of Object.entries(list)) {
      merged[Number(status)] = [...new Set([...(merged[Number(status)] ?? []), ...codes])]
    }
  }
  return merged
}

/** Of a route that has a body, or could be sent one. */
export const ANY_BODY: Errors = { 400: ['incomplete_body'], 413: ['body_too_large'] }

/** Of a route that reads a JSON body and insists on its type. */
export const JSON_BODY: Errors = {
  ...ANY_BODY,
  400: ['invalid_json', 'invalid_request', 'incomplete_body'],
  415: ['unsupported_media_type'],
}
