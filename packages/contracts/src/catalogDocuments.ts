import { utf8ToBytes } from '@noble/hashes/utils.js'
import { type JsonObject, type JsonValue, isJsonObject } from './canonicalJson.ts'
import { cidV0, isCidV0 } from './cid.ts'

// catalog.md 1.1. Compared as exact strings, trailing slash included; nobody dereferences them.
export const PROFILE_CONTEXT = 'https://aboutcircles.com/contexts/circles-profile/'
export const NAMESPACE_CONTEXT = 'https://aboutcircles.com/contexts/circles-namespace/'
export const SCHEMA_ORG_CONTEXT = 'https://schema.org/'
export const MARKET_CONTEXT = 'https://aboutcircles.com/contexts/circles-market/'
export const AGGREGATE_CONTEXT = 'https://aboutcircles.com/contexts/circles-market-aggregate/'

/** catalog.md 1.1: a longer chunk is refused as a whole. */
export const MAX_CHUNK_LINKS = 100

interface Document {
  '@context': JsonValue
  '@type': string
  /** Members this code does not know are kept: a parsed document is the value itself, never a copy. */
  [member: string]: unknown
}

/** catalog.md 1.2. */
export interface Profile extends Document {
  name?: JsonValue
  /** Operator address in lower case → CID of its NameIndexDoc. The values are unchecked: see `namespaceCid`. */
  namespaces?: { [operator: string]: JsonValue }
}

/** catalog.md 1.3. */
export interface NameIndexDoc extends Document {
  head: string
  entries: { [linkName: string]: string }
}

/** catalog.md 1.4. Links are unchecked: one malformed link must not take its chunk along (W4). */
export interface NamespaceChunk extends Document {
  prev?: string | null
  links: JsonValue[]
}

/** catalog.md 1.6. Here and below, an optional member that is null counts as absent. */
export interface Product extends Document {
  name: string
  sku: string
  description?: string | null
  brand?: string | null
  mpn?: string | null
  gtin13?: string | null
  category?: string | null
  url?: string | null
  image?: Array<string | ImageObject>
  offers: Offer[]
  dateCreated?: string | null
  dateModified?: string | null
}

/** catalog.md 1.6, inside a product or pinned on its own. */
export interface ImageObject {
  '@type'?: string
  contentUrl?: string | null
  url?: string | null
  [member: string]: unknown
}

export interface Offer {
  '@type'?: string
  price: number
  priceCurrency: string
  availability?: string | null
  availabilityFeed?: string | null
  inventoryFeed?: string | null
  inventoryLevel?: { '@type'?: string; value: number; unitCode?: string | null } | null
  url?: string | null
  seller?: { '@id': string; name?: string | null } | null
  priceValidUntil?: string | null
  dateModified?: string | null
  availableDeliveryMethod?: string | string[] | null
  requiredSlots?: string[] | null
  potentialAction?: PayAction | null
  /** Absent means `finalized` (catalog.md 1.6). */
  fulfillmentTrigger?: 'confirmed' | 'finalized' | null
  [member: string]: unknown
}

/** catalog.md 6.4. */
export interface PayAction {
  '@type'?: string
  recipient?: { '@id'?: string | null } | null
  instrument?: { propertyID?: string | null; value?: string | null } | null
  [member: string]: unknown
}

/** catalog.md 1.6. `at` is not checked: refusing a tombstone would bring the deleted product back. */
export interface Tombstone extends Document {
  sku: string
  at?: JsonValue
}

/** Where an offer's payload asks to be paid. The address is in lower case. Nothing vouches for it (6.4). */
export interface PayTo {
  chainId: number
  address: string
}

/** The first rule a document breaks, in the words of the pin endpoint (catalog.md 5.3). */
export interface DocumentFault {
  ok: false
  /** Path such as `offers[0].price`; `$` is the root. */
  at: string
  rule: string
}

/** A document with the exact bytes that are, or will be, pinned. */
export interface StoredDocument<T> {
  document: T
  bytes: Uint8Array
  cid: string
}

