import {
  CanonicalJsonError,
  type JsonObject,
  type JsonValue,
  isJsonObject,
  parseStrictJsonBytes,
} from '@market/contracts/canonicalJson'
import {
  type DocumentFault,
  type NameIndexDoc,
  type NamespaceChunk,
  type Profile,
  PROFILE_CONTEXT,
  type StoredDocument,
  namespaceEntry,
  parseNameIndexDoc,
  parseNamespaceChunk,
  parseProfile,
  parseTombstone,
  skuOfLinkName,
} from '@market/contracts/catalogDocuments'
import { isCidV0, profileCidOfDigest } from '@market/contracts/cid'
import {
  type CustomDataLink,
  FUTURE_SKEW_SECONDS,
  checkLinkShape,
  checkSignedLink,
  type LinkAuthority,
} from '@market/contracts/link'
import { type CheckSignature, compareLinks, type LinkPosition, MAX_CHUNKS } from '@market/contracts/namespaceWalk'
import { breather } from './concurrency.ts'
import { PublishError } from './publishError.ts'

/** What an avatar has published for one operator, and what it would be written over. */
export type OwnNamespace = {
  /** Undefined: the avatar has no profile yet. */
  profile?: Profile
  index?: NameIndexDoc
  head?: StoredDocument<NamespaceChunk>
  /** Newest first. */
  chunks: { cid: string; links: readonly JsonValue[] }[]
}

type Read = (cid: string) => Promise<Uint8Array>

/**
 * Follows registry digest → profile → index → chunks. What can't be had or read stops the writer, who would otherwise
 * write over other operators' namespaces or lose sight of products; with `startOver` it is taken for absent.
 */
export async function readOwnNamespace(
  read: Read,
  digest: string,
  { operator, startOver, onChunk }: { operator: string; startOver: boolean; onChunk: (chunks: number) => void },
): Promise<OwnNamespace> {
  const orAbsent = async <T>(work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work()
    } catch (error) {
      if (startOver && error instanceof PublishError) return undefined
      throw error
    }
  }
  const profileCid = profileCidOfDigest(digest)
  const profile = profileCid && (await orAbsent(() => readProfile(read, profileCid)))
  if (!profile) return { chunks: [] }
  const indexCid = namespaceEntry(profile, operator)
  if (indexCid === undefined) return { profile, chunks: [] }
  const namespace = await orAbsent(() => readChunks(read, String(indexCid), onChunk))
  return { profile, ...(namespace ?? { chunks: [] }) }
}

async function readProfile(read: Read, cid: string): Promise<Profile> {
  const document = await readJson(read, 'profile', cid)
  // Wallets wrote profiles before there were contexts; such a one is completed, not refused.
  const bare = isJsonObject(document) && document['@context'] === undefined && document['@type'] === undefined
  const parsed = parseProfile(bare ? { '@context': PROFILE_CONTEXT, '@type': 'Profile', ...document } : document)
  if (!parsed.ok) throw invalid('profile', cid, parsed)
  return parsed.profile
}

async function readChunks(read: Read, indexCid: string, onChunk: (chunks: number) => void) {
  const parsed = parseNameIndexDoc(await readJson(read, 'index', indexCid))
  if (!parsed.ok) throw invalid('index', indexCid, parsed)
  const chunks: OwnNamespace['chunks'] = []
  let head: StoredDocument<NamespaceChunk> | undefined
  let next: string | null | undefined = parsed.index.head
  while (next && chunks.length < MAX_CHUNKS) {
    const cid: string = next
    const bytes = await readBytes(read, 'chunk', cid)
    const { chunk } = chunkOf(bytes, cid)
    head ??= { document: chunk, bytes, cid }
    chunks.push({ cid, links: chunk.links })
    onChunk(chunks.length)
    next = chunk.prev
  }
  return { index: parsed.index, chunks, ...(head && { head }) }
}

function chunkOf(bytes: Uint8Array, cid: string): { chunk: NamespaceChunk } {
  const parsed = parseNamespaceChunk(parseJson(bytes, 'chunk', cid))
  if (!parsed.ok) throw invalid('chunk', cid, parsed)
  return parsed
}

async function readJson(read: Read, what: string, cid: string): Promise<JsonValue> {
  return parseJson(await readBytes(read, what, cid), what, cid)
}

async function readBytes(read: Read, what: string, cid: string): Promise<Uint8Array> {
  if (!isCidV0(cid)) throw new PublishError('unreadable', `the ${what} is named by what is no CIDv0`)
  try {
    return await read(cid)
  } catch (error) {
    throw new PublishError('unavailable', `the published ${what} ${cid} can't be had`, { cause: error })
  }
}

