import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex, concatBytes } from '@noble/hashes/utils.js'
import { type Block, encodeFile, type FileShape } from '@market/testkit/kubo'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { cidV0, digestToCid, MAX_OBJECT_BYTES, parseCid, unixfsBlocks } from './cid.ts'
import { MAX_FILE_BLOCKS, MAX_FILE_DEPTH, readUnixfsFile, UnixfsError } from './unixfs.ts'

const generated = (size: number) => Uint8Array.from({ length: size }, (_, index) => index % 251)

class NoSuchBlockError extends Error {}

/** Blocks by CID, and which of them were asked for. */
function storeOf(blocks: Iterable<[string, Uint8Array]>) {
  const held = new Map(blocks)
  const asked: string[] = []
  const getBlock = async (cid: string) => {
    asked.push(cid)
    const block = held.get(cid)
    if (!block) throw new NoSuchBlockError(cid)
    return block
  }
  return { held, asked, getBlock }
}

const bytesOf = (blocks: Map<string, Block>) =>
  [...blocks].map(([cid, { bytes }]): [string, Uint8Array] => [cid, bytes])

const shapes: fc.Arbitrary<FileShape> = fc.record({
  chunkBytes: fc.integer({ min: 1, max: 40 }),
  children: fc.integer({ min: 2, max: 5 }),
  rawLeaves: fc.boolean(),
  cidVersion: fc.constantFrom(0, 1),
})

const failsWith = (fault: string) => expect.objectContaining({ constructor: UnixfsError, fault })

describe('reading a file by its blocks', () => {
  it('gives what our own encoder took, of any size', async () => {
    const sizes = [0, 1, 127, 128, 262_144, 262_145, 1_048_577, MAX_OBJECT_BYTES]
    for (const size of sizes) {
      const content = generated(size)
      const { getBlock, asked } = storeOf([...unixfsBlocks(content)].map(({ cid, block }) => [cid, block]))
      const read = await readUnixfsFile(parseCid(cidV0(content))!, getBlock, MAX_OBJECT_BYTES)
      expect(Buffer.compare(read, content), String(size)).toBe(0)
      expect(asked.length).toBeLessThanOrEqual(33)
    }
  })

  it('gives what was put in, whatever the chunks, the layout, the leaves and the CIDs', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), shapes, async (content, shape) => {
        const { root, blocks } = encodeFile(content, shape)
        expect(await readUnixfsFile(parseCid(root)!, storeOf(bytesOf(blocks)).getBlock, 300)).toEqual(content)
      }),
      { numRuns: 300 },
    )
  })

  it('catalog:29 refuses the file when any block of it is altered, however little', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ minLength: 1, maxLength: 200 }),
        shapes,
        fc.nat(),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        async (content, shape, which, where, change) => {
          const { root, blocks } = encodeFile(content, shape)
          const { held, getBlock } = storeOf(bytesOf(blocks))
          const cid = [...held.keys()][which % held.size]!
          const altered = new Uint8Array(held.get(cid)!)
          altered[where % altered.length]! ^= change
          held.set(cid, altered)
          await expect(readUnixfsFile(parseCid(root)!, getBlock, 300)).rejects.toEqual(failsWith('mismatch'))
        },
      ),
    )
  })

  it('is too large by the size its root says, before any other block is read', async () => {
    const { root, blocks } = encodeFile(new Uint8Array(101), { chunkBytes: 10 })
    const { getBlock, asked } = storeOf(bytesOf(blocks))
    await expect(readUnixfsFile(parseCid(root)!, getBlock, 100)).rejects.toEqual(failsWith('too_large'))
    expect(asked).toEqual([root])
    expect(await readUnixfsFile(parseCid(root)!, getBlock, 101)).toHaveLength(101)

    const raw = encodeFile(new Uint8Array(101), { rawLeaves: true })
    const leaf = storeOf(bytesOf(raw.blocks))
    await expect(readUnixfsFile(parseCid(raw.root)!, leaf.getBlock, 100)).rejects.toEqual(failsWith('too_large'))
  })

  it('passes on what the store throws', async () => {
    const { root, blocks } = encodeFile(generated(100), { chunkBytes: 10 })
    const { held, getBlock } = storeOf(bytesOf(blocks))
    held.delete([...held.keys()][3]!)
    await expect(readUnixfsFile(parseCid(root)!, getBlock, 100)).rejects.toThrow(NoSuchBlockError)
  })
})

