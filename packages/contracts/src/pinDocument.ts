import {
  type JsonObject,
  type JsonValue,
  CanonicalJsonError,
  isJsonObject,
  parseStrictJsonBytes,
  refusesToSign,
} from './canonicalJson.ts'
import {
  type DocumentFault,
  type Rule,
  envelopeFault,
  fault,
  firstFault,
  isAbsent,
  MARKET_CONTEXT,
  NAMESPACE_CONTEXT,
  optionalMembers,
  parseImageObject,
  parseNameIndexDoc,
  parseNamespaceChunk,
  parseOffer,
  parseProduct,
  parseProfile,
  parseTombstone,
  PROFILE_CONTEXT,
  requiredText,
  SCHEMA_ORG_CONTEXT,
} from './catalogDocuments.ts'
import { isCidV0 } from './cid.ts'
import { type CustomDataLink, checkLinkShape, LINK_CONTEXT } from './link.ts'
import { isContractSignature } from './safeMessage.ts'

/** catalog.md 1.1. */
export const CHAT_CONTEXT = 'https://aboutcircles.com/contexts/circles-chat/'
/** catalog.md 1.1. */
export const GIST_CONTEXT = 'https://aboutcircles.com/contexts/circles-gist/'

/** A document that may be pinned. Pin the bytes it was read from, never this object written again (1.7). */
export interface PinnableDocument {
  ok: true
  type: string
  document: JsonObject
}

/** The first rule a document breaks, for the problem document of the pin endpoint (catalog.md 5.3). */
export interface PinFault {
  ok: false
  /** Path such as `offers[0].price`; `$` is the root, `requiredSlots[]` some element of that array. */
  at: string
  /** The same place as JSON pointer (RFC 6901): `/offers/0/price`, empty for the root, the array for `[]`. */
  pointer: string
  rule: string
}

interface Shape {
  contexts: string[]
  /** Readers compare the whole `@context` with it (catalog.md 1.1), so an array would pin and never be found. */
  plainContext?: string
  faultOf: (document: JsonObject) => DocumentFault | undefined
}

const LOWERCASE_ADDRESS = /^0x[0-9a-f]{40}$/
const NONCE = /^0x[0-9a-f]{32}$/
const HEX = /^0x[0-9a-fA-F]+$/
const DIGITS = /^[0-9]+$/

/**
 * Decides whether a request body may be pinned (catalog.md 5.2, 5.3): the strict side of one validator, whose
 * product rules are those of the catalog. Signatures are not verified. Never throws; the size is the caller's to check.
 */
export function parsePinDocument(bytes: Uint8Array): PinnableDocument | PinFault {
  let value: JsonValue
  try {
    value = parseStrictJsonBytes(bytes)
  } catch (error) {
    if (!(error instanceof CanonicalJsonError)) throw error
    return refusal(fault('$', 'malformed JSON'))
  }
  const wrong = documentFault(value)
  if (wrong) return refusal(wrong)
  const document = value as JsonObject
  return { ok: true, type: document['@type'] as string, document }
}

function refusal({ at, rule }: DocumentFault): PinFault {
  return { ok: false, at, pointer: pointerOf(at), rule }
}

/** Paths name only members that the rules here know, so none needs the escapes of RFC 6901. */
function pointerOf(at: string): string {
  if (at === '$') return ''
  return `/${at.replaceAll('[]', '').replaceAll('[', '.').replaceAll(']', '').split('.').join('/')}`
}

function documentFault(value: JsonValue): DocumentFault | undefined {
  const type = isJsonObject(value) ? value['@type'] : undefined
  const shape = typeof type === 'string' ? SHAPES.get(type) : undefined
  if (!shape) return envelopeFault(value, '', []) ?? fault('@type', 'unsupported shape')
  const wrong = envelopeFault(value, type as string, shape.contexts)
  if (wrong) return wrong
  const document = value as JsonObject
  if (shape.plainContext !== undefined && document['@context'] !== shape.plainContext) {
    return fault('@context', 'exact string')
  }
  return shape.faultOf(document)
}

