import { inTransaction } from '@market/kit/db'
import { messageOf } from '@market/kit/errors'
import { acquireLease } from '@market/kit/lease'
import { sql } from 'kysely'
import { IpfsUnavailableError } from '../catalog/ipfs/ipfs.ts'
import type { MarketContext } from '../context.ts'
import {
  type Followed,
  listIndexed,
  listUnreadSellers,
  type Names,
  namesInPayloads,
  namesInProfiles,
  pagesOf,
  readFollowed,
  readMissingPayloads,
  readRegistry,
} from './catalogNames.ts'
import { type PinReach, listPinned, markUnreachable, removePin, saveReach } from './store.ts'

/** Seconds between two sweeps. */
export const SWEEP_SECONDS = 86_400
const DAY_MS = 86_400_000
/** Looked at again together, right before they go. */
const UNPINS_AT_ONCE = 100

/**
 * Unpins what nobody's catalog names any more (catalog.md 3.6): it only ever goes when
 *
 * - it was pinned here, and an avatar we follow was seen to name it in its profile, index, chunks, links or payloads. What was
 *   never seen so, such as the profile of an avatar that nobody here follows, is not ours to judge;
 * - every avatar that was ever seen to name it is followed still and known completely, and none that we follow names it now;
 * - that has been so for UNPIN_AFTER_DAYS, counted from a sweep that found every seller with a service route readable.
 *
 * Safe to repeat and to stop at any time. Doubt of any kind keeps.
 */
export async function sweepPins(ctx: MarketContext, signal?: AbortSignal): Promise<void> {
  if (ctx.config.UNPIN_AFTER_DAYS === 0) return
  if (!(await acquireLease(ctx.db, 'pin-sweep', ctx.instance, SWEEP_SECONDS + 3600))) return
  const started = performance.now()
  await readMissingPayloads(ctx, signal)
  // What changes from here on is looked at again before anything goes.
  const revision = await currentRevision(ctx)
  let digests: Map<string, string>
  try {
    digests = await readRegistry(ctx)
  } catch (error) {
    ctx.log.warn({ reason: messageOf(error) }, 'pins kept: name registry not readable')
    return
  }
  const followed = await readFollowed(ctx, digests)
  const names = await namesInPayloads(ctx, '0', signal)
  await namesInProfiles(ctx, followed, names, signal)
  const unread = await listUnreadSellers(ctx, followed)
  if (signal?.aborted) return

  const { due, counts } = await compare(ctx, followed, names, unread.length > 0, signal)
  const unpinned = await unpinAll(ctx, due, { revision, followed }, signal)
  if (unread.length > 0) {
    ctx.log.warn({ sellers: unread.length, avatar: unread[0] }, 'pins kept: sellers not readable')
  }
  ctx.log.info({ ...counts, unpinned, ms: Math.round(performance.now() - started) }, 'pins swept')
}

async function currentRevision({ db, config }: MarketContext): Promise<string> {
  const row = await db
    .selectFrom('catalog_state')
    .select('revision')
    .where('chain_id', '=', config.CHAIN_ID)
    .executeTakeFirst()
  return String(row?.revision ?? 0)
}

/** Holds every pin against what is named; says which have been unreachable for long enough. */
async function compare(
  ctx: MarketContext,
  followed: Map<string, Followed>,
  names: Names,
  blocked: boolean,
  signal: AbortSignal | undefined,
): Promise<{ due: PinReach[]; counts: { pins: number; reached: number; unreachable: number; kept: number } }> {
  const now = ctx.now()
  const cutoff = cutoffOf(ctx)
  const due: PinReach[] = []
  const counts = { pins: 0, reached: 0, unreachable: 0, kept: 0 }
  let after = ''
  for (;;) {
    const page = signal?.aborted ? [] : await listPinned(ctx.db, after, 500)
    if (page.length === 0) break
    after = page.at(-1)!.cid
    const indexed = await listIndexed(
      ctx.db,
      page.map(({ cid }) => cid),
    )
    const reached: { cid: string; avatars: string[] }[] = []
    const unreachable: string[] = []
    for (const pin of page) {
      const by = [...(indexed.get(pin.cid) ?? []), ...(names.get(pin.cid) ?? [])]
      counts.pins += 1
      if (by.length > 0) {
        counts.reached += 1
        reached.push({ cid: pin.cid, avatars: [...new Set([...pin.reachedBy, ...by])].toSorted() })
      } else if (blocked || pin.reachedBy.length === 0 || !pin.reachedBy.every((one) => followed.get(one)?.complete)) {
        counts.kept += 1
      } else {
        counts.unreachable += 1
        unreachable.push(pin.cid)
        if (pin.unreachableSince && pin.unreachableSince <= cutoff) due.push(pin)
      }
    }
    await saveReach(ctx.db, reached)
    await markUnreachable(ctx.db, unreachable, now)
  }
  return { due, counts }
}

const cutoffOf = ({ now, config }: MarketContext) => new Date(now().getTime() - config.UNPIN_AFTER_DAYS * DAY_MS)

/** Gives how many went. What somebody has named since `revision` stays, and all the rest when IPFS does not answer. */
async function unpinAll(
  ctx: MarketContext,
  due: PinReach[],
  { revision, followed }: { revision: string; followed: Map<string, Followed> },
  signal: AbortSignal | undefined,
): Promise<number> {
  const cutoff = cutoffOf(ctx)
  let unpinned = 0
  for (const page of pagesOf(due, UNPINS_AT_ONCE)) {
    const { rows } = await sql<{ avatar: string; version: number }>`
      select avatar, version from catalog_avatars
      where chain_id = ${ctx.config.CHAIN_ID} and avatar = any(${page.flatMap(({ reachedBy }) => reachedBy)}::text[])`.execute(
      ctx.db,
    )
    const versions = new Map(rows.map(({ avatar, version }) => [avatar, version]))
    const isAsSeen = (avatar: string) => versions.get(avatar) === followed.get(avatar)!.version
    const named = await namesInPayloads(ctx, revision, signal)
    for (const { cid, reachedBy } of page) {
      if (signal?.aborted) return unpinned
      if (named.has(cid) || !reachedBy.every(isAsSeen)) continue
      const unpin = inTransaction(ctx.db, async (tx) => {
        if ((await listIndexed(tx, [cid])).has(cid) || !(await removePin(tx, cid, cutoff))) return false
        // IPFS within the transaction: the row goes only if the pin does, and nobody pins the same bytes in between.
        await ctx.ipfs.unpin(cid)
        return true
      })
      try {
        if (await unpin) unpinned += 1
      } catch (error) {
        if (!(error instanceof IpfsUnavailableError)) throw error
        ctx.log.warn({ reason: error.message }, 'pins kept: IPFS does not let go of them')
        return unpinned
      }
    }
  }
  return unpinned
}
