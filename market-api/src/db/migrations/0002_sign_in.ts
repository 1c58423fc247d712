import { type Kysely, sql } from 'kysely'

/** A challenge is signed once: `used_at` is set only where it was null. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table auth_challenges (
      challenge_id uuid primary key,
      address text collate "C" not null,
      chain_id bigint not null,
      domain text not null,
      message text not null,
      issued_at timestamptz not null,
      expires_at timestamptz not null,
      used_at timestamptz
    )`.execute(db)
  await sql`create index ix_auth_challenges_expires on auth_challenges (expires_at)`.execute(db)
}
