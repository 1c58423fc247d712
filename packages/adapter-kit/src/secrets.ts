import { createCipheriv, createDecipheriv, createHmac, randomBytes } from 'node:crypto'
import { type Kysely, sql } from 'kysely'

/** A key of AES-256 with the name that sealed texts carry. */
type SecretsKey = { id: string; key: Buffer }

/**
 * Seals what must not lie readable in a database, with AES-256-GCM (adapters.md 11). A sealed text is
 * `v1:{key id}:{base64url of nonce, tag, ciphertext}`: whoever holds several keys opens what any of them sealed.
 */
export type SecretBox = {
  /** `place`, such as `adapter_secrets.sealed/fingerprint`, is bound in: moved elsewhere, a sealed text does not open. */
  seal(text: string, place: string): string
  /** @throws SecretsError another key, another place, or damaged */
  open(sealed: string, place: string): string
  /** Of the key that seals now; the others are on their way out. */
  keyId: string
  isCurrent(sealed: string): boolean
}

export class SecretsError extends Error {}

const FORMAT = /^[A-Za-z0-9_-]{1,32}$/
const NONCE_BYTES = 12
const TAG_BYTES = 16

/**
 * Keys of `ADAPTER_SECRETS_KEY`: `id:base64`, several by comma, the first of which seals. 32 bytes each.
 *
 * @throws SecretsError what is wrong with it, without showing it
 */
export function openSecretBox(keys: string): SecretBox {
  const ring = keys.split(',').map(parseKey)
  const byId = new Map(ring.map(({ id, key }) => [id, key]))
  if (byId.size < ring.length) throw new SecretsError('names a key id twice')
  const current = ring[0]!
  return {
    keyId: current.id,
    seal(text, place) {
      const nonce = randomBytes(NONCE_BYTES)
      const cipher = createCipheriv('aes-256-gcm', current.key, nonce).setAAD(Buffer.from(place))
      const sealed = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()])
      return `v1:${current.id}:${Buffer.concat([nonce, cipher.getAuthTag(), sealed]).toString('base64url')}`
    },
    open(text, place) {
      const [version, id, body] = text.split(':')
      const key = version === 'v1' && id !== undefined ? byId.get(id) : undefined
      if (!key || body === undefined) throw new SecretsError(`sealed by a key that is not in ADAPTER_SECRETS_KEY`)
      const bytes = Buffer.from(body, 'base64url')
      try {
        const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, NONCE_BYTES), {
          authTagLength: TAG_BYTES,
        })
        decipher.setAAD(Buffer.from(place)).setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES))
        return decipher.update(bytes.subarray(NONCE_BYTES + TAG_BYTES), undefined, 'utf8') + decipher.final('utf8')
      } catch (error) {
        throw new SecretsError('a sealed value was damaged, or moved from where it belongs', { cause: error })
      }
    },
    isCurrent: (sealed) => sealed.startsWith(`v1:${current.id}:`),
  }
}

function parseKey(text: string): SecretsKey {
  const [id = '', encoded = '', ...rest] = text.trim().split(':')
  const key = Buffer.from(encoded, 'base64')
  if (!FORMAT.test(id) || rest.length > 0) throw new SecretsError('must be id:base64, several by comma')
  if (key.length !== 32) throw new SecretsError('must hold keys of 32 bytes; openssl rand -base64 32 makes one')
  return { id, key }
}

const FINGERPRINT = 'fingerprint'
const placeOf = (name: string) => `adapter_secrets.sealed/${name}`

/**
 * A keyed digest by which equal secrets are found without being readable. Its key is made once, is kept sealed in the adapter's
 * database, and stays the same when `ADAPTER_SECRETS_KEY` changes.
 *
 * @throws SecretsError the database was sealed with another key
 */
export async function openFingerprint(db: Kysely<any>, box: SecretBox): Promise<(text: string) => Buffer> {
  const fresh = box.seal(randomBytes(32).toString('base64'), placeOf(FINGERPRINT))
  await sql`insert into adapter_secrets (name, sealed) values (${FINGERPRINT}, ${fresh}) on conflict do nothing`.execute(
    db,
  )
  const { rows } = await sql<{ sealed: string }>`
    select sealed from adapter_secrets where name = ${FINGERPRINT}`.execute(db)
  const key = Buffer.from(box.open(rows[0]!.sealed, placeOf(FINGERPRINT)), 'base64')
  return (text) => createHmac('sha256', key).update(text).digest()
}

/** Seals the kit's own secrets under the key that seals now. May be repeated. */
export async function resealAdapterSecrets(db: Kysely<any>, box: SecretBox): Promise<void> {
  const { rows } = await sql<{ name: string; sealed: string }>`select name, sealed from adapter_secrets`.execute(db)
  for (const { name, sealed } of rows) {
    if (box.isCurrent(sealed)) continue
    const anew = box.seal(box.open(sealed, placeOf(name)), placeOf(name))
    await sql`update adapter_secrets set sealed = ${anew} where name = ${name} and sealed = ${sealed}`.execute(db)
  }
}
