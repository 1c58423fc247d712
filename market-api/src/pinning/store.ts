import { type Kysely, sql, type Transaction } from 'kysely'
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

/** Names the locks on CIDs among other advisory locks. */
const PIN_LOCKS = 12

/**
 * Remembers that we pin a CID for somebody; nothing else may ever be unpinned (catalog.md 3.6). To be called before the bytes
 * are stored: it waits for a sweep that is letting go of the same CID, and from here on none does. True = it's a new row.
 */
export async function recordPin(
  db: Kysely<MarketDatabase>,
  {
    cid,
    subject,
    kind,
    size,
    pinned_at,
  }: { cid: string; subject: string; kind: string; size: number; pinned_at: Date },
): Promise<boolean> {
  const { rows } = await sql<{ is_new: boolean }>`
    with turn as materialized (select pg_advisory_xact_lock_shared(${PIN_LOCKS}, hashtext(${cid})))
    insert into pins (cid, subject, kind, size, pinned_at)
      select ${cid}, ${subject}, ${kind}, ${size}::int, ${pinned_at}::timestamptz from turn
    on conflict (cid, subject) do update set pinned_at = excluded.pinned_at, unreachable_since = null
    returning xmax = 0 as is_new`.execute(db)
  return rows[0]!.is_new
}

/** Undoes a record whose bytes could not be stored, unless they were pinned again since. */
export async function returnPin(
  db: Kysely<MarketDatabase>,
  { cid, subject, pinned_at }: { cid: string; subject: string; pinned_at: Date },
) {
  await db
    .deleteFrom('pins')
    .where('cid', '=', cid)
    .where('subject', '=', subject)
    .where('pinned_at', '=', pinned_at)
    .execute()
}

/** What sweeps know of a CID, whoever pinned it. */
export type PinReach = {
  cid: string
  /** Every avatar that was seen to name it. */
  reachedBy: string[]
  /** Null = not so, or pinned again since. */
  unreachableSince: Date | null
}

/** The next `limit` CIDs after one, in their order. */
export async function listPinned(db: Kysely<MarketDatabase>, after: string, limit: number): Promise<PinReach[]> {
  const { rows } = await sql<{ cid: string; reached_by: string[]; unreachable_since: Date | null }>`
    select cid, reached_by, unreachable_since from pins
    where cid in (select distinct cid from pins where cid > ${after} order by cid limit ${limit})
    order by cid`.execute(db)
  const pins = new Map<string, PinReach>()
  for (const { cid, reached_by, unreachable_since } of rows) {
    const known = pins.get(cid)
    pins.set(cid, {
      cid,
      reachedBy: [...new Set([...(known?.reachedBy ?? []), ...reached_by])],
      unreachableSince: known ? laterOf(known.unreachableSince, unreachable_since) : unreachable_since,
    })
  }
  return [...pins.values()]
}

const laterOf = (a: Date | null, b: Date | null) => (a && b ? (a > b ? a : b) : null)

export async function saveReach(db: Kysely<MarketDatabase>, reached: { cid: string; avatars: string[] }[]) {
  if (reached.length === 0) return
  await sql`
    update pins p set reached_by = r.avatars, unreachable_since = null
    from json_to_recordset(${JSON.stringify(reached)}::json) as r(cid text, avatars text[])
    where p.cid = r.cid and (p.reached_by <> r.avatars or p.unreachable_since is not null)`.execute(db)
}

/** Since when stays what it was. */
export async function markUnreachable(db: Kysely<MarketDatabase>, cids: string[], since: Date) {
  if (cids.length === 0) return
  await sql`
    update pins set unreachable_since = ${since}
    where cid = any(${cids}::text[]) and unreachable_since is null`.execute(db)
}

/**
 * Forgets a CID for everybody who pinned it, and until the transaction ends nobody pins it; false = somebody pinned it or was
 * found to name it later than `cutoff`.
 */
export async function removePin(tx: Transaction<MarketDatabase>, cid: string, cutoff: Date): Promise<boolean> {
  await sql`select pg_advisory_xact_lock(${PIN_LOCKS}, hashtext(${cid}))`.execute(tx)
  const { rows } = await sql`
    delete from pins where cid = ${cid} and not exists (
      select from pins o where o.cid = ${cid} and (o.unreachable_since is null or o.unreachable_since > ${cutoff})
    ) returning 1`.execute(tx)
  return rows.length > 0
}

/** Forgets the quotas of days gone by; yesterday's may still be returned to. */
export async function purgePinQuotas(ctx: MarketContext): Promise<void> {
  const yesterday = utcDay(new Date(ctx.now().getTime() - 86_400_000))
  await ctx.db
    .deleteFrom('pin_quotas')
    .where('day', '<', sql<Date>`${yesterday}::date`)
    .execute()
}