/** catalog.md 5.2, one line of its table each. */
const SHAPES = new Map<string, Shape>([
  ['Profile', { contexts: [PROFILE_CONTEXT], plainContext: PROFILE_CONTEXT, faultOf: profileFault }],
  ['SigningKey', { contexts: [PROFILE_CONTEXT], faultOf: signingKeyFault }],
  ['CustomDataLink', { contexts: [LINK_CONTEXT], plainContext: LINK_CONTEXT, faultOf: linkFault }],
  ['BasicMessage', { contexts: [CHAT_CONTEXT], faultOf: messageFault }],
  ['Product', { contexts: [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT], faultOf: faultOf(parseProduct) }],
  ['Tombstone', { contexts: [MARKET_CONTEXT], faultOf: faultOf(parseTombstone) }],
  ['ImageObject', { contexts: [SCHEMA_ORG_CONTEXT], faultOf: faultOf(parseImageObject) }],
  ['Offer', { contexts: [SCHEMA_ORG_CONTEXT], faultOf: faultOf(parseOffer) }],
  ['NameIndexDoc', { contexts: [NAMESPACE_CONTEXT], plainContext: NAMESPACE_CONTEXT, faultOf: indexFault }],
  ['NamespaceChunk', { contexts: [NAMESPACE_CONTEXT], plainContext: NAMESPACE_CONTEXT, faultOf: chunkFault }],
  ['Snippet', { contexts: [GIST_CONTEXT], faultOf: snippetFault }],
])

function faultOf(parse: (value: unknown) => { ok: true } | DocumentFault): Shape['faultOf'] {
  return (document) => {
    const parsed = parse(document)
    return parsed.ok ? undefined : parsed
  }
}

/** A key in another case is never found, and a value that is no CIDv0 leads nowhere (catalog.md 4.4, 5.3). */
function profileFault(profile: JsonObject): DocumentFault | undefined {
  const wrong = faultOf(parseProfile)(profile)
  if (wrong) return wrong
  const namespaces = Object.entries(profile.namespaces ?? {})
  if (!namespaces.every(([operator]) => LOWERCASE_ADDRESS.test(operator))) {
    return fault('namespaces', 'lowercase address keys')
  }
  return namespaces.every(([, cid]) => isCidV0(cid)) ? undefined : fault('namespaces', 'CIDv0 values')
}

function signingKeyFault(key: JsonObject): DocumentFault | undefined {
  return (
    requiredText(key.publicKey, 'publicKey') ??
    integer(key.validFrom ?? null, 'validFrom') ??
    optionalMembers(key, '', { validTo: integer, revokedAt: integer })
  )
}

function messageFault(message: JsonObject): DocumentFault | undefined {
  return (
    lowercaseAddress(message.from ?? null, 'from') ??
    lowercaseAddress(message.to ?? null, 'to') ??
    requiredText(message.text, 'text') ??
    integer(message.ts ?? null, 'ts')
  )
}

function snippetFault(snippet: JsonObject): DocumentFault | undefined {
  if (typeof snippet.content !== 'string') return fault('content', 'string')
  return optionalMembers(snippet, '', {
    createdAt: integer,
    source: (value, at) => (isJsonObject(value) ? undefined : fault(at, 'object')),
  })
}

function indexFault(index: JsonObject): DocumentFault | undefined {
  const wrong = faultOf(parseNameIndexDoc)(index)
  if (wrong) return wrong
  for (const [name, cid] of Object.entries(index.entries as JsonObject)) {
    if (name.trim() === '') return fault('entries', 'non-blank keys')
    if (!isCidV0(cid)) return fault('entries', 'CIDv0')
  }
  return undefined
}

function chunkFault(chunk: JsonObject): DocumentFault | undefined {
  return faultOf(parseNamespaceChunk)(chunk) ?? firstFault(chunk.links as JsonValue[], 'links', chunkLinkFault)
}

/**
 * Links already in a chunk are held to what readers need, not to the stricter form of a new link: they are signed
 * and may have been stored for years, and a chunk is written again with each of its seller's changes.
 */
function chunkLinkFault(link: JsonValue, at: string): DocumentFault | undefined {
  const needed = ['name', 'cid', 'signerAddress', 'signature']
  if (!isJsonObject(link) || !needed.every((member) => Object.hasOwn(link, member))) {
    return fault(at, 'name, cid, signerAddress, signature needed')
  }
  if (!isReadable(link)) return fault(at, 'full link shape')
  const refused = refusesToSign(link)
  return refused === undefined ? undefined : fault(at, refused)
}

