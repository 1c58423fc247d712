import type { IncomingMessage, ServerResponse } from 'node:http'
import { json } from 'node:stream/consumers'
import { startLocalServer } from '@market/testkit/localServer'
import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import type { MarketContext } from '../src/context.ts'
import { startJobs } from '../src/jobs.ts'
import { createAdapterClient } from '../src/serviceRoutes/adapterClient.ts'
import { serviceKeys } from '../src/serviceRoutes/adapters.ts'
import { payment, startScriptedChain, transaction, trust } from './scriptedChain.ts'
import { recordingLog } from './recordingLog.ts'
import { BUYER, type Line, startShop } from './shop.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

export const CONFIRMATIONS = 3
export const FINALITY = 12

/** A request to deliver, as the adapter got it. */
export type Asked = {
  key: string
  serviceKey: string | undefined
  path: string
  body: {
    orderId: string
    items: { sku: string; quantity: number }[]
    lineIndexes: number[]
    trigger: string
    idempotencyKey: string
    [member: string]: unknown
  }
  at: number
}
/** Takes over the answer to a request; undefined: the adapter delivers as it does when nobody says otherwise. */
export type Fault = (response: ServerResponse, asked: Asked, attempt: number) => unknown

export type GoodsAdapter = Awaited<ReturnType<typeof startGoodsAdapter>>

/**
 * An adapter that gives each idempotency key its own codes, once, and the same again when it is asked again; and that a test
 * makes answer anything, late, never, without end or with a redirect, by the first sku of a request.
 */
export async function startGoodsAdapter() {
  const delivered = new Map<string, object>()
  const attempts = new Map<string, number>()
  const inFlight = new Map<string, number>()
  const adapter = {
    origin: '',
    asked: [] as Asked[],
    faults: new Map<string, Fault>(),
    stock: new Map<string, number>(),
    /** Everything it gave out, by key. */
    delivered,
    /** Of one key, at the same time. */
    mostAtOnce: 0,
    of: (orderId: string) => adapter.asked.filter(({ body }) => body.orderId === orderId),
    /** What it delivers when nobody says otherwise. */
    goodsFor({ key, body }: Asked): object {
      const known = delivered.get(key)
      if (known) return { ...known, message: 'Already processed' }
      const codes = body.items.flatMap(({ sku, quantity }) =>
        Array.from({ length: quantity }, (_, i) => `${sku}-${i + 1}-${delivered.size}`),
      )
      const goods = { '@type': 'circles:CodeDispenserResult', status: 'ok', orderId: body.orderId, codes }
      delivered.set(key, goods)
      return goods
    },
    stop: () => server.stop(),
  }

  const deliver = async (request: IncomingMessage, response: ServerResponse) => {
    const body = (await json(request)) as Asked['body']
    const key = String(request.headers['idempotency-key'])
    const serviceKey = request.headers['x-circles-service-key']?.toString()
    const asked = { key, serviceKey, path: request.url!, body, at: performance.now() }
    adapter.asked.push(asked)
    const attempt = (attempts.get(key) ?? 0) + 1
    attempts.set(key, attempt)
    const now = (inFlight.get(key) ?? 0) + 1
    inFlight.set(key, now)
    adapter.mostAtOnce = Math.max(adapter.mostAtOnce, now)
    response.on('close', () => inFlight.set(key, inFlight.get(key)! - 1))
    const fault = adapter.faults.get(body.items[0]!.sku)
    if (fault && (await fault(response, asked, attempt)) !== undefined) return
    answer(response, 200, adapter.goodsFor(asked))
  }
  const server = await startLocalServer((request, response) => {
    if (request.method === 'POST') return void deliver(request, response).catch(() => request.socket.destroy())
    const sku = decodeURIComponent(request.url!.split('/').at(-1)!)
    answer(response, 200, { '@type': 'QuantitativeValue', value: adapter.stock.get(sku) ?? 1000, unitCode: 'C62' })
  })
  adapter.origin = server.url
  return adapter
}

