import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { until } from '@market/testkit/until'
import { OPERATOR, startCatalog } from './catalogWorld.ts'

const NOW = Math.floor(Date.now() / 1000)
const DELIVERED = 'fulfill/{chain_id}/{seller}'
const ITEM = '{chain_id}/{seller}/{sku}'

let world: Awaited<ReturnType<typeof startCatalog>>
let seller: ReturnType<(typeof world)['seller']>
const servers: Server[] = []
/** What the adapter is asked, and whether it does well. */
const asked: IncomingMessage[] = []
let adapterStatus = 200
/** Calls to where the seller's own document says its feeds are. */
let calledByDocument = 0

async function listening(server: Server): Promise<string> {
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

beforeAll(async () => {
  const adapter = await listening(
    createServer((request, response) => {
      asked.push(request)
      const counted = { '@type': 'QuantitativeValue', value: 3, unitCode: 'C62' }
      const answer = request.url!.startsWith('/availability/') ? 'https://schema.org/InStock' : counted
      response.writeHead(adapterStatus).end(JSON.stringify(answer))
    }),
  )
  const own = await listening(createServer((_, response) => response.end('"https://schema.org/InStock"')))
  servers.at(-1)!.on('connection', () => (calledByDocument += 1))

  world = await startCatalog({ MARKET_CODE_DISPENSER_ORIGIN: adapter })
  seller = world.seller(58)
  const { db } = world.ctx
  const origin = '{MARKET_CODE_DISPENSER_ORIGIN}'
  const type = (offerType: string, inventory: boolean, availability: boolean) => ({
    offer_type: offerType,
    inventory_url_template: inventory ? `${origin}/inventory/${ITEM}` : null,
    availability_url_template: availability ? `${origin}/availability/${ITEM}` : null,
    fulfillment_url_template: `${origin}/${DELIVERED}`,
  })
  await db
    .insertInto('offer_types')
    .values([type('both', true, true), type('counted', true, false), type('said', false, true)])
    .execute()
  const route = (sku: string, offerType: string | null, totalInventory: number | null = null) => ({
    chain_id: 100,
    seller_address: seller.address,
    sku,
    offer_type: offerType,
    is_one_off: offerType === null,
    total_inventory: totalInventory,
  })
  await db
    .insertInto('market_service_routes')
    .values([
      route('tee-black', 'both'),
      route('poster', 'counted', 250),
      route('ticket', 'said'),
      route('print-1', null),
    ])
    .execute()

  const offer = {
    '@type': 'Offer',
    price: 5,
    priceCurrency: 'CRC',
    availabilityFeed: `${own}/availability`,
    inventoryFeed: `${own}/inventory`,
    fulfillmentEndpoint: `${own}/fulfill`,
    potentialAction: { '@type': 'PayAction', recipient: { '@id': `eip155:100:${OPERATOR}` } },
  }
  const links = ['tee-black', 'poster', 'ticket', 'print-1', 'plain'].map((sku, i) =>
    seller.offer(sku, 5, NOW - 100 + i, { offers: [offer] }),
  )
  await seller.publish(await Promise.all(links))
  await world.page({ avatars: seller.address })
  await world.follow()
})

afterAll(async () => {
  await world?.close()
  for (const server of servers) {
    server.close()
    server.closeAllConnections()
  }
})

type Item = {
  product: { sku: string; totalInventory?: number; offers: Record<string, unknown>[] }
  market: { availabilityFeed: string | null; inventoryFeed: string | null; buyable: boolean }
}
const listed = async () => {
  const { body, text } = await world.page({ avatars: seller.address })
  const items = new Map((body.products as Item[]).map((item) => [item.product.sku, item]))
  expect([...items.keys()].toSorted()).toEqual(['plain', 'poster', 'print-1', 'tee-black', 'ticket'])
  return { items, text }
}
const feed = (kind: string, sku: string) => `${world.url}/inventory/${kind}/100/${seller.address}/${sku}`

it('market-api:A-178 catalog:59 an offer has the feeds that its route can answer, and no upstream shows', async () => {
  const { items, text } = await listed()
  const feeds = (sku: string) => {
    const { market, product } = items.get(sku)!
    expect(product.offers[0]).toMatchObject({
      availabilityFeed: market.availabilityFeed,
      inventoryFeed: market.inventoryFeed,
      fulfillmentEndpoint: null,
    })
    return [market.availabilityFeed, market.inventoryFeed]
  }
  for (const sku of ['tee-black', 'poster']) {
    expect(feeds(sku)).toEqual([feed('availability', sku), feed('inventory', sku)])
  }
  for (const sku of ['ticket', 'print-1']) expect(feeds(sku)).toEqual([feed('availability', sku), null])
  expect(feeds('plain')).toEqual([null, null])
  expect(items.get('plain')!.market.buyable).toBe(false)
  for (const server of servers) expect(text).not.toContain(String((server.address() as AddressInfo).port))
  for (const { market } of items.values()) {
    for (const url of [market.availabilityFeed, market.inventoryFeed]) {
      if (url) expect((await fetch(url)).status, url).toBe(200)
    }
  }
})

it('market-api:A-179 shows how many there are in all, where the operator says so', async () => {
  const { items } = await listed()
  expect(items.get('poster')!.product.totalInventory).toBe(250)
  expect(items.get('tee-black')!.product).not.toHaveProperty('totalInventory')
})

it('catalog:58 feeds in the document of a seller are never called, whatever is done with its products', async () => {
  const { items } = await listed()
  await world.page({ avatars: seller.address, inStock: 'true' })
  for (const sku of items.keys()) {
    await fetch(feed('availability', sku))
    await fetch(feed('inventory', sku))
  }
  const added = await Promise.all([...items.keys()].map(async (sku) => [sku, (await addToBasket(sku)).status]))
  expect(Object.fromEntries(added)).toEqual({ 'tee-black': 200, poster: 200, ticket: 200, 'print-1': 200, plain: 422 })
  expect(asked.length).toBeGreaterThan(0)
  expect(calledByDocument).toBe(0)
})

it('lists only what can be had now, when asked to, over as many pages as it takes', async () => {
  const names = async (query: Record<string, string> = {}) => {
    world.ctx.pages.clear()
    const { body } = await world.page({ avatars: seller.address, inStock: 'true', ...query })
    return {
      skus: (body.products as Item[]).map((item) => item.product.sku),
      cursor: body.nextCursor as string | undefined,
    }
  }
  expect((await names()).skus).toEqual(['print-1', 'ticket', 'poster', 'tee-black'])
  const paged: string[] = []
  for (let cursor: string | undefined = ''; cursor !== undefined;) {
    const page = await names({ pageSize: '1', cursor })
    paged.push(...page.skus)
    cursor = page.cursor
  }
  expect(paged).toEqual(['print-1', 'ticket', 'poster', 'tee-black'])

  // What nobody can say is not in stock; one-offs are the market's own to count.
  adapterStatus = 500
  try {
    await until('what was heard of the stock is old', async () => (await names()).skus.join() === 'print-1')
  } finally {
    adapterStatus = 200
  }
})

it('market-api:A-025 a basket takes nothing whose stock nobody knows, and says why', async () => {
  adapterStatus = 500
  try {
    const { status, body } = await addToBasket('tee-black')
    expect([status, body.error]).toEqual([
      422,
      `inventoryFeed error for seller=${seller.address}, sku=tee-black: HTTP 500`,
    ])
  } finally {
    adapterStatus = 200
  }
  expect((await addToBasket('tee-black')).status).toBe(200)
})

async function addToBasket(sku: string) {
  const baskets = `${world.url}/api/cart/v1/baskets`
  const send = async (method: string, url: string, sent: object) => {
    const headers = { 'Content-Type': 'application/json' }
    const response = await fetch(url, { method, headers, body: JSON.stringify(sent) })
    return { status: response.status, body: (await response.json()) as Record<string, string> }
  }
  const { body } = await send('POST', baskets, { operator: OPERATOR })
  const items = [{ seller: seller.address, orderedItem: { sku }, orderQuantity: 1 }]
  return send('PATCH', `${baskets}/${body.basketId}`, { items })
}
