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
  const counts = { added: 0, available: 0, assigned: 0, void: 0 }
  let submitted = 0
  let batch = new Set<string>()
  const store = async () => {
    const stored = await inTransaction(db, (tx) => seedBatch(tx, keys, poolId, [...batch]))
    for (const name of Object.keys(counts) as (keyof typeof counts)[]) counts[name] += stored[name]
    batch = new Set()
    onProgress(submitted)
  }
  for await (const line of codes) {
    const code = line.trim()
    if (code === '') continue
    submitted += 1
    if (code.length > MAX_LENGTH) throw new CodeError(`code ${submitted} is longer than ${MAX_LENGTH} characters`)
    if (UNSTORABLE.test(code)) throw new CodeError(`code ${submitted} holds a NUL or half a surrogate pair`)
    batch.add(code)
    if (batch.size === BATCH) await store()
  }
  if (batch.size > 0) await store()
  const { added, assigned: alreadyDispensed } = counts
  const duplicate = submitted - added - alreadyDispensed - counts.void
  return { poolId, submitted, added, duplicate, alreadyDispensed, void: counts.void }
}

async function seedBatch(tx: Transaction<CodesDatabase>, keys: CodeKeys, poolId: string, batch: string[]) {
  // One seeder at a time: two that insert the same codes in different orders would wait for each other.
  await sql`select 1 from code_pools where pool_id = ${poolId} for no key update`.execute(tx)
  const prints = batch.map((code) => fingerprintOf(keys, poolId, code))
  const { rows } = await sql<{ print: string; state: 'available' | 'assigned' | 'void' }>`
    select encode(fingerprint, 'hex') as print, state from code_pool_codes
      where pool_id = ${poolId} and fingerprint = any (${prints}::bytea[])`.execute(tx)
  const known = new Map(rows.map((row) => [row.print, row.state]))
  const counts = { added: 0, available: 0, assigned: 0, void: 0 }
  const newPrints: Buffer[] = []
  const seals: string[] = []
  for (const [i, print] of prints.entries()) {
    const state = known.get(print.toString('hex'))
    if (state) {
      counts[state] += 1
    } else {
      newPrints.push(print)
      seals.push(sealCode(keys, poolId, print, batch[i]!))
    }
  }
  if (seals.length > 0) {
    const inserted = await sql`
      insert into code_pool_codes (pool_id, sealed, fingerprint)
        select ${poolId}, sealed, fingerprint
          from unnest(${seals}::text[], ${newPrints}::bytea[]) with ordinality as s (sealed, fingerprint, place) order by place`.execute(
      tx,
    )
    counts.added = Number(inserted.numAffectedRows)
  }
  return counts
}
