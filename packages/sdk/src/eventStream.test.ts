import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { readEvents, type ServerEvent } from './eventStream.ts'

/** A stream of these bytes, cut where it is told to. */
function streamOf(text: string, cuts: number[] = []): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder().encode(text)
  const edges = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).toSorted((a, b) => a - b), bytes.length]
  return new ReadableStream({
    start(controller) {
      for (const [i, edge] of edges.slice(1).entries()) controller.enqueue(bytes.slice(edges[i], edge))
      controller.close()
    },
  })
}

async function read(text: string, cuts?: number[]): Promise<ServerEvent[]> {
  const events: ServerEvent[] = []
  for await (const event of readEvents(streamOf(text, cuts), 1000)) events.push(event)
  return events
}

describe('an event stream', () => {
  it('is read as the standard says', async () => {
    const text = [
      ':\n\n',
      'id: 1\nevent: order-status\ndata: {"a":1}\n\n',
      ': a comment\ndata:first\ndata:  second\nretry: 10\nunknown\n\n',
      'id: 2\n\n',
      'event: empty\n\n',
      'id: a\0b\ndata\n\n',
      'data: never ended',
    ].join('')
    expect(await read(text)).toEqual([
      { id: '1', name: 'order-status', data: '{"a":1}' },
      { id: undefined, name: 'message', data: 'first\n second' },
      { id: '2', name: 'message', data: '' },
      { id: undefined, name: 'message', data: '' },
    ])
  })

  it('reads the same wherever it is cut, whatever ends its lines', async () => {
    const line = fc.string({ unit: fc.constantFrom('a', 'é', '🧵', ':', ' ', '{', '"'), maxLength: 8 })
    const record = fc.record({ id: fc.nat(99), data: fc.array(line, { minLength: 1, maxLength: 3 }) })
    await fc.assert(
      fc.asyncProperty(
        fc.array(record, { maxLength: 5 }),
        fc.constantFrom('\n', '\r\n', '\r'),
        fc.array(fc.nat(400), { maxLength: 12 }),
        async (records, end, cuts) => {
          const text = records
            .map(({ id, data }) => [`id: ${id}`, ...data.map((one) => `data: ${one}`), '', ''].join(end))
            .join('')
          // The last end of a line is sure only when something follows.
          expect(await read(`${text}:`, cuts)).toEqual(
            records.map(({ id, data }) => ({ id: String(id), name: 'message', data: data.join('\n') })),
          )
        },
      ),
      { numRuns: 300 },
    )
  })

  it('ends by an error when it breaks, says nothing, or says nothing that ends', async () => {
    const broken = new ReadableStream<Uint8Array>({ pull: (controller) => controller.error(new Error('reset')) })
    const silent = new ReadableStream<Uint8Array>({})
    const endless = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new Uint8Array(65_536).fill(97)),
    })
    const reason = async (stream: ReadableStream<Uint8Array>) =>
      readEvents(stream, 50)
        .next()
        .catch((error: { reason: string }) => error.reason)
    expect([await reason(broken), await reason(silent), await reason(endless)]).toEqual(['broken', 'timeout', 'broken'])
  })
})