/** Blocks written by hand, well-formed or not. */
const varint = (value: number): Uint8Array =>
  value < 128 ? Uint8Array.of(value) : concatBytes(Uint8Array.of((value % 128) + 128), varint(Math.floor(value / 128)))
const number = (tag: number, value: number) => concatBytes(varint(tag * 8), varint(value))
const field = (tag: number, value: Uint8Array) => concatBytes(varint(tag * 8 + 2), varint(value.length), value)
const unixfs = (...fields: Uint8Array[]) => field(1, concatBytes(...fields))
const FILE = number(1, 2)
const cidOf = (block: Uint8Array) => parseCid(digestToCid(`0x${bytesToHex(sha256(block))}`))!
const multihash = (block: Uint8Array) => concatBytes(Uint8Array.of(0x12, 0x20), sha256(block))
const link = (block: Uint8Array) => field(2, field(1, multihash(block)))

/** The last block is the root. */
const readAll = (...blocks: Uint8Array[]) => {
  const { getBlock, asked } = storeOf(blocks.map((block) => [cidOf(block).text, block]))
  return { asked, content: readUnixfsFile(cidOf(blocks.at(-1)!), getBlock, 1000) }
}
const leaf = unixfs(FILE, field(2, Uint8Array.of(1, 2, 3)), number(3, 3))

