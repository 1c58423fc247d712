import { secp256k1 } from '@noble/curves/secp256k1.js'
import { keccak_256 } from '@noble/hashes/sha3.js'
import { bytesToHex, hexToBytes, utf8ToBytes } from '@noble/hashes/utils.js'
import {
  type JsonObject,
  type JsonValue,
  CanonicalJsonError,
  canonicalize,
  isJsonObject,
  refusesToSign,
} from './canonicalJson.ts'
import { isCidV0 } from './cid.ts'

export const LINK_CONTEXT = 'https://aboutcircles.com/contexts/circles-linking/'
/** catalog.md 1.1: how far after the end of the window a link may be signed. */
export const FUTURE_SKEW_SECONDS = 30

/** A signed pointer from a name to a payload (catalog.md 1.5). Members beyond these are kept and signed. */
export interface CustomDataLink {
  '@context': string
  '@type': string
  name: string
  cid: string
  encrypted: boolean
  encryptionAlgorithm?: string | null
  encryptionKeyFingerprint?: string | null
  chainId: number
  signerAddress: string
  signedAt: number
  nonce: string
  signature: string
  extensions?: JsonObject
  criticalExtensions?: string[] | null
  [member: string]: JsonValue | undefined
}

/** What a writer decides; `signLink` fills in the rest. */
export type LinkDraft = Pick<CustomDataLink, 'name' | 'cid' | 'chainId' | 'signedAt' | 'nonce'> &
  Partial<CustomDataLink>

/** Unix seconds, both ends inside. A window from a request has its `end` cut to now first (catalog.md 4.5). */
export interface LinkWindow {
  start: number
  end: number
}

/** catalog.md 2.8, checks 1 to 10. */
export type LinkFaultCode =
  | 'SHAPE'
  | 'ENVELOPE'
  | 'CHAIN'
  | 'WINDOW'
  | 'NONCE'
  | 'SIG_SHAPE'
  | 'SIG_VALUE'
  | 'SIG_V'
  | 'HIGH_S'
  | 'SIGNER'
  | 'CRITICAL_EXTENSION'
  | 'SIGNER_NOT_OWNER'
  | 'SIGNING_KEY'

export interface LinkFault {
  ok: false
  code: LinkFaultCode
  /** For people; never text from the link or from upstream. */
  reason: string
}

export interface ShapedLink {
  ok: true
  link: CustomDataLink
  /** `linkKeccak`: names the link, whatever its signature. A stored verdict is looked up by it. */
  digest: string
}

export interface SignedBy {
  ok: true
  /** Lower case. */
  signer: string
}

export interface VerifiedLink extends ShapedLink, SignedBy {}

/** The lower-case address a digest and a 65-byte signature lead to, if any. */
export type RecoverSigner = (digest: string, signature: string) => string | undefined

/** A draft that must not become a signed link. */
export class LinkSigningError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'LinkSigningError'
  }
}

const ADDRESS = /^0x[0-9a-fA-F]{40}$/
const NONCE = /^0x[0-9a-f]{32}$/
const FINGERPRINT = /^0x[0-9a-fA-F]+$/
const FINGERPRINT_OF_KEY = /^0x[0-9a-fA-F]{64}$/
const EOA_SIGNATURE = /^0x[0-9a-fA-F]{130}$/
const CURVE_ORDER = secp256k1.Point.Fn.ORDER

/**
 * The text whose hash is signed (catalog.md 2.1): absent encryption members put in as null, the top-level
 * signature out, everything else as stored. Throws CanonicalJsonError when there is no canonical form.
 */
export function linkPreimage(link: object): string {
  const { signature: _signature, ...signed }: Record<string, unknown> = {
    encryptionAlgorithm: null,
    encryptionKeyFingerprint: null,
    ...link,
  }
  return canonicalize(signed as JsonObject)
}

/** `linkKeccak`, Keccak-256 over the preimage as lower-case 0x hex (catalog.md 2.3). */
export function linkDigest(link: object): string {
  return `0x${bytesToHex(keccak_256(utf8ToBytes(linkPreimage(link))))}`
}

/** Checks 1 to 5 of catalog.md 2.8 and the digest: all that can be said without touching the signature. */
export function checkLinkShape(
  value: unknown,
  { chainId, window }: { chainId: number; window: LinkWindow },
): ShapedLink | LinkFault {
  const misshapen = shapeFault(value)
  if (misshapen) return fault('SHAPE', misshapen)
  const link = value as CustomDataLink
  const mislabelled = envelopeFault(link)
  if (mislabelled) return fault('ENVELOPE', mislabelled)
  if (link.chainId !== chainId) return fault('CHAIN', 'signed for another chain')
  if (link.signedAt < window.start) return fault('WINDOW', 'signed before the window')
  if (link.signedAt > window.end + FUTURE_SKEW_SECONDS) return fault('WINDOW', 'signed after the window')
  if (!NONCE.test(link.nonce)) return fault('NONCE', 'nonce is not 16 bytes in lower-case 0x hex')
  try {
    return { ok: true, link, digest: linkDigest(link) }
  } catch (error) {
    if (error instanceof CanonicalJsonError) return fault('SHAPE', 'no canonical form')
    throw error
  }
}

