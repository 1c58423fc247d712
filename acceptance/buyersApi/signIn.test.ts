import { createPublicKey, randomUUID, verify as verifySignature } from 'node:crypto'
import { safeMessageHash } from '@market/contracts/safeMessage'
import { freePort } from '@market/devstack/ports'
import { until } from '@market/testkit/until'
import type { Hex } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startAuthService } from './authService.ts'
import { deploySafe } from './devChain.ts'
import { type Call, type Market, openMarket, ORDERS, type Person } from './market.ts'
import { hs256, readToken, reissue, rs256, unsigned } from './tokens.ts'

// market-api.md 10.7 over HTTP. The admin half of A-144 belongs to the admin listener.

/** Of market-api.md appendix B. */
const B_KEY: Hex = `0x${'1'.padStart(64, '0')}`
const B = '0x7e5f4552091a69125d5dfcb7b8c2659029395bdf'
const BY_BUYER = `${ORDERS}/by-buyer`

let market: Market

beforeAll(async () => {
  market = await openMarket()
})
afterAll(() => market?.close())

type Asked = { address?: string; chainId?: unknown; [member: string]: unknown }
const challengeAt = (call: Call, { address = B, chainId = 100, ...more }: Asked = {}, headers = {}) =>
  call('POST', '/api/auth/challenge', { json: { address, chainId, ...more }, headers })
const verifyAt = (call: Call, challengeId: string, signature: string) =>
  call('POST', '/api/auth/verify', { json: { challengeId, signature } })
const minutesUntil = (time: string) => (Date.parse(time) - Date.now()) / 60_000

