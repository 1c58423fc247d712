import { acquireLease, assertLease, type Lease, LeaseLostError } from '@market/kit/lease'
import { sql, type Transaction } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'

/** The right to write payments, for the length of a round. */
export type Leadership = {
  /** Grows with every change of leader. */
  readonly epoch: string
  /** Renews it when a third of its time is gone; throws `LeaseLostError` when another took over (payments.md W16). */
  keep(): Promise<void>
  /** First in every transaction that writes: throws `LeaseLostError` unless it is still ours, and keeps it so until the commit. */
  assert(tx: Transaction<MarketDatabase>): Promise<void>
}

export const PAYMENTS_LEASE = 'payments'
/** That Postgres takes. */
const MAX_TIMEOUT_MS = 2_147_483_647

/** Undefined while another replica leads. */
export async function takeLeadership(ctx: MarketContext): Promise<Leadership | undefined> {
  const seconds = ctx.config.PAYMENTS_LEASE_SECONDS
  const acquire = () => acquireLease(ctx.db, PAYMENTS_LEASE, ctx.instance, seconds)
  const first = await acquire()
  if (!first) return undefined
  let lease: Lease = first
  let renewedAt = Date.now()
  return {
    epoch: lease.epoch,
    async keep() {
      if (Date.now() - renewedAt < (seconds * 1000) / 3) return
      const renewed = await acquire()
      if (renewed?.epoch !== lease.epoch) throw new LeaseLostError(`lease ${PAYMENTS_LEASE} was taken over`)
      lease = renewed
      renewedAt = Date.now()
    },
    async assert(tx) {
      // The lease's row is held until the commit. One that freezes here must not keep the others from taking over.
      const ms = Math.min(seconds * 1000, MAX_TIMEOUT_MS)
      await sql`select set_config('idle_in_transaction_session_timeout', ${String(ms)}, true)`.execute(tx)
      await assertLease(tx, lease)
    },
  }
}
