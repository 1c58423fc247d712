/** The market's public API as a front end uses it. Runs wherever there is `fetch`. */

/** The market said no: its sentence, its status and its stable `code`. */
export class MarketError extends Error {
  readonly status: number
  readonly code: string | undefined
  /** When it is worth another try, if the market said so. */
  readonly retryAfterSeconds: number | undefined
  constructor(status: number, code: string | undefined, message: string, retryAfterSeconds?: number) {
    super(message)
    this.name = 'MarketError'
    this.status = status
    this.code = code
    this.retryAfterSeconds = retryAfterSeconds
  }
}

export type Wallet = { address: string; signMessage(message: string): Promise<string> }

export type ListedOffer = {
  price: number
  priceCurrency: string
  availabilityFeed: string | null
  inventoryFeed: string | null
  potentialAction: { recipient: { '@id': string } | null }
}
export type ListedProduct = { sku: string; name: string; description?: string; offers: ListedOffer[] }
export type CatalogItem = {
  seller: string
  productCid: string
  linkKeccak: string
  publishedAt: number
  product: ListedProduct
}
export type CatalogPage = {
  products: CatalogItem[]
  errors: { avatar: string; stage: string; code: string }[]
  nextCursor?: string
}

export type RequestedItem = { seller: string; sku: string; quantity: number; imageUrl?: string }
export type Validation = { valid: boolean; missing: { slot: string; path: string }[] }
export type Checkout = { orderId: string; basketId: string; paymentReference: string }
export type Order = {
  orderNumber: string
  orderStatus: string
  paymentReference: string
  totalPaymentDue: { price: number; priceCurrency: string }
  outbox: { id: number; source: string; createdAt: string; payload: { status?: string; codes?: string[] } }[]
}
export type StatusEvent = { oldStatus: string | null; newStatus: string; changedAt: string }
export type Fulfillment = {
  id: string
  seller: string
  offerType: string
  lineIndexes: number[]
  state: 'pending' | 'running' | 'succeeded' | 'waiting' | 'failed'
  reason: string | null
}

/** A client bound to one market. After `signIn` every call carries the token. Calls throw `MarketError`, or what `fetch` throws. */
export class Market {
  readonly #base: string
  #token: string | undefined

  constructor(baseUrl: string) {
    this.#base = baseUrl.replace(/\/+$/, '')
  }

  /** Signs in with a plain key by EIP-191; the token lives 15 minutes. */
  async signIn(wallet: Wallet, chainId: number): Promise<void> {
    const { challengeId, message } = await this.#call<{ challengeId: string; message: string }>(
      'POST',
      '/api/auth/challenge',
      {
        address: wallet.address,
        chainId,
      },
    )
    const signature = await wallet.signMessage(message)
    const { token } = await this.#call<{ token: string }>('POST', '/api/auth/verify', { challengeId, signature })
    this.#token = token
  }

  sellers() {
    return this.#call<{ chainId: number; seller: string }[]>('GET', '/api/sellers')
  }

  catalog(operator: string, avatars: string[], options: { pageSize?: number; cursor?: string } = {}) {
    const query = new URLSearchParams()
    for (const avatar of avatars) query.append('avatars', avatar)
    if (options.pageSize !== undefined) query.set('pageSize', String(options.pageSize))
    if (options.cursor !== undefined) query.set('cursor', options.cursor)
    return this.#call<CatalogPage>('GET', `/api/operator/${operator}/catalog?${query}`)
  }

  async createBasket(input: { buyer: string; operator: string; chainId: number }): Promise<string> {
    return (await this.#call<{ basketId: string }>('POST', '/api/cart/v1/baskets', input)).basketId
  }

  /** The whole list of items, always; an empty one empties the basket. */
  setItems(basketId: string, items: RequestedItem[]) {
    return this.patchBasket(basketId, {
      items: items.map(({ seller, sku, quantity, imageUrl }) => ({
        seller,
        orderedItem: { '@type': 'Product', sku },
        orderQuantity: quantity,
        ...(imageUrl === undefined ? {} : { imageUrl }),
      })),
    })
  }

  patchBasket(basketId: string, patch: object) {
    return this.#call<object>('PATCH', `/api/cart/v1/baskets/${basketId}`, patch)
  }

  validate(basketId: string) {
    return this.#call<Validation>('POST', `/api/cart/v1/baskets/${basketId}/validate`)
  }

  checkout(basketId: string) {
    return this.#call<Checkout>('POST', `/api/cart/v1/baskets/${basketId}/checkout`)
  }

  order(orderId: string) {
    return this.#call<Order>('GET', `/api/cart/v1/orders/${orderId}`)
  }

  async statusHistory(orderId: string): Promise<StatusEvent[]> {
    return (await this.#call<{ events: StatusEvent[] }>('GET', `/api/cart/v1/orders/${orderId}/status-history`)).events
  }

  async fulfillments(orderId: string): Promise<Fulfillment[]> {
    return (await this.#call<{ items: Fulfillment[] }>('GET', `/api/cart/v1/orders/${orderId}/fulfillments`)).items
  }

  /** Pins a JSON-LD document as these very bytes and gives its CID (catalog.md 5.1). */
  pin(document: Uint8Array) {
    return this.#pin('/api/pin', document, 'application/ld+json; charset=utf-8')
  }

  /** Pins a picture. */
  pinMedia(picture: Uint8Array, mediaType: string) {
    return this.#pin('/api/pin-media', picture, mediaType)
  }

  /** What a CID names, as the market gives it: check it against the CID. */
  async raw(cid: string): Promise<Uint8Array> {
    const response = await this.#fetch('GET', `/raw/${cid}`)
    return new Uint8Array(await response.arrayBuffer())
  }

  async #pin(path: string, bytes: Uint8Array, contentType: string): Promise<string> {
    const response = await this.#fetch('POST', path, { body: bytes as Uint8Array<ArrayBuffer>, contentType })
    return ((await response.json()) as { cid: string }).cid
  }

  async #call<T>(method: string, path: string, body?: object): Promise<T> {
    const sent = body && { body: JSON.stringify(body), contentType: 'application/json' }
    return (await (await this.#fetch(method, path, sent)).json()) as T
  }

  async #fetch(
    method: string,
    path: string,
    sent?: { body: string | Uint8Array<ArrayBuffer>; contentType: string },
  ): Promise<Response> {
    const response = await fetch(this.#base + path, {
      method,
      headers: {
        Accept: 'application/json, application/ld+json',
        ...(sent ? { 'Content-Type': sent.contentType } : {}),
        ...(this.#token ? { Authorization: `Bearer ${this.#token}` } : {}),
      },
      ...(sent ? { body: sent.body } : {}),
    })
    if (response.ok) return response
    const answer = (await response.json().catch(() => ({}))) as {
      [member in 'error' | 'title' | 'detail' | 'code']?: string
    }
    const message = [answer.error ?? answer.title ?? `HTTP ${response.status}`, answer.detail]
      .filter(Boolean)
      .join(': ')
    const retryAfter = response.headers.get('retry-after') ?? ''
    throw new MarketError(
      response.status,
      answer.code,
      message,
      /^[0-9]{1,9}$/.test(retryAfter) ? Number(retryAfter) : undefined,
    )
  }
}
