import { parseNameIndexDoc, parseNamespaceChunk, parseProfile } from '@market/contracts/catalogDocuments'
import { isAddress } from '@market/contracts/address'
import { CanonicalJsonError, type JsonValue, parseStrictJsonBytes } from '@market/contracts/canonicalJson'
import { type PayloadRead, resolveNamespace, type WalkedChunk, type Winner } from '@market/contracts/namespaceWalk'
import { messageOf } from '@market/kit/errors'
import type { CatalogFault } from '../db/types.ts'
import { type Ipfs, IpfsMismatchError } from './ipfs/ipfs.ts'

const MAX_CHUNKS = 5000
const MAX_NAMESPACES = 16

export type ReadNamespace = {
  operator: string
  winners: Winner[]
  faults: CatalogFault[]
  dropped: { code: string; name: string }[]
  /** False when the walk broke off at something that could not be had just now: what was known of the rest stays. */
  walked: boolean
  /** False when anything could not be had just now: worth another try. */
  complete: boolean
}

export type ReadInput = {
  profileCid: string
  avatar: string
  chainId: number
  nowSeconds: number
  /** Products verified before, by CID: what an unreachable block said when it could be reached. */
  known: ReadonlyMap<string, JsonValue>
}

/** Documents that are bad for good. Anything else thrown on the way is taken for a passing fault. */
class BadDocumentError extends Error {}

const parseDocument = (bytes: Uint8Array): JsonValue => {
  try {
    return parseStrictJsonBytes(bytes)
  } catch (error) {
    if (error instanceof CanonicalJsonError) throw new BadDocumentError('Malformed JSON')
    throw error
  }
}

/**
 * Walks everything an avatar published, from its profile down, and keeps what verifies (catalog.md 4.4–4.6).
 * Throws when the profile itself can't be had or is bad; what goes wrong below it is a fault of its namespace.
 */
export async function readNamespaces(ipfs: Ipfs, input: ReadInput): Promise<ReadNamespace[]> {
  const profile = parseProfile(parseDocument(await ipfs.get(input.profileCid)))
  if (!profile.ok) throw new BadDocumentError(`profile: ${profile.at} ${profile.rule}`)
  const operators = Object.entries(profile.profile.namespaces ?? {})
    .filter(([operator]) => isAddress(operator))
    .slice(0, MAX_NAMESPACES)
  const namespaces: ReadNamespace[] = []
  for (const [operator, indexCid] of operators) {
    namespaces.push(await readNamespace(ipfs, operator, String(indexCid), input))
  }
  return namespaces
}

async function readNamespace(
  ipfs: Ipfs,
  operator: string,
  indexCid: string,
  { avatar, chainId, nowSeconds, known }: ReadInput,
): Promise<ReadNamespace> {
  const faults: CatalogFault[] = []
  let walked = true
  let complete = true
  const failed = (stage: string, cid: string, error: unknown) => {
    const permanent = isPermanent(error)
    if (!permanent) walked = complete = false
    faults.push({ stage, code: permanent ? 'BAD_DOCUMENT' : 'UNAVAILABLE', cid, message: describe(error) })
  }

  const chunks: WalkedChunk[] = []
  let next: string | null | undefined
  try {
    const index = parseNameIndexDoc(parseDocument(await ipfs.get(indexCid)))
    if (!index.ok) throw new BadDocumentError(`${index.at} ${index.rule}`)
    next = index.index.head
  } catch (error) {
    failed('index', indexCid, error)
  }
  while (next) {
    const cid: string = next
    try {
      if (chunks.length >= MAX_CHUNKS) throw new BadDocumentError(`more than ${MAX_CHUNKS} chunks`)
      const chunk = parseNamespaceChunk(parseDocument(await ipfs.get(cid)))
      if (!chunk.ok) throw new BadDocumentError(`${chunk.at} ${chunk.rule}`)
      chunks.push({ cid, links: chunk.chunk.links })
      next = chunk.chunk.prev
    } catch (error) {
      failed('chunk', cid, error)
      break
    }
  }

  const readPayload = async (cid: string): Promise<PayloadRead> => {
    try {
      return { kind: 'bytes', value: await ipfs.get(cid) }
    } catch (error) {
      const stored = known.get(cid)
      if (stored !== undefined) return { kind: 'bytes', value: new TextEncoder().encode(JSON.stringify(stored)) }
      complete = false
      return { kind: 'unavailable', reason: describe(error) }
    }
  }
  const scope = { avatar, chainId, window: { start: 0, end: nowSeconds } }
  const { winners, dropped, errors } = await resolveNamespace(chunks, scope, readPayload)
  faults.push(...errors.map(({ stage, code, cid, reason }) => ({ stage, code, cid, message: reason })))
  return { operator, winners, faults, walked, complete, dropped: dropped.map(({ code, name }) => ({ code, name })) }
}

/** Bytes that don't match their CID are not in here: another source may have the right ones. */
const isPermanent = (error: unknown) => error instanceof BadDocumentError

/** Never an upstream's own words: these faults are shown to anybody who reads the catalog. */
function describe(error: unknown): string {
  if (error instanceof BadDocumentError) return messageOf(error)
  return error instanceof IpfsMismatchError ? 'The bytes do not match the CID' : 'Not available at the moment'
}
