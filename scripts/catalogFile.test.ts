import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseProduct } from '@market/contracts/catalogDocuments'
import { cidV0 } from '@market/contracts/cid'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type CatalogFile, COLUMNS, readCatalogCsv, readCatalogJson, readPictures } from './catalogFile.ts'
import { UsageError } from './usageError.ts'

const PAY_TO = `0x${'0b'.repeat(20)}`
const defaults = { chainId: 100, payTo: undefined }

const csv = (...lines: string[]) => readCatalogCsv(lines.join('\n'), defaults)
const json = (items: unknown, payTo?: string) => readCatalogJson(JSON.stringify(items), { chainId: 100, payTo })
const only = ({ rows, faults }: CatalogFile) => {
  expect(faults).toEqual([])
  expect(rows).toHaveLength(1)
  return rows[0]!.product as Record<string, any>
}

describe('a catalog file as a whole', () => {
  it.each([
    ['sku,prize,\nmug,5,', 'unknown column prize, (no name); known are sku, name, description, price,'],
    ['sku,name,name\nmug,a,b', 'the column name is there twice'],
    ['name\na', 'the column sku is missing'],
    ['sku,name', 'the file holds no products'],
    ['', 'the column sku is missing'],
    ['sku,name\nmug,"a', 'line 2: a quotation mark is opened and never closed'],
  ])('is refused as CSV: %j', (text, message) => {
    expect(() => readCatalogCsv(text, defaults)).toThrow(UsageError)
    expect(() => readCatalogCsv(text, defaults)).toThrow(message)
  })

  it.each([
    ['{}', 'the file must hold a JSON array of products'],
    ['[]', 'the file holds no products'],
    ['[{"sku":"mug","prize":5}]', 'unknown column prize; known are sku,'],
    ['[{"name":"mug"}]', 'the column sku is missing'],
    ['[{"sku":"mug","sku":"vase"}]', 'Repeated member name'],
    ['[', 'Unexpected'],
  ])('is refused as JSON: %j', (text, message) => {
    expect(() => readCatalogJson(text, defaults)).toThrow(UsageError)
    expect(() => readCatalogJson(text, defaults)).toThrow(message)
  })

  it('knows every column it documents', () => {
    const row: Record<string, string> = { ...Object.fromEntries(COLUMNS.map((column) => [column, ''])), sku: 'mug' }
    expect(csv(COLUMNS.join(';'), COLUMNS.map((column) => row[column]).join(';')).rows).toHaveLength(1)
  })
})

