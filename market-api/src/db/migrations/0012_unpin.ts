import { type Kysely, sql } from 'kysely'

/** Which avatars were ever seen to name a pinned object, and since when none of them does. Only such objects may be let go. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table pins
      add column reached_by text[] not null default '{}',
      add column unreachable_since timestamptz`.execute(db)
}
