import { UnauthorizedError } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'

/** One answer for unknown, used, expired and wrongly signed, so that a caller learns nothing about other people's challenges. */
const refused = () =>
  new UnauthorizedError('sign_in_refused', 'The challenge is unknown, used or expired, or the signature does not fit')

/**
 * Turns a signed challenge into a token, once (market-api.md 3.7). A failed try leaves the challenge usable, up to a number
 * of them; that the chain doesn't answer is nobody's failure.
 */
export async function verifyChallenge(ctx: MarketContext, input: { challengeId: string; signature: string }) {
  const { challengeId, signature } = input
  const challenge = await ctx.db
    .selectFrom('auth_challenges')
    .select(['address', 'chain_id', 'domain', 'message'])
    .where('challenge_id', '=', challengeId)
    .where('used_at', 'is', null)
    .where('expires_at', '>', ctx.now())
    .executeTakeFirst()
  if (!challenge || ctx.signInLimits.isSpent(challengeId)) throw refused()
  ctx.signInLimits.verify(challenge.address)
  if (!(await ctx.wallets.signedBy(challenge.address, challenge.message, signature))) {
    ctx.signInLimits.countFailure(challengeId)
    throw refused()
  }

  const consumed = await ctx.db
    .updateTable('auth_challenges')
    .set({ used_at: ctx.now() })
    .where('challenge_id', '=', challengeId)
    .where('used_at', 'is', null)
    .where('expires_at', '>', ctx.now())
    .returning('challenge_id')
    .executeTakeFirst()
  if (!consumed) throw refused()

  const caller = { address: challenge.address, chainId: Number(challenge.chain_id) }
  return { ...(await ctx.tokens.issue(caller, challenge.domain)), ...caller }
}

/** Challenges nobody can use any more are dropped a day after they ran out. */
export async function purgeChallenges(ctx: MarketContext): Promise<void> {
  await ctx.db
    .deleteFrom('auth_challenges')
    .where('expires_at', '<', new Date(ctx.now().getTime() - 86_400_000))
    .execute()
}