const SKU = /^[a-z0-9][a-z0-9_-]{0,62}$/
const CURRENCY = /^[A-Z]{3}$/
const LOWERCASE_ADDRESS = /^0x[0-9a-f]{40}$/
const DECIMAL_TEXT = /^\s*[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\s*$/
const ABSOLUTE_URI = /^[A-Za-z][A-Za-z0-9+.-]*:[^\s]+$/
// One character class after the other must not match the same text: a megabyte with a space at its end would take hours.
const HTTP_URL = /^https?:\/\/[^\s/?#]\S*$/i
const CONTENT_URL = /^(ipfs|cid|ar|data|https?):[^\s]+$/i
const CHAIN_AND_ADDRESS = /^([0-9]{1,15}):(0x[0-9a-fA-F]{40})$/
const DATE_TIME =
  /^([0-9]{4})-([0-9]{2})-([0-9]{2})T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,7})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$/

/** catalog.md 6.3; `customer` is known besides, in any case. */
const KNOWN_SLOTS = new Set([
  'contactPoint.email',
  'contactPoint.telephone',
  'ageProof',
  'ageProof.birthDate',
  ...['shippingAddress', 'billingAddress'].flatMap((address) => [
    address,
    ...['streetAddress', 'addressLocality', 'postalCode', 'addressCountry'].map((part) => `${address}.${part}`),
  ]),
])

/** catalog.md 1.1, the whole string. */
export function isSku(value: unknown): value is string {
  return typeof value === 'string' && SKU.test(value)
}

/** The link name of a product and of its tombstone (catalog.md 1.5). */
export function productLinkName(sku: string): string {
  return `product/${sku}`
}

/** The sku in a product link's name; undefined for every other name (catalog.md 4.6 step 1). */
export function skuOfLinkName(name: string): string | undefined {
  const sku = name.startsWith('product/') ? name.slice('product/'.length) : undefined
  return isSku(sku) ? sku : undefined
}

/** A document as it gets pinned: compact JSON, members in the order they were set (catalog.md 1.7). */
export function storedDocument<T>(document: T): StoredDocument<T> {
  const bytes = utf8ToBytes(JSON.stringify(document))
  return { document, bytes, cid: cidV0(bytes) }
}

/**
 * Reads a profile (catalog.md 1.2). Keys and values of `namespaces` are left alone, so that one operator's
 * broken entry does not hide the seller from the others; what may be pinned is a stricter question (5.3).
 */
export function parseProfile(value: unknown): { ok: true; profile: Profile } | DocumentFault {
  const wrong = plainEnvelopeFault(value, 'Profile', PROFILE_CONTEXT)
  if (wrong) return wrong
  const profile = value as Profile
  if (!isAbsent(profile.namespaces) && !isJsonObject(profile.namespaces)) return fault('namespaces', 'object')
  return { ok: true, profile }
}

/**
 * The CID of an operator's index in a profile, undefined when the profile has no such namespace. Keys are
 * lower case; one in checksum case is never found (catalog.md 4.4). The value may be anything: check isCidV0.
 */
export function namespaceEntry(profile: Profile, operator: string): JsonValue | undefined {
  const key = operator.toLowerCase()
  const namespaces = profile.namespaces ?? {}
  return LOWERCASE_ADDRESS.test(key) && Object.hasOwn(namespaces, key) ? namespaces[key] : undefined
}

/**
 * Reads an index (catalog.md 1.3). `entries` are not held to be CIDs here: the catalog walks from `head` and
 * never follows them (6.6), and one bad entry among thousands must not hide the whole namespace.
 */
export function parseNameIndexDoc(value: unknown): { ok: true; index: NameIndexDoc } | DocumentFault {
  const wrong = plainEnvelopeFault(value, 'NameIndexDoc', NAMESPACE_CONTEXT)
  if (wrong) return wrong
  const index = value as NameIndexDoc
  if (!isCidV0(index.head)) return fault('head', 'CIDv0')
  if (!isJsonObject(index.entries)) return fault('entries', 'object')
  if (Object.values(index.entries).some((cid) => typeof cid !== 'string')) return fault('entries', 'CIDv0')
  return { ok: true, index }
}

