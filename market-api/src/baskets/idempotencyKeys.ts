import { InvalidError } from '@market/kit/errors'
import type { Kysely, Transaction } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'

export type IdempotencyKey = {
  /** Whose key it is. */
  scope: string
  key: string
  /** What the request asks for; the same key may not ask for two things. */
  fingerprint: string
}

export type CheckoutAnswer = { orderId: string; basketId: string; paymentReference: string; orderCid: null }
export type Answer = { status: 200 | 201; body: CheckoutAnswer }

/** The answer given before; throws InvalidError 422 `idempotency_key_reused` when it was another question (market-api.md 4.8). */
export async function findAnswer(db: Kysely<MarketDatabase>, wanted: IdempotencyKey): Promise<Answer | undefined> {
  const row = await db
    .selectFrom('idempotency_keys')
    .select(['fingerprint', 'status', 'answer'])
    .where('scope', '=', wanted.scope)
    .where('key', '=', wanted.key)
    .executeTakeFirst()
  if (!row) return undefined
  if (row.fingerprint !== wanted.fingerprint) {
    const message = 'The Idempotency-Key was used for another request'
    throw new InvalidError('idempotency_key_reused', message, undefined, 422)
  }
  // In the order in which it was sent the first time, which Postgres does not keep.
  const { orderId, basketId, paymentReference } = row.answer as CheckoutAnswer
  return { status: row.status as Answer['status'], body: { orderId, basketId, paymentReference, orderCid: null } }
}

/** Keeps the answer with what it says; false when the key has one. Waits while another transaction is about to keep one. */
export async function claimKey(
  tx: Transaction<MarketDatabase>,
  { scope, key, fingerprint }: IdempotencyKey,
  { status, body }: Answer,
): Promise<boolean> {
  const row = await tx
    .insertInto('idempotency_keys')
    .values({ scope, key, fingerprint, status, answer: body })
    .onConflict((conflict) => conflict.doNothing())
    .returning('key')
    .executeTakeFirst()
  return row !== undefined
}
