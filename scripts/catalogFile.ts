import { hash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { resolve } from 'node:path'
import { AddressError, normalizeAddress } from '@market/contracts/address'
import {
  CanonicalJsonError,
  isJsonObject,
  type JsonObject,
  type JsonValue,
  parseStrictJson,
} from '@market/contracts/canonicalJson'
import { MARKET_CONTEXT, SCHEMA_ORG_CONTEXT } from '@market/contracts/catalogDocuments'
import { cidV0, MAX_OBJECT_BYTES } from '@market/contracts/cid'
import { type MediaType, sniffMedia, stripMetadata } from '@market/contracts/media'
import { messageOf } from '@market/kit/errors'
import { CsvError, parseCsv } from './csv.ts'
import { UsageError } from './usageError.ts'

/** One line or item of a catalog file. */
export type CatalogRow = {
  /** For people: `line 3`, `item 3`. */
  where: string
  sku: string | undefined
  /** Undefined: the row takes its sku down. Pictures may still be paths, until `readPictures`. */
  product?: JsonObject
}

export type RowFault = { where: string; sku?: string | undefined; what: string }

export type CatalogFile = { rows: CatalogRow[]; faults: RowFault[] }

/** A picture beside the catalog file, by its CID; read again when it is pinned, so that thousands need no memory. */
export type Picture = { path: string; mediaType: MediaType; read(): Promise<Uint8Array> }

export const COLUMNS = [
  'sku',
  'name',
  'description',
  'price',
  'priceCurrency',
  'category',
  'brand',
  'mpn',
  'gtin13',
  'url',
  'image',
  'requiredSlots',
  'availableDeliveryMethod',
  'fulfillmentTrigger',
  'payTo',
  'delete',
] as const
type Column = (typeof COLUMNS)[number]
type Row = Partial<Record<Column, JsonValue>>

export type RowDefaults = { chainId: number; payTo: string | undefined }

/** Reads a CSV with a header. Throws `UsageError` when it can't be understood as a whole. */
export function readCatalogCsv(text: string, defaults: RowDefaults): CatalogFile {
  const [header, ...records] = asUsage(() => parseCsv(text))
  const columns = (header?.cells ?? []).map((cell) => cell.trim())
  assertColumns(columns)
  const faults: RowFault[] = []
  const rows: CatalogRow[] = []
  for (const { line, cells } of records) {
    const where = `line ${line}`
    if (cells.length !== columns.length) {
      faults.push({ where, what: `has ${cells.length} cells, and the header has ${columns.length}` })
      continue
    }
    const texts = columns.map((column, i) => [column, cells[i]!.trim()]).filter(([, cell]) => cell !== '')
    addRow(rows, faults, where, Object.fromEntries(texts) as Row, defaults)
  }
  if (records.length === 0) throw new UsageError('the file holds no products')
  return { rows, faults }
}

/** Reads a JSON array of objects with the members of the CSV, or of schema.org Products. Throws `UsageError`. */
export function readCatalogJson(text: string, defaults: RowDefaults): CatalogFile {
  const items = asUsage(() => parseStrictJson(text.replace(/^\ufeff/, '')))
  if (!Array.isArray(items)) throw new UsageError('the file must hold a JSON array of products')
  if (items.length === 0) throw new UsageError('the file holds no products')
  const plain = items.filter((item): item is JsonObject => isJsonObject(item) && !isWholeProduct(item))
  if (plain.length > 0) assertColumns([...new Set(plain.flatMap((item) => Object.keys(item)))])
  const faults: RowFault[] = []
  const rows: CatalogRow[] = []
  for (const [i, item] of items.entries()) {
    const where = `item ${i + 1}`
    if (!isJsonObject(item)) faults.push({ where, what: 'is no object' })
    else if (isWholeProduct(item)) rows.push({ where, sku: textOf(item.sku), product: completed(item, defaults) })
    else addRow(rows, faults, where, withoutNulls(item), defaults)
  }
  return { rows, faults }
}

function asUsage<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof CsvError || error instanceof CanonicalJsonError) throw new UsageError(error.message)
    throw error
  }
}