describe('a block that anybody may have made', () => {
  it('may carry content of its own besides that below it, fields in another order, mode and time', async () => {
    const own = field(2, Uint8Array.of(9))
    const extras = concatBytes(number(7, 0o644), field(8, Uint8Array.of(8, 1)))
    const root = concatBytes(unixfs(extras, number(4, 3), number(3, 4), own, FILE), link(leaf))
    expect(await readAll(leaf, root).content).toEqual(Uint8Array.of(9, 1, 2, 3))
    const oldLeaf = unixfs(number(1, 0), field(2, Uint8Array.of(7)))
    expect(await readAll(oldLeaf).content).toEqual(Uint8Array.of(7))
  })

  it.each([
    ['a directory', unixfs(number(1, 1))],
    ['a description', unixfs(number(1, 3))],
    ['a symbolic link', unixfs(number(1, 4), field(2, Uint8Array.of(0x61)))],
    ['a part of a large directory', unixfs(number(1, 5), number(5, 0x22), number(6, 256))],
    ['of no type', unixfs(number(3, 0))],
    ['without UnixFS', link(leaf)],
    ['nothing', new Uint8Array()],
  ])('is no file when it is %s', async (_, block) => {
    await expect(readAll(leaf, block).content).rejects.toEqual(failsWith('not_a_file'))
  })

  it.each([
    ['a size that is not the sum', unixfs(FILE, field(2, Uint8Array.of(1)), number(3, 2))],
    ['a child shorter than said', concatBytes(link(leaf), unixfs(FILE, number(3, 4), number(4, 4)))],
    ['a child longer than said', concatBytes(link(leaf), unixfs(FILE, number(3, 2), number(4, 2)))],
    ['a child without a size', concatBytes(link(leaf), unixfs(FILE, number(3, 0)))],
    ['a size without a child', unixfs(FILE, number(3, 3), number(4, 3))],
    ['a link without a CID', concatBytes(field(2, number(3, 3)), unixfs(FILE, number(4, 3)))],
    [
      'a link by another hash',
      concatBytes(field(2, field(1, Uint8Array.of(0x16, 0x20, ...sha256(leaf)))), unixfs(FILE, number(4, 3))),
    ],
    [
      'a link of another kind',
      concatBytes(field(2, field(1, Uint8Array.of(1, 0x71, ...multihash(leaf)))), unixfs(FILE, number(4, 3))),
    ],
    [
      'a link of content itself',
      concatBytes(field(2, field(1, Uint8Array.of(1, 0x55, 0, 1, 7))), unixfs(FILE, number(4, 1))),
    ],
    ['two UnixFS parts', concatBytes(leaf, leaf)],
    ['an unknown field', concatBytes(leaf, number(3, 1))],
    ['an unknown field inside', unixfs(FILE, number(9, 1))],
    ['a number without an end', unixfs(FILE, Uint8Array.of(0x18, ...new Uint8Array(30).fill(0x80)), number(3, 0))],
    // In places that are not looked at otherwise: 7 is the mode of a file, 8 its time.
    ['a number of eleven bytes', unixfs(FILE, Uint8Array.of(0x38, ...new Uint8Array(10).fill(0x80), 0))],
    ['a number past 2^53', unixfs(FILE, number(7, 2 ** 53))],
    ['a length past the end', unixfs(FILE, Uint8Array.of(0x42, 100, 1))],
    ['a fixed number', unixfs(FILE, Uint8Array.of(0x3d, 3, 0, 0, 0))],
    [
      'a link with an unknown field',
      concatBytes(field(2, concatBytes(field(1, multihash(leaf)), number(4, 1))), unixfs(FILE, number(4, 3))),
    ],
  ])('is refused with %s', async (_, block) => {
    await expect(readAll(leaf, block).content).rejects.toEqual(failsWith('malformed'))
  })

  it('is not followed into millions of others that are always the same', async () => {
    const blocks = [unixfs(FILE, number(3, 0))]
    for (let level = 0; level < 20; level += 1) {
      const below = link(blocks.at(-1)!)
      blocks.push(concatBytes(below, below, unixfs(FILE, number(3, 0), number(4, 0), number(4, 0))))
    }
    const { asked, content } = readAll(...blocks)
    await expect(content).rejects.toEqual(failsWith('malformed'))
    expect(asked).toHaveLength(MAX_FILE_BLOCKS)
  })

  it('is not followed without end', async () => {
    const chain = (levels: number) => {
      const blocks = [leaf]
      for (let level = 0; level < levels; level += 1) {
        blocks.push(concatBytes(link(blocks.at(-1)!), unixfs(FILE, number(3, 3), number(4, 3))))
      }
      return readAll(...blocks)
    }
    expect(await chain(MAX_FILE_DEPTH).content).toHaveLength(3)
    await expect(chain(MAX_FILE_DEPTH + 1).content).rejects.toEqual(failsWith('malformed'))
  })

  it('never does worse than be refused, whatever its bytes', async () => {
    const outcome = (work: Promise<Uint8Array>) =>
      work.then(
        (content) => content.length <= 1000,
        (error) => error instanceof UnixfsError || error instanceof NoSuchBlockError,
      )
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 80 }), async (block) => {
        expect(await outcome(readAll(block).content)).toBe(true)
      }),
      { numRuns: 1000 },
    )
    // Closer to what is read: a root with some bytes changed, under the CID it has then.
    const changes = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 })
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 60 }), shapes, changes, async (content, shape, edits) => {
        const { key, blocks } = encodeFile(content, { ...shape, rawLeaves: false })
        const root = new Uint8Array(blocks.get(key)!.bytes)
        for (const [where, byte] of edits) root[where % root.length] = byte
        expect(await outcome(readAll(...[...blocks.values()].map(({ bytes }) => bytes), root).content)).toBe(true)
      }),
      { numRuns: 1000 },
    )
  })
})