/** Reads a chunk (catalog.md 1.4) without looking into its links. */
export function parseNamespaceChunk(value: unknown): { ok: true; chunk: NamespaceChunk } | DocumentFault {
  const wrong = plainEnvelopeFault(value, 'NamespaceChunk', NAMESPACE_CONTEXT)
  if (wrong) return wrong
  const chunk = value as NamespaceChunk
  if (!isAbsent(chunk.prev) && !isCidV0(chunk.prev)) return fault('prev', 'CIDv0')
  if (!Array.isArray(chunk.links)) return fault('links', 'array')
  if (chunk.links.length > MAX_CHUNK_LINKS) return fault('links', `at most ${MAX_CHUNK_LINKS} links`)
  return { ok: true, chunk }
}

/** The one validator of products, for pin and catalog alike (catalog.md 1.6, 4.6 step 5, 5.2, 5.3). */
export function parseProduct(value: unknown): { ok: true; product: Product } | DocumentFault {
  const wrong = envelopeFault(value, 'Product', [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT]) ?? productFault(value as Members)
  return wrong ?? { ok: true, product: value as Product }
}

/** An offer pinned on its own (catalog.md 5.2), under the rules it has inside a product. */
export function parseOffer(value: unknown): { ok: true; offer: Offer } | DocumentFault {
  const wrong = envelopeFault(value, 'Offer', [SCHEMA_ORG_CONTEXT]) ?? offerFault(value as Members, '')
  return wrong ?? { ok: true, offer: value as Offer }
}

/** An image pinned on its own (catalog.md 5.2), under the rules it has inside a product. */
export function parseImageObject(value: unknown): { ok: true; image: ImageObject } | DocumentFault {
  const wrong = envelopeFault(value, 'ImageObject', [SCHEMA_ORG_CONTEXT]) ?? imageObjectFault(value as Members, '$', '')
  return wrong ?? { ok: true, image: value as ImageObject }
}

/** Reads a tombstone (catalog.md 1.6). */
export function parseTombstone(value: unknown): { ok: true; tombstone: Tombstone } | DocumentFault {
  const wrong = envelopeFault(value, 'Tombstone', [MARKET_CONTEXT]) ?? skuFault((value as Members).sku)
  return wrong ?? { ok: true, tombstone: value as Tombstone }
}

/**
 * Where the offer asks to be paid (catalog.md 6.4): `recipient.@id`, else `instrument.value`. Undefined when
 * neither says, or when the two disagree: then nobody may pick one for the buyer.
 */
export function payToOf(offer: Offer): PayTo | undefined {
  const { recipient, instrument } = offer.potentialAction ?? {}
  const byRecipient = payToOfIri(recipient?.['@id'])
  const byInstrument = instrument?.propertyID === 'eip155' ? payToOfText(instrument.value) : undefined
  if (!byRecipient || !byInstrument) return byRecipient ?? byInstrument
  const same = byRecipient.chainId === byInstrument.chainId && byRecipient.address === byInstrument.address
  return same ? byRecipient : undefined
}

type Members = Partial<JsonObject>
/** What is wrong with a value that stands at `at`, if anything. */
export type Rule = (value: JsonValue, at: string) => DocumentFault | undefined

export function fault(at: string, rule: string): DocumentFault {
  return { ok: false, at, rule }
}

/** REF writes absent optional members as null (catalog.md 4.2), so null and absent mean the same. */
export function isAbsent(value: unknown): value is null | undefined {
  return value === undefined || value === null
}

/** For documents whose context is one exact string. Both members are required (W15). */
function plainEnvelopeFault(value: unknown, type: string, context: string): DocumentFault | undefined {
  if (!isJsonObject(value)) return fault('$', 'root object')
  if (value['@type'] !== type) return fault('@type', type)
  return value['@context'] === context ? undefined : fault('@context', 'exact string')
}

/** For documents whose contexts may stand in an array among others (catalog.md 5.2, in its order). */
export function envelopeFault(value: unknown, type: string, contexts: string[]): DocumentFault | undefined {
  if (!isJsonObject(value)) return fault('$', 'root object')
  if (typeof value['@type'] !== 'string') return fault('@type', 'string required')
  const context = value['@context']
  if (isAbsent(context)) return fault('@context', 'required')
  if (isJsonObject(context)) return fault('@context', 'bare object')
  const entries = Array.isArray(context) ? context : [context]
  for (const entry of entries) {
    if (typeof entry === 'string' || isJsonObject(entry)) continue
    return fault('@context', 'entries are strings or objects')
  }
  if (entries.includes(AGGREGATE_CONTEXT)) return fault('@context', 'aggregate documents are never pinnable')
  const known = value['@type'] === type && contexts.every((needed) => entries.includes(needed))
  return known ? undefined : fault('@type', 'unsupported shape')
}

