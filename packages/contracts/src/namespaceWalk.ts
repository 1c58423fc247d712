import { type JsonValue, CanonicalJsonError, isJsonObject, parseStrictJsonBytes } from './canonicalJson.ts'
import {
  type DocumentFault,
  type NameIndexDoc,
  type NamespaceChunk,
  type Product,
  type StoredDocument,
  MAX_CHUNK_LINKS,
  NAMESPACE_CONTEXT,
  parseProduct,
  parseTombstone,
  skuOfLinkName,
  storedDocument,
} from './catalogDocuments.ts'
import {
  type CustomDataLink,
  type LinkFault,
  type LinkFaultCode,
  type LinkWindow,
  type SignedBy,
  type VerifiedLink,
  checkLinkShape,
  checkSignedLink,
  verifyEoaSignature,
} from './link.ts'

/** catalog.md 1.1: what lies further down a namespace is seen by no catalog. */
export const MAX_CHUNKS = 5000

/** A chunk as the walk head → prev → … met it; only position and links matter from here on. */
export interface WalkedChunk {
  cid: string
  links: readonly unknown[]
}

/** One avatar's namespace under one operator, seen through one window. */
export interface NamespaceScope {
  /** Owner of the namespace, lower case. */
  avatar: string
  chainId: number
  window: LinkWindow
  /** `signingKeys` of the owner's profile (market-api.md W-37). */
  signingKeys?: JsonValue
  holdToSigningKeys?: boolean
}

/** The members the total order of catalog.md 4.5 looks at. */
export interface LinkPosition {
  signedAt: number
  /** Chunks between the head (0) and this one. */
  depth: number
  indexInChunk: number
  avatar: string
  linkKeccak: string
}

/** A link that passed checks 1 to 10, and where it stands. */
export interface NamespaceLink extends LinkPosition {
  link: CustomDataLink
  signer: string
  chunkCid: string
}

export type DropCode = LinkFaultCode | 'NONCE_REPLAY' | 'DUPLICATE_LINK' | 'NOT_A_PRODUCT_NAME' | 'NOT_A_PRODUCT'

/** A link left out without an error entry; counted by code (catalog.md 2.8). */
export interface DroppedLink {
  avatar: string
  name: string
  code: DropCode
  chunkCid: string
  indexInChunk: number
}

/** Only the first is transient; the others hold as long as the payload's bytes do, which is for ever. */
export type PayloadFaultCode =
  'PAYLOAD_UNAVAILABLE' | 'PAYLOAD_REFUSED' | 'PAYLOAD_MALFORMED' | 'PAYLOAD_INVALID' | 'TYPE' | 'SKU_MISMATCH'

/** An entry for `errors` of the catalog (catalog.md 4.4). */
export interface WalkError {
  avatar: string
  /** `link` and `verify` name the chunk in `cid`, `payload` names the payload. */
  stage: 'link' | 'verify' | 'payload'
  cid: string
  code: 'SHAPE' | 'ENVELOPE' | PayloadFaultCode
  /** For people: our words, or those `readPayload` chose. */
  reason: string
  /** Position of the link in its chunk. */
  index: number
  /** Of a payload fault: which of the avatar's products it is about. */
  sku?: string
}

/**
 * Checks 6 to 8 for one link. The caller's version answers from stored verdicts by (digest, signature), asks the
 * chain for contract accounts, and may pause between links: recovering thousands in one go blocks the process.
 */
export type CheckSignature = (
  link: CustomDataLink,
  digest: string,
) => SignedBy | LinkFault | Promise<SignedBy | LinkFault>

/**
 * `json` is what `parseStrictJson` made of the bytes, for a caller who has it already. `bad` is for ever (verified bytes of no
 * use, too large); `unavailable` may be different next time.
 */
export type PayloadRead =
  | { kind: 'bytes'; value: Uint8Array }
  | { kind: 'json'; value: JsonValue }
  | { kind: 'unavailable'; reason: string }
  | { kind: 'bad'; reason: string; code?: PayloadFaultCode }

