/** Any value JSON can hold. */
export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject
export interface JsonObject {
  [member: string]: JsonValue
}

/** catalog.md 1.1: arrays and objects may nest this deep; a scalar inside adds no level. */
export const MAX_JSON_DEPTH = 64

/** Text that is not strict JSON, or a value that has no canonical form. */
export class CanonicalJsonError extends Error {
  /** Offset in UTF-16 units where reading stopped; undefined when a value was refused, not a text. */
  readonly position: number | undefined

  constructor(message: string, position?: number) {
    super(position === undefined ? message : `${message} at position ${position}`)
    this.name = 'CanonicalJsonError'
    this.position = position
  }
}

// In unicode mode a proper pair reads as one code point, so this meets only surrogates that stand alone.
const LONE_SURROGATE = /\p{Surrogate}/u
const SEPARATORS = /[\u2028\u2029]/
const UNSAFE_NAME = /[^A-Za-z0-9@_.:/-]/

/**
 * JSON.parse without its tolerance (catalog.md 2.1): refuses repeated member names, lone surrogates, text after
 * the root and nesting beyond 64; BOM, comments and trailing commas are no JSON anyway. A member called
 * `__proto__` becomes an own property like any other.
 */
export function parseStrictJson(text: string): JsonValue {
  const whitespace = /[ \t\n\r]*/y
  const numeral = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y
  let position = 0

  const fail = (what: string, at = position): never => {
    throw new CanonicalJsonError(what, at)
  }

  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = position
    if (!pattern.test(text)) return undefined
    const start = position
    position = pattern.lastIndex
    return text.slice(start, position)
  }

  const skipWhitespace = (): void => {
    whitespace.lastIndex = position
    whitespace.test(text)
    position = whitespace.lastIndex
  }

  const readString = (): string => {
    const start = position
    let escaped = false
    let at = start + 1
    for (let unit = text.charCodeAt(at); unit !== QUOTE; unit = text.charCodeAt(at)) {
      if (Number.isNaN(unit)) fail('Unclosed string', start)
      if (unit < 0x20) fail('Control character in a string', at)
      if (unit === BACKSLASH) escaped = true
      at += unit === BACKSLASH ? 2 : 1
    }
    position = at + 1
    const value = escaped ? unescape(text.slice(start, position), start) : text.slice(start + 1, at)
    if (LONE_SURROGATE.test(value)) fail('Lone surrogate in a string', start)
    return value
  }

  /** The engine's own reader: megabytes of escapes, one by one, would keep everybody waiting for seconds. */
  const unescape = (quoted: string, start: number): string => {
    try {
      return JSON.parse(quoted) as string
    } catch {
      return fail('Broken escape in a string', start)
    }
  }

  const readNumber = (): number => {
    const start = position
    const value = Number(match(numeral) ?? fail('Unexpected text'))
    // 1e400 is grammatical but has no double, hence no canonical form.
    if (!Number.isFinite(value)) fail('Number beyond the range of a double', start)
    return value
  }

  const readWord = <T>(word: string, value: T): T => {
    if (!text.startsWith(word, position)) fail('Unexpected text')
    position += word.length
    return value
  }

  const readArray = (depth: number): JsonValue[] => {
    const items: JsonValue[] = []
    position += 1
    skipWhitespace()
    if (text[position] === ']') {
      position += 1
      return items
    }
    for (;;) {
      items.push(readValue(depth))
      if (text[position] === ']') {
        position += 1
        return items
      }
      if (text[position] !== ',') fail('Expected , or ]')
      position += 1
    }
  }

  const readObject = (depth: number): JsonObject => {
    const members: JsonObject = {}
    position += 1
    skipWhitespace()
    if (text[position] === '}') {
      position += 1
      return members
    }
    for (;;) {
      if (text[position] !== '"') fail('Expected a member name')
      const start = position
      const name = readString()
      if (Object.hasOwn(members, name)) fail('Repeated member name', start)
      skipWhitespace()
      if (text[position] !== ':') fail('Expected :')
      position += 1
      setMember(members, name, readValue(depth))
      if (text[position] === '}') {
        position += 1
        return members
      }
      if (text[position] !== ',') fail('Expected , or }')
      position += 1
      skipWhitespace()
    }
  }

  /** Reads one value with the white space on both sides; `depth` counts the containers around it. */
  const readValue = (depth: number): JsonValue => {
    skipWhitespace()
    const value = readBareValue(depth)
    skipWhitespace()
    return value
  }

  const readBareValue = (depth: number): JsonValue => {
    const first = text[position]
    if (first === '{' || first === '[') {
      if (depth === MAX_JSON_DEPTH) fail(`Nested deeper than ${MAX_JSON_DEPTH}`)
      return first === '{' ? readObject(depth + 1) : readArray(depth + 1)
    }
    if (first === '"') return readString()
    if (first === 't') return readWord('true', true)
    if (first === 'f') return readWord('false', false)
    if (first === 'n') return readWord('null', null)
    return position < text.length ? readNumber() : fail('Unexpected end')
  }

  const root = readValue(0)
  if (position < text.length) fail('Text after the root value')
  return root
}

