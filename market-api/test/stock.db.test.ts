import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { openDatabase } from '@market/kit/db'
import { createLog } from '@market/kit/log'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { MarketDatabase } from '../src/db/types.ts'
import { createAdapterClient } from '../src/serviceRoutes/adapterClient.ts'
import { readStock } from '../src/serviceRoutes/readStock.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

const SELLER = `0x${'5e'.repeat(20)}`
const CHECKSUMMED = `0x${'5E'.repeat(20)}`
const IN = 'https://schema.org/InStock'
const OUT = 'https://schema.org/OutOfStock'
const KEY = 'a-service-key-for-tests'
/** Public, reached on this machine by these tests. */
const PUBLIC = '93.184.216.34'

type Answer = (response: ServerResponse, request: IncomingMessage) => void
type Upstream = {
  origin: string
  port: number
  connections: number
  requests: IncomingMessage[]
  busy: number
  busiest: number
}

const servers: Server[] = []
/** What the adapter says about a sku, in whatever way its URL is reached. */
const answers = new Map<string, Answer>()

let market: MarketApi
let adapter: Upstream
/** Where nobody should come. */
let inside: Upstream
const dialled: string[] = []
const hosts: Record<string, string[]> = {
  'shop.example': [PUBLIC],
  'metadata.example': ['169.254.169.254'],
  'mapped.example': ['::ffff:10.0.0.1'],
  'shared.example': ['100.64.0.1'],
  'half.example': [PUBLIC, '10.0.0.5'],
}

async function upstream(answer: (request: IncomingMessage, response: ServerResponse) => void): Promise<Upstream> {
  const started: Upstream = { origin: '', port: 0, connections: 0, requests: [], busy: 0, busiest: 0 }
  const server = createServer((request, response) => {
    started.requests.push(request)
    started.busy += 1
    started.busiest = Math.max(started.busiest, started.busy)
    response.on('close', () => (started.busy -= 1))
    answer(request, response)
  })
  server.on('connection', () => (started.connections += 1))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  servers.push(server)
  started.port = (server.address() as AddressInfo).port
  started.origin = `http://127.0.0.1:${started.port}`
  return started
}

const json =
  (body: unknown): Answer =>
  (response) =>
    response.end(JSON.stringify(body))
const stock = (value: number): Answer => json({ '@type': 'QuantitativeValue', value, unitCode: 'C62' })
const moved =
  (to: () => string): Answer =>
  (response) =>
    response.writeHead(302, { Location: to() }).end()

/** Makes a sku sellable by an offer type, and says what its upstream answers. */
async function sell(sku: string, offerType: string | null, answer?: Answer) {
  if (answer) answers.set(sku, answer)
  await market.ctx.db
    .insertInto('market_service_routes')
    .values({ chain_id: 100, seller_address: SELLER, sku, offer_type: offerType, is_one_off: offerType === null })
    .execute()
}

async function markSold(sku: string) {
  const { db } = market.ctx
  await db
    .insertInto('baskets')
    .values({ basket_id: `b-${sku}`, basket_json: {} as never, expires_at: new Date() })
    .execute()
  await db
    .insertInto('orders')
    .values({
      order_id: `o-${sku}`,
      basket_id: `b-${sku}`,
      chain_id: 100,
      buyer_address: SELLER,
      order_json: {} as never,
      status: 'https://schema.org/OrderPaymentDue',
      payment_reference: `r-${sku}`,
      payment_due_by: new Date(Date.now() + 60_000),
      price_wei: '1',
      expected_gateways: [SELLER],
    })
    .execute()
  await db
    .insertInto('one_off_sales')
    .values({ chain_id: 100, seller_address: SELLER, sku, order_id: `o-${sku}` })
    .execute()
}

const feed = (kind: 'availability' | 'inventory', sku: string, headers: Record<string, string> = {}) =>
  fetch(`${market.url}/inventory/${kind}/100/${SELLER}/${sku}`, { headers })
const availability = async (sku: string) => {
  const response = await feed('availability', sku)
  return [response.status, await response.json()]
}
const inventory = async (sku: string) => {
  const response = await feed('inventory', sku)
  return [response.status, await response.json()]
}
/** Status, title and detail of a problem. */
const problem = async (response: Response) => {
  expect(response.headers.get('content-type')).toBe('application/problem+json')
  const { title, status, detail } = (await response.json()) as Record<string, unknown>
  expect(status).toBe(response.status)
  return [status, title, detail]
}

