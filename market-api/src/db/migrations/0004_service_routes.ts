import { type Kysely, sql } from 'kysely'

const path = '{chain_id}/{seller}'

/** Which adapter answers for a sku. Hosts come from configuration by the `_ORIGIN` placeholders, never from a row. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table offer_types (
      offer_type text collate "C" primary key,
      inventory_url_template text,
      availability_url_template text,
      fulfillment_url_template text,
      enabled boolean not null default true
    )`.execute(db)
  await sql`
    create table market_service_routes (
      chain_id bigint not null,
      seller_address text collate "C" not null check (seller_address = lower(seller_address)),
      sku text collate "C" not null check (sku = lower(sku)),
      offer_type text collate "C" references offer_types,
      is_one_off boolean not null default false,
      total_inventory bigint check (total_inventory >= 0),
      enabled boolean not null default true,
      primary key (chain_id, seller_address, sku),
      check (is_one_off or offer_type is not null)
    )`.execute(db)
  await sql`create index ix_service_routes_offer_type on market_service_routes (offer_type)`.execute(db)
  await sql`
    insert into offer_types (offer_type, inventory_url_template, availability_url_template, fulfillment_url_template)
    values ('codedispenser',
            ${`{MARKET_CODE_DISPENSER_ORIGIN}/inventory/${path}/{sku}`}, null,
            ${`{MARKET_CODE_DISPENSER_ORIGIN}/fulfill/${path}`})`.execute(db)
}