const QUOTE = 0x22
const BACKSLASH = 0x5c

/** Plain assignment to `__proto__` would change the object's prototype and lose the member. */
function setMember(members: JsonObject, name: string, value: JsonValue): void {
  if (name === '__proto__') {
    Object.defineProperty(members, name, { value, enumerable: true, configurable: true, writable: true })
  } else {
    members[name] = value
  }
}

/** Strict JSON whose root is an object: what may be canonicalised as a document (catalog.md 2.1). */
export function parseStrictObject(text: string): JsonObject {
  const root = parseStrictJson(text)
  if (!isJsonObject(root)) throw new CanonicalJsonError('The root is not an object', 0)
  return root
}

/** Bytes that are not UTF-8 are refused, never replaced, and a BOM is not skipped. Throws CanonicalJsonError. */
export function decodeUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new CanonicalJsonError('Not UTF-8')
  }
}

/** Strict JSON from bytes. */
export function parseStrictJsonBytes(bytes: Uint8Array): JsonValue {
  return parseStrictJson(decodeUtf8(bytes))
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The RFC 8785 text of a value (catalog.md 2.1 step 4). Throws for what JSON cannot hold. */
export function canonicalize(value: JsonValue): string {
  return write(value, 0)
}

function write(value: JsonValue | undefined, depth: number): string {
  if (value === null || typeof value === 'boolean') return String(value)
  if (typeof value === 'string') return writeString(value)
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw new CanonicalJsonError('A number that JSON cannot hold')
    // ECMAScript's own number printing is what RFC 8785 refers to; -0 comes out as 0.
    return String(value)
  }
  if (typeof value !== 'object') throw new CanonicalJsonError('A value that JSON cannot hold')
  if (depth === MAX_JSON_DEPTH) throw new CanonicalJsonError(`Nested deeper than ${MAX_JSON_DEPTH}`)
  if (Array.isArray(value)) {
    // Array.from visits holes too: they must be refused like undefined, not skipped.
    return `[${Array.from(value, (item) => write(item, depth + 1)).join(',')}]`
  }
  // Default sort order is by UTF-16 code unit, as RFC 8785 wants.
  const members = Object.keys(value)
    .toSorted()
    .map((name) => `${writeString(name)}:${write(value[name], depth + 1)}`)
  return `{${members.join(',')}}`
}

function writeString(text: string): string {
  if (LONE_SURROGATE.test(text)) throw new CanonicalJsonError('Lone surrogate in a string')
  return JSON.stringify(text)
}

/**
 * The write rule of catalog.md 2.2: the reason why a value must not be signed or pinned as a link, or undefined.
 * What passes has the same canonical bytes in every known implementation.
 */
export function refusesToSign(value: JsonValue): string | undefined {
  if (typeof value === 'string') {
    if (SEPARATORS.test(value)) return 'a string holds U+2028 or U+2029'
    return LONE_SURROGATE.test(value) ? 'a string holds a lone surrogate' : undefined
  }
  if (typeof value === 'number') {
    // -0 counts as an integer, but one generation of the reference prints it with its sign.
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) return 'a number is no integer within 2^53-1'
    return undefined
  }
  if (typeof value !== 'object' || value === null) return undefined
  for (const [name, item] of Object.entries(value)) {
    if (!Array.isArray(value) && UNSAFE_NAME.test(name)) return 'a member name is outside [A-Za-z0-9@_.:/-]'
    const reason = refusesToSign(item)
    if (reason) return reason
  }
  return undefined
}
