import type { Product } from '@market/contracts/catalogDocuments'
import { FUTURE_SKEW_SECONDS } from '@market/contracts/link'
import { compareLinks } from '@market/contracts/namespaceWalk'
import { createGate } from '@market/kit/gate'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import { toLink } from './indexStore.ts'
import type { AvatarScope } from './listFaults.ts'
import type { CatalogItem, ItemFilter, ItemSource } from './listItems.ts'
import { payloadReader, type Resolved, resolveLinks } from './resolveLinks.ts'

// The catalog of a window, worked out from the verified links instead of read from the index of what is listed now.

type Scope = { operator: string; avatars: string[]; revision: string }
type Window = { start: number; end: number }

/** Whether the window cuts nothing off, so that the index of what is listed now is the answer. */
export function showsEverything(scopes: AvatarScope[], { start, end }: { start: number; end: number }): boolean {
  return scopes.every(
    ({ oldestSignedAt, newestSignedAt }) =>
      (oldestSignedAt === null || oldestSignedAt >= start) &&
      (newestSignedAt === null || newestSignedAt <= end + FUTURE_SKEW_SECONDS),
  )
}

/** Working a window out costs as much as its links; shops must not have to wait for those who look at the past. */
const atLeisure = createGate(2, 50)
/** A request may wait this long for payloads nobody has asked for yet (catalog.md 4.7). */
const PAYLOAD_BUDGET_MS = 10_000

/** Asked for by people who look at the past or for the reason of something, not by shops. */
export const resolveWindow = (ctx: MarketContext, scope: Scope, scopes: AvatarScope[], window: Window) =>
  atLeisure(() => work(ctx, scope, scopes, window))

async function work(
  ctx: MarketContext,
  { operator, avatars, revision }: Scope,
  scopes: AvatarScope[],
  window: Window,
): Promise<Resolved> {
  const rows = await ctx.db
    .selectFrom('catalog_links')
    .selectAll()
    .where('chain_id', '=', ctx.config.CHAIN_ID)
    .where('operator', '=', operator)
    .where(sql<boolean>`avatar = any(${avatars}::text[])`)
    .where('added_revision', '<=', revision)
    .where((is) => is.or([is('removed_revision', 'is', null), is('removed_revision', '>', revision)]))
    .execute()
  const heads = new Map(scopes.map(({ avatar, headSeq }) => [avatar, headSeq]))
  const links = rows.map((row) => ({ ...toLink(row), avatar: row.avatar, headSeq: heads.get(row.avatar) ?? 0 }))
  const payloads = payloadReader(ctx, PAYLOAD_BUDGET_MS)
  await payloads.prepare([...new Set(links.flatMap(({ payload_cid, sku }) => (sku !== null && payload_cid) || []))])
  const resolved = await resolveLinks(links, window, payloads.read)
  await payloads.keep()
  return resolved
}

/** Pages of what a window shows. */
export function windowSource({ states }: Resolved, filter: ItemFilter): ItemSource {
  const items = states
    .flatMap(({ kind, winner, sku, avatar }): CatalogItem[] => {
      if (kind !== 'product' || !winner?.product) return []
      const { signedAt, depth, indexInChunk, linkKeccak, link, product } = winner
      return [
        { avatar, sku, signedAt, depth, indexInChunk, linkKeccak, productCid: link.cid, product: product as never },
      ]
    })
    .filter((item) => matches(item, filter))
    .toSorted(compareLinks)
  return {
    async list({ offset, after, limit }) {
      const from = after ? items.filter((item) => compareLinks(item, after) > 0) : items
      return from.slice(offset, offset + limit)
    },
    count: async () => items.length,
  }
}

/** The same filter as `listItems` has in SQL, for what isn't in the index. */
function matches({ product, sku }: CatalogItem, filter: ItemFilter): boolean {
  const { name, brand, category, description, offers } = product as unknown as Product
  const { price, priceCurrency } = offers[0]!
  const split = (text: string) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []
  const words = split([name, sku, brand, category, description].filter((part) => part != null).join(' '))
  return (
    split(filter.text ?? '').every((wanted) => words.some((word) => word.startsWith(wanted))) &&
    (filter.category === undefined || category?.toLowerCase() === filter.category.toLowerCase()) &&
    (filter.minPrice === undefined || price >= Number(filter.minPrice)) &&
    (filter.maxPrice === undefined || price <= Number(filter.maxPrice)) &&
    (filter.priceCurrency === undefined || priceCurrency === filter.priceCurrency)
  )
}

/** Links named one by one, at most; all are counted. */
const MAX_TOLD = 500

/** What was dropped and why, for whoever asks. */
export function explain({ dropped, states }: Resolved) {
  const counts: Record<string, number> = {}
  for (const { code } of dropped) counts[code] = (counts[code] ?? 0) + 1
  return {
    dropped: counts,
    links: dropped.slice(0, MAX_TOLD).map(({ avatar, name, code }) => ({ avatar, name, code })),
    tombstoned: states.filter(({ kind }) => kind === 'tombstone').map(({ avatar, sku }) => ({ seller: avatar, sku })),
  }
}