export type ReadPayload = (cid: string) => Promise<PayloadRead>

export interface Winner extends NamespaceLink {
  sku: string
  /** The payload as parsed, unknown members included. */
  product: Product
}

/** A product that its seller took back: the newest readable payload of the sku is a tombstone. */
export interface Buried extends NamespaceLink {
  sku: string
}

export interface Selection {
  winners: Winner[]
  tombstoned: Buried[]
  dropped: DroppedLink[]
  errors: WalkError[]
}

/** From the chunks of one namespace, newest first, to its products: catalog.md 4.5 and 4.6, NEW rules. */
export async function resolveNamespace(
  chunks: readonly WalkedChunk[],
  scope: NamespaceScope,
  readPayload: ReadPayload,
  options: { checkSignature?: CheckSignature; parallel?: number } = {},
): Promise<Selection> {
  const verified = await verifyNamespaceLinks(chunks, scope, options.checkSignature)
  const ordered = orderLinks(verified.links)
  const selected = await selectWinners(ordered.links, readPayload, options)
  return {
    ...selected,
    dropped: [...verified.dropped, ...ordered.dropped, ...selected.dropped],
    errors: [...verified.errors, ...selected.errors],
  }
}

/** Checks 1 to 10 of catalog.md 2.8 over a namespace; a fault of one link never touches another (W4). */
export async function verifyNamespaceLinks(
  chunks: readonly WalkedChunk[],
  scope: NamespaceScope,
  checkSignature: CheckSignature = verifyEoaSignature,
): Promise<{ links: NamespaceLink[]; dropped: DroppedLink[]; errors: WalkError[] }> {
  const { avatar } = scope
  const links: NamespaceLink[] = []
  const dropped: DroppedLink[] = []
  const errors: WalkError[] = []
  for (const [depth, chunk] of chunks.entries()) {
    for (const [indexInChunk, stored] of chunk.links.entries()) {
      const verdict = await verifyOne(stored, scope, checkSignature)
      if (verdict.ok) {
        const { link, digest, signer } = verdict
        const position = { signedAt: link.signedAt, depth, indexInChunk, avatar, linkKeccak: digest }
        links.push({ ...position, link, signer, chunkCid: chunk.cid })
      } else if (verdict.code === 'SHAPE' || verdict.code === 'ENVELOPE') {
        const { code, reason } = verdict
        const stage = code === 'SHAPE' ? 'link' : 'verify'
        errors.push({ avatar, stage, cid: chunk.cid, code, reason, index: indexInChunk })
      } else {
        const { name } = stored as CustomDataLink
        dropped.push({ avatar, name, code: verdict.code, chunkCid: chunk.cid, indexInChunk })
      }
    }
  }
  return { links, dropped, errors }
}

async function verifyOne(
  stored: unknown,
  scope: NamespaceScope,
  checkSignature: CheckSignature,
): Promise<VerifiedLink | LinkFault> {
  const shaped = checkLinkShape(stored, scope)
  if (!shaped.ok) return shaped
  const signed = await checkSignature(shaped.link, shaped.digest)
  if (!signed.ok) return signed
  return checkSignedLink(shaped.link, { ...scope, owner: scope.avatar }) ?? { ...shaped, signer: signed.signer }
}

