import { isAddress } from '@market/contracts/address'
import { AGGREGATE_CONTEXT } from '@market/contracts/catalogDocuments'
import type { LinkPosition } from '@market/contracts/namespaceWalk'
import { AppError } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'
import { findGateways } from '../serviceRoutes/gateways.ts'
import { readStock } from '../serviceRoutes/readStock.ts'
import { findRoutes, routeKey } from '../serviceRoutes/resolveRoute.ts'
import { encodeCursor, type PageStart, type Snapshot } from './cursor.ts'
import { type CatalogError, listLinkFaults, listPayloadFaults, readState, scopeFaults } from './listFaults.ts'
import { type CatalogItem, countItems, type ItemFilter, type ItemSource, listItems } from './listItems.ts'
import { presentItem } from './presentItem.ts'
import { explain, resolveWindow, showsEverything, windowSource } from './resolveWindow.ts'

export type CatalogQuery = {
  operator: string
  /** Lower case, unique; what is no address becomes an entry in `errors`. */
  avatars: string[]
  /** Unix seconds, both inclusive. */
  window: { start: number; end: number }
  pageSize: number
  start: PageStart
  filter: ItemFilter
  /** Only what can be had now, by the adapters' word. */
  inStock: boolean
  /** Tells normal states and counts of dropped links too. */
  diagnostics: boolean
  /** Products exactly as signed, without what the market writes into their offers. */
  pure: boolean
}

export type CatalogPage = {
  /** JSON. */
  text: string
  /** What a client would notice a change of: not the time, not the cursor. */
  substance: string[]
  nextCursor: string | undefined
  /** The catalog changed since the cursor was given out, too long ago to show it as it was. */
  snapshotChanged: boolean
}

/** A request may wait this long for avatars and payloads nobody has asked for yet (catalog.md 4.7). */
const DEADLINE_MS = 10_000

/** A page of what the avatars sell in the operator's namespace, from the verified index (catalog.md 4.2). */
export async function listCatalog(ctx: MarketContext, query: CatalogQuery): Promise<CatalogPage> {
  const { operator, start, diagnostics } = query
  const avatars = query.avatars.filter(isAddress)
  let state = await readState(ctx, operator, avatars)
  let late: Awaited<ReturnType<typeof ctx.indexer.ensure>> = new Map()
  if (state.scopes.length < avatars.length) {
    const known = new Set(state.scopes.map(({ avatar }) => avatar))
    late = await ctx.indexer.ensure(
      avatars.filter((avatar) => !known.has(avatar)),
      DEADLINE_MS,
    )
    state = await readState(ctx, operator, avatars)
  }
  const { scopes } = state
  const fading = scopes.filter((one) => one.fading).map(({ avatar }) => avatar)
  if (fading.length > 0) await ctx.indexer.visit(fading)

  const asked = start.kind === 'place' ? start.cursor.snapshot : undefined
  const kept =
    asked !== undefined &&
    BigInt(asked.revision) >= BigInt(state.keptFrom) &&
    BigInt(asked.revision) <= BigInt(state.revision)
  const window = asked ? { start: asked.windowStart, end: asked.windowEnd } : query.window
  const windowed = kept ? asked.windowed : !showsEverything(scopes, window)
  const revision = kept ? asked.revision : state.revision
  const snapshot: Snapshot = { revision, windowStart: window.start, windowEnd: window.end, windowed }
  const scope = { operator, avatars, revision }

  const resolved = windowed || diagnostics ? await resolveWindow(ctx, scope, scopes, window) : undefined
  const source = windowed ? windowSource(resolved!, query.filter) : fromIndex(ctx, query, scope)
  const { items, more } = await pageOf(ctx, query, source)

  const faulty = { ...scope, avatars: scopes.filter((one) => one.faulty).map(({ avatar }) => avatar) }
  const errors: CatalogError[] = [
    ...query.avatars.filter((avatar) => !isAddress(avatar)).map(invalidAddress),
    ...[...late].map(([avatar, code]) => notThere(avatar, code)),
    ...scopeFaults(
      scopes.filter(({ avatar }) => !late.has(avatar)),
      diagnostics,
    ),
    ...(await listLinkFaults(ctx, faulty)),
    ...(windowed
      ? resolved!.states.flatMap(({ avatar, faults }) => faults.map((fault) => ({ avatar, ...fault })))
      : await listPayloadFaults(ctx, faulty)),
  ]
  const products = await present(ctx, items, query.pure)
  const skipped = start.kind === 'place' ? start.cursor.start : start.offset
  const nextCursor = more && encodeCursor({ start: skipped + items.length, snapshot, after: place(more.last) })
  const behind = scopes.filter((one) => one.behind).map(({ avatar }) => avatar)
  const told = diagnostics ? explain(resolved!) : undefined
  const head = {
    '@context': AGGREGATE_CONTEXT,
    '@type': 'AggregatedCatalog',
    operator,
    chainId: ctx.config.CHAIN_ID,
    window: { '@type': 'AggregatedCatalogWindow', ...window },
    avatarsScanned: avatars,
  }
  const listed = { products, errors, ...(told ? { diagnostics: told } : {}) }
  const tail = {
    freshness: { checkedAt: state.checkedAt?.toISOString() ?? null, block: state.checkedBlock, behind },
    ...(nextCursor ? { nextCursor } : {}),
  }
  // Joined as text: what is listed is most of a page, and written once it serves for its name as well.
  const substance = JSON.stringify(listed)
  return {
    text: `${JSON.stringify(head).slice(0, -1)},${substance.slice(1, -1)},${JSON.stringify(tail).slice(1)}`,
    substance: [substance, behind.join(), String(nextCursor !== undefined)],
    nextCursor,
    snapshotChanged:
      asked !== undefined && !kept && scopes.some((one) => BigInt(one.changedRevision) > BigInt(asked.revision)),
  }
}

