import { generateKeyPairSync } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { freePort } from '@market/devstack/ports'
import { type Child, spawnTethered } from '@market/devstack/tether'
import { createTestDatabase, type TestDatabase } from '@market/testkit/testDatabase'
import { until } from '@market/testkit/until'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

const main = new URL('../dist/main.js', import.meta.url).pathname
const jwtKey = JSON.stringify(generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' }))
const DOMAIN = 'market.example.com'

let database: TestDatabase
let folder: string
let baseEnv: NodeJS.ProcessEnv
let replicas: { child: Child; url: string; lines: string[] }[] = []

const launch = async (env: NodeJS.ProcessEnv) => {
  const port = await freePort()
  const lines: string[] = []
  const child = await spawnTethered({
    command: process.execPath,
    args: [main],
    env: { PATH: process.env.PATH, PORT: String(port), ...env },
    stopSignal: 'SIGTERM',
    onLine: (line) => lines.push(line),
  })
  return { child, url: `http://127.0.0.1:${port}`, lines, port }
}

beforeAll(async () => {
  database = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'market-api-'))
  baseEnv = {
    POSTGRES_CONNECTION: database.url,
    PUBLIC_BASE_URL: `https://${DOMAIN}`,
    MARKET_AUTH_ALLOWED_DOMAINS: `${DOMAIN}, shop.example.org:8443`,
    MARKET_JWT_PRIVATE_KEY: jwtKey,
    CIRCLES_SERVICE_KEY: 'a-service-key-for-tests',
    IPFS_STORE_DIR: join(folder, 'ipfs'),
    // Nobody listens there: what needs no chain has to work without one.
    RPC: `http://127.0.0.1:${await freePort()}`,
    RPC_TIMEOUT_MS: '500',
    RATE_LIMIT_ENABLED: 'false',
  }
  // Two at once on an empty database: one migrates, the other waits and finds nothing left to do.
  replicas = await Promise.all([launch(baseEnv), launch(baseEnv)])
  await Promise.all(
    replicas.map(({ url, lines }) =>
      until(`a replica answers: ${lines.at(-1)}`, async () => (await fetch(`${url}/health`)).ok),
    ),
  )
})

afterAll(async () => {
  await Promise.all(replicas.map(({ child }) => child.stop(5000)))
  await database?.drop()
  await rm(folder, { recursive: true, force: true })
})

const post = (path: string, body?: unknown, headers: Record<string, string> = {}) =>
  fetch(replicas[0]!.url + path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })

