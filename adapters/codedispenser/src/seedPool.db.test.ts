import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { createLog } from '@market/kit/log'
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { createCodesDatabase, type TestCodes } from '../test/codesDatabase.ts'
import { countAvailable, listPools, voidCode } from './pools.ts'
import { readCodeFile } from './readCodeFile.ts'
import { seedFolder } from './seedFolder.ts'
import { CodeError, seedPool } from './seedPool.ts'

let home: TestCodes
let folder: string

beforeAll(async () => {
  home = await createCodesDatabase()
  folder = await mkdtemp(join(tmpdir(), 'codes-'))
})
afterAll(async () => {
  await home.remove()
  await rm(folder, { recursive: true, force: true })
})

const stored = async (poolId: string) => (await home.codesOf({ poolId })).map(({ code }) => code)

it('reads lines however the chunks of a file fall, and characters of several bytes', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'grapheme' }), fc.integer({ min: 1, max: 7 }), async (text, size) => {
      const bytes = Buffer.from(text)
      const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
        bytes.subarray(i * size, (i + 1) * size),
      )
      const lines: string[] = []
      for await (const line of readCodeFile(Readable.from(chunks, { objectMode: true }))) lines.push(line)
      expect(lines).toEqual(text.split('\n'))
    }),
  )
})

it('stores more than a batch in the order given, finishes what was cut off, and counts right both ways', async () => {
  const codes = Array.from({ length: 25_000 }, (_, i) => `B-${i}`)
  const cut = async function* () {
    yield* codes.slice(0, 21_000)
    throw new Error('the disk is gone')
  }
  await expect(seedPool(home.db, home.keys, 'big', cut())).rejects.toThrow('the disk is gone')
  const before = 20_000
  expect(await countAvailable(home.db, 'big')).toBe(before)
  const told: number[] = []
  const again = await seedPool(home.db, home.keys, 'big', codes, (submitted) => told.push(submitted))
  expect(again).toMatchObject({ submitted: 25_000, added: 25_000 - before, duplicate: before })
  expect(told).toEqual([10_000, 20_000, 25_000])
  expect(await stored('big')).toEqual(codes)
  expect(await countAvailable(home.db, 'big')).toBe(25_000)
})

it('stops at a line that can not be a code, and says which', async () => {
  for (const [bad, message] of [
    ['x'.repeat(2001), 'code 2 is longer than 2000 characters'],
    ['a\0b', 'code 2 holds a NUL'],
    ['\ud83d', 'code 2 holds a NUL or half a surrogate pair'],
  ] as const) {
    await expect(seedPool(home.db, home.keys, 'bad', ['', 'ok', bad])).rejects.toThrow(CodeError)
    await expect(seedPool(home.db, home.keys, 'bad', ['', 'ok', bad])).rejects.toThrow(message)
  }
})

it('never brings a void code back, and says so', async () => {
  await home.seed('spoiled', ['S-1', 'S-2'])
  expect(await voidCode(home.db, home.keys, 'spoiled', ' S-1 ')).toBe('voided')
  expect(await voidCode(home.db, home.keys, 'spoiled', 'S-1')).toBe('already void')
  expect(await voidCode(home.db, home.keys, 'spoiled', 'S-9')).toBe('unknown')
  expect(await home.seed('spoiled', ['S-1', 'S-2', 'S-3'])).toMatchObject({ added: 1, duplicate: 1, void: 1 })
  expect(await listPools(home.db, 'spoiled')).toMatchObject([{ available: 2, assigned: 0, void: 1 }])
})

it('counts what changes in several pools by one statement, and what is deleted', async () => {
  await home.seed('m', ['1', '2', '3'])
  await home.seed('n', ['1', '2', '3'])
  await sql`update code_pool_codes set state = 'void' where pool_id in ('m', 'n')`.execute(home.db)
  await sql`
    update code_pool_codes set state = 'available' where pool_id = 'm' and code_id in (
      select code_id from code_pool_codes where pool_id = 'm' order by code_id limit 2)`.execute(home.db)
  await sql`delete from code_pool_codes where pool_id = 'n'`.execute(home.db)
  expect(await listPools(home.db, 'm')).toMatchObject([{ available: 2, assigned: 0, void: 1 }])
  expect(await listPools(home.db, 'n')).toMatchObject([{ available: 0, assigned: 0, void: 0 }])
})

it('adapters:A-5 makes each file of the folder a pool, and adds to one only what it never had', async () => {
  const log = createLog('test', 'fatal')
  await writeFile(join(folder, 'summer sale.txt'), '\ufeffF-1\r\n\r\n  F-2 \nF-3')
  await writeFile(join(folder, 'notes.md'), 'no pool')
  await seedFolder(home.db, home.keys, folder, log)
  expect(await stored('summer sale')).toEqual(['F-1', 'F-2', 'F-3'])
  expect(await listPools(home.db, 'notes')).toEqual([])
  await seedFolder(home.db, home.keys, folder, log)
  expect(await countAvailable(home.db, 'summer sale')).toBe(3)
})
