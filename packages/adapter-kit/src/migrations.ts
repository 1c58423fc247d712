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
  '0002_kit_adapter_secrets': {
    async up(db: Kysely<unknown>) {
      await sql`create table adapter_secrets (name text collate "C" primary key, sealed text not null)`.execute(db)
    },
  },
  '0003_kit_run_leases': {
    async up(db: Kysely<unknown>) {
      // `response` is of older versions, readable; what is answered now lies sealed, because it holds what buyers paid for.
      await sql`
        alter table fulfillment_runs
          add column sealed_response text,
          add column lease_until timestamptz`.execute(db)
      // What a run has done outside, by the name of the step. `json`, because `jsonb` refuses some of what JSON can say, and what
      // was done must be kept as it was told.
      await sql`
        create table fulfillment_run_steps (
          run_key text collate "C" not null references fulfillment_runs on delete cascade,
          step text collate "C" not null,
          result json not null,
          at timestamptz not null default now(),
          primary key (run_key, step)
        )`.execute(db)
      /**
       * The beginning of every run in one call. Whoever gets `mine` has the run: until its transaction ends, and with a lease
       * also after that. A dead process lets go of the lock by itself. The time-outs are for the process that is neither
       * dead nor alive: its machine is gone, or it waits for one whose is.
       */
      await sql`
        create function kit_begin_run(
          _key text, _chain_id bigint, _seller text, _payment_reference text, _order_id text, _hash text, _lease_ms integer,
          out outcome text, out attempt integer, out response jsonb, out sealed_response text)
        language plpgsql as $$
        #variable_conflict use_column
        declare
          is_free boolean := pg_try_advisory_xact_lock(hashtextextended(_key, 0));
          earlier_status text;
          earlier_hash text;
          lease_end timestamptz;
        begin
          perform set_config('statement_timeout', '10s', true),
            set_config('idle_in_transaction_session_timeout', '30s', true);
          select r.status, r.request_hash, r.lease_until, r.response, r.sealed_response
            into earlier_status, earlier_hash, lease_end, kit_begin_run.response, kit_begin_run.sealed_response
            from fulfillment_runs r where r.run_key = _key;
          if earlier_hash <> _hash then
            outcome := 'anotherRequest';
          elsif earlier_status = 'ok' then
            outcome := 'finished';
          elsif not is_free or (earlier_status = 'started' and lease_end > clock_timestamp()) then
            outcome := 'underWay';
          else
            outcome := 'mine';
            insert into fulfillment_runs as r
              (run_key, chain_id, seller_address, payment_reference, order_id, request_hash, status, lease_until)
            values (_key, _chain_id, _seller, _payment_reference, _order_id, _hash, 'started',
              clock_timestamp() + _lease_ms * interval '1 millisecond')
            on conflict (run_key) do update
              set status = 'started', attempts = r.attempts + 1, lease_until = excluded.lease_until, updated_at = now()
            returning r.attempts into attempt;
          end if;
        end
        $$`.execute(db)
    },
  },
}