function productFault(product: Members): DocumentFault | undefined {
  return (
    requiredText(product.name, 'name') ??
    skuFault(product.sku) ??
    optionalMembers(product, '', {
      description: text,
      brand: text,
      mpn: text,
      gtin13: text,
      category: text,
      url: text,
      dateCreated: dateTime,
      dateModified: dateTime,
    }) ??
    imagesFault(product.image) ??
    offersFault(product.offers)
  )
}

function skuFault(sku: JsonValue | undefined): DocumentFault | undefined {
  return requiredText(sku, 'sku') ?? (isSku(sku) ? undefined : fault('sku', 'pattern'))
}

function imagesFault(image: JsonValue | undefined): DocumentFault | undefined {
  if (image === undefined) return undefined
  return Array.isArray(image) ? firstFault(image, 'image', imageFault) : fault('image', 'array')
}

function imageFault(image: JsonValue, at: string): DocumentFault | undefined {
  if (typeof image === 'string') return absoluteUri(image, at)
  return isJsonObject(image) ? imageObjectFault(image, at, `${at}.`) : fault(at, 'string or object')
}

function imageObjectFault(image: Members, at: string, prefix: string): DocumentFault | undefined {
  if (isAbsent(image.contentUrl) && isAbsent(image.url)) return fault(at, 'contentUrl or url needed')
  return optionalMembers(image, prefix, {
    '@type': exactly('ImageObject'),
    contentUrl: pattern(CONTENT_URL, 'transport'),
    url: pattern(HTTP_URL, 'http(s) only'),
  })
}

function offersFault(offers: JsonValue | undefined): DocumentFault | undefined {
  if (!Array.isArray(offers) || offers.length === 0) return fault('offers', 'non-empty array')
  return firstFault(offers, 'offers', (offer, at) => offerFault(isJsonObject(offer) ? offer : {}, `${at}.`))
}

function offerFault(offer: Members, prefix: string): DocumentFault | undefined {
  return (
    priceFault(offer.price, `${prefix}price`) ??
    currency(offer.priceCurrency ?? null, `${prefix}priceCurrency`) ??
    optionalMembers(offer, prefix, {
      '@type': exactly('Offer'),
      availability: absoluteUri,
      availabilityFeed: absoluteUri,
      inventoryFeed: absoluteUri,
      inventoryLevel: inventoryLevelFault,
      url: text,
      fulfillmentEndpoint: text,
      seller: sellerFault,
      priceValidUntil: dateTime,
      dateModified: dateTime,
      availableDeliveryMethod: deliveryMethodFault,
      requiredSlots: requiredSlotsFault,
      potentialAction: payActionFault,
      fulfillmentTrigger: pattern(/^(confirmed|finalized)$/, 'confirmed or finalized'),
    })
  )
}

function priceFault(price: JsonValue | undefined, at: string): DocumentFault | undefined {
  if (typeof price === 'string' && DECIMAL_TEXT.test(price)) return fault(at, 'JSON number')
  if (typeof price !== 'number') return fault(at, 'required decimal')
  return price > 0 ? undefined : fault(at, 'greater than zero')
}

function inventoryLevelFault(level: JsonValue, at: string): DocumentFault | undefined {
  if (!isJsonObject(level)) return fault(at, 'object')
  if (!Number.isSafeInteger(level.value)) return fault(`${at}.value`, 'integer')
  return optionalMembers(level, `${at}.`, { '@type': exactly('QuantitativeValue'), unitCode: text })
}

function sellerFault(seller: JsonValue, at: string): DocumentFault | undefined {
  if (!isJsonObject(seller)) return fault(at, 'object with @id')
  return requiredText(seller['@id'], `${at}.@id`) ?? optionalMembers(seller, `${at}.`, { name: text })
}

function deliveryMethodFault(methods: JsonValue, at: string): DocumentFault | undefined {
  const list = Array.isArray(methods) ? methods : [methods]
  const known = list.every((method) => typeof method === 'string')
  return known ? undefined : fault(at, 'string or array of strings')
}

