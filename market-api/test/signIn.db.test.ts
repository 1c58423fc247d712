import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { readConfig } from '@market/kit/config'
import { openDatabase } from '@market/kit/db'
import { createLog } from '@market/kit/log'
import { until } from '@market/testkit/until'
import {
  calculateJwkThumbprint,
  createLocalJWKSet,
  decodeJwt,
  decodeProtectedHeader,
  exportJWK,
  exportSPKI,
  generateKeyPair,
  importJWK,
  type JWK,
  jwtVerify,
  SignJWT,
} from 'jose'
import { type Hex, numberToHex, stringToHex } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { Config } from '../src/config.ts'
import { createContext } from '../src/createContext.ts'
import type { MarketDatabase } from '../src/db/types.ts'
import { generateSigningKey } from '../src/signIn/tokens.ts'
import { issuerKeyStore } from '../src/signIn/trustedIssuers.ts'
import { purgeChallenges } from '../src/signIn/verifyChallenge.ts'
import { type AccountChain, startAccountChain, startNodeProxy } from './accountChain.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

const SECOND = 1000
const MINUTE = 60 * SECOND
const START = Date.parse('2026-03-01T12:00:00Z')
const PRIVATE_KEY = numberToHex(1n, { size: 32 })
const account = privateKeyToAccount(PRIVATE_KEY)
const B = account.address.toLowerCase()

let clock = START
beforeEach(() => {
  clock = START
})
const overrides = { now: () => new Date(clock) }

type Answer = { status: number; body: Record<string, unknown>; headers: Headers }
const read = async (response: Response): Promise<Answer> => {
  const text = await response.text()
  return { status: response.status, body: text === '' ? {} : JSON.parse(text), headers: response.headers }
}
const post = async (market: MarketApi, path: string, body: unknown, headers: Record<string, string> = {}) =>
  read(
    await fetch(market.url + path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    }),
  )
const byBuyer = async (market: MarketApi, token: string) =>
  read(await fetch(`${market.url}/api/cart/v1/orders/by-buyer`, { headers: { Authorization: `Bearer ${token}` } }))

