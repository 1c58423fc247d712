import { once } from 'node:events'
import { connect } from 'node:net'
import { cidV0 } from '@market/contracts/cid'
import { readConfig } from '@market/kit/config'
import type { Log } from '@market/kit/log'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Config } from '../src/config.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

const address = `0x${'ab'.repeat(20)}`
const BASKETS = '/api/cart/v1/baskets'
const NO_BASKET = `bkt_${'0'.repeat(32)}`
const PAGE = 'https://shop.example'

const ask = async (market: MarketApi, path: string, init: RequestInit = {}) => {
  const type: Record<string, string> = init.body == null ? {} : { 'Content-Type': 'application/json' }
  const response = await fetch(market.url + path, { ...init, headers: { ...type, ...init.headers } })
  const text = await response.text()
  return { status: response.status, headers: response.headers, text, json: () => JSON.parse(text) }
}

/** As bytes, for what `fetch` would mend or refuse to send. Until the connection closes. */
function sendRaw(market: MarketApi, ...parts: (string | Uint8Array)[]) {
  const socket = connect(Number(new URL(market.url).port), '127.0.0.1')
  let received = ''
  socket.on('data', (chunk) => (received += chunk.toString('latin1')))
  socket.on('error', () => {})
  for (const part of parts) socket.write(part)
  const answer = once(socket, 'close').then(() => {
    const [head = '', body = ''] = received.split('\r\n\r\n', 2)
    return { status: Number(head.split(' ')[1]), head, body }
  })
  return { socket, answer }
}

const request = (line: string, headers: string[] = []) =>
  Buffer.from(`${[`${line} HTTP/1.1`, 'Host: market', 'Connection: close', ...headers].join('\r\n')}\r\n\r\n`, 'latin1')

const rateLimit = (headers: Headers) =>
  ['limit', 'remaining', 'reset'].map((name) => Number(headers.get(`ratelimit-${name}`) ?? Number.NaN))