describe('the process', () => {
  it('two replicas that start together migrate once', async () => {
    const migrated = replicas.flatMap(({ lines }) => lines.filter((line) => line.includes('"msg":"migrated"')))
    expect(new Set(migrated.map((line) => JSON.parse(line).migration)).size).toBe(migrated.length)
    expect(migrated.length).toBeGreaterThanOrEqual(7)
  })

  it('market-api:A-191 market-api:A-193 answers for its health, and has every metric from the start', async () => {
    const health = await fetch(`${replicas[0]!.url}/health`)
    expect(await health.json()).toEqual({ ok: true, checks: { postgres: 'ok' } })
    const text = await (await fetch(`${replicas[0]!.url}/metrics`)).text()
    for (const name of [
      'orders_created_total',
      'orders_finalized_total',
      'payment_amount_crc_total',
      'fulfillment_total',
    ]) {
      expect(text).toMatch(new RegExp(`^marketplace_${name}(\\{.*\\})? 0$`, 'm'))
    }
    expect(text).toMatch(/^marketplace_fulfillment_jobs\{status="needs_attention",.*\} 0$/m)
  })

  it('the replica that reads the chain says in readiness that it can not', async () => {
    const text = await until('the trouble shows', async () => {
      const answers = await Promise.all(replicas.map(({ url }) => fetch(`${url}/health/ready`)))
      return answers.find(({ status }) => status === 503)?.text()
    })
    // Names are all a probe is told (W-35). Which loop meets the dead node first is chance.
    expect(text).toMatch(/^Unhealthy: (payments|catalog)(, [a-z-]+)*$/)
    const [, loop] = text!.split(/[ ,]+/)
    const line = await until('why is in the log', () =>
      replicas.flatMap(({ lines }) => lines).find((one) => one.includes(`"loop":"${loop}"`)),
    )
    expect(JSON.parse(line)).toMatchObject({ level: 'error', msg: 'loop failed', err: { message: expect.any(String) } })
  })

  it('names every wrong variable in one line and ends', async () => {
    const { child, lines } = await launch({
      ...baseEnv,
      PUBLIC_BASE_URL: 'market',
      CHAIN_ID: 'abc',
      RPC: '',
      CIRCLES_SERVICE_KEY: ';;;; secret',
    })
    expect(await child.exited).toEqual({ code: 1, signal: null })
    expect(lines).toHaveLength(1)
    const { msg } = JSON.parse(lines[0]!)
    for (const name of ['PUBLIC_BASE_URL', 'CHAIN_ID', 'RPC', 'CIRCLES_SERVICE_KEY']) expect(msg).toContain(name)
    expect(msg).toContain('.env.example')
  })

  it.each([
    [
      'a key that is none',
      { MARKET_JWT_PRIVATE_KEY: '{"kty":"RSA"}' },
      /MARKET_JWT_PRIVATE_KEY is not an Ed25519 private JWK/,
    ],
    [
      'Postgres that is not there',
      { POSTGRES_CONNECTION: 'postgres://u:sesame@127.0.0.1:1/x', DB_WAIT_SECONDS: '0' },
      /database x on 127.0.0.1:1 as u does not answer/,
    ],
    ['a connection nobody understands', { POSTGRES_CONNECTION: 'sesame' }, /POSTGRES_CONNECTION is not understood/],
    [
      'a folder that can not be written',
      { IPFS_STORE_DIR: join(main, 'ipfs') },
      /IPFS_STORE_DIR .*main.js\/ipfs can't be written \(ENOTDIR/,
    ],
  ])('ends in one line over %s, and tells no secret', async (_, env, message) => {
    const { child, lines } = await launch({ ...baseEnv, ...env })
    expect(await child.exited).toEqual({ code: 1, signal: null })
    expect(lines).toHaveLength(1)
    expect(JSON.parse(lines[0]!).msg).toMatch(message)
    expect(lines[0]).not.toContain('sesame')
  })

  it('ends in one line when its port is taken', async () => {
    const taken: Server = createServer()
    await new Promise<void>((resolve) => taken.listen(0, resolve))
    const { port } = taken.address() as AddressInfo
    const { child, lines } = await launch({ ...baseEnv, PORT: String(port) })
    expect(await child.exited).toEqual({ code: 1, signal: null })
    expect(JSON.parse(lines.at(-1)!).msg).toContain(`port ${port} is in use`)
    taken.close()
  })

  it('gives up in time on something that accepts connections and is no Postgres', async () => {
    const impostor = createServer().on('connection', (socket) => socket.destroy())
    await new Promise<void>((resolve) => impostor.listen(0, '127.0.0.1', resolve))
    const { port } = impostor.address() as AddressInfo
    const { child, lines } = await launch({
      ...baseEnv,
      POSTGRES_CONNECTION: `postgres://u:p@127.0.0.1:${port}/x`,
      DB_WAIT_SECONDS: '0',
    })
    expect(await child.exited).toMatchObject({ code: 1 })
    expect(lines.at(-1)).toContain('does not answer')
    impostor.close()
  })

  it('drains on SIGTERM and ends with 0', async () => {
    const { child, url, lines } = await launch(baseEnv)
    await until('it answers', async () => (await fetch(`${url}/health`)).ok)
    await child.stop(5000)
    expect(await child.exited).toEqual({ code: 0, signal: null })
    expect(JSON.parse(lines.at(-1)!)).toMatchObject({ msg: 'stopped' })
  })
})