describe('a challenge', () => {
  it('market-api:A-130 says who is asked to sign in, where and for how long', async () => {
    const domain = 'market.example.com'
    const there = await market.replica({
      PUBLIC_BASE_URL: `https://${domain}`,
      MARKET_AUTH_ALLOWED_DOMAINS: `${domain}, shop.example.org:8443`,
    })
    const { status, headers, body } = await challengeAt(there.call)
    expect([status, headers.get('content-type')]).toEqual([200, expect.stringContaining('json')])
    expect(headers.get('cache-control')).toContain('no-store')
    const lines = body.message.split('\n')
    expect(lines[0]).toBe(`${domain} wants you to sign in with your Ethereum account:`)
    // W-34 has the address in checksum case, which the reference had not.
    expect(lines[1]).toBe(privateKeyToAccount(B_KEY).address)
    expect(lines).toContain(`URI: https://${domain}`)
    expect(lines).toContain('Version: 1')
    expect(lines).toContain('Chain ID: 100')
    expect(lines).toContain(`Nonce: ${body.nonce}`)
    expect(body.nonce).toMatch(/^0x[0-9a-f]{32}$/)
    expect(minutesUntil(body.expiresAt)).toBeGreaterThan(9.5)
    expect(minutesUntil(body.expiresAt)).toBeLessThanOrEqual(10.1)
    expect(body.challengeId).toMatch(/^[0-9a-f-]{36}$/)

    // W-34: the page's own host where that is allowed, port and all; never one that isn't.
    const ofPage = await challengeAt(there.call, {}, { Origin: 'https://shop.example.org:8443' })
    expect(ofPage.body.message).toMatch(
      /^shop\.example\.org:8443 wants you .*\nURI: https:\/\/shop\.example\.org:8443\n/s,
    )
    const ofStranger = await challengeAt(there.call, {}, { Origin: 'https://evil.example' })
    expect(ofStranger.body.message).toMatch(/^market\.example\.com wants/)
    await there.stop()
  })

  it('market-api:A-131 is given for no host that is not allowed, and no token of such a host counts', async () => {
    const elsewhere = await market.replica({
      PUBLIC_BASE_URL: 'https://market.example.com',
      MARKET_AUTH_ALLOWED_DOMAINS: 'other.example',
    })
    const refused = await challengeAt(elsewhere.call)
    expect([refused.status, refused.body.error]).toEqual([400, 'Requested host is not allowlisted'])
    const forged = await challengeAt(elsewhere.call, {}, { Origin: 'https://other.example.evil.example' })
    expect(forged.status).toBe(400)
    // A token of the market next door, signed with the same key, for a host that is not allowed here.
    const { token } = await market.signIn()
    expect((await market.call('GET', BY_BUYER, { token })).status).toBe(200)
    expect((await elsewhere.call('GET', BY_BUYER, { token })).status).toBe(401)
    await elsewhere.stop()
  })

  it('market-api:A-132 is given for any host where * is allowed', async () => {
    for (const Origin of ['https://one.example', 'http://localhost:5173', undefined]) {
      const { status, body } = await challengeAt(market.call, {}, Origin === undefined ? {} : { Origin })
      expect(status).toBe(200)
      if (Origin) expect(body.message).toMatch(new RegExp(`^${new URL(Origin).host} wants you`))
    }
  })

  it.each([{ chainId: 0 }, { chainId: -1 }, { chainId: 1 }, { chainId: '100' }, { address: '0x1' }, { address: '' }])(
    'market-api:A-133 is not given for %j',
    async (asked) => {
      const answer = await challengeAt(market.call, asked)
      expect([answer.status, answer.body.error]).toEqual([400, expect.any(String)])
    },
  )

  it('W-27 is not given for a body that is no JSON', async () => {
    const headers = { 'Content-Type': 'application/json' }
    for (const path of ['/api/auth/challenge', '/api/auth/verify']) {
      for (const body of ['{', '', '[]', 'null']) {
        expect((await market.call('POST', path, { body, headers })).status, `${path} ${body}`).toBe(400)
      }
    }
  })

  it('market-api:A-134 is good for half an hour at most', async () => {
    const minutes = async (expirationMinutes: number) =>
      Math.round(minutesUntil((await challengeAt(market.call, { expirationMinutes })).body.expiresAt))
    expect(await minutes(999)).toBe(30)
    expect(await minutes(30)).toBe(30)
    expect(await minutes(0)).toBe(1)
    expect(await minutes(-5)).toBe(1)
  })

  it.each([
    ['with fields of its own', 'hi\n\nURI: https://evil.example'],
    ['with a carriage return', 'hi\rthere'],
    ['with a line separator', 'a\u2028b'],
    ['with a tab', 'tab\there'],
    ['of 201 characters', 'x'.repeat(201)],
  ])('market-api:A-135 W-34 carries no statement %s', async (_, statement) => {
    expect((await challengeAt(market.call, { statement })).status).toBe(400)
  })

  it('carries a statement of one line', async () => {
    const { body } = await challengeAt(market.call, { statement: 'Grüße aus dem Hafen' })
    expect(body.message.split('\n')[3]).toBe('Grüße aus dem Hafen')
  })
})

