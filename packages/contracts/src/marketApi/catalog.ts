import * as z from 'zod'
import { QuantitativeValue } from '../fulfillment.ts'
import { Availability } from '../statuses.ts'
import { PayAction } from './baskets.ts'
import { address, chainId, cid, currency, digest, nextCursor, price, seconds, sku, text, time } from './values.ts'

export const Sellers = z.array(z.object({ chainId, seller: address })).meta({ id: 'Sellers' })
export type Sellers = z.infer<typeof Sellers>

const feed = z
  .url()
  .meta({
    examples: [
      'https://market.example.com/inventory/inventory/100/0x943186fbcfd74fd575bcf9aa76a53f56b2f06aba/tee-black',
    ],
  })
  .nullable()
const totalInventory = z.number().meta({ examples: [250] })

export const Product = z
  .looseObject({
    '@type': z.literal('Product'),
    name: text('Black tee'),
    sku,
    offers: z.array(z.looseObject({ price, priceCurrency: currency })).min(1),
    totalInventory: totalInventory.optional(),
  })
  .meta({
    id: 'Product',
    description:
      "The seller's signed document, with everything in it. Without `compat=0` the market writes `totalInventory` into it, and `availabilityFeed`, `inventoryFeed`, `fulfillmentEndpoint` and `potentialAction` into each offer.",
  })
export type Product = z.infer<typeof Product>

export const CatalogItem = z
  .object({
    '@type': z.literal('AggregatedCatalogItem'),
    seller: address,
    productCid: cid,
    publishedAt: seconds,
    linkKeccak: digest,
    indexInChunk: z.int(),
    product: Product,
    market: z
      .object({
        availabilityFeed: feed,
        inventoryFeed: feed,
        totalInventory: totalInventory.nullable(),
        buyable: z.boolean().describe('Somebody delivers it, it costs CRC, and there is somebody to pay.'),
        payAction: PayAction.nullable().describe('Only where the operator knows whose address it is.'),
      })
      .describe('What the market says, and not the seller.'),
  })
  .meta({ id: 'CatalogItem' })
export type CatalogItem = z.infer<typeof CatalogItem>

export const CatalogError = z
  .object({
    avatar: text(
      '0x943186fbcfd74fd575bcf9aa76a53f56b2f06aba',
      'An address, or the beginning of what was sent instead of one.',
    ),
    stage: z.enum(['registry', 'profile', 'index', 'chunk', 'link', 'verify', 'payload']),
    code: text('UNAVAILABLE'),
    cid: cid.nullable(),
    message: text('Nobody has it, or nobody who answers in time'),
    index: z.int().optional().describe('Place in the chunk.'),
  })
  .meta({ id: 'CatalogError' })
export type CatalogError = z.infer<typeof CatalogError>

export const CatalogPage = z
  .object({
    '@context': text('https://aboutcircles.com/contexts/circles-market-aggregate/'),
    '@type': z.literal('AggregatedCatalog'),
    operator: address,
    chainId,
    window: z.object({ '@type': z.literal('AggregatedCatalogWindow'), start: seconds, end: seconds }),
    avatarsScanned: z.array(address),
    products: z.array(CatalogItem),
    errors: z.array(CatalogError).describe('What could not be read; the rest is there all the same.'),
    diagnostics: z
      .object({
        dropped: z.record(z.string(), z.int()).describe('Links left out, by reason.'),
        links: z.array(z.object({ avatar: address, name: text('product/tee-black'), code: text('WINDOW') })),
        tombstoned: z.array(z.object({ seller: address, sku })),
      })
      .optional()
      .describe('With `diagnostics=1`.'),
    freshness: z.object({
      checkedAt: time.nullable().describe('When the registry was last read.'),
      block: z.int().nullable(),
      behind: z.array(address).describe('Avatars whose newest profile is not read yet.'),
    }),
    nextCursor,
  })
  .meta({ id: 'CatalogPage' })
export type CatalogPage = z.infer<typeof CatalogPage>

export const StockAvailability = z
  .enum([Availability.inStock, Availability.outOfStock])
  .meta({ id: 'Availability', description: 'A JSON text, not an object.' })
export type StockAvailability = z.infer<typeof StockAvailability>

export const StockQuantity = QuantitativeValue.extend({
  value: z
    .int()
    .nonnegative()
    .meta({ description: 'Without what open orders hold.', examples: [42] }),
  unitCode: text('C62').nullable(),
}).meta({ id: 'QuantitativeValue' })
export type StockQuantity = z.infer<typeof StockQuantity>

export const PinAnswer = z.object({ cid: cid.describe('CIDv0.') }).meta({ id: 'PinAnswer' })
export type PinAnswer = z.infer<typeof PinAnswer>