describe('sign-in', () => {
  const account = privateKeyToAccount(generatePrivateKey())
  const challenge = async () => {
    const response = await post('/api/auth/challenge', { address: account.address, chainId: 100 })
    return { status: response.status, body: (await response.json()) as Record<string, string> }
  }
  const verify = (challengeId: string, signature: string, at = 0) =>
    fetch(`${replicas[at]!.url}/api/auth/verify`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ challengeId, signature }),
    })

  it('market-api:A-138 twenty at once with the same signature, at two replicas: one token', async () => {
    const { body } = await challenge()
    const signature = await account.signMessage({ message: body.message! })
    const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => verify(body.challengeId!, signature, i % 2)))
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1)
    expect(answers.filter(({ status }) => status === 401)).toHaveLength(19)
  })

  it('a token of one replica is good at another, and none of a domain that is no longer allowed', async () => {
    const { body } = await challenge()
    const { token } = (await (
      await verify(body.challengeId!, await account.signMessage({ message: body.message! }))
    ).json()) as { token: string }
    const ask = (url: string, bearer: string) =>
      fetch(`${url}/api/cart/v1/orders/by-buyer`, { headers: { Authorization: `Bearer ${bearer}` } })
    const answer = await ask(replicas[1]!.url, token)
    expect([answer.status, await answer.json()]).toEqual([200, { items: [] }])
    for (const bad of ['junk', `${token.slice(0, -4)}AAAA`, token.split('.').slice(0, 2).join('.')]) {
      expect((await ask(replicas[1]!.url, bad)).status).toBe(401)
    }
    const stricter = await launch({ ...baseEnv, MARKET_AUTH_ALLOWED_DOMAINS: 'shop.example.org:8443' })
    await until('it answers', async () => (await fetch(`${stricter.url}/health`)).ok)
    expect((await ask(stricter.url, token)).status).toBe(401)
    await stricter.child.stop(5000)
  })

  it('market-api:A-150 asks nobody for a token where none is needed', async () => {
    const response = await fetch(`${replicas[0]!.url}/api/sellers`, { headers: { Authorization: 'Bearer junk' } })
    expect([response.status, await response.json()]).toEqual([200, []])
  })

  it('publishes its public key, and only that', async () => {
    const { keys } = (await (await fetch(`${replicas[0]!.url}/api/auth/jwks.json`)).json()) as { keys: object[] }
    expect(keys).toEqual([
      expect.objectContaining({
        kty: 'OKP',
        crv: 'Ed25519',
        alg: 'EdDSA',
        x: expect.any(String),
        kid: expect.any(String),
      }),
    ])
    expect(keys[0]).not.toHaveProperty('d')
  })
})

