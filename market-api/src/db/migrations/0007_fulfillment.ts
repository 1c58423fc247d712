import { type Kysely, sql } from 'kysely'

/** One row per order, seller, offer type and trigger; the unique key is what prevents a second shipment. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table fulfillment_jobs (
      job_id uuid primary key default gen_random_uuid(),
      order_id text collate "C" not null references orders,
      chain_id bigint not null,
      seller_address text collate "C" not null,
      offer_type text collate "C" not null,
      trigger text not null check (trigger in ('confirmed', 'finalized')),
      line_indexes integer[] not null check (cardinality(line_indexes) > 0),
      idempotency_key text collate "C" not null unique,
      status text not null check (status in
        ('pending', 'running', 'done', 'partial', 'rejected', 'failed', 'needs_attention')),
      reason text,
      attempts integer not null default 0,
      next_attempt_at timestamptz default now(),
      locked_until timestamptz,
      locked_by text,
      last_http_status integer,
      last_error text,
      result jsonb check (jsonb_typeof(result) = 'object'),
      created_at timestamptz not null default now(),
      updated_at timestamptz not null default now(),
      completed_at timestamptz,
      unique (order_id, chain_id, seller_address, offer_type, trigger)
    )`.execute(db)
  // What a worker may claim. Finished jobs are not in it, so claiming costs the same however many there are.
  await sql`
    create index ix_fulfillment_jobs_due on fulfillment_jobs (next_attempt_at)
      where next_attempt_at is not null`.execute(db)
  await sql`create index ix_fulfillment_jobs_open on fulfillment_jobs (status) where status <> 'done'`.execute(db)
  await sql`
    create table fulfillment_job_events (
      id bigint generated always as identity primary key,
      job_id uuid not null references fulfillment_jobs,
      at timestamptz not null default now(),
      kind text not null,
      detail jsonb
    )`.execute(db)
  await sql`create index ix_fulfillment_job_events_job on fulfillment_job_events (job_id, id)`.execute(db)

  // What the buyer was given. One row a job: a repeated answer replaces it, it can't show a code twice.
  await sql`
    create table order_outbox (
      id bigint generated always as identity primary key,
      order_id text collate "C" not null references orders,
      job_id uuid not null unique references fulfillment_jobs,
      source text not null,
      payload jsonb not null check (jsonb_typeof(payload) = 'object'),
      created_at timestamptz not null default now()
    )`.execute(db)
  await sql`create index ix_order_outbox_order on order_outbox (order_id, id)`.execute(db)
}
