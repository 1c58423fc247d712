import { freePort } from '@market/devstack/ports'
import { type RunningMarket, startRunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { median, report } from './load.ts'
import { startStandIn } from './standIn.ts'

const OPEN_ORDERS = 1_000_000
const MISSED = Number(process.env.BENCH_PAYMENTS ?? 100_000)
const FRESH = Math.min(30_000, MISSED)
const SINGLE = 15
const POLL_SECONDS = 1
const IDLE_SECONDS = 20

const GATEWAY = `0x${'6a'.repeat(20)}`
const AVATAR = `0x${'5e'.repeat(20)}`
const FACTORY = `0x${'fa'.repeat(20)}`
const SELLER = `0x${'51'.repeat(20)}`
const PRICE_WEI = 10n ** 18n

/**
 * The figures of payments: one process of market-api among a million open orders, its chain a stand-in that answers at once. An
 * order is settled with its history, its events and its job.
 */
export async function benchPayments({ sizes = [OPEN_ORDERS] }: { sizes?: number[] | undefined }): Promise<void> {
  const orders = Math.max(sizes.at(-1)!, MISSED + FRESH + SINGLE)
  const chainUrl = `http://127.0.0.1:${await freePort()}`
  const args = [new URL(chainUrl).port, GATEWAY, AVATAR, FACTORY, PRICE_WEI.toString()]
  const chain = await startStandIn('indexerStandIn.js', args)
  const market = await startRunningMarket({
    serviceEnv: {
      'market-api': {
        RPC: chainUrl,
        CIRCLES_RPC: chainUrl,
        PAYMENT_GATEWAY_FACTORY: FACTORY,
        POLL_SECONDS: '3600',
        CATALOG_POLL_SECONDS: '3600',
        FULFILLMENT_WORKERS: '0',
      },
    },
  })
  const db = postgres(market.connections.market, { max: 2, onnotice: () => {} })
  const tell = async (path: string, body: object) =>
    (await fetch(chainUrl + path, { method: 'POST', body: JSON.stringify(body) })).json() as Promise<{ head: number }>
  try {
    await fill(db, orders)
    console.log(`\n${orders.toLocaleString('en')} open orders`)
    const polling = { POLL_SECONDS: String(POLL_SECONDS) }

    await tell('/pay', { from: 1, to: MISSED, perBlock: 20 })
    await tell('/mine', { blocks: 1000 })
    const catchUp = await timed(market, db, polling, `finalized_at is not null`, MISSED)
    report(`catch up with ${MISSED.toLocaleString('en')} missed payments, to complete`, rate(MISSED, catchUp))

    let done = MISSED
    await tell('/pay', { from: done + 1, to: done + FRESH, perBlock: 20 })
    report(
      `see and settle ${FRESH.toLocaleString('en')} new payments, to paid`,
      rate(FRESH, await settled(db, 'paid_at is not null', done + FRESH)),
      '> 3,000/s',
    )
    await tell('/mine', { blocks: 12 })
    report(
      `${FRESH.toLocaleString('en')} payments become final, with their jobs`,
      rate(FRESH, await settled(db, 'finalized_at is not null', done + FRESH)),
    )
    done += FRESH

    await tell('/mine', { blocks: 200 })
    const waits: number[] = []
    for (let n = done + 1; n <= done + SINGLE; n += 1) {
      await tell('/pay', { from: n, to: n, perBlock: 1 })
      waits.push((await settled(db, 'paid_at is not null', n)) * 1000)
    }
    report(
      `from on chain to paid, polled every ${POLL_SECONDS} s, median and longest of ${SINGLE}`,
      `${Math.round(median(waits, Number))} ms, ${Math.round(Math.max(...waits))} ms`,
      `${POLL_SECONDS * 1000 + 200} ms`,
    )

    await tell('/mine', { blocks: 200 })
    report('an idle poll, time in the database', `${(await idlePollMs(market, tell)).toFixed(1)} ms`, '< 5 ms')
  } finally {
    await db.end()
    await market.remove()
    chain.kill()
  }
}

const rate = (count: number, seconds: number) =>
  `${seconds.toFixed(1)} s, ${Math.round(count / seconds).toLocaleString('en')}/s`

async function timed(market: RunningMarket, db: postgres.Sql, env: Record<string, string>, is: string, count: number) {
  await market.services['market-api'].restart(env)
  return settled(db, is, count)
}

/** Seconds until so many orders are. */
async function settled(db: postgres.Sql, is: string, count: number): Promise<number> {
  const began = performance.now()
  const last = `ord_${count.toString(16).toUpperCase().padStart(32, '0')}`
  await until(
    `${count} orders where ${is}`,
    async () => (await db.unsafe(`select 1 from orders where order_id = '${last}' and ${is}`)).length > 0,
    600,
  )
  const seconds = (performance.now() - began) / 1000
  const [row] = await db.unsafe(`select count(*)::int as n from orders where ${is}`)
  if (row!.n !== count) throw new Error(`${row!.n} orders instead of ${count} where ${is}`)
  return seconds
}

/** What statements take, by Postgres' own log, with polling and a chain that goes on, less what they take without. */
async function idlePollMs(market: RunningMarket, tell: (path: string, body: object) => Promise<unknown>) {
  const { host, port, user, password } = market.postgres
  const superuser = postgres({ host, port, user, password, max: 1 })
  await superuser`alter system set log_min_duration_statement = 0`
  await superuser`select pg_reload_conf()`
  await superuser.end()
  const growing = setInterval(() => void tell('/mine', { blocks: 1 }), 1000)
  try {
    const perSecond: number[] = []
    for (const seconds of [POLL_SECONDS, 3600]) {
      await market.services['market-api'].restart({ POLL_SECONDS: String(seconds) })
      await new Promise((resolve) => setTimeout(resolve, 5000))
      const from = market.log.length
      await new Promise((resolve) => setTimeout(resolve, IDLE_SECONDS * 1000))
      const took = market.log.slice(from).map(({ line }) => Number(/duration: ([0-9.]+) ms/.exec(line)?.[1] ?? 0))
      perSecond.push(took.reduce((total, ms) => total + ms, 0) / IDLE_SECONDS)
    }
    return (perSecond[0]! - perSecond[1]!) * POLL_SECONDS
  } finally {
    clearInterval(growing)
  }
}

/** Unpaid orders of one line as a checkout leaves them, numbered from 1, with a route for what they order. */
async function fill(db: postgres.Sql, count: number): Promise<void> {
  const document = {
    '@type': 'Order',
    acceptedOffer: [{ '@type': 'Offer', price: 1, priceCurrency: 'CRC', requiredSlots: [] }],
    orderedItem: [{ '@type': 'OrderItem', orderQuantity: 1, orderedItem: { sku: 'tea', name: 'Tea' } }],
    // What a real order has of addresses, offers and texts.
    billingAddress: 'x'.repeat(1200),
  }
  await db.begin(async (tx) => {
    await tx`
      insert into market_service_routes (chain_id, seller_address, sku, offer_type, is_one_off)
      values (100, ${SELLER}, 'tea', 'codedispenser', false)`
    await tx`alter table orders disable trigger user`
    await tx`
      insert into orders (order_id, basket_id, chain_id, buyer_address, order_json, status, created_at, payment_reference,
        price_wei, expected_gateways, payment_due_by)
      select 'ord_' || lpad(upper(to_hex(n)), 32, '0'), 'bkt_' || n, 100, '0x' || lpad(to_hex(n % 10000), 40, '0'),
        ${tx.json(document)}, 'https://schema.org/OrderPaymentDue', now() - make_interval(secs => ${count} - n),
        'pay_' || lpad(upper(to_hex(n)), 32, '0'), ${PRICE_WEI.toString()}, array[${GATEWAY}], now() + interval '1 year'
      from generate_series(1, ${count}::integer) n`
    await tx`
      insert into order_lines (order_id, line_index, seller_address, sku, quantity, fulfillment_trigger, link_keccak)
      select order_id, 0, ${SELLER}, 'tea', 1, 'finalized', '0x' from orders`
    await tx`
      insert into order_sellers (order_id, seller_address, chain_id, created_at)
      select order_id, ${SELLER}, 100, created_at from orders`
    await tx`
      insert into orders_status_history (order_id, old_status, new_status)
      select order_id, null, status from orders`
    await tx`alter table orders enable trigger user`
  })
  for (const table of ['orders', 'order_lines', 'order_sellers', 'orders_status_history'])
    await db.unsafe(`vacuum analyze ${table}`)
}
