import type { Log } from '@market/kit/log'
import { calculateJwkThumbprint, exportJWK, generateKeyPair, type JWK } from 'jose'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type IssuerKeyStore, keepIssuerKeys } from './issuerKeys.ts'

const MINUTE = 60_000
const URL_OF_KEYS = 'https://auth.example.com/.well-known/jwks.json'

const publicKey = async (alg = 'RS256', options = {}): Promise<JWK> => {
  const jwk = await exportJWK((await generateKeyPair(alg, { extractable: true, ...options })).publicKey)
  return { ...jwk, kid: await calculateJwkThumbprint(jwk) }
}

let rsa: JWK
let other: JWK
let curve: JWK
beforeAll(async () => {
  ;[rsa, other, curve] = (await Promise.all([publicKey(), publicKey(), publicKey('ES256')])) as [JWK, JWK, JWK]
})

let clock: number
let asked: string[]
let answer: () => Promise<string>
let rows: Map<string, { jwks: { keys: JWK[] }; fetchedAt: Date }>
let lines: string[]
let store: IssuerKeyStore
const log: Log = {
  debug: () => {},
  info: (_, message) => void lines.push(message),
  warn: (_, message) => void lines.push(message),
  error: (_, message) => void lines.push(message),
  child: () => log,
}
beforeEach(() => {
  clock = 1_780_000_000_000
  asked = []
  rows = new Map()
  lines = []
  answer = async () => JSON.stringify({ keys: [rsa] })
  store = {
    load: async (issuer) => rows.get(issuer),
    save: async (issuer, jwks, fetchedAt) => void rows.set(issuer, { jwks, fetchedAt }),
  }
})

const keep = (algorithms = ['RS256']) =>
  keepIssuerKeys(
    { issuer: 'circles-auth', jwksUrl: URL_OF_KEYS, audience: 'market-api', algorithms },
    {
      cacheSeconds: 600,
      maxStaleSeconds: 3600,
      store: { load: (issuer) => store.load(issuer), save: (...row) => store.save(...row) },
      now: () => clock,
      log,
      fetchText: async (url) => {
        asked.push(url)
        return answer()
      },
    },
  )
type Keys = ReturnType<typeof keep>
const kids = (keys: Keys) => {
  const set = keys.known()
  return set && (JSON.parse(set.text) as JWK[]).map(({ kid }) => kid)
}
const down = async () => {
  throw new Error('connection refused')
}

describe('the keys of an issuer', () => {
  it('are fetched again after half of their time, a fifth more or less', async () => {
    const keys = keep()
    expect(keys.known()).toBeUndefined()
    await keys.refreshWhenDue()
    expect([kids(keys), asked]).toEqual([[rsa.kid], [URL_OF_KEYS]])
    clock += 4 * MINUTE - 1
    await keys.refreshWhenDue()
    expect(asked).toHaveLength(1)
    clock += 2 * MINUTE + 2
    await keys.refreshWhenDue()
    expect(asked).toHaveLength(2)
    // Not all together: of many, some are early and some are late.
    const many = Array.from({ length: 40 }, () => keep())
    await Promise.all(many.map((one) => one.refreshWhenDue()))
    asked = []
    clock += 5 * MINUTE
    await Promise.all(many.map((one) => one.refreshWhenDue()))
    expect(asked.length).toBeGreaterThan(2)
    expect(asked.length).toBeLessThan(38)
  })

  it('market-api:A-146 are believed 70 minutes while the issuer is down, and asked for every 15 s', async () => {
    const keys = keep()
    await keys.refreshWhenDue()
    answer = down
    clock += 70 * MINUTE
    await keys.refreshWhenDue()
    expect(kids(keys)).toEqual([rsa.kid])
    clock += 1
    expect(keys.known()).toBeUndefined()
    asked = []
    for (let second = 0; second < 60; second += 1) {
      clock += 1000
      await keys.refreshWhenDue()
    }
    expect(asked.length).toBeGreaterThanOrEqual(3)
    expect(asked.length).toBeLessThanOrEqual(5)
    expect(lines).toEqual(['issuer keys not fetched'])
    answer = async () => JSON.stringify({ keys: [rsa] })
    clock += 20_000
    await keys.refreshWhenDue()
    expect(kids(keys)).toEqual([rsa.kid])
    expect(lines).toEqual(['issuer keys not fetched', 'issuer keys fetched again'])
  })

  it('are fetched for a key that is not known once in 30 s, and once for all who wait', async () => {
    const keys = keep()
    await Promise.all([keys.refetch(), keys.refetch(), keys.refreshWhenDue(), keys.refetch()])
    expect(asked).toHaveLength(1)
    answer = async () => JSON.stringify({ keys: [other] })
    clock += 29_999
    await keys.refetch()
    expect([kids(keys), asked.length]).toEqual([[rsa.kid], 1])
    clock += 1
    await keys.refetch()
    expect([kids(keys), asked.length]).toEqual([[other.kid], 2])
    // A failed try counts, too.
    answer = down
    clock += 30_000
    await keys.refetch()
    await keys.refetch()
    expect([kids(keys), asked.length]).toEqual([[other.kid], 3])
  })

  it('are waited for when a fetch is under way anyhow, which leaves the next one free', async () => {
    const keys = keep()
    await Promise.all([keys.refreshWhenDue(), keys.refetch()])
    expect([kids(keys), asked.length]).toEqual([[rsa.kid], 1])
    await keys.refetch()
    expect(asked).toHaveLength(2)
  })

  it('are the same set as long as they are the same keys, so that verdicts stay', async () => {
    const keys = keep()
    await keys.refreshWhenDue()
    const before = keys.known()
    clock += 10 * MINUTE
    await keys.refreshWhenDue()
    expect(keys.known()).toBe(before)
    answer = async () => JSON.stringify({ keys: [rsa, other] })
    clock += 10 * MINUTE
    await keys.refreshWhenDue()
    expect(keys.known()).not.toBe(before)
  })

  it('outlive the process', async () => {
    await keep().refreshWhenDue()
    expect(rows.get('circles-auth')).toEqual({ jwks: { keys: [rsa] }, fetchedAt: new Date(clock) })
    answer = down
    clock += 60 * MINUTE
    const keys = keep()
    await keys.ready()
    expect([kids(keys), asked.length]).toEqual([[rsa.kid], 1])
    clock += 11 * MINUTE
    expect(keys.known()).toBeUndefined()
  })

  it('are those another replica got, when this one gets none', async () => {
    const [keys, luckier] = [keep(), keep()]
    await keys.refreshWhenDue()
    clock += 50 * MINUTE
    answer = async () => JSON.stringify({ keys: [other] })
    await luckier.refreshWhenDue()
    answer = down
    await keys.refreshWhenDue()
    expect(kids(keys)).toEqual([other.kid])
    clock += 65 * MINUTE
    expect(kids(keys)).toEqual([other.kid])
  })

  it('stay when the database does not answer, and are looked for in it again', async () => {
    const working = store
    store = { load: down, save: down }
    const keys = keep()
    await keys.ready()
    expect(keys.known()).toBeUndefined()
    await keys.refreshWhenDue()
    expect(kids(keys)).toEqual([rsa.kid])
    answer = down
    clock += 10 * MINUTE
    await keys.refreshWhenDue()
    expect(kids(keys)).toEqual([rsa.kid])
    expect(lines).toContain('issuer keys not read')
    store = working
    rows.set('circles-auth', { jwks: { keys: [other] }, fetchedAt: new Date(clock) })
    const late = keep()
    store = { load: down, save: down }
    await late.ready()
    store = working
    await late.ready()
    expect(kids(late)).toEqual([other.kid])
  })
})