/**
 * Checks 6 to 8 of catalog.md 2.8 for an account without code. The recovery takes about 1.5 ms here, fifty times the
 * other checks together, so a server hands in a faster one; a good verdict holds for ever for this digest and
 * signature (catalog.md 4.7).
 */
export function verifyEoaSignature(
  link: CustomDataLink,
  digest: string,
  recover: RecoverSigner = recoverLinkSigner,
): SignedBy | LinkFault {
  if (!EOA_SIGNATURE.test(link.signature)) return fault('SIG_SHAPE', 'signature is not 65 bytes in 0x hex')
  const { r, s, v } = splitSignature(link.signature)
  if (!inCurveOrder(r) || !inCurveOrder(s)) return fault('SIG_VALUE', 'r or s is outside the curve order')
  if (v !== 27 && v !== 28) return fault('SIG_V', 'v is neither 27 nor 28')
  if (s > CURVE_ORDER / 2n) return fault('HIGH_S', 's is in the upper half of the curve order')
  const signer = recover(digest, link.signature)
  if (signer !== link.signerAddress.toLowerCase()) return fault('SIGNER', 'signature is not of signerAddress')
  return { ok: true, signer }
}

/** Who may sign product links in a namespace (catalog.md 2.8 check 10, market-api.md W-37). */
export interface LinkAuthority {
  /** The namespace's avatar. */
  owner: string
  /** `signingKeys` of the owner's profile, unchecked; the owner listed them there by a write on chain. */
  signingKeys?: JsonValue
  /** W33, an operator's choice: an owner that lists keys is held to them, its own key included. */
  holdToSigningKeys?: boolean
}

/** Checks 9 and 10 of catalog.md 2.8, for a link whose signature is good. */
export function checkSignedLink(link: CustomDataLink, authority: LinkAuthority): LinkFault | undefined {
  if (link.criticalExtensions?.length) return fault('CRITICAL_EXTENSION', 'no extension is implemented')
  if (!link.name.startsWith('product/')) return undefined
  const { owner, signingKeys, holdToSigningKeys = false } = authority
  const signer = link.signerAddress.toLowerCase()
  const keys = isJsonObject(signingKeys) ? Object.entries(signingKeys) : []
  const listed = keys.filter(([fingerprint]) => addressOfFingerprint(fingerprint) === signer)
  const covered = listed.some(([, key]) => keyCovers(key, link.signedAt))
  if (signer === owner.toLowerCase()) {
    if (!holdToSigningKeys || keys.length === 0 || covered) return undefined
    return fault('SIGNING_KEY', 'the owner lists signing keys, and none of them covers this link')
  }
  // W1, W2: a copied product link would otherwise move the product to whoever copied it.
  if (listed.length === 0) {
    return fault('SIGNER_NOT_OWNER', 'a product link counts only when the owner of the namespace may sign it')
  }
  return covered ? undefined : fault('SIGNING_KEY', "the owner's signing key did not cover the time of signing")
}

/** The account a signing key belongs to: the last 20 bytes of its fingerprint (catalog.md 2.6). */
function addressOfFingerprint(fingerprint: string): string | undefined {
  return FINGERPRINT_OF_KEY.test(fingerprint) ? `0x${fingerprint.slice(-40).toLowerCase()}` : undefined
}

/** catalog.md 1.2: from `validFrom` until `validTo` or `revokedAt`, where absent, null and 0 mean never. */
function keyCovers(key: JsonValue, at: number): boolean {
  if (!isJsonObject(key) || !Number.isSafeInteger(key.validFrom)) return false
  const ends = [key.validTo, key.revokedAt].filter((end) => end !== undefined && end !== null && end !== 0)
  return (key.validFrom as number) <= at && ends.every((end) => Number.isSafeInteger(end) && at < (end as number))
}

/** Checks 1 to 10 of catalog.md 2.8 for a link signed by an account without code. */
export function verifyLink(
  value: unknown,
  context: { chainId: number; window: LinkWindow } & LinkAuthority,
): VerifiedLink | LinkFault {
  const shaped = checkLinkShape(value, context)
  if (!shaped.ok) return shaped
  const signed = verifyEoaSignature(shaped.link, shaped.digest)
  if (!signed.ok) return signed
  return checkSignedLink(shaped.link, context) ?? { ...shaped, signer: signed.signer }
}

/**
 * The lower-case address a 65-byte signature over the digest belongs to (catalog.md 2.4), or undefined when it
 * belongs to nobody. High-s twins recover too: refusing them is check 7, not this function's.
 */
export function recoverLinkSigner(digest: string, signature: string): string | undefined {
  if (!EOA_SIGNATURE.test(signature)) return undefined
  const { r, s, v } = splitSignature(signature)
  try {
    const point = new secp256k1.Signature(r, s, v - 27).recoverPublicKey(hexToBytes(digest.slice(2)))
    return addressOfPublicKey(point.toBytes(false))
  } catch {
    return undefined
  }
}

