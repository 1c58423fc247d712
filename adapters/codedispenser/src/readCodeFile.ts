import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'

/**
 * The lines of a file of codes, or of a stream, as they are read. Whole chunks are split at once: with a promise a line, a
 * million of them took longer to read than to seal.
 *
 * @param onRead told how many bytes have been read
 */
export async function* readCodeFile(
  source: string | Readable,
  onRead: (bytes: number) => void = () => {},
): AsyncGenerator<string> {
  const stream = typeof source === 'string' ? createReadStream(source, { highWaterMark: 256 * 1024 }) : source
  // Across chunks: half a character may end one.
  const decoder = new TextDecoder()
  let rest = ''
  let bytes = 0
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    bytes += chunk.length
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n')
    rest = lines.pop()!
    yield* lines
    onRead(bytes)
  }
  yield rest + decoder.decode()
}
