import * as z from 'zod'

/** What the market asks an adapter to deliver, and what the adapter answers (fulfilment.md 7, 8, 14). */

export const FulfillmentTrigger = z.enum(['confirmed', 'finalized'])
export type FulfillmentTrigger = z.infer<typeof FulfillmentTrigger>

const quantity = z.union([
  z.number(),
  z
    .string()
    .regex(/^-?[0-9]+(\.[0-9]+)?$/)
    .transform(Number),
])

const FulfillmentItem = z.object({
  sku: z.string({ error: 'item.sku is required' }).trim().toLowerCase().min(1, 'item.sku is required'),
  // Whole units, at least one, however the caller spelled the number (adapters.md A-10).
  quantity: quantity.default(1).transform((q) => Math.max(1, Math.floor(q))),
})

const required = (name: string) =>
  z
    .string({ error: `${name} is required` })
    .trim()
    .min(1, `${name} is required`)
    .max(255, `${name} is too long`)

const textOf = (name: string) => z.string({ error: `${name} must be text` }).nullish()

/** Of members that may be missing, `null` or `{}`; what it has besides the texts is dropped. */
const textsOf = <N extends string>(name: string, members: readonly N[]) =>
  z
    .object(Object.fromEntries(members.map((member) => [member, textOf(`${name}.${member}`)])) as Texts<N>, {
      error: `${name} must be an object`,
    })
    .nullish()
type Texts<N extends string> = Record<N, ReturnType<typeof textOf>>

const ADDRESS = ['streetAddress', 'addressLocality', 'postalCode', 'addressCountry'] as const

/** The messages and their order are what callers of the older adapters get (fulfilment.md 7). */
export const FulfillmentRequest = z.object({
  orderId: required('orderId'),
  paymentReference: required('paymentReference'),
  items: z
    .array(FulfillmentItem, { error: 'items must contain at least one element' })
    .min(1, 'items must contain at least one element'),
  trigger: z
    .string({ error: 'trigger is required' })
    .trim()
    .toLowerCase()
    .min(1, 'trigger is required')
    .pipe(z.enum(['confirmed', 'finalized'], { error: "trigger must be 'confirmed' or 'finalized'" })),
  buyer: z.string().nullish(),
  lineIndexes: z.array(z.int().nonnegative()).nullish(),
  idempotencyKey: z.string().min(1).max(255).nullish(),
  // Of the buyer, what the offers of the lines ask for.
  customer: textsOf('customer', ['name', 'givenName', 'familyName']),
  shippingAddress: textsOf('shippingAddress', ADDRESS),
  billingAddress: textsOf('billingAddress', ADDRESS),
  contactPoint: textsOf('contactPoint', ['email', 'telephone']),
})
export type FulfillmentRequest = z.infer<typeof FulfillmentRequest>

/** Every member name in it, for those who match names without case. */
export const FULFILLMENT_REQUEST_NAMES: readonly string[] = [
  ...Object.keys(FulfillmentRequest.shape),
  ...Object.keys(FulfillmentItem.shape),
  ...[
    FulfillmentRequest.shape.customer,
    FulfillmentRequest.shape.shippingAddress,
    FulfillmentRequest.shape.contactPoint,
  ]
    .map((member) => member.unwrap().unwrap())
    .flatMap((member) => Object.keys(member.shape)),
]

export const FulfillmentStatus = z.enum([
  'ok',
  'partial',
  'inProgress',
  'notApplicable',
  'depleted',
  'insufficientStock',
  'ambiguous',
  'error',
])
export type FulfillmentStatus = z.infer<typeof FulfillmentStatus>

export const LineResult = z.object({
  lineIndex: z.int().nonnegative(),
  sku: z.string(),
  quantity: z.int().positive(),
  status: z.string(),
  message: z.string().nullable(),
})
export type LineResult = z.infer<typeof LineResult>

/** Any JSON object with a status; adapters add members of their own, which reach the buyer unchanged. */
export const FulfillmentResponse = z.looseObject({ status: FulfillmentStatus, message: z.string().nullish() })
export type FulfillmentResponse = z.infer<typeof FulfillmentResponse>

export const QuantitativeValue = z.object({
  '@type': z.literal('QuantitativeValue', { error: '@type must be QuantitativeValue' }),
  value: z.int({ error: 'Invalid QuantitativeValue: value must be an integer' }),
  unitCode: z.string().nullish(),
})
export type QuantitativeValue = z.infer<typeof QuantitativeValue>

export const SERVICE_KEY_HEADER = 'X-Circles-Service-Key'
export const PROXY_HOP_HEADER = 'X-Circles-Proxy-Hop'
export const IDEMPOTENCY_KEY_HEADER = 'Idempotency-Key'