/**
 * Signs a link as an account without code does (catalog.md 2.4: RFC 6979, low-s, v 27 or 28), members in the
 * order in which they are stored. Throws LinkSigningError for a draft that the write rule of 2.2 or the shape
 * rules of 1.5 refuse, or that names another signer than the key's.
 */
export function signLink(draft: LinkDraft, privateKey: string): CustomDataLink {
  const { name, cid, chainId, signedAt, nonce, signature: _signature, ...others } = draft
  const signerAddress = addressOfPrivateKey(privateKey)
  const unsigned = {
    '@context': LINK_CONTEXT,
    '@type': 'CustomDataLink',
    name,
    cid,
    encrypted: false,
    encryptionAlgorithm: null,
    encryptionKeyFingerprint: null,
    chainId,
    signerAddress,
    signedAt,
    nonce,
    ...others,
  }
  if (unsigned.signerAddress !== signerAddress) throw new LinkSigningError('signerAddress is not of this key')
  const refusal = refusesToSign(unsigned as JsonObject)
  if (refusal) throw new LinkSigningError(refusal)
  const shaped = checkLinkShape(
    { ...unsigned, signature: '0x' },
    { chainId, window: { start: signedAt, end: signedAt } },
  )
  if (!shaped.ok) throw new LinkSigningError(shaped.reason)
  return { ...unsigned, signature: signDigest(shaped.digest, privateKey) }
}

/** The lower-case address of a private key in 0x hex. */
export function addressOfPrivateKey(privateKey: string): string {
  return addressOfPublicKey(secp256k1.getPublicKey(hexToBytes(privateKey.slice(2)), false))
}

/** The lower-case address of a public key in its 65-byte uncompressed form (catalog.md 2.6). */
export function addressOfPublicKey(publicKey: Uint8Array): string {
  return `0x${bytesToHex(keccak_256(publicKey.subarray(1)).subarray(-20))}`
}

function signDigest(digest: string, privateKey: string): string {
  const bytes = secp256k1.sign(hexToBytes(digest.slice(2)), hexToBytes(privateKey.slice(2)), {
    prehash: false,
    lowS: true,
    format: 'recovered',
  })
  // noble puts the recovery id first, Ethereum puts v last.
  return `0x${bytesToHex(bytes.subarray(1))}${(27 + bytes[0]!).toString(16)}`
}

function splitSignature(signature: string): { r: bigint; s: bigint; v: number } {
  return {
    r: BigInt(signature.slice(0, 66)),
    s: BigInt(`0x${signature.slice(66, 130)}`),
    v: Number.parseInt(signature.slice(130), 16),
  }
}

function inCurveOrder(scalar: bigint): boolean {
  return scalar > 0n && scalar < CURVE_ORDER
}

function fault(code: LinkFaultCode, reason: string): LinkFault {
  return { ok: false, code, reason }
}

/** Check 1: core members present and of the right JSON type (catalog.md 1.5). */
function shapeFault(value: unknown): string | undefined {
  if (!isJsonObject(value)) return 'not an object'
  for (const member of ['@context', '@type', 'name', 'nonce', 'signature']) {
    if (typeof value[member] !== 'string') return `${member} is not a string`
  }
  if (value.name === '') return 'name is empty'
  if (!isCidV0(value.cid)) return 'cid is not a CIDv0'
  if (typeof value.encrypted !== 'boolean') return 'encrypted is not a boolean'
  for (const member of ['encryptionAlgorithm', 'encryptionKeyFingerprint']) {
    if (typeof (value[member] ?? '') !== 'string') return `${member} is neither a string nor null`
  }
  for (const member of ['chainId', 'signedAt']) {
    const number = value[member]
    if (!Number.isSafeInteger(number) || (number as number) < 0) return `${member} is not an integer`
  }
  if (typeof value.signerAddress !== 'string' || !ADDRESS.test(value.signerAddress)) {
    return 'signerAddress is not an address'
  }
  return extensionsFault(value)
}

function extensionsFault({ extensions, criticalExtensions }: JsonObject): string | undefined {
  if (extensions !== undefined && (!isJsonObject(extensions) || Object.hasOwn(extensions, ''))) {
    return 'extensions is not an object with non-empty keys'
  }
  const critical = criticalExtensions ?? []
  if (!Array.isArray(critical) || critical.some((key) => typeof key !== 'string')) {
    return 'criticalExtensions is not an array of strings'
  }
  return undefined
}

/** Check 2: the right kind of document, and encryption members that agree with `encrypted` (catalog.md 1.5). */
function envelopeFault(link: CustomDataLink): string | undefined {
  if (link['@context'] !== LINK_CONTEXT) return '@context is not that of a link'
  if (link['@type'] !== 'CustomDataLink') return '@type is not CustomDataLink'
  const algorithm = link.encryptionAlgorithm ?? null
  const fingerprint = link.encryptionKeyFingerprint ?? null
  if (!link.encrypted) {
    return algorithm === null && fingerprint === null ? undefined : 'encryption members on a link in clear'
  }
  return algorithm && fingerprint && FINGERPRINT.test(fingerprint) ? undefined : 'encryption members missing'
}