/** One product of a seller, or undefined. */
export async function findItem(
  ctx: MarketContext,
  { operator, avatar, sku, pure }: { operator: string; avatar: string; sku: string; pure: boolean },
) {
  const { scopes } = await readState(ctx, operator, [avatar])
  if (scopes.length === 0) await ctx.indexer.ensure([avatar], DEADLINE_MS)
  const row = await ctx.db
    .selectFrom('catalog_products as p')
    .innerJoin('catalog_payloads as d', 'd.cid', 'p.product_cid')
    .select(['p.product_cid', 'p.link_keccak', 'p.published_at', 'p.chunk_depth', 'p.index_in_chunk', 'd.document'])
    .where('p.chain_id', '=', ctx.config.CHAIN_ID)
    .where('p.operator', '=', operator)
    .where('p.seller_address', '=', avatar)
    .where('p.sku', '=', sku)
    .where('p.kind', '=', 'product')
    .where('p.removed_revision', 'is', null)
    .executeTakeFirst()
  if (!row) return undefined
  const item: CatalogItem = {
    avatar,
    sku,
    signedAt: Number(row.published_at),
    depth: row.chunk_depth!,
    indexInChunk: row.index_in_chunk!,
    linkKeccak: row.link_keccak!,
    productCid: row.product_cid!,
    product: row.document,
  }
  return (await present(ctx, [item], pure))[0]
}

/** Items with what the operator has on record about them; one query for routes and one for gateways. */
async function present(ctx: MarketContext, items: CatalogItem[], pure: boolean) {
  const keys = items.map(({ avatar, sku }) => ({ seller: avatar, sku }))
  const [routes, gateways] = await Promise.all([
    findRoutes(ctx, ctx.config.CHAIN_ID, keys),
    findGateways(ctx.db, ctx.config.CHAIN_ID, [...new Set(items.map(({ avatar }) => avatar))]),
  ])
  return items.map((item) => {
    const onRecord = { route: routes.get(routeKey(item.avatar, item.sku)), gateways: gateways.get(item.avatar) ?? NONE }
    return presentItem(ctx, item, onRecord, pure)
  })
}

const NONE: ReadonlySet<string> = new Set()

function fromIndex(
  ctx: MarketContext,
  query: CatalogQuery,
  scope: { operator: string; avatars: string[]; revision: string },
): ItemSource {
  const filter = { ...query.filter, routed: query.inStock }
  return {
    list: (at) => listItems(ctx, { ...scope, ...at, filter }),
    count: () => countItems(ctx, { ...scope, filter, offset: 0, after: undefined, limit: 0 }),
  }
}

/** Only what a cursor holds. */
const place = ({ signedAt, depth, indexInChunk, avatar, linkKeccak }: LinkPosition): LinkPosition => ({
  signedAt,
  depth,
  indexInChunk,
  avatar,
  linkKeccak,
})

/** How many batches a search for what is in stock goes through before it gives what it has. */
const STOCK_BATCHES = 5

async function pageOf(
  ctx: MarketContext,
  { pageSize, start, inStock }: CatalogQuery,
  source: ItemSource,
): Promise<{ items: CatalogItem[]; more: { last: LinkPosition } | undefined }> {
  let after: LinkPosition | undefined = start.kind === 'place' ? start.cursor.after : undefined
  const offset = start.kind === 'offset' ? start.offset : 0
  const found = await source.list({ offset, after, limit: pageSize + 1 })
  if (found.length === 0 && offset > 0 && offset > (await source.count())) {
    throw new AppError(416, 'past_the_end', 'The page starts past the end of the catalog')
  }
  if (!inStock) {
    const items = found.slice(0, pageSize)
    return { items, more: found.length > pageSize ? { last: items.at(-1)! } : undefined }
  }

  const items: CatalogItem[] = []
  let batch = found
  for (let i = 0; i < STOCK_BATCHES; i += 1) {
    const looked = batch.slice(0, pageSize)
    const keys = looked.map(({ avatar, sku }) => ({ seller: avatar, sku }))
    const stocks = await readStock(ctx, keys, ctx.config.CHAIN_ID)
    for (const item of looked) {
      after = item
      if (stocks.get(routeKey(item.avatar, item.sku))) items.push(item)
      if (items.length === pageSize) return { items, more: batch.at(-1) === item ? undefined : { last: item } }
    }
    if (batch.length <= pageSize) return { items, more: undefined }
    batch = await source.list({ offset: 0, after, limit: pageSize + 1 })
  }
  return { items, more: after && batch.length > 0 ? { last: after } : undefined }
}

const invalidAddress = (avatar: string): CatalogError => ({
  avatar: avatar.slice(0, 64),
  stage: 'registry',
  code: 'INVALID_ADDRESS',
  cid: null,
  message: 'Not an address',
})

const REASONS = {
  DEADLINE: 'Not read within the time of one request; ask again',
  NOT_FOLLOWED: 'This market follows as many avatars as it can already',
  CHAIN_UNAVAILABLE: 'The name registry could not be read',
}

const notThere = (avatar: string, code: keyof typeof REASONS): CatalogError => ({
  avatar,
  stage: 'registry',
  code,
  cid: null,
  message: REASONS[code],
})