beforeAll(async () => {
  adapter = await upstream((request, response) => {
    const sku = decodeURIComponent(request.url!.split('/').at(-1)!)
    answers.get(sku)!(response, request)
  })
  inside = await upstream((_, response) => response.end('"https://schema.org/InStock"'))
  market = await startMarketApi({
    overrides: {
      adapters: createAdapterClient({
        keys: new Map([[adapter.origin, KEY]]),
        inventoryTimeoutMs: 800,
        availabilityTimeoutMs: 800,
        fulfillmentTimeoutMs: 800,
        maxResponseBytes: 65_536,
        maxRedirects: 3,
        resolve: async (host) => hosts[host] ?? [],
        dial: (address) => {
          dialled.push(address)
          return '127.0.0.1'
        },
      }),
    },
  })
  const path = '{chain_id}/{seller}/{sku}'
  const outside = (host: string) => ({
    offer_type: host.split('.')[0]!,
    inventory_url_template: `http://${host}:${host === 'shop.example' ? adapter.port : inside.port}/inventory/${path}`,
    availability_url_template: null,
    fulfillment_url_template: null,
  })
  const counted = `${adapter.origin}/inventory/${path}`
  const said = `${adapter.origin}/availability/${path}`
  await market.ctx.db
    .insertInto('offer_types')
    .values([
      {
        offer_type: 'counted',
        inventory_url_template: counted,
        availability_url_template: null,
        fulfillment_url_template: null,
      },
      {
        offer_type: 'said',
        inventory_url_template: null,
        availability_url_template: said,
        fulfillment_url_template: null,
      },
      {
        offer_type: 'both',
        inventory_url_template: counted,
        availability_url_template: said,
        fulfillment_url_template: null,
      },
      {
        offer_type: 'neither',
        inventory_url_template: null,
        availability_url_template: null,
        fulfillment_url_template: null,
      },
      {
        offer_type: 'mistyped',
        inventory_url_template: 'http://h/{foo}',
        availability_url_template: null,
        fulfillment_url_template: null,
      },
      ...Object.keys(hosts).map(outside),
    ])
    .execute()
})

afterAll(async () => {
  await market?.close()
  for (const server of servers) {
    server.close()
    server.closeAllConnections()
  }
})

describe('availability', () => {
  it('market-api:A-180 fulfilment:F-6 catalog:60 comes from the count where nobody says it', async () => {
    await sell('tee-5', 'counted', stock(5))
    await sell('tee-0', 'counted', stock(0))
    expect(await availability('tee-5')).toEqual([200, IN])
    expect(await availability('tee-0')).toEqual([200, OUT])
  })

  it('fulfilment:F-5 is what the adapter says, before any count', async () => {
    const byKind =
      (said: string, counted: number): Answer =>
      (response, { url }) =>
        (url!.startsWith('/availability/') ? json(said) : stock(counted))(response, undefined as never)
    await sell('said-in', 'both', byKind(IN, 0))
    await sell('said-out', 'both', byKind(OUT, 5))
    expect(await availability('said-in')).toEqual([200, IN])
    expect(await availability('said-out')).toEqual([200, OUT])
  })

  it('market-api:A-181 catalog:60 is one of two IRIs, or the upstream is wrong', async () => {
    await sell('preorder', 'said', json('https://schema.org/PreOrder'))
    const response = await feed('availability', 'preorder')
    expect(await problem(response)).toEqual([502, 'Upstream sent invalid response', `Expected ${IN} or ${OUT}`])
  })

  it('market-api:A-183 is not found of what has no route', async () => {
    expect(await problem(await feed('availability', 'plain'))).toEqual([404, 'Not found', 'Product not configured'])
  })

  it('is not found where nobody can say it, fulfilment:F-2 a template that can not be filled included', async () => {
    for (const offerType of ['neither', 'mistyped']) {
      await sell(offerType, offerType)
      const response = await feed('availability', offerType)
      expect(await problem(response)).toEqual([404, 'Not found', 'Availability not configured'])
    }
  })
})

