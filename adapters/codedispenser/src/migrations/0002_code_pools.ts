import { type Kysely, sql } from 'kysely'

/**
 * A code is one row for life: `unique (pool_id, code)` is what keeps a code that was dispensed from coming back when the
 * same file is seeded again (adapters.md A3).
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table code_pools (
      pool_id text collate "C" primary key,
      created_at timestamptz not null default now()
    )`.execute(db)
  await sql`
    create table code_pool_codes (
      code_id bigint generated always as identity primary key,
      pool_id text collate "C" not null references code_pools,
      code text collate "C" not null,
      state text not null default 'available' check (state in ('available', 'assigned', 'void')),
      run_key text collate "C" references fulfillment_runs,
      line_index integer,
      inserted_at timestamptz not null default now(),
      assigned_at timestamptz,
      unique (pool_id, code),
      check ((state = 'assigned') = (run_key is not null and line_index is not null and assigned_at is not null))
    )`.execute(db)
  await sql`
    create index ix_codes_available on code_pool_codes (pool_id, code_id) where state = 'available'`.execute(db)
  await sql`
    create index ix_codes_run on code_pool_codes (run_key, line_index, code_id) where run_key is not null`.execute(db)
  await sql`
    create table code_mappings (
      chain_id bigint not null,
      seller_address text collate "C" not null,
      sku text collate "C" not null,
      pool_id text collate "C" not null references code_pools,
      download_url_template text,
      enabled boolean not null default true,
      created_at timestamptz not null default now(),
      revoked_at timestamptz,
      primary key (chain_id, seller_address, sku)
    )`.execute(db)
}
