import { once } from 'node:events'
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import { oneOf, type Random } from './random.ts'

/** What may become of a call. Of those behind `before` the adapter never hears; the others happen to its answer. */
const FAULTS = {
  before: ['error', 'unavailable', 'accepted', 'garbage', 'noStatus', 'hang'],
  after: ['errorAfter', 'garbageAfter', 'truncated', 'lost', 'late', 'repeated', 'delayedCall'],
} as const
type Fault = (typeof FAULTS)[keyof typeof FAULTS][number]

export type FaultyAdapter = Awaited<ReturnType<typeof startFaultyAdapter>>

/**
 * In front of an adapter, and of it alone: passes calls of `/fulfill` on, or not, and answers something else than it did.
 * `share`: of a hundred calls so many.
 */
export async function startFaultyAdapter(options: {
  port: number
  target: number
  random: Random
  share: number
  /** Longer than the market waits. */
  tooLongMs: number
}) {
  const { random, tooLongMs } = options
  const counts: Partial<Record<Fault, number>> = {}
  let share = 0
  let underWay = 0

  const forward = (incoming: IncomingMessage, body: Buffer) => {
    underWay += 1
    return send(incoming, body).finally(() => (underWay -= 1))
  }
  const later = (forMs: number, work: () => void) => {
    underWay += 1
    setTimeout(() => {
      underWay -= 1
      work()
    }, forMs)
  }
  const send = (incoming: IncomingMessage, body: Buffer) =>
    new Promise<{ status: number; headers: Record<string, string>; body: Buffer }>((resolve, reject) => {
      const outgoing = request(
        {
          host: '127.0.0.1',
          port: options.target,
          method: incoming.method,
          path: incoming.url,
          headers: { ...incoming.headers, connection: 'close' },
        },
        (answer) => {
          const parts: Buffer[] = []
          answer.on('data', (part: Buffer) => parts.push(part))
          answer.on('error', reject)
          answer.on('end', () => {
            const headers = { 'content-type': answer.headers['content-type'] ?? 'application/json' }
            resolve({ status: answer.statusCode!, headers, body: Buffer.concat(parts) })
          })
        },
      )
      outgoing.on('error', reject)
      outgoing.end(body)
    })

  const answer = async (incoming: IncomingMessage, response: ServerResponse) => {
    const parts: Buffer[] = []
    for await (const part of incoming) parts.push(part as Buffer)
    const body = Buffer.concat(parts)
    const isFulfill = incoming.url?.startsWith('/fulfill/') === true
    const fault = isFulfill && random(100) < share ? oneOf(random, [...FAULTS.before, ...FAULTS.after]) : undefined
    if (fault) counts[fault] = (counts[fault] ?? 0) + 1
    const say = (status: number, text: string, type = 'application/json') => {
      response.writeHead(status, { 'content-type': type })
      response.end(text)
    }
    const pass = async () => {
      const answered = await forward(incoming, body)
      response.writeHead(answered.status, { ...answered.headers, 'content-length': answered.body.length })
      response.end(answered.body)
    }
    switch (fault) {
      case undefined:
        return pass()
      case 'error':
        return say(500, '{"error":"chaos"}')
      case 'unavailable':
        return say(503, 'try later', 'text/plain')
      case 'accepted':
        return say(202, '{"status":"inProgress"}')
      case 'garbage':
        return say(200, '<html>It works!</html>', 'text/html')
      case 'noStatus':
        return say(200, '{"status":"perhaps","codes":["FALSE-1"]}')
      case 'hang':
        later(tooLongMs * 2, () => response.destroy())
        return
      case 'errorAfter':
        await forward(incoming, body)
        return say(502, 'bad gateway', 'text/plain')
      case 'garbageAfter':
        await forward(incoming, body)
        return say(200, '{"status":')
      case 'truncated': {
        const answered = await forward(incoming, body)
        response.writeHead(answered.status, { ...answered.headers, 'content-length': answered.body.length })
        response.write(answered.body.subarray(0, answered.body.length / 2))
        later(20, () => response.destroy())
        return
      }
      case 'lost':
        await forward(incoming, body)
        return void response.destroy()
      case 'late':
        await forward(incoming, body)
        later(tooLongMs * 2, () => response.destroy())
        return
      case 'repeated':
        // Somebody in between asks again at once.
        await Promise.all([forward(incoming, body), forward(incoming, body)])
        return pass()
      case 'delayedCall':
        // Gets there when the market has long asked again.
        later(tooLongMs * 1.5, () => void forward(incoming, body).catch(() => {}))
        later(tooLongMs * 2, () => response.destroy())
    }
  }

  const server = createServer((incoming, response) => {
    answer(incoming, response).catch(() => response.destroy())
  })
  await once(server.listen(options.port, '127.0.0.1'), 'listening')
  return {
    counts,
    /** Calls that are passed on at this moment, or will be. */
    underWay: () => underWay,
    misbehave: () => void (share = options.share),
    behave: () => void (share = 0),
    stop() {
      server.close()
      server.closeAllConnections()
    },
  }
}
