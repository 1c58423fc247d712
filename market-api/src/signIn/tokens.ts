import { randomUUID } from 'node:crypto'
import { StartupError } from '@market/kit/errors'
import { calculateJwkThumbprint, exportJWK, importJWK, type JWK, jwtVerify, SignJWT } from 'jose'

export type Caller = { address: string; chainId: number }

export type Tokens = {
  /** A token for the caller, bound to the domain it signed in on. `expiresIn` is seconds. */
  issue(caller: Caller, domain: string): Promise<{ token: string; expiresIn: number }>
  /** The caller a token speaks for; undefined when it can't be trusted, for whatever reason. */
  verify(token: string): Promise<Caller | undefined>
  /** The public key, for others to verify with. */
  jwks: { keys: JWK[] }
}

const LIFETIME_SECONDS = 900
const SKEW_SECONDS = 30
const ALGORITHM = 'EdDSA'

/** Our own issuer: Ed25519 tokens of 15 minutes (market-api.md 3.2). Throws `StartupError` when the key is no Ed25519 JWK. */
export async function createTokens(options: {
  privateKeyJwk: string
  issuer: string
  audience: string
  allowedDomains: string[]
}): Promise<Tokens> {
  const { issuer, audience, allowedDomains } = options
  const jwk = parseKey(options.privateKeyJwk)
  const { d: _private, ...publicJwk } = jwk
  const kid = await calculateJwkThumbprint(publicJwk)
  const privateKey = await importJWK(jwk, ALGORITHM)
  const publicKey = await importJWK(publicJwk, ALGORITHM)
  const domains = new Set(allowedDomains.map((domain) => domain.toLowerCase()))
  // Verifying costs most of a bare request; the same token comes with every call of a page. Bounded by count and by `exp`.
  const verified = new Map<string, { caller: Caller; expiresAtMs: number }>()

  return {
    jwks: { keys: [{ ...publicJwk, kid, alg: ALGORITHM, use: 'sig' }] },

    async issue({ address, chainId }, domain) {
      const token = await new SignJWT({ addr: address, chainId: String(chainId), domain })
        .setProtectedHeader({ alg: ALGORITHM, kid, typ: 'JWT' })
        .setIssuer(issuer)
        .setAudience(audience)
        .setSubject(`${address}@${chainId}`)
        .setIssuedAt()
        .setNotBefore('0s')
        .setExpirationTime(`${LIFETIME_SECONDS}s`)
        .setJti(randomUUID())
        .sign(privateKey)
      return { token, expiresIn: LIFETIME_SECONDS }
    },

    async verify(token) {
      const known = verified.get(token)
      if (known && known.expiresAtMs > Date.now()) return known.caller
      try {
        const { payload } = await jwtVerify(token, publicKey, {
          issuer,
          audience,
          algorithms: [ALGORITHM],
          clockTolerance: SKEW_SECONDS,
          requiredClaims: ['exp', 'sub'],
        })
        const { addr, chainId, domain } = payload
        if (typeof addr !== 'string' || typeof domain !== 'string' || !/^[0-9]{1,15}$/.test(String(chainId))) {
          return undefined
        }
        if (!domains.has('*') && !domains.has(domain.toLowerCase())) return undefined
        const caller = { address: addr.toLowerCase(), chainId: Number(chainId) }
        if (verified.size >= 10_000) verified.clear()
        verified.set(token, { caller, expiresAtMs: (payload.exp! + SKEW_SECONDS) * 1000 })
        return caller
      } catch {
        return undefined
      }
    },
  }
}

function parseKey(text: string): JWK & { d: string } {
  try {
    const jwk = JSON.parse(text) as JWK
    if (jwk.kty === 'OKP' && jwk.crv === 'Ed25519' && jwk.d && jwk.x) return jwk as JWK & { d: string }
  } catch {
    // Falls through to the one message; the parser's own would quote the key.
  }
  throw new StartupError('MARKET_JWT_PRIVATE_KEY is not an Ed25519 private JWK; make one with `npm run ops -- jwt-key`')
}

/** A new signing key as JWK JSON, for MARKET_JWT_PRIVATE_KEY. */
export async function generateSigningKey(): Promise<string> {
  const { generateKeyPair } = await import('jose')
  const { privateKey } = await generateKeyPair(ALGORITHM, { extractable: true })
  return JSON.stringify(await exportJWK(privateKey))
}
