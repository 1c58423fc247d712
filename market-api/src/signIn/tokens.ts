import { randomUUID } from 'node:crypto'
import { isAddress } from '@market/contracts/address'
import { StartupError } from '@market/kit/errors'
import {
  calculateJwkThumbprint,
  createLocalJWKSet,
  decodeJwt,
  decodeProtectedHeader,
  errors,
  exportJWK,
  importJWK,
  type JWK,
  type JWTPayload,
  jwtVerify,
  type JWTVerifyOptions,
  SignJWT,
} from 'jose'
import type { KeySet } from './issuerKeys.ts'
import type { TrustedIssuers } from './trustedIssuers.ts'

/** Whom a token speaks for. `expiresAtMs` is when it ends, the skew that is granted to clocks not included. */
export type Caller = { address: string; chainId: number; expiresAtMs: number }

export type Tokens = {
  /** Whether there is a key to issue tokens with; without one others issue them. */
  issues: boolean
  /** A token for the caller, bound to the domain it signed in on. `expiresIn` is seconds. */
  issue(caller: { address: string; chainId: number }, domain: string): Promise<{ token: string; expiresIn: number }>
  /** The caller a token speaks for; undefined when it can't be trusted, for whatever reason. */
  verify(token: string): Promise<Caller | undefined>
  /** The public keys, for others to verify with. */
  jwks: { keys: JWK[] }
}

const LIFETIME_SECONDS = 900
const SKEW_SECONDS = 30
const ALGORITHM = 'EdDSA'
/** No token of ours or of an issuer is nearly as long; reading them costs by length. */
const MAX_TOKEN_LENGTH = 8192
const MAX_VERDICTS = 10_000
const MAX_REMEMBERED_LENGTH = 2048

/**
 * Issues Ed25519 tokens of 15 minutes (market-api.md 3.2), and verifies those, those of earlier keys and those of the issuers
 * that are trusted, each against its own keys only. Throws `StartupError` when a key is no Ed25519 JWK.
 */
export async function createTokens(options: {
  /** JWK as JSON; undefined when others issue the tokens. */
  privateKeyJwk: string | undefined
  /** JSON array of JWKs, private or public, that signed before. */
  previousKeysJwk?: string | undefined
  issuer: string
  audience: string
  allowedDomains: string[]
  issuers: TrustedIssuers
  now: () => Date
}): Promise<Tokens> {
  const { issuer, audience, allowedDomains, issuers, now } = options
  const own = options.privateKeyJwk === undefined ? undefined : parsePrivateKey(options.privateKeyJwk)
  const previous = options.previousKeysJwk === undefined ? [] : parsePreviousKeys(options.previousKeysJwk)
  const keys = await publish([...(own ? [own] : []), ...previous])
  const signingKey = own && { kid: keys[0]!.kid!, key: await importJWK(own, ALGORITHM).catch(refusePrivateKey) }
  const findOwnKey = createLocalJWKSet({ keys })
  const domains = new Set(allowedDomains.map((domain) => domain.toLowerCase()))
  // Verifying costs most of a bare request; the same token comes with every call of a page. Bounded by count and by `exp`.
  const verdicts = new Map<string, Verdict>()

  const verifyOwn = async (token: string): Promise<Verdict | undefined> => {
    const { payload } = await jwtVerify(token, findOwnKey, {
      issuer,
      audience,
      algorithms: [ALGORITHM],
      clockTolerance: SKEW_SECONDS,
      requiredClaims: ['exp', 'sub'],
      currentDate: now(),
    })
    const { domain } = payload
    if (typeof domain !== 'string' || !(domains.has('*') || domains.has(domain.toLowerCase()))) return undefined
    const caller = callerOf(payload)
    return caller && { caller, stands: () => true }
  }

  const verifyOf = async (
    trusted: NonNullable<ReturnType<TrustedIssuers['find']>>,
    token: string,
    claims: JWTPayload,
  ): Promise<Verdict | undefined> => {
    const { algorithms } = trusted
    // Before its keys are looked at, let alone fetched: what could not be a token of this issuer for us anyway.
    if (!algorithms.includes(decodeProtectedHeader(token).alg ?? '')) return undefined
    if (![claims.aud].flat().includes(trusted.audience) || !callerOf(claims)) return undefined
    const expected: JWTVerifyOptions = {
      issuer: trusted.issuer,
      audience: trusted.audience,
      algorithms,
      clockTolerance: SKEW_SECONDS,
      requiredClaims: ['exp'],
      currentDate: now(),
    }
    if (isOver(claims, now())) return undefined
    const theirs = trusted.keys
    await theirs.ready()
    let set = theirs.known()
    let payload = set && (await verifyBy(set, token, expected))
    if (payload === undefined) {
      await theirs.refetch()
      set = theirs.known()
      payload = set && (await verifyBy(set, token, expected))
    }
    const caller = payload && callerOf(payload)
    // With the keys it was verified by, a verdict goes too: they were taken back, or are too old to be believed.
    return caller && { caller, stands: () => theirs.known() === set }
  }

  return {
    issues: signingKey !== undefined,
    jwks: { keys },

    async issue({ address, chainId }, domain) {
      if (!signingKey) throw new Error('no key to issue tokens with')
      const issuedAt = Math.floor(now().getTime() / 1000)
      const token = await new SignJWT({ addr: address, chainId: String(chainId), domain })
        .setProtectedHeader({ alg: ALGORITHM, kid: signingKey.kid, typ: 'JWT' })
        .setIssuer(issuer)
        .setAudience(audience)
        .setSubject(`${address}@${chainId}`)
        .setIssuedAt(issuedAt)
        .setNotBefore(issuedAt)
        .setExpirationTime(issuedAt + LIFETIME_SECONDS)
        .setJti(randomUUID())
        .sign(signingKey.key)
      return { token, expiresIn: LIFETIME_SECONDS }
    },

    async verify(token) {
      const known = verdicts.get(token)
      if (known && now().getTime() < known.caller.expiresAtMs + SKEW_SECONDS * 1000 && known.stands()) {
        return known.caller
      }
      if (token.length > MAX_TOKEN_LENGTH) return undefined
      const verdict = await judge(token).catch(() => undefined)
      if (!verdict) return undefined
      if (verdicts.size >= MAX_VERDICTS) verdicts.clear()
      if (token.length <= MAX_REMEMBERED_LENGTH) verdicts.set(token, verdict)
      return verdict.caller
    },
  }

  /** Whose token it claims to be decides who is asked; never anybody else, whatever comes of it (market-api.md 3.1). */
  async function judge(token: string): Promise<Verdict | undefined> {
    const claims = decodeJwt(token)
    if (claims.iss === issuer && keys.length > 0) return verifyOwn(token)
    const trusted = typeof claims.iss === 'string' ? issuers.find(claims.iss) : undefined
    return trusted && verifyOf(trusted, token, claims)
  }
}

