import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import { createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { gzipSync } from 'node:zlib'
import { until } from '@market/testkit/until'
import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { createGuardedFetch, type GuardedFetchOptions, OutboundError } from './guardedFetch.ts'

/** A public address that tests reach on this machine. */
const PUBLIC = '93.184.216.34'
const KEY = { 'X-Key': 'sesame' }

type Upstream = { origin: string; port: number; connections: number; requests: IncomingMessage[]; server: Server }
const servers: Server[] = []

async function upstream(answer: RequestListener): Promise<Upstream> {
  const server = createServer((request, response) => {
    started.requests.push(request)
    answer(request, response)
  })
  const started: Upstream = { origin: '', port: 0, connections: 0, requests: [], server }
  server.on('connection', () => (started.connections += 1))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  servers.push(server)
  started.port = (server.address() as AddressInfo).port
  started.origin = `http://127.0.0.1:${started.port}`
  return started
}

afterEach(() => {
  for (const server of servers.splice(0)) {
    server.close()
    server.closeAllConnections()
  }
})

const guarded = (options: Partial<GuardedFetchOptions> = {}) =>
  createGuardedFetch({
    configured: new Map(),
    maxRedirects: 3,
    maxResponseBytes: 1000,
    resolve: async () => [PUBLIC],
    dial: () => '127.0.0.1',
    ...options,
  })

const failure = async (work: Promise<unknown>) => {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(OutboundError)
  const { status, code, message, details } = error as OutboundError
  return { status, code, title: message, detail: details.detail }
}
const BLOCKED = { status: 502, code: 'upstream_blocked', title: 'Upstream blocked', detail: 'Blocked private address' }

describe('a configured origin', () => {
  it('is called though it is private, with its own headers and those of the call', async () => {
    const adapter = await upstream((_, response) => response.end('hello'))
    const fetch = guarded({ configured: new Map([[adapter.origin, KEY]]) })
    const answer = await fetch(`${adapter.origin}/a%20b?c=d`, { timeoutMs: 2000, headers: { 'X-Hop': '1' } })
    expect(answer).toEqual({ status: 200, text: 'hello' })
    expect(adapter.requests[0]).toMatchObject({ method: 'GET', url: '/a%20b?c=d' })
    expect(adapter.requests[0]!.headers).toMatchObject({
      host: `127.0.0.1:${adapter.port}`,
      'x-key': 'sesame',
      'x-hop': '1',
    })
  })

  it('is one scheme, host and port: any other is blocked, and its headers stay here', async () => {
    const adapter = await upstream((_, response) => response.end())
    const fetch = guarded({ configured: new Map([[adapter.origin, KEY]]), resolve: async () => ['127.0.0.1'] })
    for (const url of [`http://localhost:${adapter.port}/`, `https://127.0.0.1:${adapter.port}/`]) {
      expect(await failure(fetch(url, { timeoutMs: 2000 }))).toEqual(BLOCKED)
    }
    expect(adapter.connections).toBe(0)
  })

  it('fulfilment:F-14 is never followed elsewhere, and its key goes nowhere', async () => {
    const target = await upstream((_, response) => response.end())
    const adapter = await upstream((_, response) => response.writeHead(302, { Location: target.origin }).end('moved'))
    const fetch = guarded({
      configured: [adapter, target].reduce((map, { origin }) => map.set(origin, KEY), new Map()),
    })
    expect(await fetch(adapter.origin, { timeoutMs: 2000 })).toEqual({ status: 302, text: 'moved' })
    expect(target.connections).toBe(0)
  })

  it('gets a body once, on a connection of its own', async () => {
    const bodies: string[] = []
    const adapter = await upstream(async (request, response) => {
      let body = ''
      for await (const part of request) body += String(part)
      bodies.push(body)
      response.end()
    })
    const fetch = guarded({ configured: new Map([[adapter.origin, KEY]]) })
    await fetch(adapter.origin, { timeoutMs: 2000 })
    await fetch(adapter.origin, { method: 'POST', body: '{"é":1}', timeoutMs: 2000 })
    expect(bodies).toEqual(['', '{"é":1}'])
    expect(adapter.requests[1]!.headers).toMatchObject({ 'content-length': '8', connection: 'close' })
    expect(adapter.connections).toBe(2)
  })

  it('keeps its connection for the next call, and gets another when that one is dead', async () => {
    const sockets: Socket[] = []
    let answers = 0
    // Plain TCP: an HTTP server would announce that it closes, and this one goes without a word.
    const server = createTcpServer((socket) => {
      sockets.push(socket)
      socket.on('error', () => {})
      socket.on('data', () => {
        answers += 1
        // The first connection answers twice, then dies over the third request.
        if (socket === sockets[0] && answers === 3) socket.resetAndDestroy()
        else socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const fetch = guarded({ configured: new Map([[origin, KEY]]) })
    for (let i = 0; i < 3; i += 1) expect(await fetch(origin, { timeoutMs: 2000 })).toEqual({ status: 200, text: 'ok' })
    expect([sockets.length, answers]).toEqual([2, 4])
    for (const socket of sockets) socket.destroy()
    server.close()
  })
})

describe('any other origin', () => {
  const shop =
    (path = '', host = 'shop.example') =>
    (at: Upstream) =>
      `http://${host}:${at.port}/${path}`

  it('is called at the addresses that were looked at, under its own name, without a key', async () => {
    const server = await upstream((_, response) => response.end('5'))
    const asked: string[] = []
    const dialled: string[] = []
    const fetch = guarded({
      configured: new Map([['http://shop.example', KEY]]),
      // A host that answers differently the second time it is asked gets no second time.
      resolve: async (host) => (asked.push(host) === 1 ? [PUBLIC, '2a00::1'] : ['127.0.0.1']),
      dial: (address) => (dialled.push(address), '127.0.0.1'),
    })
    expect(await fetch(shop('stock')(server), { timeoutMs: 2000 })).toEqual({ status: 200, text: '5' })
    expect([asked, dialled]).toEqual([['shop.example'], [PUBLIC, '2a00::1']])
    expect(server.requests[0]!.headers).toEqual({ host: `shop.example:${server.port}`, connection: 'keep-alive' })
  })

  it.each([
    '127.0.0.1',
    '10.0.0.5',
    '169.254.169.254',
    '100.64.0.1',
    '0.0.0.0',
    '::1',
    '::ffff:10.0.0.1',
    'fd00::1',
    '64:ff9b::7f00:1',
    '64:ff9b:1::808:808',
    '2002:7f00:1::',
    'no address',
  ])('fulfilment:F-12 is blocked at %s, and nothing connects', async (address) => {
    const server = await upstream((_, response) => response.end())
    const dialled: string[] = []
    for (const addresses of [[address], [PUBLIC, address]]) {
      const fetch = guarded({ resolve: async () => addresses, dial: (to) => (dialled.push(to), '127.0.0.1') })
      expect(await failure(fetch(shop()(server), { timeoutMs: 2000 }))).toEqual(BLOCKED)
    }
    expect([server.connections, dialled]).toEqual([0, []])
  })

  it.each([
    '127.0.0.1',
    '2130706433',
    '0177.0.0.1',
    '0x7f.1',
    '127.1',
    '127.0.0.1.',
    '[::1]',
    '[::ffff:7f00:1]',
    '[::]',
  ])('is blocked when its URL says %s, without asking DNS', async (host) => {
    const server = await upstream((_, response) => response.end())
    const resolve = () => Promise.reject(new Error('asked'))
    expect(await failure(guarded({ resolve })(shop('', host)(server), { timeoutMs: 2000 }))).toEqual(BLOCKED)
    expect(server.connections).toBe(0)
  })

  it('is blocked when its name does not resolve, by the DNS of this machine too', async () => {
    const detail = 'Host does not resolve'
    const nowhere = guarded({ resolve: () => Promise.reject(new Error('ENOTFOUND')) })
    expect(await failure(nowhere('http://shop.example/', { timeoutMs: 2000 }))).toEqual({ ...BLOCKED, detail })
    const plain = createGuardedFetch({ configured: new Map(), maxRedirects: 0, maxResponseBytes: 1 })
    expect(await failure(plain('http://localhost:1/', { timeoutMs: 2000 }))).toEqual(BLOCKED)
  })

  it('is blocked once its name has become private, though a connection to it is still open', async () => {
    const server = await upstream((_, response) => response.end('5'))
    let addresses = [PUBLIC]
    const fetch = guarded({ resolve: async () => addresses })
    for (let i = 0; i < 2; i += 1) await fetch(shop()(server), { timeoutMs: 2000 })
    expect(server.connections).toBe(1)
    addresses = ['10.0.0.5']
    expect(await failure(fetch(shop()(server), { timeoutMs: 2000 }))).toEqual(BLOCKED)
    expect(server.requests).toHaveLength(2)
  })

  it('is no other because of what stands before the @ of its URL, which goes nowhere', async () => {
    const server = await upstream((_, response) => response.end('5'))
    const adapter = await upstream((_, response) => response.end())
    const fetch = guarded({ configured: new Map([[adapter.origin, KEY]]) })
    const url = `http://127.0.0.1:${adapter.port}@shop.example:${server.port}/`
    expect(await fetch(url, { timeoutMs: 2000 })).toEqual({ status: 200, text: '5' })
    expect(adapter.connections).toBe(0)
    expect(Object.keys(server.requests[0]!.headers)).toEqual(['host', 'connection'])
  })

  it('is blocked at a number in whatever way a URL spells it', async () => {
    const server = await upstream((_, response) => response.end())
    const fetch = guarded({ resolve: () => Promise.reject(new Error('asked')) })
    const part = fc.constantFrom<(n: number) => string>(
      (n) => String(n),
      (n) => `0x${n.toString(16)}`,
      (n) => `0${n.toString(8)}`,
    )
    const inside = fc.constantFrom<number[]>(
      [10, 0, 0, 5],
      [127, 0, 0, 1],
      [100, 64, 0, 1],
      [192, 168, 1, 1],
      [169, 254, 169, 254],
    )
    await fc.assert(
      fc.asyncProperty(
        inside,
        fc.tuple(part, part, part, part),
        fc.integer({ min: 1, max: 4 }),
        async (v4, spell, parts) => {
          // The last part of a number takes all bytes that are left.
          const last = v4.slice(parts - 1).reduce((sum, byte) => sum * 256 + byte, 0)
          const host = [...v4.slice(0, parts - 1), last].map((n, i) => spell[i]!(n)).join('.')
          expect(await failure(fetch(shop('', host)(server), { timeoutMs: 2000 })), host).toEqual(BLOCKED)
        },
      ),
    )
    expect(server.connections).toBe(0)
  })

  it('is asked for by its own name over TLS, and not believed without a certificate', async () => {
    const names: string[] = []
    const server = createTlsServer({ SNICallback: (name, done) => (names.push(name), done(null)) })
    server.on('tlsClientError', () => {})
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const url = `https://shop.example:${(server.address() as AddressInfo).port}/`
    expect(await failure(guarded()(url, { timeoutMs: 2000 }))).toMatchObject({ code: 'upstream_unreachable' })
    expect(names).toEqual(['shop.example'])
    server.close()
  })

  it('is blocked whatever it is when only configured ones will do', async () => {
    const server = await upstream((_, response) => response.end())
    const request = { timeoutMs: 2000, configuredOnly: true }
    expect(await failure(guarded()(shop()(server), request))).toMatchObject({ code: 'upstream_blocked' })
    expect(server.connections).toBe(0)
  })

  it.each(['ftp://shop.example/', 'file:///etc/passwd', 'shop.example', ''])('is none: %s', async (url) => {
    expect(await failure(guarded()(url, { timeoutMs: 2000 }))).toEqual({
      status: 502,
      code: 'upstream_invalid_url',
      title: 'Upstream error',
      detail: 'Invalid or non-HTTP/HTTPS URL',
    })
  })

  describe('that redirects', () => {
    const chain = (length: number) =>
      upstream(({ url }, response) => {
        const n = Number(url!.slice(1))
        if (n < length) response.writeHead([301, 302, 303, 307, 308][n % 5]!, { Location: `/${n + 1}` }).end()
        else response.end('there')
      })

    it('is followed three times, each target looked at, the headers of the call with it', async () => {
      const server = await chain(3)
      const asked: string[] = []
      const fetch = guarded({ resolve: async (host) => (asked.push(host), [PUBLIC]) })
      const answer = await fetch(shop('0')(server), { timeoutMs: 2000, headers: { 'X-Hop': '1' } })
      expect([answer.text, asked.length]).toEqual(['there', 4])
      expect(server.requests.map(({ headers }) => headers['x-hop'])).toEqual(['1', '1', '1', '1'])
    })

    it('is not followed a fourth time', async () => {
      const server = await chain(4)
      expect(await failure(guarded()(shop('0')(server), { timeoutMs: 2000 }))).toEqual({
        status: 502,
        code: 'upstream_redirects',
        title: 'Upstream HTTP error',
        detail: 'More than 3 redirects',
      })
      expect(server.requests).toHaveLength(4)
    })

    it('fulfilment:F-13 is blocked when it points to a private address, by number or by name, configured or not', async () => {
      const target = await upstream((_, response) => response.end())
      for (const location of [target.origin, `http://inside.example:${target.port}/`]) {
        const server = await upstream((_, response) => response.writeHead(302, { Location: location }).end())
        const fetch = guarded({
          configured: new Map([[target.origin, KEY]]),
          resolve: async (host) => [host === 'inside.example' ? '10.0.0.5' : PUBLIC],
        })
        expect(await failure(fetch(shop()(server), { timeoutMs: 2000 }))).toEqual(BLOCKED)
      }
      expect(target.connections).toBe(0)
    })

    it('is looked at again for each hop: a name that is private the second time is blocked there', async () => {
      const server = await chain(3)
      let asked = 0
      const fetch = guarded({ resolve: async () => ((asked += 1) < 3 ? [PUBLIC] : ['127.0.0.1']) })
      expect(await failure(fetch(shop('0')(server), { timeoutMs: 2000 }))).toEqual(BLOCKED)
      expect([asked, server.requests.length]).toEqual([3, 2])
    })

    it('fulfilment:F-14 gets no key of the configured origin it points to', async () => {
      const target = await upstream((_, response) => response.end('plain'))
      const inside = `http://adapter.example:${target.port}`
      const server = await upstream((_, response) => response.writeHead(307, { Location: inside }).end())
      const fetch = guarded({ configured: new Map([[inside, KEY]]) })
      expect(await fetch(shop()(server), { timeoutMs: 2000 })).toEqual({ status: 200, text: 'plain' })
      expect(target.requests[0]!.headers).not.toHaveProperty('x-key')
    })

    it('is an answer when it points nowhere, and to a POST', async () => {
      const server = await upstream(({ method }, response) =>
        response.writeHead(302, method === 'POST' ? { Location: '/elsewhere' } : {}).end(),
      )
      expect(await guarded()(shop()(server), { timeoutMs: 2000 })).toEqual({ status: 302, text: '' })
      const post = { method: 'POST', body: '{}', timeoutMs: 2000 } as const
      expect(await guarded()(shop()(server), post)).toEqual({ status: 302, text: '' })
      expect(server.requests).toHaveLength(2)
    })

    it('is refused when it points to something that is no http', async () => {
      const server = await upstream((_, response) => response.writeHead(302, { Location: 'file:///etc/passwd' }).end())
      expect(await failure(guarded()(shop()(server), { timeoutMs: 2000 }))).toMatchObject({
        code: 'upstream_invalid_url',
      })
    })
  })
})

describe('every call', () => {
  const call = async (answer: RequestListener, timeoutMs = 2000) => {
    const server = await upstream(answer)
    const fetch = guarded({ configured: new Map([[server.origin, {}]]) })
    return { server, answer: fetch(server.origin, { timeoutMs }) }
  }

  it('reads an answer of just the size that is allowed', async () => {
    const { answer } = await call((_, response) => response.end('x'.repeat(1000)))
    expect((await answer).text).toHaveLength(1000)
  })

  it.each<[string, RequestListener]>([
    ['by its announcement', (_, response) => response.writeHead(200, { 'Content-Length': 1001 }).flushHeaders()],
    ['by counting', (_, response) => void response.write('x'.repeat(1001))],
  ])('fulfilment:F-11 stops at one byte more, %s, and closes the connection', async (_, listener) => {
    const { server, answer } = await call(listener)
    expect(await failure(answer)).toEqual({
      status: 502,
      code: 'upstream_too_large',
      title: 'Upstream HTTP error',
      detail: 'answer exceeds 1000 bytes',
    })
    await until('the connection is closed', () => server.requests[0]!.socket.destroyed)
  })

  it.each<[string, RequestListener]>([
    ['says nothing', () => {}],
    ['stops half-way', (_, response) => void response.write('half')],
    ['drips', (_, response) => void setInterval(() => response.write('.'), 20).unref()],
    [
      'drips headers',
      ({ socket }) => {
        socket.write('HTTP/1.1 200 OK\r\n')
        setInterval(() => socket.write('X-A: 1\r\n'), 20).unref()
      },
    ],
    [
      'only says that it will go on',
      (_, response) => void setInterval(() => response.destroyed || response.writeContinue(), 5).unref(),
    ],
  ])('ends in time with one that %s, and closes the connection', async (_, listener) => {
    const { server, answer } = await call(listener, 150)
    const begun = performance.now()
    expect(await failure(answer)).toEqual({
      status: 504,
      code: 'upstream_timeout',
      title: 'Upstream timeout',
      detail: 'No answer within 150 ms',
    })
    expect(performance.now() - begun).toBeLessThan(1000)
    await until('the connection is closed', () => server.requests[0]!.socket.destroyed)
  })

  it('stops at more headers than anybody needs', async () => {
    const { server, answer } = await call(({ socket }) => {
      socket.write('HTTP/1.1 200 OK\r\n')
      const flood = () => {
        while (socket.writable && socket.write(`X-A: ${'x'.repeat(1000)}\r\n`));
      }
      socket.on('drain', flood).on('error', () => {})
      flood()
    })
    expect(await failure(answer)).toMatchObject({ status: 502, detail: 'HPE_HEADER_OVERFLOW' })
    await until('the connection is closed', () => server.requests[0]!.socket.destroyed)
  })

  it('fulfilment:F-11 takes no more of a body without end than it needs to know that', async () => {
    let sent = 0
    const { server, answer } = await call((_, response) => {
      const part = Buffer.alloc(65_536, 'x')
      const flood = () => {
        do sent += part.length
        while (!response.destroyed && response.write(part))
      }
      response.on('drain', flood)
      flood()
    })
    expect(await failure(answer)).toMatchObject({ code: 'upstream_too_large' })
    await until('the connection is closed', () => server.requests[0]!.socket.destroyed)
    // What the kernel holds for a connection, not the gigabytes that two seconds of writing make.
    expect(sent).toBeLessThan(32 * 1024 * 1024)
  })

  it('gets no other protocol, and the connection that changed to one is closed', async () => {
    const { server, answer } = await call(({ socket }) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n{"status":"ok"}')
    }, 300)
    expect(await failure(answer)).toMatchObject({ status: 504 })
    await until('the connection is closed', () => server.requests[0]!.socket.destroyed)
  })

  it('asks for nothing packed and unpacks nothing: a bomb stays as small as it came', async () => {
    const bomb = gzipSync(Buffer.alloc(500_000))
    expect(bomb.length).toBeLessThan(1000)
    const { server, answer } = await call((_, response) =>
      response.writeHead(200, { 'Content-Encoding': 'gzip' }).end(bomb),
    )
    expect((await answer).text.length).toBeLessThanOrEqual(bomb.length)
    expect(server.requests[0]!.headers).not.toHaveProperty('accept-encoding')
  })

  it('ends in time with a name that takes for ever, and one time for all redirects', async () => {
    const stuck = guarded({ resolve: () => new Promise(() => {}) })
    expect(await failure(stuck('http://shop.example/', { timeoutMs: 100 }))).toMatchObject({ status: 504 })
    const slow = await upstream(({ url }, response) =>
      setTimeout(() => response.writeHead(302, { Location: `${url}x` }).end(), 100),
    )
    const patient = guarded({ maxRedirects: 100 })
    expect(await failure(patient(`http://shop.example:${slow.port}/`, { timeoutMs: 250 }))).toMatchObject({
      status: 504,
    })
    expect(slow.requests.length).toBeLessThanOrEqual(3)
  })

  it('connects to nobody any more when a name resolves too late', async () => {
    const server = await upstream((_, response) => response.end())
    let resolveLate: (addresses: string[]) => void = () => {}
    const late = new Promise<string[]>((resolve) => (resolveLate = resolve))
    const fetch = guarded({ resolve: (host) => (host === 'late.example' ? late : Promise.resolve([PUBLIC])) })
    expect(await failure(fetch(`http://late.example:${server.port}/`, { timeoutMs: 50 }))).toMatchObject({
      status: 504,
    })
    resolveLate([PUBLIC])
    await fetch(`http://shop.example:${server.port}/`, { timeoutMs: 2000 })
    expect(server.connections).toBe(1)
  })

  it('names neither host nor address when it fails, only how', async () => {
    const { server, answer } = await call(({ socket }) => socket.destroy())
    expect(await failure(answer)).toEqual({
      status: 502,
      code: 'upstream_unreachable',
      title: 'Upstream HTTP error',
      detail: 'ECONNRESET',
    })
    server.server.close()
    await until('nobody listens', () => !server.server.listening)
    const fetch = guarded({ configured: new Map([[server.origin, {}]]) })
    expect(await failure(fetch(server.origin, { timeoutMs: 2000 }))).toMatchObject({ detail: 'ECONNREFUSED' })
  })
})
