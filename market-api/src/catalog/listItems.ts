import type { JsonValue } from '@market/contracts/canonicalJson'
import { type LinkPosition } from '@market/contracts/namespaceWalk'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'

/** A product as it is listed, with where it stands in the total order of catalog.md 4.5. */
export type CatalogItem = LinkPosition & { sku: string; productCid: string; product: JsonValue }

export type ItemFilter = {
  /** Words, each of which some word of name, sku, brand, category or description begins with. */
  text?: string | undefined
  category?: string | undefined
  /** Decimal strings, both inclusive, of the first offer's price. */
  minPrice?: string | undefined
  maxPrice?: string | undefined
  priceCurrency?: string | undefined
  /** Only skus with a service route: those that can be in stock. */
  routed?: boolean
}

export type ItemQuery = {
  operator: string
  /** Lower case, unique. */
  avatars: string[]
  /** Shows the index as it was then. */
  revision: string
  filter: ItemFilter
  offset: number
  after: LinkPosition | undefined
  limit: number
}

/** Pages of items, from wherever: `offset` counts from the start or, with `after`, from that place. */
export type ItemSource = {
  list(at: { offset: number; after: LinkPosition | undefined; limit: number }): Promise<CatalogItem[]>
  count(): Promise<number>
}

/**
 * Items in the total order of catalog.md 4.5, newest first. Each seller's items are one walk along an index that ends after
 * `offset + limit` entries, so a page costs what its sellers' number and its depth make it cost, never the catalog's size.
 */
export async function listItems(ctx: MarketContext, query: ItemQuery): Promise<CatalogItem[]> {
  const { operator, avatars, revision, after, offset, limit, filter } = query
  const chainId = ctx.config.CHAIN_ID
  const beyond = after
    ? // The first condition is one the index can walk from, the second the exact one.
      sql`and (-p.published_at, p.chunk_depth, -p.index_in_chunk)
            >= (${-after.signedAt}::bigint, ${after.depth}::int, ${-after.indexInChunk}::int)
          and (-p.published_at, p.chunk_depth, -p.index_in_chunk, p.seller_address, p.link_keccak)
            > (${-after.signedAt}::bigint, ${after.depth}::int, ${-after.indexInChunk}::int, ${after.avatar}, ${after.linkKeccak})`
    : sql``
  const { rows } = await sql<{
    seller_address: string
    sku: string
    product_cid: string
    link_keccak: string
    published_at: string
    chunk_depth: number
    index_in_chunk: number
    document: JsonValue
  }>`
    select page.*, d.document from (
      select one.* from unnest(${avatars}::text[]) as a(avatar) cross join lateral (
        select p.seller_address, p.sku, p.product_cid, p.link_keccak, p.published_at, p.chunk_depth, p.index_in_chunk
        from catalog_products p
        where p.chain_id = ${chainId} and p.operator = ${operator} and p.seller_address = a.avatar collate "C"
          and p.kind = 'product' and p.added_revision <= ${revision}
          and (p.removed_revision is null or p.removed_revision > ${revision})
          ${conditions(filter)} ${beyond}
        order by -p.published_at, p.chunk_depth, -p.index_in_chunk, p.link_keccak
        limit ${offset + limit}
      ) one
      order by -published_at, chunk_depth, -index_in_chunk, seller_address, link_keccak
      offset ${offset} limit ${limit}
    ) page join catalog_payloads d on d.cid = page.product_cid
    order by -published_at, chunk_depth, -index_in_chunk, seller_address, link_keccak`.execute(ctx.db)
  return rows.map((row) => ({
    avatar: row.seller_address,
    signedAt: Number(row.published_at),
    depth: row.chunk_depth,
    indexInChunk: row.index_in_chunk,
    linkKeccak: row.link_keccak,
    sku: row.sku,
    productCid: row.product_cid,
    product: row.document,
  }))
}

/** How many items there are in all; asked only when a page starts past the end. */
export async function countItems(ctx: MarketContext, query: ItemQuery): Promise<number> {
  const { rows } = await sql<{ n: string }>`
    select count(*) as n from catalog_products p
    where p.chain_id = ${ctx.config.CHAIN_ID} and p.operator = ${query.operator}
      and p.seller_address = any(${query.avatars}::text[]) and p.kind = 'product'
      and p.added_revision <= ${query.revision}
      and (p.removed_revision is null or p.removed_revision > ${query.revision}) ${conditions(query.filter)}`.execute(
    ctx.db,
  )
  return Number(rows[0]!.n)
}

function conditions({ text, category, minPrice, maxPrice, priceCurrency, routed }: ItemFilter) {
  const words = (text ?? '').match(/[\p{L}\p{N}]+/gu) ?? []
  const found =
    words.length > 0 ? sql`and p.words @@ to_tsquery('simple', ${words.map((word) => `${word}:*`).join(' & ')})` : sql``
  return sql`${found}
    ${category === undefined ? sql`` : sql`and lower(p.category) = lower(${category})`}
    ${minPrice === undefined ? sql`` : sql`and p.price >= ${minPrice}::numeric`}
    ${maxPrice === undefined ? sql`` : sql`and p.price <= ${maxPrice}::numeric`}
    ${priceCurrency === undefined ? sql`` : sql`and p.price_currency = ${priceCurrency}`}
    ${
      routed
        ? sql`and exists (select from market_service_routes r where r.chain_id = p.chain_id
            and r.seller_address = p.seller_address and r.sku = p.sku and r.enabled)`
        : sql``
    }`
}
