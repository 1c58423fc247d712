import { openFingerprint, openSecretBox, type SecretBox } from '@market/adapter-kit/secrets'
import type { Kysely } from 'kysely'
import type { CodesDatabase } from './database.ts'

/** What codes are sealed and found with. */
export type CodeKeys = { secrets: SecretBox; fingerprint: (text: string) => Buffer }

/** @throws SecretsError the value of `ADAPTER_SECRETS_KEY` is none, or not the one this database was sealed with */
export async function openCodeKeys(db: Kysely<CodesDatabase>, adapterSecretsKey: string): Promise<CodeKeys> {
  const secrets = openSecretBox(adapterSecretsKey)
  return { secrets, fingerprint: await openFingerprint(db, secrets) }
}

/** The pool goes in as well: that two pools have a code in common is nobody's business. No pool id holds a NUL. */
export const fingerprintOf = ({ fingerprint }: CodeKeys, poolId: string, code: string): Buffer =>
  fingerprint(`${poolId}\0${code}`)

/**
 * Bound to its row by pool and fingerprint, which are unique together and known before the row is there; `code_id` is not. Two
 * rows whose fingerprints are swapped along with it have only swapped their ids.
 */
export const placeOf = (poolId: string, fingerprint: Buffer): string =>
  `code_pool_codes.sealed/${poolId}/${fingerprint.toString('hex')}`

export const sealCode = ({ secrets }: CodeKeys, poolId: string, fingerprint: Buffer, code: string): string =>
  secrets.seal(code, placeOf(poolId, fingerprint))

/** @throws SecretsError sealed by a key that is gone, or another row's */
export const openCode = (
  { secrets }: CodeKeys,
  row: { pool_id: string; sealed: string; fingerprint: Buffer },
): string => secrets.open(row.sealed, placeOf(row.pool_id, row.fingerprint))
