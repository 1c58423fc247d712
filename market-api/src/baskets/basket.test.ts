import type { OfferSnapshot } from '@market/contracts/orderDocuments'
import { describe, expect, it } from 'vitest'
import { type Basket, type BasketItem, validateBasketRules } from './basket.ts'
import { composeOrder } from './composeOrder.ts'

const SELLER = `0x${'aa'.repeat(20)}`
const BUYER = `0x${'bb'.repeat(20)}`
const GATEWAY = `0x${'cc'.repeat(20)}`

const payTo = (gateway: string | null, chain = 100) => ({
  recipient: gateway && { '@id': `eip155:${chain}:${gateway}` },
})
const item = (offer: Partial<OfferSnapshot> = {}, quantity = 1, sku = 'mug'): BasketItem => ({
  '@type': 'OrderItem',
  orderQuantity: quantity,
  orderedItem: { '@type': 'Product', sku, name: sku },
  seller: SELLER,
  imageUrl: null,
  productCid: 'Qm',
  linkKeccak: '0x',
  offerSnapshot: {
    '@type': 'Offer',
    price: 7.5,
    priceCurrency: 'CRC',
    seller: { '@type': 'Organization', '@id': `eip155:100:${SELLER}` },
    availableDeliveryMethod: null,
    requiredSlots: null,
    fulfillmentEndpoint: null,
    fulfillmentTrigger: null,
    isOneOff: false,
    potentialAction: payTo(GATEWAY),
    ...offer,
  },
})
const basket = (items: BasketItem[], members: Partial<Basket> = {}): Basket => ({
  '@context': [],
  '@type': 'circles:Basket',
  basketId: 'bkt_1',
  buyer: BUYER,
  operator: null,
  chainId: 100,
  items,
  customer: null,
  shippingAddress: null,
  billingAddress: null,
  ageProof: null,
  contactPoint: null,
  createdAt: 0,
  ttlSeconds: 1,
  ...members,
})
const contact = (email: string | null) => ({ contactPoint: { '@type': 'ContactPoint', email, telephone: null } })
const statuses = (b: Basket) => Object.fromEntries(validateBasketRules(b).requirements.map((r) => [r.id, r.status]))

describe('validateBasketRules', () => {
  it('market-api:A-041 asks for nothing that no offer asks for', () => {
    expect(validateBasketRules(basket([item()]))).toMatchObject({
      valid: true,
      requirements: [],
      missing: [],
      ruleTrace: [],
    })
  })

  it('market-api:A-042 market-api:A-043 asks for the e-mail an offer wants', () => {
    const wants = [item({ requiredSlots: ['contactPoint.email'] })]
    expect(validateBasketRules(basket(wants))).toMatchObject({
      valid: false,
      requirements: [
        {
          id: 'req:slot:contactPoint.email',
          path: '/contactPoint/email',
          expectedTypes: ['https://schema.org/Text'],
          status: 'missing',
          blocking: true,
        },
      ],
    })
    expect(validateBasketRules(basket(wants, contact('ada@example.com')))).toMatchObject({ valid: true })
  })

  it('market-api:A-044 asks for both names', () => {
    const wants = [item({ requiredSlots: [' Customer '] })]
    expect(validateBasketRules(basket(wants)).missing.map(({ slot }) => slot)).toEqual([
      'customer.givenName',
      'customer.familyName',
    ])
    const named = { customer: { '@type': 'Person', givenName: 'Ada', familyName: 'L', birthDate: null } }
    expect(validateBasketRules(basket(wants, named)).valid).toBe(true)
  })

  it('market-api:A-045 blocks on a slot nobody knows', () => {
    expect(validateBasketRules(basket([item({ requiredSlots: ['vehicle.plate'] })]))).toMatchObject({
      valid: false,
      missing: [{ slot: 'vehicle.plate', path: '/vehicle/plate', expectedTypes: [] }],
    })
  })

  it('market-api:A-046 tells a wrong shape from a missing value', () => {
    const wants = [item({ requiredSlots: ['contactPoint.email'] })]
    expect(statuses(basket(wants, contact('not-an-email')))).toEqual({ 'req:slot:contactPoint.email': 'invalidShape' })
    expect(statuses(basket(wants, contact('  ')))).toEqual({ 'req:slot:contactPoint.email': 'missing' })
  })

  it('takes an address for complete only with all of its parts', () => {
    const wants = [item({ requiredSlots: ['shippingAddress'] })]
    const parts = { streetAddress: 'Kai 1', addressLocality: 'Kiel', postalCode: '24103', addressCountry: 'DE' }
    const at = (shippingAddress: Basket['shippingAddress']) =>
      validateBasketRules(basket(wants, { shippingAddress })).valid
    expect(at({ '@type': 'PostalAddress', ...parts })).toBe(true)
    expect(at({ '@type': 'PostalAddress', ...parts, postalCode: null })).toBe(false)
    expect(at(null)).toBe(false)
  })
})

describe('composeOrder', () => {
  const compose = (items: BasketItem[]) => composeOrder(basket(items), BUYER, 'ord_1', 'pay_1', new Date())

  it('adds prices up exactly and keeps offers and items side by side', () => {
    const { snapshot, priceWei, expectedGateways, lines } = compose([
      item({ price: 0.1 }, 3),
      item({ price: 19 }, 2, 'tee'),
    ])
    expect(priceWei).toBe(38_300_000_000_000_000_000n)
    expect(snapshot.totalPaymentDue).toEqual({ '@type': 'PriceSpecification', price: 38.3, priceCurrency: 'CRC' })
    expect(snapshot.acceptedOffer.map(({ price }) => price)).toEqual([0.1, 19])
    expect(snapshot.orderedItem.map(({ orderedItem }) => orderedItem.sku)).toEqual(['mug', 'tee'])
    expect(expectedGateways).toEqual([GATEWAY])
    expect(lines.map(({ lineIndex, quantity, trigger }) => [lineIndex, quantity, trigger])).toEqual([
      [0, 3, 'finalized'],
      [1, 2, 'finalized'],
    ])
  })

  it.each([
    ['market-api:A-075 another currency', 'unsupported_currency', [item(), item({ priceCurrency: 'EUR' })], 1],
    ['nobody to pay', 'no_pay_to', [item({ potentialAction: payTo(null) })], 0],
    ['somebody on another chain', 'no_pay_to', [item({ potentialAction: payTo(GATEWAY, 1) })], 0],
    ['payments:W1 two gateways', 'mixed_pay_to', [item(), item({ potentialAction: payTo(SELLER) })], 1],
    ['market-api:A-074 a price below nothing', 'invalid_offer', [item({ price: 19 }), item({ price: -5 })], 1],
    ['nothing to pay', 'invalid_offer', [item({ price: 0 })], 0],
    ['a price smaller than wei', 'invalid_offer', [item(), item({ price: 1e-19 })], 1],
    ['a price above every amount', 'invalid_offer', [item({ price: 1e300 })], 0],
    ['more than there is', 'invalid_offer', [item({ price: 1e15 }, 2)], 0],
  ])('refuses %s', (_, code, items, line) => {
    expect(() => compose(items)).toThrow(
      expect.objectContaining({ code, status: 422, details: { path: `/items/${line}` } }),
    )
  })
})
