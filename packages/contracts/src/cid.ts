import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex, concatBytes, hexToBytes } from '@noble/hashes/utils.js'
import { base32nopad, base58 } from '@scure/base'

/** catalog.md 1.1: the largest object of any kind; exactly this size is allowed. */
export const MAX_OBJECT_BYTES = 8_388_608
/** catalog.md 3.4: fixed chunk size, so also the most content one leaf block holds. */
export const CHUNK_BYTES = 262_144

const CHILDREN_PER_NODE = 174
const MULTIHASH_PREFIX = Uint8Array.of(0x12, 0x20)
const CID_V0 = /^Qm[1-9A-HJ-NP-Za-km-z]{44}$/
const CID_V1_BASE32 = /^b[a-z2-7]{58}$/
const DAG_PB = 0x70
const RAW = 0x55
const DIGEST = /^0x[0-9a-fA-F]{64}$/
const ZERO_DIGEST = /^0x0{64}$/

export interface UnixfsBlock {
  cid: string
  block: Uint8Array
}

/** Where there is a faster one than ours, such as the one of OpenSSL, it can be handed in. */
export type Sha256 = (bytes: Uint8Array) => Uint8Array

/** A block by its sha2-256, and how to read it. */
export type Cid = {
  codec: 'dag-pb' | 'raw'
  digest: Uint8Array
  /** One spelling for one block: CIDv0 for dag-pb, CIDv1 in base32 for raw. */
  text: string
}

interface DagNode {
  block: Uint8Array
  multihash: Uint8Array
  /** Bytes of content under this node. */
  contentBytes: number
  /** Bytes of all blocks from this node down: what dag-pb calls Tsize. */
  dagBytes: number
}

/** The CIDv0 of content, the root of its UnixFS file (catalog.md 3.4). It is not the hash of the bytes. */
export function cidV0(bytes: Uint8Array, hash: Sha256 = sha256): string {
  let root: DagNode | undefined
  for (const node of dagNodes(bytes, hash)) root = node
  return base58.encode(root!.multihash)
}

/** Every block of the UnixFS file over content, leaves first, root last (catalog.md 3.4). */
export function* unixfsBlocks(bytes: Uint8Array): Generator<UnixfsBlock> {
  for (const { multihash, block } of dagNodes(bytes, sha256)) yield { cid: base58.encode(multihash), block }
}

function* dagNodes(bytes: Uint8Array, hash: Sha256): Generator<DagNode> {
  let level: DagNode[] = []
  for (let start = 0; start === 0 || start < bytes.length; start += CHUNK_BYTES) {
    const node = leafNode(bytes.subarray(start, start + CHUNK_BYTES), hash)
    yield node
    level.push(linkable(node))
  }
  while (level.length > 1) {
    const parents: DagNode[] = []
    for (let first = 0; first < level.length; first += CHILDREN_PER_NODE) {
      const node = parentNode(level.slice(first, first + CHILDREN_PER_NODE), hash)
      yield node
      parents.push(linkable(node))
    }
    level = parents
  }
}

/** Without its block, so that hashing eight megabytes does not also hold them a second time. */
function linkable(node: DagNode): DagNode {
  return { ...node, block: new Uint8Array() }
}

function leafNode(content: Uint8Array, hash: Sha256): DagNode {
  const size = varint(content.length)
  const unixfs =
    content.length === 0
      ? Uint8Array.of(0x08, 0x02, 0x18, 0x00)
      : concatBytes(Uint8Array.of(0x08, 0x02, 0x12), size, content, Uint8Array.of(0x18), size)
  return dagNode([field(0x0a, unixfs)], content.length, 0, hash)
}

function parentNode(children: DagNode[], hash: Sha256): DagNode {
  const contentBytes = children.reduce((sum, child) => sum + child.contentBytes, 0)
  const links = children.map((child) =>
    // Hash, an empty Name, Tsize. The empty name is written out: leaving it off gives another CID.
    field(0x12, concatBytes(field(0x0a, child.multihash), Uint8Array.of(0x12, 0x00, 0x18), varint(child.dagBytes))),
  )
  const unixfs = concatBytes(
    Uint8Array.of(0x08, 0x02, 0x18),
    varint(contentBytes),
    ...children.map((child) => concatBytes(Uint8Array.of(0x20), varint(child.contentBytes))),
  )
  const below = children.reduce((sum, child) => sum + child.dagBytes, 0)
  return dagNode([...links, field(0x0a, unixfs)], contentBytes, below, hash)
}