function assertColumns(columns: string[]): void {
  const unknown = columns.filter((column) => !COLUMNS.includes(column as Column))
  if (unknown.length > 0) {
    const named = unknown.map((column) => (column === '' ? '(no name)' : column)).join(', ')
    throw new UsageError(`unknown column ${named}; known are ${COLUMNS.join(', ')}`)
  }
  const repeated = columns.find((column, i) => columns.indexOf(column) !== i)
  if (repeated !== undefined) throw new UsageError(`the column ${repeated} is there twice`)
  if (!columns.includes('sku')) throw new UsageError('the column sku is missing')
}

function addRow(rows: CatalogRow[], faults: RowFault[], where: string, row: Row, defaults: RowDefaults): void {
  const sku = textOf(row.sku)
  try {
    if (isTruthy(row.delete)) rows.push({ where, sku: sku ?? fail('sku is missing') })
    else rows.push({ where, sku, product: productOf(row, defaults) })
  } catch (error) {
    if (!(error instanceof RowError)) throw error
    faults.push({ where, sku, what: error.message })
  }
}

class RowError extends Error {}
const fail = (what: string): never => {
  throw new RowError(what)
}

/** Members in one fixed order; what the row leaves out is left out. The rules of a product are the publisher's to check. */
function productOf(row: Row, { chainId, payTo }: RowDefaults): JsonObject {
  const price = priceOf(row.price)
  const priceCurrency = row.priceCurrency ?? 'CRC'
  const recipient = addressOf(row.payTo) ?? payTo
  const offer = {
    '@type': 'Offer',
    price,
    priceCurrency,
    requiredSlots: listOf(row.requiredSlots),
    availableDeliveryMethod: listOf(row.availableDeliveryMethod),
    fulfillmentTrigger: row.fulfillmentTrigger,
    potentialAction: recipient && price !== undefined ? payAction(price, priceCurrency, chainId, recipient) : undefined,
  }
  return present({
    '@context': [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
    '@type': 'Product',
    name: row.name,
    sku: row.sku,
    description: row.description,
    image: listOf(row.image),
    brand: row.brand,
    mpn: row.mpn,
    gtin13: row.gtin13,
    category: row.category,
    url: row.url,
    offers: [present(offer)],
  })
}

/** A schema.org Product keeps all it has, and gets the contexts and whom to pay where it says nothing. */
function completed(item: JsonObject, { chainId, payTo }: RowDefaults): JsonObject {
  const offers =
    Array.isArray(item.offers) && payTo ? item.offers.map((offer) => payable(offer, chainId, payTo)) : item.offers
  return present({
    '@context': item['@context'] ?? [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
    '@type': item['@type'] ?? 'Product',
    ...item,
    offers,
  })
}

function payable(offer: JsonValue, chainId: number, payTo: string): JsonValue {
  if (!isJsonObject(offer) || (offer.potentialAction ?? undefined) !== undefined) return offer
  return { ...offer, potentialAction: payAction(offer.price ?? null, offer.priceCurrency ?? null, chainId, payTo) }
}

/** catalog.md 6.4. */
function payAction(price: JsonValue, priceCurrency: JsonValue, chainId: number, payTo: string): JsonObject {
  const value = `${chainId}:${payTo}`
  return {
    '@type': 'PayAction',
    price,
    priceCurrency,
    recipient: { '@id': `eip155:${value}` },
    instrument: { '@type': 'PropertyValue', propertyID: 'eip155', value, name: 'pay-to' },
  }
}

function isWholeProduct(item: JsonObject): boolean {
  return item['@type'] !== undefined || item.offers !== undefined
}

function present(members: Record<string, JsonValue | undefined>): JsonObject {
  return Object.fromEntries(
    Object.entries(members).filter((entry): entry is [string, JsonValue] => entry[1] !== undefined),
  )
}

function withoutNulls(item: JsonObject): Row {
  return Object.fromEntries(Object.entries(item).filter(([, value]) => value !== null))
}

function textOf(value: JsonValue | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined
}

/** A number as it is written in a cell. One with more digits than a JSON number keeps would be sold at another price. */
function priceOf(value: JsonValue | undefined): JsonValue | undefined {
  if (typeof value !== 'string') return value
  if (!/^[0-9]+(\.[0-9]+)?$/.test(value)) {
    fail(
      `price: ${value} is no number such as 18.50${value.includes(',') ? '; write the decimal point as a point' : ''}`,
    )
  }
  const number = Number(value)
  const digits = (text: string) =>
    text
      .replace(/^0+(?=\d)/, '')
      .replace(/(\.\d*?)0+$/, '$1')
      .replace(/\.$/, '')
  if (!/^[0-9.]+$/.test(String(number)) || digits(String(number)) !== digits(value)) {
    fail(`price: ${value} has more digits than a price can keep`)
  }
  return number
}

function addressOf(value: JsonValue | undefined): string | undefined {
  if (value === undefined) return undefined
  try {
    return normalizeAddress(String(value))
  } catch (error) {
    if (!(error instanceof AddressError)) throw error
    return fail(`payTo: ${error.message}`)
  }
}

/** Several values in one cell stand apart by `|`, or by blanks where there is none. */
function listOf(value: JsonValue | undefined): JsonValue | undefined {
  if (typeof value !== 'string') return value
  const parts = value.split(value.includes('|') ? '|' : /\s+/).map((part) => part.trim())
  return parts.filter((part) => part !== '')
}

function isTruthy(value: JsonValue | undefined): boolean {
  if (value === undefined || typeof value === 'boolean') return value === true
  const word = String(value).toLowerCase()
  if (['1', 'true', 'yes', 'y', 'x'].includes(word)) return true
  return ['0', 'false', 'no', 'n', ''].includes(word) ? false : fail(`delete: ${word} is neither yes nor no`)
}

const URI = /^[a-z][a-z0-9+.-]+:/i

/**
 * Replaces paths of pictures, which are taken from `folder`, by `ipfs://` + CID, and gives the pictures by CID. Each file is
 * read once. With `strip` what a photo tells of place and time is taken out.
 */
export async function readPictures(
  rows: CatalogRow[],
  { folder, strip }: { folder: string; strip: boolean },
): Promise<{ pictures: Map<string, Picture>; faults: RowFault[] }> {
  const pictures = new Map<string, Picture>()
  const faults: RowFault[] = []
  const byPath = new Map<string, Promise<string>>()
  const cidOf = (path: string) => {
    const known = byPath.get(path) ?? readPicture(path, strip, pictures)
    byPath.set(path, known)
    return known
  }
  for (const { where, sku, product } of rows) {
    if (!product || !Array.isArray(product.image)) continue
    const images: JsonValue[] = []
    for (const image of product.image) {
      if (typeof image !== 'string' || URI.test(image)) {
        images.push(image)
        continue
      }
      try {
        images.push(`ipfs://${await cidOf(resolve(folder, image))}`)
      } catch (error) {
        if (!(error instanceof RowError)) throw error
        faults.push({ where, sku, what: `image: ${image} ${error.message}` })
      }
    }
    product.image = images
  }
  return { pictures, faults }
}

const sha256 = (bytes: Uint8Array): Uint8Array => hash('sha256', bytes, 'buffer')

async function readPicture(path: string, strip: boolean, pictures: Map<string, Picture>): Promise<string> {
  const read = async () => {
    const bytes = await readSmall(path)
    const mediaType = sniffMedia(bytes) ?? fail('is no PNG, JPEG, GIF, WebP or AVIF picture')
    try {
      return { mediaType, bytes: strip ? stripMetadata(bytes, mediaType) : bytes }
    } catch (error) {
      return fail(`can't have its metadata taken out: ${messageOf(error)}`)
    }
  }
  const { mediaType, bytes } = await read()
  const cid = cidV0(bytes, sha256)
  const readAgain = () => read().catch((error: unknown) => Promise.reject(new Error(`${path} ${messageOf(error)}`)))
  pictures.set(cid, { path, mediaType, read: async () => (await readAgain()).bytes })
  return cid
}

async function readSmall(path: string): Promise<Uint8Array> {
  const file = await open(path).catch((error: NodeJS.ErrnoException) =>
    fail(error.code === 'ENOENT' ? 'is not there' : `can't be read: ${messageOf(error)}`),
  )
  try {
    const stat = await file.stat()
    if (!stat.isFile()) fail('is no file')
    if (stat.size > MAX_OBJECT_BYTES) fail('is larger than 8 MiB')
    return new Uint8Array(await file.readFile())
  } finally {
    await file.close()
  }
}
