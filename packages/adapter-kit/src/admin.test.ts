import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createLog } from '@market/kit/log'
import { createMetrics } from '@market/kit/metrics'
import { Hono } from 'hono'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { adminApp, issuerKeys } from './admin.ts'

const ADMIN = `0x${'ab'.repeat(20)}`
const STRANGER = `0x${'cd'.repeat(20)}`

type Pair = Awaited<ReturnType<typeof generateKeyPair>>
let rsa: Pair
let ed: Pair
let other: Pair
let service: Server
let keysUrl: string

beforeAll(async () => {
  ;[rsa, ed, other] = await Promise.all([generateKeyPair('RS256'), generateKeyPair('EdDSA'), generateKeyPair('RS256')])
  const keys = [
    { ...(await exportJWK(rsa.publicKey)), kid: 'rsa', alg: 'RS256' },
    { ...(await exportJWK(ed.publicKey)), kid: 'ed', alg: 'EdDSA' },
  ]
  service = createServer((request, response) => {
    response.setHeader('Content-Type', 'application/json')
    response.statusCode = request.url === '/.well-known/jwks.json' ? 200 : 404
    response.end(JSON.stringify({ keys }))
  })
  await new Promise<void>((resolve) => service.listen(0, '127.0.0.1', resolve))
  keysUrl = `http://127.0.0.1:${(service.address() as AddressInfo).port}`
})
afterAll(() => void service.close())

const routes = new Hono().get('/pools', (c) => c.json(['p']))

function ask(bearer: string | undefined, { path = '/admin/pools', url = keysUrl, addresses = [ADMIN] } = {}) {
  const auth = { issuer: 'circles-auth', keys: issuerKeys(url), addresses }
  const app = adminApp(auth, routes, createLog('test', 'fatal'), createMetrics('test'))
  return app.request(path, { headers: bearer === undefined ? {} : { Authorization: `Bearer ${bearer}` } })
}

type Claims = { iss?: string; aud?: string; sub?: string; addr?: unknown; exp?: number | null }

async function token(
  claims: Claims = {},
  by: { key?: Pair['privateKey'] | Uint8Array; alg?: string; kid?: string } = {},
) {
  const { iss = 'circles-auth', aud = 'market-admin-api', exp = Math.floor(Date.now() / 1000) + 600, ...rest } = claims
  const { key = rsa.privateKey, alg = 'RS256', kid = 'rsa' } = by
  return new SignJWT({ addr: ADMIN, ...rest, iss, aud, ...(exp === null ? {} : { exp }) })
    .setProtectedHeader({ alg, kid })
    .sign(key)
}

it('lets those on the list in, by either algorithm, by claim or by subject', async () => {
  for (const good of [
    await token(),
    await token({ addr: ADMIN.toUpperCase().replace('0X', '0x') }),
    await token({ addr: undefined, sub: `${ADMIN}@100` }),
    await token({ addr: undefined, sub: ADMIN }),
    await token({}, { key: ed.privateKey, alg: 'EdDSA', kid: 'ed' }),
  ]) {
    const response = await ask(good)
    expect([response.status, await response.json()]).toEqual([200, ['p']])
  }
  expect(await (await ask(await token(), { path: '/admin/health' })).json()).toEqual({ ok: true })
})

it.each<[string, () => Promise<string | undefined>]>([
  ['no token', async () => undefined],
  ['no JWT', async () => 'nonsense'],
  ['another issuer', () => token({ iss: 'somebody' })],
  ['another audience', () => token({ aud: 'market-api' })],
  ['a token that is over', () => token({ exp: Math.floor(Date.now() / 1000) - 120 })],
  ['a token without end', () => token({ exp: null })],
  ["another's key", () => token({}, { key: other.privateKey })],
  ['a key that is not published', () => token({}, { key: other.privateKey, kid: 'other' })],
  ['a secret for a signature', () => token({}, { key: new Uint8Array(32), alg: 'HS256' })],
  [
    'no signature',
    async () => `${Buffer.from('{"alg":"none"}').toString('base64url')}.${(await token()).split('.')[1]}.`,
  ],
])('answers 401 to %s', async (_what, make) => {
  for (const path of ['/admin/pools', '/admin/health']) {
    const response = await ask(await make(), { path })
    expect(response.status).toBe(401)
    expect(await response.json()).toMatchObject({ error: expect.any(String), code: expect.stringMatching(/_token$/) })
  }
})

it('answers 403 to those who are not on the list', async () => {
  for (const claims of [{ addr: STRANGER }, { addr: undefined }, { addr: 7 }, { addr: STRANGER, sub: ADMIN }]) {
    expect((await ask(await token(claims))).status).toBe(403)
  }
  expect((await ask(await token(), { addresses: [] })).status).toBe(403)
})

it('answers 503 when the keys can not be read, and takes nobody for guilty', async () => {
  const response = await ask(await token(), { url: 'http://127.0.0.1:1' })
  expect([response.status, await response.json()]).toMatchObject([503, { code: 'auth_unavailable' }])
  expect((await ask(await token(), { url: `${keysUrl}/elsewhere` })).status).toBe(503)
})

it('knows nothing outside of /admin, and guards what it does not know inside', async () => {
  expect((await ask(await token(), { path: '/pools' })).status).toBe(404)
  expect((await ask(await token(), { path: '/admin/nothing' })).status).toBe(404)
})
