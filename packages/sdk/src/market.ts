import type {
  CatalogItem,
  CatalogPage,
  Challenge,
  CompletedFulfillment,
  Fulfillment,
  Fulfillments,
  Order,
  OrderList,
  SellerOrder,
  SellerOrderList,
  Sellers,
  SignedIn,
  StatusEvent,
  StatusHistory,
  StockQuantity,
  TimelineEvent,
} from '@market/contracts/marketApi'
import { Availability } from '@market/contracts/statuses'
import { createBasket, OpenBasket } from './basket.ts'
import { type CallOptions, type Connection, openConnection } from './connection.ts'
import { MarketError, NetworkError } from './errors.ts'
import { sleep } from './patience.ts'
import { keepSession, type Session, type SessionKeeper } from './session.ts'
import type { Wallet } from './wallet.ts'
import { isFinal, lookUpChanges, watchChanges, type WatchOptions } from './watchOrders.ts'

export type * from '@market/contracts/marketApi'
export { type BasketCall, type BasketPatch, OpenBasket, type RequestedItem } from './basket.ts'
export type { CallOptions } from './connection.ts'
export { MarketError, NetworkError } from './errors.ts'
export type { Session } from './session.ts'
export { type SafeMessage, safeSigner, type Wallet } from './wallet.ts'
export type { WatchOptions } from './watchOrders.ts'

export type MarketOptions = Omit<CallOptions, 'signal'> & {
  /** The chain the market is on; 100 without it. */
  chainId?: number
  /** Of an earlier `Market`, such as before the page was loaded anew. */
  session?: Session
  /**
   * Signs in again, by `signIn`, when the token runs out or is refused while somebody is signed in. A wallet that asks its
   * owner each time is better called by a button.
   */
  renew?: (market: Market) => Promise<unknown>
  /** Instead of the platform's. */
  fetch?: typeof globalThis.fetch
}

/** What of a catalog to show; all of it without. */
export type CatalogQuery = {
  /** Words that name, sku, brand, category or description have to hold, each as the beginning of one. */
  q?: string
  category?: string
  /** Decimals, both inclusive, of the first offer's price. */
  minPrice?: string | number
  maxPrice?: string | number
  /** Three capitals. */
  priceCurrency?: string
  /** Only what can be had now. */
  inStock?: boolean
  /** Unix seconds, both inclusive: what was published when. */
  start?: number
  end?: number
  /** 1 to 100; 20 without it. */
  pageSize?: number
}
export type Page = { cursor?: string; pageSize?: number }

/** What there is of a product now; undefined: nobody says. */
export type Stock = { available: boolean | undefined; quantity: number | undefined }

const ORDERS = '/api/cart/v1/orders'
const BATCH = 100
/** Enough for all that may still change; older orders have come to their end. */
const WATCHED = 50
const UNDER_WAY = new Set(['awaitingPayment', 'pending', 'running'])
/** Of 8 MiB over a slow line. */
const PIN_TIMEOUT_MS = 120_000

/**
 * A client of one market. Calls throw `MarketError` when the market says no, `NetworkError` when there is no knowing, and the
 * signal's reason when the caller ends them. Calls that do no harm when done twice are tried again by themselves.
 */
export class Market {
  readonly #connection: Connection
  readonly #session: SessionKeeper
  readonly #chainId: number

  constructor(baseUrl: string, { chainId = 100, session, renew, ...options }: MarketOptions = {}) {
    this.#session = keepSession(renew && (() => renew(this)), session)
    this.#connection = openConnection({ ...options, baseUrl, session: this.#session })
    this.#chainId = chainId
  }

  // ---- Signing in ----

  /** Who is signed in, and until when. */
  get session(): Session | undefined {
    return this.#session.get()
  }

