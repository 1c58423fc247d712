import * as z from 'zod'

/** Shapes that baskets and orders share on the wire (market-api.md 4.1). */

const text = (max: number) =>
  z
    .string()
    .max(max)
    .nullish()
    .transform((value) => value ?? null)

/** `@type` is ours to say, whatever the client sent. */
const typed = <T extends z.ZodRawShape>(type: string, shape: T) =>
  z.object(shape).transform((members) => ({ '@type': type, ...members }))

export const Person = typed('Person', { givenName: text(200), familyName: text(200), birthDate: text(10) })
export const PostalAddress = typed('PostalAddress', {
  streetAddress: text(500),
  addressLocality: text(200),
  postalCode: text(32),
  addressCountry: text(200),
})
export const ContactPoint = typed('ContactPoint', { email: text(254), telephone: text(32) })

export type Person = z.infer<typeof Person>
export type PostalAddress = z.infer<typeof PostalAddress>
export type ContactPoint = z.infer<typeof ContactPoint>

/** The offer as it stood when the line was made; only the catalog fills it, never a client. */
export type OfferSnapshot = {
  '@type': 'Offer'
  price: number
  priceCurrency: string
  seller: { '@type': 'Organization'; '@id': string }
  availableDeliveryMethod: string[] | null
  requiredSlots: string[] | null
  fulfillmentEndpoint: null
  fulfillmentTrigger: string | null
  isOneOff: boolean
  potentialAction: object
}
