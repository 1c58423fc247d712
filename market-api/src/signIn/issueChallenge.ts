import { randomUUID } from 'node:crypto'
import { InvalidError } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'
import { isStatement, lifetimeMinutes, type SignInRequest, signInMessage, signInOrigin } from './siwe.ts'

/** Makes the text a wallet has to sign, and remembers it until it is signed or too old. */
export async function issueChallenge(ctx: MarketContext, request: SignInRequest, pageOrigin: string | undefined) {
  const { PUBLIC_BASE_URL, MARKET_AUTH_ALLOWED_DOMAINS, CHAIN_ID } = ctx.config
  if (request.chainId !== CHAIN_ID) {
    const message = request.chainId > 0 ? `chainId must be ${CHAIN_ID}` : 'chainId must be > 0'
    throw new InvalidError('invalid_chain', message, { path: '/chainId' })
  }
  if (request.statement !== undefined && !isStatement(request.statement)) {
    throw new InvalidError('invalid_statement', 'statement must be one line of at most 200 printable characters', {
      path: '/statement',
    })
  }
  const origin = signInOrigin(pageOrigin, PUBLIC_BASE_URL, MARKET_AUTH_ALLOWED_DOMAINS)
  if (!origin) throw new InvalidError('domain_not_allowed', 'Requested host is not allowlisted')
  ctx.signInLimits.challenge(request.address)

  const issuedAt = ctx.now()
  const expiresAt = new Date(issuedAt.getTime() + lifetimeMinutes(request.expirationMinutes) * 60_000)
  const nonce = `0x${Buffer.from(ctx.random16()).toString('hex')}`
  const message = signInMessage(request, origin, nonce, issuedAt, expiresAt)
  const challengeId = randomUUID()
  await ctx.db
    .insertInto('auth_challenges')
    .values({
      challenge_id: challengeId,
      address: request.address,
      chain_id: request.chainId,
      domain: origin.host,
      message,
      issued_at: issuedAt,
      expires_at: expiresAt,
      used_at: null,
    })
    .execute()
  return { challengeId, message, nonce, expiresAt: expiresAt.toISOString() }
}
