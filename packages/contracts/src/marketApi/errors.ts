import * as z from 'zod'
import { Basket, ValidationResult } from './baskets.ts'
import { address, chainId, cid, currency, digest, formed, price, sku, text } from './values.ts'

const code = formed(/^[a-z][a-z0-9_]*$/, 'rate_limited', 'Stable; what programs decide by.')
const requestId = text('8d0c2f5e-54c4-4b0e-9d5f-3a1de4b7c2a9', 'As in `X-Request-Id`.')
const path = text('/items/0', 'JSON pointer to what is wrong.').optional()
const detail = text('…').optional()
const retryAfterSeconds = z.int().optional()
const terms = z.object({ price, priceCurrency: currency, productCid: cid, linkKeccak: digest })

export const ErrorBody = z
  .object({
    error: text('Too many requests', 'For people; may change.'),
    details: z
      .object({
        path,
        detail,
        retryAfterSeconds,
        version: z.int().optional().describe('The version the basket has.'),
        changes: z
          .array(z.object({ path: text('/items/0'), before: terms, now: terms }))
          .optional()
          .describe('What sellers changed since, line by line.'),
        chainId: chainId.optional(),
        seller: address.optional(),
        sku: sku.optional(),
      })
      .nullable(),
    validation: ValidationResult.optional().describe('With `invalid_basket`.'),
    basket: Basket.optional().describe('With `offer_changed` and `product_changed`: as it would be now.'),
    code,
    requestId,
  })
  .meta({ id: 'Error' })
export type ErrorBody = z.infer<typeof ErrorBody>

export const Problem = z
  .object({
    title: text('Too many requests', 'For people; may change.'),
    status: z.int().meta({ examples: [429] }),
    code,
    requestId,
    detail,
    path,
    at: text('offers[0].price', 'The member that breaks a rule.').optional(),
    rule: text('greater than zero').optional(),
    pointer: text('/offers/0/price', '`at` as JSON pointer.').optional(),
    retryAfterSeconds,
  })
  .meta({ id: 'Problem', description: 'RFC 9457.' })
export type Problem = z.infer<typeof Problem>
