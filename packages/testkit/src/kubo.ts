import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

/** How a file is cut into blocks. Unset: as Kubo did for years. */
export type FileShape = {
  /** 262,144 by default. */
  chunkBytes?: number
  /** Links of a node, 174 by default. */
  children?: number
  /** Leaves that are the content itself, under a CIDv1, instead of dag-pb nodes. */
  rawLeaves?: boolean
  /** How blocks name each other and how the root is called, 0 by default. */
  cidVersion?: 0 | 1
}

export type Block = { bytes: Uint8Array; content: Uint8Array; links: string[]; isDirectory?: boolean }

type Node = { key: string; cid: Buffer; size: number; dagSize: number }

const CHUNK_BYTES = 262_144

/**
 * The blocks of a file by CID: dag-pb ones under their CIDv0, raw ones under their CIDv1. Independent of
 * `@market/contracts/cid`, so that each can be measured by the other.
 * @returns root as Kubo prints it, and the key it has among the blocks
 */
export function encodeFile(
  content: Uint8Array,
  { chunkBytes = CHUNK_BYTES, children = 174, rawLeaves = false, cidVersion = 0 }: FileShape = {},
) {
  const blocks = new Map<string, Block>()
  const keep = (codec: number, bytes: Buffer, part: Uint8Array, below: Node[]): Node => {
    const multihash = Buffer.concat([Buffer.of(0x12, 0x20), createHash('sha256').update(bytes).digest()])
    const v1 = Buffer.concat([Buffer.of(1, codec), multihash])
    const key = codec === RAW ? base32(v1) : base58(multihash)
    blocks.set(key, { bytes, content: part, links: below.map((node) => node.key) })
    return {
      key,
      cid: codec === RAW || cidVersion === 1 ? v1 : multihash,
      size: part.length + below.reduce((sum, node) => sum + node.size, 0),
      dagSize: bytes.length + below.reduce((sum, node) => sum + node.dagSize, 0),
    }
  }
  const fileNode = (part: Uint8Array, below: Node[]) => {
    const links = below.map(({ cid, dagSize }) =>
      field(2, Buffer.concat([field(1, cid), field(2, Buffer.alloc(0)), number(3, dagSize)])),
    )
    const size = part.length + below.reduce((sum, node) => sum + node.size, 0)
    const sizes = below.map((node) => number(4, node.size))
    const data = part.length > 0 ? [field(2, part)] : []
    const unixfs = Buffer.concat([number(1, 2), ...data, number(3, size), ...sizes])
    return keep(DAG_PB, Buffer.concat([...links, field(1, unixfs)]), part, below)
  }

  const leaves: Node[] = []
  for (let at = 0; at === 0 || at < content.length; at += chunkBytes) {
    const part = content.subarray(at, at + chunkBytes)
    leaves.push(rawLeaves ? keep(RAW, Buffer.from(part), part, []) : fileNode(part, []))
  }
  let level = leaves
  while (level.length > 1) {
    const parents: Node[] = []
    for (let at = 0; at < level.length; at += children) {
      parents.push(fileNode(new Uint8Array(), level.slice(at, at + children)))
    }
    level = parents
  }
  const root = level[0]!
  return { root: root.cid.length === 36 ? base32(root.cid) : root.key, key: root.key, blocks }
}

const RAW = 0x55
const DAG_PB = 0x70

function field(tag: number, value: Uint8Array) {
  return Buffer.concat([varint(tag * 8 + 2), varint(value.length), value])
}

function number(tag: number, value: number) {
  return Buffer.concat([varint(tag * 8), varint(value)])
}

function varint(value: number): Buffer {
  return value < 128
    ? Buffer.of(value)
    : Buffer.concat([Buffer.of((value % 128) + 128), varint(Math.floor(value / 128))])
}

function base58(bytes: Buffer): string {
  const digits = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'
  let rest = BigInt(`0x${bytes.toString('hex')}`)
  let text = ''
  for (; rest > 0n; rest /= 58n) text = digits[Number(rest % 58n)]! + text
  return text
}

