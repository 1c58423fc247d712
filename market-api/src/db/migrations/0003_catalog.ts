import { type Kysely, sql } from 'kysely'

/** The verified index: only what passed every check is ever a row of `catalog_products`. */
export async function up(db: Kysely<unknown>): Promise<void> {
  // One row per seller we follow: what the name registry said, and which profile the products below come from.
  await sql`
    create table catalog_avatars (
      chain_id bigint not null,
      avatar text collate "C" not null,
      registry_digest text,
      indexed_digest text,
      indexed_at timestamptz,
      fault jsonb check (jsonb_typeof(fault) = 'object'),
      primary key (chain_id, avatar)
    )`.execute(db)
  await sql`
    create table catalog_namespaces (
      chain_id bigint not null,
      operator text collate "C" not null,
      avatar text collate "C" not null,
      faults jsonb not null default '[]' check (jsonb_typeof(faults) = 'array'),
      dropped jsonb not null default '[]' check (jsonb_typeof(dropped) = 'array'),
      primary key (chain_id, avatar, operator),
      foreign key (chain_id, avatar) references catalog_avatars on delete cascade
    )`.execute(db)
  await sql`
    create table catalog_products (
      chain_id bigint not null,
      operator text collate "C" not null,
      seller_address text collate "C" not null,
      sku text collate "C" not null,
      product_cid text not null,
      link_keccak text collate "C" not null,
      published_at bigint not null,
      chunk_depth integer not null,
      index_in_chunk integer not null,
      product jsonb not null check (jsonb_typeof(product) = 'object'),
      primary key (chain_id, operator, seller_address, sku),
      foreign key (chain_id, operator, seller_address) references catalog_namespaces (chain_id, operator, avatar)
        on delete cascade
    )`.execute(db)
  // The total order of catalog.md 4.5, so that a page is a walk along this index.
  await sql`
    create index ix_catalog_products_newest on catalog_products
      (chain_id, operator, published_at desc, chunk_depth, index_in_chunk desc, seller_address, link_keccak)`.execute(
    db,
  )
}