  /** Has the wallet sign the market's text (EIP-4361); the token that it gives goes along with every call that is somebody's. */
  async signIn(wallet: Wallet, chainId = this.#chainId, options?: CallOptions): Promise<Session> {
    const { address } = wallet
    // A challenge that nobody answers does no harm, and the signature of one can be used once.
    const asked = { method: 'POST', repeatable: true } as const
    const { body: challenge } = await this.#connection.json<Challenge>(
      { ...asked, path: '/api/auth/challenge', json: { address, chainId } },
      options,
    )
    if (!isSignInOf(address, challenge.message)) {
      throw new NetworkError('broken', 'What is to be signed is no sign-in of this address')
    }
    const signature = await wallet.signMessage(challenge.message)
    const askedAtMs = Date.now()
    const { body } = await this.#connection.json<SignedIn>(
      { ...asked, path: '/api/auth/verify', json: { challengeId: challenge.challengeId, signature } },
      options,
    )
    const session = { token: body.token, address: body.address, chainId: body.chainId }
    const signedIn = { ...session, expiresAtMs: askedAtMs + body.expiresIn * 1000 }
    this.#session.set(signedIn)
    return signedIn
  }

  /** Forgets the token. It can't be taken back: it lives on for its minutes wherever else it is. */
  signOut(): void {
    this.#session.set(undefined)
  }

  // ---- Catalog ----

  async sellers(options?: CallOptions): Promise<Sellers> {
    return (await this.#connection.json<Sellers>({ path: '/api/sellers' }, options)).body
  }

  /** A page of what these avatars sell in the operator's catalog, newest first. Few hundred avatars fit into one call. */
  async catalog(
    operator: string,
    avatars: readonly string[],
    { cursor, ...query }: CatalogQuery & { cursor?: string } = {},
    options?: CallOptions,
  ): Promise<CatalogPage> {
    const search = searchOf({ ...query, cursor })
    for (const avatar of avatars) search.append('avatars', avatar)
    const path = `/api/operator/${operator}/catalog?${search}`
    return (await this.#connection.json<CatalogPage>({ path }, options)).body
  }

  /** All of it, page by page as it is read. Shows the catalog as it stood at the first page, where the market still can. */
  async *catalogItems(
    operator: string,
    avatars: readonly string[],
    query: CatalogQuery = {},
    options?: CallOptions,
  ): AsyncGenerator<CatalogItem> {
    const pages = pagesOf((cursor) => this.catalog(operator, avatars, { pageSize: 100, ...query, cursor }, options))
    for await (const { products } of pages) yield* products
  }

  /** One product; `MarketError` 404 when there is none. */
  async product(operator: string, seller: string, sku: string, options?: CallOptions): Promise<CatalogItem> {
    const path = `/api/operator/${operator}/catalog/${seller}/${encodeURIComponent(sku)}`
    return (await this.#connection.json<CatalogItem>({ path }, options)).body
  }

  /** What is there and not held by open orders. */
  async stock(seller: string, sku: string, options?: CallOptions): Promise<Stock> {
    const ask = async <T>(feed: string): Promise<T | undefined> => {
      const path = `/inventory/${feed}/${this.#chainId}/${seller}/${encodeURIComponent(sku)}`
      try {
        return (await this.#connection.json<T>({ path }, options)).body
      } catch (error) {
        if (error instanceof MarketError && error.status === 404) return undefined
        throw error
      }
    }
    const [availability, quantity] = await Promise.all([ask<string>('availability'), ask<StockQuantity>('inventory')])
    const available = availability === undefined ? undefined : availability === Availability.inStock
    return { available, quantity: quantity?.value }
  }

  // ---- Buying ----

  /**
   * A new basket. With `protectBasket` its id alone opens nothing: `basketToken` is needed too, or its buyer's sign-in.
   * `buyer` is whoever is signed in, unless it is named.
   */
  createBasket(
    basket: { buyer?: string; operator?: string; chainId?: number; protectBasket?: boolean },
    options?: CallOptions,
  ): Promise<OpenBasket> {
    return createBasket(this.#connection, { chainId: this.#chainId, ...basket }, options)
  }

  /** A basket that was made before. Asks nothing yet. */
  basket(basketId: string, basketToken?: string): OpenBasket {
    return new OpenBasket(this.#connection, basketId, basketToken)
  }

  /** The buyer's own order; `MarketError` 404 for any other. */
  order(orderId: string, options?: CallOptions): Promise<Order> {
    return this.#get(`/${orderId}`, options)
  }

  /** A page of the buyer's orders, newest first. */
  orderPage(page: Page = {}, options?: CallOptions): Promise<OrderList> {
    return this.#get(`/by-buyer?${searchOf(page)}`, options)
  }

  /** All the buyer's orders, newest first, read as they are asked for. */
  async *orders({ pageSize = 50, ...options }: CallOptions & { pageSize?: number } = {}): AsyncGenerator<Order> {
    for await (const { items } of pagesOf((cursor) => this.orderPage({ cursor, pageSize }, options))) yield* items
  }

  /** Of these the buyer's own, in this order. */
  async ordersById(orderIds: readonly string[], options?: CallOptions): Promise<Order[]> {
    const found: Order[] = []
    for (let at = 0; at < orderIds.length; at += BATCH) {
      const json = { orderIds: orderIds.slice(at, at + BATCH) }
      found.push(...(await this.#post<OrderList>('/batch', json, options)).items)
    }
    return found
  }

  /** Every status the order had, for its buyer. */
  async statusHistory(orderId: string, options?: CallOptions): Promise<StatusHistory['events']> {
    return (await this.#get<StatusHistory>(`/${orderId}/status-history`, options)).events
  }

  /** What happened to it, in sentences; of a seller, what concerns their lines. */
  async timeline(orderId: string, options?: CallOptions): Promise<TimelineEvent[]> {
    return (await this.#get<{ events: TimelineEvent[] }>(`/${orderId}/timeline`, options)).events
  }

  /** Where each delivery stands. */
  async fulfillments(orderId: string, options?: CallOptions): Promise<Fulfillment[]> {
    return (await this.#get<Fulfillments>(`/${orderId}/fulfillments`, options)).items
  }

  /** Gives an unpaid order up. `MarketError` 409 `order_paid` once a payment was seen. */
  cancel(orderId: string, options?: CallOptions): Promise<Order> {
    return this.#post(`/${orderId}/cancel`, undefined, options)
  }

  /**
   * The buyer's order from its first status to its last, each as it comes. Ends by itself when the order is complete or
   * cancelled. Who watches several takes `watchOrders`: browsers open few streams at a time.
   */
  async *watchOrder(orderId: string, options: WatchOptions = {}): AsyncGenerator<StatusEvent> {
    const { signal } = options
    let order: Order | undefined
    const lookUp = async () => {
      const { paymentReference } = (order ??= await this.order(orderId, { signal }))
      const events = await this.statusHistory(orderId, { signal })
      return events.map(({ oldStatus, newStatus, changedAt }) => ({
        orderId,
        paymentReference,
        oldStatus,
        newStatus,
        changedAt,
      }))
    }
    for await (const event of watchChanges(
      { connection: this.#connection, path: `${ORDERS}/events`, lookUp },
      options,
    )) {
      if (event.orderId !== orderId) continue
      yield event
      if (isFinal(event.newStatus)) return
    }
  }

  /**
   * The buyer's order once every line has come to something: delivered, or waiting for stock or for a person. Looks every
   * `pollMs`, until the signal ends it.
   */
  async awaitDelivery(
    orderId: string,
    { pollMs = 1000, ...options }: CallOptions & { pollMs?: number } = {},
  ): Promise<Order> {
    for (;;) {
      const { lines } = await this.#get<Fulfillments>(`/${orderId}/fulfillments`, options)
      if (!lines.some(({ state }) => UNDER_WAY.has(state))) return this.order(orderId, options)
      await sleep(pollMs, options.signal)
    }
  }

  /** What happens to the buyer's orders from now on, each change once. Goes on until the signal ends it. */
  watchOrders(options: WatchOptions = {}): AsyncGenerator<StatusEvent> {
    const { signal } = options
    const newest = async () => (await this.orderPage({ pageSize: WATCHED }, { signal })).items
    const lookUp = lookUpChanges(newest, (orderId) => this.statusHistory(orderId, { signal }))
    return watchChanges({ connection: this.#connection, path: `${ORDERS}/events`, lookUp }, options)
  }

  // ---- Selling ----

  /** A page of the orders that whoever is signed in sells something in, newest first; of each, only their lines. */
  salesPage(page: Page = {}, options?: CallOptions): Promise<SellerOrderList> {
    return this.#get(`/by-seller?${searchOf(page)}`, options)
  }

  async *sales({ pageSize = 50, ...options }: CallOptions & { pageSize?: number } = {}): AsyncGenerator<SellerOrder> {
    for await (const { items } of pagesOf((cursor) => this.salesPage({ cursor, pageSize }, options))) yield* items
  }

  sale(orderId: string, options?: CallOptions): Promise<SellerOrder> {
    return this.#get(`/${orderId}/as-seller`, options)
  }

  /** As `watchOrders`, for the orders the seller sells something in. */
  watchSales(options: WatchOptions = {}): AsyncGenerator<StatusEvent> {
    const { signal } = options
    const newest = async () => (await this.salesPage({ pageSize: WATCHED }, { signal })).items
    // The status history is the buyer's alone; what the timeline tells of it has the same times.
    const historyOf = async (orderId: string) =>
      (await this.timeline(orderId, { signal })).flatMap(({ at, data }) => {
        const { oldStatus, newStatus } = data as Pick<StatusEvent, 'oldStatus' | 'newStatus'>
        return newStatus ? [{ oldStatus, newStatus, changedAt: at }] : []
      })
    const watched = {
      connection: this.#connection,
      path: `${ORDERS}/sales/events`,
      lookUp: lookUpChanges(newest, historyOf),
    }
    return watchChanges(watched, options)
  }

  /** The seller has handed over what no adapter delivers; the buyer reads `message`. Said again, nothing happens. */
  completeFulfillment(
    orderId: string,
    fulfillmentId: string,
    message?: string,
    options?: CallOptions,
  ): Promise<CompletedFulfillment> {
    return this.#post(`/${orderId}/fulfillments/${fulfillmentId}/complete`, { message }, options)
  }

  // ---- Documents ----

  /** Pins a JSON-LD document as these very bytes and gives its CID (catalog.md 5.1). */
  pin(document: Uint8Array, options?: CallOptions): Promise<string> {
    return this.#pin('/api/pin', document, 'application/ld+json; charset=utf-8', options)
  }

  /** Pins a picture. */
  pinMedia(picture: Uint8Array, mediaType: string, options?: CallOptions): Promise<string> {
    return this.#pin('/api/pin-media', picture, mediaType, options)
  }

  /** What a CID names, as the market gives it: check it against the CID. */
  async raw(cid: string, options?: CallOptions): Promise<Uint8Array> {
    return (await this.#connection.send({ path: `/raw/${cid}` }, options)).bytes
  }

  async #pin(path: string, bytes: Uint8Array, contentType: string, options?: CallOptions): Promise<string> {
    // The same bytes have the same CID, however often they are pinned.
    const asked = { method: 'POST', signed: true, repeatable: true } as const
    const headers = { 'Content-Type': contentType }
    const { body } = await this.#connection.json<{ cid: string }>(
      { ...asked, path, body: bytes as Uint8Array<ArrayBuffer>, headers },
      { timeoutMs: PIN_TIMEOUT_MS, ...options },
    )
    return body.cid
  }

  async #get<T>(path: string, options?: CallOptions): Promise<T> {
    return (await this.#connection.json<T>({ path: ORDERS + path, signed: true }, options)).body
  }

  /** For what comes to the same when it is said again. */
  async #post<T>(path: string, json: object | undefined, options?: CallOptions): Promise<T> {
    const request = { method: 'POST', path: ORDERS + path, signed: true, repeatable: true } as const
    return (await this.#connection.json<T>(json ? { ...request, json } : request, options)).body
  }
}

/** What is signed has to be what it says it is, whoever the market is. */
function isSignInOf(address: string, message: string): boolean {
  const [, named] = /^\S+ wants you to sign in with your Ethereum account:\n(0x[0-9a-fA-F]{40})\n/.exec(message) ?? []
  return named?.toLowerCase() === address.toLowerCase()
}

function searchOf(members: Record<string, string | number | boolean | undefined>): URLSearchParams {
  const search = new URLSearchParams()
  for (const [name, value] of Object.entries(members)) if (value !== undefined) search.set(name, String(value))
  return search
}

async function* pagesOf<T extends { nextCursor?: string | undefined }>(
  read: (cursor: string | undefined) => Promise<T>,
): AsyncGenerator<T> {
  let cursor: string | undefined
  do {
    const page = await read(cursor)
    yield page
    cursor = page.nextCursor
  } while (cursor !== undefined)
}
