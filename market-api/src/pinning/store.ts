import { type Kysely, sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'

/** Whose quota a pin counts against, and how much of it there is in a UTC day. */
export type Pinner = {
  /** A signed-in address, or what stands for a client address that must not be stored. */
  subject: string
  maxObjects: number
  maxBytes: number
}

/** The UTC day of an instant, `2026-01-31`: quotas are counted by it. */
export const utcDay = (at: Date) => at.toISOString().slice(0, 10)

/**
 * Counts one object of `bytes` against the pinner's quota of the day, unless that would exceed it. One statement, so that
 * requests at the same instant can't both take what is left for one.
 */
export async function reserveQuota(
  db: Kysely<MarketDatabase>,
  { subject, maxObjects, maxBytes }: Pinner,
  day: string,
  bytes: number,
): Promise<boolean> {
  const { rows } = await sql`
    insert into pin_quotas (subject, day, objects, bytes)
      select ${subject}, ${day}::date, 1, ${bytes}::bigint
      where 1 <= ${maxObjects}::bigint and ${bytes}::bigint <= ${maxBytes}::bigint
    on conflict (day, subject) do update
      set objects = pin_quotas.objects + 1, bytes = pin_quotas.bytes + excluded.bytes
      where pin_quotas.objects + 1 <= ${maxObjects}::bigint and pin_quotas.bytes + excluded.bytes <= ${maxBytes}::bigint
    returning 1`.execute(db)
  return rows.length > 0
}

/** Undoes a reservation whose object could not be stored. */
export async function returnQuota(db: Kysely<MarketDatabase>, { subject }: Pinner, day: string, bytes: number) {
  await db
    .updateTable('pin_quotas')
    .set({ objects: sql`objects - 1`, bytes: sql`bytes - ${bytes}` })
    .where('day', '=', sql<Date>`${day}::date`)
    .where('subject', '=', subject)
    .execute()
}

/** Remembers that we pinned a CID for somebody; nothing else may ever be unpinned (catalog.md 3.6). */
export async function recordPin(
  db: Kysely<MarketDatabase>,
  pin: { cid: string; subject: string; kind: string; size: number; pinned_at: Date },
) {
  await db
    .insertInto('pins')
    .values(pin)
    .onConflict((conflict) => conflict.columns(['cid', 'subject']).doUpdateSet({ pinned_at: pin.pinned_at }))
    .execute()
}

/** Forgets the quotas of days gone by; yesterday's may still be returned to. */
export async function purgePinQuotas(ctx: MarketContext): Promise<void> {
  const yesterday = utcDay(new Date(ctx.now().getTime() - 86_400_000))
  await ctx.db
    .deleteFrom('pin_quotas')
    .where('day', '<', sql<Date>`${yesterday}::date`)
    .execute()
}