describe('a market that signs in by itself', () => {
  const HOST = 'market.example.com'
  const node = startNodeProxy((asked) => chain.ask(asked))
  let chain: AccountChain
  let market: MarketApi
  beforeAll(async () => {
    chain = await startAccountChain()
    await node.listen()
    market = await startMarketApi({
      env: {
        PUBLIC_BASE_URL: `https://${HOST}`,
        MARKET_AUTH_ALLOWED_DOMAINS: `${HOST}, shop.example.org:8443`,
        RPC: node.url,
      },
      overrides,
    })
  })
  afterAll(async () => {
    await market?.close()
    node.close()
    await chain?.stop()
  })
  afterEach(() => {
    node.answerTo = (asked) => chain.ask(asked)
  })

  const challenge = async (extra: object = {}, headers: Record<string, string> = {}, at = market) => {
    const answer = await post(at, '/api/auth/challenge', { address: account.address, chainId: 100, ...extra }, headers)
    return {
      ...answer,
      body: answer.body as Record<'challengeId' | 'message' | 'nonce' | 'expiresAt' | 'error', string>,
    }
  }
  const verify = (challengeId: string, signature: string, at = market) =>
    post(at, '/api/auth/verify', { challengeId, signature })
  const sign = (message: string) => account.signMessage({ message })
  const signIn = async (at = market, headers: Record<string, string> = {}) => {
    const { body } = await challenge({}, headers, at)
    const answer = await verify(body.challengeId, await sign(body.message), at)
    expect(answer.status).toBe(200)
    return answer.body.token as string
  }
  /** As the wallet signs for a Safe: EIP-712 `SafeMessage` over the text (clients.md 5). */
  const signForSafe = (safe: Hex, message: string, key: Hex) =>
    privateKeyToAccount(key).signTypedData({
      domain: { chainId: 100, verifyingContract: safe },
      types: { SafeMessage: [{ name: 'message', type: 'bytes' }] },
      primaryType: 'SafeMessage',
      message: { message: stringToHex(message) },
    })

  it('market-api:A-130 makes a text for its own host that lasts ten minutes', async () => {
    const { status, body, headers } = await challenge()
    expect(status).toBe(200)
    expect(body.message.split('\n')).toEqual([
      `${HOST} wants you to sign in with your Ethereum account:`,
      account.address,
      '',
      'Sign in to Circles Market',
      '',
      `URI: https://${HOST}`,
      'Version: 1',
      'Chain ID: 100',
      `Nonce: ${body.nonce}`,
      'Issued At: 2026-03-01T12:00:00.000Z',
      'Expiration Time: 2026-03-01T12:10:00.000Z',
    ])
    expect(body.nonce).toMatch(/^0x[0-9a-f]{32}$/)
    expect(body.expiresAt).toBe('2026-03-01T12:10:00.000Z')
    expect(body.challengeId).toMatch(/^[0-9a-f-]{36}$/)
    expect(headers.get('cache-control')).toBe('no-store')
    expect((await challenge()).body.nonce).not.toBe(body.nonce)
  })

  it('market-api:A-130 market-api:W-34 makes it for the page, when the page is on an allowed host', async () => {
    const { body } = await challenge({}, { Origin: 'https://shop.example.org:8443' })
    expect(body.message.split('\n')[0]).toMatch(/^shop\.example\.org:8443 wants/)
    expect(body.message).toContain('\nURI: https://shop.example.org:8443\n')
    const foreign = await challenge({}, { Origin: 'https://evil.example' })
    expect(foreign.body.message).toMatch(new RegExp(`^${HOST} wants`))
  })

  it.each([
    ['market-api:A-131', 'elsewhere.example', { status: 400, error: 'Requested host is not allowlisted' }],
    ['market-api:A-132', '*', { status: 200, error: undefined }],
  ])('%s with %s allowed', async (_, allowed, { status, error }) => {
    const other = await startMarketApi({ env: { MARKET_AUTH_ALLOWED_DOMAINS: allowed } })
    try {
      const answer = await challenge({}, { Origin: 'https://any.example' }, other)
      expect([answer.status, answer.body.error]).toEqual([status, error])
      if (status === 200) expect(answer.body.message).toMatch(/^any\.example wants/)
    } finally {
      await other.close()
    }
  })

  it.each([
    ['market-api:A-133', { chainId: 0 }, 'chainId must be > 0'],
    ['market-api:A-133', { chainId: 1 }, 'chainId must be 100'],
    ['market-api:A-133', { address: '0x1' }, 'Address must be 42 chars and start with 0x'],
    ['market-api:A-133', { address: '' }, 'Address is required'],
    [
      'market-api:A-135',
      { statement: 'hi\n\nURI: https://evil.example' },
      'statement must be one line of at most 200 printable characters',
    ],
  ])('%s refuses %j', async (_, extra, error) => {
    const answer = await challenge(extra)
    expect([answer.status, answer.body]).toEqual([
      400,
      { error, details: expect.anything(), code: expect.any(String), requestId: expect.any(String) },
    ])
  })

  it('refuses what is no JSON with 400', async () => {
    expect((await post(market, '/api/auth/challenge', '{')).status).toBe(400)
    expect((await post(market, '/api/auth/verify', { challengeId: 'no uuid', signature: '0x' })).status).toBe(400)
  })

  it('market-api:A-134 lets a challenge last half an hour at most', async () => {
    const { body } = await challenge({ expirationMinutes: 999, statement: 'Come in' })
    expect(body.expiresAt).toBe('2026-03-01T12:30:00.000Z')
    expect(body.message.split('\n')[3]).toBe('Come in')
  })

  it('market-api:A-136 market-api:A-137 gives a token for the signature, once', async () => {
    const { body } = await challenge()
    const answer = await verify(body.challengeId, await sign(body.message))
    expect([answer.status, answer.body]).toEqual([
      200,
      { token: expect.any(String), address: B, chainId: 100, expiresIn: 900 },
    ])
    const token = answer.body.token as string
    expect(decodeProtectedHeader(token)).toEqual({ alg: 'EdDSA', typ: 'JWT', kid: expect.any(String) })
    const iat = START / 1000
    expect(decodeJwt(token)).toEqual({
      iss: 'Circles.Market',
      aud: 'market-api',
      sub: `${B}@100`,
      addr: B,
      chainId: '100',
      domain: HOST,
      iat,
      nbf: iat,
      exp: iat + 900,
      jti: expect.stringMatching(/^[0-9a-f-]{36}$/),
    })
    expect(await market.ctx.tokens.verify(token)).toEqual({
      address: B,
      chainId: 100,
      expiresAtMs: START + 15 * MINUTE,
    })
    expect((await verify(body.challengeId, await sign(body.message))).status).toBe(401)
  })

  it('market-api:A-138 gives twenty at once one token', async () => {
    const { body } = await challenge()
    const signature = await sign(body.message)
    const answers = await Promise.all(Array.from({ length: 20 }, () => verify(body.challengeId, signature)))
    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, ...Array.from({ length: 19 }, () => 401)])
  })

  it('market-api:A-139 refuses what does not fit, and leaves the challenge for what does', async () => {
    const { body } = await challenge()
    const right = await sign(body.message)
    const stranger = await privateKeyToAccount(generatePrivateKey()).signMessage({ message: body.message })
    for (const signature of [stranger, right.slice(0, -2), `${right.slice(0, -2)}1d`, '0x', 'nonsense', '']) {
      const answer = await verify(body.challengeId, signature)
      expect([answer.status, answer.body.code], signature).toEqual([401, 'sign_in_refused'])
    }
    expect((await verify('6f1ff1d4-8ac5-4d65-9a59-7d6c0f1e2a33', right)).status).toBe(401)
    clock += 10 * MINUTE
    expect((await verify(body.challengeId, right)).status).toBe(401)
    clock -= 1
    expect((await verify(body.challengeId, right)).status).toBe(200)
  })

  it('market-api:A-139 market-api:W-34 lets a challenge be answered wrongly ten times', async () => {
    const { body } = await challenge()
    for (let wrong = 0; wrong < 10; wrong += 1) {
      expect((await verify(body.challengeId, '0xabcd')).status).toBe(401)
    }
    node.asked = []
    expect((await verify(body.challengeId, '0xabcd')).status).toBe(401)
    expect((await verify(body.challengeId, await sign(body.message))).status).toBe(401)
    expect(node.asked).toEqual([])
  })

  it('market-api:A-140 lets a Safe of one owner in, as the wallet signs for it', async () => {
    const safe = '0x5afe5afe5afe5afe5afe5afe5afe5afe5afe5afe'
    await chain.placeSafe(safe, [account.address])
    const { body } = await challenge({ address: safe })
    const stranger = await signForSafe(safe, body.message, generatePrivateKey())
    expect((await verify(body.challengeId, stranger)).status).toBe(401)
    const answer = await verify(body.challengeId, await signForSafe(safe, body.message, PRIVATE_KEY))
    expect([answer.status, answer.body]).toMatchObject([200, { address: safe, chainId: 100 }])
    expect(decodeJwt(answer.body.token as string)).toMatchObject({ addr: safe, sub: `${safe}@100` })
  })

  it('market-api:A-141 lets a Safe in when two of its three owners signed', async () => {
    const safe = '0x2b032b032b032b032b032b032b032b032b032b03'
    const keys = [1n, 2n, 3n].map((n) => numberToHex(n, { size: 32 }))
    const owners = keys.map((key) => privateKeyToAccount(key).address.toLowerCase() as Hex)
    await chain.placeSafe(safe, owners, 2)
    const { body } = await challenge({ address: safe })
    const [first, second] = [0, 2].toSorted((a, b) => (owners[a]! < owners[b]! ? -1 : 1))
    const one = await signForSafe(safe, body.message, keys[first!]!)
    const two = await signForSafe(safe, body.message, keys[second!]!)
    for (const signature of [one, two, one + one.slice(2)]) {
      expect((await verify(body.challengeId, signature)).status).toBe(401)
    }
    const both = one + two.slice(2)
    expect(both).toHaveLength(2 + 2 * 130)
    expect((await verify(body.challengeId, both)).status).toBe(200)
  })

  it.each([
    ['502', async () => ({ status: 502, body: 'Bad gateway' }) as const],
    ['504', async () => 'nothing' as const],
  ])(
    'market-api:A-142 answers %s when the chain does not answer, and leaves the challenge usable',
    async (status, answerTo) => {
      const safe = '0x5afe5afe5afe5afe5afe5afe5afe5afe5afe5a42'
      await chain.placeSafe(safe, [account.address])
      const { body } = await challenge({ address: safe })
      const signature = await signForSafe(safe, body.message, PRIVATE_KEY)
      node.answerTo = answerTo
      for (let time = 0; time < 3; time += 1) {
        const answer = await verify(body.challengeId, signature)
        expect([String(answer.status), answer.body.code]).toEqual([status, 'chain_unavailable'])
      }
      node.answerTo = (asked) => chain.ask(asked)
      expect((await verify(body.challengeId, signature)).status).toBe(200)
    },
  )

  it('takes a token until it ends, and 30 s longer', async () => {
    const token = await signIn()
    for (const [ms, status] of [
      [0, 200],
      [15 * MINUTE + 29 * SECOND, 200],
      [15 * MINUTE + 30 * SECOND, 401],
    ] as const) {
      clock = START + ms
      // By the verdict that is remembered, and by one that is not.
      expect((await byBuyer(market, token)).status, String(ms)).toBe(status)
      expect((await market.ctx.tokens.verify(`${token}`))?.address).toBe(status === 200 ? B : undefined)
    }
    clock = START - 31 * SECOND
    expect((await byBuyer(market, await signIn())).status).toBe(200)
  })

  it('refuses what it did not sign, and says so', async () => {
    const token = await signIn()
    const [header, payload, signature] = token.split('.') as [string, string, string]
    const none = Buffer.from('{"alg":"none","typ":"JWT"}').toString('base64url')
    const { privateKey } = await generateKeyPair('EdDSA')
    const claims = { ...decodeJwt(token), addr: `0x${'66'.repeat(20)}` }
    const forged = await new SignJWT(claims)
      .setProtectedHeader({ alg: 'EdDSA', kid: decodeProtectedHeader(token).kid! })
      .sign(privateKey)
    const changed = Buffer.from(JSON.stringify(claims)).toString('base64url')
    for (const bad of [
      'junk',
      `${none}.${payload}.`,
      `${none}.${payload}.${signature}`,
      `${header}.${changed}.${signature}`,
      `${header}.${payload}`,
      forged,
      `${token}${'A'.repeat(10_000)}`,
    ]) {
      const answer = await byBuyer(market, bad)
      expect([answer.status, answer.headers.get('www-authenticate')]).toEqual([401, 'Bearer error="invalid_token"'])
    }
    const without = await fetch(`${market.url}/api/cart/v1/orders/by-buyer`)
    expect([without.status, without.headers.get('www-authenticate')]).toEqual([401, 'Bearer'])
  })

  it('market-api:A-144 refuses a token that is for another audience', async () => {
    const key = market.ctx.config.MARKET_JWT_PRIVATE_KEY!.reveal()
    const admin = await startMarketApi({
      env: { MARKET_JWT_PRIVATE_KEY: key, MARKET_JWT_AUDIENCE: 'market-admin-api' },
      overrides,
    })
    try {
      const token = await signIn(admin)
      expect((await byBuyer(admin, token)).status).toBe(200)
      expect((await byBuyer(market, token)).status).toBe(401)
      expect((await byBuyer(admin, await signIn())).status).toBe(401)
    } finally {
      await admin.close()
    }
  })

  it('takes no token of a domain that is no longer allowed', async () => {
    const token = await signIn(market, { Origin: 'https://shop.example.org:8443' })
    const own = await signIn()
    expect((await byBuyer(market, token)).status).toBe(200)
    const stricter = await startMarketApi({
      env: {
        MARKET_JWT_PRIVATE_KEY: market.ctx.config.MARKET_JWT_PRIVATE_KEY!.reveal(),
        MARKET_AUTH_ALLOWED_DOMAINS: HOST.toUpperCase(),
      },
      overrides,
    })
    try {
      expect([(await byBuyer(stricter, token)).status, (await byBuyer(stricter, own)).status]).toEqual([401, 200])
    } finally {
      await stricter.close()
    }
  })

  it('takes tokens of the keys before, and publishes those too, never a private one', async () => {
    const token = await signIn()
    const key = market.ctx.config.MARKET_JWT_PRIVATE_KEY!.reveal()
    const { d: _d, ...older } = JSON.parse(await generateSigningKey()) as JWK & { d: string }
    const previous = JSON.stringify([JSON.parse(key), older])
    const rotated = await startMarketApi({ env: { MARKET_JWT_PREVIOUS_KEYS: previous }, overrides })
    const without = await startMarketApi({ overrides })
    try {
      expect([(await byBuyer(rotated, token)).status, (await byBuyer(without, token)).status]).toEqual([200, 401])
      const fresh = await signIn(rotated)
      expect((await byBuyer(rotated, fresh)).status).toBe(200)
      for (const path of ['/api/auth/jwks.json', '/.well-known/jwks.json']) {
        const response = await fetch(rotated.url + path)
        expect(response.headers.get('cache-control')).toBe('public, max-age=300')
        const jwks = (await response.json()) as { keys: JWK[] }
        expect(jwks.keys).toHaveLength(3)
        for (const one of jwks.keys) {
          expect(one).toEqual({
            kty: 'OKP',
            crv: 'Ed25519',
            alg: 'EdDSA',
            use: 'sig',
            x: expect.any(String),
            kid: expect.any(String),
          })
        }
        // Anybody can verify both with them.
        const verifying = { currentDate: new Date(clock), audience: 'market-api', issuer: 'Circles.Market' }
        for (const one of [token, fresh]) await jwtVerify(one, createLocalJWKSet(jwks), verifying)
      }
      expect(decodeProtectedHeader(fresh).kid).not.toBe(decodeProtectedHeader(token).kid)
    } finally {
      await Promise.all([rotated.close(), without.close()])
    }
  })

  it('market-api:W-34 lets an address have 60 challenges and 120 signatures a minute', async () => {
    const limited = await startMarketApi({
      env: { RATE_LIMIT_ENABLED: 'true', RATE_LIMIT_GLOBAL_LIMIT: '100000', RATE_LIMIT_AUTH_LIMIT: '100000' },
      overrides,
    })
    try {
      const made: string[] = []
      for (let one = 0; one < 60; one += 1) made.push((await challenge({}, {}, limited)).body.challengeId)
      const refused = await challenge({ address: B }, {}, limited)
      expect([refused.status, refused.body]).toMatchObject([
        429,
        { code: 'too_many_sign_ins', details: { retryAfterSeconds: 60 } },
      ])
      expect(refused.headers.get('retry-after')).toBe('60')
      expect((await challenge({ address: `0x${'12'.repeat(20)}` }, {}, limited)).status).toBe(200)

      // Ten wrong answers to each of twelve; what is spent by then costs nothing more.
      for (const challengeId of made.slice(0, 12)) {
        for (let wrong = 0; wrong < 11; wrong += 1) {
          expect((await verify(challengeId, '0xabc', limited)).status).toBe(401)
        }
      }
      expect((await verify(made[12]!, '0xabc', limited)).status).toBe(429)
      clock += MINUTE
      expect((await verify(made[12]!, '0xabc', limited)).status).toBe(401)
      expect((await challenge({}, {}, limited)).status).toBe(200)
    } finally {
      await limited.close()
    }
  })

  it('forgets a challenge a day after it ran out', async () => {
    const { body } = await challenge()
    const kept = () =>
      market.ctx.db
        .selectFrom('auth_challenges')
        .select('challenge_id')
        .where('challenge_id', '=', body.challengeId)
        .executeTakeFirst()
    clock += 24 * 60 * MINUTE + 10 * MINUTE
    await purgeChallenges(market.ctx)
    expect(await kept()).toBeDefined()
    clock += 1
    await purgeChallenges(market.ctx)
    expect(await kept()).toBeUndefined()
  })
})

