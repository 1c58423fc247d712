import { Agent, request } from 'node:http'
import { DEMO_CODE_SKU, demoKey, demoOperator, demoSeller } from '@market/dev-chain/demo'
import { freePort } from '@market/devstack/ports'
import { seedDemoSeller } from '@market/testkit/demoSeller'
import { type RunningMarket, startRunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { privateKeyToAccount } from 'viem/accounts'
import { describeLoad, type Load, median, medianLoad, type Request, report } from './load.ts'
import { startStandIn } from './standIn.ts'

const SIZES = [0, 100_000, 1_000_000]
const CONNECTIONS = [16, 64]
const RUNS = Number(process.env.BENCH_RUNS ?? 3)
const SECONDS = 3

/** The figures of the buyer's API: one process of market-api, with nothing, 100,000 and a million orders in its database. */
export async function benchBuyer({ sizes = SIZES }: { sizes?: number[] }): Promise<void> {
  const stockPort = await freePort()
  const stock = await startStandIn('stockStandIn.js', [String(stockPort)])
  const market = await startRunningMarket({
    env: { LOG_LEVEL: 'info', RATE_LIMIT_ENABLED: 'false' },
    serviceEnv: { 'market-api': { MARKET_CODE_DISPENSER_ORIGIN: `http://127.0.0.1:${stockPort}` } },
  })
  const db = postgres(market.connections.market, { max: 2, onnotice: () => {} })
  try {
    await seedDemoSeller(market)
    await until('the seller is in the catalog', async () => {
      const path = `/api/operator/${demoOperator}/catalog/${demoSeller}/${DEMO_CODE_SKU}`
      return (await fetch(market.marketUrl + path)).ok
    })
    // Neither the registry nor unpaid orders are looked at meanwhile.
    await market.services['market-api'].restart({ CATALOG_POLL_SECONDS: '3600', POLL_SECONDS: '3600' })
    const buyer = await signIn(market.marketUrl)
    let filled = 0
    for (const size of sizes) {
      await fill(db, buyer.address, filled, size)
      filled = size
      console.log(`\n${size.toLocaleString('en')} orders`)
      for (const connections of CONNECTIONS) await benchAt(market, db, buyer, connections)
    }
  } finally {
    await db.end()
    await market.remove()
    stock.kill()
  }
}

type Buyer = Awaited<ReturnType<typeof signIn>>

async function benchAt(market: RunningMarket, db: postgres.Sql, buyer: Buyer, connections: number): Promise<void> {
  const url = market.marketUrl
  const bare = await bareDatabase(market.connections.market)
  const say = (what: string, one: Load, of?: Load, aim = '') => {
    const share = of ? `  ${Math.round((one.requestsPerSecond / of.requestsPerSecond) * 100)} %` : ''
    report(`${what}, ${connections} connections`, describeLoad(one) + share, aim)
  }
  const many = (base: string, requests: Request[]) =>
    medianLoad(base, requests, { runs: RUNS, seconds: SECONDS, connections })
  try {
    const baskets = await makeBaskets(url, buyer, 500)
    const orderIds = await someOrders(db, buyer)
    const get = (path: string): Request => ({ path, headers: buyer.headers })

    const row = await many(bare.url, [{ path: '/row' }])
    say('bare one-row read', row)
    say(
      'get basket',
      await many(
        url,
        baskets.map((path) => get(path)),
      ),
      row,
      '>= 60 %',
    )
    if (orderIds.length > 0) {
      say(
        'get order',
        await many(
          url,
          orderIds.map((id) => get(`${ORDERS}/${id}`)),
        ),
        row,
        '>= 60 %',
      )
      say('list orders, 20 a page', await many(url, [get(`${ORDERS}/by-buyer`)]))
      say('list sales, 20 a page', await many(url, [{ path: `${ORDERS}/by-seller`, headers: buyer.sellerHeaders }]))
    }
    const write = await many(bare.url, [{ path: '/write', method: 'POST' }])
    say('bare update in a transaction', write)
    say('create basket', await many(url, [{ path: BASKETS, method: 'POST', body: buyer.newBasket }]), write)
    say(
      'patch line',
      await many(
        url,
        baskets.map((path) => ({ path, method: 'PATCH', body: LINE })),
      ),
      write,
      '>= 40 %',
    )
    say(
      'validate',
      await many(
        url,
        baskets.map((path) => ({ path: `${path}/validate`, method: 'POST' })),
      ),
      write,
      '>= 40 %',
    )

    const bareCheckout = await many(bare.url, [{ path: '/checkout', method: 'POST' }])
    say('bare multi-statement transaction', bareCheckout)
    const checkouts: Load[] = []
    for (let run = 0; run < RUNS; run += 1) {
      const paths = await makeBaskets(url, buyer, 1500)
      checkouts.push(await checkOutAll(url, buyer, paths, connections))
    }
    say(
      'checkout',
      median(checkouts, (one) => one.requestsPerSecond),
      bareCheckout,
      '>= 50 %',
    )
    const flows: Load[] = []
    for (let run = 0; run < RUNS; run += 1) flows.push(await wholeFlows(url, buyer, connections))
    say(
      'whole flow',
      median(flows, (one) => one.requestsPerSecond),
      undefined,
      '>= 150/s',
    )
  } finally {
    bare.stop()
  }
}

const BASKETS = '/api/cart/v1/baskets'
const ORDERS = '/api/cart/v1/orders'
const LINE = JSON.stringify({
  items: [{ seller: demoSeller, orderedItem: { '@type': 'Product', sku: DEMO_CODE_SKU }, orderQuantity: 1 }],
})
const ADDRESS = JSON.stringify({
  shippingAddress: {
    '@type': 'PostalAddress',
    streetAddress: 'Kai 1',
    addressLocality: 'Kiel',
    postalCode: '24103',
    addressCountry: 'DE',
  },
})

async function signIn(url: string) {
  const tokenOf = async (name: string) => {
    const account = privateKeyToAccount(demoKey(name))
    const post = async (path: string, body: object) => {
      const headers = { 'Content-Type': 'application/json' }
      const response = await fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body) })
      return (await response.json()) as Record<string, string>
    }
    const { challengeId, message } = await post('/api/auth/challenge', { address: account.address, chainId: 100 })
    const { token } = await post('/api/auth/verify', {
      challengeId,
      signature: await account.signMessage({ message: message! }),
    })
    return { address: account.address.toLowerCase(), headers: { Authorization: `Bearer ${token}` } }
  }
  const buyer = await tokenOf('buyer/1')
  const seller = await tokenOf('seller')
  const newBasket = JSON.stringify({ buyer: buyer.address, operator: demoOperator, chainId: 100 })
  return { ...buyer, sellerHeaders: seller.headers, newBasket }
}

