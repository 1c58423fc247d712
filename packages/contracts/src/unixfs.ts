import { sha256 } from '@noble/hashes/sha2.js'
import { concatBytes } from '@noble/hashes/utils.js'
import { type Cid, decodeCid, type Sha256 } from './cid.ts'

/**
 * Blocks a file may be made of, counted as often as they occur in it: a block of no content can link itself into millions.
 * Eight megabytes in the chunks anybody uses are 33.
 */
export const MAX_FILE_BLOCKS = 4096
/** Far more levels than any layout gives eight megabytes. */
export const MAX_FILE_DEPTH = 32

/** Types of UnixFS nodes with content; the others are directories, symbolic links and what describes them. */
const CONTENT_TYPES = [0 /* Raw */, 2 /* File */]

export type UnixfsFault = 'mismatch' | 'malformed' | 'not_a_file' | 'too_large'

/**
 * Why blocks make no file. All but `mismatch` (a block is not the one asked for) are facts about the CID itself and stay true
 * whoever is asked.
 */
export class UnixfsError extends Error {
  readonly fault: UnixfsFault

  constructor(fault: UnixfsFault, message: string) {
    super(message)
    this.fault = fault
  }
}

type FileNode = {
  /** Content in this very block; it comes before that of the children. */
  data: Uint8Array
  children: { cid: Cid; contentBytes: number }[]
  /** Content in this block and below it. */
  contentBytes: number
}

/**
 * The content of a file of any chunking and layout, whose blocks come from anybody: each is checked against its hash before
 * it is believed (catalog.md 3.5). `getBlock` is asked for one block at a time, by `Cid.text`; it caps what it reads, and
 * what it throws is passed on.
 * Throws `UnixfsError`; `too_large` without reading further than to the block that says so.
 */
export async function readUnixfsFile(
  root: Cid,
  getBlock: (cid: string) => Promise<Uint8Array>,
  maxBytes: number,
  hash: Sha256 = sha256,
): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let blocks = 0

  const read = async (cid: Cid, depth: number): Promise<FileNode> => {
    blocks += 1
    if (blocks > MAX_FILE_BLOCKS) throw new UnixfsError('malformed', `more than ${MAX_FILE_BLOCKS} blocks`)
    if (depth > MAX_FILE_DEPTH) throw new UnixfsError('malformed', `more than ${MAX_FILE_DEPTH} levels`)
    const block = await getBlock(cid.text)
    if (!sameBytes(hash(block), cid.digest)) throw new UnixfsError('mismatch', `a block does not match ${cid.text}`)
    return cid.codec === 'raw' ? { data: block, children: [], contentBytes: block.length } : decodeFileNode(block)
  }
  const append = async ({ data, children }: FileNode, depth: number): Promise<void> => {
    parts.push(data)
    for (const { cid, contentBytes } of children) {
      const child = await read(cid, depth + 1)
      // Readers that skip by these sizes and readers that count must see the same content.
      if (child.contentBytes !== contentBytes) throw new UnixfsError('malformed', `${cid.text} is not as long as said`)
      await append(child, depth + 1)
    }
  }

  const top = await read(root, 0)
  if (top.contentBytes > maxBytes) throw new UnixfsError('too_large', `more than ${maxBytes} bytes`)
  await append(top, 0)
  return concatBytes(...parts)
}

function decodeFileNode(block: Uint8Array): FileNode {
  const links: Cid[] = []
  let unixfs: Uint8Array | undefined
  for (const { number, value } of protobufFields(block)) {
    if (number === 1 && typeof value !== 'number' && !unixfs) unixfs = value
    else if (number === 2 && typeof value !== 'number') links.push(decodeLink(value))
    else throw malformed('dag-pb')
  }
  if (!unixfs) throw new UnixfsError('not_a_file', 'a node without UnixFS')

  let type: number | undefined
  let data: Uint8Array = new Uint8Array()
  let said: number | undefined
  const sizes: number[] = []
  for (const { number, value } of protobufFields(unixfs)) {
    if (number === 1 && typeof value === 'number') type = value
    else if (number === 2 && typeof value !== 'number') data = value
    else if (number === 3 && typeof value === 'number') said = value
    else if (number === 4 && typeof value === 'number') sizes.push(value)
    // Hash type and fan-out of directories, mode and modification time of files: nothing about the content.
    else if (number < 5 || number > 8) throw malformed('UnixFS')
  }
  if (type === undefined || !CONTENT_TYPES.includes(type)) {
    throw new UnixfsError('not_a_file', 'a node that is no file, such as a directory')
  }
  if (sizes.length !== links.length) throw malformed('UnixFS')
  const contentBytes = sizes.reduce((sum, size) => sum + size, data.length)
  if (said !== undefined && said !== contentBytes) throw malformed('UnixFS')
  return { data, children: links.map((cid, index) => ({ cid, contentBytes: sizes[index]! })), contentBytes }
}

function decodeLink(bytes: Uint8Array): Cid {
  let cid: Cid | undefined
  for (const { number, value } of protobufFields(bytes)) {
    // Name and Tsize follow the hash; a file needs neither.
    if (number === 1 && typeof value !== 'number' && !cid) cid = decodeCid(value)
    else if (number !== 2 && number !== 3) throw malformed('link')
  }
  if (!cid) throw malformed('link')
  return cid
}

/** Only what dag-pb and UnixFS use: numbers, and bytes with their length. */
function* protobufFields(bytes: Uint8Array): Generator<{ number: number; value: number | Uint8Array }> {
  let at = 0
  const varint = () => {
    let value = 0
    for (let scale = 1; scale <= 2 ** 63; scale *= 0x80) {
      const byte = bytes[at++]
      if (byte === undefined) break
      value += (byte & 0x7f) * scale
      if (value > Number.MAX_SAFE_INTEGER) break
      if (byte < 0x80) return value
    }
    throw malformed('varint')
  }
  while (at < bytes.length) {
    const tag = varint()
    const [number, wireType] = [Math.floor(tag / 8), tag % 8]
    if (wireType !== 0 && wireType !== 2) throw malformed('wire type')
    const value = varint()
    if (wireType === 0) {
      yield { number, value }
      continue
    }
    if (value > bytes.length - at) throw malformed('length')
    yield { number, value: bytes.subarray(at, at + value) }
    at += value
  }
}

const malformed = (what: string) => new UnixfsError('malformed', `not well-formed: ${what}`)

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index])
}