describe('inventory', () => {
  it('is what the adapter counts, with its unit', async () => {
    await sell('counted', 'counted', stock(7))
    const response = await feed('inventory', 'counted')
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(await response.text()).toBe('{"@type":"QuantitativeValue","value":7,"unitCode":"C62"}')
    await sell('unitless', 'counted', json({ '@type': 'QuantitativeValue', value: 7 }))
    expect(await inventory('unitless')).toEqual([200, { '@type': 'QuantitativeValue', value: 7, unitCode: null }])
  })

  it('is never below 0 (market-api W-50)', async () => {
    await sell('oversold', 'counted', stock(-2))
    expect(await inventory('oversold')).toMatchObject([200, { value: 0 }])
    expect(await availability('oversold')).toEqual([200, OUT])
  })

  it('market-api:A-182 fulfilment:F-3 fulfilment:F-7 of a one-off is one until it is sold', async () => {
    await sell('print-1', null)
    expect(await inventory('print-1')).toEqual([200, { '@type': 'QuantitativeValue', value: 1, unitCode: null }])
    expect(await availability('print-1')).toEqual([200, IN])
    await markSold('print-1')
    expect(await inventory('print-1')).toEqual([200, { '@type': 'QuantitativeValue', value: 0, unitCode: null }])
    expect(await availability('print-1')).toEqual([200, OUT])
  })

  it('of a one-off is never asked for, whatever its offer type could say, and sold is sold by its own seller', async () => {
    await sell('print-2', null)
    await market.ctx.db
      .updateTable('market_service_routes')
      .set({ offer_type: 'both' })
      .where('sku', '=', 'print-2')
      .execute()
    await market.ctx.db
      .insertInto('one_off_sales')
      .values({ chain_id: 100, seller_address: `0x${'ab'.repeat(20)}`, sku: 'print-2', order_id: 'o-print-1' })
      .execute()
    const asked = adapter.requests.length
    expect(await inventory('print-2')).toMatchObject([200, { value: 1 }])
    expect(adapter.requests.length).toBe(asked)
  })

  it('is not found where only availability is said (market-api W-50)', async () => {
    await sell('uncounted', 'said', json(IN))
    const response = await feed('inventory', 'uncounted')
    expect(await problem(response)).toEqual([404, 'Not found', 'Inventory not supported for this offer'])
  })
})

