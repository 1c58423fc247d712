import { type Kysely, sql } from 'kysely'

/**
 * One holder among replicas, by a row and the database's clock (payments.md 10). Not a session lock, because a pooler in
 * transaction mode may stand between. Table: leases(name, holder, expires_at, epoch).
 */
export type Lease = { name: string; holder: string; epoch: string }

type AnyDatabase = Kysely<any>

/** Takes or renews the lease; undefined while another holder's is live. `epoch` grows with every change of holder. */
export async function acquireLease(
  db: AnyDatabase,
  name: string,
  holder: string,
  seconds: number,
): Promise<Lease | undefined> {
  const { rows } = await sql<{ epoch: string }>`
    insert into leases as l (name, holder, expires_at, epoch)
    values (${name}, ${holder}, now() + make_interval(secs => ${seconds}), 1)
    on conflict (name) do update
      set holder = excluded.holder, expires_at = excluded.expires_at,
          epoch = l.epoch + case when l.holder = excluded.holder then 0 else 1 end
      where l.expires_at < now() or l.holder = excluded.holder
    returning epoch`.execute(db)
  return rows[0] && { name, holder, epoch: rows[0].epoch }
}

export class LeaseLostError extends Error {}

/**
 * Throws `LeaseLostError` unless the lease is still ours, and keeps it so until the caller's transaction ends: a takeover
 * waits for the row. Called first in every transaction that writes as the holder, it turns away one that slept too long.
 */
export async function assertLease(tx: AnyDatabase, { name, holder, epoch }: Lease): Promise<void> {
  const { rows } = await sql`
    select 1 from leases where name = ${name} and holder = ${holder} and epoch = ${epoch} for share`.execute(tx)
  if (rows.length === 0) throw new LeaseLostError(`lease ${name} was taken over`)
}

/** Gives the lease back, so that the next holder need not wait for it to run out. */
export async function releaseLease(db: AnyDatabase, name: string, holder: string): Promise<void> {
  await sql`update leases set expires_at = now() where name = ${name} and holder = ${holder} and expires_at > now()`.execute(
    db,
  )
}
