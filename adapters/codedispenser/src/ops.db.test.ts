import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createCodesDatabase, type TestCodes } from '../test/codesDatabase.ts'
import { findMappings, upsertCodeMapping } from './mappings.ts'
import { countAvailable } from './pools.ts'

const SELLER = `0x${'ab'.repeat(20)}`

let home: TestCodes

beforeAll(async () => {
  home = await createCodesDatabase()
})
afterAll(() => home.remove())

const stored = async (poolId: string) => (await home.codesOf({ poolId })).map(({ code }) => code)

describe('seeding', () => {
  it('adapters:A-45 stores codes verbatim, whatever they are made of', async () => {
    const codes = [
      "it's",
      '$1',
      'a"b',
      'a\\b',
      '{x}',
      'NULL',
      'a,b',
      '%s',
      "'; drop table code_pools; --",
      'ключ 🔑',
      'Mixed',
      'mixed',
    ]
    expect(await home.seed("it's a pool", codes)).toMatchObject({ submitted: 12, added: 12 })
    expect(await stored("it's a pool")).toEqual(codes)
  })

  it('keeps the order given, drops blanks, trims, counts duplicates, and changes nothing when repeated', async () => {
    const codes = ['z', ' a ', '', 'm', 'a', '\t', 'b']
    const poolId = 'ordered'
    expect(await home.seed(poolId, codes)).toEqual({
      poolId,
      submitted: 5,
      added: 4,
      duplicate: 1,
      alreadyDispensed: 0,
      void: 0,
    })
    expect(await stored(poolId)).toEqual(['z', 'a', 'm', 'b'])
    expect(await home.seed(poolId, codes)).toEqual({
      poolId,
      submitted: 5,
      added: 0,
      duplicate: 5,
      alreadyDispensed: 0,
      void: 0,
    })
    expect(await countAvailable(home.db, poolId)).toBe(4)
  })

  it('lets the same code be in two pools', async () => {
    await home.seed('one', ['x'])
    expect(await home.seed('two', ['x'])).toMatchObject({ added: 1 })
  })

  it('gives two seeders of the same codes in opposite orders no reason to wait for each other', async () => {
    const codes = Array.from({ length: 5000 }, (_, i) => `code ${i}`)
    const results = await Promise.all([
      home.seed('raced', codes),
      home.seed('raced', codes.toReversed()),
      home.seed('raced', codes),
    ])
    expect(results.map((result) => result.added).reduce((a, b) => a + b)).toBe(5000)
    expect(await countAvailable(home.db, 'raced')).toBe(5000)
  })
})

describe('mapping', () => {
  const mapping = { chainId: 100, seller: SELLER, sku: 'v', poolId: 'p', downloadUrlTemplate: 'https://x/{code}' }
  const find = async () => (await findMappings(home.db, 100, SELLER, ['v'])).get('v')

  it('adapters:A-46 stores the template as it is and says what it did', async () => {
    expect(await upsertCodeMapping(home.db, mapping)).toBe('created')
    expect(await find()).toEqual({ poolId: 'p', downloadUrlTemplate: 'https://x/{code}' })
    expect(await upsertCodeMapping(home.db, mapping)).toBe('unchanged')
    expect(await upsertCodeMapping(home.db, { ...mapping, downloadUrlTemplate: null })).toBe('updated')
    expect(await find()).toEqual({ poolId: 'p', downloadUrlTemplate: null })
  })

  it('is found however seller and sku were written', async () => {
    expect(
      await upsertCodeMapping(home.db, {
        ...mapping,
        seller: ` ${SELLER.toUpperCase().replace('0X', '0x')}`,
        sku: ' V ',
      }),
    ).toBe('updated')
    expect(await find()).toEqual({ poolId: 'p', downloadUrlTemplate: 'https://x/{code}' })
    await expect(upsertCodeMapping(home.db, { ...mapping, seller: '0x12' })).rejects.toThrow('Address must be 42 chars')
  })

  it('is not found once disabled or revoked, until it is set again', async () => {
    for (const off of [{ enabled: false }, { revoked_at: new Date() }]) {
      await home.db.updateTable('code_mappings').set(off).where('sku', '=', 'v').execute()
      expect(await find()).toBeUndefined()
      expect(await upsertCodeMapping(home.db, mapping)).toBe('updated')
      expect(await find()).toBeDefined()
    }
  })
})
