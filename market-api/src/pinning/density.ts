import { InvalidRequestError } from './errors.ts'

/** The largest index of a namespace has 67,000 names (catalog.md 1.3). */
const MAX_MARKS = 200_000

const MARKS = new Set([...'[{,\\'].map((mark) => mark.charCodeAt(0)))
const IS_MARK = Uint8Array.from({ length: 256 }, (_, byte) => (MARKS.has(byte) ? 1 : 0))

/**
 * Whether a JSON text has more elements, members and escapes than any document needs; those in strings count too. They are
 * what reading costs: 8 MiB of nothing else keep everybody else waiting for most of a second, 8 MiB of long texts do not.
 */
export function isTooDense(bytes: Uint8Array): boolean {
  if (bytes.length <= MAX_MARKS) return false
  let marks = 0
  for (const byte of bytes) marks += IS_MARK[byte]!
  return marks > MAX_MARKS
}

/** Throws `InvalidRequestError` for what no reader should be made to read. */
export function refuseDense(bytes: Uint8Array): void {
  if (!isTooDense(bytes)) return
  const detail = `The document has more than ${MAX_MARKS} elements, members and escapes`
  throw new InvalidRequestError('document_too_dense', detail)
}