function dagNode(fields: Uint8Array[], contentBytes: number, below: number, hash: Sha256): DagNode {
  const block = concatBytes(...fields)
  const multihash = concatBytes(MULTIHASH_PREFIX, hash(block))
  return { block, multihash, contentBytes, dagBytes: below + block.length }
}

/** A length-delimited protobuf field. */
function field(tag: number, value: Uint8Array): Uint8Array {
  return concatBytes(Uint8Array.of(tag), varint(value.length), value)
}

function varint(value: number): Uint8Array {
  const bytes: number[] = []
  // Division, not shifts: sizes may pass 2^31.
  for (; value > 0x7f; value = Math.floor(value / 0x80)) bytes.push((value % 0x80) | 0x80)
  bytes.push(value)
  return Uint8Array.from(bytes)
}

/** catalog.md 1.1: the form alone is not enough, `Qm` and 44 times `z` has it and is no sha2-256 multihash. */
export function isCidV0(text: unknown): text is string {
  return typeof text === 'string' && multihashOf(text) !== undefined
}

function multihashOf(cid: string): Uint8Array | undefined {
  if (!CID_V0.test(cid)) return undefined
  const multihash = base58.decode(cid)
  return multihash.length === 34 && multihash[0] === 0x12 && multihash[1] === 0x20 ? multihash : undefined
}

/**
 * A CID that content may be read by: CIDv0, or CIDv1 in lower-case base32 of a dag-pb or raw block (images published
 * elsewhere). Always sha2-256. A document of the catalog is named by CIDv0 alone: see isCidV0.
 */
export function parseCid(text: unknown): Cid | undefined {
  if (typeof text !== 'string') return undefined
  const multihash = multihashOf(text)
  if (multihash) return { codec: 'dag-pb', digest: multihash.subarray(2), text }
  if (!CID_V1_BASE32.test(text)) return undefined
  try {
    return decodeCid(base32nopad.decode(text.slice(1).toUpperCase()))
  } catch {
    // The last character has bits to spare; set, they would give one CID two spellings.
    return undefined
  }
}

/** The same in binary, as links between blocks have it. */
export function decodeCid(binary: Uint8Array): Cid | undefined {
  const codec = binary.length === 36 && binary[0] === 1 ? binary[1] : undefined
  if (binary.length !== 34 && codec !== DAG_PB && codec !== RAW) return undefined
  const multihash = binary.subarray(-34)
  if (multihash[0] !== MULTIHASH_PREFIX[0] || multihash[1] !== MULTIHASH_PREFIX[1]) return undefined
  const digest = multihash.subarray(2)
  if (codec === RAW) return { codec: 'raw', digest, text: `b${base32nopad.encode(binary).toLowerCase()}` }
  return { codec: 'dag-pb', digest, text: base58.encode(multihash) }
}

/** catalog.md 3.4: the name registry keeps the 32 bytes behind `12 20`. Throws unless given 32 bytes in hex. */
export function digestToCid(digest32: string): string {
  if (!DIGEST.test(digest32)) throw new TypeError('Not a digest of 32 bytes in 0x hex')
  return base58.encode(concatBytes(MULTIHASH_PREFIX, hexToBytes(digest32.slice(2))))
}

/** The reverse of digestToCid, as lower-case 0x hex. Throws unless given a CIDv0. */
export function cidToDigest(cid: string): string {
  const multihash = multihashOf(cid)
  if (!multihash) throw new TypeError('Not a CIDv0')
  return `0x${bytesToHex(multihash.subarray(2))}`
}

/** catalog.md 3.2: what the name registry answered, as a profile CID; an all-zero digest means no profile. */
export function profileCidOfDigest(digest32: string): string | undefined {
  return ZERO_DIGEST.test(digest32) ? undefined : digestToCid(digest32)
}