describe('baskets', () => {
  const path = '/api/cart/v1/baskets'
  const create = async (body: unknown = {}) =>
    ((await (await post(path, body)).json()) as { basketId: string }).basketId
  const patch = (id: string, body: unknown) =>
    fetch(`${replicas[0]!.url}${path}/${id}`, {
      method: 'PATCH',
      body: typeof body === 'string' ? body : JSON.stringify(body),
    })

  it('market-api:A-001 market-api:A-002 market-api:A-003 makes one from nothing', async () => {
    for (const body of [{}, 'null', '']) {
      const response = await post(path, body)
      expect(response.status).toBe(200)
      expect(response.headers.get('content-type')).toBe('application/ld+json; charset=utf-8')
      expect(response.headers.get('x-content-type-options')).toBe('nosniff')
      // 128 random bits instead of the older 82: the id is the only key (architecture.md 3).
      expect(await response.json()).toEqual({
        '@type': 'circles:Basket',
        basketId: expect.stringMatching(/^bkt_[0-9a-f]{32}$/),
        basketToken: expect.stringMatching(/^[A-Za-z0-9_-]{43}$/),
      })
    }
  })

  it.each([
    ['market-api:A-004', '{', 400, 'Invalid JSON'],
    ['market-api:A-005', { operator: '0x123' }, 400, 'Address must be 42 chars and start with 0x'],
    ['market-api:A-006', { buyer: '' }, 400, 'Address is required'],
    ['market-api:A-009', { chainId: 0 }, 400, 'chainId must be 100'],
  ])('%s refuses %j', async (_, body, status, error) => {
    const response = await post(path, body)
    expect([response.status, await response.json()]).toEqual([
      status,
      expect.objectContaining({ error, code: expect.any(String) }),
    ])
  })

  it('market-api:A-007 shows it as the clients read it', async () => {
    const operator = '0x20ced4ed3b1651b832a77e13e54ea5cb14c8b95b'
    const id = await create({ operator: operator.toUpperCase().replace('0X', '0X') })
    const basket = await (await fetch(`${replicas[0]!.url}${path}/${id}`)).json()
    expect(basket).toMatchObject({
      operator,
      chainId: 100,
      status: 'Draft',
      version: 0,
      items: [],
      ttlSeconds: 86400,
      buyer: null,
    })
    for (const slot of ['customer', 'shippingAddress', 'billingAddress', 'ageProof', 'contactPoint'])
      expect(basket).toHaveProperty(slot, null)
  })

  it('market-api:A-008 takes JSON only', async () => {
    expect((await post(path, '{}', { 'Content-Type': 'text/plain' })).status).toBe(415)
    expect((await post(path, '{}', { 'Content-Type': 'application/ld+json; charset=utf-8' })).status).toBe(200)
  })

  it('market-api:A-010 market-api:A-011 knows what is unknown and what has run out', async () => {
    expect((await fetch(`${replicas[0]!.url}${path}/bkt_00000000000000000000000000000000`)).status).toBe(404)
    expect((await fetch(`${replicas[0]!.url}${path}/bkt_0000000000000000000000`)).status).toBe(404)
    const id = await create()
    expect((await patch(id, { ttlSeconds: 1 })).status).toBe(200)
    await until('it has run out', async () => (await fetch(`${replicas[0]!.url}${path}/${id}`)).status === 410)
  })

  it.each([
    ['market-api:A-012', { foo: 1 }, "Unknown field 'foo'", '/foo'],
    ['market-api:A-014', [], 'The body must be a JSON object', '$'],
    ['market-api:A-015', { ttlSeconds: 604801 }, 'ttlSeconds must be in range [1, 604800]', '/ttlSeconds'],
    [
      'market-api:A-016',
      { items: Array.from({ length: 501 }, () => ({ orderQuantity: 1 })) },
      'items.length must be <= 500',
      '/items',
    ],
    [
      'market-api:A-017',
      { items: [{ orderQuantity: 0 }] },
      'orderQuantity out of bounds [1, 1_000_000]',
      '/items/0/orderQuantity',
    ],
    ['market-api:A-018', { items: [{ orderQuantity: 1.5 }] }, 'Invalid basket JSON', '/items/0/orderQuantity'],
    [
      'market-api:A-020',
      { items: [{ orderQuantity: 1, orderedItem: { sku: 'x' } }] },
      "Each basket item must have a seller address (Parameter 'basket')",
      '/items/0',
    ],
    ['W-27', { items: [null] }, 'Invalid basket JSON', '/items/0'],
    ['W-27', '{"items":', 'Invalid JSON', undefined],
    ['W-24', '{"ttlSeconds":5,"ttlSeconds":6}', 'Invalid JSON', undefined],
    ['what Postgres can not keep:', '{"customer":{"givenName":"a\\u0000b"}}', 'Invalid JSON', undefined],
    ['what Postgres can not keep:', '{"customer":{"givenName":"\\ud800"}}', 'Invalid JSON', undefined],
  ])('%s refuses a patch with 400 and says where', async (_, body, error, at) => {
    const response = await patch(await create(), body)
    const answer = (await response.json()) as { error: string; details: { path?: string } | null }
    expect([response.status, answer.error, answer.details?.path]).toEqual([400, error, at])
  })

  it('market-api:A-013 looks at the body before the basket', async () => {
    expect((await patch('bkt_00000000000000000000000000000000', { foo: 1 })).status).toBe(400)
    expect((await patch('bkt_00000000000000000000000000000000', {})).status).toBe(404)
  })

  it('market-api:A-021 refuses what nobody sells', async () => {
    const seller = `0x${'ab'.repeat(20)}`
    const response = await patch(await create(), {
      items: [{ orderQuantity: 1, seller, orderedItem: { sku: 'nope' } }],
    })
    expect([response.status, await response.json()]).toEqual([
      422,
      expect.objectContaining({
        error: `Product not found for seller=${seller}, sku=nope, chainId=100`,
        code: 'product_not_found',
        details: { path: '/items/0' },
      }),
    ])
  })

  it('market-api:A-027 keeps what is not sent and clears what is null', async () => {
    const id = await create()
    await patch(id, { contactPoint: { '@type': 'Evil', email: 'ada@example.com' }, customer: { givenName: 'Ada' } })
    await patch(id, {})
    const kept = await (await patch(id, { customer: null })).json()
    expect(kept).toMatchObject({
      customer: null,
      contactPoint: { '@type': 'ContactPoint', email: 'ada@example.com', telephone: null },
      version: 3,
    })
  })

  it('market-api:A-030 two patches at once both stay', async () => {
    const id = await create()
    await Promise.all([patch(id, { customer: { givenName: 'Ada' } }), patch(id, { contactPoint: { email: 'a@b.cd' } })])
    expect(await (await fetch(`${replicas[0]!.url}${path}/${id}`)).json()).toMatchObject({
      customer: { givenName: 'Ada' },
      contactPoint: { email: 'a@b.cd' },
    })
  })

  it('market-api:A-040 says what an empty basket needs, without a body or a content type in the request', async () => {
    const response = await fetch(`${replicas[0]!.url}${path}/${await create()}/validate`, { method: 'POST' })
    expect([response.status, await response.json()]).toEqual([
      200,
      expect.objectContaining({
        valid: false,
        requirements: [
          expect.objectContaining({
            id: 'req:items-nonempty',
            path: '/items',
            cardinality: { min: 1, max: 500 },
            blocking: true,
          }),
        ],
        missing: [{ slot: 'items', path: '/items', expectedTypes: [] }],
        ruleTrace: [{ id: 'rule:items-nonempty', evaluated: true, result: 'missing' }],
      }),
    ])
  })

  it('market-api:A-064 checks out no invalid basket, and leaves it a draft', async () => {
    const id = await create({ buyer: `0x${'ab'.repeat(20)}` })
    const response = await post(`${path}/${id}/checkout`)
    expect([response.status, await response.json()]).toEqual([
      400,
      expect.objectContaining({ error: 'invalid basket', validation: expect.objectContaining({ valid: false }) }),
    ])
    expect(await (await fetch(`${replicas[0]!.url}${path}/${id}`)).json()).toMatchObject({ status: 'Draft' })
  })

  it('answers with CORS headers on errors too', async () => {
    const response = await fetch(`${replicas[0]!.url}${path}/nope`, { headers: { Origin: 'https://shop.example' } })
    expect(response.status).toBe(404)
    expect(response.headers.get('access-control-allow-origin')).toBe('https://shop.example')
    expect(response.headers.get('access-control-expose-headers')).toContain('X-Next-Cursor')
  })
})

