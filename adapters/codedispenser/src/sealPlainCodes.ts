import { inTransaction } from '@market/kit/db'
import { type Kysely, sql } from 'kysely'
import { type CodeKeys, fingerprintOf, sealCode } from './codeKeys.ts'
import type { CodesDatabase } from './database.ts'

const BATCH = 2000

/**
 * Seals the codes that a release before 0003 kept readable, and empties their column. Each batch commits by itself: it may be
 * killed, repeated, and run by several at once. Copies stay where Postgres keeps them: in dead rows until vacuum, in its log and
 * in backups.
 */
export async function sealPlainCodes(
  db: Kysely<CodesDatabase>,
  keys: CodeKeys,
  onProgress: (done: number) => void = () => {},
): Promise<number> {
  for (let done = 0; ; onProgress(done)) {
    const sealed = await inTransaction(db, async (tx) => {
      // Whoever else seals waits here, and then finds them sealed.
      const rows = await tx
        .selectFrom('code_pool_codes')
        .select(['code_id', 'pool_id', sql<string>`plain`.as('plain')])
        .where('plain', 'is not', null)
        .orderBy('code_id')
        .limit(BATCH)
        .forUpdate()
        .execute()
      if (rows.length === 0) return 0
      const prints = rows.map((row) => fingerprintOf(keys, row.pool_id, row.plain))
      const seals = rows.map((row, i) => sealCode(keys, row.pool_id, prints[i]!, row.plain))
      await sql`
        update code_pool_codes c set plain = null, sealed = s.sealed, fingerprint = s.fingerprint
          from unnest(${rows.map((row) => row.code_id)}::bigint[], ${seals}::text[], ${prints}::bytea[])
            as s (code_id, sealed, fingerprint)
          where c.code_id = s.code_id`.execute(tx)
      return rows.length
    })
    // After a wait another may have sealed all of a batch: that it was empty says nothing about the next.
    if (sealed === 0 && !(await hasPlain(db))) return done
    done += sealed
  }
}

async function hasPlain(db: Kysely<CodesDatabase>): Promise<boolean> {
  const row = await db
    .selectFrom('code_pool_codes')
    .select('code_id')
    .where('plain', 'is not', null)
    .limit(1)
    .executeTakeFirst()
  return row !== undefined
}