function base32(bytes: Buffer): string {
  const digits = 'abcdefghijklmnopqrstuvwxyz234567'
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('')
  return `b${bits
    .match(/.{1,5}/g)!
    .map((five) => digits[parseInt(five.padEnd(5, '0'), 2)])
    .join('')}`
}

/**
 * What goes wrong: `down` breaks the connection; `hang` answers nothing until the fault is lifted; `searching` does so for
 * blocks that are missing, as a Kubo does that is not offline; `error` answers 500; `wrong bytes` changes the first byte of
 * content; `endless` sends content that never ends.
 */
export type Fault = 'down' | 'hang' | 'searching' | 'error' | 'wrong bytes' | 'endless'

export type KuboStandIn = {
  url: string
  blocks: Map<string, Block>
  pins: Set<string>
  /** What was asked for, as `cat?arg=Qm…`, in order. */
  calls: string[]
  /** Bytes of content written to connections so far. */
  bytesSent(): number
  /** Holds these bytes as a file of any shape, unpinned; gives the CID as Kubo prints it. */
  hold(content: Uint8Array, shape?: FileShape): string
  /** From now on, for the commands given or for all, and for so many calls. Without a kind: all is well again. */
  fault(kind?: Fault, only?: { commands?: string[]; times?: number }): void
  stop(): Promise<void>
}

/**
 * Of a Kubo's RPC what a market needs. Files are kept as blocks, so that one can be lost, altered, or cut in another way.
 * What `add` isn't told is done as nobody expects, since Kubo's defaults change as well.
 */