function requiredSlotsFault(slots: JsonValue, at: string): DocumentFault | undefined {
  if (!Array.isArray(slots)) return fault(at, 'array')
  for (const slot of slots) {
    if (typeof slot !== 'string' || slot.trim() === '') return fault(`${at}[]`, 'non-empty string')
    if (!KNOWN_SLOTS.has(slot) && slot.toLowerCase() !== 'customer') return fault(`${at}[]`, 'known slot')
  }
  return undefined
}

function payActionFault(action: JsonValue, at: string): DocumentFault | undefined {
  if (Array.isArray(action)) return fault(at, action.length === 0 ? 'empty array' : 'one object')
  if (!isJsonObject(action)) return fault(at, 'object')
  return optionalMembers(action, `${at}.`, {
    '@type': exactly('PayAction'),
    recipient: recipientFault,
    instrument: instrumentFault,
  })
}

function recipientFault(recipient: JsonValue, at: string): DocumentFault | undefined {
  if (!isJsonObject(recipient)) return fault(at, 'object')
  const id = recipient['@id']
  return isAbsent(id) || payToOfIri(id) ? undefined : fault(`${at}.@id`, 'eip155 iri')
}

function instrumentFault(instrument: JsonValue, at: string): DocumentFault | undefined {
  if (!isJsonObject(instrument)) return fault(at, 'object')
  const { propertyID, value } = instrument
  if (isAbsent(propertyID) && isAbsent(value)) return undefined
  return propertyID === 'eip155' && payToOfText(value) ? undefined : fault(at, 'eip155 property value')
}

function payToOfIri(iri: JsonValue | undefined): PayTo | undefined {
  if (typeof iri !== 'string' || !iri.startsWith('eip155:')) return undefined
  return payToOfText(iri.slice('eip155:'.length))
}

function payToOfText(chainAndAddress: JsonValue | undefined): PayTo | undefined {
  const match = typeof chainAndAddress === 'string' ? CHAIN_AND_ADDRESS.exec(chainAndAddress) : null
  return match ? { chainId: Number(match[1]), address: match[2]!.toLowerCase() } : undefined
}

export function firstFault(items: JsonValue[], at: string, rule: Rule): DocumentFault | undefined {
  for (const [index, item] of items.entries()) {
    const wrong = rule(item, `${at}[${index}]`)
    if (wrong) return wrong
  }
  return undefined
}

/** The first fault among members that may be absent or null; each stands at `prefix` and its name. */
export function optionalMembers(
  members: Members,
  prefix: string,
  rules: Record<string, Rule>,
): DocumentFault | undefined {
  for (const [member, rule] of Object.entries(rules)) {
    const value = members[member]
    const wrong = isAbsent(value) ? undefined : rule(value, prefix + member)
    if (wrong) return wrong
  }
  return undefined
}

export function requiredText(value: JsonValue | undefined, at: string): DocumentFault | undefined {
  return typeof value === 'string' && value.trim() !== '' ? undefined : fault(at, 'required')
}

function text(value: JsonValue, at: string): DocumentFault | undefined {
  return typeof value === 'string' ? undefined : fault(at, 'string')
}

function pattern(form: RegExp, rule: string): Rule {
  return (value, at) => (typeof value === 'string' && form.test(value) ? undefined : fault(at, rule))
}

function exactly(word: string): Rule {
  return (value, at) => (value === word ? undefined : fault(at, word))
}

/** RFC 3339 with at most seven fraction digits, on a day the calendar has (catalog.md 1.6). */
function dateTime(value: JsonValue, at: string): DocumentFault | undefined {
  const match = typeof value === 'string' ? DATE_TIME.exec(value) : null
  if (!match) return fault(at, 'RFC 3339')
  const month = Number(match[2]) - 1
  const date = new Date(0)
  // A day the month does not have moves the date into another month.
  date.setUTCFullYear(Number(match[1]), month, Number(match[3]))
  return date.getUTCMonth() === month ? undefined : fault(at, 'RFC 3339')
}

const absoluteUri = pattern(ABSOLUTE_URI, 'absolute URI')
const currency = pattern(CURRENCY, 'three capitals')
