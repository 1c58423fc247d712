import { messageOf } from '@market/kit/errors'
import type { Log } from '@market/kit/log'
import { createLocalJWKSet, importJWK, type JWK, type JWTVerifyGetKey } from 'jose'

/** Somebody else whose tokens count here. `algorithms` are asymmetric. */
export type TrustedIssuer = { issuer: string; jwksUrl: string; audience: string; algorithms: string[] }

/** One state of an issuer's keys; another object as soon as they changed. */
export type KeySet = { find: JWTVerifyGetKey; text: string }

export type IssuerKeys = {
  /** Resolves when the keys stored by an earlier run have been looked for. Asks the issuer nothing. */
  ready(): Promise<void>
  /** The last good keys; undefined while there are none, or when they are too old to be believed. */
  known(): KeySet | undefined
  /** Fetches now, because of a key that is not known; not when that was done less than 30 s ago. Never throws. */
  refetch(): Promise<void>
  /** Fetches when it is time to. Never throws. */
  refreshWhenDue(): Promise<void>
}

/** Where the last good keys outlive the process. */
export type IssuerKeyStore = {
  load(issuer: string): Promise<{ jwks: unknown; fetchedAt: Date } | undefined>
  save(issuer: string, jwks: { keys: JWK[] }, fetchedAt: Date): Promise<void>
}

export type KeyAges = {
  /** Keys count as fresh this long; they are fetched anew after half of it. */
  cacheSeconds: number
  /** And are still believed this much longer, when the issuer can't be reached. */
  maxStaleSeconds: number
}

const REFETCH_EVERY_MS = 30_000
const RETRY_AFTER_MS = 15_000
/** Replicas that started together must not ask together for ever (market-api.md 3.3). */
const JITTER = 0.2
const MAX_KEYS = 20

/** Keeps the keys of one issuer (market-api.md 3.3, W-48). `fetchText` reads a URL; `now` is in ms. */
export function keepIssuerKeys(
  { issuer, jwksUrl, algorithms }: TrustedIssuer,
  options: KeyAges & {
    fetchText: (url: string) => Promise<string>
    store: IssuerKeyStore
    now: () => number
    log: Log
  },
): IssuerKeys {
  const { cacheSeconds, maxStaleSeconds, fetchText, store, now, log } = options
  let newest: { set: KeySet; fetchedAtMs: number } | undefined
  let dueAtMs = -Infinity
  let refetchedAtMs = -Infinity
  let failing = false
  let loading: Promise<void> | undefined
  let fetching: Promise<void> | undefined

  const adopt = (keys: JWK[], fetchedAtMs: number) => {
    const text = JSON.stringify(keys)
    // The same set for the same keys: verdicts that rest on them stay.
    const set = newest?.set.text === text ? newest.set : { find: createLocalJWKSet({ keys }), text }
    newest = { set, fetchedAtMs }
    dueAtMs = fetchedAtMs + varied((cacheSeconds * 1000) / 2)
  }

  const load = async () => {
    const stored = await store.load(issuer)
    const keys = stored ? await usableKeys(stored.jwks, algorithms) : []
    const fetchedAtMs = stored?.fetchedAt.getTime() ?? 0
    if (keys.length > 0 && !(newest && newest.fetchedAtMs >= fetchedAtMs)) adopt(keys, fetchedAtMs)
  }

  const fetchKeys = async (): Promise<JWK[] | undefined> => {
    try {
      const keys = await usableKeys(parse(await fetchText(jwksUrl)), algorithms)
      if (keys.length === 0) throw new Error('the document holds no usable signing key')
      if (failing) log.info({ issuer }, 'issuer keys fetched again')
      failing = false
      return keys
    } catch (error) {
      if (!failing) log.warn({ issuer, err: error }, 'issuer keys not fetched')
      failing = true
      return undefined
    }
  }

  const fetchAndKeep = async () => {
    const keys = await fetchKeys()
    const atMs = now()
    if (keys) {
      adopt(keys, atMs)
      await store.save(issuer, { keys }, new Date(atMs))
    } else {
      dueAtMs = atMs + varied(RETRY_AFTER_MS)
      // Another replica may have had more luck.
      await load()
    }
  }

  const refresh = () => {
    fetching ??= fetchAndKeep()
      .catch((error) => log.warn({ issuer, reason: messageOf(error) }, 'issuer keys not kept in the database'))
      .finally(() => (fetching = undefined))
    return fetching
  }

  return {
    ready() {
      loading ??= load().catch((error) => {
        loading = undefined
        log.warn({ issuer, reason: messageOf(error) }, 'issuer keys not read')
      })
      return loading
    },
    known() {
      if (!newest || now() - newest.fetchedAtMs > (cacheSeconds + maxStaleSeconds) * 1000) return undefined
      return newest.set
    },
    async refetch() {
      if (fetching) return fetching
      if (now() - refetchedAtMs < REFETCH_EVERY_MS) return
      refetchedAtMs = now()
      await refresh()
    },
    async refreshWhenDue() {
      if (now() >= dueAtMs) await refresh()
    },
  }
}