function parseJson(bytes: Uint8Array, what: string, cid: string): JsonValue {
  try {
    return parseStrictJsonBytes(bytes)
  } catch (error) {
    if (!(error instanceof CanonicalJsonError)) throw error
    throw new PublishError('unreadable', `the published ${what} ${cid} is no JSON: ${error.message}`)
  }
}

function invalid(what: string, cid: string, { at, rule }: DocumentFault): PublishError {
  return new PublishError('unreadable', `the published ${what} ${cid} breaks a rule: ${at}: ${rule}`)
}

/** A link of the namespace that would count if its signature is good, and where it stands. */
export type StandingLink = LinkPosition & { link: CustomDataLink }

/** What the namespace says of its skus, newest link first; signatures are checked when somebody asks, and once. */
export type Standing = {
  skus(): Iterable<string>
  /** The newest link of a sku if its signature is good. */
  newest(sku: string): StandingLink | undefined
  /** The newest link of a sku that the catalog goes by. */
  current(sku: string): Promise<StandingLink | undefined>
  /** Links that will come to count later, because they carry a date in the future. */
  future(sku: string): Promise<StandingLink[]>
}

type Candidate = StandingLink & { signer: string; good?: Promise<boolean> }

export async function standingOf(
  { chunks }: OwnNamespace,
  scope: LinkAuthority & { chainId: number; nowSeconds: number; checkSignature: CheckSignature },
): Promise<Standing> {
  const candidates: Candidate[] = []
  const breathe = breather()
  for (const [depth, { links }] of chunks.entries()) {
    candidates.push(
      ...links.flatMap((stored, indexInChunk) => candidateOf(stored, { depth, indexInChunk }, scope) ?? []),
    )
    await breathe()
  }
  candidates.sort(compareLinks)

  const bySku = new Map<string, Candidate[]>()
  const byNonce = new Map<string, Candidate[]>()
  for (const candidate of candidates) {
    const sku = skuOfLinkName(candidate.link.name)
    if (sku !== undefined) push(bySku, sku, candidate)
    push(byNonce, nonceUse(candidate), candidate)
  }

  const isGood = (candidate: Candidate): Promise<boolean> => {
    candidate.good ??= (async () => (await scope.checkSignature(candidate.link, candidate.linkKeccak)).ok)()
    return candidate.good
  }
  const isFuture = ({ signedAt }: Candidate) => signedAt > scope.nowSeconds + FUTURE_SKEW_SECONDS
  /** Of links with one nonce only the newest good one counts (catalog.md 2.7). */
  const counts = async (candidate: Candidate): Promise<boolean> => {
    if (!(await isGood(candidate))) return false
    for (const rival of byNonce.get(nonceUse(candidate))!) {
      if (rival === candidate) return true
      if (!isFuture(rival) && (await isGood(rival))) return false
    }
    return true
  }

  return {
    skus: () => bySku.keys(),
    newest: (sku) => bySku.get(sku)?.[0],
    async current(sku) {
      for (const candidate of bySku.get(sku) ?? []) {
        if (!isFuture(candidate) && (await counts(candidate))) return candidate
      }
      return undefined
    },
    async future(sku) {
      const found: StandingLink[] = []
      for (const candidate of bySku.get(sku) ?? []) {
        if (isFuture(candidate) && (await isGood(candidate))) found.push(candidate)
      }
      return found
    },
  }
}

function candidateOf(
  stored: JsonValue,
  place: { depth: number; indexInChunk: number },
  scope: LinkAuthority & { chainId: number },
): Candidate | undefined {
  // Every date passes here; which ones count now is told apart later.
  const window = { start: 0, end: Number.MAX_SAFE_INTEGER }
  const shaped = checkLinkShape(stored, { chainId: scope.chainId, window })
  if (!shaped.ok || checkSignedLink(shaped.link, scope)) return undefined
  const { link, digest } = shaped
  const signer = link.signerAddress.toLowerCase()
  return { ...place, link, signer, signedAt: link.signedAt, avatar: scope.owner, linkKeccak: digest }
}

const nonceUse = ({ signer, link }: Candidate) => `${signer} ${link.nonce}`

function push<T>(groups: Map<string, T[]>, key: string, item: T): void {
  const group = groups.get(key)
  if (group) group.push(item)
  else groups.set(key, [item])
}

/** Whether a payload takes its product back. Bytes that are not there or not to be read are no tombstone. */
export async function isTombstone(read: Read, cid: string, sku: string): Promise<boolean> {
  try {
    const parsed = parseTombstone(parseStrictJsonBytes(await read(cid)) as JsonObject)
    return parsed.ok && parsed.tombstone.sku === sku
  } catch {
    return false
  }
}