describe('a document', () => {
  const adopted = async (document: unknown, algorithms?: string[]) => {
    const keys = keep(algorithms)
    answer = async () => (typeof document === 'string' ? document : JSON.stringify(document))
    await keys.refreshWhenDue()
    return JSON.parse(keys.known()?.text ?? '[]') as JWK[]
  }

  it.each([
    ['no JSON', '<html>'],
    ['null', 'null'],
    ['no list', { keys: { 0: {} } }],
    ['nothing in it', { keys: [] }],
    ['a secret for HS256', { keys: [{ kty: 'oct', k: 'c2VjcmV0', alg: 'HS256', kid: 'a' }] }],
    ['entries that are no keys', { keys: [null, 1, 'key', [], {}] }],
    ['a key with a strange name', { keys: [{ kty: 'RSA', kid: 7 }] }],
    ['half a key', { keys: [{ kty: 'RSA', e: 'AQAB', kid: 'a' }] }],
  ])('with %s does not take the place of a good one', async (_, document) => {
    const keys = keep()
    await keys.refreshWhenDue()
    answer = async () => (typeof document === 'string' ? document : JSON.stringify(document))
    clock += 10 * MINUTE
    await keys.refreshWhenDue()
    expect([kids(keys), asked.length]).toEqual([[rsa.kid], 2])
    expect(lines).toEqual(['issuer keys not fetched'])
    expect(rows.get('circles-auth')!.jwks.keys).toEqual([rsa])
  })

  it('gives only keys that sign with an algorithm of the issuer', async () => {
    const short = await publicKey('RS256', { modulusLength: 2048 })
    const document = {
      keys: [
        { ...rsa, use: 'enc', kid: 'for encryption' },
        { ...rsa, key_ops: ['encrypt'], kid: 'for encryption, too' },
        { ...rsa, alg: 'RS512', kid: 'for another algorithm' },
        { ...short, n: short.n!.slice(0, 86), kid: 'short' },
        curve,
        { ...other, use: 'sig', key_ops: ['verify'], alg: 'RS256' },
        rsa,
      ],
    }
    expect((await adopted(document)).map(({ kid }) => kid)).toEqual([other.kid, rsa.kid])
    expect((await adopted(document, ['ES256'])).map(({ kid }) => kid)).toEqual([curve.kid])
    expect((await adopted({ keys: [await publicKey('EdDSA')] }, ['EdDSA'])).length).toBe(1)
  })

  it('gives nothing that is private, and no more than 20 keys', async () => {
    const { privateKey } = await generateKeyPair('RS256', { extractable: true })
    const whole = { ...(await exportJWK(privateKey)), kid: 'whole', x5u: 'https://elsewhere.example' }
    const [key] = await adopted({ keys: [whole] })
    expect(Object.keys(key!).toSorted()).toEqual(['e', 'kid', 'kty', 'n'])
    const many = Array.from({ length: 30 }, (_, i) => ({ ...rsa, kid: `key ${i}` }))
    expect(await adopted({ keys: many })).toHaveLength(20)
  })
})
