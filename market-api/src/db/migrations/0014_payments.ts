import { type Kysely, sql } from 'kysely'

/**
 * Payments on a chain that changes its mind: transfers that are in doubt or gone, checkpoints by which a reorg is noticed, and
 * orders that say themselves at which block they have to be looked at again (payments.md 18).
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  // `doubted_at`: a reorg or a source that left it out; not deep until it was seen again. `verdict_due`: whether its gateway
  // trusted its token has to be decided, for the first time or anew; `eligible` keeps the last word until then.
  await sql`
    alter table payment_transfers
      add column emitter_address text collate "C",
      add column doubted_at timestamptz,
      add column verdict_due boolean not null default true`.execute(db)
  await sql`update payment_transfers set verdict_due = false where eligible is not null`.execute(db)
  await sql`drop index ix_payment_transfers_undecided`.execute(db)
  await sql`
    create index ix_payment_transfers_undecided on payment_transfers (chain_id, gateway_address, block_number)
      where verdict_due and ignored_reason is null and orphaned_at is null`.execute(db)
  await sql`
    create index ix_payment_transfers_doubted on payment_transfers (chain_id, block_number)
      where doubted_at is not null and orphaned_at is null`.execute(db)
  await sql`create index ix_payment_transfers_block on payment_transfers (chain_id, block_number)`.execute(db)
  await sql`
    create index ix_payment_transfers_orphaned on payment_transfers (chain_id, block_number)
      where orphaned_at is not null`.execute(db)
  await sql`
    create index ix_payment_transfers_ignored on payment_transfers (chain_id, ignored_reason, gateway_address)
      where ignored_reason is not null`.execute(db)

  // Rows that could not be stored as transfers: unreadable, or refused by the database. For people to look at.
  await sql`
    create table payment_row_errors (
      chain_id bigint not null,
      block_number bigint not null,
      transaction_index integer not null,
      log_index integer not null,
      tx_hash text,
      gateway_address text collate "C",
      payer_address text,
      token_id text,
      amount_wei text,
      reason text not null,
      seen_at timestamptz not null default now(),
      primary key (chain_id, block_number, transaction_index, log_index)
    )`.execute(db)

  await sql`
    create index ix_payment_row_errors_refused on payment_row_errors (tx_hash) where reason = 'refused'`.execute(db)

  // Hashes of blocks up to which everything was read. One that the chain answers differently later is a reorg.
  await sql`
    create table payments_checkpoints (
      chain_id bigint not null,
      block_number bigint not null,
      block_hash text not null,
      primary key (chain_id, block_number)
    )`.execute(db)
  await sql`
    alter table payments_observed
      add column head_block bigint not null default 0,
      add column reorg_at timestamptz,
      add column reorg_depth integer`.execute(db)

  // Contracts known to be payment gateways: to anything else no payment is ever seen (payments.md W1).
  await sql`
    create table payment_gateways (
      chain_id bigint not null,
      gateway_address text collate "C" not null,
      owner_address text collate "C" not null,
      found_at timestamptz not null default now(),
      primary key (chain_id, gateway_address)
    )`.execute(db)

  // The head at which settlement has something to do for the order; null = nothing to do until a transfer says so. A poll reads
  // what is due from its index, so its work does not grow with the number of orders.
  await sql`
    alter table orders
      add column settle_at_block bigint,
      add column payment_reverted_at timestamptz`.execute(db)
  await sql`
    update orders set settle_at_block = 0
      where payment_seen_at is not null and finalized_at is null and cancelled_at is null`.execute(db)
  await sql`drop index ix_orders_settling`.execute(db)
  await sql`
    create index ix_orders_settle on orders (chain_id, settle_at_block, order_id)
      where settle_at_block is not null`.execute(db)
  // What operators list; each holds the exceptions only.
  await sql`
    create index ix_orders_overpaid on orders (created_at) where paid_amount_wei > price_wei and cancelled_at is null`.execute(
    db,
  )
  await sql`
    create index ix_orders_underpaid on orders (created_at)
      where paid_at is null and paid_amount_wei > 0 and cancelled_at is null`.execute(db)
  await sql`
    create index ix_orders_paid_late on orders (created_at)
      where paid_amount_wei > 0 and cancelled_at is not null`.execute(db)
  await sql`
    create index ix_orders_reverted on orders (payment_reverted_at) where payment_reverted_at is not null`.execute(db)

  // Written by the triggers below for orders that are there, and orders are never deleted: checking these keys once more took
  // half the time of moving an order.
  await sql`alter table orders_status_history drop constraint orders_status_history_order_id_fkey`.execute(db)
  await sql`
    alter table order_events
      drop constraint order_events_order_id_fkey, drop constraint order_events_history_id_fkey`.execute(db)
  await sql`
    alter table order_events_held
      drop constraint order_events_held_order_id_fkey, drop constraint order_events_held_history_id_fkey`.execute(db)
  await sql`alter table order_event_audience drop constraint order_event_audience_event_id_fkey`.execute(db)
  // Once a statement instead of once a row: a poll moves hundreds of orders in one.
  await sql`
    create function emit_order_events(of_orders text[], of_histories bigint[]) returns void language plpgsql as $$
    begin
      -- Held to the end of the transaction: who gets the next ids commits later.
      perform pg_advisory_xact_lock(${sql.lit(EVENTS_LOCK)});
      with asked as (
        select * from unnest(of_orders, of_histories) with ordinality as a (order_id, history_id, n)
      ), made as (
        insert into order_events (order_id, history_id)
          select order_id, history_id from asked order by n
          on conflict (history_id) do nothing returning event_id, order_id
      )
      insert into order_event_audience (side, address, chain_id, event_id)
        select 'buyer', o.buyer_address, o.chain_id, m.event_id from made m join orders o using (order_id) where o.listed
        union all
        select 'seller', s.seller_address, s.chain_id, m.event_id from made m join order_sellers s using (order_id);
      if found then perform pg_notify('order_events', ''); end if;
    end $$`.execute(db)
  await sql`
    create or replace function emit_order_event(of_order text, of_history bigint) returns void language sql as $$
      select emit_order_events(array[of_order], array[of_history])
    $$`.execute(db)
  await sql`drop trigger orders_status on orders`.execute(db)
  await sql`drop function record_order_status()`.execute(db)
  await sql`
    create function record_new_orders() returns trigger language plpgsql as $$
    begin
      insert into orders_status_history (order_id, old_status, new_status) select order_id, null, status from made;
      return null;
    end $$`.execute(db)
  await sql`
    create function record_order_statuses() returns trigger language plpgsql as $$
    declare told_orders text[]; told_histories bigint[];
    begin
      with moved as (
        select n.order_id, o.status as old_status, n.status as new_status
          from made n join gone o using (order_id) where n.status is distinct from o.status
      ), recorded as (
        insert into orders_status_history (order_id, old_status, new_status)
          select * from moved order by order_id returning id, order_id, new_status
      ), held as (
        insert into order_events_held (order_id, history_id)
          select order_id, id from recorded where new_status = 'https://schema.org/PaymentComplete'
          on conflict (order_id) do update set history_id = excluded.history_id, held_since = now()
      )
      select array_agg(order_id order by id), array_agg(id order by id) into told_orders, told_histories
        from recorded where new_status <> 'https://schema.org/PaymentComplete';
      if told_orders is not null then perform emit_order_events(told_orders, told_histories); end if;
      return null;
    end $$`.execute(db)
  await sql`
    create trigger orders_made after insert on orders referencing new table as made
      for each statement execute function record_new_orders()`.execute(db)
  await sql`
    create trigger orders_status after update on orders referencing old table as gone new table as made
      for each statement execute function record_order_statuses()`.execute(db)
}

const EVENTS_LOCK = 6_710_401
