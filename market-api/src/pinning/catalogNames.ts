import { parseProfile } from '@market/contracts/catalogDocuments'
import { isCidV0, parseCid, profileCidOfDigest } from '@market/contracts/cid'
import { createGate } from '@market/kit/gate'
import { type Kysely, sql } from 'kysely'
import { readDocument } from '../catalog/readDocument.ts'
import { payloadReader } from '../catalog/resolveLinks.ts'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'

// What the current profiles of the avatars we follow name, and how sure that is (catalog.md 3.6).

const READS_AT_ONCE = 16
/** What one sweep reads of payloads that nobody has needed yet; the rest is for the next ones. */
const MISSING = { count: 2000, budgetMs: 120_000 }

/** Avatars that name a CID, of CIDs that are pinned here. */
export type Names = Map<string, Set<string>>

export type Followed = {
  /** Changes with every pass over the avatar. */
  version: number
  /** What the index and the registry call its profile: two while the index is behind. */
  profiles: string[]
  indexes: Set<string>
  /** Whether the index holds what the chain says, as far as profile, index and chunks go. */
  read: boolean
  /** Whether everything is known that the avatar names; what it may name besides can't be said to be unreachable. */
  complete: boolean
}

/** Asked anew: what the index remembers of the chain may be as old as the last time the chain could be asked. */
export async function readRegistry({ db, config, nameRegistry }: MarketContext): Promise<Map<string, string>> {
  const rows = await db.selectFrom('catalog_avatars').select('avatar').where('chain_id', '=', config.CHAIN_ID).execute()
  return (await nameRegistry.readDigests(rows.map(({ avatar }) => avatar))).digests
}

/** An index reads of older versions only what it needs. Their images count as well, so each is read once here. */
export async function readMissingPayloads(ctx: MarketContext, signal: AbortSignal | undefined): Promise<void> {
  // In no order, so that those which are gone for good don't stand before the others every day.
  const { rows } = await sql<{ cid: string }>`
    select payload_cid as cid from catalog_links l
    where removed_revision is null and payload_cid is not null
      and not exists (select from catalog_payloads p where p.cid = l.payload_cid)
    group by payload_cid order by random() limit ${MISSING.count}`.execute(ctx.db)
  const deadline = performance.now() + MISSING.budgetMs
  for (const page of pagesOf(rows, READS_AT_ONCE)) {
    const left = deadline - performance.now()
    if (left <= 0 || signal?.aborted) return
    const payloads = payloadReader(ctx, left, signal)
    await Promise.all(page.map(({ cid }) => payloads.read(cid)))
    await payloads.keep()
  }
}

export async function readFollowed(
  { db, config }: MarketContext,
  digests: Map<string, string>,
): Promise<Map<string, Followed>> {
  const { rows } = await sql<{
    avatar: string
    version: number
    indexed: string | null
    fault: string | null
    waiting: boolean
    indexes: string[]
    broken: boolean
    partial: boolean
  }>`
    select a.avatar, a.version, a.indexed_digest as indexed, a.fault->>'code' as fault, a.retry_at is not null as waiting,
      n.indexes, n.broken,
      n.partial or exists (
        select from catalog_links l
        where l.chain_id = a.chain_id and l.avatar = a.avatar and l.removed_revision is null
          and l.code is not null and l.payload_cid is null
      ) as partial
    from catalog_avatars a cross join lateral (
      select coalesce(array_agg(index_cid) filter (where index_cid is not null), '{}') as indexes,
        coalesce(bool_or(fault is not null or complete_seq < head_seq), false) as broken,
        coalesce(bool_or(tail_fault is not null), false) as partial
      from catalog_namespaces where chain_id = a.chain_id and avatar = a.avatar
    ) n
    where a.chain_id = ${config.CHAIN_ID}`.execute(db)
  const missing = await sql<{ avatar: string }>`
    select distinct avatar from catalog_links l
    where removed_revision is null and payload_cid is not null
      and not exists (select from catalog_payloads p where p.cid = l.payload_cid)`.execute(db)
  const unknown = new Set(missing.rows.map(({ avatar }) => avatar))
  return new Map(
    rows.map(({ avatar, version, indexed, fault, waiting, indexes, broken, partial }) => {
      const named = digests.get(avatar)
      const read = indexed !== null && indexed === named && !broken && (fault === null || fault === 'NO_PROFILE')
      const profiles = [indexed, named].flatMap((digest) => (digest && profileCidOfDigest(digest)) || [])
      // A registry of another chain would say of everybody that there is no profile.
      const complete = read && fault === null && !waiting && !partial && !unknown.has(avatar)
      return [avatar, { version, profiles: [...new Set(profiles)], indexes: new Set(indexes), read, complete }]
    }),
  )
}

