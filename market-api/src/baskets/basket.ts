import { normalizeAddress } from '@market/contracts/address'
import { ContactPoint, type OfferSnapshot, Person, PostalAddress } from '@market/contracts/orderDocuments'
import * as z from 'zod'

/** What a buyer puts together, as stored and as sent (market-api.md 4.1). */

export const MAX_ITEMS = 500
const MAX_QUANTITY = 1_000_000
export const MAX_TTL_SECONDS = 604_800
export const DEFAULT_TTL_SECONDS = 86_400

const RequestedItem = z.object({
  seller: z.string().nullish(),
  orderedItem: z.object({ sku: z.string().nullish() }).nullish(),
  orderQuantity: z
    .int()
    .refine((n) => n >= 1 && n <= MAX_QUANTITY, 'orderQuantity out of bounds [1, 1_000_000]')
    .meta({ minimum: 1, maximum: MAX_QUANTITY }),
  /** Which of the product's offers; the first without it (W-25). */
  offerIndex: z.int().nonnegative().max(1000).nullish(),
  imageUrl: z
    .string()
    .max(2048)
    .regex(/^(https?|ipfs):/i, 'imageUrl must be an http, https or ipfs URL')
    .nullish(),
})

/** A change to a basket. Members that are absent stay, null clears; anything a client may not set is not in here. */
export const BasketPatch = z.strictObject({
  items: z.array(RequestedItem).max(MAX_ITEMS, `items.length must be <= ${MAX_ITEMS}`).nullish(),
  customer: Person.nullish(),
  shippingAddress: PostalAddress.nullish(),
  billingAddress: PostalAddress.nullish(),
  ageProof: Person.nullish(),
  contactPoint: ContactPoint.nullish(),
  ttlSeconds: z
    .int()
    .refine((n) => n >= 1 && n <= MAX_TTL_SECONDS, `ttlSeconds must be in range [1, ${MAX_TTL_SECONDS}]`)
    .meta({ minimum: 1, maximum: MAX_TTL_SECONDS })
    .nullish(),
})
export type BasketPatch = z.infer<typeof BasketPatch>

export type BasketItem = {
  '@type': 'OrderItem'
  orderQuantity: number
  orderedItem: { '@type': 'Product'; sku: string; name: string }
  seller: string
  imageUrl: string | null
  /** There only when the buyer chose one (W-25). */
  offerIndex?: number
  productCid: string
  linkKeccak: string
  offerSnapshot: OfferSnapshot
}

export type Basket = {
  '@context': string[]
  '@type': 'circles:Basket'
  basketId: string
  buyer: string | null
  operator: string | null
  chainId: number
  items: BasketItem[]
  customer: Person | null
  shippingAddress: PostalAddress | null
  billingAddress: PostalAddress | null
  ageProof: Person | null
  contactPoint: ContactPoint | null
  /** Unix seconds. */
  createdAt: number
  ttlSeconds: number
  /** `@type` of a member as the client sent it, where it sent a wrong one: what is stored and shown has the right one. */
  sentTypes?: Partial<Record<SlotMember, string>>
}

const TYPE_OF = {
  customer: 'Person',
  shippingAddress: 'PostalAddress',
  billingAddress: 'PostalAddress',
  ageProof: 'Person',
  contactPoint: 'ContactPoint',
} as const
/** The members an offer may ask for. */
export type SlotMember = keyof typeof TYPE_OF
export const SLOT_MEMBERS = Object.keys(TYPE_OF) as SlotMember[]

/** The `@type` a client sent for a member, if it is a wrong one. */
export function wrongType(member: SlotMember, sent: unknown): string | undefined {
  const type = typeof sent === 'object' && sent !== null ? (sent as { '@type'?: unknown })['@type'] : undefined
  return typeof type === 'string' && type !== TYPE_OF[member] ? type.slice(0, 64) : undefined
}

/** A requested line, checked: who sells what, how many. */
export type RequestedLine = {
  seller: string
  sku: string
  quantity: number
  imageUrl: string | null
  offerIndex: number | undefined
}

/** Throws `AddressError`, or `LineError` with the sentences existing clients show (market-api.md 4.4). */
export function requestedLine(item: z.infer<typeof RequestedItem>): RequestedLine {
  if (!item.seller?.trim()) throw new LineError("Each basket item must have a seller address (Parameter 'basket')")
  const sku = item.orderedItem?.sku?.trim()
  if (!sku) throw new LineError("Each basket item must have an orderedItem.sku (Parameter 'basket')")
  return {
    seller: normalizeAddress(item.seller),
    sku,
    quantity: item.orderQuantity,
    imageUrl: item.imageUrl ?? null,
    offerIndex: item.offerIndex ?? undefined,
  }
}
export class LineError extends Error {}

/** The lines of a basket as they would be requested again. */
export const linesOf = (basket: Basket): RequestedLine[] =>
  basket.items.map((item) => ({
    seller: item.seller,
    sku: item.orderedItem.sku,
    quantity: item.orderQuantity,
    imageUrl: item.imageUrl,
    offerIndex: item.offerIndex,
  }))

export type Requirement = {
  id: string
  ruleId: string
  reason: string | null
  slot: string
  path: string
  expectedTypes: string[]
  cardinality: { min: number; max: number }
  status: 'ok' | 'missing' | 'typeMismatch' | 'invalidShape'
  foundAt: string | null
  foundType: string | null
  scope: string | null
  itemIndexes: number[] | null
  /** Always true and always there: absent reads as "not blocking" in the wallet (clients.md 7). */
  blocking: true
}

