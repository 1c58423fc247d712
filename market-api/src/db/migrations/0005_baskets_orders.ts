import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table baskets (
      basket_id text collate "C" primary key,
      basket_json jsonb not null check (jsonb_typeof(basket_json) = 'object'),
      status text not null default 'Draft' check (status in ('Draft', 'CheckedOut')),
      version bigint not null default 0,
      order_id text collate "C" unique,
      created_at timestamptz not null default now(),
      modified_at timestamptz not null default now(),
      expires_at timestamptz not null,
      check ((status = 'CheckedOut') = (order_id is not null))
    )`.execute(db)
  await sql`create index ix_baskets_expires on baskets (expires_at)`.execute(db)

  // order_json is the snapshot of checkout and never changes; price, gateways and reference are what settlement reads.
  // `unique (basket_id)` is what keeps two checkouts of one basket from making two orders.
  await sql`
    create table orders (
      order_id text collate "C" primary key,
      basket_id text collate "C" not null unique references baskets,
      chain_id bigint not null,
      buyer_address text collate "C" not null,
      order_json jsonb not null check (jsonb_typeof(order_json) = 'object'),
      status text not null,
      created_at timestamptz not null default now(),
      payment_reference text collate "C" not null unique,
      price_wei numeric(78,0) not null check (price_wei > 0),
      expected_gateways text[] not null check (cardinality(expected_gateways) > 0),
      payment_seen_at timestamptz,
      paid_at timestamptz,
      paid_amount_wei numeric(78,0) not null default 0,
      paid_tx_hash text,
      paid_log_index integer,
      confirmed_at timestamptz,
      finalized_at timestamptz,
      check (paid_at is not null or confirmed_at is null),
      check (paid_at is not null or finalized_at is null)
    )`.execute(db)
  await sql`create index ix_orders_buyer on orders (buyer_address, chain_id, created_at desc, order_id desc)`.execute(
    db,
  )
  // The orders a poll looks at: some payment was seen and they are not final. Small however many orders there are.
  await sql`
    create index ix_orders_settling on orders (chain_id, payment_seen_at)
      where payment_seen_at is not null and finalized_at is null`.execute(db)

  await sql`
    create table order_lines (
      order_id text collate "C" not null references orders,
      line_index integer not null,
      seller_address text collate "C" not null,
      sku text collate "C" not null,
      quantity integer not null check (quantity > 0),
      fulfillment_trigger text not null check (fulfillment_trigger in ('confirmed', 'finalized')),
      link_keccak text not null,
      primary key (order_id, line_index)
    )`.execute(db)
  await sql`create index ix_order_lines_seller on order_lines (seller_address, order_id)`.execute(db)

  await sql`
    create table orders_status_history (
      id bigint generated always as identity primary key,
      order_id text collate "C" not null references orders,
      old_status text,
      new_status text not null,
      changed_at timestamptz not null default now()
    )`.execute(db)
  await sql`create index ix_orders_status_history_order on orders_status_history (order_id, id)`.execute(db)
  // A trigger, so that no path to an order's status, psql at night included, can forget its history or its notification.
  await sql`
    create function record_order_status() returns trigger language plpgsql as $$
    declare history_id bigint;
    begin
      if tg_op = 'UPDATE' and new.status is not distinct from old.status then
        return null;
      end if;
      insert into orders_status_history (order_id, old_status, new_status)
        values (new.order_id, case when tg_op = 'UPDATE' then old.status end, new.status)
        returning id into history_id;
      perform pg_notify('order_status', history_id::text);
      return null;
    end $$`.execute(db)
  await sql`
    create trigger orders_status after insert or update of status on orders
      for each row execute function record_order_status()`.execute(db)
}
