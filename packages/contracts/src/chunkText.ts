import { CanonicalJsonError, decodeUtf8, type JsonValue, isJsonObject, parseStrictJson } from './canonicalJson.ts'

/**
 * A chunk's JSON with every link read for itself: one that no strict reader accepts (a repeated member name, a lone surrogate,
 * too deep) comes out as null and takes nothing along (catalog.md W4, W16). Everything around the links has to be strict.
 * Throws CanonicalJsonError.
 */
export function parseChunkText(text: string): JsonValue {
  try {
    return parseStrictJson(text)
  } catch (error) {
    if (!(error instanceof CanonicalJsonError) || !isJson(text)) throw error
    const spans = linkSpans(text)
    let around = ''
    let from = 0
    for (const [start, end] of spans) {
      around += `${text.slice(from, start)}null`
      from = end
    }
    const chunk = parseStrictJson(around + text.slice(from))
    if (!isJsonObject(chunk) || !Array.isArray(chunk.links) || chunk.links.length !== spans.length) throw error
    return { ...chunk, links: spans.map(([start, end]) => strictOrNull(text.slice(start, end))) }
  }
}

/** The same from bytes, as `parseStrictJsonBytes` is for every other document. */
export const parseChunkBytes = (bytes: Uint8Array): JsonValue => parseChunkText(decodeUtf8(bytes))

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

function strictOrNull(text: string): JsonValue {
  try {
    return parseStrictJson(text)
  } catch (error) {
    if (error instanceof CanonicalJsonError) return null
    throw error
  }
}

/** Where the elements of the root's `links` stand. The text is JSON, so brackets balance and strings end. */
function linkSpans(text: string): [number, number][] {
  const spans: [number, number][] = []
  let depth = 0
  let name = ''
  let inLinks = false
  let start = 0
  for (let at = 0; at < text.length; at += 1) {
    const found = text[at]
    if (inLinks && depth === 2 && (found === ',' || found === ']')) {
      const element = text.slice(start, at)
      const offset = start + element.length - element.trimStart().length
      if (element.trim() !== '') spans.push([offset, offset + element.trim().length])
      start = at + 1
    }
    if (found === '"') {
      const end = endOfString(text, at)
      if (depth === 1) name = JSON.parse(text.slice(at, end + 1)) as string
      at = end
    } else if (found === '[' || found === '{') {
      depth += 1
      if (depth === 2 && found === '[' && name === 'links') {
        inLinks = true
        start = at + 1
      }
    } else if (found === ']' || found === '}') {
      depth -= 1
      if (depth === 1) inLinks = false
    }
  }
  return spans
}

/** Position of the quotation mark that ends the string. No pattern: on millions of escapes one runs out of stack. */
function endOfString(text: string, start: number): number {
  let at = start + 1
  while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at
}