describe('limits', () => {
  let market: MarketApi
  beforeAll(async () => {
    market = await startMarketApi({
      env: {
        RATE_LIMIT_ENABLED: 'true',
        RATE_LIMIT_GLOBAL_LIMIT: '12',
        RATE_LIMIT_AUTH_LIMIT: '2',
        RATE_LIMIT_CHECKOUT_LIMIT: '3',
        RATE_LIMIT_PIN_LIMIT: '4',
        // One proxy in front: us, who write for whom we ask.
        TRUSTED_PROXY_HOPS: '1',
      },
    })
  })
  afterAll(() => market?.close())

  const by =
    (client: string) =>
    (path: string, method = 'GET', headers: Record<string, string> = {}) =>
      ask(market, path, { method, headers: { 'X-Forwarded-For': client, ...headers } })

  it('market-api:A-194 two requests in 60 seconds are two, the third is told when to come again', async () => {
    const strict = await startMarketApi({ env: { RATE_LIMIT_ENABLED: 'true', RATE_LIMIT_GLOBAL_LIMIT: '2' } })
    try {
      const first = await ask(strict, '/api/sellers', { headers: { Origin: PAGE } })
      expect([first.status, ...rateLimit(first.headers)]).toEqual([200, 2, 1, 60])
      // Nobody in front is trusted, so what a client writes about itself counts for nothing; nor does an error count less.
      const second = await ask(strict, '/nowhere', { headers: { 'X-Forwarded-For': '192.0.2.9' } })
      expect([second.status, ...rateLimit(second.headers).slice(0, 2)]).toEqual([404, 2, 0])
      const third = await ask(strict, '/api/sellers', { headers: { Origin: PAGE, 'X-Forwarded-For': '192.0.2.8' } })
      expect([third.status, ...rateLimit(third.headers).slice(0, 2)]).toEqual([429, 2, 0])
      const seconds = Number(third.headers.get('retry-after'))
      expect(seconds).toBeGreaterThan(50)
      expect(seconds).toBeLessThanOrEqual(60)
      expect(third.headers.get('content-type')).toBe('application/ld+json; charset=utf-8')
      expect(third.json()).toEqual({
        error: 'Too many requests',
        details: { retryAfterSeconds: seconds },
        code: 'rate_limited',
        requestId: third.headers.get('x-request-id'),
      })
      // A page can read all of it.
      expect(third.headers.get('access-control-allow-origin')).toBe(PAGE)
      const exposed = third.headers.get('access-control-expose-headers')!.split(', ')
      expect(exposed).toEqual(
        expect.arrayContaining(['Retry-After', 'RateLimit-Limit', 'RateLimit-Remaining', 'RateLimit-Reset']),
      )
      // Where clients read problem documents, it is one.
      const pin = await ask(strict, '/api/pin', { method: 'POST' })
      expect([pin.status, pin.headers.get('content-type'), pin.json()]).toEqual([
        429,
        'application/problem+json',
        expect.objectContaining({ title: 'Too many requests', status: 429, code: 'rate_limited' }),
      ])
      // Probes, scrapes and preflights are never refused.
      for (const path of ['/health', '/health/ready', '/metrics']) {
        const probe = await ask(strict, path)
        expect([path, probe.status, ...rateLimit(probe.headers)]).toEqual([
          path,
          200,
          Number.NaN,
          Number.NaN,
          Number.NaN,
        ])
      }
      const preflight = await ask(strict, BASKETS, { method: 'OPTIONS', headers: { Origin: PAGE } })
      expect(preflight.status).toBe(204)
    } finally {
      await strict.close()
    }
  })

  it('count each client by itself: its address behind the proxy, or its IPv6 network', async () => {
    const one = by('198.51.100.1')
    for (let i = 0; i < 12; i += 1) expect((await one('/api/sellers')).status).toBe(200)
    expect((await one('/api/sellers')).status).toBe(429)
    expect((await by('203.0.113.5, 198.51.100.1')('/api/sellers')).status).toBe(429)
    expect((await by('198.51.100.1, 198.51.100.2')('/api/sellers')).status).toBe(200)
    for (let i = 0; i < 12; i += 1) await by(`2001:db8::${i}`)('/api/sellers')
    expect((await by('2001:db8::ffff:1')('/api/sellers')).status).toBe(429)
    expect((await by('2001:db8:0:1::1')('/api/sellers')).status).toBe(200)
  })

  it('signing in, checking out and pinning have budgets of their own, within that of everything', async () => {
    const one = by('198.51.100.10')
    const checkout = `${BASKETS}/${NO_BASKET}/checkout`
    const statuses = async (path: string, n: number) => {
      const all: number[] = []
      for (let i = 0; i < n; i += 1) all.push((await one(path, 'POST')).status)
      return all
    }
    const signIn = await one('/api/auth/challenge', 'POST')
    expect([signIn.status, ...rateLimit(signIn.headers).slice(0, 2)]).toEqual([400, 2, 1])
    expect(await statuses('/api/auth/verify', 2)).toEqual([400, 429])
    expect(await statuses(checkout, 4)).toEqual([404, 404, 404, 429])
    expect(await statuses('/api/pin', 2)).toEqual([400, 400])
    expect(await statuses('/pin-media', 1)).toEqual([400])
    const last = await one('/api/canonicalize', 'POST')
    expect([last.status, ...rateLimit(last.headers).slice(0, 2)]).toEqual([400, 4, 0])
    expect(await statuses('/pin', 1)).toEqual([429])
    // Nine of twelve: what was refused by a budget of its own cost the others nothing. Reading keys is no sign-in.
    const keys = await one('/api/auth/jwks.json')
    expect([keys.status, ...rateLimit(keys.headers).slice(0, 2)]).toEqual([200, 12, 2])
    await one(`${BASKETS}/${NO_BASKET}`)
    await one(`${BASKETS}/${NO_BASKET}`)
    // Now that of everything is used up, whatever was left of the others.
    expect(await statuses(checkout, 1)).toEqual([429])
    expect((await one('/api/sellers')).status).toBe(429)
    expect((await by('198.51.100.11')('/api/auth/challenge', 'POST')).status).toBe(400)
  })

  it.each([
    ['198.51.100.20', 50, '', 11],
    ['198.51.100.21', 51, '', 10],
    ['198.51.100.22', 120, '', 9],
    // Named in a way that a quick look does not see.
    ['198.51.100.23', 120, '%61vatars', 9],
    ['198.51.100.24', 10, 'other', 11],
  ])('a catalog request of %s for %i avatars costs one for each fifty', async (client, avatars, name, left) => {
    const query = Array.from({ length: avatars }, (_, i) => `${name || 'avatars'}=${i}`).join('&')
    const filler = name === 'other' ? `&${Array.from({ length: 100 }, (_, i) => `f${i}=1`).join('&')}` : ''
    const { headers } = await by(client)(`/api/operator/${address}/catalog?${query}${filler}`)
    expect(rateLimit(headers).slice(0, 2)).toEqual([12, left])
  })

  it('refusals are counted, and no lines in the log', async () => {
    const lines: string[] = []
    const silent = () => {}
    const log: Log = { ...market.ctx.log, info: (_, text) => void lines.push(text), debug: silent, child: () => log }
    const quiet = await startMarketApi({
      env: { RATE_LIMIT_ENABLED: 'true', RATE_LIMIT_GLOBAL_LIMIT: '1' },
      overrides: { log },
    })
    try {
      for (const _ of '123') await ask(quiet, '/api/sellers')
      expect(lines).toEqual(['request'])
      expect((await ask(quiet, '/metrics')).text).toMatch(
        /^http_request_duration_seconds_count\{.*status="429".*\} 2$/m,
      )
    } finally {
      await quiet.close()
    }
  })

  it('nobody is limited where the operator wants it so, and no limit is none', async () => {
    const env = {
      POSTGRES_CONNECTION: 'postgres://a:b@c/d',
      PUBLIC_BASE_URL: 'https://market.example',
      MARKET_AUTH_ALLOWED_DOMAINS: '*',
      MARKET_JWT_PRIVATE_KEY: 'x',
      CIRCLES_SERVICE_KEY: 'a-service-key-for-tests',
      RPC: 'http://127.0.0.1:1',
    }
    expect(readConfig(Config, env)).toMatchObject({
      RATE_LIMIT_ENABLED: true,
      RATE_LIMIT_GLOBAL_LIMIT: 300,
      RATE_LIMIT_GLOBAL_WINDOW_SECONDS: 60,
      RATE_LIMIT_AUTH_LIMIT: 30,
      RATE_LIMIT_CHECKOUT_LIMIT: 30,
      RATE_LIMIT_PIN_LIMIT: 300,
    })
    for (const name of ['GLOBAL_LIMIT', 'GLOBAL_WINDOW_SECONDS', 'AUTH_LIMIT', 'CHECKOUT_LIMIT', 'PIN_LIMIT']) {
      for (const value of ['0', '-1', 'x']) {
        expect(() => readConfig(Config, { ...env, [`RATE_LIMIT_${name}`]: value })).toThrow(
          `RATE_LIMIT_${name} must be`,
        )
      }
    }
  })
})