export type ValidationResult = {
  '@context': 'https://schema.org/'
  '@type': 'Thing'
  basketId: string
  valid: boolean
  requirements: Requirement[]
  missing: { slot: string; path: string; expectedTypes: string[] }[]
  ruleTrace: { id: string; evaluated: true; result: string }[]
}

const TEXT = ['https://schema.org/Text']
const ADDRESS = ['https://schema.org/PostalAddress']
const ADDRESS_MEMBERS = ['streetAddress', 'addressLocality', 'postalCode', 'addressCountry'] as const

const EMAIL = /^[^\s@]+@[^\s@]+\.[^\s@]+$/
const PHONE = /^\+?[0-9 ()/.-]{5,}$/
const BIRTH_DATE = /^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$/

type Status = Requirement['status']
const present = (value: string | null | undefined, shape?: RegExp): Status => {
  if (!value?.trim()) return 'missing'
  return shape && !shape.test(value.trim()) ? 'invalidShape' : 'ok'
}
const complete = (address: PostalAddress | null): Status =>
  ADDRESS_MEMBERS.every((member) => present(address?.[member]) === 'ok') ? 'ok' : 'missing'

/** What an offer may require of the basket, by slot (market-api.md 4.7). */
const SLOTS: Record<string, { expectedTypes: string[]; status(basket: Basket): Status }> = {
  'contactPoint.email': { expectedTypes: TEXT, status: (b) => present(b.contactPoint?.email, EMAIL) },
  'contactPoint.telephone': { expectedTypes: TEXT, status: (b) => present(b.contactPoint?.telephone, PHONE) },
  ageProof: { expectedTypes: ['https://schema.org/Person'], status: (b) => present(b.ageProof?.birthDate, BIRTH_DATE) },
  'ageProof.birthDate': {
    expectedTypes: ['https://schema.org/Date'],
    status: (b) => present(b.ageProof?.birthDate, BIRTH_DATE),
  },
  shippingAddress: { expectedTypes: ADDRESS, status: (b) => complete(b.shippingAddress) },
  billingAddress: { expectedTypes: ADDRESS, status: (b) => complete(b.billingAddress) },
  ...Object.fromEntries(
    (['shippingAddress', 'billingAddress'] as const).flatMap((slot) =>
      ADDRESS_MEMBERS.map((member) => [
        `${slot}.${member}`,
        { expectedTypes: TEXT, status: (b: Basket) => present(b[slot]?.[member]) },
      ]),
    ),
  ),
}

/** What stands where another `@type` was expected: nothing in it counts until the client says what it is. */
function mismatch(basket: Basket, slot: string): Partial<Pick<Requirement, 'status' | 'foundAt' | 'foundType'>> {
  const member = slot.split('.', 1)[0] as SlotMember
  const foundType = basket.sentTypes?.[member]
  return foundType === undefined ? {} : { status: 'typeMismatch', foundAt: `/${member}`, foundType }
}

/** Whether a basket may be checked out, and what it still needs (market-api.md 4.6, 4.7). */
export function validateBasketRules(basket: Basket): ValidationResult {
  const requirements: Requirement[] = []
  const add = (r: Pick<Requirement, 'id' | 'ruleId' | 'reason' | 'slot' | 'expectedTypes' | 'status'>, max = 1) =>
    requirements.push({
      foundAt: null,
      foundType: null,
      ...r,
      path: `/${r.slot.replaceAll('.', '/')}`,
      cardinality: { min: 1, max },
      ...mismatch(basket, r.slot),
      scope: 'basket',
      itemIndexes: null,
      blocking: true,
    })

  if (basket.items.length === 0) {
    const reason = 'Basket must contain at least one item'
    const ruleId = 'rule:items-nonempty'
    add({ id: 'req:items-nonempty', ruleId, reason, slot: 'items', expectedTypes: [], status: 'missing' }, MAX_ITEMS)
  }

  const required = new Set(
    basket.items.flatMap((item) => item.offerSnapshot.requiredSlots ?? []).map((key) => key.trim()),
  )
  const customer = [...required].filter((key) => key.toLowerCase() === 'customer')
  for (const key of customer) required.delete(key)
  for (const key of required) {
    const slot = SLOTS[key]
    add({
      id: `req:slot:${key}`,
      ruleId: 'rule:offer-required-slots',
      reason: `Offer requires ${key}`,
      slot: key,
      expectedTypes: slot?.expectedTypes ?? [],
      // A slot nobody knows can't be filled: selling without it would deliver without what the seller asked for (W-23).
      status: slot?.status(basket) ?? 'missing',
    })
  }
  if (customer.length > 0) {
    for (const [name, label] of [
      ['givenName', 'First'],
      ['familyName', 'Last'],
    ] as const) {
      add({
        id: `req:customer:${name}`,
        ruleId: 'rule:customer-names',
        reason: `${label} name (${name}) is required`,
        slot: `customer.${name}`,
        expectedTypes: TEXT,
        status: present(basket.customer?.[name]),
      })
    }
  }
  return {
    '@context': 'https://schema.org/',
    '@type': 'Thing',
    basketId: basket.basketId,
    valid: requirements.every((r) => r.status === 'ok'),
    requirements,
    missing: requirements
      .filter((r) => r.status === 'missing')
      .map(({ slot, path, expectedTypes }) => ({ slot, path, expectedTypes })),
    ruleTrace: requirements.map((r) => ({ id: r.ruleId, evaluated: true, result: r.status })),
  }
}
