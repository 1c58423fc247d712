import { type Kysely, type Migration, sql } from 'kysely'

/** Tables every adapter has. Spread into the adapter's own migrations; the names sort before them. */
export const kitMigrations: Record<string, Migration> = {
  '0001_kit_fulfillment_runs': {
    /** One row per idempotency key: the primary key is what makes a repeated request a replay. */
    async up(db: Kysely<unknown>) {
      await sql`
        create table fulfillment_runs (
          run_key text collate "C" primary key,
          chain_id bigint not null,
          seller_address text collate "C" not null,
          payment_reference text collate "C" not null,
          order_id text collate "C" not null,
          request_hash text not null,
          status text not null check (status in ('started', 'ok', 'partial', 'waiting', 'error')),
          response jsonb check (jsonb_typeof(response) = 'object'),
          attempts integer not null default 1,
          last_error text,
          created_at timestamptz not null default now(),
          updated_at timestamptz not null default now(),
          completed_at timestamptz
        )`.execute(db)
      await sql`create index ix_fulfillment_runs_order on fulfillment_runs (order_id)`.execute(db)
    },
  },
}
