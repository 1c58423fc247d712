import { type Kysely, sql } from 'kysely'

/** Which replica runs a loop that only one may run. `epoch` grows with every takeover; writes of the holder check it. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table leases (
      name text collate "C" primary key,
      holder text not null,
      expires_at timestamptz not null,
      epoch bigint not null
    )`.execute(db)
}
