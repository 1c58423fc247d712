import { type Kysely, sql } from 'kysely'

/** What we pinned and for whom, and how much of its day's quota each has used. */
export async function up(db: Kysely<unknown>): Promise<void> {
  // Pinning the same bytes again makes no second row.
  await sql`
    create table pins (
      cid text collate "C" not null,
      subject text collate "C" not null,
      kind text not null,
      size integer not null check (size >= 0),
      pinned_at timestamptz not null,
      primary key (cid, subject)
    )`.execute(db)
  // The checks hold a reservation that is given back twice.
  await sql`
    create table pin_quotas (
      subject text collate "C" not null,
      day date not null,
      objects integer not null check (objects >= 0),
      bytes bigint not null check (bytes >= 0),
      primary key (day, subject)
    )`.execute(db)
}