describe('catalog queries', () => {
  const operator = '0x20ced4ed3b1651b832a77e13e54ea5cb14c8b95b'
  it.each([
    ['market-api:A-173', '', 'At least one avatars query parameter is required'],
    ['market-api:A-175', 'avatars=x&start=2&end=1', 'start must be <= end'],
    ['market-api:A-175', 'avatars=x&cursor=not-base64', 'Invalid cursor'],
    ['market-api:A-175', `avatars=x&cursor=${btoa('{"start":-1}')}`, 'cursor.start must be >= 0'],
    ['market-api:A-175', 'avatars=x&offset=-1', 'offset must be >= 0'],
    ['catalog:42', 'avatars=x&chainId=1', 'chainId must be 100'],
  ])('%s refuses ?%s', async (_, query, error) => {
    const response = await fetch(`${replicas[0]!.url}/api/operator/${operator}/catalog?${query}`)
    expect([response.status, await response.json()]).toEqual([400, expect.objectContaining({ error })])
  })

  it('a sku nobody can sell is not configured, whatever bytes it has', async () => {
    for (const sku of ['nope', '%00', '%F0%9F%8C%8A', 'a%2Fb', 'x'.repeat(100)]) {
      const response = await fetch(`${replicas[0]!.url}/inventory/inventory/100/${operator}/${sku}`)
      expect([response.status, await response.text()]).toEqual([404, expect.stringContaining('Product not configured')])
    }
  })

  it('market-api:A-174 market-api:A-177 limits avatars and pages', async () => {
    const url = `${replicas[0]!.url}/api/operator/${operator}/catalog`
    const many = Array.from({ length: 501 }, () => 'avatars=x').join('&')
    expect((await fetch(`${url}?${many}`)).status).toBe(400)
    expect((await fetch(`${url}?avatars=x&offset=1`)).status).toBe(416)
    const answer = await (await fetch(`${url}?avatars=0x12`)).json()
    expect(answer).toMatchObject({ products: [], errors: [{ avatar: '0x12', stage: 'registry' }] })
  })
})