/** Checks 1, 2, 5 and 6 of catalog.md 2.8, which hold at any time and for any chain and account. */
function isReadable(link: JsonObject): boolean {
  const { chainId, signature } = link as CustomDataLink
  const shaped = checkLinkShape(link, { chainId, window: { start: 0, end: Infinity } })
  return shaped.ok && isContractSignature(signature)
}

function linkFault(link: JsonObject): DocumentFault | undefined {
  return (
    requiredText(link.name, 'name') ??
    (isCidV0(link.cid) ? undefined : fault('cid', 'CIDv0')) ??
    integer(link.chainId ?? null, 'chainId') ??
    integer(link.signedAt ?? null, 'signedAt') ??
    lowercaseAddress(link.signerAddress ?? null, 'signerAddress') ??
    nonceFault(link.nonce) ??
    signatureFault(link.signature) ??
    encryptionFault(link) ??
    extensionsFault(link) ??
    writeRuleFault(link)
  )
}

function nonceFault(nonce: JsonValue | undefined): DocumentFault | undefined {
  const formed = typeof nonce === 'string' && NONCE.test(nonce)
  return formed ? undefined : fault('nonce', '16 bytes in lower-case 0x hex')
}

/** Not only the 65 bytes of an account without code: links of a Safe carry longer ones, or `0x` (catalog.md 2.5). */
function signatureFault(signature: JsonValue | undefined): DocumentFault | undefined {
  const formed = typeof signature === 'string' && isContractSignature(signature)
  return formed ? undefined : fault('signature', '0x hex of at most 4,096 characters')
}

function encryptionFault(link: JsonObject): DocumentFault | undefined {
  if (typeof link.encrypted !== 'boolean') return fault('encrypted', 'boolean')
  const members = ['encryptionAlgorithm', 'encryptionKeyFingerprint']
  const missing = members.find((member) => link[member] === undefined)
  if (missing !== undefined) return fault(missing, 'member must be present')
  if (!link.encrypted) {
    const present = members.find((member) => link[member] !== null)
    return present === undefined ? undefined : fault(present, 'null unless encrypted')
  }
  for (const member of members) {
    const value = link[member]
    if (typeof value !== 'string' || value.trim() === '') return fault(member, 'non-empty')
  }
  const fingerprint = link.encryptionKeyFingerprint as string
  return HEX.test(fingerprint) ? undefined : fault('encryptionKeyFingerprint', '0x hex')
}

function extensionsFault({ extensions, criticalExtensions }: JsonObject): DocumentFault | undefined {
  if (extensions !== undefined) {
    if (!isJsonObject(extensions)) return fault('extensions', 'object')
    if (Object.keys(extensions).some((key) => key.trim() === '')) return fault('extensions', 'non-blank keys')
  }
  if (isAbsent(criticalExtensions)) return undefined
  if (!Array.isArray(criticalExtensions)) return fault('criticalExtensions', 'array')
  for (const key of criticalExtensions) {
    if (typeof key !== 'string' || key.trim() === '') return fault('criticalExtensions[]', 'non-empty string')
    if (extensions === undefined) return fault('criticalExtensions', 'needs extensions')
    if (!Object.hasOwn(extensions, key)) return fault('criticalExtensions[]', 'must name a key of extensions')
  }
  return undefined
}

/** catalog.md 2.2: other implementations would hash other bytes. */
function writeRuleFault(link: JsonObject): DocumentFault | undefined {
  const refused = refusesToSign(link)
  return refused === undefined ? undefined : fault('$', refused)
}

/** catalog.md 1.1: 0…2^53−1; the reference also takes digits in a string, and then cannot read them back. */
const integer: Rule = (value, at) => {
  if (typeof value === 'string' && DIGITS.test(value)) return fault(at, 'JSON integer')
  return Number.isSafeInteger(value) && (value as number) >= 0 ? undefined : fault(at, 'integer')
}

const lowercaseAddress: Rule = (value, at) =>
  typeof value === 'string' && LOWERCASE_ADDRESS.test(value) ? undefined : fault(at, 'lowercase address')