/** For a `Fault`: this answer, and no other. */
export function answer(response: ServerResponse, status: number, body: unknown): true {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(text)
  return true
}

export type Ordered = { orderId: string; reference: string }
export type FulfillmentWorld = Awaited<ReturnType<typeof startFulfillment>>

/**
 * A market with all its loops, whose catalog, baskets and orders are reached over HTTP, that reads its payments from a chain the
 * test mines, and whose goods come from two adapters (offer types `odoo` and `codedispenser`) in the test's hands.
 */
export async function startFulfillment(
  env: Record<string, string> = {},
  { fulfillmentTimeoutMs = 1500 }: { fulfillmentTimeoutMs?: number } = {},
) {
  const [odoo, codes] = await Promise.all([startGoodsAdapter(), startGoodsAdapter()])
  const chain = await startScriptedChain()
  chain.mine(transaction(trust()))
  const settings = {
    RPC: chain.node,
    CIRCLES_RPC: chain.indexer,
    POLL_SECONDS: '1',
    CATALOG_POLL_SECONDS: '3600',
    MARKET_CODE_DISPENSER_ORIGIN: codes.origin,
    MARKET_CODE_DISPENSER_TOKEN: 'key of the dispenser',
    MARKET_ODOO_ADAPTER_ORIGIN: odoo.origin,
    MARKET_ODOO_ADAPTER_TOKEN: 'key of odoo',
    CONFIRM_CONFIRMATIONS: String(CONFIRMATIONS),
    FINALIZE_CONFIRMATIONS: String(FINALITY),
    ...env,
  }
  const shop = await startShop(settings)
  const { ctx } = shop
  const { db, config } = ctx
  const logged: { level: string; fields: Record<string, unknown>; message: string }[] = []
  ctx.log = recordingLog(logged)
  ctx.adapters = createAdapterClient({
    keys: serviceKeys(config),
    inventoryTimeoutMs: 2000,
    availabilityTimeoutMs: 2000,
    fulfillmentTimeoutMs,
    maxResponseBytes: config.OUTBOUND_MAX_RESPONSE_BYTES,
    maxRedirects: config.OUTBOUND_MAX_REDIRECTS,
  })
  await db
    .insertInto('offer_types')
    .values({
      offer_type: 'odoo',
      inventory_url_template: '{MARKET_ODOO_ADAPTER_ORIGIN}/inventory/{chain_id}/{seller}/{sku}',
      availability_url_template: null,
      fulfillment_url_template: '{MARKET_ODOO_ADAPTER_ORIGIN}/fulfill/{chain_id}/{seller}',
    })
    .execute()

  const replicas: MarketApi[] = []
  const loops = new Set<{ stop(): Promise<void> }>()
  const run = async (of: MarketContext) => {
    const started = await startJobs(of)
    const running = {
      async stop() {
        if (loops.delete(running)) await started.stop()
      },
    }
    loops.add(running)
    return running
  }
  const call = async (path: string, address: string) => {
    const response = await fetch(`${shop.url}/api/cart/v1/orders/${path}`, { headers: await shop.tokenOf(address) })
    // Every test reads what it asserts.
    return { status: response.status, body: (await response.json()) as any }
  }

  const world = {
    ...shop,
    chain,
    odoo,
    codes,
    logged,
    /** What a process of this market is started with, but for where it listens and its keys. */
    settings,
    databaseUrl: config.POSTGRES_CONNECTION.reveal(),
    /** The loops of this market; without them it answers and delivers nothing. */
    run: () => run(ctx),
    /** Another process of this market, with its loops or without. */
    async replica({ delivers = true, env: more = {} as Record<string, string> } = {}) {
      const started = await startMarketApi({
        databaseUrl: world.databaseUrl,
        env: { ...settings, ...more },
        overrides: {
          log: ctx.log,
          adapters: ctx.adapters,
          ipfs: ctx.ipfs,
          nameRegistry: ctx.nameRegistry,
          signatures: ctx.signatures,
        },
      })
      replicas.push(started)
      if (delivers) await run(started.ctx)
      return started
    },

    /** An order through basket and checkout, unpaid. */
    async checkOut(lines: Line[], more: object = {}): Promise<Ordered> {
      const path = await shop.basketOf(lines)
      const patched = await shop.cart('PATCH', path, more)
      if (patched.status !== 200) throw new Error(`basket not patched: ${JSON.stringify(patched.body)}`)
      const { status, body } = await shop.cart('POST', `${path}/checkout`)
      if (status !== 201) throw new Error(`not checked out: ${status} ${JSON.stringify(body)}`)
      return { orderId: body.orderId, reference: body.paymentReference }
    },
    /** Mines the transfer that pays it, and as many blocks on top. */
    async pay({ orderId, reference }: Ordered, confirmations = 0) {
      const { price_wei } = await db
        .selectFrom('orders')
        .select('price_wei')
        .where('order_id', '=', orderId)
        .executeTakeFirstOrThrow()
      chain.mine(transaction(payment(reference, BigInt(price_wei))))
      chain.mineTo(chain.head() + confirmations)
    },
    /** Ordered, and paid for good. */
    async buy(lines: Line[], more: object = {}): Promise<Ordered> {
      const ordered = await world.checkOut(lines, more)
      await world.pay(ordered, FINALITY)
      return ordered
    },

    /** As its buyer reads it. */
    order: async ({ orderId }: Ordered) => (await call(orderId, BUYER)).body,
    fulfillments: async ({ orderId }: Ordered) => (await call(`${orderId}/fulfillments`, BUYER)).body,
    read: call,
    jobs: ({ orderId }: Ordered) =>
      db
        .selectFrom('fulfillment_jobs')
        .selectAll()
        .where('order_id', '=', orderId)
        .orderBy('offer_type')
        .orderBy('seller_address')
        .orderBy('trigger')
        .execute(),
    /** What its attempts came to, in order. */
    async attempts({ orderId }: Ordered) {
      const { rows } = await sql<{ kind: string; detail: Record<string, unknown> }>`
        select e.kind, e.detail from fulfillment_job_events e join fulfillment_jobs j using (job_id)
        where j.order_id = ${orderId} and e.kind = 'attempted' order by e.at`.execute(db)
      return rows.map(({ detail }) => detail)
    },
    /** The only job of an order once it has a status of these. */
    job: (ordered: Ordered, ...statuses: string[]) =>
      until(`the job of ${ordered.orderId} is ${statuses.join(' or ')}`, async () => {
        const [job] = await world.jobs(ordered)
        return job && statuses.includes(job.status) && job
      }),
    /** Brings what waits for its next attempt forward. */
    async dueNow({ orderId }: Ordered) {
      await sql`
        update fulfillment_jobs set next_attempt_at = now()
        where order_id = ${orderId} and next_attempt_at is not null`.execute(db)
      await sql`select pg_notify('fulfillment_jobs', '')`.execute(db)
    },
    async metric(name: string, labels: Record<string, string> = {}) {
      const text = await (await fetch(`${shop.url}/metrics`)).text()
      const line = text
        .split('\n')
        .find(
          (one) =>
            (one.startsWith(`${name}{`) || one.startsWith(`${name} `)) &&
            Object.entries(labels).every(([label, value]) => one.includes(`${label}="${value}"`)),
        )
      return line === undefined ? undefined : Number(line.split(' ').at(-1))
    },
    async close() {
      for (const running of loops) await running.stop()
      for (const started of replicas.toReversed()) await started.close()
      await shop.close()
      await chain.stop()
      await Promise.all([odoo.stop(), codes.stop()])
    },
  }
  return world
}
