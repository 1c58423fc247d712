import type { Basket, CheckoutAnswer, OrderPreview, ValidationResult } from '@market/contracts/marketApi'
import type { CallOptions, Connection, Request } from './connection.ts'

export type RequestedItem = {
  seller: string
  sku: string
  quantity: number
  /** Shown with the line; nothing else keeps a picture. */
  imageUrl?: string
  /** Which of the product's offers; the first without it. */
  offerIndex?: number
}

type Changes<T> = { [Member in keyof T]?: T[Member] | null }
type Described<T> = Partial<Omit<T, '@type'>>

/** A change to a basket: each member replaces the whole member, null clears it, what is absent stays. */
export type BasketPatch = Changes<{
  items: object[]
  customer: Described<NonNullable<Basket['customer']>>
  shippingAddress: Described<NonNullable<Basket['shippingAddress']>>
  billingAddress: Described<NonNullable<Basket['billingAddress']>>
  ageProof: Described<NonNullable<Basket['ageProof']>>
  contactPoint: Described<NonNullable<Basket['contactPoint']>>
  /** It runs out this long after its last change. */
  ttlSeconds: number
}>

export type BasketCall = CallOptions & {
  /** An `etag` of this basket: the call fails with 412 if it has changed since. */
  ifMatch?: string
}

const PATH = '/api/cart/v1/baskets'

export async function createBasket(
  connection: Connection,
  {
    protectBasket = false,
    ...basket
  }: { buyer?: string; operator?: string; chainId?: number; protectBasket?: boolean },
  options?: CallOptions,
): Promise<OpenBasket> {
  // One that nobody heard of runs out by itself, so a second one does no harm.
  const request = { method: 'POST', path: PATH, json: basket, repeatable: true, signed: true } as const
  const { body } = await connection.json<{ basketId: string; basketToken: string }>(request, options)
  return new OpenBasket(connection, body.basketId, protectBasket ? body.basketToken : undefined)
}

/** One basket of a market. */
export class OpenBasket {
  /** The key to it: whoever knows it may open it, unless it is protected or was used with its buyer's sign-in. */
  readonly id: string
  /** Of a protected basket: needed besides the id. */
  readonly basketToken: string | undefined
  readonly #connection: Connection
  readonly #idempotencyKey = randomKey()
  #etag: string | undefined

  constructor(connection: Connection, id: string, basketToken?: string) {
    this.#connection = connection
    this.id = id
    this.basketToken = basketToken
  }

  /** Of the version last answered, for `ifMatch`. */
  get etag(): string | undefined {
    return this.#etag
  }

  read(options?: CallOptions): Promise<Basket> {
    return this.#call({}, options)
  }

  /** The whole list of items, always; an empty one empties the basket. Prices are in the answer. */
  setItems(items: RequestedItem[], options?: BasketCall): Promise<Basket> {
    const lines = items.map(({ seller, sku, quantity, imageUrl, offerIndex }) => ({
      seller,
      orderedItem: { '@type': 'Product', sku },
      orderQuantity: quantity,
      imageUrl,
      offerIndex,
    }))
    return this.patch({ items: lines }, options)
  }

  /** `merge`: members are merged to the bottom (RFC 7396) instead of replaced. */
  patch(patch: BasketPatch, { merge = false, ...options }: BasketCall & { merge?: boolean } = {}): Promise<Basket> {
    const headers: Record<string, string> = merge ? { 'Content-Type': 'application/merge-patch+json' } : {}
    // By version it can't be tried again: the first try may have made the version another one.
    const repeatable = options.ifMatch === undefined
    return this.#call({ method: 'PATCH', json: patch, headers, repeatable }, options)
  }

  /** Whether it can be checked out, and what it still needs. Changes nothing. */
  validate(options?: BasketCall): Promise<ValidationResult> {
    return this.#post('validate', options)
  }

  /** The order it would become now. `MarketError` 400 with `validation` when something is missing. */
  preview({ buyer, ...options }: BasketCall & { buyer?: string } = {}): Promise<OrderPreview> {
    return this.#post('preview', options, {}, buyer)
  }

  /**
   * Makes it an order, once, however often it is called or tried. `buyer` is for a basket that was made without one.
   *
   * `MarketError`: `product_changed` (with `ifMatch`: `offer_changed`) when a seller published other terms since, with the
   * `basket` as it would be now; `invalid_basket` with `validation`; 422 for what can't be sold, its line in `details.path`.
   */
  checkout({
    buyer,
    idempotencyKey = this.#idempotencyKey,
    ...options
  }: BasketCall & { buyer?: string; idempotencyKey?: string } = {}): Promise<CheckoutAnswer> {
    return this.#post('checkout', options, { 'Idempotency-Key': idempotencyKey }, buyer)
  }

  #post<T>(verb: string, options?: BasketCall, headers: Record<string, string> = {}, buyer?: string): Promise<T> {
    const query = buyer === undefined ? '' : `?${new URLSearchParams({ buyer })}`
    return this.#call({ method: 'POST', path: `/${verb}${query}`, headers, repeatable: true }, options)
  }

  async #call<T>(request: Partial<Request>, { ifMatch, ...options }: BasketCall = {}): Promise<T> {
    const { headers, body } = await this.#connection.json<T>(
      {
        ...request,
        path: `${PATH}/${this.id}${request.path ?? ''}`,
        headers: {
          ...request.headers,
          ...(this.basketToken !== undefined && { 'X-Basket-Token': this.basketToken }),
          ...(ifMatch !== undefined && { 'If-Match': ifMatch }),
        },
        signed: true,
      },
      options,
    )
    this.#etag = headers.get('etag') ?? this.#etag
    return body
  }
}

/** Not `randomUUID`, which browsers have on https pages only. */
const randomKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')