describe('a signed challenge', () => {
  const account = privateKeyToAccount(B_KEY)
  const open = async (address: string = B) => (await challengeAt(market.call, { address })).body
  const sign = (message: string) => account.signMessage({ message })
  const verify = (challengeId: string, signature: string) => verifyAt(market.call, challengeId, signature)

  it('market-api:A-136 market-api:A-137 becomes a token, once', async () => {
    const { challengeId, message } = await open()
    const signature = await sign(message)
    const { status, headers, body } = await verify(challengeId, signature)
    expect([status, headers.get('content-type')]).toEqual([200, expect.stringContaining('json')])
    expect(headers.get('cache-control')).toContain('no-store')
    expect(body).toMatchObject({ token: expect.any(String), address: B, chainId: 100, expiresIn: 900 })
    const { header, claims } = readToken(body.token)
    expect(claims).toMatchObject({
      sub: `${B}@100`,
      addr: B,
      chainId: '100',
      iss: 'Circles.Market',
      aud: 'market-api',
      jti: expect.any(String),
      iat: expect.any(Number),
    })
    expect(Number(claims.exp) - Number(claims.iat)).toBe(900)
    expect((await market.call('GET', BY_BUYER, { token: body.token })).status).toBe(200)

    const published = (await market.call('GET', '/api/auth/jwks.json')).body.keys
    const jwk = published.find(({ kid }: { kid: string }) => kid === header.kid)
    expect(Object.keys(jwk)).not.toContain('d')
    const [input, , signed] = [body.token.slice(0, body.token.lastIndexOf('.')), '', body.token.split('.')[2]]
    const key = createPublicKey({ key: jwk, format: 'jwk' })
    expect(verifySignature(null, Buffer.from(input), key, Buffer.from(signed, 'base64url'))).toBe(true)

    const again = await verify(challengeId, signature)
    expect([again.status, again.body.token], 'A-137').toEqual([401, undefined])
  })

  it('market-api:A-138 becomes one token however often it is shown at once', async () => {
    const { challengeId, message } = await open()
    const signature = await sign(message)
    const answers = await Promise.all(Array.from({ length: 20 }, () => verify(challengeId, signature)))
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1)
    expect(answers.filter(({ status }) => status === 401)).toHaveLength(19)
  })

  it('market-api:A-139 becomes none when it ran out', async () => {
    const { challengeId, message } = await open()
    await market.sql`update auth_challenges set expires_at = now() where challenge_id = ${challengeId}`
    expect((await verify(challengeId, await sign(message))).status).toBe(401)
  })

  it('market-api:A-139 becomes none by a wrong signature, and waits for the right one', async () => {
    const { challengeId, message } = await open()
    const right = await sign(message)
    const stranger = await privateKeyToAccount(generatePrivateKey()).signMessage({ message })
    const wrong = {
      'of another key': stranger,
      'of 64 bytes': right.slice(0, -2),
      'with v = 29': `${right.slice(0, -2)}1d`,
      'of another text': await sign(`${message} `),
      'of the bare hash': await account.sign({ hash: `0x${'ab'.repeat(32)}` }),
      empty: '0x',
      nonsense: 'nonsense',
    }
    for (const [what, signature] of Object.entries(wrong)) {
      expect((await verify(challengeId, signature)).status, what).toBe(401)
    }
    expect((await verify(randomUUID(), right)).status, 'of no challenge').toBe(401)
    expect((await verify('nonsense', right)).status).toBe(400)
    // v 0 and 1 are what hardware signs.
    const bare = `${right.slice(0, -2)}0${Number(right.endsWith('1c'))}`
    expect((await verify(challengeId, bare)).status).toBe(200)
  })

  describe('by a Safe', () => {
    const owners = Array.from({ length: 3 }, () => privateKeyToAccount(generatePrivateKey())).toSorted((a, b) =>
      a.address.toLowerCase() < b.address.toLowerCase() ? -1 : 1,
    )
    /** As a Safe wants it: each owner's signature over the Safe's own hash, in the order of their addresses. */
    const signFor = async (safe: string, message: string, by: typeof owners) => {
      const hash = safeMessageHash(100, safe, new TextEncoder().encode(message)) as Hex
      const signatures = await Promise.all(by.map((owner) => owner.sign({ hash })))
      return `0x${signatures.map((signature) => signature.slice(2)).join('')}`
    }

    it('market-api:A-140 clients:5 becomes a token of the Safe', async () => {
      const [owner, stranger] = owners
      const safe = await deploySafe(market.place.rpcUrl, [owner!.address], 1)
      const { challengeId, message } = await open(safe)
      expect((await verify(challengeId, await signFor(safe, message, [stranger!]))).status).toBe(401)
      expect((await verify(challengeId, await owner!.signMessage({ message }))).status, 'for itself').toBe(401)
      const { status, body } = await verify(challengeId, await signFor(safe, message, [owner!]))
      expect([status, body.address, body.chainId]).toEqual([200, safe, 100])
      expect(readToken(body.token).claims).toMatchObject({ addr: safe, sub: `${safe}@100` })
    })

    it('market-api:A-141 W-34 takes as many owners as the Safe asks for', async () => {
      const safe = await deploySafe(
        market.place.rpcUrl,
        owners.map(({ address }) => address),
        2,
      )
      const { challengeId, message } = await open(safe)
      expect((await verify(challengeId, await signFor(safe, message, owners.slice(0, 1)))).status).toBe(401)
      const signature = await signFor(safe, message, owners.slice(1))
      expect(signature).toHaveLength(2 + 260)
      const { status, body } = await verify(challengeId, signature)
      expect([status, body.address]).toEqual([200, safe])
      const long = await open(safe)
      expect([400, 401, 413]).toContain((await verify(long.challengeId, `0x${'00'.repeat(9000)}`)).status)
    })

    it('market-api:A-142 W-56 waits when the chain can not be asked', async () => {
      const safe = await deploySafe(market.place.rpcUrl, [owners[0]!.address], 1)
      const { challengeId, message } = await open(safe)
      const signature = await signFor(safe, message, [owners[0]!])
      await market.failChainReads(safe, true)
      const failed = await verify(challengeId, signature)
      await market.failChainReads(safe, false)
      expect([failed.status, failed.body.token]).toEqual([502, undefined])
      expect(failed.text).not.toContain('trie node')
      expect((await verify(challengeId, signature)).status).toBe(200)
    })
  })
})

