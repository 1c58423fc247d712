import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { IDEMPOTENCY_KEY_HEADER, SERVICE_KEY_HEADER } from '@market/contracts/fulfillment'
import { OrderStatus } from '@market/contracts/statuses'
import { type RunningMarket, startRunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { median, report } from './load.ts'

const run = promisify(execFile)
const OPS = new URL('../../../scripts/dist/ops.js', import.meta.url).pathname

const amount = (name: string, fallback: number) => Number(process.env[name] ?? fallback)
const RUNS = amount('BENCH_RUNS', 3)
/** Made due at once; a tenth of them first. */
const ORDERS = amount('BENCH_ORDERS', 10_000)
const SINGLES = amount('BENCH_SINGLES', 200)
const CALLS = amount('BENCH_CALLS', 10_000)
const CALLERS = 64
const FINISHED = amount('BENCH_FINISHED', 1_000_000)
const SEEDED = amount('BENCH_SEEDED', 1_000_000)
const CLAIMED = 1000

const CHAIN = 100
const SELLERS = Array.from({ length: amount('BENCH_SELLERS', 4) }, (_, i) => `0x${(0x51 + i).toString(16).repeat(20)}`)
const [SKU, BIG_SKU, POOL, BIG_POOL] = ['tea', 'coffee', 'teas', 'coffees']

/**
 * The figures of fulfilment: market-api, the code dispenser and Postgres as processes of their own, one each, on the defaults.
 * Orders and their jobs are written straight into the tables, as settlement leaves them; everything after that is real.
 *
 * BENCH_ORDERS, BENCH_SELLERS, BENCH_SINGLES, BENCH_CALLS, BENCH_FINISHED, BENCH_SEEDED and BENCH_RUNS make it smaller.
 */
export async function benchFulfillment(): Promise<void> {
  const market = await startRunningMarket({
    env: { LOG_LEVEL: 'warn', CATALOG_POLL_SECONDS: '3600', POLL_SECONDS: '3600' },
  })
  const db = postgres(market.connections.market, { max: 2, onnotice: () => {} })
  const codes = postgres(market.connections.codedisp, { max: 1, onnotice: () => {} })
  const orders = placeOrders(db)
  try {
    const smallPool = 2 * CLAIMED + SINGLES * 2 + RUNS * (ORDERS * 1.1 + CALLS * 6) + 1000
    await seed(market, POOL, Math.ceil(smallPool))
    await openRoutes(db, codes, [[SKU, POOL]])

    const claims = await claimCost(market, db, orders, 'none')
    const singles = await deliverSingles(db, orders, 'none')
    for (const count of [Math.ceil(ORDERS / 10), ORDERS]) {
      const seconds: number[] = []
      for (let i = 0; i < RUNS; i += 1) seconds.push(await deliverAtOnce(db, orders, count))
      const rate = Math.round(count / median(seconds, Number))
      report(`${n(count)} paid orders due at once, to delivered`, `${n(rate)}/s`, '> 500/s')
    }
    for (const quantity of [1, 5]) await callAdapter(market, `${n(Math.ceil(smallPool))} in the pool`, SKU, quantity)

    const took = await seed(market, BIG_POOL, SEEDED + RUNS * CALLS * 6)
    report(`seed ${n(SEEDED + RUNS * CALLS * 6)} codes from a file`, `${took.toFixed(1)} s`, '1,000,000 in < 60 s')
    await openRoutes(db, codes, [[BIG_SKU, BIG_POOL]])
    for (const quantity of [1, 5]) await callAdapter(market, `${n(SEEDED)} in the pool`, BIG_SKU, quantity)

    await finishedJobs(market, FINISHED)
    const later = await claimCost(market, db, orders, n(FINISHED))
    const slower = await deliverSingles(db, orders, n(FINISHED))
    report('claim that finds jobs, ms and buffers, growth', growth(claims, later), 'unchanged')
    report('from final to delivered, p50, growth', `${(slower / singles).toFixed(2)} times`)
  } finally {
    await Promise.all([db.end(), codes.end()])
    await market.remove()
  }
}

const n = (value: number) => value.toLocaleString('en')
const at = (sorted: number[], share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!

type Orders = ReturnType<typeof placeOrders>

/** Gives orders numbers that no other has. */
function placeOrders(db: postgres.Sql) {
  let last = 0
  /** So many orders of one line, unpaid, their sellers in turn. Gives the numbers of the first and the last. */
  const place = async (count: number) => {
    const [first, to] = [last + 1, last + count]
    last = to
    await db.begin(async (tx) => {
      // Their history begins with the payment.
      await tx`alter table orders disable trigger user`
      await tx`
        insert into orders (order_id, basket_id, chain_id, buyer_address, order_json, status, created_at, payment_reference,
          price_wei, expected_gateways, payment_due_by, payment_seen_at, paid_at, paid_amount_wei, confirmed_at)
        select 'ord_' || lpad(upper(to_hex(n)), 32, '0'), 'bkt_' || n, ${CHAIN}, '0x' || lpad(to_hex(n % 10000), 40, '0'),
          ${tx.json(SNAPSHOT)}, ${OrderStatus.paymentProcessing}, now(), 'pay_' || lpad(upper(to_hex(n)), 32, '0'), 1,
          array['0x'], now() + interval '1 year', now(), now(), 1, now()
        from generate_series(${first}::integer, ${to}::integer) n`
      await tx`
        insert into order_lines (order_id, line_index, seller_address, sku, quantity, fulfillment_trigger, link_keccak)
        select 'ord_' || lpad(upper(to_hex(n)), 32, '0'), 0, (${SELLERS}::text[])[1 + n % ${SELLERS.length}], ${SKU}, 1,
          'finalized', '0x'
        from generate_series(${first}::integer, ${to}::integer) n`
      await tx`
        insert into order_sellers (order_id, seller_address, chain_id, created_at)
        select order_id, seller_address, ${CHAIN}, now() from order_lines
        where order_id between ${orderId(first)} and ${orderId(to)}`
      await tx`alter table orders enable trigger user`
    })
    return [first, to] as const
  }
  /** What settlement does when they become final, in one transaction: the order, its history, its job, word to the workers. */
  const finalise = (first: number, to: number) =>
    db.begin(async (tx) => {
      await tx`
        update orders set status = ${OrderStatus.paymentComplete}, finalized_at = now()
        where order_id between ${orderId(first)} and ${orderId(to)}`
      await tx`
        insert into fulfillment_jobs (order_id, chain_id, seller_address, offer_type, trigger, line_indexes, idempotency_key,
          status)
        select order_id, ${CHAIN}, seller_address, 'codedispenser', 'finalized', '{0}',
          order_id || ':' || seller_address || ':codedispenser:finalized', 'pending'
        from order_lines where order_id between ${orderId(first)} and ${orderId(to)}`
      await tx`select pg_notify('fulfillment_jobs', '')`
    })
  return { place, finalise }
}

const orderId = (number: number) => `ord_${number.toString(16).toUpperCase().padStart(32, '0')}`

/** With as much of addresses, offers and texts as a real order has. */
const SNAPSHOT = {
  '@type': 'Order',
  paymentReference: 'pay_',
  customer: { '@type': 'Person', '@id': `eip155:${CHAIN}:0x${'00'.repeat(20)}`, givenName: null, familyName: null },
  acceptedOffer: [{ '@type': 'Offer', price: 1, priceCurrency: 'CRC', requiredSlots: [] }],
  orderedItem: [{ '@type': 'OrderItem', orderQuantity: 1, orderedItem: { sku: SKU, name: 'Tea' } }],
  billingAddress: 'x'.repeat(1200),
}

/** Seconds from the commit that made them due until all are done. */
async function deliverAtOnce(db: postgres.Sql, orders: Orders, count: number): Promise<number> {
  const [first, last] = await orders.place(count)
  await db`vacuum analyze orders, order_lines, fulfillment_jobs`
  await orders.finalise(first, last)
  const began = performance.now()
  await until(
    `${count} orders are delivered`,
    async () => {
      // Asked for seldom: it shares the cores with what it measures.
      await new Promise((resolve) => setTimeout(resolve, 50))
      return (await db`select 1 from fulfillment_jobs where next_attempt_at is not null limit 1`).length === 0
    },
    900,
  )
  const seconds = (performance.now() - began) / 1000
  await expectDelivered(db, first, last)
  return seconds
}

async function expectDelivered(db: postgres.Sql, first: number, last: number): Promise<void> {
  const [row] = await db`
    select count(*)::int as n from fulfillment_jobs join order_outbox using (job_id)
    where status = 'done' and fulfillment_jobs.order_id between ${orderId(first)} and ${orderId(last)}`
  if (row!.n !== last - first + 1) throw new Error(`${row!.n} orders of ${last - first + 1} delivered`)
}

/** One after the other, from before the commit that makes an order final until its buyer's stream is told. Gives the median. */
async function deliverSingles(db: postgres.Sql, orders: Orders, finished: string): Promise<number> {
  const [first, last] = await orders.place(SINGLES)
  let told = () => {}
  const listening = await db.listen('order_events', () => told())
  const waits: number[] = []
  for (let number = first; number <= last; number += 1) {
    // Idle in between: nobody is woken by what went before.
    await new Promise((resolve) => setTimeout(resolve, 30))
    const done = new Promise<void>((resolve) => (told = resolve))
    const began = performance.now()
    await orders.finalise(number, number)
    await done
    waits.push(performance.now() - began)
  }
  await listening.unlisten()
  await expectDelivered(db, first, last)
  const sorted = waits.toSorted((a, b) => a - b)
  const [p50, p99] = [at(sorted, 0.5), at(sorted, 0.99)]
  report(
    `from final to delivered, ${SINGLES} singles, ${finished} finished jobs`,
    `p50 ${p50.toFixed(0)} ms  p99 ${p99.toFixed(0)} ms`,
    'p99 < 300 ms',
  )
  return p50
}

type Cost = { ms: number; buffers: number }

/**
 * What a claim costs, as Postgres itself sees the statement that market-api sends: of those that find jobs, with a thousand of
 * them due, and of the idle ones.
 */
async function claimCost(market: RunningMarket, db: postgres.Sql, orders: Orders, finished: string): Promise<Cost> {
  await explaining(market, true)
  const [first, last] = await orders.place(CLAIMED)
  const from = market.log.length
  // What earlier jobs left of themselves is autovacuum's, whenever that comes.
  await db`vacuum fulfillment_jobs`
  await orders.finalise(first, last)
  await until(
    'they are delivered',
    async () => (await db`select 1 from fulfillment_jobs where next_attempt_at is not null limit 1`).length === 0,
    120,
  )
  await db`vacuum fulfillment_jobs`
  for (let i = 0; i < 20; i += 1) {
    await db`select pg_notify('fulfillment_jobs', '')`
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  await expectDelivered(db, first, last)
  await explaining(market, false)
  const claims = readClaims(market.log.slice(from).map(({ line }) => line))
  const cost = (of: typeof claims): Cost => ({
    ms: median(of, (claim) => claim.ms)?.ms ?? NaN,
    buffers: median(of, (claim) => claim.buffers)?.buffers ?? NaN,
  })
  const kinds = {
    'finds jobs': claims.filter(({ rows }) => rows > 0),
    'finds none': claims.filter(({ rows }) => rows === 0),
  }
  for (const [kind, of] of Object.entries(kinds)) {
    const { ms, buffers } = cost(of)
    report(`claim that ${kind}, ${finished} finished jobs`, `${ms.toFixed(2)} ms, ${buffers} buffers of ${of.length}`)
  }
  return cost(kinds['finds jobs'])
}

const growth = (before: Cost, after: Cost) =>
  `${(after.ms / before.ms).toFixed(2)} times, ${(after.buffers / before.buffers).toFixed(2)} times`

/** From now on, or no longer, market-api's statements are logged with what they really cost. */
async function explaining(market: RunningMarket, on: boolean): Promise<void> {
  const { host, port, user, password } = market.postgres
  const superuser = postgres({ host, port, user, password, max: 1, onnotice: () => {} })
  const settings = {
    session_preload_libraries: 'auto_explain',
    'auto_explain.log_min_duration': '0',
    'auto_explain.log_analyze': 'on',
    'auto_explain.log_buffers': 'on',
    'auto_explain.log_format': 'json',
    // Clocks around each row would be most of what is measured.
    'auto_explain.log_timing': 'off',
  }
  await superuser`load 'auto_explain'`
  for (const [name, value] of Object.entries(settings))
    await superuser.unsafe(on ? `alter system set ${name} = '${value}'` : `alter system reset ${name}`)
  await superuser`select pg_reload_conf()`
  await superuser.end()
  // Sessions load it when they begin.
  await market.services['market-api'].restart()
}

type Plan = { 'Actual Rows'?: number; 'Shared Hit Blocks'?: number; 'Shared Read Blocks'?: number }

/** Claims among what Postgres logged: each a first line with the duration, then JSON on lines of their own. */
function readClaims(lines: string[]): { ms: number; buffers: number; rows: number }[] {
  const claims: { ms: number; buffers: number; rows: number }[] = []
  let ms: number | undefined
  let json = ''
  for (const line of lines) {
    const begins = /duration: ([0-9.]+) ms {2}plan:/.exec(line)
    if (begins) [ms, json] = [Number(begins[1]), '']
    else if (ms !== undefined) json += `${line}\n`
    if (ms === undefined || line !== '\t}') continue
    const { 'Query Text': text, Plan: plan } = JSON.parse(json) as { 'Query Text': string; Plan: Plan }
    if (/update "?fulfillment_jobs"?/.test(text) && /skip locked/.test(text) && /locked_by/.test(text)) {
      const buffers = (plan['Shared Hit Blocks'] ?? 0) + (plan['Shared Read Blocks'] ?? 0)
      claims.push({ ms, buffers, rows: /"Node Type": "ModifyTable"[^{}]*?"Actual Rows": ([1-9])/s.test(json) ? 1 : 0 })
    }
    ms = undefined
  }
  return claims
}

/** Jobs that ended long ago, without their orders: no claim looks at those. */
async function finishedJobs(market: RunningMarket, count: number): Promise<void> {
  const { host, port, user, password } = market.postgres
  const database = new URL(market.connections.market).pathname.slice(1)
  const superuser = postgres({ host, port, user, password, database, max: 1, onnotice: () => {} })
  await superuser`set session_replication_role = replica`
  await superuser`
    insert into fulfillment_jobs (order_id, chain_id, seller_address, offer_type, trigger, line_indexes, idempotency_key, status,
      attempts, next_attempt_at, result, created_at, completed_at)
    select 'old_' || n, ${CHAIN}, (${SELLERS}::text[])[1 + n % ${SELLERS.length}], 'codedispenser', 'finalized', '{0}', 'old_' || n,
      'done', 1, null, '{"status": "ok", "codes": ["OLD"]}', now() - interval '30 days', now() - interval '30 days'
    from generate_series(1, ${count}::integer) n`
  await superuser`vacuum analyze fulfillment_jobs`
  await superuser.end()
}

/** Codes a second when so many callers ask the adapter for one order each, over and over. */
async function callAdapter(market: RunningMarket, pool: string, sku: string, quantity: number): Promise<void> {
  const rates: number[] = []
  for (let i = 0; i < RUNS; i += 1) {
    let left = CALLS
    const began = performance.now()
    await Promise.all(
      Array.from({ length: CALLERS }, async (_, caller) => {
        const { ask, close } = await callerOf(market, SELLERS[caller % SELLERS.length]!)
        while (left > 0) {
          left -= 1
          await ask(sku, quantity)
        }
        close()
      }),
    )
    rates.push((CALLS * quantity) / ((performance.now() - began) / 1000))
  }
  const rate = Math.round(median(rates, Number))
  report(
    `codes dispensed, ${CALLERS} callers, ${quantity} a call, ${pool}`,
    `${n(rate)} codes/s, ${n(Math.round(rate / quantity))} calls/s`,
    quantity === 1 ? '> 2,000 codes/s' : '',
  )
}

/** HTTP on one connection that is kept: Node's own client would take more of the two cores than the adapter. */
async function callerOf(market: RunningMarket, seller: string) {
  const { port, host } = new URL(market.codeDispenserUrl)
  const socket = connect(Number(port), '127.0.0.1').setNoDelay(true)
  await once(socket, 'connect')
  return {
    async ask(sku: string, quantity: number): Promise<void> {
      const key = randomBytes(12).toString('hex')
      const body = JSON.stringify({
        orderId: `ord_${key}`,
        paymentReference: `pay_${key}`,
        buyer: seller,
        items: [{ sku, quantity }],
        lineIndexes: [0],
        trigger: 'finalized',
        idempotencyKey: key,
      })
      socket.write(
        `POST /fulfill/${CHAIN}/${seller} HTTP/1.1\r\nHost: ${host}\r\nContent-Type: application/json\r\n` +
          `${SERVICE_KEY_HEADER}: ${market.secrets.serviceKey}\r\n${IDEMPOTENCY_KEY_HEADER}: ${key}\r\n` +
          `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
      )
      const answer = await readAnswer(socket)
      const { status, codes } = JSON.parse(answer.body) as { status: string; codes: string[] }
      if (answer.status !== 200 || status !== 'ok' || codes.length !== quantity) throw new Error(answer.body)
    },
    close: () => void socket.destroy(),
  }
}

/** One answer with a length, nothing behind it. */
function readAnswer(socket: Socket): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    let text = ''
    const onData = (part: Buffer) => {
      // Codes are ASCII here, so bytes are characters.
      text += part.toString('latin1')
      const end = text.indexOf('\r\n\r\n')
      const length = /content-length: ([0-9]+)/i.exec(text)?.[1]
      if (end < 0 || length === undefined || text.length < end + 4 + Number(length)) return
      socket.off('data', onData)
      socket.off('close', onClose)
      resolve({ status: Number(text.slice(9, 12)), body: text.slice(end + 4) })
    }
    const onClose = () => reject(new Error(`the adapter hung up: ${text}`))
    socket.on('data', onData)
    socket.once('close', onClose)
  })
}

/** Seconds that `npm run ops -- seed-pool … --file` takes for so many codes, its own start included. */
async function seed(market: RunningMarket, pool: string, count: number): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'market-bench-'))
  try {
    const file = join(folder, 'codes.txt')
    await writeFile(
      file,
      Array.from({ length: count }, (_, i) => `${pool}-${i}-${randomBytes(6).toString('hex')}\n`).join(''),
    )
    const began = performance.now()
    await run(process.execPath, [OPS, '--json', 'seed-pool', pool, file, '--file'], {
      env: {
        PATH: process.env.PATH,
        OPS_MARKET_URL: market.connections.market,
        OPS_CODEDISP_URL: market.connections.codedisp,
        ADAPTER_SECRETS_KEY: market.secrets.adapterSecretsKey,
      },
      maxBuffer: 2 ** 26,
    })
    return (performance.now() - began) / 1000
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Every seller sells the sku from the pool. */
async function openRoutes(db: postgres.Sql, codes: postgres.Sql, skus: [string, string][]): Promise<void> {
  for (const seller of SELLERS) {
    for (const [sku, pool] of skus) {
      await codes`
        insert into code_mappings (chain_id, seller_address, sku, pool_id) values (${CHAIN}, ${seller}, ${sku}, ${pool})`
      await db`
        insert into market_service_routes (chain_id, seller_address, sku, offer_type)
        values (${CHAIN}, ${seller}, ${sku}, 'codedispenser')`
    }
  }
}
