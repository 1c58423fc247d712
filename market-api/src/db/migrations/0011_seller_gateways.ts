import { type Kysely, sql } from 'kysely'

/** Payment gateways the operator knows to be a seller's. A buyer's money goes only where one of these, or the seller, gets it. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table seller_gateways (
      chain_id bigint not null,
      seller_address text collate "C" not null check (seller_address = lower(seller_address)),
      gateway_address text collate "C" not null check (gateway_address = lower(gateway_address)),
      created_at timestamptz not null default now(),
      primary key (chain_id, seller_address, gateway_address)
    )`.execute(db)
  await sql`
    create trigger catalog_changed after insert or update or delete on seller_gateways
      for each statement execute function notify_catalog_changed()`.execute(db)
}
