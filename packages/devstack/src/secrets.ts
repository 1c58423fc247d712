import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { causeOf, DevstackError } from './errors.ts'

/** What the services of one data folder share or keep to themselves. Made once; the databases know these passwords. */
export interface Secrets {
  postgresPassword: string
  marketPassword: string
  codedispPassword: string
  serviceKey: string
  /** Of the adapters, for what lies sealed in their databases. */
  adapterSecretsKey: string
  jwtPrivateKey: string
}

const FILE = 'secrets.json'
const secret = () => randomBytes(24).toString('base64url')
const newSecretsKey = () => `dev:${randomBytes(32).toString('base64')}`

/** The folder's secrets, made on first use. Throws `DevstackError` when the file is there and makes no sense. */
export async function openSecrets(dataDir: string): Promise<Secrets> {
  const path = join(dataDir, FILE)
  const existing = await readSecrets(dataDir)
  if (existing?.adapterSecretsKey) return existing
  // A folder made before adapters sealed anything has all but that key.
  const secrets: Secrets = existing
    ? { ...existing, adapterSecretsKey: newSecretsKey() }
    : {
        postgresPassword: secret(),
        marketPassword: secret(),
        codedispPassword: secret(),
        serviceKey: secret(),
        adapterSecretsKey: newSecretsKey(),
        jwtPrivateKey: JSON.stringify(generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' })),
      }
  try {
    await mkdir(dataDir, { recursive: true })
    // Renamed into place: a crash here must not leave half a file that no later start can read.
    await writeFile(`${path}.new`, `${JSON.stringify(secrets, null, 2)}\n`, { mode: 0o600 })
    await rename(`${path}.new`, path)
  } catch (error) {
    throw new DevstackError(
      `${path} can't be written (${causeOf(error)}); make room or correct the owner of its folder`,
    )
  }
  return secrets
}

/** As `openSecrets`, without making any. */
export async function readSecrets(dataDir: string): Promise<Secrets | undefined> {
  const path = join(dataDir, FILE)
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new DevstackError(`${path} can't be read (${causeOf(error)}); correct its owner or its mode`)
  }
  const secrets = parse(text)
  if (secrets) return secrets
  throw new DevstackError(`${path} is corrupted; restore it, or delete the folder ${dataDir} to begin anew`)
}

function parse(text: string): Secrets | undefined {
  try {
    const read = JSON.parse(text) as Secrets
    const { postgresPassword, marketPassword, codedispPassword, serviceKey, jwtPrivateKey } = read
    const secrets = { postgresPassword, marketPassword, codedispPassword, serviceKey, jwtPrivateKey }
    const isWhole = Object.values(secrets).every((value) => typeof value === 'string' && value !== '')
    return isWhole ? { ...secrets, adapterSecretsKey: read.adapterSecretsKey ?? '' } : undefined
  } catch {
    return undefined
  }
}
