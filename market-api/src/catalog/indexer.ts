import { acquireLease } from '@market/kit/lease'
import { profileCidOfDigest } from '@market/contracts/cid'
import { messageOf } from '@market/kit/errors'
import { createGate } from '@market/kit/gate'
import { withTimeout } from '@market/kit/timeout'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import { indexAvatar, NO_PROFILE, type RegistryEntry } from './indexAvatar.ts'

const AVATARS_AT_ONCE = 16
const NO_PROFILE_DIGEST = `0x${'0'.repeat(64)}`
/** How long an avatar nobody sells through us for is followed after somebody asked for it. */
const VISIT_DAYS = 1

/** Keeps the verified index in step with the chain, and takes in avatars that are asked for. */
export type CatalogIndexer = {
  /** One round: asks the registry about every avatar and sets off what changed. The loop of one replica at a time. */
  follow(): Promise<void>
  /** Sees to it that these avatars are in the index, waiting `waitMs` at most. Gives those that are not, or not yet. */
  ensure(avatars: string[], waitMs: number): Promise<Map<string, 'DEADLINE' | 'NOT_FOLLOWED' | 'CHAIN_UNAVAILABLE'>>
  /** Notes that somebody asked for these again, so that they are followed on. */
  visit(avatars: string[]): Promise<void>
  /** Resolves when nothing is being read. */
  settled(): Promise<void>
  /** Lets what is under way end soon. */
  stop(): Promise<void>
}

export function createIndexer(ctx: () => MarketContext): CatalogIndexer {
  const stopping = new AbortController()
  const underWay = new Map<string, Promise<void>>()
  const inTurn = createGate(AVATARS_AT_ONCE)

  /** Reads one avatar as soon as there is room; a second call for it joins the first. */
  const index = (avatar: string, entry: RegistryEntry): Promise<void> => {
    const current = underWay.get(avatar)
    if (current) return current
    const work = inTurn(async () => {
      try {
        if (!stopping.signal.aborted) await indexAvatar(ctx(), avatar, entry, stopping.signal)
      } catch (error) {
        // The next round tries again; one avatar's trouble is no other's.
        ctx().log.error({ avatar, err: error }, 'indexing failed')
      }
    }).finally(() => underWay.delete(avatar))
    underWay.set(avatar, work)
    return work
  }

  return {
    async follow() {
      const { config, db, instance, nameRegistry } = ctx()
      if (!(await acquireLease(db, 'catalog', instance, config.LEASE_SECONDS))) return
      const chainId = config.CHAIN_ID
      await sql`
        insert into catalog_avatars (chain_id, avatar)
        select distinct chain_id, seller_address from market_service_routes where enabled and chain_id = ${chainId}
        on conflict (chain_id, avatar) do update set requested_at = null where catalog_avatars.requested_at is not null`.execute(
        db,
      )
      const { rows } = await sql<{
        avatar: string
        indexed: string | null
        again: boolean
        held: boolean
        seen: string | null
      }>`
        select a.avatar, a.indexed_digest as indexed, a.registry_digest as seen,
          coalesce(a.retry_at > now(), false) as held,
          coalesce(a.retry_at <= now(), false) or exists (
            select from catalog_namespaces n where n.chain_id = a.chain_id and n.avatar = a.avatar and n.recheck_at <= now()
          ) as again
        from catalog_avatars a where a.chain_id = ${chainId}`.execute(db)
      const { block, digests } = await nameRegistry.readDigests(rows.map(({ avatar }) => avatar))
      const changed = rows.filter(({ avatar, indexed, seen, again, held }) => {
        const digest = digests.get(avatar)
        if (digest === undefined) return false
        // Held back after a failure, unless the seller has published since.
        return again || (digest !== indexed && (!held || digest !== seen))
      })
      await noteChanged(
        ctx(),
        changed.map(({ avatar }) => ({ avatar, digest: digests.get(avatar)! })),
      )
      await sql`
        insert into catalog_state (chain_id, checked_at, checked_block) values (${chainId}, now(), ${block})
        on conflict (chain_id) do update set checked_at = excluded.checked_at, checked_block = excluded.checked_block`.execute(
        db,
      )
      // Not waited for: a seller whose blocks are slow must not keep the next round, and so everybody else, waiting.
      for (const { avatar } of changed) void index(avatar, { digest: digests.get(avatar)!, block })
    },

    async ensure(avatars, waitMs) {
      const { config, db, nameRegistry, log } = ctx()
      const chainId = config.CHAIN_ID
      const known = await sql<{ avatar: string; indexed: boolean }>`
        select avatar, registry_digest is not null as indexed
        from catalog_avatars where chain_id = ${chainId} and avatar = any(${avatars}::text[])`.execute(db)
      const state = new Map(known.rows.map((row) => [row.avatar, row]))
      const missing = avatars.filter((avatar) => !state.get(avatar)?.indexed)
      if (missing.length === 0) return new Map()

      const outcome = new Map<string, 'DEADLINE' | 'NOT_FOLLOWED' | 'CHAIN_UNAVAILABLE'>()
      const { rows } = await sql<{ avatar: string }>`
        insert into catalog_avatars (chain_id, avatar, requested_at)
        select ${chainId}, avatar, now() from unnest(${missing}::text[]) as m(avatar)
        where (select count(*) from catalog_avatars where chain_id = ${chainId} and requested_at is not null)
          + ${missing.length} <= ${config.CATALOG_MAX_VISITED_AVATARS}
        on conflict (chain_id, avatar) do update set requested_at = catalog_avatars.requested_at
        returning avatar`.execute(db)
      const followed = rows.map(({ avatar }) => avatar)
      for (const avatar of missing)
        if (!followed.includes(avatar) && !state.has(avatar)) outcome.set(avatar, 'NOT_FOLLOWED')
      const wanted = missing.filter((avatar) => !outcome.has(avatar))
      if (wanted.length === 0) return outcome

      const started = performance.now()
      let entries: Awaited<ReturnType<typeof nameRegistry.readDigests>>
      try {
        entries = await withTimeout(nameRegistry.readDigests(wanted), waitMs)
      } catch (error) {
        log.warn({ reason: messageOf(error) }, 'name registry not readable')
        for (const avatar of wanted) outcome.set(avatar, 'CHAIN_UNAVAILABLE')
        return outcome
      }
      const absent = wanted.filter((avatar) => profileCidOfDigest(entries.digests.get(avatar)!) === undefined)
      await noteAbsent(ctx(), absent, entries.block)
      const present = wanted.filter((avatar) => !absent.includes(avatar))
      const work = present.map(async (avatar) => {
        await index(avatar, { digest: entries.digests.get(avatar)!, block: entries.block })
        outcome.delete(avatar)
      })
      for (const avatar of present) outcome.set(avatar, 'DEADLINE')
      await withTimeout(Promise.all(work), waitMs - (performance.now() - started)).catch(() => {})
      return outcome
    },

    async visit(avatars) {
      const { config, db } = ctx()
      await sql`
        update catalog_avatars set requested_at = now()
        where chain_id = ${config.CHAIN_ID} and avatar = any(${avatars}::text[]) and requested_at is not null`.execute(
        db,
      )
    },

    async settled() {
      while (underWay.size > 0) await Promise.all(underWay.values())
    },

    async stop() {
      stopping.abort()
      await this.settled()
    },
  }
}

