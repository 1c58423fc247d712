import { type Kysely, sql } from 'kysely'

/**
 * What the buyer's API needs beyond a basket and an order: who may touch a basket, what an unpaid order holds and until when,
 * answers that are given again, and the events that buyers and sellers listen to.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  // A basket is owned once its buyer's token was used on it. `token_hash` is the SHA-256 of the token given out with it.
  await sql`
    alter table baskets
      add column maker_address text collate "C",
      add column owned boolean not null default false,
      add column token_hash bytea,
      add column token_required boolean not null default false`.execute(db)

  // A patch moves the time a basket runs out. An index that knows each of these times would be written with every patch; this one
  // knows ranges of pages, which is all that purging needs.
  await sql`drop index ix_baskets_expires`.execute(db)
  await sql`create index ix_baskets_expires on baskets using brin (expires_at)`.execute(db)

  // Baskets hold personal data and go before their orders do.
  await sql`alter table orders drop constraint orders_basket_id_fkey`.execute(db)
  // An order that somebody placed in another's name is kept out of that buyer's lists until it is paid or the buyer opens it.
  // `placed_from` is a keyed hash of the client's network while the order is unpaid, for the cap on open orders.
  await sql`
    alter table orders
      add column payment_due_by timestamptz,
      add column cancelled_at timestamptz,
      add column cancel_reason text check (cancel_reason in ('expired', 'buyer', 'operator')),
      add column listed boolean not null default true,
      add column placed_from text,
      add constraint orders_cancelled_unpaid check (cancelled_at is null or paid_at is null)`.execute(db)
  await sql`update orders set payment_due_by = created_at + interval '30 minutes'`.execute(db)
  await sql`alter table orders alter column payment_due_by set not null`.execute(db)
  await sql`drop index ix_orders_buyer`.execute(db)
  await sql`create index ix_orders_buyer on orders (buyer_address, chain_id, created_at desc, order_id desc)
    where listed`.execute(db)
  // Unpaid orders only: small however many orders there are.
  await sql`create index ix_orders_due on orders (payment_due_by)
    where status = 'https://schema.org/OrderPaymentDue'`.execute(db)
  await sql`create index ix_orders_open_buyer on orders (buyer_address)
    where status = 'https://schema.org/OrderPaymentDue'`.execute(db)
  await sql`create index ix_orders_open_client on orders (placed_from) where placed_from is not null`.execute(db)

  // Who sells in an order; a seller's list is read from this alone.
  await sql`
    create table order_sellers (
      order_id text collate "C" not null references orders,
      seller_address text collate "C" not null,
      chain_id bigint not null,
      created_at timestamptz not null,
      primary key (order_id, seller_address)
    )`.execute(db)
  await sql`
    insert into order_sellers (order_id, seller_address, chain_id, created_at)
      select distinct l.order_id, l.seller_address, o.chain_id, o.created_at
        from order_lines l join orders o using (order_id)`.execute(db)
  await sql`
    create index ix_order_sellers_seller
      on order_sellers (seller_address, chain_id, created_at desc, order_id desc)`.execute(db)
  await sql`drop index ix_order_lines_seller`.execute(db)

  // What an order holds of a counted stock, from checkout until it is cancelled or delivered. `stock_levels` is kept by
  // trigger, so that a sku in demand costs a few rows and not a sum over all its orders; its rows are also what checkouts queue
  // at, several so that they rarely do. `delivered` only grows: a checkout that read the adapter's stock before a delivery sees
  // by it that the stock is older.
  await sql`
    create table stock_levels (
      chain_id bigint not null,
      seller_address text collate "C" not null,
      sku text collate "C" not null,
      slot smallint not null,
      reserved bigint not null default 0 check (reserved >= 0),
      delivered bigint not null default 0,
      primary key (chain_id, seller_address, sku, slot)
    )`.execute(db)
  await sql`
    create table stock_reservations (
      order_id text collate "C" not null references orders,
      chain_id bigint not null,
      seller_address text collate "C" not null,
      sku text collate "C" not null,
      slot smallint not null,
      quantity integer not null check (quantity > 0),
      delivered boolean not null default false,
      primary key (order_id, seller_address, sku)
    )`.execute(db)
  await sql`
    create function count_reservation() returns trigger language plpgsql as $$
    begin
      if tg_op = 'INSERT' then
        update stock_levels set reserved = reserved + new.quantity
          where chain_id = new.chain_id and seller_address = new.seller_address and sku = new.sku and slot = new.slot;
      elsif tg_op = 'DELETE' then
        update stock_levels set reserved = reserved - old.quantity,
            delivered = delivered + case when old.delivered then old.quantity else 0 end
          where chain_id = old.chain_id and seller_address = old.seller_address and sku = old.sku and slot = old.slot;
      end if;
      return null;
    end $$`.execute(db)
  await sql`
    create trigger stock_reservations_counted after insert or delete on stock_reservations
      for each row execute function count_reservation()`.execute(db)

  // Up to when payments are known to be read: an order is not cancelled for want of a payment that nobody looked for.
  await sql`
    create table payments_observed (
      chain_id bigint primary key,
      observed_at timestamptz not null
    )`.execute(db)

  // The answer of a checkout, given again to whoever asks with the same key. Written with the order: a process that dies
  // in between leaves neither.
  await sql`
    create table idempotency_keys (
      scope text collate "C" not null,
      key text collate "C" not null,
      fingerprint text collate "C" not null,
      status integer not null,
      answer jsonb not null check (jsonb_typeof(answer) = 'object'),
      created_at timestamptz not null default now(),
      primary key (scope, key)
    )`.execute(db)
  await sql`create index ix_idempotency_keys_created on idempotency_keys (created_at)`.execute(db)

  // Events of the streams. Ids are given out in commit order, so "after this id" misses nothing and repeats nothing.
  await sql`
    create table order_events (
      event_id bigint generated always as identity primary key,
      order_id text collate "C" not null references orders,
      history_id bigint not null unique references orders_status_history,
      created_at timestamptz not null default now()
    )`.execute(db)
  await sql`create index ix_order_events_order on order_events (order_id)`.execute(db)
  await sql`create index ix_order_events_created on order_events (created_at)`.execute(db)
  await sql`
    create table order_event_audience (
      side text not null check (side in ('buyer', 'seller')),
      address text collate "C" not null,
      chain_id bigint not null,
      event_id bigint not null references order_events on delete cascade,
      primary key (side, address, chain_id, event_id)
    )`.execute(db)
  await sql`create index ix_order_event_audience_event on order_event_audience (event_id)`.execute(db)
  // Final events wait here until every job of their order had its first answer: wallets read the order once, on that event.
  await sql`
    create table order_events_held (
      order_id text collate "C" primary key references orders,
      history_id bigint not null unique references orders_status_history,
      held_since timestamptz not null default now()
    )`.execute(db)
  await sql`create index ix_order_events_held_since on order_events_held (held_since)`.execute(db)

  await sql`
    create function emit_order_event(of_order text, of_history bigint) returns void language plpgsql as $$
    declare made bigint;
    begin
      -- Held to the end of the transaction: who gets the next id commits later.
      perform pg_advisory_xact_lock(${sql.lit(EVENTS_LOCK)});
      insert into order_events (order_id, history_id) values (of_order, of_history)
        on conflict (history_id) do nothing returning event_id into made;
      if made is null then return; end if;
      insert into order_event_audience (side, address, chain_id, event_id)
        select 'buyer', buyer_address, chain_id, made from orders where order_id = of_order and listed
        union all
        select 'seller', seller_address, chain_id, made from order_sellers where order_id = of_order;
      perform pg_notify('order_events', '');
    end $$`.execute(db)
  // The row lock has two workers that finish the last two jobs at once look one after the other.
  await sql`
    create function tell_completion(of_order text) returns boolean language plpgsql as $$
    declare held bigint;
    begin
      select history_id into held from order_events_held where order_id = of_order for update;
      if held is null then return false; end if;
      if exists (select 1 from fulfillment_jobs where order_id = of_order
                 and (status = 'running' or (status = 'pending' and attempts = 0))) then
        return false;
      end if;
      delete from order_events_held where order_id = of_order;
      perform emit_order_event(of_order, held);
      return true;
    end $$`.execute(db)
  // Creation tells nobody: a notification would have every checkout's commit wait for the others'.
  await sql`
    create or replace function record_order_status() returns trigger language plpgsql as $$
    declare made bigint;
    begin
      if tg_op = 'UPDATE' and new.status is not distinct from old.status then
        return null;
      end if;
      insert into orders_status_history (order_id, old_status, new_status)
        values (new.order_id, case when tg_op = 'UPDATE' then old.status end, new.status)
        returning id into made;
      if tg_op = 'UPDATE' then
        if new.status = 'https://schema.org/PaymentComplete' then
          insert into order_events_held (order_id, history_id) values (new.order_id, made)
            on conflict (order_id) do update set history_id = excluded.history_id, held_since = now();
        else
          perform emit_order_event(new.order_id, made);
        end if;
      end if;
      return null;
    end $$`.execute(db)

  // The last good keys of each trusted issuer, so that a restart while the issuer is down still verifies tokens.
  await sql`
    create table issuer_keys (
      issuer text collate "C" primary key,
      jwks jsonb not null check (jsonb_typeof(jwks) = 'object'),
      fetched_at timestamptz not null
    )`.execute(db)
}

const EVENTS_LOCK = 6_710_401
