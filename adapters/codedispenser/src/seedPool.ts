import { inTransaction } from '@market/kit/db'
import { type Kysely, sql, type Transaction } from 'kysely'
import { type CodeKeys, fingerprintOf, sealCode } from './codeKeys.ts'
import type { CodesDatabase } from './database.ts'
import { sealPlainCodes } from './sealPlainCodes.ts'

export type SeedResult = {
  poolId: string
  /** Lines that were not blank. */
  submitted: number
  added: number
  /** In the pool already, or named before. */
  duplicate: number
  alreadyDispensed: number
  void: number
}

/** A line that can't be a code; the message says which. */
export class CodeError extends Error {}

const BATCH = 10_000
const MAX_LENGTH = 2000
/** What the market can't store of a code. */
const UNSTORABLE = /[\0\p{Cs}]/u

/** Creates the pool when it is missing. */
export async function ensurePool(tx: Transaction<CodesDatabase>, poolId: string): Promise<void> {
  await tx
    .insertInto('code_pools')
    .values({ pool_id: poolId, low_stock_threshold: null, low_since: null })
    .onConflict((conflict) => conflict.doNothing())
    .execute()
}

/**
 * Adds codes to a pool in the given order, creating the pool when missing. Blank lines are dropped; a code the pool has or
 * ever had is left as it is, so a dispensed code never comes back (adapters.md 7.2, A-4). What was read is committed batch by
 * batch: one that was cut off is finished by repeating it.
 *
 * @param onProgress told after each batch how many lines were read that were not blank
 * @throws CodeError a line that can't be a code
 */
export async function seedPool(
  db: Kysely<CodesDatabase>,
  keys: CodeKeys,
  poolId: string,
  codes: Iterable<string> | AsyncIterable<string>,
  onProgress: (submitted: number) => void = () => {},
): Promise<SeedResult> {
  // A readable code has no fingerprint yet to be recognised by.
  await sealPlainCodes(db, keys)
  await inTransaction(db, (tx) => ensurePool(tx, poolId))
  const counts = { added: 0, assigned: 0, void: 0 }
  let submitted = 0
  let batch = new Set<string>()
  // A file is mostly new or mostly known. Looking first spares what is known the sealing, and what is new needs no look.
  let looksFirst = true
  let storing = Promise.resolve()
  const store = async (fresh: string[], upTo: number) => {
    const prints = fresh.map((code) => fingerprintOf(keys, poolId, code))
    const rows = looksFirst ? undefined : sealAll(keys, poolId, fresh, prints)
    // The next batch is read and sealed while Postgres stores this one.
    await storing
    storing = inTransaction(db, async (tx) => {
      const stored = await seedBatch(tx, keys, poolId, fresh, prints, rows)
      looksFirst = stored.added < fresh.length
      counts.added += stored.added
      counts.assigned += stored.assigned
      counts.void += stored.void
      onProgress(upTo)
    })
    // Thrown when it is waited for.
    storing.catch(() => {})
  }
  try {
    for await (const line of codes) {
      const code = line.trim()
      if (code === '') continue
      submitted += 1
      if (code.length > MAX_LENGTH) throw new CodeError(`code ${submitted} is longer than ${MAX_LENGTH} characters`)
      if (UNSTORABLE.test(code)) throw new CodeError(`code ${submitted} holds a NUL or half a surrogate pair`)
      batch.add(code)
      if (batch.size < BATCH) continue
      await store([...batch], submitted)
      batch = new Set()
    }
    if (batch.size > 0) await store([...batch], submitted)
  } finally {
    // Whatever ended it: the caller may close the database next.
    await storing
  }
  const { added, assigned: alreadyDispensed } = counts
  const duplicate = submitted - added - alreadyDispensed - counts.void
  return { poolId, submitted, added, duplicate, alreadyDispensed, void: counts.void }
}

type Sealed = { seals: string[]; prints: Buffer[] }

function sealAll(keys: CodeKeys, poolId: string, codes: string[], prints: Buffer[]): Sealed {
  return { seals: codes.map((code, i) => sealCode(keys, poolId, prints[i]!, code)), prints }
}

async function seedBatch(
  tx: Transaction<CodesDatabase>,
  keys: CodeKeys,
  poolId: string,
  codes: string[],
  prints: Buffer[],
  sealed: Sealed | undefined,
): Promise<{ added: number; assigned: number; void: number }> {
  // One seeder at a time: two that insert the same codes in different orders would wait for each other.
  await sql`select 1 from code_pools where pool_id = ${poolId} for no key update`.execute(tx)
  const { seals, prints: newPrints } = sealed ?? (await sealUnknown(tx, keys, poolId, codes, prints))
  const inserted = await sql`
    insert into code_pool_codes (pool_id, sealed, fingerprint)
      select ${poolId}, sealed, fingerprint
        from unnest(${seals}::text[], ${newPrints}::bytea[]) with ordinality as s (sealed, fingerprint, place) order by place
      on conflict (pool_id, fingerprint) do nothing`.execute(tx)
  const added = Number(inserted.numAffectedRows)
  if (added === codes.length) return { added, assigned: 0, void: 0 }
  const { rows } = await sql<{ assigned: string; void: string }>`
    select count(*) filter (where state = 'assigned') as assigned, count(*) filter (where state = 'void') as void
      from code_pool_codes where pool_id = ${poolId} and fingerprint = any (${prints}::bytea[])`.execute(tx)
  return { added, assigned: Number(rows[0]!.assigned), void: Number(rows[0]!.void) }
}

async function sealUnknown(
  tx: Transaction<CodesDatabase>,
  keys: CodeKeys,
  poolId: string,
  codes: string[],
  prints: Buffer[],
): Promise<Sealed> {
  const { rows } = await sql<{ print: string }>`
    select encode(fingerprint, 'hex') as print from code_pool_codes
      where pool_id = ${poolId} and fingerprint = any (${prints}::bytea[])`.execute(tx)
  const known = new Set(rows.map((row) => row.print))
  const isNew = prints.map((print) => !known.has(print.toString('hex')))
  return sealAll(
    keys,
    poolId,
    codes.filter((_, i) => isNew[i]),
    prints.filter((_, i) => isNew[i]),
  )
}