/** Says at once which avatars are behind the chain, so that a page can tell how fresh it is. */
async function noteChanged(ctx: MarketContext, changed: { avatar: string; digest: string }[]): Promise<void> {
  if (changed.length === 0) return
  await sql`
    update catalog_avatars a set registry_digest = c.digest
    from json_to_recordset(${JSON.stringify(changed)}::json) as c(avatar text, digest text)
    where a.chain_id = ${ctx.config.CHAIN_ID} and a.avatar = c.avatar
      and a.registry_digest is distinct from c.digest and a.registry_digest is not null`.execute(ctx.db)
}

/** Avatars without a profile, all at once: whoever asks for hundreds of invented ones costs one statement, and nobody's page. */
async function noteAbsent({ config, db, now }: MarketContext, avatars: string[], block: bigint): Promise<void> {
  if (avatars.length === 0) return
  await sql`
    update catalog_avatars set registry_digest = ${NO_PROFILE_DIGEST}, indexed_digest = ${NO_PROFILE_DIGEST},
      registry_block = ${block}, indexed_at = ${now()}, fault = ${JSON.stringify(NO_PROFILE)}, version = version + 1
    where chain_id = ${config.CHAIN_ID} and avatar = any(${avatars}::text[]) and registry_digest is null`.execute(db)
}

/** Seconds between two purges: what a page may have shown is kept at least that long. */
export const PURGE_SECONDS = 300

/** Forgets what no page can show any more, and avatars nobody has asked for in a day. Safe to repeat. */
export async function purgeCatalog(ctx: MarketContext): Promise<void> {
  const chainId = ctx.config.CHAIN_ID
  if (!(await acquireLease(ctx.db, 'catalog-purge', ctx.instance, 2 * PURGE_SECONDS))) return
  // Two marks: what was removed before the last run is older than a run's interval, so every cursor in use still finds it.
  const { rows } = await sql<{ kept_from: string }>`
    update catalog_state set kept_from = purge_mark, purge_mark = revision where chain_id = ${chainId}
    returning kept_from`.execute(ctx.db)
  const keptFrom = rows[0]?.kept_from ?? '0'
  await sql`delete from catalog_links where removed_revision <= ${keptFrom} and chain_id = ${chainId}`.execute(ctx.db)
  await sql`delete from catalog_products where removed_revision <= ${keptFrom} and chain_id = ${chainId}`.execute(
    ctx.db,
  )
  // Who sells nothing here any more is followed on as a visitor.
  await sql`
    update catalog_avatars a set requested_at = now() where chain_id = ${chainId} and requested_at is null
      and not exists (select from market_service_routes r
        where r.chain_id = a.chain_id and r.seller_address = a.avatar and r.enabled)`.execute(ctx.db)
  await sql`
    delete from catalog_avatars where chain_id = ${chainId}
      and requested_at < now() - make_interval(days => ${VISIT_DAYS})`.execute(ctx.db)
  await sql`
    delete from catalog_payloads p where seen_at < now() - interval '1 day'
      and not exists (select from catalog_links l where l.payload_cid = p.cid)`.execute(ctx.db)
}
