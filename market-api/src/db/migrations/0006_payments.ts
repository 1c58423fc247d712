import { type Kysely, sql } from 'kysely'

/**
 * What was seen on chain, one row per log. Facts only; whether an order is paid is computed from them (payments.md 18).
 * `eligible` null means not decided yet, never false: false is final.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table payment_transfers (
      chain_id bigint not null,
      tx_hash text collate "C" not null,
      log_index integer not null,
      block_number bigint not null,
      transaction_index integer not null,
      block_hash text,
      block_time timestamptz,
      payment_reference text collate "C" not null,
      gateway_address text collate "C" not null,
      payer_address text,
      payee_address text,
      token_id numeric(78,0),
      token_avatar text,
      amount_wei numeric(78,0),
      eligible boolean,
      ignored_reason text,
      observed_at timestamptz not null default now(),
      orphaned_at timestamptz,
      primary key (chain_id, tx_hash, log_index)
    )`.execute(db)
  await sql`create index ix_payment_transfers_reference on payment_transfers (payment_reference, chain_id)`.execute(db)
  await sql`
    create index ix_payment_transfers_undecided on payment_transfers (chain_id, block_number)
      where eligible is null and ignored_reason is null and orphaned_at is null`.execute(db)
  await sql`
    create table payments_cursors (
      chain_id bigint primary key,
      last_block_number bigint not null,
      last_transaction_index integer not null,
      last_log_index integer not null
    )`.execute(db)
}