export async function startKubo(options: { bearer?: string } = {}): Promise<KuboStandIn> {
  const blocks = new Map<string, Block>()
  const pins = new Set<string>()
  const calls: string[] = []
  /** Keys of dag-pb blocks that were named by a CIDv1. */
  const keys = new Map<string, string>()
  let sent = 0
  let fault: { kind: Fault; commands: string[] | undefined; left: number } | undefined
  const waiting: (() => void)[] = []

  const hold = (content: Uint8Array, shape?: FileShape) => {
    const { root, key, blocks: made } = encodeFile(content, shape)
    for (const [cid, block] of made) blocks.set(cid, block)
    keys.set(root, key)
    return root
  }
  const untilLifted = () => new Promise<void>((go) => waiting.push(go))
  const takeFault = (command: string): Fault | undefined => {
    if (!fault || (fault.commands && !fault.commands.includes(command))) return undefined
    const { kind } = fault
    fault.left -= 1
    if (fault.left === 0) fault = undefined
    return kind
  }

  const refuse = (response: ServerResponse, message: string) =>
    response.writeHead(500).end(JSON.stringify({ Message: message, Code: 0, Type: 'error' }))

  const send = async (response: ServerResponse, parts: Iterable<Uint8Array>, kind: Fault | undefined) => {
    const counted = async function* () {
      let first = true
      for (const part of parts) {
        const bytes = Buffer.from(part)
        if (first && kind === 'wrong bytes') bytes[0] = (bytes[0] ?? 0) ^ 1
        first = false
        sent += bytes.length
        yield bytes
      }
    }
    // The other side may hang up as soon as it has had enough.
    await pipeline(Readable.from(counted()), response).catch(() => {})
  }

  /** The blocks from here down, content first to last; the one that is missing by its key. */
  const walk = (key: string): { missing: string } | { found: Block[] } => {
    const block = blocks.get(key)
    if (!block) return { missing: key }
    const found = [block]
    for (const link of block.links) {
      const below = walk(link)
      if ('missing' in below) return below
      found.push(...below.found)
    }
    return { found }
  }

  const answer = async (
    command: string,
    query: URLSearchParams,
    body: Uint8Array,
    request: IncomingMessage,
    response: ServerResponse,
  ) => {
    const kind = takeFault(command)
    if (kind === 'down') return request.socket.destroy()
    if (kind === 'error') return refuse(response, 'disk quota exceeded')
    if (kind === 'hang') await untilLifted()
    const missing = async (key: string) => {
      if (kind === 'searching') await untilLifted()
      refuse(response, `block was not found locally (offline): ipld: could not find ${key}`)
    }
    const arg = query.get('arg') ?? ''
    const key = keys.get(arg) ?? arg
    switch (command) {
      case 'version':
        return response.end('{"Version":"0.39.0"}')
      case 'add': {
        const shape = shapeOf(query)
        if (typeof shape === 'string') return refuse(response, shape)
        const headers = { 'content-type': request.headers['content-type']! }
        const form = await new Response(body as Uint8Array<ArrayBuffer>, { headers }).formData()
        const root = hold(new Uint8Array(await (form.get('file') as File).arrayBuffer()), shape)
        if (query.get('pin') !== 'false') pins.add(keys.get(root)!)
        return response.end(`${JSON.stringify({ Name: root, Hash: root, Size: String(body.length) })}\n`)
      }
      case 'cat': {
        const walked = walk(key)
        if ('missing' in walked) return missing(walked.missing)
        if (walked.found[0]!.isDirectory) return refuse(response, 'this dag node is a directory')
        const length = walked.found.reduce((sum, { content }) => sum + content.length, 0)
        if (kind === 'endless') return send(response, endless(), kind)
        response.setHeader('x-content-length', length)
        return send(
          response,
          walked.found.map(({ content }) => content),
          kind,
        )
      }
      case 'block/get': {
        const block = blocks.get(key)
        if (!block) return missing(key)
        return send(response, kind === 'endless' ? endless() : [block.bytes], kind)
      }
      case 'pin/add': {
        const walked = walk(key)
        if ('missing' in walked) return missing(walked.missing)
        pins.add(key)
        return response.end(JSON.stringify({ Pins: [arg] }))
      }
      case 'pin/rm':
        if (!pins.delete(key)) return refuse(response, 'not pinned or pinned indirectly')
        return response.end(JSON.stringify({ Pins: [arg] }))
      case 'pin/ls': {
        if (arg && !pins.has(key)) return refuse(response, `path '${arg}' is not pinned`)
        const listed = arg ? [arg] : [...pins]
        return response.end(
          JSON.stringify({ Keys: Object.fromEntries(listed.map((cid) => [cid, { Type: 'recursive' }])) }),
        )
      }
      default:
        return response.writeHead(404).end('404 page not found')
    }
  }

  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const { pathname, search, searchParams } = new URL(request.url!, 'http://kubo')
    const command = pathname.replace(/^\/api\/v0\//, '')
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    calls.push(`${command}${search}`)
    if (request.method !== 'POST') return response.writeHead(405).end()
    if (options.bearer !== undefined && request.headers.authorization !== `Bearer ${options.bearer}`) {
      return response.writeHead(403).end('Kubo RPC Access Denied')
    }
    await answer(command, searchParams, Buffer.concat(chunks), request, response)
  }
  const server = createServer((request, response) => {
    // Who hangs up in the middle of a request gets no answer.
    handle(request, response).catch(() => request.socket.destroy())
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')

  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    blocks,
    pins,
    calls,
    bytesSent: () => sent,
    hold,
    fault(kind, { commands, times = Infinity } = {}) {
      fault = kind && { kind, commands, left: times }
      for (const go of waiting.splice(0)) go()
    },
    async stop() {
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
  }
}

/** What `add` was told, or what it refuses. */
function shapeOf(query: URLSearchParams): FileShape | string {
  const chunker = /^size-(\d+)$/.exec(query.get('chunker') ?? 'size-1048576')
  if (!chunker) return 'unrecognized chunker option'
  if ((query.get('hash') ?? 'sha2-256') !== 'sha2-256') return 'unrecognized hash function'
  for (const option of ['trickle', 'wrap-with-directory']) {
    if (query.get(option) !== 'false') return `${option} is not done here`
  }
  return {
    chunkBytes: Number(chunker[1]),
    rawLeaves: query.get('raw-leaves') !== 'false',
    cidVersion: query.get('cid-version') === '0' ? 0 : 1,
  }
}

function* endless(): Generator<Uint8Array> {
  const part = new Uint8Array(65_536)
  for (;;) yield part
}