describe('tokens', () => {
  let auth: Awaited<ReturnType<typeof startAuthService>>
  let dual: Call
  let person: Person
  /** Issuers that can't be reached, and how long ago their keys were fetched. */
  const stale = [
    { issuer: 'away-30', minutes: 30 },
    { issuer: 'away-75', minutes: 75 },
  ]
  const now = () => Math.floor(Date.now() / 1000)
  const list = async (token: string, call = dual) => (await call('GET', BY_BUYER, { token })).status

  beforeAll(async () => {
    auth = await startAuthService()
    const away = { jwksUrl: `http://127.0.0.1:${await freePort()}/jwks.json`, audience: 'market-api' }
    for (const { issuer, minutes } of stale) {
      await market.sql`
        insert into issuer_keys (issuer, jwks, fetched_at)
          values (${issuer}, ${market.sql.json(auth.jwks as never)}, now() - make_interval(mins => ${minutes}))`
    }
    const replica = await market.replica({
      AUTH_SERVICE_URL: auth.url,
      MARKET_TRUSTED_ISSUERS: JSON.stringify(stale.map(({ issuer }) => ({ issuer, ...away }))),
    })
    dual = replica.call
    person = await market.signIn()
    await until('the keys are there', () => auth.calls.some(({ path }) => path === '/.well-known/jwks.json'))
  })
  afterAll(() => auth?.stop())

  const claims = (changes: object = {}) => ({
    iss: 'circles-auth',
    aud: ['market-api'],
    sub: `${B}@100`,
    addr: B,
    chainId: 100,
    exp: now() + 300,
    ...changes,
  })
  const theirs = (changes: object = {}, header: object = {}) =>
    rs256({ kid: auth.kid, ...header }, claims(changes), auth.privateKey)

  it('market-api:A-143 of the sign-in service count beside our own, with 30 s for clocks that differ', async () => {
    expect(await list(theirs())).toBe(200)
    expect(await list(theirs({ aud: 'market-api', chainId: '100' }))).toBe(200)
    expect(await list(theirs({ exp: now() - 20 }))).toBe(200)
    expect(await list(theirs({ exp: now() - 40 }))).toBe(401)
    expect(await list(theirs({ exp: undefined }))).toBe(401)
    expect(await list(theirs({ nbf: now() + 20 }))).toBe(200)
    expect(await list(theirs({ nbf: now() + 60 }))).toBe(401)
    expect(await list(theirs({ addr: undefined }))).toBe(401)
    expect(await list(theirs({ iss: 'somebody-else' }))).toBe(401)
    expect(await list(person.token)).toBe(200)
  })

  it('market-api:A-143 of our own as well', async () => {
    const key = market.place.env.MARKET_JWT_PRIVATE_KEY!
    const ours = (changes: Record<string, unknown>) => reissue(person.token, key, changes)
    expect(await list(ours({ exp: now() - 20 }), market.call)).toBe(200)
    expect(await list(ours({ exp: now() - 40 }), market.call)).toBe(401)
    expect(await list(ours({ iss: 'circles-auth' }))).toBe(401)
    expect(await list(ours({ domain: undefined }), market.call)).toBe(401)
  })

  it('market-api:A-144 for another audience do not count', async () => {
    expect(await list(theirs({ aud: 'market-admin-api' }))).toBe(401)
    expect(await list(theirs({ aud: ['market-admin-api', 'market-api'] }))).toBe(200)
    expect(await list(theirs({ aud: undefined }))).toBe(401)
    const key = market.place.env.MARKET_JWT_PRIVATE_KEY!
    expect(await list(reissue(person.token, key, { aud: 'market-admin-api' }), market.call)).toBe(401)
  })

  it('market-api:A-145 W-48 by another algorithm than the issuer has do not count', async () => {
    for (const secret of [auth.publicKeyText, auth.publicKeyText.trim(), JSON.stringify(auth.jwks.keys[0])]) {
      for (const header of [{ kid: auth.kid }, {}]) expect(await list(hs256(header, claims(), secret))).toBe(401)
    }
    const { keys } = (await market.call('GET', '/api/auth/jwks.json')).body
    const own = readToken(person.token)
    expect(await list(hs256({ kid: own.header.kid }, own.claims, keys[0].x), market.call)).toBe(401)
    for (const call of [dual, market.call]) {
      expect(await list(unsigned(claims()), call)).toBe(401)
      expect(await list(unsigned(own.claims), call)).toBe(401)
    }
    const [head, body] = person.token.split('.')
    expect(await list(`${head}.${body}.`, market.call)).toBe(401)
    expect(await list(rs256({ kid: 'key-2' }, claims(), auth.privateKey))).toBe(401)
  })

  it('market-api:A-146 of a service that is away count as long as its last keys may be believed', async () => {
    expect(await list(theirs({ iss: 'away-30' }))).toBe(200)
    expect(await list(theirs({ iss: 'away-75' }))).toBe(401)
  })

  it('market-api:A-150 W-31 that are junk are looked at by nobody where nobody has to sign in', async () => {
    const before = auth.calls.filter(({ path }) => path !== '/.well-known/jwks.json').length
    const other = rs256({ kid: 'unknown' }, claims(), auth.privateKey)
    for (const token of ['rubbish', 'a.b.c', other, theirs({ aud: 'x' }), 'x'.repeat(10_000)]) {
      expect((await dual('GET', '/api/sellers', { token })).status).toBe(200)
      expect((await dual('POST', '/api/cart/v1/baskets', { json: {}, token })).status).toBe(200)
    }
    expect(await list('rubbish')).toBe(401)
    const after = auth.calls.filter(({ path }) => path !== '/.well-known/jwks.json').length
    expect(after).toBe(before)
  })
})

