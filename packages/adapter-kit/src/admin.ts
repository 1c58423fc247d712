import { isAddress } from '@market/contracts/address'
import { AppError, ForbiddenError, UnauthorizedError } from '@market/kit/errors'
import { createApp } from '@market/kit/http'
import type { Log } from '@market/kit/log'
import type { Metrics } from '@market/kit/metrics'
import { Hono, type MiddlewareHandler } from 'hono'
import { createRemoteJWKSet, errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from 'jose'
import { adapterError } from './adapterError.ts'

export const ADMIN_AUDIENCE = 'market-admin-api'
/** Never a symmetric one: the key that verifies is public. */
const ALGORITHMS = ['RS256', 'EdDSA']
const CLOCK_TOLERANCE_SECONDS = 30

/** Whose tokens count on the admin listener, and whose of their subjects are let in. */
export type AdminAuth = { issuer: string; keys: JWTVerifyGetKey; addresses: readonly string[] }

/** The keys of the sign-in service at `authServiceUrl`. Nothing is fetched before the first token. */
export const issuerKeys = (authServiceUrl: string): JWTVerifyGetKey =>
  createRemoteJWKSet(new URL(`${authServiceUrl}/.well-known/jwks.json`), {
    timeoutDuration: 5000,
    cooldownDuration: 30_000,
    cacheMaxAge: 600_000,
  })

/** The admin face of an adapter: `/admin/health`, and the adapter's own routes below `/admin`, for those on the list. */
export function adminApp(auth: AdminAuth, routes: Hono | undefined, log: Log, metrics: Metrics) {
  const app = createApp(log, metrics, adapterError)
  app.use('/admin/*', requireAdmin(auth))
  app.get('/admin/health', (c) => c.json({ ok: true }))
  if (routes) app.route('/admin', routes)
  return app
}

function requireAdmin({ issuer, keys, addresses }: AdminAuth): MiddlewareHandler {
  return async (c, next) => {
    const token = /^Bearer +([^ ]+) *$/i.exec(c.req.header('Authorization') ?? '')?.[1]
    if (!token) throw new UnauthorizedError('missing_token', 'A bearer token is required')
    const caller = addressOf(await verify(token, keys, issuer))
    if (caller === undefined || !addresses.includes(caller)) {
      throw new ForbiddenError('not_an_admin', 'This address is not in ADMIN_ADDRESSES')
    }
    await next()
  }
}

async function verify(token: string, keys: JWTVerifyGetKey, issuer: string): Promise<JWTPayload> {
  try {
    const { payload } = await jwtVerify(token, keys, {
      issuer,
      audience: ADMIN_AUDIENCE,
      algorithms: ALGORITHMS,
      requiredClaims: ['exp'],
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
    })
    return payload
  } catch (error) {
    // What the token is to blame for. The rest is the sign-in service: away, or answering something else.
    if (isTokensFault(error)) throw new UnauthorizedError('invalid_token', 'The token is not valid here')
    const cause = { cause: error }
    throw new AppError(503, 'auth_unavailable', 'The keys of the sign-in service could not be read', undefined, cause)
  }
}

const isTokensFault = (error: unknown) =>
  error instanceof errors.JWTClaimValidationFailed ||
  error instanceof errors.JWTExpired ||
  error instanceof errors.JWTInvalid ||
  error instanceof errors.JWSInvalid ||
  error instanceof errors.JWSSignatureVerificationFailed ||
  error instanceof errors.JOSEAlgNotAllowed ||
  error instanceof errors.JOSENotSupported ||
  error instanceof errors.JWKSNoMatchingKey ||
  error instanceof errors.JWKSMultipleMatchingKeys

/** `addr`, else the subject: an address, alone or as `{address}@{chain}`. */
function addressOf({ addr, sub }: JWTPayload): string | undefined {
  const said = typeof addr === 'string' ? addr : sub?.split('@')[0]
  const address = said?.toLowerCase()
  return address !== undefined && isAddress(address) ? address : undefined
}