/** The total order of catalog.md 4.5, NEW: negative when `a` comes first, that is, is the newer one. */
export function compareLinks(a: LinkPosition, b: LinkPosition): number {
  return (
    b.signedAt - a.signedAt ||
    a.depth - b.depth ||
    b.indexInChunk - a.indexInChunk ||
    compareText(a.avatar, b.avatar) ||
    compareText(a.linkKeccak, b.linkKeccak)
  )
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/**
 * Sorts verified links of any number of namespaces of one operator, newest first, then drops what repeats a
 * nonce of the same signer in the same namespace (catalog.md 2.7, 4.5). Sorting first makes the newest survive
 * whatever the order of arrival (W9); namespaces are told apart so that a copy elsewhere displaces nothing (W1).
 */
export function orderLinks(links: readonly NamespaceLink[]): { links: NamespaceLink[]; dropped: DroppedLink[] } {
  const kept: NamespaceLink[] = []
  const dropped: DroppedLink[] = []
  const keccakByNonce = new Map<string, string>()
  for (const candidate of links.toSorted(compareLinks)) {
    const { avatar, signer, link, linkKeccak } = candidate
    const nonceUse = `${avatar} ${signer} ${link.nonce}`
    const earlier = keccakByNonce.get(nonceUse)
    if (earlier === undefined) {
      keccakByNonce.set(nonceUse, linkKeccak)
      kept.push(candidate)
    } else {
      // The same link twice carries the same nonce twice, so this one filter finds both kinds.
      dropped.push(drop(candidate, earlier === linkKeccak ? 'DUPLICATE_LINK' : 'NONCE_REPLAY'))
    }
  }
  return { links: kept, dropped }
}

function drop({ avatar, link, chunkCid, indexInChunk }: NamespaceLink, code: DropCode): DroppedLink {
  return { avatar, name: link.name, code, chunkCid, indexInChunk }
}

/**
 * Reduces ordered links to products (catalog.md 4.6, NEW): per (avatar, sku) the newest payload that is a valid
 * product wins, a tombstone ends the search. A payload that is bad for ever gives way to the older link; one
 * that is merely out of reach leaves the sku out, or an old price, or a deleted product, would show (W10).
 * Older payloads are read only when needed, `parallel` skus at a time.
 */
export async function selectWinners(
  ordered: readonly NamespaceLink[],
  readPayload: ReadPayload,
  { parallel = 16 }: { parallel?: number } = {},
): Promise<Selection> {
  const selection: Selection = { winners: [], tombstoned: [], dropped: [], errors: [] }
  const bySku = new Map<string, { sku: string; candidates: NamespaceLink[] }>()
  for (const candidate of ordered) {
    const sku = skuOfLinkName(candidate.link.name)
    if (sku === undefined) {
      selection.dropped.push(drop(candidate, 'NOT_A_PRODUCT_NAME'))
      continue
    }
    const key = `${candidate.avatar} ${sku}`
    const group = bySku.get(key)
    if (group) group.candidates.push(candidate)
    else bySku.set(key, { sku, candidates: [candidate] })
  }

  const groups = bySku.values()
  const work = async (): Promise<void> => {
    // The iterator is shared: every worker takes the next sku that nobody has.
    for (const { sku, candidates } of groups) await selectOne(sku, candidates, readPayload, selection)
  }
  await Promise.all(Array.from({ length: Math.max(1, parallel) }, work))

  // Reads end in any order; answers must not depend on it.
  selection.winners.sort(compareLinks)
  selection.tombstoned.sort(compareLinks)
  selection.errors.sort((a, b) => compareText(a.avatar, b.avatar) || compareText(a.cid, b.cid) || a.index - b.index)
  selection.dropped.sort((a, b) => compareText(a.avatar, b.avatar) || compareText(a.name, b.name))
  return selection
}

async function selectOne(
  sku: string,
  candidates: NamespaceLink[],
  readPayload: ReadPayload,
  { winners, tombstoned, dropped, errors }: Selection,
): Promise<void> {
  for (const candidate of candidates) {
    const { avatar, indexInChunk, link } = candidate
    const finding = examinePayload(await readPayload(link.cid), sku)
    switch (finding.kind) {
      case 'product':
        winners.push({ ...candidate, sku, product: finding.product })
        return
      case 'tombstone':
        tombstoned.push({ ...candidate, sku })
        return
      case 'other':
        dropped.push(drop(candidate, 'NOT_A_PRODUCT'))
        break
      case 'fault': {
        const { code, reason } = finding
        errors.push({ avatar, stage: 'payload', cid: link.cid, code, reason, index: indexInChunk, sku })
        if (code === 'PAYLOAD_UNAVAILABLE') return
      }
    }
  }
}

type Finding =
  | { kind: 'product'; product: Product }
  | { kind: 'tombstone' }
  | { kind: 'other' }
  | { kind: 'fault'; code: PayloadFaultCode; reason: string }

function examinePayload(read: PayloadRead, sku: string): Finding {
  if (read.kind === 'unavailable') return { kind: 'fault', code: 'PAYLOAD_UNAVAILABLE', reason: read.reason }
  if (read.kind === 'bad') return { kind: 'fault', code: read.code ?? 'PAYLOAD_REFUSED', reason: read.reason }
  let payload: JsonValue
  try {
    payload = read.kind === 'json' ? read.value : parseStrictJsonBytes(read.value)
  } catch (error) {
    if (!(error instanceof CanonicalJsonError)) throw error
    return { kind: 'fault', code: 'PAYLOAD_MALFORMED', reason: error.message }
  }
  const type = isJsonObject(payload) ? payload['@type'] : undefined
  if (typeof type !== 'string') return { kind: 'fault', code: 'TYPE', reason: 'not an object with a string @type' }
  if (type === 'Product') {
    const parsed = parseProduct(payload)
    if (!parsed.ok) return invalid(parsed)
    return parsed.product.sku === sku ? { kind: 'product', product: parsed.product } : OTHER_SKU
  }
  if (type === 'Tombstone') {
    const parsed = parseTombstone(payload)
    if (!parsed.ok) return invalid(parsed)
    return parsed.tombstone.sku === sku ? { kind: 'tombstone' } : OTHER_SKU
  }
  return { kind: 'other' }
}

const OTHER_SKU: Finding = { kind: 'fault', code: 'SKU_MISMATCH', reason: 'sku is not that of the link' }

function invalid({ at, rule }: DocumentFault): Finding {
  return { kind: 'fault', code: 'PAYLOAD_INVALID', reason: `${at}: ${rule}` }
}

/** What one insert changes: pin `closed` when present, then `head`, then the index with `entries` set. */
export interface AppendedLink {
  head: StoredDocument<NamespaceChunk>
  /** The former head, its bytes untouched, when it was full. */
  closed?: StoredDocument<NamespaceChunk>
  entries: Record<string, string>
}

/**
 * Inserts a signed link into a namespace's head chunk, undefined when the namespace is empty (catalog.md 3.3).
 * A full head is closed first, even if it holds the link's name; otherwise a link of the same name is replaced
 * in place and the older one is gone. Names are compared as they are written.
 */
export function appendLink(head: StoredDocument<NamespaceChunk> | undefined, link: CustomDataLink): AppendedLink {
  const closed = head && head.document.links.length >= MAX_CHUNK_LINKS ? head : undefined
  const open: NamespaceChunk =
    head && !closed
      ? head.document
      : { '@context': NAMESPACE_CONTEXT, '@type': 'NamespaceChunk', prev: closed?.cid ?? null, links: [] }
  const links = [...open.links]
  const sameName = links.findLastIndex((stored) => nameOf(stored) === link.name)
  links[sameName === -1 ? links.length : sameName] = link as JsonValue
  const written = storedDocument({ ...open, links })
  const entries = Object.fromEntries([...(closed ? entriesOf(closed) : []), ...entriesOf(written)])
  return { head: written, ...(closed && { closed }), entries }
}

/** The index after one insert (catalog.md 3.3): known names keep their place, new ones follow in link order. */
export function appendToIndex(
  index: NameIndexDoc | undefined,
  { head, entries }: AppendedLink,
): StoredDocument<NameIndexDoc> {
  return storedDocument({
    ...(index ?? { '@context': NAMESPACE_CONTEXT, '@type': 'NameIndexDoc' }),
    head: head.cid,
    entries: { ...index?.entries, ...entries },
  })
}

function entriesOf({ cid, document }: StoredDocument<NamespaceChunk>): Array<[string, string]> {
  return document.links.flatMap((stored): Array<[string, string]> => {
    const name = nameOf(stored)
    return name === undefined ? [] : [[name, cid]]
  })
}

function nameOf(stored: JsonValue): string | undefined {
  return isJsonObject(stored) && typeof stored.name === 'string' ? stored.name : undefined
}