/** Begun before everything else and waited for at the end, because it takes 15 s. */
let hanging: Promise<Answer>
let hangingSince: number
beforeAll(async () => {
  const silent = await startIssuer()
  silent.answerTo = () => 'nothing'
  const patient = await startMarketApi({ env: { AUTH_SERVICE_URL: silent.url, MARKET_JWT_PRIVATE_KEY: '' } })
  hangingSince = performance.now()
  hanging = post(patient, '/api/auth/challenge', { address: B, chainId: 100 }).finally(async () => {
    await patient.close()
    silent.close()
  })
  hanging.catch(() => {})
})
afterAll(() => hanging)

type Key = { jwk: JWK; alg: string } & Awaited<ReturnType<typeof generateKeyPair>>
const newKey = async (alg = 'RS256', kid?: string): Promise<Key> => {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true })
  const jwk = await exportJWK(publicKey)
  return {
    jwk: { ...jwk, kid: kid ?? (await calculateJwkThumbprint(jwk)), use: 'sig', alg },
    privateKey,
    publicKey,
    alg,
  }
}

/** A sign-in service as others run it: publishes keys, and notes what it is asked. */
async function startIssuer() {
  const asked: { path: string; headers: IncomingHttpHeaders; body: string }[] = []
  const issuer = {
    url: '',
    asked,
    keys: [] as JWK[],
    down: false,
    answerTo: (
      _path: string,
      _body: string,
    ): { status: number; headers: Record<string, string>; body: string } | 'nothing' => ({
      status: 404,
      headers: {},
      body: '',
    }),
    fetches: () => asked.filter(({ path }) => path === '/.well-known/jwks.json').length,
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
  const server = createServer(async (request, response) => {
    let body = ''
    for await (const part of request) body += part
    const path = request.url!
    asked.push({ path, headers: request.headers, body })
    if (issuer.down) return void request.socket.destroy()
    if (path === '/.well-known/jwks.json') {
      return void response.setHeader('Content-Type', 'application/json').end(JSON.stringify({ keys: issuer.keys }))
    }
    const answer = issuer.answerTo(path, body)
    if (answer === 'nothing') return
    response.writeHead(answer.status, answer.headers)
    response.end(answer.body)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  issuer.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return issuer
}
type Issuer = Awaited<ReturnType<typeof startIssuer>>

/** A token as the sign-in service makes it, good for five minutes from now on unless told otherwise. */
const tokenBy = (key: Key, claims: Record<string, unknown> = {}, header: { kid?: string | undefined } = {}) => {
  const { kid = key.jwk.kid } = 'kid' in header ? { kid: header.kid ?? '' } : {}
  const now = Math.floor(clock / 1000)
  const all = {
    iss: 'circles-auth',
    aud: ['market-api', 'market-admin-api'],
    sub: `${B}@100`,
    addr: account.address,
    chainId: 100,
    iat: now,
    exp: now + 300,
    ...claims,
  }
  return new SignJWT(all)
    .setProtectedHeader({ alg: key.alg, typ: 'JWT', ...(kid === '' ? {} : { kid }) })
    .sign(key.privateKey)
}

describe('a market that trusts an issuer', () => {
  let issuer: Issuer
  let partner: Issuer
  let key: Key
  let partnerKey: Key
  let market: MarketApi
  beforeAll(async () => {
    ;[issuer, partner] = await Promise.all([startIssuer(), startIssuer()])
    ;[key, partnerKey] = (await Promise.all([newKey(), newKey('ES256')])) as [Key, Key]
    market = await startMarketApi({ env: env(), overrides })
  })
  afterAll(async () => {
    await market?.close()
    issuer?.close()
    partner?.close()
  })
  beforeEach(async () => {
    Object.assign(issuer, { down: false, keys: [key.jwk] })
    Object.assign(partner, { down: false, keys: [partnerKey.jwk] })
    issuer.asked.length = 0
    partner.asked.length = 0
    // As after a start with an empty database.
    await market.ctx.db.deleteFrom('issuer_keys').execute()
    const { tokens, issuers } = await restart()
    Object.assign(market.ctx, { tokens, issuers })
  })
  const env = () => ({
    AUTH_SERVICE_URL: issuer.url,
    MARKET_TRUSTED_ISSUERS: JSON.stringify([
      { issuer: 'partner', jwksUrl: `${partner.url}/.well-known/jwks.json`, audience: 'shops', algorithms: ['ES256'] },
    ]),
  })
  const status = async (token: string) => (await byBuyer(market, token)).status
  const restart = async () => {
    const { config, log, database } = market.ctx
    return Object.assign(await createContext(config, log, () => database), overrides)
  }

  it('market-api:A-143 takes its tokens, with 30 s of skew', async () => {
    const exp = (secondsAgo: number) => ({ exp: START / 1000 - secondsAgo })
    expect(await status(await tokenBy(key, exp(20)))).toBe(200)
    expect(await status(await tokenBy(key, exp(40)))).toBe(401)
    expect(await status(await tokenBy(key, { nbf: START / 1000 + 20 }))).toBe(200)
    expect(await status(await tokenBy(key, { nbf: START / 1000 + 40 }))).toBe(401)
    expect(await market.ctx.tokens.verify(await tokenBy(key))).toEqual({
      address: B,
      chainId: 100,
      expiresAtMs: START + 5 * MINUTE,
    })
  })

  it('market-api:A-144 takes none that is for another audience', async () => {
    expect(await status(await tokenBy(key, { aud: 'market-admin-api' }))).toBe(401)
    expect(await status(await tokenBy(key, { aud: ['market-admin-api'] }))).toBe(401)
    expect(await status(await tokenBy(key, { aud: undefined }))).toBe(401)
    expect(await status(await tokenBy(key, { aud: 'market-api' }))).toBe(200)
  })

  it.each([
    ['no address', { addr: undefined }],
    ['an address that is none', { addr: 'B' }],
    ['no chain', { chainId: undefined }],
    ['a chain that is none', { chainId: '0x64' }],
    ['a chain in pieces', { chainId: 100.5 }],
    ['chains', { chainId: [100] }],
    ['no end', { exp: undefined }],
    ['another issuer', { iss: 'nobody' }],
    ['no issuer', { iss: undefined }],
  ])('takes none with %s', async (_, claims) => {
    expect(await status(await tokenBy(key, claims))).toBe(401)
  })

  it('reads the chain as text, too', async () => {
    expect(await market.ctx.tokens.verify(await tokenBy(key, { chainId: '100' }))).toMatchObject({ chainId: 100 })
  })

  it('market-api:A-145 takes none that is signed with its public key as a secret, or not at all', async () => {
    expect(await status(await tokenBy(key))).toBe(200)
    const { kid } = key.jwk
    const claims = decodeJwt(await tokenBy(key))
    for (const secret of [
      await exportSPKI(key.publicKey),
      (await exportSPKI(key.publicKey)).trim(),
      JSON.stringify(key.jwk),
      key.jwk.n!,
    ]) {
      const token = await new SignJWT(claims)
        .setProtectedHeader({ alg: 'HS256', kid: kid! })
        .sign(new TextEncoder().encode(secret))
      expect(await status(token)).toBe(401)
    }
    const [, payload, signature] = (await tokenBy(key)).split('.') as [string, string, string]
    const none = Buffer.from(JSON.stringify({ alg: 'none', kid })).toString('base64url')
    for (const token of [`${none}.${payload}.`, `${none}.${payload}.${signature}`])
      expect(await status(token)).toBe(401)
    // An asymmetric algorithm that was not agreed on, with a key that could do it.
    const { alg: _alg, use: _use, ...pair } = await exportJWK(key.privateKey)
    const rs512 = await new SignJWT(claims)
      .setProtectedHeader({ alg: 'RS512', kid: kid! })
      .sign(await importJWK(pair, 'RS512'))
    expect(await status(rs512)).toBe(401)
  })

  it('market-api:A-145 asks the keys of the issuer that a token names, and of no other', async () => {
    const named = { iss: 'partner', aud: 'shops' }
    expect(await status(await tokenBy(partnerKey, named))).toBe(200)
    expect(await status(await tokenBy(key, named))).toBe(401)
    expect(await status(await tokenBy(partnerKey))).toBe(401)
    expect(await status(await tokenBy(partnerKey, { iss: 'partner' }))).toBe(401)
    const own = decodeJwt((await market.ctx.tokens.issue({ address: B, chainId: 100 }, '127.0.0.1')).token)
    expect(await status(await tokenBy(key, own))).toBe(401)
    const third = await newKey('RS256', key.jwk.kid)
    expect(await status(await tokenBy(third))).toBe(401)
    expect(await status(await tokenBy(third, { iss: 'third' }))).toBe(401)
  })

  it('market-api:A-146 takes tokens 30 minutes after it was last reached, and not after 75', async () => {
    await market.ctx.issuers.refresh()
    issuer.down = true
    for (const minutes of [30, 69]) {
      clock = START + minutes * MINUTE
      await market.ctx.issuers.refresh()
      expect(await status(await tokenBy(key)), `${minutes} min`).toBe(200)
    }
    // One that was good a minute before the keys grew too old is not remembered beyond that.
    const token = await tokenBy(key)
    expect(await status(token)).toBe(200)
    clock += 2 * MINUTE
    expect(await status(token)).toBe(401)
    clock = START + 75 * MINUTE
    expect(await status(await tokenBy(key))).toBe(401)
    issuer.down = false
    clock += MINUTE
    expect(await status(await tokenBy(key))).toBe(200)
  })

  it('market-api:A-146 market-api:W-48 takes them after a restart while the issuer is down', async () => {
    issuer.down = true
    const before = await restart()
    // Never reached yet: the market runs all the same.
    await before.issuers.refresh()
    expect(await before.tokens.verify(await tokenBy(key))).toBeUndefined()

    issuer.down = false
    await market.ctx.issuers.refresh()
    issuer.down = true
    clock += 30 * MINUTE
    const after = await restart()
    const asked = issuer.fetches()
    expect(await after.tokens.verify(await tokenBy(key))).toMatchObject({ address: B })
    expect(issuer.fetches()).toBe(asked)
    clock += 45 * MINUTE
    expect(await after.tokens.verify(await tokenBy(key))).toBeUndefined()
  })

  it('keeps of two replicas the keys that were fetched last', async () => {
    const store = issuerKeyStore(() => market.ctx.db)
    const [older, newer] = [new Date(START), new Date(START + 1)]
    await store.save('partner', { keys: [partnerKey.jwk] }, newer)
    await store.save('partner', { keys: [key.jwk] }, older)
    expect(await store.load('partner')).toEqual({ jwks: { keys: [partnerKey.jwk] }, fetchedAt: newer })
    await store.save('partner', { keys: [key.jwk] }, newer)
    expect(await store.load('partner')).toEqual({ jwks: { keys: [key.jwk] }, fetchedAt: newer })
    expect(await store.load('circles-auth')).toBeUndefined()
  })

  it('market-api:W-48 takes a new key at once, and asks for one it does not know every 30 s at most', async () => {
    expect(await status(await tokenBy(key))).toBe(200)
    expect(issuer.fetches()).toBe(1)
    clock += 30 * SECOND
    const next = await newKey()
    issuer.keys = [key.jwk, next.jwk]
    const tokens = await Promise.all([tokenBy(next), tokenBy(next, { jti: '2' }), tokenBy(next, { jti: '3' })])
    expect(await Promise.all(tokens.map(status))).toEqual([200, 200, 200])
    expect(issuer.fetches()).toBe(2)
    const unknown = await newKey()
    for (let time = 0; time < 5; time += 1) expect(await status(await tokenBy(unknown))).toBe(401)
    expect(issuer.fetches()).toBe(2)
    clock += 30 * SECOND
    for (let time = 0; time < 5; time += 1) expect(await status(await tokenBy(unknown))).toBe(401)
    expect(issuer.fetches()).toBe(3)
    // A wrong signature is no reason to ask.
    clock += 30 * SECOND
    expect(await status(await tokenBy(unknown, {}, { kid: key.jwk.kid }))).toBe(401)
    expect(issuer.fetches()).toBe(3)
  })

  it('takes no token any more of a key that was taken back, not even one it knows', async () => {
    const next = await newKey()
    issuer.keys = [key.jwk, next.jwk]
    const [old, fresh] = await Promise.all([tokenBy(key), tokenBy(next)])
    expect([await status(old), await status(fresh)]).toEqual([200, 200])
    issuer.keys = [next.jwk]
    clock += 4 * MINUTE
    await market.ctx.issuers.refresh()
    clock += 30 * SECOND
    const other = await newKey()
    await status(await tokenBy(other))
    expect([await status(old), await status(fresh)]).toEqual([401, 200])
  })

  it('tries the keys in turn when a token names none', async () => {
    const next = await newKey()
    issuer.keys = [key.jwk, next.jwk]
    for (const one of [key, next]) expect(await status(await tokenBy(one, {}, { kid: undefined }))).toBe(200)
    expect(await status(await tokenBy(await newKey(), {}, { kid: undefined }))).toBe(401)
  })

  it('market-api:A-150 asks nobody because of a token that can not be one', async () => {
    const junk = [
      'junk',
      'a.b.c',
      await tokenBy(await newKey(), { iss: 'nobody' }),
      await tokenBy(await newKey(), { aud: 'elsewhere' }),
      await tokenBy(await newKey(), { exp: START / 1000 - 60 }),
      await tokenBy(await newKey(), { addr: 7 }),
      await tokenBy(await newKey('ES256')),
    ]
    for (const token of junk) {
      const headers = { Authorization: `Bearer ${token}` }
      const sellers = await fetch(`${market.url}/api/sellers`, { headers })
      expect([sellers.status, await sellers.json()]).toEqual([200, []])
      expect((await fetch(`${market.url}/health`, { headers })).status).toBe(200)
      expect((await post(market, '/api/cart/v1/baskets', {}, headers)).status).toBe(200)
      expect(await status(token)).toBe(401)
    }
    // Not even a real one, where nobody looks at it.
    const headers = { Authorization: `Bearer ${await tokenBy(key)}` }
    expect((await fetch(`${market.url}/api/sellers`, { headers })).status).toBe(200)
    expect([...issuer.asked, ...partner.asked]).toEqual([])
  })

  it('does not follow redirects for keys, nor read endless ones', async () => {
    const elsewhere = createServer((_, response) =>
      response.writeHead(302, { Location: `${issuer.url}/.well-known/jwks.json` }).end(),
    )
    const endless = createServer((_, response) =>
      response.end(JSON.stringify({ keys: [key.jwk], pad: 'x'.repeat(300_000) })),
    )
    for (const server of [elsewhere, endless]) {
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      const led = await startMarketApi({ env: { AUTH_SERVICE_URL: url }, overrides })
      expect((await byBuyer(led, await tokenBy(key))).status).toBe(401)
      await led.close()
      server.closeAllConnections()
      server.close()
    }
    expect(issuer.asked).toEqual([])
  })

  it('still signs in by itself', async () => {
    const { body } = await post(market, '/api/auth/challenge', { address: B, chainId: 100 })
    const signature = await account.signMessage({ message: body.message as string })
    const answer = await post(market, '/api/auth/verify', { challengeId: body.challengeId, signature })
    expect(await status(answer.body.token as string)).toBe(200)
    expect(issuer.asked).toEqual([])
  })
})

describe('a market that has a service sign in for it', () => {
  let service: Issuer
  let market: MarketApi
  beforeAll(async () => {
    service = await startIssuer()
    market = await startMarketApi({
      env: { AUTH_SERVICE_URL: `${service.url}/`, MARKET_JWT_PRIVATE_KEY: '', TRUSTED_PROXY_HOPS: '1' },
    })
  })
  afterAll(async () => {
    await market?.close()
    service?.close()
  })
  beforeEach(() => {
    service.asked.length = 0
    service.answerTo = () => ({ status: 200, headers: { 'Content-Type': 'application/json' }, body: '{"ok":true}' })
  })

  it.each([
    [
      { audience: 'x', address: B, chainId: 100 },
      { audience: ['market-api'], address: B, chainId: 100 },
    ],
    [
      { address: B, nested: { a: [1] } },
      { address: B, nested: { a: [1] }, audience: ['market-api'] },
    ],
    [[1, 2], { audience: ['market-api'] }],
    [null, { audience: ['market-api'] }],
    ['"text"', { audience: ['market-api'] }],
  ])('market-api:A-147 passes the challenge %j on, for its own audience', async (sent, passed) => {
    const answer = await post(market, '/api/auth/challenge', sent === null ? 'null' : sent, {
      Origin: 'https://shop.example.com',
      'X-Forwarded-For': '203.0.113.9, 198.51.100.7',
      Authorization: 'Bearer of-nobody-s-business',
      Cookie: 'a=b',
    })
    expect([answer.status, answer.body]).toEqual([200, { ok: true }])
    const [asked] = service.asked
    expect([asked!.path, JSON.parse(asked!.body)]).toEqual(['/challenge', passed])
    expect(asked!.headers).toMatchObject({
      'content-type': 'application/json',
      origin: 'https://shop.example.com',
      // What the trusted proxy saw, not what the client said.
      'x-forwarded-for': '198.51.100.7',
    })
    expect(asked!.headers).not.toHaveProperty('authorization')
    expect(asked!.headers).not.toHaveProperty('cookie')
  })

  it('market-api:W-29 tells it the network of an IPv6 client, and never what the client says of itself', async () => {
    for (const [said, told] of [
      ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::'],
      ['nonsense', '127.0.0.1'],
    ]) {
      service.asked.length = 0
      await post(market, '/api/auth/verify', {}, { 'X-Forwarded-For': said! })
      expect(service.asked[0]!.headers['x-forwarded-for']).toBe(told)
      expect(service.asked[0]!.headers).not.toHaveProperty('origin')
    }
  })

  it('market-api:A-147 refuses a challenge that is no JSON', async () => {
    const answer = await post(market, '/api/auth/challenge', '{')
    expect([answer.status, answer.body]).toMatchObject([400, { error: 'Invalid JSON in challenge request' }])
    expect(service.asked).toEqual([])
  })

  it.each(['application/json; charset=utf-8', 'application/json', 'application/ld+json'])(
    'market-api:A-148 passes verify as %s on, and the answer back',
    async (type) => {
      service.answerTo = () => ({
        status: 429,
        headers: {
          'Content-Type': 'application/problem+json',
          'Retry-After': '7',
          'Cache-Control': 'private, max-age=1',
          'Set-Cookie': 'a=b',
          Server: 'upstream',
        },
        body: '{"error":"slow down"}',
      })
      const body = '{ "challengeId" : "x",  "signature":"0x" }'
      const answer = await post(market, '/api/auth/verify', body, { 'Content-Type': type })
      expect([answer.status, answer.body]).toEqual([429, { error: 'slow down' }])
      expect(Object.fromEntries(answer.headers)).toMatchObject({
        'content-type': 'application/problem+json',
        'retry-after': '7',
        'cache-control': 'private, max-age=1',
      })
      expect(answer.headers.has('set-cookie') || answer.headers.has('server')).toBe(false)
      const [asked] = service.asked
      expect([asked!.path, asked!.body, asked!.headers['content-type']]).toEqual(['/verify', body, type])
    },
  )

  it('market-api:A-148 passes an answer without body or type back', async () => {
    service.answerTo = () => ({ status: 401, headers: {}, body: '' })
    const answer = await post(market, '/api/auth/verify', {})
    expect([answer.status, answer.headers.get('content-type')]).toEqual([401, 'application/json'])
    expect(answer.headers.get('cache-control')).toBe('no-store')
  })

  it('takes no other type for verify, and no more than 64 KiB', async () => {
    expect((await post(market, '/api/auth/verify', 'x', { 'Content-Type': 'text/plain' })).status).toBe(415)
    for (const path of ['/api/auth/verify', '/api/auth/challenge']) {
      expect((await post(market, path, { pad: 'x'.repeat(70_000) })).status).toBe(413)
    }
    expect(service.asked).toEqual([])
  })

  it('takes its tokens, and publishes no key', async () => {
    clock = Date.now()
    const key = await newKey()
    service.keys = [key.jwk]
    expect((await byBuyer(market, await tokenBy(key))).status).toBe(200)
    expect(await (await fetch(`${market.url}/.well-known/jwks.json`)).json()).toEqual({ keys: [] })
  })

  it('market-api:A-149 answers 502 when it is not there, redirects, or answers without end', async () => {
    const none: Record<string, string> = {}
    for (const answer of [
      { status: 302, headers: { ...none, Location: 'http://127.0.0.1:1/' }, body: '' },
      { status: 200, headers: none, body: 'x'.repeat(70_000) },
    ]) {
      service.answerTo = () => answer
      expect((await post(market, '/api/auth/challenge', {})).status).toBe(502)
    }
    service.down = true
    try {
      for (const path of ['/api/auth/challenge', '/api/auth/verify']) {
        const answer = await post(market, path, {})
        expect([answer.status, answer.body]).toMatchObject([502, { code: 'sign_in_unavailable' }])
      }
    } finally {
      service.down = false
    }
  })

  it('market-api:A-149 answers 504 when it hangs', async () => {
    const answer = await hanging
    expect([answer.status, answer.body]).toMatchObject([504, { code: 'sign_in_unavailable' }])
    expect(performance.now() - hangingSince).toBeGreaterThan(14_900)
  })
})

describe('the configuration', () => {
  const basis = {
    POSTGRES_CONNECTION: 'postgres://u:p@127.0.0.1:1/x',
    PUBLIC_BASE_URL: 'https://market.example.com',
    MARKET_AUTH_ALLOWED_DOMAINS: '*',
    CIRCLES_SERVICE_KEY: 'key',
    RPC: 'http://127.0.0.1:1',
    // No folder for blocks.
    IPFS_RPC_URL: 'http://127.0.0.1:1',
  }
  const ISSUER = { issuer: 'partner', jwksUrl: 'https://partner.example/jwks.json', audience: 'shops' }
  const start = async (environment: Record<string, string>) => {
    const ctx = await createContext(readConfig(Config, { ...basis, ...environment }), createLog('test', 'error'), () =>
      openDatabase<MarketDatabase>(basis.POSTGRES_CONNECTION, { poolSize: 4, name: 'test' }),
    )
    await ctx.database.close()
    return ctx
  }

  it('needs a key of our own, or somebody to trust', async () => {
    const missing = /MARKET_JWT_PRIVATE_KEY is required: make one with `npm run ops -- jwt-key`/
    await expect(start({})).rejects.toThrow(missing)
    await expect(start({ AUTH_SERVICE_URL: '', MARKET_TRUSTED_ISSUERS: '[]' })).rejects.toThrow(missing)
    // With all other faults in one message.
    await expect(start({ CHAIN_ID: 'x' })).rejects.toThrow(/CHAIN_ID must be .*MARKET_JWT_PRIVATE_KEY is required/)
    expect((await start({ AUTH_SERVICE_URL: 'https://auth.example.com' })).tokens.issues).toBe(false)
    expect((await start({ MARKET_TRUSTED_ISSUERS: JSON.stringify([ISSUER]) })).tokens.issues).toBe(false)
    expect((await start({ MARKET_JWT_PRIVATE_KEY: await generateSigningKey() })).tokens.issues).toBe(true)
  })

  it('reads an age of the keys that is zero or less as the default', () => {
    const ages = (value: string) => {
      const environment = { AUTH_JWKS_CACHE_SECONDS: value, AUTH_JWKS_MAX_STALE_SECONDS: value }
      const config = readConfig(Config, { ...basis, AUTH_SERVICE_URL: 'https://auth.example.com', ...environment })
      return [config.AUTH_JWKS_CACHE_SECONDS, config.AUTH_JWKS_MAX_STALE_SECONDS]
    }
    for (const value of ['', '0', '-1']) expect(ages(value)).toEqual([600, 3600])
    expect(ages('30')).toEqual([30, 30])
  })

  it.each([
    ['no JSON', '{'],
    ['no list', JSON.stringify(ISSUER)],
    ['an algorithm with a shared secret', JSON.stringify([{ ...ISSUER, algorithms: ['HS256'] }])],
    ['no algorithm at all', JSON.stringify([{ ...ISSUER, algorithms: [] }])],
    ['"none" for an algorithm', JSON.stringify([{ ...ISSUER, algorithms: ['none'] }])],
    ['a file for keys', JSON.stringify([{ ...ISSUER, jwksUrl: 'file:///etc/keys' }])],
    ['no audience', JSON.stringify([{ ...ISSUER, audience: undefined }])],
    ['a word nobody knows', JSON.stringify([{ ...ISSUER, algorithm: 'ES256' }])],
  ])('refuses issuers with %s', async (_, text) => {
    await expect(start({ MARKET_TRUSTED_ISSUERS: text })).rejects.toThrow(/MARKET_TRUSTED_ISSUERS is not as/)
  })

  it('refuses two issuers of one name', async () => {
    const twice = /names two issuers: compare MARKET_JWT_ISSUER, AUTH_JWT_ISSUER and MARKET_TRUSTED_ISSUERS/
    const key = await generateSigningKey()
    await expect(start({ MARKET_TRUSTED_ISSUERS: JSON.stringify([ISSUER, ISSUER]) })).rejects.toThrow(twice)
    await expect(
      start({ MARKET_JWT_PRIVATE_KEY: key, AUTH_SERVICE_URL: 'https://a.example', AUTH_JWT_ISSUER: 'Circles.Market' }),
    ).rejects.toThrow(twice)
  })

  it.each(['sesame', '{}', '{"kty":"OKP","crv":"Ed25519","x":"sesame","d":"sesame"}', 'half'])(
    'refuses the key %s, and does not repeat it',
    async (text) => {
      const { x } = JSON.parse(await generateSigningKey()) as { x: string }
      const half = JSON.stringify({ kty: 'OKP', crv: 'Ed25519', x, d: 'sesame' })
      await expect(start({ MARKET_JWT_PRIVATE_KEY: text === 'half' ? half : text })).rejects.toThrow(
        /^MARKET_JWT_PRIVATE_KEY is not an Ed25519 private JWK; make one with `npm run ops -- jwt-key`$/,
      )
    },
  )

  it.each(['{', '{}', '[1]', '[{"kty":"RSA","n":"x","e":"AQAB"}]', '["sesame"]'])(
    'refuses the previous keys %s, and does not repeat them',
    async (text) => {
      const failure = start({ MARKET_JWT_PRIVATE_KEY: await generateSigningKey(), MARKET_JWT_PREVIOUS_KEYS: text })
      await expect(failure).rejects.toThrow(/^MARKET_JWT_PREVIOUS_KEYS is not a JSON array of Ed25519 JWKs$/)
    },
  )
})

it('the keys of issuers are kept up by a loop that says nothing when they are down', async () => {
  const issuer = await startIssuer()
  const key = await newKey()
  issuer.keys = [key.jwk]
  const market = await startMarketApi({ env: { AUTH_SERVICE_URL: issuer.url }, overrides })
  const { startJobs } = await import('../src/jobs.ts')
  const jobs = await startJobs(market.ctx)
  try {
    await until('the keys are there', () => market.ctx.issuers.find('circles-auth')!.keys.known())
    expect((await byBuyer(market, await tokenBy(key))).status).toBe(200)
    expect(issuer.fetches()).toBe(1)
    issuer.down = true
    clock += 10 * MINUTE
    await until('it was asked again', () => issuer.fetches() > 1)
    expect(jobs.failing()).not.toContain('issuer-keys')
  } finally {
    await jobs.stop()
    await market.close()
    issuer.close()
  }
})
