import { type Kysely, sql } from 'kysely'
import { type CodeKeys, openCode, sealCode } from './codeKeys.ts'
import type { CodesDatabase } from './database.ts'

const BATCH = 2000

/**
 * Seals all codes anew that another key than the first of `ADAPTER_SECRETS_KEY` sealed, the oldest first. Each batch commits by
 * itself: one that was cut off goes on where it was when it is repeated.
 *
 * @throws SecretsError a code was sealed by a key that is not in `ADAPTER_SECRETS_KEY`
 */
export async function resealCodes(
  db: Kysely<CodesDatabase>,
  keys: CodeKeys,
  onProgress: (done: number) => void = () => {},
): Promise<number> {
  let done = 0
  for (let after = '0'; ; onProgress(done)) {
    const { rows } = await sql<{ code_id: string; pool_id: string; sealed: string; fingerprint: Buffer }>`
      select code_id, pool_id, sealed, fingerprint from code_pool_codes
        where code_id > ${after} and split_part(sealed, ':', 2) <> ${keys.secrets.keyId}
        order by code_id limit ${BATCH}`.execute(db)
    if (rows.length === 0) return done
    const seals = rows.map((row) => sealCode(keys, row.pool_id, row.fingerprint, openCode(keys, row)))
    await sql`
      update code_pool_codes c set sealed = s.sealed
        from unnest(${rows.map((row) => row.code_id)}::bigint[], ${rows.map((row) => row.sealed)}::text[], ${seals}::text[])
          as s (code_id, before, sealed)
        where c.code_id = s.code_id and c.sealed = s.before`.execute(db)
    after = rows.at(-1)!.code_id
    done += rows.length
  }
}

/** How many codes the key that seals now did not seal. */
export async function countToReseal(db: Kysely<CodesDatabase>, keys: CodeKeys): Promise<number> {
  const { rows } = await sql<{ n: string }>`
    select count(*) as n from code_pool_codes where split_part(sealed, ':', 2) <> ${keys.secrets.keyId}`.execute(db)
  return Number(rows[0]!.n)
}