/** One connection, kept alive: what a browser has. */
function connect(url: string, headers: Record<string, string>) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const call = (method: string, path: string, body?: string) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const type =
        body === undefined ? {} : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) }
      const sent = request(url + path, { method, agent, headers: { ...headers, ...type } }, (response) => {
        const parts: Buffer[] = []
        response.on('data', (part: Buffer) => parts.push(part))
        response.on('end', () => resolve({ status: response.statusCode!, text: Buffer.concat(parts).toString() }))
      })
      sent.on('error', reject)
      sent.end(body)
    })
  return { call, close: () => agent.destroy() }
}

/** Paths of baskets with one line and an address each. */
async function makeBaskets(url: string, buyer: Buyer, count: number): Promise<string[]> {
  const paths: string[] = []
  await onConnections(16, url, buyer.headers, async ({ call }) => {
    while (paths.length < count) {
      const made = JSON.parse((await call('POST', BASKETS, buyer.newBasket)).text) as { basketId: string }
      const path = `${BASKETS}/${made.basketId}`
      const { status, text } = await call('PATCH', path, LINE)
      if (status !== 200) throw new Error(`no basket to measure with: ${status} ${text}`)
      paths.push(path)
    }
  })
  return paths
}

async function onConnections(
  connections: number,
  url: string,
  headers: Record<string, string>,
  work: (client: ReturnType<typeof connect>) => Promise<void>,
): Promise<void> {
  await Promise.all(
    Array.from({ length: connections }, async () => {
      const client = connect(url, headers)
      await work(client)
      client.close()
    }),
  )
}

function summary(times: number[], failed: number, began: number): Load {
  const sorted = times.toSorted((a, b) => a - b)
  const at = (share: number) => Math.round(sorted[Math.floor(sorted.length * share)] ?? 0)
  return {
    requestsPerSecond: times.length / ((performance.now() - began) / 1000),
    p50: at(0.5),
    p99: at(0.99),
    errors: failed > 0 ? `${failed} not 2xx` : '',
  }
}

async function checkOutAll(url: string, buyer: Buyer, paths: string[], connections: number): Promise<Load> {
  const times: number[] = []
  let failed = 0
  const queue = paths.values()
  const began = performance.now()
  await onConnections(connections, url, buyer.headers, async ({ call }) => {
    for (const path of queue) {
      const started = performance.now()
      if ((await call('POST', `${path}/checkout`)).status !== 201) failed += 1
      times.push(performance.now() - started)
    }
  })
  return summary(times, failed, began)
}

