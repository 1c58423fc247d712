import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { type JsonValue, CanonicalJsonError, parseStrictJson } from './canonicalJson.ts'
import {
  type DocumentFault,
  type Offer,
  MARKET_CONTEXT,
  namespaceEntry,
  NAMESPACE_CONTEXT,
  parseNameIndexDoc,
  parseNamespaceChunk,
  parseOffer,
  parseProduct,
  parseProfile,
  parseTombstone,
  payToOf,
  PROFILE_CONTEXT,
  productLinkName,
  SCHEMA_ORG_CONTEXT,
  skuOfLinkName,
  storedDocument,
} from './catalogDocuments.ts'

interface PinCase {
  id: string
  body: string
  required: { accept: true } | { accept: false; at: string; rule: string }
}
const pinFile = new URL('../vectors/pin.json', import.meta.url)
const pin = JSON.parse(readFileSync(pinFile, 'utf8')) as { cases: PinCase[] }

type Decision = { ok: true } | DocumentFault
const decide = (body: string, parse: (value: unknown) => Decision): PinCase['required'] => {
  let value: JsonValue
  try {
    value = parseStrictJson(body)
  } catch (error) {
    expect(error).toBeInstanceOf(CanonicalJsonError)
    return { accept: false, at: '$', rule: 'malformed JSON' }
  }
  const decision = parse(value)
  return decision.ok ? { accept: true } : { accept: false, at: decision.at, rule: decision.rule }
}
/** The pin vectors are in one list; the id says which document a body wants to be. */
const casesOf = (ids: RegExp) => pin.cases.filter(({ id }) => ids.test(id))
const productIds = /^(product|type|root|not|name|offers?|price|currency|second|seller|slots|action|image|trailing)-/

