import { readFileSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { cidToDigest, cidV0, digestToCid, MAX_OBJECT_BYTES } from '@market/contracts/cid'
import { StartupError } from '@market/kit/errors'
import { encodeFile, type KuboStandIn, startKubo } from '@market/testkit/kubo'
import { until } from '@market/testkit/until'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { openEmbeddedIpfs } from './embedded.ts'
import { type Ipfs, IpfsMismatchError, IpfsTooLargeError, IpfsUnavailableError } from './ipfs.ts'
import { connectKubo } from './kubo.ts'

const vector = (name: string) =>
  readFileSync(new URL(`../../../../packages/contracts/vectors/${name}`, import.meta.url))
const cids = JSON.parse(vector('cids.json').toString()) as {
  small: { id: string; text: string; cidV0: string }[]
  generated: { size: number; cidV0: string }[]
  digestRoundTrip: { cidV0: string }
  bad: { id: string; value: string }[]
}
const negative = JSON.parse(vector('negative.json').toString()) as {
  documents: { id: string; cid?: string; bytesOf?: string }[]
}

const realFetch = globalThis.fetch
const utf8 = (text: string) => new TextEncoder().encode(text)
const generated = (size: number) => {
  const bytes = new Uint8Array(size)
  for (let index = 0; index < size; index += 1) bytes[index] = index % 251
  return bytes
}
const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0
const unavailable = (reason: string) =>
  expect.toSatisfy((error) => error instanceof IpfsUnavailableError && error.reason === reason, reason)

const undo: (() => Promise<unknown>)[] = []
afterEach(async () => {
  vi.restoreAllMocks()
  for (const step of undo.splice(0).toReversed()) await step()
})

/** Stops the clock that absences are measured by. */
const stopClockAt = (ms: number) => vi.spyOn(performance, 'now').mockReturnValue(ms)

async function newFolder() {
  const dir = await mkdtemp(join(tmpdir(), 'ipfs-test-'))
  undo.push(() => rm(dir, { recursive: true, force: true }))
  return dir
}

async function newKubo(options?: { bearer: string }) {
  const kubo = await startKubo(options)
  undo.push(() => kubo.stop())
  return kubo
}

/** A store, and what goes on behind its back. */
type Case = {
  /** Somebody who uses it for the first time: nothing in memory. */
  open(): Promise<Ipfs>
  /** Makes these bytes what it keeps under a CID. */
  plant(cid: string, bytes: Uint8Array): Promise<void>
  lose(cid: string): Promise<void>
  isPinned(cid: string): Promise<boolean>
  breakDown(): Promise<void>
}

const cases: [string, () => Promise<Case>][] = [
  [
    'embedded',
    async () => {
      const dir = await newFolder()
      const fileOf = (cid: string) => join(dir, cid.slice(-2), cid)
      return {
        open: () => openEmbeddedIpfs(dir),
        async plant(cid, bytes) {
          await mkdir(join(dir, cid.slice(-2)), { recursive: true })
          await writeFile(fileOf(cid), bytes)
        },
        lose: (cid) => rm(fileOf(cid)),
        isPinned: (cid) =>
          stat(fileOf(cid)).then(
            () => true,
            () => false,
          ),
        breakDown: () => rm(dir, { recursive: true }),
      }
    },
  ],
  [
    'kubo',
    async () => {
      const kubo = await newKubo()
      return {
        open: async () => connectKubo(kubo.url, { timeoutMs: 20_000 }),
        async plant(cid, bytes) {
          const { key, blocks } = encodeFile(bytes)
          kubo.blocks.set(cid, blocks.get(key)!)
        },
        lose: async (cid) => void kubo.blocks.delete(cid),
        isPinned: async (cid) => kubo.pins.has(cid),
        breakDown: async () => kubo.fault('down'),
      }
    },
  ],
]

describe.each(cases)('IPFS, %s', (kind, newCase) => {
  it.each(cids.small)('catalog:23 puts and gets $id under its CID', async ({ text, cidV0: cid }) => {
    const { open } = await newCase()
    const ipfs = await open()
    expect(ipfs.kind).toBe(kind)
    expect(await ipfs.put(utf8(text))).toBe(cid)
    expect(new TextDecoder().decode(await ipfs.get(cid))).toBe(text)
    expect(new TextDecoder().decode(await (await open()).get(cid))).toBe(text)
  })

  it('catalog:23 catalog:28 puts and gets up to 8 MiB under the listed CIDs', async () => {
    const { open } = await newCase()
    const [ipfs, other] = [await open(), await open()]
    for (const { size, cidV0: cid } of cids.generated) {
      expect(await ipfs.put(generated(size))).toBe(cid)
      expect(same(await other.get(cid), generated(size)), String(size)).toBe(true)
    }
    expect(cids.generated.at(-1)!.size).toBe(MAX_OBJECT_BYTES)
  })

  it('catalog:28 takes nothing above 8 MiB', async () => {
    const ipfs = await (await newCase()).open()
    const tooLarge = new Uint8Array(MAX_OBJECT_BYTES + 1)
    await expect(ipfs.put(tooLarge)).rejects.toThrow(IpfsTooLargeError)
    await expect(ipfs.get(cidV0(tooLarge))).rejects.toEqual(unavailable('missing'))
  })

  // The v1 among them is a CID as such, only not one of a document: isCidV0 and the shape rules refuse it there.
  it.each(cids.bad)('catalog:24 refuses $id', async ({ id, value }) => {
    const ipfs = await (await newCase()).open()
    const expected = id === 'cidv1-base32' ? unavailable('missing') : expect.any(IpfsMismatchError)
    await expect(ipfs.get(value)).rejects.toEqual(expected)
    if (id !== 'cidv1-base32') await expect(ipfs.unpin(value)).rejects.toThrow(IpfsMismatchError)
  })

  it('catalog:25 finds what a digest of the name registry names', async () => {
    const { open } = await newCase()
    const cid = await (await open()).put(utf8('{"@type":"Profile"}'))
    expect(await (await open()).get(digestToCid(cidToDigest(cid)))).toEqual(utf8('{"@type":"Profile"}'))
    await expect((await open()).get(cids.digestRoundTrip.cidV0)).rejects.toEqual(unavailable('missing'))
  })

  it('catalog:27 refuses bytes that do not match their CID, and takes the right ones as soon as they are there', async () => {
    const { cid, bytesOf } = negative.documents.find(({ id }) => id === 'bytes-do-not-match-cid')!
    const [right, wrong] = [vector(`catalog/blocks/${cid}.json`), vector(`catalog/blocks/${bytesOf}.json`)]
    expect([cidV0(right), cidV0(wrong)]).toEqual([cid, bytesOf])
    const { open, plant } = await newCase()
    const ipfs = await open()
    await plant(cid!, wrong)
    for (const time of [1, 2]) await expect(ipfs.get(cid!), `time ${time}`).rejects.toThrow(IpfsMismatchError)
    await plant(cid!, right)
    expect(same(await ipfs.get(cid!), right)).toBe(true)
  })

  it('gives the same bytes by the CIDv1 of the same block', async () => {
    const { open } = await newCase()
    const content = generated(200_000)
    const cid = await (await open()).put(content)
    const { root, key } = encodeFile(content, { cidVersion: 1 })
    expect([root, key]).toEqual([expect.stringMatching(/^bafybei/), cid])
    expect(same(await (await open()).get(root), content)).toBe(true)
  })

  it('remembers for ten seconds that something was missing, but not against what is put', async () => {
    const { open, plant } = await newCase()
    const ipfs = await open()
    const [first, second] = [utf8('first'), utf8('second')]
    stopClockAt(1000)
    for (const content of [first, second]) {
      await expect(ipfs.get(cidV0(content))).rejects.toEqual(unavailable('missing'))
    }
    await plant(cidV0(first), first)
    stopClockAt(10_999)
    await expect(ipfs.get(cidV0(first))).rejects.toEqual(unavailable('missing'))
    await ipfs.put(second)
    expect(await ipfs.get(cidV0(second))).toEqual(second)
    stopClockAt(11_000)
    expect(await ipfs.get(cidV0(first))).toEqual(first)
  })

  it('has in memory what it verified, and nobody can change it there', async () => {
    const { open, plant, lose } = await newCase()
    const [read, written] = [utf8('was read'), utf8('was written')]
    const ipfs = await open()
    await plant(cidV0(read), read)
    const [got, gotAtOnce] = await Promise.all([ipfs.get(cidV0(read)), ipfs.get(cidV0(read))])
    const given = new Uint8Array(written)
    await ipfs.put(given)
    for (const bytes of [got, given]) bytes.fill(0)
    expect(gotAtOnce).toEqual(read)
    for (const content of [read, written]) {
      await lose(cidV0(content))
      for (const time of [1, 2]) {
        const bytes = await ipfs.get(cidV0(content))
        expect(bytes, `time ${time}`).toEqual(content)
        bytes.fill(0)
      }
    }
  })

  it('keeps no more than 16 MiB in memory', async () => {
    const { open, lose } = await newCase()
    const ipfs = await open()
    const contents = [1, 2, 3].map((filler) => new Uint8Array(6 * 1024 * 1024).fill(filler))
    const [used, oldest, newest] = contents.map((content) => cidV0(content)) as [string, string, string]
    for (const content of [contents[0]!, contents[0]!, contents[1]!]) await ipfs.put(content)
    await ipfs.get(used)
    await ipfs.put(contents[2]!)
    for (const cid of [used, oldest, newest]) await lose(cid)
    for (const cid of [used, newest]) expect(await ipfs.get(cid)).toHaveLength(6 * 1024 * 1024)
    await expect(ipfs.get(oldest)).rejects.toEqual(unavailable('missing'))
  })

  it('pins what is put, unpins it, and does so twice without complaint', async () => {
    const { open, isPinned, lose } = await newCase()
    const ipfs = await open()
    const cid = await ipfs.put(utf8('for a while'))
    expect(await isPinned(cid)).toBe(true)
    await ipfs.unpin(cid)
    expect(await isPinned(cid)).toBe(false)
    if (kind === 'kubo') await lose(cid)
    await ipfs.unpin(cid)
    await expect(ipfs.get(cid)).rejects.toEqual(unavailable('missing'))
    await ipfs.put(utf8('for a while'))
    expect(await isPinned(cid)).toBe(true)
  })

  it('says so when the store is gone, and can be used again when it is back', async () => {
    const { open, breakDown } = await newCase()
    const ipfs = await open()
    await ipfs.check()
    await breakDown()
    await expect(ipfs.check()).rejects.toThrow(IpfsUnavailableError)
    await expect(ipfs.get(cidV0(utf8('x')))).rejects.toThrow(IpfsUnavailableError)
  })
})

describe('the embedded store', () => {
  it('writes nothing again that is there, puts right what was damaged, and leaves no other files', async () => {
    const dir = await newFolder()
    const ipfs = await openEmbeddedIpfs(dir)
    const cid = await ipfs.put(utf8('the bytes'))
    const folder = join(dir, cid.slice(-2))
    const before = await stat(join(folder, cid))
    await ipfs.put(utf8('the bytes'))
    expect(await stat(join(folder, cid))).toMatchObject({ ino: before.ino, mtimeMs: before.mtimeMs })
    await writeFile(join(folder, cid), 'THE BYTES')
    await ipfs.put(utf8('the bytes'))
    expect(await readFile(join(folder, cid), 'utf8')).toBe('the bytes')
    expect(await readdir(folder)).toEqual([cid])
  })

  it('is shared by writers of the same content at the same time', async () => {
    const dir = await newFolder()
    const stores = await Promise.all([1, 2, 3, 4].map(() => openEmbeddedIpfs(dir)))
    const content = generated(300_000)
    const named = await Promise.all(stores.map((ipfs) => ipfs.put(content)))
    expect(new Set(named)).toEqual(new Set([cidV0(content)]))
    expect(same(await (await openEmbeddedIpfs(dir)).get(named[0]!), content)).toBe(true)
    expect(await readdir(join(dir, named[0]!.slice(-2)))).toEqual([named[0]])
  })

  it('refuses a damaged file, and one larger than any that was stored', async () => {
    const dir = await newFolder()
    const ipfs = await openEmbeddedIpfs(dir)
    for (const damaged of [new Uint8Array(), utf8('the byteS'), new Uint8Array(MAX_OBJECT_BYTES + 1)]) {
      const cid = await (await openEmbeddedIpfs(dir)).put(utf8('the bytes'))
      await writeFile(join(dir, cid.slice(-2), cid), damaged)
      await expect(ipfs.get(cid)).rejects.toThrow(IpfsMismatchError)
    }
  })

  it('does not read a file that nobody stored to find out that it is none of ours', async () => {
    const dir = await newFolder()
    const ipfs = await openEmbeddedIpfs(dir)
    const cid = await (await openEmbeddedIpfs(dir)).put(utf8('the bytes'))
    // Nothing but a size, and one that Node reads into no buffer.
    await truncate(join(dir, cid.slice(-2), cid), 5 * 1024 ** 3)
    await expect(ipfs.get(cid)).rejects.toThrow(IpfsMismatchError)
    await ipfs.put(utf8('the bytes'))
    expect(await readFile(join(dir, cid.slice(-2), cid), 'utf8')).toBe('the bytes')
  })

  it('tells a file that is missing from one that cannot be read', async () => {
    const dir = await newFolder()
    const ipfs = await openEmbeddedIpfs(dir)
    const cid = cidV0(utf8('a folder'))
    await mkdir(join(dir, cid.slice(-2), cid), { recursive: true })
    await expect(ipfs.get(cid)).rejects.toEqual(unavailable('unreachable'))
    await expect(ipfs.put(utf8('a folder'))).rejects.toEqual(unavailable('unreachable'))
  })

  it('has no file by the CID of a raw block', async () => {
    const ipfs = await openEmbeddedIpfs(await newFolder())
    const { root } = encodeFile(utf8('raw'), { rawLeaves: true })
    await expect(ipfs.get(root)).rejects.toEqual(unavailable('missing'))
  })

  it('does not open where it cannot write', async () => {
    const file = join(await newFolder(), 'file')
    await writeFile(file, '')
    await expect(openEmbeddedIpfs(file)).rejects.toThrow(StartupError)
  })
})

describe('a Kubo', () => {
  const callsOf = (kubo: KuboStandIn, command: string) => kubo.calls.filter((call) => call.startsWith(`${command}?`))
  const connect = (kubo: KuboStandIn, timeoutMs = 20_000) => connectKubo(kubo.url, { timeoutMs })

  it('is told all that decides a CID, and pins by a call of its own', async () => {
    const kubo = await newKubo()
    const cid = await connect(kubo).put(generated(600_000))
    expect(kubo.calls).toEqual([
      'add?cid-version=0&raw-leaves=false&chunker=size-262144&hash=sha2-256&trickle=false&wrap-with-directory=false&pin=false',
      `pin/add?arg=${cid}`,
    ])
  })

  it('gets the bearer, at a URL with or without its path', async () => {
    const kubo = await newKubo({ bearer: 'secret' })
    for (const url of [kubo.url, `${kubo.url}/`, `${kubo.url}/api/v0`]) {
      await connectKubo(url, { bearer: 'secret', timeoutMs: 20_000 }).check()
      const refused = await connectKubo(url, { timeoutMs: 20_000 })
        .check()
        .catch((error: unknown) => error)
      expect(refused).toEqual(unavailable('unreachable'))
      expect((refused as Error).message).toBe('Kubo answered version with 403')
    }
  })

  it('is not believed when it names what was added otherwise, or does not confirm the pin', async () => {
    const kubo = await newKubo()
    // Node's own fetch, but of a node that has another idea of what a file is.
    vi.spyOn(globalThis, 'fetch').mockImplementation((url, init) =>
      realFetch(String(url).replace('raw-leaves=false', 'raw-leaves=true'), init),
    )
    await expect(connect(kubo).put(utf8('x'))).rejects.toThrow(IpfsMismatchError)
    expect([...kubo.pins]).toEqual([])
    vi.spyOn(globalThis, 'fetch').mockImplementation((url, init) =>
      String(url).includes('/pin/add') ? Promise.resolve(new Response('{"Pins":[]}')) : realFetch(url, init),
    )
    await expect(connect(kubo).put(utf8('x'))).rejects.toThrow(/did not confirm the pin/)
    vi.restoreAllMocks()
    kubo.fault('error', { commands: ['pin/add'] })
    await expect(connect(kubo).put(utf8('x'))).rejects.toEqual(unavailable('unreachable'))
  })

  it('catalog:28 is cut off when it sends more than an object may have', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo)
    const oneTooMany = kubo.hold(generated(MAX_OBJECT_BYTES + 1))
    await expect(ipfs.get(oneTooMany)).rejects.toThrow(IpfsTooLargeError)
    // The root block proves it; no other was asked for.
    expect(callsOf(kubo, 'block/get')).toEqual([`block/get?arg=${oneTooMany}`])

    // Kubo announces in a header of its own how much it will send: nothing of it is read then.
    let parts = 0
    const body = new ReadableStream<Uint8Array>(
      {
        pull(stream) {
          parts += 1
          stream.enqueue(new Uint8Array(65_536))
        },
      },
      { highWaterMark: 0 },
    )
    const headers = { 'x-content-length': String(MAX_OBJECT_BYTES + 1) }
    vi.spyOn(globalThis, 'fetch').mockImplementationOnce(async () => new Response(body, { headers }))
    await expect(ipfs.get(oneTooMany)).rejects.toThrow(IpfsTooLargeError)
    expect(parts).toBe(0)

    const before = kubo.bytesSent()
    await expect(ipfs.get(kubo.hold(new Uint8Array(64 * 1024 * 1024)))).rejects.toThrow(IpfsTooLargeError)
    // What the connection holds was sent, read or not.
    expect(kubo.bytesSent() - before).toBeLessThan(32 * 1024 * 1024)
  })

  it('catalog:28 cannot make a small object too large by sending without end', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo)
    const cid = kubo.hold(utf8('small'))
    kubo.fault('endless', { commands: ['cat'] })
    expect(await ipfs.get(cid)).toEqual(utf8('small'))
    // What the connection holds comes on top of what was read.
    expect(kubo.bytesSent()).toBeLessThan(3 * MAX_OBJECT_BYTES)

    const another = kubo.hold(utf8('another'))
    kubo.fault('endless')
    await expect(ipfs.get(another)).rejects.toThrow(IpfsMismatchError)
    expect(kubo.bytesSent()).toBeLessThan(9 * MAX_OBJECT_BYTES)
  })

  it('catalog:29 gives files of other chunking, proved block by block', async () => {
    const kubo = await newKubo()
    const shapes = [
      { rawLeaves: true },
      { rawLeaves: true, cidVersion: 1 },
      { chunkBytes: 1_048_576, rawLeaves: true, cidVersion: 1 },
      { chunkBytes: 4096, children: 11 },
    ] as const
    for (const [index, shape] of shapes.entries()) {
      const content = generated(700_000 + index)
      const cid = kubo.hold(content, shape)
      expect(same(await connect(kubo).get(cid), content), cid).toBe(true)
    }
    const image = generated(200_000)
    const raw = kubo.hold(image, { rawLeaves: true, cidVersion: 1 })
    expect(raw).toMatch(/^bafkrei/)
    expect(same(await connect(kubo).get(raw), image)).toBe(true)
    expect(callsOf(kubo, 'cat').filter((call) => call.includes(raw))).toEqual([])
  })

  it('catalog:29 is refused when any block is altered, and served when it is whole again', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo)
    const content = generated(600_000)
    const cid = kubo.hold(content, { rawLeaves: true })
    expect(kubo.blocks.size).toBe(4)
    for (const block of kubo.blocks.values()) {
      const whole = block.bytes
      block.bytes = Buffer.from(whole)
      block.bytes[block.bytes.length - 1]! ^= 1
      await expect(ipfs.get(cid)).rejects.toThrow(IpfsMismatchError)
      block.bytes = whole
    }
    const [leaf, held] = [...kubo.blocks][0]!
    kubo.blocks.delete(leaf)
    await expect(connect(kubo).get(cid)).rejects.toEqual(unavailable('missing'))
    kubo.blocks.set(leaf, held)
    expect(same(await ipfs.get(cid), content)).toBe(true)
  })

  it.each([true, false])('gives no directories, whether it calls them so (%s) or not', async (isDirectory) => {
    const kubo = await newKubo()
    // dag-pb with the UnixFS type of a directory and no entries: the empty directory everybody has.
    const cid = 'QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn'
    const bytes = Uint8Array.of(0x0a, 0x02, 0x08, 0x01)
    kubo.blocks.set(cid, { bytes, content: new Uint8Array(), links: [], isDirectory })
    await expect(connect(kubo).get(cid)).rejects.toThrow(IpfsMismatchError)
  })

  it('is believed about the file when it hands out no blocks', async () => {
    const kubo = await newKubo()
    const cid = kubo.hold(utf8('right'))
    kubo.blocks.set(cid, { bytes: utf8('wrong'), content: utf8('wrong'), links: [] })
    kubo.fault('error', { commands: ['block/get'] })
    await expect(connect(kubo).get(cid)).rejects.toThrow(IpfsMismatchError)
    const large = kubo.hold(new Uint8Array(MAX_OBJECT_BYTES + 1))
    await expect(connect(kubo).get(large)).rejects.toThrow(IpfsTooLargeError)
  })

  it.each(['wrong bytes', 'error', 'down'] as const)(
    'that answers with %s is another one when it is well',
    async (fault) => {
      const kubo = await newKubo()
      const ipfs = connect(kubo)
      const content = generated(5000)
      const cid = kubo.hold(content)
      kubo.fault(fault)
      const expected = fault === 'wrong bytes' ? expect.any(IpfsMismatchError) : unavailable('unreachable')
      await expect(ipfs.get(cid)).rejects.toEqual(expected)
      kubo.fault()
      expect(same(await ipfs.get(cid), content)).toBe(true)
    },
  )

  it('may break one connection in any call', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo)
    const broken = (command: string) => kubo.fault('down', { commands: [command], times: 1 })
    broken('version')
    await ipfs.check()
    broken('add')
    const cid = await ipfs.put(utf8('x'))
    broken('pin/add')
    await ipfs.put(utf8('x'))
    broken('cat')
    expect(await connect(kubo).get(cid)).toEqual(utf8('x'))
    broken('pin/rm')
    await ipfs.unpin(cid)
    kubo.fault('down', { times: 2 })
    await expect(ipfs.check()).rejects.toEqual(unavailable('unreachable'))
  })

  it('is not asked again when it answers with an error', async () => {
    const kubo = await newKubo()
    kubo.fault('error')
    await expect(connect(kubo).get(kubo.hold(utf8('x')))).rejects.toEqual(unavailable('unreachable'))
    expect(kubo.calls).toHaveLength(1)
  })

  it('that is stopped is unreachable, and its words reach no message', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo)
    kubo.fault('error')
    await expect(ipfs.check()).rejects.toThrow(/^Kubo answered version with 500$/)
    await kubo.stop()
    undo.pop()
    await expect(ipfs.check()).rejects.toThrow(/^Kubo can't be reached to version$/)
    await expect(ipfs.get(cidV0(utf8('x')))).rejects.toEqual(unavailable('unreachable'))
    await expect(ipfs.put(utf8('x'))).rejects.toEqual(unavailable('unreachable'))
  })

  it('is none when something else answers there', async () => {
    for (const answer of ['<html>', '{"Version":1}', '[]', 'x'.repeat(100_000)]) {
      vi.spyOn(globalThis, 'fetch').mockImplementation(async () => new Response(answer))
      await expect(connectKubo('http://elsewhere', { timeoutMs: 100 }).check()).rejects.toEqual(
        unavailable('unreachable'),
      )
    }
  })

  it('that never answers is waited for until the deadline, in every call', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo, 200)
    const cid = kubo.hold(utf8('x'))
    kubo.fault('hang')
    const timeout = unavailable('timeout')
    await expect(ipfs.check()).rejects.toEqual(timeout)
    await expect(ipfs.put(utf8('y'))).rejects.toEqual(timeout)
    await expect(ipfs.unpin(cid)).rejects.toEqual(timeout)
    await expect(ipfs.get(cid)).rejects.toEqual(timeout)
    expect(kubo.calls.map((call) => call.split('?')[0])).toEqual(['version', 'add', 'pin/rm', 'cat'])
    kubo.fault('hang', { commands: ['pin/add', 'block/get'] })
    await expect(ipfs.put(utf8('y'))).rejects.toEqual(timeout)
    await expect(ipfs.get(kubo.hold(utf8('z'), { rawLeaves: true }))).rejects.toEqual(timeout)
  })

  it('has one deadline for all blocks of a file', async () => {
    const kubo = await newKubo()
    const cid = kubo.hold(generated(3000), { chunkBytes: 100, rawLeaves: true })
    vi.spyOn(globalThis, 'fetch').mockImplementation(async (url, init) => {
      if (String(url).includes('/block/get')) await new Promise((resolve) => setTimeout(resolve, 50))
      return realFetch(url, init)
    })
    await expect(connect(kubo, 500).get(cid)).rejects.toEqual(unavailable('timeout'))
    expect(callsOf(kubo, 'block/get').length).toBeLessThan(20)
  })

  it('searching for a missing block keeps nobody waiting twice', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo, 200)
    const cid = cidV0(utf8('nobody has it'))
    kubo.fault('searching')
    stopClockAt(1000)
    await expect(ipfs.get(cid)).rejects.toEqual(unavailable('timeout'))
    await expect(ipfs.get(cid)).rejects.toEqual(unavailable('timeout'))
    expect(kubo.calls).toEqual([`cat?arg=${cid}`])
    stopClockAt(11_000)
    await expect(ipfs.get(cid)).rejects.toEqual(unavailable('timeout'))
    expect(kubo.calls).toHaveLength(2)
  })

  it('is asked once for what many want at once', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo)
    const content = generated(200_000)
    const cid = kubo.hold(content)
    const { root } = encodeFile(content, { cidVersion: 1 })
    const all = await Promise.all([cid, root, cid, root, cid].map((name) => ipfs.get(name)))
    for (const bytes of all) expect(same(bytes, content)).toBe(true)
    await ipfs.get(root)
    expect(kubo.calls).toEqual([`cat?arg=${cid}`])
  })

  it('is read on when the caller has left, so that a slow object is there the next time', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo)
    const cid = kubo.hold(utf8('slow'))
    kubo.fault('hang')
    await expect(ipfs.get(cid, { timeoutMs: 20 })).rejects.toEqual(unavailable('timeout'))
    // Not taken for missing: it's still on its way, and whoever can wait gets it.
    const patient = ipfs.get(cid)
    await expect(ipfs.get(cid, { timeoutMs: 20 })).rejects.toEqual(unavailable('timeout'))
    kubo.fault()
    expect(await patient).toEqual(utf8('slow'))
    kubo.blocks.clear()
    expect(await ipfs.get(cid, { timeoutMs: 20 })).toEqual(utf8('slow'))
    expect(kubo.calls).toEqual([`cat?arg=${cid}`])
  })

  it('may fail quietly when the caller has left', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo, 200)
    const cid = kubo.hold(utf8('late'))
    kubo.fault('hang')
    await expect(ipfs.get(cid, { timeoutMs: 10 })).rejects.toEqual(unavailable('timeout'))
    const rejections: unknown[] = []
    const note = (reason: unknown) => rejections.push(reason)
    process.on('unhandledRejection', note)
    undo.push(async () => process.off('unhandledRejection', note))
    await until('the read behind it ended', () =>
      ipfs.get(cid, { timeoutMs: 10 }).catch((error: Error) => error.message.includes('a moment ago')),
    )
    expect(rejections).toEqual([])
  })

  it('has 64 reads to do at once, and the others after them', async () => {
    const kubo = await newKubo()
    const ipfs = connect(kubo)
    const wanted = Array.from({ length: 100 }, (_, index) => kubo.hold(utf8(`number ${index}`)))
    kubo.fault('hang', { commands: ['cat'] })
    const reads = wanted.map((cid) => ipfs.get(cid))
    await until('64 are under way', () => kubo.calls.length === 64)
    // A call begun after them all: a 65th read would have arrived before its answer.
    await ipfs.check()
    expect(callsOf(kubo, 'cat')).toHaveLength(64)
    kubo.fault()
    expect((await Promise.all(reads)).map((bytes) => new TextDecoder().decode(bytes))).toEqual(
      wanted.map((_, index) => `number ${index}`),
    )
  })
})