/** Sellers whose catalog we can't see just now: while there are any, nothing is said to be unreachable. */
export async function listUnreadSellers(
  { db, config }: MarketContext,
  followed: Map<string, Followed>,
): Promise<string[]> {
  const rows = await db
    .selectFrom('market_service_routes')
    .select('seller_address')
    .distinct()
    .where('enabled', '=', true)
    .where('chain_id', '=', config.CHAIN_ID)
    .execute()
  return rows.map((row) => row.seller_address).filter((seller) => !followed.get(seller)?.read)
}

/** What payloads name, of links that came after a revision. */
export async function namesInPayloads(ctx: MarketContext, since: string, signal?: AbortSignal): Promise<Names> {
  const names: Names = new Map()
  let after = { cid: '', avatar: '' }
  for (;;) {
    if (signal?.aborted) return names
    const { rows } = await sql<{ cid: string; avatar: string }>`
      select distinct payload_cid as cid, avatar from catalog_links
      where removed_revision is null and added_revision > ${since}
        and (payload_cid, avatar) > (${after.cid}, ${after.avatar})
      order by payload_cid, avatar limit 500`.execute(ctx.db)
    if (rows.length === 0) return names
    after = rows.at(-1)!
    const documents = await ctx.db
      .selectFrom('catalog_payloads')
      .select(['cid', 'document'])
      .where(sql<boolean>`cid = any(${[...new Set(rows.map(({ cid }) => cid))]}::text[])`)
      .execute()
    const found = new Map(documents.map(({ cid, document }) => [cid, cidsIn(JSON.stringify(document))]))
    await addPinned(
      ctx,
      names,
      rows.map(({ cid, avatar }) => ({ avatar, cids: found.get(cid) ?? [] })),
    )
  }
}

/** What profiles name: their picture, and namespaces beyond those that are indexed. Whose profile can't be had is not complete. */
export async function namesInProfiles(
  ctx: MarketContext,
  followed: Map<string, Followed>,
  names: Names,
  signal: AbortSignal | undefined,
): Promise<void> {
  const inTurn = createGate(READS_AT_ONCE)
  for (const page of pagesOf([...followed], 500)) {
    const found = page.map(([avatar, one]) =>
      inTurn(async () => {
        const cids = new Set(one.profiles)
        for (const profileCid of one.profiles) {
          if (signal?.aborted) break
          const read = await readDocument(ctx.ipfs, profileCid, 'profile', parseProfile)
          if (!read.ok) {
            one.complete = false
            continue
          }
          const { profile } = read.document
          const named = Object.values(profile.namespaces ?? {}).filter(isCidV0)
          if (!named.every((cid) => one.indexes.has(cid))) one.complete = false
          for (const cid of cidsIn(JSON.stringify(profile))) cids.add(cid)
        }
        return { avatar, cids }
      }),
    )
    await addPinned(ctx, names, await Promise.all(found))
  }
}

/**
 * Whatever can be read as a CID, wherever it stands: `ipfs://…`, `cid:…`, a gateway's URL; by the one spelling that pins have.
 * Too many keep too much, which does no harm.
 */
export function cidsIn(text: string): Set<string> {
  // Looks ahead, so that a match never hides one that begins inside it.
  const candidates = text.matchAll(/(?=(Qm[1-9A-HJ-NP-Za-km-z]{44}|b[a-z2-7]{58}))/g)
  return new Set([...candidates].flatMap(([, spelling]) => parseCid(spelling)?.text ?? []))
}

async function addPinned(
  { db }: MarketContext,
  names: Names,
  found: { avatar: string; cids: Iterable<string> }[],
): Promise<void> {
  const all = new Set(found.flatMap(({ cids }) => [...cids]))
  if (all.size === 0) return
  const { rows } = await sql<{ cid: string }>`
    select distinct cid from pins where cid = any(${[...all]}::text[])`.execute(db)
  const pinned = new Set(rows.map(({ cid }) => cid))
  for (const { avatar, cids } of found) {
    for (const cid of cids) {
      if (!pinned.has(cid)) continue
      const by = names.get(cid) ?? new Set()
      names.set(cid, by.add(avatar))
    }
  }
}

/** Which of these CIDs are an index, a chunk or a payload, and whose. Of every chain that was ever followed. */
export async function listIndexed(db: Kysely<MarketDatabase>, cids: string[]): Promise<Names> {
  const { rows } = await sql<{ cid: string; avatars: string[] }>`
    select cid, array_agg(distinct avatar) as avatars from (
      select index_cid as cid, avatar from catalog_namespaces where index_cid = any(${cids}::text[])
      union all select chunk_cid, avatar from catalog_chunks where chunk_cid = any(${cids}::text[])
      union all select payload_cid, avatar from catalog_links
        where payload_cid = any(${cids}::text[]) and removed_revision is null
    ) named group by cid`.execute(db)
  return new Map(rows.map(({ cid, avatars }) => [cid, new Set(avatars)]))
}

export function* pagesOf<T>(items: T[], size: number): Generator<T[]> {
  for (let i = 0; i < items.length; i += size) yield items.slice(i, i + size)
}