describe('both feeds', () => {
  it('catalog:59 answer as the kind of route lets them', async () => {
    await sell('kind-counted', 'counted', stock(1))
    await sell('kind-said', 'said', json(IN))
    await sell('kind-one-off', null)
    const statuses = async (sku: string) => [
      (await feed('availability', sku)).status,
      (await feed('inventory', sku)).status,
    ]
    expect(await statuses('kind-counted')).toEqual([200, 200])
    expect(await statuses('kind-said')).toEqual([200, 404])
    expect(await statuses('kind-one-off')).toEqual([200, 200])
    expect(await statuses('kind-none')).toEqual([404, 404])
  })

  it('market-api:A-184 fulfilment:F-8 answer no call that came through a market, before all else', async () => {
    for (const kind of ['availability', 'inventory'] as const) {
      for (const [sku, hop] of [
        ['tee-5', '1'],
        ['nope', ''],
      ] as const) {
        const response = await feed(kind, sku, { 'X-Circles-Proxy-Hop': hop })
        expect(await problem(response)).toEqual([508, 'Loop detected', 'A proxy loop was detected.'])
      }
    }
  })

  it.each([
    ['100', '0x12', 'Address must be 42 chars and start with 0x'],
    ['100', `0x${'zz'.repeat(20)}`, 'Address must contain only hexadecimal characters 0-9a-f'],
    ['100', '%20', 'Address is required'],
    ['gnosis', SELLER, 'chainId must be an integer'],
    ['0x64', SELLER, 'chainId must be an integer'],
    ['1e2', SELLER, 'chainId must be an integer'],
    ['99999999999999999999', SELLER, 'chainId must be an integer'],
  ])('refuse chain %s, seller %s', async (chain, seller, detail) => {
    const response = await fetch(`${market.url}/inventory/availability/${chain}/${seller}/tee-5`)
    expect(await problem(response)).toEqual([400, 'Invalid request', detail])
  })

  it.each(['1', '0', '-100'])('know nothing on chain %s', async (chain) => {
    const response = await fetch(`${market.url}/inventory/inventory/${chain}/${SELLER}/tee-5`)
    expect(await problem(response)).toEqual([404, 'Not found', 'Product not configured'])
  })

  it.each(['%00', '%F0%9F%8C%8A', 'a%2Fb', 'x'.repeat(100)])('know nothing of sku %s', async (sku) => {
    expect(await problem(await feed('inventory', sku))).toEqual([404, 'Not found', 'Product not configured'])
  })

  it('find seller and sku however they are written, and ask in the one way that rows have', async () => {
    await sell('mixed-case', 'counted', stock(3))
    const path = `/inventory/inventory/100/${CHECKSUMMED}/%20Mixed-CASE%20`
    expect(await (await fetch(market.url + path)).json()).toMatchObject({ value: 3 })
    const asked = adapter.requests.filter(({ url }) => url!.toLowerCase().includes('mixed'))
    expect(asked.map(({ url }) => url)).toEqual([`/inventory/100/${SELLER}/mixed-case`])
  })

  it('market-api W-26 fulfilment:F-4 know nothing of a route that is off or whose offer type is', async () => {
    await market.ctx.db
      .insertInto('offer_types')
      .values({
        offer_type: 'off',
        inventory_url_template: `${adapter.origin}/{sku}`,
        availability_url_template: null,
        fulfillment_url_template: null,
        enabled: false,
      })
      .execute()
    await sell('type-off', 'off')
    await sell('route-off', 'counted')
    const { db } = market.ctx
    await db.updateTable('market_service_routes').set({ enabled: false }).where('sku', '=', 'route-off').execute()
    for (const sku of ['type-off', 'route-off']) {
      for (const kind of ['availability', 'inventory'] as const) {
        expect(await problem(await feed(kind, sku))).toEqual([404, 'Not found', 'Product not configured'])
      }
    }
  })

  it('ask an adapter once for everybody who asks meanwhile', async () => {
    await sell('busy', 'counted', stock(2))
    await Promise.all(Array.from({ length: 30 }, (_, i) => feed(i % 2 ? 'inventory' : 'availability', 'busy')))
    expect(adapter.requests.filter(({ url }) => url!.endsWith('/busy'))).toHaveLength(1)
  })
})

