import { NetworkError } from './errors.ts'

/** A record of a stream. One without data says nothing but its id. */
export type ServerEvent = { id: string | undefined; name: string; data: string }

/** An event is a few hundred bytes; a stream that never ends a line must not fill the memory. */
const MAX_LINE = 1024 * 1024

/**
 * The records of a `text/event-stream`, as the HTML standard reads them. Ends when the stream does. Throws `NetworkError` when
 * it breaks, or when nothing, not even a heartbeat, has come for `silenceMs`.
 */
export async function* readEvents(body: ReadableStream<Uint8Array>, silenceMs: number): AsyncGenerator<ServerEvent> {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let text = ''
  let event: { id?: string; name?: string; data?: string[] } = {}
  try {
    for (;;) {
      const { done, value } = await nextChunk(reader, silenceMs)
      if (done) return
      text += decoder.decode(value, { stream: true })
      let from = 0
      // A carriage return at the very end may be half of a line's end.
      for (const end of text.matchAll(/\r\n|\n|\r(?!$)/g)) {
        const line = text.slice(from, end.index)
        from = end.index + end[0].length
        if (line !== '') {
          takeLine(event, line)
          continue
        }
        const { id, name = 'message', data } = event
        event = {}
        if (id !== undefined || data) yield { id, name, data: data?.join('\n') ?? '' }
      }
      text = text.slice(from)
      if (text.length > MAX_LINE) throw new NetworkError('broken', 'the stream sends no events')
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

function takeLine(event: { id?: string; name?: string; data?: string[] }, line: string): void {
  const [, field = '', value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? []
  if (field === 'data') (event.data ??= []).push(value)
  else if (field === 'event' && value !== '') event.name = value
  else if (field === 'id' && !value.includes('\0')) event.id = value
}

async function nextChunk(reader: ReadableStreamDefaultReader<Uint8Array>, silenceMs: number) {
  let timer: ReturnType<typeof setTimeout> | undefined
  const silence = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new NetworkError('timeout', `nothing came for ${silenceMs} ms`)), silenceMs)
  })
  try {
    return await Promise.race([reader.read(), silence])
  } catch (error) {
    if (error instanceof NetworkError) throw error
    throw new NetworkError('broken', 'the stream broke off', { cause: error })
  } finally {
    clearTimeout(timer)
  }
}