describe('the public port', () => {
  let market: MarketApi
  let token: string
  beforeAll(async () => {
    market = await startMarketApi({ env: { TRUSTED_PROXY_HOPS: '1' } })
    ;({ token } = await market.ctx.tokens.issue({ address, chainId: 100 }, 'x'))
  })
  afterAll(() => market?.close())

  const newBasket = async () =>
    (
      (await ask(market, BASKETS, { method: 'POST', body: JSON.stringify({ buyer: address }) })).json() as {
        basketId: string
      }
    ).basketId

  it('limits nobody when it is told not to', async () => {
    expect(rateLimit((await ask(market, '/api/sellers')).headers)).toEqual([Number.NaN, Number.NaN, Number.NaN])
  })

  it.each([
    ['GET', BASKETS, 'POST'],
    ['DELETE', `${BASKETS}/${NO_BASKET}`, 'GET, HEAD, PATCH'],
    ['GET', `${BASKETS}/${NO_BASKET}/checkout`, 'POST'],
    ['DELETE', '/api/cart/v1/orders/by-buyer', 'GET, HEAD'],
    ['PATCH', '/api/auth/challenge', 'POST'],
    ['POST', '/api/sellers', 'GET, HEAD'],
    ['POST', '/health', 'GET, HEAD'],
    ['GET', '/api/pin', 'POST'],
    ['POST', '/raw/x', 'GET, HEAD'],
    ['DELETE', `/inventory/inventory/100/${address}/x`, 'GET, HEAD'],
  ])('%s %s is 405 with what is allowed, whoever asks', async (method, path, allow) => {
    const { status, headers, json } = await ask(market, path, { method, headers: { Origin: PAGE } })
    expect([status, headers.get('allow'), headers.get('access-control-allow-origin')]).toEqual([405, allow, PAGE])
    const isProblem = /^\/(api\/pin|raw|inventory)/.test(path)
    expect(headers.get('content-type')).toBe(
      isProblem ? 'application/problem+json' : 'application/ld+json; charset=utf-8',
    )
    const requestId = expect.any(String)
    expect(json()).toEqual(
      isProblem
        ? { title: 'Method not allowed', status: 405, code: 'method_not_allowed', requestId }
        : { error: 'Method not allowed', details: null, code: 'method_not_allowed', requestId },
    )
  })

  it('answers HEAD as GET, without a body', async () => {
    for (const path of [
      '/api/sellers',
      '/health',
      '/health/ready',
      '/api/auth/jwks.json',
      `/raw/Qm${'1'.repeat(44)}`,
    ]) {
      const [head, get] = [await ask(market, path, { method: 'HEAD' }), await ask(market, path)]
      expect([path, head.status, head.headers.get('content-type'), head.text]).toEqual([
        path,
        get.status,
        get.headers.get('content-type'),
        '',
      ])
    }
  })

  it.each([
    ['GET', `${BASKETS}/${NO_BASKET}`, 404, 'no-store'],
    ['POST', `${BASKETS}`, 200, 'no-store'],
    ['PUT', `${BASKETS}`, 405, 'no-store'],
    ['GET', '/api/cart/v1/orders/by-buyer', 401, 'no-store'],
    ['GET', '/api/cart/nowhere', 404, 'no-store'],
    ['POST', '/api/auth/challenge', 400, 'no-store'],
    ['POST', '/api/auth/verify', 400, 'no-store'],
    ['GET', '/api/auth/jwks.json', 200, 'public, max-age=300'],
    ['GET', '/api/sellers', 200, 'public, max-age=5'],
  ])('%s %s (%i) is for caches: %s', async (method, path, expected, cacheControl) => {
    const { status, headers } = await ask(market, path, { method })
    expect([status, headers.get('cache-control')]).toEqual([expected, cacheControl])
    expect([headers.get('x-content-type-options'), headers.get('referrer-policy')]).toEqual(['nosniff', 'no-referrer'])
  })

  it('says of a 401 whether it was the token', async () => {
    const path = '/api/cart/v1/orders/by-buyer'
    const none = await ask(market, path)
    expect([none.status, none.headers.get('www-authenticate')]).toEqual([401, 'Bearer'])
    const junk = await ask(market, path, { headers: { Authorization: 'Bearer junk' } })
    expect([junk.status, junk.headers.get('www-authenticate')]).toEqual([401, 'Bearer error="invalid_token"'])
    expect(junk.json()).toMatchObject({ error: expect.any(String), details: null, code: 'unauthorized' })
  })

  describe('clients:4 transport', () => {
    it('clients:4 answers and errors are JSON by their content type', async () => {
      const id = await newBasket()
      for (const [path, init] of [
        [`${BASKETS}/${id}`, {}],
        [`${BASKETS}/${NO_BASKET}`, {}],
        [`${BASKETS}/${id}/validate`, { method: 'POST' }],
        [`${BASKETS}/${id}/checkout`, { method: 'POST' }],
        ['/api/cart/v1/orders/by-buyer', {}],
        ['/api/cart/v1/orders/by-buyer', { headers: { Authorization: `Bearer ${token}` } }],
        [`/api/operator/${address}/catalog`, {}],
        [`/api/operator/${address}/catalog?avatars=x&offset=1`, {}],
        ['/api/sellers', {}],
        ['/nowhere', {}],
      ] as [string, RequestInit][]) {
        const { headers, text } = await ask(market, path, {
          ...init,
          headers: { Accept: 'application/json, application/ld+json', ...init.headers },
        })
        expect([path, headers.get('content-type')]).toEqual([path, expect.stringMatching(/json/)])
        expect(JSON.parse(text)).toBeTypeOf('object')
      }
      const ours = await ask(market, `${BASKETS}/${id}`)
      expect(ours.headers.get('content-type')).toBe('application/ld+json; charset=utf-8')
    })

    it('clients:4 validate, preview and checkout come without body and content type', async () => {
      const id = await newBasket()
      for (const [verb, expected] of [
        ['validate', 200],
        ['preview', 400],
        ['checkout', 400],
      ] as const) {
        const { answer } = sendRaw(market, request(`POST ${BASKETS}/${id}/${verb}`))
        const { status, body } = await answer
        expect([verb, status]).toEqual([verb, expected])
        if (status === 400)
          expect(JSON.parse(body)).toMatchObject({ error: 'invalid basket', validation: { valid: false } })
      }
    })

    it('clients:4 a token nobody can verify is as none where none is needed', async () => {
      const headers = { Authorization: 'Bearer eyJhbGciOiJFZERTQSJ9.e30.xxxx' }
      const created = await ask(market, BASKETS, { method: 'POST', body: '{}', headers })
      expect(created.status).toBe(200)
      const { basketId } = created.json() as { basketId: string }
      const path = `${BASKETS}/${basketId}`
      expect((await ask(market, path, { headers })).status).toBe(200)
      expect((await ask(market, path, { method: 'PATCH', body: '{}', headers })).status).toBe(200)
      expect((await ask(market, `${path}/validate`, { method: 'POST', headers })).status).toBe(200)
      expect((await ask(market, `/api/operator/${address}/catalog?avatars=${address}`, { headers })).status).toBe(200)
    })

    it('clients:4 takes addresses in either case in path, query and body', async () => {
      const mixed = '0x20Ced4Ed3B1651B832a77E13e54EA5cb14C8b95B'
      const created = await ask(market, BASKETS, {
        method: 'POST',
        body: JSON.stringify({ buyer: mixed, operator: mixed }),
      })
      const { basketId } = created.json() as { basketId: string }
      expect((await ask(market, `${BASKETS}/${basketId}`)).json()).toMatchObject({
        buyer: mixed.toLowerCase(),
        operator: mixed.toLowerCase(),
      })
      const page = await ask(market, `/api/operator/${mixed}/catalog?avatars=${mixed}`)
      expect([page.status, page.json().operator]).toEqual([200, mixed.toLowerCase()])
      expect(
        (await ask(market, `${BASKETS}/${basketId}/checkout?buyer=${mixed}`, { method: 'POST' })).json().code,
      ).toBe('invalid_basket')
    })

    it('clients:4 takes a catalog request that names 500 avatars', async () => {
      const avatars = Array.from({ length: 500 }, (_, i) => `avatars=0x${i.toString(16).padStart(40, '0')}`).join('&')
      expect(avatars.length).toBeGreaterThan(25_000)
      const { status, json } = await ask(market, `/api/operator/${address}/catalog?${avatars}`)
      expect([status, json().avatarsScanned.length]).toEqual([200, 500])
    })
  })

  it.each([
    ['GET', `${BASKETS}/${NO_BASKET}`, 404],
    ['GET', '/api/cart/v1/orders/by-buyer', 401],
    ['GET', `/api/operator/${address}/catalog`, 400],
    ['POST', '/api/auth/verify', 400],
    ['POST', '/api/pin', 400],
    ['PUT', '/api/sellers', 405],
    ['GET', '/nowhere', 404],
    ['GET', `/ipfs/${cidV0(Buffer.from('nobody has it'))}`, 404],
  ])(
    'clients:4 clients:13.12 CORS: %s %s is an error (%i) that a page of any origin can read',
    async (method, path, expected) => {
      const { status, headers } = await ask(market, path, { method, headers: { Origin: 'https://Shop.example:8443' } })
      expect(status).toBe(expected)
      expect([
        headers.get('access-control-allow-origin'),
        headers.get('access-control-allow-credentials'),
        headers.get('vary'),
      ]).toEqual(['https://Shop.example:8443', 'true', 'Origin'])
      expect(headers.get('access-control-expose-headers')!.split(', ')).toEqual(
        expect.arrayContaining(['X-Next-Cursor', 'Link', 'ETag', 'Retry-After', 'X-Request-Id', 'RateLimit-Remaining']),
      )
    },
  )

  it('clients:13.12 CORS: an error of ours, too, with a body that says nothing of it', async () => {
    const { db } = market.ctx
    market.ctx.db = {
      selectFrom: () => {
        throw new Error('select secret from nowhere')
      },
    } as never
    try {
      const { status, headers, text } = await ask(market, '/api/sellers', { headers: { Origin: PAGE } })
      expect([status, headers.get('access-control-allow-origin')]).toEqual([500, PAGE])
      expect(JSON.parse(text)).toEqual({
        error: 'Internal error',
        details: null,
        code: 'internal_error',
        requestId: headers.get('x-request-id'),
      })
    } finally {
      market.ctx.db = db
    }
  })

  it.each(['PATCH', 'PUT', 'DELETE', 'POST', 'GET'])(
    'clients:4 clients:13.12 CORS: %s with a token may be asked for',
    async (method) => {
      const { status, headers } = await ask(market, `${BASKETS}/${NO_BASKET}`, {
        method: 'OPTIONS',
        headers: {
          Origin: PAGE,
          'Access-Control-Request-Method': method,
          'Access-Control-Request-Headers': 'authorization,content-type,if-match,idempotency-key',
        },
      })
      expect(status).toBe(204)
      expect(headers.get('access-control-allow-methods')!.split(', ')).toContain(method)
      expect(headers.get('access-control-allow-headers')).toBe('authorization,content-type,if-match,idempotency-key')
      expect([headers.get('access-control-allow-origin'), headers.get('access-control-allow-credentials')]).toEqual([
        PAGE,
        'true',
      ])
    },
  )

  describe('what is malformed', () => {
    const targets = [
      `${BASKETS}/%`,
      `${BASKETS}/%E0%A4%A`,
      `${BASKETS}/%00`,
      `${BASKETS}/%ff%fe/checkout?buyer=%`,
      `${BASKETS}/${NO_BASKET}/checkout?buyer=%00`,
      `/api/cart/v1/orders/%2e%2e%2f`,
      '/api/cart/v1/orders/by-buyer?page=%&pageSize=%ff&cursor=%00',
      '/api/cart/v1/orders/by-buyer?page=99999999999999999999&pageSize=-1',
      `/api/operator/%/catalog?avatars=x`,
      `/api/operator/${address}/catalog?avatars=%&pageSize=%`,
      `/api/operator/${address}/catalog?avatars=%00&q=%00`,
      `/api/operator/${address}/catalog?avatars=x&q=%ED%A0%80`,
      `/api/operator/${address}/catalog?avatars=x&start=9e99&end=NaN`,
      `/api/operator/${address}/catalog?avatars=x&cursor=%F0%9F`,
      `/api/operator/${address}/catalog?${'a&'.repeat(5000)}`,
      `/api/operator/${address}/catalog?${'=&?'.repeat(2000)}avatars=x`,
      `/api/operator/${address}/catalog/${address}/%00?compat=%`,
      `/inventory/inventory/100/${address}/%`,
      '/inventory/availability/99999999999999999999/x/%00',
      '/raw/%00',
      '/ipfs/%ff',
      '//raw//x',
      '/../../etc/passwd',
      '/api/sellers?%',
      '/%',
      '/?',
      '/\xff\xfe',
    ]
    const headers = [
      [],
      ['Origin: a', 'Origin: b', 'Authorization: Bearer a', 'Authorization: Bearer b'],
      ['Origin: \xff\xfe', 'X-Request-Id: \xff', 'X-Request-Id: b', 'Accept: \xff'],
      [`Authorization: Bearer ${'x'.repeat(20_000)}`, 'If-None-Match: ,,,"', 'If-Match: "', 'Range: bytes=9-1'],
      ['X-Forwarded-For: ,,;', 'X-Forwarded-For: \xff', 'Forwarded: for="_x"', 'Idempotency-Key: \xff'],
    ]

    it.each(targets.map((target) => [target.slice(0, 80), target]))(
      '%s is refused in JSON, never a 500',
      async (_, target) => {
        for (const more of headers) {
          for (const method of ['GET', 'POST']) {
            const { status, body } = await sendRaw(market, request(`${method} ${target}`, more)).answer
            expect([method, status], JSON.stringify(more)).toEqual([
              method,
              expect.toSatisfy((n) => n >= 200 && n < 500),
            ])
            expect(JSON.parse(body)).toBeTypeOf('object')
          }
        }
      },
    )

    const bodies: [string, Uint8Array, object][] = [
      ['a byte that is no UTF-8', Buffer.from('{"buyer":"\xff"}', 'latin1'), { code: 'invalid_json' }],
      ['half a character', Buffer.from('{"buyer":"\xe2\x82"}', 'latin1'), { code: 'invalid_json' }],
      ['NUL', Buffer.from('{"buyer":"\0"}'), { code: 'invalid_json' }],
      ['NUL as JSON can say it', Buffer.from('{"buyer":"\\u0000"}'), { code: 'invalid_json' }],
      ['half a surrogate pair', Buffer.from('{"buyer":"\\ud800"}'), { code: 'invalid_json' }],
      ['a thousand brackets', Buffer.from('['.repeat(1000)), { code: 'invalid_json' }],
      ['brackets without end', Buffer.from('['.repeat(30_000)), { code: 'invalid_json' }],
      ['the same name twice', Buffer.from('{"buyer":null,"buyer":null}'), { code: 'invalid_json' }],
      ['a name of the prototype', Buffer.from('{"__proto__":{"buyer":"x"},"constructor":1}'), {}],
    ]
    const takers = [
      `POST ${BASKETS}`,
      'POST /api/auth/challenge',
      'POST /api/auth/verify',
      'POST /api/cart/v1/orders/batch',
      'POST /api/pin',
      'POST /api/canonicalize',
    ]
    it.each(bodies)('a body of %s is refused in JSON, never a 500', async (_, bytes, expected) => {
      const patch = `PATCH ${BASKETS}/${await newBasket()}`
      for (const line of [...takers, patch]) {
        const head = request(line, [
          'Content-Type: application/json',
          `Content-Length: ${bytes.length}`,
          `Authorization: Bearer ${token}`,
        ])
        const { status, body } = await sendRaw(market, head, bytes).answer
        expect([line, status, body], line).toEqual([line, expect.toSatisfy((n) => n < 500), expect.any(String)])
        // These two take any JSON; a basket ignores members it does not know.
        if (/pin|canonicalize/.test(line) || Object.keys(expected).length === 0) continue
        expect([line, status, JSON.parse(body)]).toMatchObject([line, 400, expected])
      }
    })

    it('a body where none is wanted is not looked at, and no reason to wait', async () => {
      const id = await newBasket()
      const junk = 'x'.repeat(100_000)
      for (const line of [
        `GET ${BASKETS}/${id}`,
        `GET /api/operator/${address}/catalog?avatars=x`,
        'GET /api/sellers',
        `POST ${BASKETS}/${id}/validate`,
      ]) {
        const { status } = await sendRaw(market, request(line, [`Content-Length: ${junk.length}`]), junk).answer
        expect([line, status]).toEqual([line, 200])
        // Declared, and it never comes.
        const { status: early } = await sendRaw(market, request(line, ['Content-Length: 1000'])).answer
        expect([line, early]).toEqual([line, 200])
      }
    })

    it('too large a body is 413, declared or not, with a body of ours', async () => {
      const id = await newBasket()
      const tooMuch = 'x'.repeat(300_000)
      const chunked = `${tooMuch.length.toString(16)}\r\n${tooMuch}\r\n0\r\n\r\n`
      for (const line of [
        `POST ${BASKETS}`,
        `PATCH ${BASKETS}/${id}`,
        `POST ${BASKETS}/${id}/checkout`,
        'POST /api/auth/verify',
      ]) {
        for (const [header, sent] of [
          [`Content-Length: ${tooMuch.length}`, tooMuch],
          [`Content-Length: ${tooMuch.length}`, ''],
          ['Transfer-Encoding: chunked', chunked],
        ] as const) {
          const { status, body } = await sendRaw(market, request(line, [header]), sent).answer
          expect([line, header, status]).toEqual([line, header, 413])
          expect(JSON.parse(body)).toMatchObject({
            error: expect.stringMatching(/^Body exceeds/),
            code: 'body_too_large',
          })
        }
      }
    })

    it('a client that goes away in the middle of a body is no error of ours', async () => {
      const counted = async () => {
        const { text } = await ask(market, '/metrics')
        const line = /^http_request_duration_seconds_count\{(?=.*"PATCH")(?=.*"400").*\} (\d+)$/m.exec(text)
        return Number(line?.[1] ?? 0)
      }
      const before = await counted()
      for (const length of ['Content-Length: 1000', 'Transfer-Encoding: chunked']) {
        const part = length.startsWith('T') ? '5\r\n{"cus\r\n' : '{"cus'
        const { socket, answer } = sendRaw(market, request(`PATCH ${BASKETS}/${NO_BASKET}`, [length]), part)
        await once(socket, 'connect')
        await ask(market, '/health')
        socket.destroy()
        await answer
      }
      await until('both are counted as what a client did', async () => (await counted()) === before + 2)
    })
  })

  it('slow uploads of one client keep none of the others waiting, and end as soon as they are whole', async () => {
    const document = '{"a":1}'
    const upload = (client: string, sent: string) =>
      sendRaw(
        market,
        request('POST /api/canonicalize', [`X-Forwarded-For: ${client}`, `Content-Length: ${document.length}`]),
        sent,
      )
    const slow = Array.from({ length: 4 }, () => upload('198.51.100.1', document.slice(0, 3)))
    await Promise.all(slow.map(({ socket }) => once(socket, 'connect')))
    // That what was sent first has come in: on connections of their own, nothing else says so.
    await until('the four are read', async () => {
      const probe = upload('198.51.100.1', document)
      const waits = await Promise.race([
        probe.answer.then(() => false),
        // Several requests of others later it would have been answered.
        (async () => {
          for (let i = 0; i < 5; i += 1) await ask(market, '/health')
          return true
        })(),
      ])
      if (!waits) return false
      slow.push(probe)
      return true
    })
    const other = await upload('198.51.100.2', document).answer
    expect([other.status, other.body]).toEqual([200, document])
    slow[0]!.socket.write(document.slice(3))
    expect((await slow[0]!.answer).status).toBe(200)
    expect((await slow.at(-1)!.answer).status).toBe(200)
    for (const { socket } of slow) socket.destroy()
  })

  it('no line of the log has an id, an address, a query or a token', async () => {
    const lines: string[] = []
    const write = (fields: object, text: string) => void lines.push(JSON.stringify({ ...fields, text }))
    const log: Log = { debug: write, info: write, warn: write, error: write, child: () => log }
    const watched = await startMarketApi({ overrides: { log } })
    try {
      const { basketId } = (
        await ask(watched, BASKETS, { method: 'POST', body: JSON.stringify({ buyer: address }) })
      ).json()
      await ask(watched, `${BASKETS}/${basketId}?buyer=${address}`, { headers: { Authorization: 'Bearer s3cret' } })
      await ask(watched, `${BASKETS}/${basketId}`, { method: 'PATCH', body: '{"customer":{"givenName":"Ada"}}' })
      await ask(watched, `${BASKETS}/${basketId}/checkout`, { method: 'POST' })
      await ask(watched, `/api/operator/${address}/catalog?avatars=${address}`)
      await ask(watched, `/nowhere/${basketId}`)
      expect(lines.filter((line) => line.includes('"text":"request"'))).toHaveLength(6)
      expect(lines.join('\n')).not.toMatch(new RegExp(`${basketId}|${address}|s3cret|Ada|127\\.0\\.0\\.1|\\?`))
    } finally {
      await watched.close()
    }
  })
})