describe('a row', () => {
  it('becomes a product with what it says and nothing else', () => {
    const product = only(
      csv('sku,name,price,brand,image,requiredSlots', 'mug, Mug ,24.50,,ipfs://Qm1 https://a.example/b.png,customer'),
    )
    expect(product).toEqual({
      '@context': ['https://schema.org/', 'https://aboutcircles.com/contexts/circles-market/'],
      '@type': 'Product',
      name: 'Mug',
      sku: 'mug',
      image: ['ipfs://Qm1', 'https://a.example/b.png'],
      offers: [{ '@type': 'Offer', price: 24.5, priceCurrency: 'CRC', requiredSlots: ['customer'] }],
    })
    expect(parseProduct(product).ok).toBe(true)
  })

  it('is the same product whether it comes as CSV or JSON', () => {
    const columns = { sku: 'mug', name: 'Mug', price: '7', image: 'a.png|b c.png', payTo: PAY_TO, description: 'x' }
    const fromCsv = csv(Object.keys(columns).join(), Object.values(columns).join()).rows
    expect(json([{ ...columns, price: 7, image: ['a.png', 'b c.png'], brand: null }]).rows).toEqual(
      fromCsv.map((row) => ({ ...row, where: 'item 1' })),
    )
  })

  it.each([
    ['5,50', 'write the decimal point as a point'],
    ['5.', 'is no number'],
    ['-5', 'is no number'],
    ['1e3', 'is no number'],
    ['0.1000000000000000055', 'more digits than a price can keep'],
    ['12345678901234567890', 'more digits than a price can keep'],
    ['0.0000001', 'more digits than a price can keep'],
  ])('has no price %s', (price, message) => {
    const { faults, rows } = csv('sku;name;price', `mug;Mug;${price}`)
    expect({ faults, rows }).toEqual({
      faults: [{ where: 'line 2', sku: 'mug', what: expect.stringContaining(message) }],
      rows: [],
    })
  })

  it('keeps every price of two decimals', () => {
    fc.assert(
      fc.property(fc.nat(1_000_000), fc.nat(99), fc.boolean(), (whole, cents, short) => {
        const text = `${whole}.${String(cents).padStart(2, '0')}`
        const written = short && cents % 10 === 0 ? text.slice(0, -1) : text
        expect(only(csv('sku,price', `mug,${written}`)).offers[0].price).toBe(Number(text))
      }),
    )
  })

  it.each([
    ['1', true],
    ['TRUE', true],
    ['x', true],
    ['no', false],
    ['', false],
  ])('with delete %j is taken down: %s', (word, gone) => {
    const { rows } = csv('sku,name,price,delete', `mug,Mug,5,${word}`)
    expect(rows[0]!.product === undefined).toBe(gone)
  })

  it('tells what it cannot understand, with its line', () => {
    const { faults } = csv('sku,delete,payTo', 'a,perhaps,', '', 'b,,0x12', 'c', ',x,')
    expect(faults).toEqual([
      { where: 'line 2', sku: 'a', what: 'delete: perhaps is neither yes nor no' },
      { where: 'line 4', sku: 'b', what: 'payTo: Address must be 42 chars and start with 0x' },
      { where: 'line 5', what: 'has 1 cells, and the header has 3' },
      { where: 'line 6', sku: undefined, what: 'sku is missing' },
    ])
    expect(json([7, { sku: 'a' }]).faults).toEqual([{ where: 'item 1', what: 'is no object' }])
  })

  it('that is a whole product keeps what it has, and is given what it lacks', () => {
    const own = { '@type': 'PayAction', recipient: { '@id': `eip155:100:${PAY_TO}` } }
    const { rows } = json(
      [
        { sku: 'a', name: 'A', gtin13: '1', weight: { value: 3 }, offers: [{ price: 5, priceCurrency: 'EUR' }] },
        { sku: 'b', name: 'B', '@context': 'own', '@type': 'Product', offers: [{ price: 5, potentialAction: own }] },
      ],
      PAY_TO,
    )
    expect(rows[0]!.product).toMatchObject({
      '@context': ['https://schema.org/', 'https://aboutcircles.com/contexts/circles-market/'],
      '@type': 'Product',
      weight: { value: 3 },
      offers: [{ price: 5, priceCurrency: 'EUR', potentialAction: { price: 5, priceCurrency: 'EUR' } }],
    })
    expect(rows[1]!.product).toMatchObject({ '@context': 'own', offers: [{ potentialAction: own }] })
  })
})

describe('pictures', () => {
  let folder: string
  const png = (n: number) =>
    Buffer.concat([Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex'), Buffer.alloc(40, n)])
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'catalog-file-'))
    await writeFile(join(folder, 'one.png'), png(1))
    await writeFile(join(folder, 'two words.png'), png(2))
    await writeFile(join(folder, 'page.png'), '<svg/>')
  })
  afterAll(() => rm(folder, { recursive: true, force: true }))

  it('in files are named by their CID, addresses are left alone, and each file is one picture', async () => {
    const { rows } = csv(
      'sku,image',
      'a,one.png https://a.example/one.png',
      'b,two words.png|./one.png',
      'c,data:image/png;base64',
    )
    const { pictures, faults } = await readPictures(rows, { folder, strip: false })
    expect(faults).toEqual([])
    const [one, two] = [cidV0(png(1)), cidV0(png(2))]
    expect(rows.map(({ product }) => product!.image)).toEqual([
      [`ipfs://${one}`, 'https://a.example/one.png'],
      [`ipfs://${two}`, `ipfs://${one}`],
      ['data:image/png;base64'],
    ])
    expect([...pictures.keys()].toSorted()).toEqual([one, two].toSorted())
    expect(pictures.get(two)).toMatchObject({ mediaType: 'image/png' })
    expect(Buffer.from(await pictures.get(two)!.read())).toEqual(png(2))
  })

  it('that are none, or not there, are told by row', async () => {
    const { rows } = csv('sku,image', 'a,page.png', 'b,gone.png', 'c,.')
    expect((await readPictures(rows, { folder, strip: false })).faults).toEqual([
      { where: 'line 2', sku: 'a', what: 'image: page.png is no PNG, JPEG, GIF, WebP or AVIF picture' },
      { where: 'line 3', sku: 'b', what: 'image: gone.png is not there' },
      { where: 'line 4', sku: 'c', what: 'image: . is no file' },
    ])
  })

  it('are stripped of what they tell of their making when that is asked for', async () => {
    const { rows } = csv('sku,image', 'a,one.png')
    // It is no complete picture, so nobody can say what would be left.
    expect((await readPictures(rows, { folder, strip: true })).faults).toEqual([
      { where: 'line 2', sku: 'a', what: expect.stringContaining("one.png can't have its metadata taken out") },
    ])
  })
})