type Verdict = { caller: Caller; stands: () => boolean }

/** The claims, when a key of the set made the signature; undefined when the set has no such key. Else throws. */
async function verifyBy(set: KeySet, token: string, options: JWTVerifyOptions): Promise<JWTPayload | undefined> {
  try {
    return (await jwtVerify(token, set.find, options)).payload
  } catch (error) {
    if (error instanceof errors.JWKSNoMatchingKey) return undefined
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error
    // A token without `kid`, and several keys: as in the reference, any of them will do.
    for await (const key of error) {
      const verified = await jwtVerify(token, key, options).catch((failure: unknown) => {
        if (failure instanceof errors.JWSSignatureVerificationFailed) return undefined
        throw failure
      })
      if (verified) return verified.payload
    }
    return undefined
  }
}

function callerOf({ addr, chainId, exp }: JWTPayload): Caller | undefined {
  if (typeof addr !== 'string' || !isAddress(addr.toLowerCase()) || typeof exp !== 'number') return undefined
  if (!['string', 'number'].includes(typeof chainId) || !/^[0-9]{1,15}$/.test(String(chainId))) return undefined
  return { address: addr.toLowerCase(), chainId: Number(chainId), expiresAtMs: exp * 1000 }
}

const isOver = ({ exp = 0 }: JWTPayload, at: Date) => at.getTime() >= (exp + SKEW_SECONDS) * 1000

type Ed25519Key = { kty: 'OKP'; crv: 'Ed25519'; x: string; d?: string }

/** Their public halves, each named by its thumbprint; the first of equal ones. */
async function publish(keys: Ed25519Key[]): Promise<JWK[]> {
  const published = new Map<string, JWK>()
  for (const { kty, crv, x } of keys) {
    const kid = await calculateJwkThumbprint({ kty, crv, x })
    if (!published.has(kid)) published.set(kid, { kty, crv, x, kid, alg: ALGORITHM, use: 'sig' })
  }
  return [...published.values()]
}

function parsePrivateKey(text: string): Ed25519Key {
  const key = parseJson(text)
  return isEd25519(key) && key.d ? key : refusePrivateKey()
}

function refusePrivateKey(): never {
  throw new StartupError('MARKET_JWT_PRIVATE_KEY is not an Ed25519 private JWK; make one with `npm run ops -- jwt-key`')
}

function parsePreviousKeys(text: string): Ed25519Key[] {
  const keys = parseJson(text)
  if (Array.isArray(keys) && keys.every(isEd25519)) return keys
  throw new StartupError('MARKET_JWT_PREVIOUS_KEYS is not a JSON array of Ed25519 JWKs')
}

/** Undefined when it is none: the parser's own message would quote the key. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function isEd25519(value: unknown): value is Ed25519Key {
  const { kty, crv, x } = (value ?? {}) as Partial<Record<keyof Ed25519Key, unknown>>
  return kty === 'OKP' && crv === 'Ed25519' && typeof x === 'string' && /^[A-Za-z0-9_-]{43}$/.test(x)
}

/** A new signing key as JWK JSON, for MARKET_JWT_PRIVATE_KEY. */
export async function generateSigningKey(): Promise<string> {
  const { generateKeyPair } = await import('jose')
  const { privateKey } = await generateKeyPair(ALGORITHM, { extractable: true })
  return JSON.stringify(await exportJWK(privateKey))
}