const cid = 'QmVpUrsUrqo5BCDw8PYpMaEedYoCcsaw22cvYUpzukyQDy'
const address = '0x425868f390a43ae5eed9cca8cd5d5b72b9fa171a'
const offer: Offer = { '@type': 'Offer', price: 24, priceCurrency: 'EUR' }
const product = (change: object = {}, offerChange: object = {}) => ({
  '@context': [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
  '@type': 'Product',
  name: 'Mug',
  sku: 'clay-mug',
  offers: [{ ...offer, ...offerChange }],
  ...change,
})

describe('products', () => {
  const cases = casesOf(productIds).filter(({ id }) => !/^(offer|image)-alone$/.test(id))

  it('catalog:51 has all product cases of the vectors before it', () => {
    expect(cases.length).toBe(pin.cases.filter(({ body }) => /"@type":\[?"[Pp]roduct/.test(body)).length + 2)
  })

  it.each(cases)('catalog:51 decides $id', ({ body, required }) => {
    expect(decide(body, parseProduct)).toEqual(required)
  })

  it.each(casesOf(/^offer-alone$/))('catalog:51 decides $id', ({ body, required }) => {
    expect(decide(body, parseOffer)).toEqual(required)
  })

  it.each(casesOf(/^tombstone/))('catalog:51 decides $id', ({ body, required }) => {
    expect(decide(body, parseTombstone)).toEqual(required)
  })

  it.each(casesOf(/^(index|chunk)/).filter(({ required }) => required.accept))(
    'catalog:51 reads what $id pins',
    ({ id, body, required }) => {
      expect(decide(body, id.startsWith('index') ? parseNameIndexDoc : parseNamespaceChunk)).toEqual(required)
    },
  )

  const [level, delivery, action] = ['inventoryLevel', 'availableDeliveryMethod', 'potentialAction'].map(
    (member) => `offers[0].${member}`,
  ) as [string, string, string]
  it.each<[string, object, object, string, string]>([
    ['a description that is no text', { description: 1 }, {}, 'description', 'string'],
    ['a day the calendar lacks', { dateCreated: '2026-02-29T00:00:00Z' }, {}, 'dateCreated', 'RFC 3339'],
    ['a day zero', { dateCreated: '2026-03-00T00:00:00Z' }, {}, 'dateCreated', 'RFC 3339'],
    ['a month too many', { dateCreated: '2026-13-01T00:00:00Z' }, {}, 'dateCreated', 'RFC 3339'],
    ['8 fraction digits', { dateModified: '2026-01-01T00:00:00.12345678Z' }, {}, 'dateModified', 'RFC 3339'],
    ['a time without offset', {}, { dateModified: '2026-01-01T00:00:00' }, 'offers[0].dateModified', 'RFC 3339'],
    ['a line feed after the currency', {}, { priceCurrency: 'EUR\n' }, 'offers[0].priceCurrency', 'three capitals'],
    ['a line feed after the sku', { sku: 'clay-mug\n' }, {}, 'sku', 'pattern'],
    ['a feed that is no text', {}, { availabilityFeed: 1 }, 'offers[0].availabilityFeed', 'absolute URI'],
    ['stock as a bare number', {}, { inventoryLevel: 3 }, level, 'object'],
    ['a unit that is no text', {}, { inventoryLevel: { value: 3, unitCode: 1 } }, `${level}.unitCode`, 'string'],
    ['a delivery method that is no text', {}, { availableDeliveryMethod: [1] }, delivery, 'string or array of strings'],
    ['a recipient that is text', {}, { potentialAction: { recipient: 'me' } }, `${action}.recipient`, 'object'],
    ['another action', {}, { potentialAction: { '@type': 'BuyAction' } }, `${action}.@type`, 'PayAction'],
    ['an image address that is no text', { image: [{ contentUrl: 1 }] }, {}, 'image[0].contentUrl', 'transport'],
    ['an http image without host', { image: [{ url: 'https://' }] }, {}, 'image[0].url', 'http(s) only'],
  ])('refuses %s', (_what, change, offerChange, at, rule) => {
    expect(parseProduct(product(change, offerChange))).toEqual({ ok: false, at, rule })
  })

  it('takes null for an absent optional member, as the reference writes it', () => {
    const nulls = { description: null, dateModified: null }
    const offerNulls = { potentialAction: null, seller: null, fulfillmentTrigger: null, inventoryLevel: null }
    expect(parseProduct(product(nulls, offerNulls)).ok).toBe(true)
  })

  it('knows the slot customer in any case, and the parts of an address', () => {
    const requiredSlots = ['Customer', 'shippingAddress.postalCode', 'billingAddress']
    expect(parseProduct(product({}, { requiredSlots })).ok).toBe(true)
  })

  it('catalog:50 gives back the value it was given, unknown members included', () => {
    const value = product({ colour: 'green' }, { warranty: { months: 6 } })
    const parsed = parseProduct(value)
    expect(parsed.ok && parsed.product).toBe(value)
  })

  it('names product links and reads the names back', () => {
    expect(productLinkName('clay-mug')).toBe('product/clay-mug')
    expect(skuOfLinkName('product/clay-mug')).toBe('clay-mug')
    for (const name of ['product/', 'product/Medlar', 'Product/mug', 'settings/theme', 'mug', 'product/a/b']) {
      expect(skuOfLinkName(name)).toBeUndefined()
    }
  })
})

const payTo = (recipient?: string, value?: string) =>
  payToOf({
    ...offer,
    potentialAction: {
      recipient: recipient === undefined ? null : { '@id': recipient },
      instrument: value === undefined ? null : { propertyID: 'eip155', value },
    },
  })

describe('where an offer asks to be paid', () => {
  it('reads the recipient, else the instrument, in lower case', () => {
    const upper = `0x${address.slice(2).toUpperCase()}`
    expect(payTo(`eip155:100:${upper}`)).toEqual({ chainId: 100, address })
    expect(payTo(undefined, `100:${upper}`)).toEqual({ chainId: 100, address })
    expect(payTo(`eip155:100:${upper}`, `100:${address}`)).toEqual({ chainId: 100, address })
  })

  it('has no answer when the offer names none or two', () => {
    expect(payToOf(offer)).toBeUndefined()
    expect(payTo()).toBeUndefined()
    expect(payTo(`eip155:100:${address}`, `1:${address}`)).toBeUndefined()
  })
})

describe('namespace documents', () => {
  const profile = { '@context': PROFILE_CONTEXT, '@type': 'Profile', name: 'x', location: 'Leipzig' }
  const index = { '@context': NAMESPACE_CONTEXT, '@type': 'NameIndexDoc', head: cid, entries: { 'product/a': cid } }
  const chunk = { '@context': NAMESPACE_CONTEXT, '@type': 'NamespaceChunk', prev: null, links: [] as unknown[] }

  it('finds a namespace by its operator in lower case only', () => {
    const parse = (namespaces: object) => {
      const parsed = parseProfile({ ...profile, namespaces })
      return parsed.ok ? namespaceEntry(parsed.profile, address) : parsed
    }
    expect(parse({ [address]: cid })).toBe(cid)
    // catalog:44: a key in checksum case is no namespace, and not an error of the profile.
    expect(parse({ [address.toUpperCase().replace('0X', '0x')]: cid })).toBeUndefined()
    expect(parse({ Bob: 'not a cid' })).toBeUndefined()
    expect(parse([])).toEqual({ ok: false, at: 'namespaces', rule: 'object' })
  })

  it('keeps profile members it does not know', () => {
    const parsed = parseProfile(profile)
    expect(parsed.ok && parsed.profile).toBe(profile)
  })

  it.each<[string, (value: unknown) => Decision, object]>([
    ['profile', parseProfile, profile],
    ['index', parseNameIndexDoc, index],
    ['chunk', parseNamespaceChunk, chunk],
  ])('requires both @context and @type of the %s, exactly', (_what, parse, document) => {
    expect(parse(document).ok).toBe(true)
    for (const change of [
      { '@context': undefined },
      { '@context': `${PROFILE_CONTEXT}x` },
      { '@context': PROFILE_CONTEXT.replace('-', '\u2011') },
      { '@type': undefined },
      { '@type': 'Person' },
    ]) {
      expect(parse({ ...document, ...change }).ok).toBe(false)
    }
    for (const other of [null, 'x', [document]]) expect(parse(other).ok).toBe(false)
  })

  it('takes only a CIDv0 as head and prev', () => {
    for (const bad of ['', 'bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku', `Qm${'z'.repeat(44)}`]) {
      expect(parseNameIndexDoc({ ...index, head: bad })).toEqual({ ok: false, at: 'head', rule: 'CIDv0' })
      expect(parseNamespaceChunk({ ...chunk, prev: bad })).toEqual({ ok: false, at: 'prev', rule: 'CIDv0' })
    }
  })

  it('catalog:45 refuses a chunk of 101 links, and does not mind what the links are', () => {
    const hundred = Array.from({ length: 100 }, () => 'not a link')
    expect(parseNamespaceChunk({ ...chunk, links: hundred }).ok).toBe(true)
    expect(parseNamespaceChunk({ ...chunk, links: [...hundred, {}] })).toMatchObject({ ok: false, at: 'links' })
  })

  it('stores a document as the compact JSON its CID belongs to', () => {
    const { cid: stored, bytes } = storedDocument({ '@type': 'Tombstone' })
    expect(new TextDecoder().decode(bytes)).toBe('{"@type":"Tombstone"}')
    expect(stored).toBe('QmUBPkc1fRbmABjLb1HYY4YWtTzKJxySo6vCDtKLhk561T')
  })
})