describe('an upstream', () => {
  const asked = () => ({ inside: inside.connections, dialled: dialled.length })

  it('that is configured gets the key and the hop header', async () => {
    await sell('keyed', 'counted', stock(1))
    await inventory('keyed')
    const { headers } = adapter.requests.find(({ url }) => url!.endsWith('/keyed'))!
    expect(headers).toMatchObject({ 'x-circles-service-key': KEY, 'x-circles-proxy-hop': '1' })
  })

  it('that is not gets the hop header, and no key though its path looks like an adapter', async () => {
    await sell('keyless', 'shop', stock(1))
    expect(await inventory('keyless')).toMatchObject([200, { value: 1 }])
    const { headers } = adapter.requests.find(({ url }) => url!.endsWith('/keyless'))!
    expect(headers).toMatchObject({ host: `shop.example:${adapter.port}`, 'x-circles-proxy-hop': '1' })
    expect(headers).not.toHaveProperty('x-circles-service-key')
  })

  it.each([
    ['market-api:A-185', 'metadata', '169.254.169.254'],
    ['market-api:A-186 fulfilment:F-12', 'mapped', '::ffff:10.0.0.1'],
    ['market-api:A-186 fulfilment:F-12', 'shared', '100.64.0.1'],
    ['market-api:A-186', 'half', 'a public and a private one'],
  ])('%s without a key is blocked at a private address, and nobody connects: %s (%s)', async (_, offerType) => {
    const before = asked()
    await sell(`at-${offerType}`, offerType)
    for (const kind of ['availability', 'inventory'] as const) {
      const response = await feed(kind, `at-${offerType}`)
      expect(await problem(response)).toEqual([502, 'Upstream blocked', 'Blocked private address'])
    }
    expect(asked()).toEqual(before)
  })

  it('market-api:A-187 fulfilment:F-13 that redirects to a private address leads nobody there', async () => {
    const before = inside.connections
    await sell(
      'moved',
      'shop',
      moved(() => `${inside.origin}/`),
    )
    const response = await feed('inventory', 'moved')
    expect(await problem(response)).toEqual([502, 'Upstream blocked', 'Blocked private address'])
    expect(adapter.requests.some(({ url }) => url!.endsWith('/moved'))).toBe(true)
    expect(inside.connections).toBe(before)
  })

  it('that redirects for ever is left after three', async () => {
    await sell('round', 'shop', (response, { url }) => response.writeHead(302, { Location: url! }).end())
    const response = await feed('inventory', 'round')
    expect(await problem(response)).toEqual([502, 'Upstream HTTP error', 'More than 3 redirects'])
    expect(adapter.requests.filter(({ url }) => url!.endsWith('/round'))).toHaveLength(4)
  })

  it('market-api:A-188 fulfilment:F-11 that says more than 65,536 bytes is cut off', async () => {
    const sized = (bytes: number): Answer => {
      const bare = JSON.stringify({ '@type': 'QuantitativeValue', value: 1, pad: '' }).length
      return json({ '@type': 'QuantitativeValue', value: 1, pad: 'x'.repeat(bytes - bare) })
    }
    await sell('just', 'counted', sized(65_536))
    await sell('more', 'counted', sized(65_537))
    expect(await inventory('just')).toMatchObject([200, { value: 1 }])
    const response = await feed('inventory', 'more')
    expect(await problem(response)).toEqual([502, 'Upstream HTTP error', 'answer exceeds 65536 bytes'])
  })

  it('market-api:A-189 fulfilment:F-9 that hangs costs a second at most', async () => {
    await sell('hanging', 'counted', (response) => void setTimeout(() => stock(1)(response, undefined as never), 2000))
    const begun = performance.now()
    const response = await feed('inventory', 'hanging')
    expect(await problem(response)).toEqual([504, 'Upstream timeout', 'No answer within 800 ms'])
    expect(performance.now() - begun).toBeLessThan(1900)
  })

  it('market-api:A-190 fulfilment:F-14 that is trusted is not followed, and its key stays', async () => {
    const before = inside.requests.length
    await sell(
      'trusted-moved',
      'counted',
      moved(() => `${inside.origin}/`),
    )
    const response = await feed('inventory', 'trusted-moved')
    expect(await problem(response)).toEqual([502, 'Upstream error', 'HTTP 302'])
    expect(inside.requests.length).toBe(before)
  })

  it.each<[string, Answer, string, string]>([
    ['fails', (response) => response.writeHead(500).end('secret'), 'Upstream error', 'HTTP 500'],
    [
      'does not say JSON',
      (response) => response.end('<html>secret</html>'),
      'Upstream sent invalid response',
      'The answer is not JSON',
    ],
    [
      'fulfilment:F-10 counts things',
      json({ '@type': 'Thing', value: 1 }),
      'Upstream error',
      '@type must be QuantitativeValue',
    ],
    ['hangs up', (response) => response.destroy(), 'Upstream HTTP error', 'ECONNRESET'],
  ])('that %s is a 502, and its words stay here', async (name, answer, title, detail) => {
    const sku = name.replaceAll(/\W/g, '').toLowerCase()
    await sell(sku, 'counted', answer)
    const text = await (await feed('inventory', sku)).text()
    expect(JSON.parse(text)).toMatchObject({ status: 502, title, detail })
    expect(text).not.toMatch(/secret|127\.0\.0\.1/)
  })
})