const varied = (ms: number) => ms * (1 - JITTER + 2 * JITTER * Math.random())

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // The parser's own message quotes the document.
    throw new Error('the document is not JSON')
  }
}

/** What kind of key an algorithm takes. Anything that isn't here is no algorithm for other people's tokens: above all no HS256. */
const KEY_OF: Record<string, { kty: string; crv?: string; members: string[] }> = {
  RS256: { kty: 'RSA', members: ['n', 'e'] },
  RS384: { kty: 'RSA', members: ['n', 'e'] },
  RS512: { kty: 'RSA', members: ['n', 'e'] },
  PS256: { kty: 'RSA', members: ['n', 'e'] },
  PS384: { kty: 'RSA', members: ['n', 'e'] },
  PS512: { kty: 'RSA', members: ['n', 'e'] },
  ES256: { kty: 'EC', crv: 'P-256', members: ['crv', 'x', 'y'] },
  ES384: { kty: 'EC', crv: 'P-384', members: ['crv', 'x', 'y'] },
  ES512: { kty: 'EC', crv: 'P-521', members: ['crv', 'x', 'y'] },
  EdDSA: { kty: 'OKP', crv: 'Ed25519', members: ['crv', 'x'] },
  Ed25519: { kty: 'OKP', crv: 'Ed25519', members: ['crv', 'x'] },
}

export const ASYMMETRIC_ALGORITHMS = Object.keys(KEY_OF)

/** The keys of a JWKS that may sign with one of the algorithms: what is public of them, and only that. */
async function usableKeys(jwks: unknown, algorithms: string[]): Promise<JWK[]> {
  const { keys } = (jwks ?? {}) as { keys?: unknown }
  if (!Array.isArray(keys)) return []
  const usable: JWK[] = []
  for (const key of keys.slice(0, MAX_KEYS) as unknown[]) {
    const publicKey = await usableKey((key ?? {}) as JWK, algorithms)
    if (publicKey) usable.push(publicKey)
  }
  return usable
}

async function usableKey(key: JWK, algorithms: string[]): Promise<JWK | undefined> {
  const { kid, alg, use, key_ops: operations } = key
  if (use !== undefined && use !== 'sig') return undefined
  if (operations !== undefined && !(Array.isArray(operations) && operations.includes('verify'))) return undefined
  if (kid !== undefined && typeof kid !== 'string') return undefined
  const algorithm = algorithms.find((name) => {
    const { kty, crv } = KEY_OF[name]!
    return kty === key.kty && (crv === undefined || crv === key.crv) && (alg === undefined || alg === name)
  })
  if (algorithm === undefined) return undefined
  const members = ['kty', 'kid', 'alg', ...KEY_OF[algorithm]!.members] as (keyof JWK)[]
  const publicKey = Object.fromEntries(members.flatMap((m) => (m in key ? [[m, key[m]]] : []))) as JWK
  try {
    await importJWK(publicKey, algorithm)
  } catch {
    return undefined
  }
  // Shorter ones jose refuses with each token.
  const isShort = publicKey.kty === 'RSA' && Buffer.from(publicKey.n!, 'base64url').length < 256
  return isShort ? undefined : publicKey
}
