import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import type { JsonValue } from '@market/contracts/canonicalJson'
import type { CustomDataLink } from '@market/contracts/link'
import type { PaymentLog, PaymentSource } from '../src/payments/paymentSource.ts'
import { createAdapterClient } from '../src/serviceRoutes/adapterClient.ts'
import { chunkOf, OPERATOR, startCatalog } from './catalogWorld.ts'

export const GATEWAY = `0x${'6a'.repeat(20)}`
export const BUYER = `0x${'b1'.repeat(20)}`
export const NOW = Math.floor(Date.now() / 1000)

export type Delivery = { items: { sku: string; quantity: number }[]; lineIndexes: number[]; buyer: string }
type Seller = ReturnType<Awaited<ReturnType<typeof startCatalog>>['seller']>
export type Line = { seller: Seller; sku: string; quantity?: number }

/**
 * An adapter that counts and delivers what the test puts on its shelf: 100 pieces of a sku that isn't named. A delivery takes
 * pieces away, and one that repeats an idempotency key takes nothing more.
 */
export async function startAdapter() {
  const adapter = {
    origin: '',
    shelf: new Map<string, number>(),
    delivered: [] as Delivery[],
    counted: [] as string[],
    close: () => {
      server.close()
      server.closeAllConnections()
    },
  }
  const keys = new Set<string>()
  const answer = async (request: IncomingMessage): Promise<object> => {
    if (request.method === 'POST') {
      const asked = (await json(request)) as Delivery & { idempotencyKey: string }
      if (keys.has(asked.idempotencyKey)) return { status: 'ok' }
      keys.add(asked.idempotencyKey)
      adapter.delivered.push(asked)
      for (const { sku, quantity } of asked.items) adapter.shelf.set(sku, (adapter.shelf.get(sku) ?? 100) - quantity)
      return { status: 'ok' }
    }
    const sku = request.url!.split('/').at(-1)!
    adapter.counted.push(sku)
    return { '@type': 'QuantitativeValue', value: adapter.shelf.get(sku) ?? 100, unitCode: 'C62' }
  }
  const server = createServer((request, response) => {
    void answer(request).then((body) => response.writeHead(200).end(JSON.stringify(body)))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  adapter.origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return adapter
}

/** A catalog with sellers, adapters behind the offer types `first` and `second`, and a market that answers over HTTP. */
export async function startShop(options: Parameters<typeof startCatalog>[0] = {}) {
  const [first, second] = [await startAdapter(), await startAdapter()]
  const world = await startCatalog(options)
  const { ctx } = world
  ctx.adapters = createAdapterClient({
    keys: new Map([first, second].map(({ origin }) => [origin, 'key'])),
    inventoryTimeoutMs: 2000,
    availabilityTimeoutMs: 2000,
    fulfillmentTimeoutMs: 2000,
    maxResponseBytes: 65_536,
    maxRedirects: 0,
  })
  const type = (name: string, { origin }: { origin: string }) => ({
    offer_type: name,
    inventory_url_template: `${origin}/inventory/{chain_id}/{seller}/{sku}`,
    fulfillment_url_template: `${origin}/fulfill/{chain_id}/{seller}`,
  })
  await ctx.db
    .insertInto('offer_types')
    .values([type('first', first), type('second', second)])
    .execute()

  await ctx.db
    .insertInto('payment_gateways')
    .values({ chain_id: 100, gateway_address: GATEWAY, owner_address: BUYER })
    .execute()

  /** Signed and pinned, not published yet. Every call is a later link. */
  let signed = 0
  const made = (seller: Seller, sku: string, price: number, currency = 'CRC', more: object = {}) => {
    signed += 1
    const potentialAction = { '@type': 'PayAction', recipient: { '@id': `eip155:100:${GATEWAY}` } }
    return seller.offer(sku, price, NOW - 10_000 + signed, {
      offers: [{ '@type': 'Offer', price, priceCurrency: currency, potentialAction, ...more }],
    })
  }

  const route = (seller: Seller, sku: string, offerType: string | null) =>
    ctx.db
      .insertInto('market_service_routes')
      .values({
        chain_id: 100,
        seller_address: seller.address,
        sku,
        offer_type: offerType,
        is_one_off: offerType === null,
        total_inventory: null,
      })
      .onConflict((conflict) => conflict.doNothing())
      .execute()

  /** Has the skus of these links delivered, publishes them and waits until the market has read that. Null = one-offs. */
  const sell = async (seller: Seller, links: CustomDataLink[], offerType: string | null = 'first') => {
    for (const { name } of links) await route(seller, name.slice('product/'.length), offerType)
    const published = await seller.publish(links)
    await world.follow()
    return published
  }

  const cart = async (method: string, path: string, sent?: object, headers: Record<string, string> = {}) => {
    const response = await fetch(`${world.url}/api/cart/v1/baskets${path}`, {
      method,
      headers: { ...(sent ? { 'Content-Type': 'application/json' } : {}), ...headers },
      ...(sent ? { body: JSON.stringify(sent) } : {}),
    })
    return {
      status: response.status,
      contentType: response.headers.get('content-type'),
      etag: response.headers.get('etag'),
      // The tests know what they asked for.
      body: (await response.json()) as any,
    }
  }
  const emptyBasket = async (headers: Record<string, string> = {}, buyer: string | null = BUYER) =>
    `/${(await cart('POST', '', { operator: OPERATOR, buyer, chainId: 100 }, headers)).body.basketId}`

  return {
    ...world,
    first,
    second,
    made,
    sell,
    cart,
    emptyBasket,
    chunkWith: (link: CustomDataLink) => world.put(chunkOf([link as JsonValue], null)),
    async basketOf(lines: Line[], headers: Record<string, string> = {}, buyer: string | null = BUYER) {
      const path = await emptyBasket(headers, buyer)
      const { status, body } = await cart('PATCH', path, itemsOf(lines), headers)
      if (status !== 200) throw new Error(`basket not filled: ${status} ${JSON.stringify(body)}`)
      return path
    },
    /** A bearer header of this address. */
    async tokenOf(address: string) {
      const { token } = await ctx.tokens.issue({ address, chainId: 100 }, 'x')
      return { Authorization: `Bearer ${token}` }
    },
    async close() {
      await world.close()
      for (const adapter of [first, second]) adapter.close()
    },
  }
}

export const itemsOf = (lines: Line[]) => ({
  items: lines.map(({ seller, sku, quantity = 1 }) => ({
    seller: seller.address,
    orderedItem: { '@type': 'Product', sku },
    orderQuantity: quantity,
  })),
})

const blockOf = (number: number) => ({ number, hash: `0x${number.toString(16).padStart(64, '0')}` })

/** A chain that shows these payments, all of them final, in a token that the gateway trusts. */
export function paidInFull(payments: { reference: string; crc: bigint }[]): PaymentSource {
  const at = { blockNumber: 10, transactionIndex: 0, logIndex: 0 }
  const avatar = `0x${'5e'.repeat(20)}`
  const logs = payments.map(({ reference, crc }, i): PaymentLog => ({
    ...at,
    logIndex: i,
    txHash: `0x${reference.slice('pay_'.length).toLowerCase().padStart(64, '0')}`,
    blockHash: null,
    blockTime: new Date(),
    emitter: null,
    gateway: GATEWAY,
    payer: BUYER,
    payee: null,
    tokenId: BigInt(avatar),
    amountWei: crc * 10n ** 18n,
    paymentReference: reference,
  }))
  return {
    readPayments: async (after) => ({
      logs: after ? [] : logs,
      unreadable: [],
      end: after ? undefined : at,
      full: false,
    }),
    readTrust: async () => [{ ...at, blockNumber: 1, emitter: null, trustReceiver: avatar, expirySeconds: 2n ** 60n }],
    readGateway: async () => [],
    readHead: async () => blockOf(1000),
    readBlock: async (number) => blockOf(number),
    readTransaction: async () => ({ ...at, blockHash: blockOf(10).hash, logIndexes: logs.map((_, i) => i) }),
  }
}
