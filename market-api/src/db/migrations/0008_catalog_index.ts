import { type Kysely, sql } from 'kysely'

/**
 * The index again, from scratch: with every link and its verdict, so that only what is new gets verified, and with revisions,
 * so that a buyer who pages sees one state. What was indexed before is read again from IPFS.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`drop table catalog_products, catalog_namespaces, catalog_avatars`.execute(db)

  // `revision` grows with every change of what a page may show; rows name the revision they came and went with.
  // Writers take this row's lock, so whoever reads a revision sees all of it.
  await sql`
    create table catalog_state (
      chain_id bigint primary key,
      revision bigint not null default 0,
      kept_from bigint not null default 0,
      purge_mark bigint not null default 0,
      checked_at timestamptz,
      checked_block bigint
    )`.execute(db)

  // One row per avatar we follow. `version` lets no writer save what it worked out from an older state.
  await sql`
    create table catalog_avatars (
      chain_id bigint not null,
      avatar text collate "C" not null,
      version integer not null default 0,
      registry_digest text,
      registry_block bigint,
      indexed_digest text,
      indexed_at timestamptz,
      fault jsonb check (jsonb_typeof(fault) = 'object'),
      signing_keys json,
      attempts integer not null default 0,
      retry_at timestamptz,
      requested_at timestamptz,
      primary key (chain_id, avatar)
    )`.execute(db)

  await sql`
    create table catalog_namespaces (
      chain_id bigint not null,
      avatar text collate "C" not null,
      operator text collate "C" not null,
      index_cid text,
      head_seq integer not null default 0,
      complete_seq integer not null default 0,
      fault jsonb check (jsonb_typeof(fault) = 'object'),
      tail_fault jsonb check (jsonb_typeof(tail_fault) = 'object'),
      oldest_signed_at bigint,
      newest_signed_at bigint,
      recheck_at timestamptz,
      faulty boolean not null default false,
      changed_revision bigint not null,
      primary key (chain_id, avatar, operator),
      foreign key (chain_id, avatar) references catalog_avatars on delete cascade
    )`.execute(db)
  await sql`create index ix_catalog_namespaces_recheck on catalog_namespaces (chain_id, recheck_at)`.execute(db)

  // Oldest chunk = 1. A walk from the head ends at the first chunk in here up to `complete_seq`: below it nothing is missing.
  await sql`
    create table catalog_chunks (
      chain_id bigint not null,
      avatar text collate "C" not null,
      operator text collate "C" not null,
      chunk_seq integer not null,
      chunk_cid text collate "C" not null,
      primary key (chain_id, avatar, operator, chunk_seq),
      foreign key (chain_id, avatar, operator) references catalog_namespaces on delete cascade
    )`.execute(db)

  // Every link with its verdict; `code` null = passed checks 1 to 10 of catalog.md 2.8.
  await sql`
    create table catalog_links (
      chain_id bigint not null,
      avatar text collate "C" not null,
      operator text collate "C" not null,
      chunk_seq integer not null,
      index_in_chunk integer not null,
      added_revision bigint not null,
      removed_revision bigint,
      code text,
      reason text,
      account text check (account in ('none', 'contract')),
      verdict_at timestamptz not null,
      verdict_block bigint,
      name text,
      sku text collate "C",
      payload_cid text,
      signer text,
      signed_at bigint,
      nonce text,
      link_keccak text collate "C",
      signature text,
      primary key (chain_id, avatar, operator, chunk_seq, index_in_chunk, added_revision),
      foreign key (chain_id, avatar, operator) references catalog_namespaces on delete cascade
    )`.execute(db)
  await sql`
    create index ix_catalog_links_sku on catalog_links (chain_id, avatar, operator, sku)
      where removed_revision is null`.execute(db)
  await sql`
    create index ix_catalog_links_nonce on catalog_links (chain_id, avatar, operator, nonce)
      where removed_revision is null`.execute(db)
  await sql`
    create index ix_catalog_links_signed_at on catalog_links (chain_id, avatar, operator, signed_at)
      where removed_revision is null and code is null`.execute(db)
  await sql`
    create index ix_catalog_links_faulty on catalog_links (chain_id, avatar, operator)
      where code in ('SHAPE', 'ENVELOPE', 'UNVERIFIED')`.execute(db)
  await sql`
    create index ix_catalog_links_recheck on catalog_links (chain_id, avatar, operator)
      where removed_revision is null and (account = 'contract' or code is not null)`.execute(db)
  await sql`create index ix_catalog_links_removed on catalog_links (removed_revision) where removed_revision is not null`.execute(
    db,
  )
  await sql`create index ix_catalog_links_payload on catalog_links (payload_cid)`.execute(db)

  // What verified bytes say, for ever. `json`, not `jsonb`: kept as signed, and a text may hold \u0000.
  await sql`
    create table catalog_payloads (
      cid text collate "C" primary key,
      document json,
      refused text,
      seen_at timestamptz not null,
      check ((document is null) = (refused is not null))
    )`.execute(db)

  // What a namespace says about a sku: sold, taken back, or nothing that can be used just now.
  await sql`
    create table catalog_products (
      chain_id bigint not null,
      operator text collate "C" not null,
      seller_address text collate "C" not null,
      sku text collate "C" not null,
      added_revision bigint not null,
      removed_revision bigint,
      kind text not null check (kind in ('product', 'tombstone', 'none')),
      faults jsonb check (jsonb_typeof(faults) = 'array'),
      retry boolean not null default false,
      product_cid text collate "C",
      link_keccak text collate "C",
      published_at bigint,
      chunk_depth integer,
      index_in_chunk integer,
      name text,
      category text,
      price numeric,
      price_currency text,
      words tsvector,
      primary key (chain_id, operator, seller_address, sku, added_revision),
      foreign key (chain_id, seller_address, operator) references catalog_namespaces (chain_id, avatar, operator)
        on delete cascade,
      check (kind = 'none' or (product_cid is not null and link_keccak is not null and published_at is not null))
    )`.execute(db)
  await sql`
    create unique index ux_catalog_products_live on catalog_products (chain_id, operator, seller_address, sku)
      where removed_revision is null`.execute(db)
  await sql`create index ix_catalog_products_namespace on catalog_products (chain_id, seller_address, operator)`.execute(
    db,
  )
  // The total order of catalog.md 4.5 for one seller: a page merges the heads of its sellers' walks along this index.
  await sql`
    create index ix_catalog_products_newest on catalog_products
      (chain_id, operator, seller_address, (-published_at), chunk_depth, (-index_in_chunk), link_keccak)
      include (added_revision, removed_revision) where kind = 'product'`.execute(db)
  await sql`create index ix_catalog_products_words on catalog_products using gin (words)`.execute(db)
  await sql`
    create index ix_catalog_products_faulty on catalog_products (chain_id, seller_address, operator)
      where faults is not null`.execute(db)
  await sql`create index ix_catalog_products_removed on catalog_products (removed_revision) where removed_revision is not null`.execute(
    db,
  )

  // A page holds what routes and offer types say; whoever changes them, the pages in memory are stale at once. Indexing names
  // the avatar it changed, so that others' pages stay.
  await sql`
    create function notify_catalog_changed() returns trigger language plpgsql as
      'begin perform pg_notify(''catalog_changed'', ''''); return null; end'`.execute(db)
  for (const table of ['market_service_routes', 'offer_types']) {
    await sql`
      create trigger catalog_changed after insert or update or delete on ${sql.table(table)}
        for each statement execute function notify_catalog_changed()`.execute(db)
  }
}
