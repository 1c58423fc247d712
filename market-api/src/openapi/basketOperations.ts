import { Basket, CheckoutAnswer, CreatedBasket, ValidationResult } from '@market/contracts/marketApi/baskets'
import { OrderPreview } from '@market/contracts/marketApi/orders'
import { basketId } from '@market/contracts/marketApi/values'
import * as z from 'zod'
import { BasketPatch } from '../baskets/basket.ts'
import { CreateInput } from '../baskets/routes.ts'
import { ANY_BODY, allOf, anyAddress, type Errors, JSON_BODY, JSON_LD, JSON_TYPE, type Operation } from './operation.ts'

const SELLER = '0x943186fbcfd74fd575bcf9aa76a53f56b2f06aba'
const OPERATOR = '0x20ced4ed3b1651b832a77e13e54ea5cb14c8b95b'

const params = z.object({ basketId: basketId.describe('The key to the basket.') })

const found: Errors = { 404: ['basket_not_found'], 410: ['basket_expired'] }
const draft: Errors = allOf(found, ANY_BODY, { 409: ['basket_checked_out'], 412: ['basket_version_conflict'] })
/** What may be wrong with the lines when they are looked up anew. */
const lines: Errors = {
  400: ['mixed_currencies'],
  409: ['one_off_sold'],
  422: [
    'product_not_found',
    'no_offer',
    'not_configured',
    'invalid_offer',
    'one_off_quantity',
    'stock_unknown',
    'insufficient_stock',
  ],
  502: ['catalog_unavailable'],
  503: ['upstream_deadline'],
}
const order: Errors = allOf(lines, {
  400: ['invalid_basket', 'invalid_address'],
  422: ['not_fulfillable', 'unsupported_currency', 'no_pay_to', 'mixed_pay_to'],
})

const buyer = anyAddress.optional().describe('Whose order it is, if neither the basket nor a token says.')

export const basketOperations: Operation[] = [
  {
    id: 'createBasket',
    method: 'post',
    path: '/api/cart/v1/baskets',
    tag: 'Baskets',
    summary: 'Make an empty basket',
    description:
      'Without `buyer`, who is signed in is the buyer. `operator` is whose namespace the lines are looked up in. An empty body will do.',
    auth: 'optional',
    body: {
      type: JSON_TYPE,
      schema: CreateInput,
      optional: true,
      example: { operator: OPERATOR, chainId: 100 },
    },
    answers: { 200: { description: 'The keys to it.', type: JSON_LD, schema: CreatedBasket, headers: ['ETag'] } },
    errors: allOf(JSON_BODY, { 400: ['invalid_chain'] }),
  },
  {
    id: 'getBasket',
    method: 'get',
    path: '/api/cart/v1/baskets/{basketId}',
    tag: 'Baskets',
    summary: 'Read a basket',
    description: 'As it was last changed; prices and stock are looked up by the other calls.',
    auth: 'optional',
    headers: ['X-Basket-Token'],
    params,
    answers: { 200: { description: 'The basket.', type: JSON_LD, schema: Basket, headers: ['ETag'] } },
    errors: found,
  },
  {
    id: 'patchBasket',
    method: 'patch',
    path: '/api/cart/v1/baskets/{basketId}',
    tag: 'Baskets',
    summary: 'Change a basket',
    description:
      'A member that is sent replaces the whole member, null clears it, and what is not sent stays. As `application/merge-patch+json` it is RFC 7396 to the bottom. A line needs `seller`, `orderedItem.sku` and `orderQuantity`; product, price and recipient are filled in from what the seller has published. Sending `items` accepts the prices of that moment.',
    auth: 'optional',
    headers: ['If-Match', 'X-Basket-Token'],
    params,
    body: {
      type: [JSON_TYPE, 'application/merge-patch+json'],
      schema: BasketPatch,
      optional: true,
      example: {
        items: [{ seller: SELLER, orderedItem: { sku: 'tee-black' }, orderQuantity: 1 }],
        contactPoint: { email: 'ada@example.org' },
      },
    },
    answers: { 200: { description: 'The basket.', type: JSON_LD, schema: Basket, headers: ['ETag'] } },
    errors: allOf(draft, lines, {
      400: ['invalid_json', 'unknown_field', 'invalid_basket_json', 'invalid_address', 'invalid_line'],
      409: ['basket_version_conflict'],
    }),
  },
  {
    id: 'validateBasket',
    method: 'post',
    path: '/api/cart/v1/baskets/{basketId}/validate',
    tag: 'Baskets',
    summary: 'Ask what is missing',
    description: 'Looks prices and stock up and says what the offers ask for. Changes nothing.',
    auth: 'optional',
    headers: ['If-Match', 'X-Basket-Token'],
    params,
    answers: {
      200: { description: 'Valid or not.', type: JSON_LD, schema: ValidationResult, headers: ['ETag'] },
    },
    errors: allOf(draft, lines),
  },
  {
    id: 'previewOrder',
    method: 'post',
    path: '/api/cart/v1/baskets/{basketId}/preview',
    tag: 'Baskets',
    summary: 'See the order it would become',
    description: 'At the prices of this moment. Nothing is stored.',
    auth: 'optional',
    headers: ['If-Match', 'X-Basket-Token'],
    params,
    query: z.object({ buyer }),
    answers: {
      200: { description: 'The order.', type: JSON_LD, schema: OrderPreview, headers: ['ETag'] },
    },
    errors: allOf(draft, order),
  },
  {
    id: 'checkoutBasket',
    method: 'post',
    path: '/api/cart/v1/baskets/{basketId}/checkout',
    tag: 'Baskets',
    summary: 'Order',
    description:
      'Makes exactly one order of the basket, however often it is called. The order is for the terms the basket shows, or it is refused: price, recipient and stock are fixed with it, and kept until `paymentDueBy`. It is paid by a transfer whose data is the `paymentReference`.',
    auth: 'optional',
    headers: ['If-Match', 'Idempotency-Key', 'X-Basket-Token'],
    params,
    query: z.object({ buyer }),
    answers: {
      201: { description: 'The order is made.', type: JSON_LD, schema: CheckoutAnswer },
      200: { description: 'It was made by an earlier call.', type: JSON_LD, schema: CheckoutAnswer },
    },
    errors: allOf(found, ANY_BODY, order, {
      400: ['invalid_idempotency_key', 'buyer_missing', 'buyer_mismatch'],
      401: ['sign_in_to_check_out'],
      403: ['not_the_buyer', 'not_your_basket'],
      409: ['product_changed', 'offer_changed', 'basket_version_conflict'],
      412: ['basket_version_conflict'],
      422: ['no_gateway', 'idempotency_key_reused'],
      429: ['too_many_open_orders'],
      502: ['payments_unavailable'],
    }),
  },
]