describe('where another service signs people in', () => {
  let auth: Awaited<ReturnType<typeof startAuthService>>
  let silent: typeof auth
  let proxied: Call
  /** Asks a service that never answers, and lets a client ask once a minute. */
  let waiting: Call
  let timedOut: Promise<{ status: number; seconds: number }>

  beforeAll(async () => {
    silent = await startAuthService()
    silent.answer('/challenge', 'hang')
    auth = await startAuthService()
    const strict = { RATE_LIMIT_ENABLED: 'true', RATE_LIMIT_AUTH_LIMIT: '1' }
    const proxying = (url: string) => ({ AUTH_SERVICE_URL: url, MARKET_JWT_PRIVATE_KEY: '' })
    const [patient, replica] = await Promise.all([
      market.replica({ ...proxying(silent.url), ...strict }),
      market.replica(proxying(auth.url)),
    ])
    proxied = replica.call
    waiting = patient.call
    const started = Date.now()
    timedOut = challengeAt(waiting).then(({ status }) => ({ status, seconds: (Date.now() - started) / 1000 }))
    timedOut.catch(() => {})
  })
  afterAll(() => Promise.all([auth?.stop(), silent?.stop()]))

  it('market-api:A-147 it is told for whom, whatever the client says', async () => {
    const answer = { challengeId: randomUUID(), message: 'text', nonce: '0x', expiresAt: 'soon' }
    auth.answer('/challenge', { status: 200, body: JSON.stringify(answer) })
    const { status, headers, body } = await challengeAt(proxied, { audience: 'x', address: B, chainId: 100 })
    expect([status, body]).toEqual([200, answer])
    expect(headers.get('content-type')).toBe('application/json')
    expect(headers.get('server')).not.toBe('auth-service')
    const { contentType, forwardedFor, body: sent } = auth.calls.at(-1)!
    expect(JSON.parse(sent)).toEqual({ audience: ['market-api'], address: B, chainId: 100 })
    expect([contentType, forwardedFor]).toEqual([expect.stringContaining('application/json'), '127.0.0.1'])
  })

  it('market-api:A-148 W-29 its answer is handed on, whatever the type of the question says', async () => {
    const headers = { 'Content-Type': 'application/json; charset=utf-8' }
    const body = JSON.stringify({ challengeId: randomUUID(), signature: '0x' })
    const answer = JSON.stringify({ token: 'theirs', address: B, chainId: 100, expiresIn: 60 })
    auth.answer('/verify', { status: 200, body: answer })
    const good = await proxied('POST', '/api/auth/verify', { body, headers })
    expect([good.status, good.text]).toEqual([200, answer])
    expect(auth.calls.at(-1)!.body).toBe(body)
    auth.answer('/verify', {
      status: 429,
      headers: { 'Retry-After': '7', 'Set-Cookie': 'a=b' },
      body: '{"error":"slow"}',
    })
    const busy = await proxied('POST', '/api/auth/verify', { body, headers })
    expect([busy.status, busy.text, busy.headers.get('retry-after')]).toEqual([429, '{"error":"slow"}', '7'])
    expect(busy.headers.get('set-cookie')).toBeNull()
  })

  it('market-api:1.5 a challenge that is no JSON is not handed on', async () => {
    const before = auth.calls.length
    const answer = await proxied('POST', '/api/auth/challenge', {
      body: '{',
      headers: { 'Content-Type': 'application/json' },
    })
    expect([answer.status, answer.body.error]).toEqual([400, 'Invalid JSON in challenge request'])
    expect(auth.calls.length).toBe(before)
  })

  it('W-34 it is asked so often and no more', async () => {
    await until('the first question is under way', () => silent.calls.some(({ path }) => path === '/challenge'))
    const refused = await challengeAt(waiting)
    expect(refused.status).toBe(429)
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await waiting('GET', '/api/sellers')).status).toBe(200)
  })

  it('market-api:A-149 502 when it is not there', async () => {
    await auth.stop()
    const answer = await challengeAt(proxied)
    expect(answer.status).toBe(502)
    expect(answer.text).not.toContain(auth.url)
  })

  it('market-api:A-149 504 when it does not answer', async () => {
    const { status, seconds } = await timedOut
    expect(status).toBe(504)
    expect(seconds).toBeGreaterThan(10)
    expect(seconds).toBeLessThan(20)
  })
})
