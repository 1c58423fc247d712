import * as z from 'zod'
import {
  address,
  basketId,
  chainId,
  cid,
  currency,
  digest,
  eip155,
  imageUrl,
  orderedProduct,
  orderId,
  paymentReference,
  price,
  quantity,
  seconds,
  text,
} from './values.ts'

export const Person = z
  .object({
    '@type': z.literal('Person'),
    givenName: text('Ada').nullable(),
    familyName: text('Lovelace').nullable(),
    birthDate: text('1990-12-10').nullable(),
  })
  .meta({ id: 'Person' })
export type Person = z.infer<typeof Person>

export const PostalAddress = z
  .object({
    '@type': z.literal('PostalAddress'),
    streetAddress: text('12 St James Square').nullable(),
    addressLocality: text('London').nullable(),
    postalCode: text('SW1Y 4JH').nullable(),
    addressCountry: text('GB').nullable(),
  })
  .meta({ id: 'PostalAddress' })
export type PostalAddress = z.infer<typeof PostalAddress>

export const ContactPoint = z
  .object({
    '@type': z.literal('ContactPoint'),
    email: text('ada@example.org').nullable(),
    telephone: text('+44 20 7946 0000').nullable(),
  })
  .meta({ id: 'ContactPoint' })
export type ContactPoint = z.infer<typeof ContactPoint>

export const PayAction = z
  .object({
    '@type': z.literal('PayAction'),
    price,
    priceCurrency: currency,
    recipient: z.object({ '@id': eip155 }).nullable(),
    instrument: z
      .object({
        '@type': z.literal('PropertyValue'),
        propertyID: z.literal('eip155'),
        value: text('100:0x943186fbcfd74fd575bcf9aa76a53f56b2f06aba'),
        name: z.literal('pay-to'),
      })
      .nullable(),
  })
  .meta({ id: 'PayAction', description: 'Whom to pay, if the seller named somebody; both members say the same.' })
export type PayAction = z.infer<typeof PayAction>

export const OfferSnapshot = z
  .object({
    '@type': z.literal('Offer'),
    price,
    priceCurrency: currency,
    seller: z.object({ '@type': z.literal('Organization'), '@id': eip155 }),
    availableDeliveryMethod: z.array(text('https://schema.org/ParcelService')).nullable(),
    requiredSlots: z.array(text('contactPoint.email')).nullable().describe('What the basket has to hold.'),
    fulfillmentEndpoint: z.null().describe("Always null: how to deliver is the market's business."),
    fulfillmentTrigger: z.enum(['confirmed', 'finalized']).nullable().describe('null: finalized.'),
    isOneOff: z.boolean(),
    potentialAction: PayAction,
  })
  .meta({ id: 'OfferSnapshot', description: 'The offer as it stood when the line was made.' })
export type OfferSnapshot = z.infer<typeof OfferSnapshot>

export const BasketItem = z
  .object({
    '@type': z.literal('OrderItem'),
    orderQuantity: quantity,
    orderedItem: orderedProduct,
    seller: address,
    imageUrl,
    offerIndex: z.int().optional().describe("Which of the product's offers, where the client chose one."),
    productCid: cid,
    linkKeccak: digest.describe("Names the seller's signed link; another one means that the seller changed something."),
    offerSnapshot: OfferSnapshot,
  })
  .meta({ id: 'BasketItem' })
export type BasketItem = z.infer<typeof BasketItem>

export const Basket = z
  .object({
    '@context': z.array(text('https://schema.org/')),
    '@type': z.literal('circles:Basket'),
    basketId,
    buyer: address.nullable(),
    operator: address
      .nullable()
      .describe("Whose namespace lines are looked up in; null: the seller's newest product in any."),
    chainId,
    status: z.enum(['Draft', 'CheckedOut']),
    version: z.int().describe('Counts the changes; also in `ETag`.'),
    items: z.array(BasketItem),
    customer: Person.nullable(),
    shippingAddress: PostalAddress.nullable(),
    billingAddress: PostalAddress.nullable(),
    ageProof: Person.nullable(),
    contactPoint: ContactPoint.nullable(),
    createdAt: seconds,
    modifiedAt: seconds,
    ttlSeconds: z.int().meta({ description: 'It runs out this long after its last change.', examples: [86_400] }),
  })
  .meta({ id: 'Basket' })
export type Basket = z.infer<typeof Basket>

export const CreatedBasket = z
  .object({
    '@type': z.literal('circles:Basket'),
    basketId: basketId.describe('The key to the basket: whoever knows it can open it.'),
    basketToken: text(
      'q8yR3TzG0m5bWcX1uJ7kVnE4sL9aD2hF6pQoYiZtBxM',
      'A second key, for `X-Basket-Token`: once it is used, the id alone opens nothing.',
    ),
  })
  .meta({ id: 'CreatedBasket' })
export type CreatedBasket = z.infer<typeof CreatedBasket>

const slot = {
  slot: text('contactPoint.email'),
  path: text('/contactPoint/email', 'JSON pointer into the basket.'),
  expectedTypes: z.array(text('https://schema.org/Text')),
}

export const Requirement = z
  .object({
    id: text('req:slot:contactPoint.email'),
    ruleId: text('rule:offer-required-slots'),
    reason: text('Offer requires contactPoint.email').nullable(),
    ...slot,
    cardinality: z.object({ min: z.int(), max: z.int() }),
    status: z.enum(['ok', 'missing', 'typeMismatch', 'invalidShape']),
    foundAt: text('/contactPoint').nullable(),
    foundType: text('Person').nullable().describe('The `@type` sent, where it was another than expected.'),
    scope: text('basket').nullable(),
    itemIndexes: z.array(z.int()).nullable(),
    blocking: z.literal(true),
  })
  .meta({ id: 'Requirement' })
export type Requirement = z.infer<typeof Requirement>

export const ValidationResult = z
  .object({
    '@context': z.literal('https://schema.org/'),
    '@type': z.literal('Thing'),
    basketId,
    valid: z.boolean(),
    requirements: z.array(Requirement),
    missing: z.array(z.object(slot)),
    ruleTrace: z.array(
      z.object({ id: text('rule:offer-required-slots'), evaluated: z.literal(true), result: text('ok') }),
    ),
  })
  .meta({ id: 'ValidationResult', description: '`valid`: every requirement is `ok`.' })
export type ValidationResult = z.infer<typeof ValidationResult>

export const CheckoutAnswer = z
  .object({ orderId, basketId, paymentReference, orderCid: z.null() })
  .meta({ id: 'CheckoutAnswer' })
export type CheckoutAnswer = z.infer<typeof CheckoutAnswer>