describe('readStock', () => {
  const keys = (skus: string[]) => skus.map((sku) => ({ seller: SELLER, sku }))
  const bySku = async (skus: string[]) => {
    const stocks = await readStock(market.ctx, keys(skus), 100)
    return Object.fromEntries([...stocks].map(([key, value]) => [key.slice(SELLER.length + 1), value]))
  }

  it('knows what is in stock, what is out, and what nobody can say', async () => {
    await sell('s-in', 'counted', stock(5))
    await sell('s-out', 'counted', stock(0))
    await sell('s-said', 'said', json(IN))
    await sell('s-print', null)
    await sell('s-sold', null)
    await markSold('s-sold')
    await sell('s-broken', 'counted', json('nonsense'))
    await sell('s-neither', 'neither')
    await sell('s-blocked', 'metadata')
    expect(
      await bySku(['S-IN', 's-out', 's-said', 's-print', 's-sold', 's-broken', 's-neither', 's-blocked', 's-none']),
    ).toEqual({
      's-in': true,
      's-out': false,
      's-said': true,
      's-print': true,
      's-sold': false,
      's-broken': undefined,
      's-neither': undefined,
      's-blocked': undefined,
      's-none': undefined,
    })
    expect(await bySku([])).toEqual({})
  })

  it('asks eight at a time, each once, and takes what the feeds know', async () => {
    const skus = Array.from({ length: 40 }, (_, i) => `many-${i}`)
    for (const [i, sku] of skus.entries()) {
      await sell(sku, 'counted', (response) => void setTimeout(() => stock(i % 2)(response, undefined as never), 10))
    }
    await inventory('many-0')
    adapter.busiest = 0
    const asked = adapter.requests.length
    expect(Object.values(await bySku([...skus, ...skus]))).toEqual(skus.map((_, i) => i % 2 === 1))
    expect([adapter.busiest, adapter.requests.length - asked]).toEqual([8, 39])
  })

  it('takes a second at most, says what it knows then, and asks nobody else', async () => {
    const slow = Array.from({ length: 24 }, (_, i) => `slow-${i}`)
    const slowly: Answer = (response) => void setTimeout(() => stock(1)(response, undefined as never), 600)
    for (const sku of slow) await sell(sku, 'counted', slowly)
    await sell('quick', 'counted', stock(1))
    const begun = performance.now()
    const known = await readStock(market.ctx, keys(['quick', ...slow]), 100)
    expect(performance.now() - begun).toBeLessThan(1700)
    const values = [...known.values()]
    expect([values[0], values.at(-1)]).toEqual([true, undefined])
    // Calls under way then may end well; nobody hears of it.
    await until('the adapter is idle', () => adapter.busy === 0)
    expect([...known.values()]).toEqual(values)
    expect(adapter.requests.filter(({ url }) => url!.includes('/slow-')).length).toBeLessThan(slow.length)
  })

  it('never throws, not even without a database', async () => {
    const gone = openDatabase<MarketDatabase>(market.ctx.config.POSTGRES_CONNECTION.reveal(), { name: 'gone' })
    await gone.close()
    const broken = { ...market.ctx, db: gone.db, log: createLog('test', 'fatal') }
    expect([...(await readStock(broken, keys(['s-in']), 100)).values()]).toEqual([undefined])
  })
})

describe('GET /api/sellers', () => {
  it('is a plain array of those who sell something, each once, in order', async () => {
    const { db } = market.ctx
    const first = `0x${'11'.repeat(20)}`
    const idle = `0x${'22'.repeat(20)}`
    await db
      .insertInto('market_service_routes')
      .values([
        { chain_id: 100, seller_address: first, sku: 'a', offer_type: 'counted' },
        { chain_id: 100, seller_address: first, sku: 'b', offer_type: 'said' },
        { chain_id: 10_200, seller_address: first, sku: 'a', offer_type: null, is_one_off: true },
        { chain_id: 100, seller_address: idle, sku: 'a', offer_type: 'counted', enabled: false },
        { chain_id: 100, seller_address: idle, sku: 'b', offer_type: 'off' },
      ])
      .execute()
    const response = await fetch(`${market.url}/api/sellers`)
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(await response.json()).toEqual([
      { chainId: 100, seller: first },
      { chainId: 100, seller: SELLER },
      { chainId: 10_200, seller: first },
    ])
  })

  it('says when nothing changed, and when something did', async () => {
    const ask = (tag: string) =>
      fetch(`${market.url}/api/sellers`, { headers: { 'If-None-Match': tag, Origin: 'https://a.example' } })
    const first = await ask('"other"')
    const tag = first.headers.get('etag')!
    expect([first.status, first.headers.get('cache-control')]).toEqual([200, 'public, max-age=5'])
    for (const known of [tag, `W/${tag}`, `"x", ${tag}`, '*']) {
      const again = await ask(known)
      expect([again.status, await again.text(), again.headers.get('etag')]).toEqual([304, '', tag])
      expect(again.headers.get('access-control-allow-origin')).toBe('https://a.example')
    }
    await market.ctx.db
      .insertInto('market_service_routes')
      .values({ chain_id: 100, seller_address: `0x${'33'.repeat(20)}`, sku: 'a', offer_type: 'counted' })
      .execute()
    const changed = await ask(tag)
    expect([changed.status, ((await changed.json()) as unknown[]).length]).toEqual([200, 4])
  })
})