/** Create, add, address, checkout, read: what one buyer does, over and over. */
async function wholeFlows(url: string, buyer: Buyer, connections: number): Promise<Load> {
  const times: number[] = []
  let failed = 0
  const began = performance.now()
  await onConnections(connections, url, buyer.headers, async ({ call }) => {
    while (performance.now() - began < SECONDS * 1000) {
      const started = performance.now()
      const { basketId } = JSON.parse((await call('POST', BASKETS, buyer.newBasket)).text) as { basketId: string }
      await call('PATCH', `${BASKETS}/${basketId}`, LINE)
      await call('PATCH', `${BASKETS}/${basketId}`, ADDRESS)
      const checkout = JSON.parse((await call('POST', `${BASKETS}/${basketId}/checkout`)).text) as { orderId: string }
      if ((await call('GET', `${ORDERS}/${checkout.orderId}`)).status !== 200) failed += 1
      times.push(performance.now() - started)
    }
  })
  return summary(times, failed, began)
}

const someOrders = async (db: postgres.Sql, { address }: Buyer): Promise<string[]> =>
  (await db`select order_id from orders where buyer_address = ${address} and listed limit 500`).map(
    (row) => row.order_id,
  )

async function bareDatabase(connection: string): Promise<{ url: string; stop(): void }> {
  const port = await freePort()
  const child = await startStandIn('bareDatabase.js', [String(port), connection])
  return { url: `http://127.0.0.1:${port}`, stop: () => void child.kill() }
}

/**
 * Orders as the market stores them, written straight into its tables, most of them complete, of ten thousand buyers; 100 more
 * are the measured buyer's own. The document is that of a real order.
 */
async function fill(db: postgres.Sql, buyer: string, from: number, to: number): Promise<void> {
  const [template] = await db`select order_json, expected_gateways, price_wei from orders limit 1`
  if (!template || to === from) return
  await db.begin(async (tx) => {
    await tx`alter table orders disable trigger orders_status`
    await tx`
      insert into orders (order_id, basket_id, chain_id, buyer_address, order_json, status, created_at, payment_reference,
        price_wei, expected_gateways, payment_due_by, payment_seen_at, paid_at, paid_amount_wei, confirmed_at, finalized_at)
      select 'ord_' || lpad(upper(to_hex(n)), 32, '0'), 'bkt_bench_' || n, 100,
        case when n % 10000 = 0 then ${buyer} else '0x' || lpad(to_hex(n % 10000), 40, '0') end,
        ${template.order_json}, 'https://schema.org/PaymentComplete', now() - make_interval(secs => ${to} - n),
        'pay_' || lpad(upper(to_hex(n)), 32, '0'), ${template.price_wei}, ${template.expected_gateways}, now(), now(), now(),
        ${template.price_wei}, now(), now()
      from generate_series(${from} + 1, ${to}::integer) n`
    await tx`
      insert into order_lines (order_id, line_index, seller_address, sku, quantity, fulfillment_trigger, link_keccak)
      select 'ord_' || lpad(upper(to_hex(n)), 32, '0'), 0, ${demoSeller}, ${DEMO_CODE_SKU}, 1, 'finalized', '0x'
      from generate_series(${from} + 1, ${to}::integer) n`
    await tx`
      insert into order_sellers (order_id, seller_address, chain_id, created_at)
      select order_id, ${demoSeller}, 100, created_at from orders
      where order_id in (select 'ord_' || lpad(upper(to_hex(n)), 32, '0') from generate_series(${from} + 1, ${to}::integer) n)`
    await tx`
      insert into orders_status_history (order_id, old_status, new_status)
      select 'ord_' || lpad(upper(to_hex(n)), 32, '0'), s.before, s.after from generate_series(${from} + 1, ${to}::integer) n,
        (values (null, 'https://schema.org/OrderPaymentDue'),
          ('https://schema.org/OrderPaymentDue', 'https://aboutcircles.com/status/PaymentProcessing'),
          ('https://aboutcircles.com/status/PaymentProcessing', 'https://schema.org/PaymentComplete')) s (before, after)`
    await tx`alter table orders enable trigger orders_status`
  })
  for (const table of ['orders', 'order_lines', 'order_sellers', 'orders_status_history'])
    await db.unsafe(`vacuum analyze ${table}`)
}
