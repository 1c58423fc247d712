import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { CatalogFault } from '../db/types.ts'

/** An entry of a response's `errors` (catalog.md 4.4). */
export type CatalogError = CatalogFault & { avatar: string }

/** What the index knows of one avatar under one operator. */
export type AvatarScope = {
  avatar: string
  /** The registry names another profile than the one indexed. */
  behind: boolean
  fault: CatalogFault | null
  namespaceFault: CatalogFault | null
  tailFault: CatalogFault | null
  hasNamespace: boolean
  /** Some link or payload has a fault of its own. */
  faulty: boolean
  headSeq: number
  oldestSignedAt: number | null
  newestSignedAt: number | null
  changedRevision: string
  /** Followed only because somebody asked, the last time more than an hour ago. */
  fading: boolean
}

/** The state of the index, and of each avatar in it that was looked at at least once; all of one moment. */
export type CatalogState = {
  revision: string
  /** Pages of older revisions can't be shown any more. */
  keptFrom: string
  checkedAt: Date | null
  checkedBlock: number | null
  scopes: AvatarScope[]
}

export async function readState(ctx: MarketContext, operator: string, avatars: string[]): Promise<CatalogState> {
  const { rows } = await sql<{
    revision: string | null
    kept_from: string | null
    checked_at: Date | null
    checked_block: string | null
    avatar: string | null
    behind: boolean
    fault: CatalogFault | null
    namespace_fault: CatalogFault | null
    tail_fault: CatalogFault | null
    index_cid: string | null
    faulty: boolean | null
    head_seq: number | null
    oldest_signed_at: string | null
    newest_signed_at: string | null
    changed_revision: string | null
    fading: boolean | null
  }>`
    select s.revision, s.kept_from, s.checked_at, s.checked_block,
      a.avatar, a.registry_digest is distinct from a.indexed_digest as behind, a.fault,
      n.fault as namespace_fault, n.tail_fault, n.index_cid, n.faulty, n.head_seq, n.oldest_signed_at, n.newest_signed_at,
      n.changed_revision, a.requested_at < now() - interval '1 hour' as fading
    from (select 1) one left join catalog_state s on s.chain_id = ${ctx.config.CHAIN_ID}
      left join catalog_avatars a on a.chain_id = ${ctx.config.CHAIN_ID} and a.registry_digest is not null
        and a.avatar = any(${avatars}::text[])
      left join catalog_namespaces n on n.chain_id = a.chain_id and n.avatar = a.avatar and n.operator = ${operator}`.execute(
    ctx.db,
  )
  const integer = (text: string | null | undefined) => (text == null ? null : Number(text))
  const [first] = rows
  return {
    revision: first?.revision ?? '0',
    keptFrom: first?.kept_from ?? '0',
    checkedAt: first?.checked_at ?? null,
    checkedBlock: integer(first?.checked_block),
    scopes: rows.flatMap((row): AvatarScope[] => {
      if (row.avatar === null) return []
      return [
        {
          avatar: row.avatar,
          behind: row.behind,
          fault: row.fault,
          namespaceFault: row.namespace_fault,
          tailFault: row.tail_fault,
          hasNamespace: row.index_cid !== null || row.tail_fault !== null,
          faulty: row.faulty === true,
          headSeq: row.head_seq ?? 0,
          oldestSignedAt: integer(row.oldest_signed_at),
          newestSignedAt: integer(row.newest_signed_at),
          changedRevision: row.changed_revision ?? '0',
          fading: row.fading === true,
        },
      ]
    }),
  }
}

/** Faults of profile, index and chunks. Having no profile or no namespace is a normal state: told only on request. */
export function scopeFaults(scopes: AvatarScope[], diagnostics: boolean): CatalogError[] {
  return scopes.flatMap(({ avatar, fault, namespaceFault, tailFault, hasNamespace }) => {
    const found = [fault, namespaceFault, tailFault].filter((entry) => entry !== null)
    if (found.length === 0 && !hasNamespace) {
      const message = 'No namespace of this operator in the profile'
      found.push({ stage: 'index', code: 'NO_NAMESPACE', cid: null, message })
    }
    return found
      .filter(({ code }) => diagnostics || (code !== 'NO_PROFILE' && code !== 'NO_NAMESPACE'))
      .map((entry) => ({ avatar, ...entry }))
  })
}

/** More would make a hostile seller's page unbearable for everybody who lists that seller too. */
const MAX_ERRORS_PER_AVATAR = 100

/** Faults of links that can't even be read, or whose signer the chain could not be asked about. */
export async function listLinkFaults(
  ctx: MarketContext,
  { operator, avatars, revision }: { operator: string; avatars: string[]; revision: string },
): Promise<CatalogError[]> {
  if (avatars.length === 0) return []
  const { rows } = await sql<{
    avatar: string
    code: string
    reason: string
    index_in_chunk: number
    chunk_cid: string | null
  }>`
    select l.* from unnest(${avatars}::text[]) as a(avatar) cross join lateral (
      select l.avatar, l.code, l.reason, l.index_in_chunk, c.chunk_cid
      from catalog_links l left join catalog_chunks c using (chain_id, avatar, operator, chunk_seq)
      where l.chain_id = ${ctx.config.CHAIN_ID} and l.avatar = a.avatar collate "C" and l.operator = ${operator}
        and l.code in ('SHAPE', 'ENVELOPE', 'UNVERIFIED')
        and l.added_revision <= ${revision} and (l.removed_revision is null or l.removed_revision > ${revision})
      order by l.chunk_seq desc, l.index_in_chunk limit ${MAX_ERRORS_PER_AVATAR}
    ) l`.execute(ctx.db)
  return rows.map(({ avatar, code, reason, index_in_chunk, chunk_cid }) => ({
    avatar,
    stage: code === 'ENVELOPE' ? 'verify' : 'link',
    code,
    cid: chunk_cid,
    message: reason,
    index: index_in_chunk,
  }))
}

/** Faults of payloads, as found when their skus were resolved. */
export async function listPayloadFaults(
  ctx: MarketContext,
  { operator, avatars, revision }: { operator: string; avatars: string[]; revision: string },
): Promise<CatalogError[]> {
  if (avatars.length === 0) return []
  const { rows } = await sql<{ avatar: string; faults: CatalogFault[] }>`
    select p.* from unnest(${avatars}::text[]) as a(avatar) cross join lateral (
      select p.seller_address as avatar, p.faults from catalog_products p
      where p.chain_id = ${ctx.config.CHAIN_ID} and p.seller_address = a.avatar collate "C" and p.operator = ${operator}
        and p.faults is not null and p.added_revision <= ${revision}
        and (p.removed_revision is null or p.removed_revision > ${revision})
      order by p.sku limit ${MAX_ERRORS_PER_AVATAR}
    ) p`.execute(ctx.db)
  return rows.flatMap(({ avatar, faults }) => faults.map((fault) => ({ avatar, ...fault })))
}
