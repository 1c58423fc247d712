import { type Kysely, sql } from 'kysely'

/** The primary key is what keeps a one-off from being sold twice; the row goes when its order does not get paid (W-05). */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table one_off_sales (
      chain_id bigint not null,
      seller_address text collate "C" not null check (seller_address = lower(seller_address)),
      sku text collate "C" not null check (sku = lower(sku)),
      order_id text collate "C" not null references orders,
      ordered_at timestamptz not null default now(),
      primary key (chain_id, seller_address, sku)
    )`.execute(db)
  await sql`create index ix_one_off_sales_order on one_off_sales (order_id)`.execute(db)
  // Who sells at all is read from this alone, whatever is switched off (listSellers.ts).
  await sql`
    create index ix_service_routes_sellers on market_service_routes (chain_id, seller_address)
      include (offer_type, is_one_off) where enabled`.execute(db)
}
