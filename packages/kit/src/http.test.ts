import { once } from 'node:events'
import { connect, type AddressInfo } from 'node:net'
import type { Server } from 'node:http'
import { until } from '@market/testkit/until'
import { Hono } from 'hono'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { AppError, LimitError, UnauthorizedError } from './errors.ts'
import { type AppEnv, createApp, drain, earlyHeader, listen, probes, problem, watchCheck } from './http.ts'
import type { Log } from './log.ts'
import { createMetrics } from './metrics.ts'

type Line = { level: string; message: string; [field: string]: unknown }

/** A log that a test can read. */
function listeningLog(lines: Line[] = []): Log & { lines: Line[] } {
  const tell = (level: string) => (fields: object, message: string) => void lines.push({ ...fields, level, message })
  const log = { debug: tell('debug'), info: tell('info'), warn: tell('warn'), error: tell('error') }
  return { ...log, lines, child: () => listeningLog(lines) }
}

const log = listeningLog()
const metrics = createMetrics('test')
let pings = 0
let release = () => {}
let server: Server
let origin: string

beforeAll(async () => {
  const app = createApp(log, metrics, problem, (c) => {
    earlyHeader(c, 'X-Edge', 'seen')
    if (c.req.path === '/refused') throw new LimitError('rate_limited', 'Too many requests', 7)
    return c.req.path === '/answered' ? c.body(null, 204) : undefined
  })
  const guarded = new Hono<AppEnv>()
    .use(async (c) => {
      throw new UnauthorizedError('unauthorized', `no ${c.req.path}`)
    })
    .get('/thing', (c) => c.text('never'))
  app.route('/guarded', guarded)
  app.route(
    '/',
    new Hono()
      .get('/things/special', (c) => c.text('special'))
      .get('/things/:id', (c) => c.text(`thing ${c.req.param('id')}`))
      .patch('/things/:id', async (c) => c.json(await c.req.json()))
      .post('/things', (c) => c.text('made', 201))
      .get('/broken', () => {
        throw new Error('select * from secrets')
      })
      .get('/nothing', () => {
        throw 'a text' as unknown as Error
      })
      .get('/cached', (c) => {
        c.header('X-Edge', 'mine')
        return c.text('kept')
      }),
  )
  app.route(
    '/',
    probes({
      metrics,
      pingDatabase: () => {
        pings += 1
        return new Promise<void>((resolve) => (release = resolve))
      },
      notReady: async () => ['payments', 'ipfs'],
    }),
  )
  server = await listen(app, 0, 'PORT', '127.0.0.1', { headersMs: 300, requestMs: 600, checkEveryMs: 50 })
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(() => drain(server, 0))

const ask = async (method: string, path: string, headers: Record<string, string> = {}) => {
  const response = await fetch(origin + path, { method, headers })
  const text = await response.text()
  return { status: response.status, headers: response.headers, text, json: () => JSON.parse(text) }
}

/** What comes back until the connection closes for bytes that no client library would send. */
async function send(...parts: (string | Buffer)[]): Promise<string> {
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
  let received = ''
  socket.on('data', (chunk) => (received += chunk.toString('latin1')))
  socket.on('error', () => {})
  for (const part of parts) socket.write(part)
  await once(socket, 'close')
  return received
}

/** Status and JSON of a response as it came over the wire. */
function parse(received: string) {
  const [head = '', body = ''] = received.split('\r\n\r\n', 2)
  return { status: Number(head.split(' ')[1]), head, body: JSON.parse(body) }
}

describe('a method that a path does not have', () => {
  it.each([
    ['DELETE', '/things/7', 'GET, HEAD, PATCH'],
    ['PUT', '/things', 'POST'],
    ['HEAD', '/things', 'POST'],
    ['GET', '/things', 'POST'],
    ['OPTIONS', '/things/7', 'GET, HEAD, PATCH'],
    ['PROPFIND', '/things/7', 'GET, HEAD, PATCH'],
  ])('%s %s is told with 405 which it has', async (method, path, allow) => {
    const { status, headers, text } = await ask(method, path)
    expect([status, headers.get('allow'), headers.get('content-type')]).toEqual([
      405,
      allow,
      'application/problem+json',
    ])
    if (method !== 'HEAD') expect(JSON.parse(text)).toMatchObject({ status: 405, code: 'method_not_allowed' })
  })

  it('comes before what a route asks of its callers; so does a path that is none', async () => {
    expect((await ask('DELETE', '/guarded/thing')).status).toBe(405)
    expect((await ask('GET', '/guarded/nope')).status).toBe(404)
    expect((await ask('GET', '/guarded/thing')).status).toBe(401)
  })

  it('is 404 where there is no such path, with a body', async () => {
    const { status, headers, json } = await ask('DELETE', '/nowhere')
    expect([status, headers.get('allow'), json()]).toEqual([
      404,
      null,
      { title: 'Not found', status: 404, code: 'not_found', requestId: expect.any(String) },
    ])
  })

  it('HEAD is GET without a body', async () => {
    const { status, headers, text } = await ask('HEAD', '/things/7')
    expect([status, headers.get('content-type'), text]).toEqual([200, 'text/plain; charset=UTF-8', ''])
  })
})

describe('every answer', () => {
  it.each([
    ['GET', '/things/7', 200],
    ['GET', '/nowhere', 404],
    ['PUT', '/things', 405],
    ['GET', '/guarded/thing', 401],
    ['GET', '/refused', 429],
    ['GET', '/broken', 500],
    ['GET', '/answered', 204],
  ])('%s %s has the headers of the house', async (method, path, expected) => {
    const { status, headers } = await ask(method, path, { 'X-Request-Id': 'mine-1' })
    expect(status).toBe(expected)
    expect([
      headers.get('x-request-id'),
      headers.get('x-content-type-options'),
      headers.get('referrer-policy'),
      headers.get('x-edge'),
    ]).toEqual(['mine-1', 'nosniff', 'no-referrer', 'seen'])
  })

  it('a route may say otherwise about a header that was set before it', async () => {
    expect((await ask('GET', '/cached')).headers.get('x-edge')).toBe('mine')
  })

  it('has a request id of ours when the one sent is none', async () => {
    const { headers } = await ask('GET', '/things/7', { 'X-Request-Id': 'no spaces, please' })
    expect(headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
  })

  it('a refusal at the edge says when to come back', async () => {
    const { headers, json } = await ask('GET', '/refused')
    expect([headers.get('retry-after'), json()]).toMatchObject(['7', { code: 'rate_limited', retryAfterSeconds: 7 }])
  })

  it('says nothing of what broke, which is in the log under the same id', async () => {
    const { json } = await ask('GET', '/broken', { 'X-Request-Id': 'broken-1' })
    expect(json()).toEqual({ title: 'Internal error', status: 500, code: 'internal_error', requestId: 'broken-1' })
    expect(log.lines).toContainEqual(
      expect.objectContaining({ level: 'error', err: expect.objectContaining({ message: 'select * from secrets' }) }),
    )
  })

  it('is one even where something was thrown that is no error', async () => {
    const { status, json } = await ask('GET', '/nothing')
    expect([status, json().code]).toEqual([500, 'internal_error'])
  })

  it.each([
    [{}, 'Bearer'],
    [{ Authorization: 'Basic eDp5' }, 'Bearer'],
    [{ Authorization: 'Bearer' }, 'Bearer'],
    [{ Authorization: 'Bearer junk' }, 'Bearer error="invalid_token"'],
    [{ Authorization: 'bearer  junk' }, 'Bearer error="invalid_token"'],
  ] as [Record<string, string>, string][])('401 for %j asks for %s', async (headers, wanted) => {
    expect((await ask('GET', '/guarded/thing', headers)).headers.get('www-authenticate')).toBe(wanted)
  })
})

describe('the log', () => {
  it('has one line a request: the pattern, never the path or the query', async () => {
    log.lines.length = 0
    await ask('GET', '/things/bkt_secret?buyer=0xab&token=abc', {
      'X-Request-Id': 'r-1',
      Authorization: 'Bearer t0ken',
    })
    await ask('GET', '/things/special')
    await ask('GET', '/bkt_secret/nowhere')
    expect(log.lines).toEqual([
      {
        level: 'info',
        message: 'request',
        requestId: 'r-1',
        method: 'GET',
        route: '/things/:id',
        status: 200,
        ms: expect.any(Number),
      },
      expect.objectContaining({ route: '/things/special', status: 200 }),
      expect.objectContaining({ route: 'unmatched', status: 404 }),
    ])
    expect(JSON.stringify(log.lines)).not.toMatch(/secret|0xab|t0ken|127\.0/)
    expect(await metrics.registry.metrics()).toContain('route="/things/special"')
  })
})

describe('what is no request', () => {
  it.each([
    ['no HTTP at all', 'hello\r\n\r\n', 400, 'bad_request'],
    ['a target that is no path', 'GET * HTTP/1.1\r\nHost: a\r\n\r\n', 400, 'bad_request'],
    ['no Host', 'GET / HTTP/1.1\r\n\r\n', 400, 'bad_request'],
    ['an Expect nobody knows', 'GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n', 417, 'expectation_failed'],
    ['a host that is none', 'GET / HTTP/1.1\r\nHost: a b\r\n\r\n', 400, 'bad_request'],
    ['a backslash for a slash', 'GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n', 400, 'bad_request'],
    ['two lengths', 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n', 400, 'bad_request'],
    ['NUL in a header', 'GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n', 400, 'bad_request'],
    ['too much of it', `GET / HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(70_000)}\r\n\r\n`, 431, 'headers_too_large'],
  ])('%s is refused with a body', async (_, bytes, status, code) => {
    const answer = parse(await send(bytes))
    expect([answer.status, answer.body]).toEqual([
      status,
      { title: expect.any(String), status, code, requestId: expect.any(String) },
    ])
    expect(answer.head.toLowerCase()).toContain('connection: close')
  })

  it('a request of HTTP/1.0 without a Host is one: balancers ask like that', async () => {
    expect(await send('GET /things/7 HTTP/1.0\r\n\r\n')).toMatch(/^HTTP\/1\.1 200 OK\r\n[\s\S]*thing 7$/)
  })
})

describe('a client that takes its time', () => {
  it('is cut when its headers do not come', async () => {
    const answer = parse(await send('GET / HTTP/1.1\r\nHost: a\r\n'))
    expect([answer.status, answer.body.code]).toEqual([408, 'request_timeout'])
  })

  it('is cut when its body does not come, and the route is not left waiting', async () => {
    log.lines.length = 0
    const head = 'PATCH /things/7 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n'
    const answer = parse(await send(head, '{'))
    expect([answer.status, answer.body.code]).toEqual([408, 'request_timeout'])
    await until('its line', () => log.lines.some(({ route }) => route === '/things/:id'))
  })

  it('may come again on the same connection', async () => {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const next = async () => {
      socket.write('GET /things/7 HTTP/1.1\r\nHost: a\r\n\r\n')
      return String((await once(socket, 'data'))[0])
    }
    const first = await next()
    expect(first).toContain('200 OK')
    expect(first).toMatch(/^Keep-Alive: timeout=75\r$/m)
    // Longer than headers or a request may take.
    await new Promise((resolve) => setTimeout(resolve, 800))
    expect(await next()).toContain('200 OK')
    socket.destroy()
  })
})

describe('probes', () => {
  it('say names of what is not in order; many at once ask the database once', async () => {
    pings = 0
    const answers = Promise.all(Array.from({ length: 5 }, () => ask('GET', '/health/ready')))
    await until('the database is asked', () => pings === 1)
    await ask('GET', '/things/7')
    expect(pings).toBe(1)
    release()
    for (const { status, text, headers } of await answers) {
      expect([status, text, headers.get('cache-control')]).toEqual([503, 'Unhealthy: payments, ipfs', 'no-store'])
    }
  })

  it('a check tells the log when it begins to fail, why, and when it does well again', async () => {
    const told = listeningLog()
    const faults = [undefined, 'down', 'down', 'worse', undefined, undefined]
    const check = watchCheck(told, 'ipfs', async () => {
      const fault = faults.shift()
      if (fault) throw new Error(fault)
    })
    const results: boolean[] = []
    for (let i = 0; i < 6; i += 1) results.push(await check())
    expect(results).toEqual([true, false, false, false, true, true])
    expect(
      told.lines.map(({ level, message, check: name, err }) => [level, message, name, (err as Error)?.message]),
    ).toEqual([
      ['error', 'check failed', 'ipfs', 'down'],
      ['error', 'check failed', 'ipfs', 'worse'],
      ['info', 'check recovered', 'ipfs', undefined],
    ])
  })
})

it('an error of any status has a body', async () => {
  const app = createApp(listeningLog(), createMetrics('other'), problem)
  app.get('/:status', (c) => {
    throw new AppError(Number(c.req.param('status')), 'some_code', 'Some text')
  })
  for (const status of [400, 403, 404, 405, 409, 410, 412, 413, 415, 416, 422, 429, 502, 503, 504, 508]) {
    const response = await app.request(`/${status}`)
    expect([response.status, await response.json()]).toMatchObject([status, { status, code: 'some_code' }])
  }
})
