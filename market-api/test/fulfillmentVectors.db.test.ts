import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spawnTethered } from '@market/devstack/tether'
import { freePort } from '@market/devstack/ports'
import { until } from '@market/testkit/until'
import { readConfig } from '@market/kit/config'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { Config } from '../src/config.ts'
import { upsertRoute } from '../src/ops.ts'
import { findRoute } from '../src/serviceRoutes/resolveRoute.ts'
import { generateSigningKey } from '../src/signIn/tokens.ts'
import {
  answer,
  CONFIRMATIONS,
  type Fault,
  FINALITY,
  type FulfillmentWorld,
  type Ordered,
  startFulfillment,
} from './fulfillmentWorld.ts'
import { OPERATOR } from './catalogWorld.ts'
import { BUYER, type Line } from './shop.ts'

const main = new URL('../dist/main.js', import.meta.url).pathname

let world: FulfillmentWorld
beforeAll(async () => {
  world = await startFulfillment()
  await world.run()
})
afterAll(() => world?.close())
const now = () => new Date()
afterEach(() => {
  world.ctx.now = now
})

let sellers = 2000
type Seller = Line['seller']
const newSeller = (): Seller => world.seller((sellers += 1))
/** Skus of this world alone: the adapters know skus and not sellers. */
let skus = 0
const newSku = (name: string) => `${name}-${(skus += 1)}`
/** A seller with one product behind an adapter. */
async function selling(name: string, { offerType = 'codedispenser', offer = {} } = {}) {
  const seller = newSeller()
  const sku = newSku(name)
  await world.sell(seller, [await world.made(seller, sku, 5, 'CRC', offer)], offerType)
  return { seller, sku }
}
const said =
  (status: number, body: unknown): Fault =>
  (response) =>
    answer(response, status, body)
const codesOf = async (ordered: Ordered) =>
  ((await world.order(ordered)).outbox as { payload: { codes?: string[] } }[]).flatMap(
    ({ payload }) => payload.codes ?? [],
  )
const secondsUntil = (at: Date | null) => (at!.getTime() - Date.now()) / 1000

describe('a route', () => {
  const SELLER = `0x${'ab'.repeat(20)}`
  const route = async (
    sku: string,
    templates: { inventory?: string; fulfillment?: string } | null,
    isOneOff = false,
  ) => {
    const { db } = world.ctx
    const offerType = `t-${sku}`
    await db
      .insertInto('offer_types')
      .values({
        offer_type: offerType,
        inventory_url_template: templates?.inventory ?? null,
        availability_url_template: templates?.inventory ?? null,
        fulfillment_url_template: templates?.fulfillment ?? null,
      })
      .execute()
    await db
      .insertInto('market_service_routes')
      .values({ chain_id: 100, seller_address: SELLER, sku, offer_type: offerType, is_one_off: isOneOff })
      .execute()
  }

  it('fulfilment:F-1 is called where its template says, names in any case, port unset, seller and sku as rows have them', async () => {
    await route('a/b', { inventory: 'http://h:{MARKET_ODOO_ADAPTER_PORT}/x/{CHAIN_ID}/{Seller}/{sku}' })
    const found = await findRoute(world.ctx, { chainId: 100, seller: SELLER, sku: ' A/b ' })
    expect(found?.inventoryUrl).toBe(`http://h:5678/x/100/${SELLER}/a%2Fb`)
  })

  it('fulfilment:F-2 whose template names what nobody knows leads nowhere, and the log says which', async () => {
    await route('mistyped', { inventory: 'http://h/{foo}', fulfillment: 'http://h/{foo}' })
    const found = await findRoute(world.ctx, { chainId: 100, seller: SELLER, sku: 'mistyped' })
    expect(found).toMatchObject({ inventoryUrl: undefined, fulfillmentUrl: undefined })
    expect(world.logged).toContainEqual(
      expect.objectContaining({ level: 'warn', message: 'Unknown template variable: foo' }),
    )
  })

  it('fulfilment:F-3 of a one-off has no address of any kind, whatever its offer type has', async () => {
    await route('print', { inventory: 'http://h/{sku}', fulfillment: 'http://h/' }, true)
    expect(await findRoute(world.ctx, { chainId: 100, seller: SELLER, sku: 'print' })).toMatchObject({
      isOneOff: true,
      inventoryUrl: undefined,
      availabilityUrl: undefined,
      fulfillmentUrl: undefined,
    })
  })

  it('fulfilment:F-4 of an offer type that is off is not configured: feeds and baskets say so', async () => {
    const offerType = newSku('paused')
    await world.ctx.db
      .insertInto('offer_types')
      .values({
        offer_type: offerType,
        inventory_url_template: `${world.odoo.origin}/inventory/{chain_id}/{seller}/{sku}`,
        availability_url_template: null,
        fulfillment_url_template: `${world.odoo.origin}/fulfill/{chain_id}/{seller}`,
        enabled: false,
      })
      .execute()
    const { seller, sku } = await selling('paused', { offerType })
    for (const kind of ['availability', 'inventory']) {
      const response = await fetch(`${world.url}/inventory/${kind}/100/${seller.address}/${sku}`)
      expect([response.status, await response.json()]).toMatchObject([404, { detail: 'Product not configured' }])
    }
    await expect(world.basketOf([{ seller, sku }])).rejects.toThrow(/422.*Product not configured.*not_configured/)
    await world.ctx.db.updateTable('offer_types').set({ enabled: true }).where('offer_type', '=', offerType).execute()
    await world.basketOf([{ seller, sku }])
  })
})

describe('what is paid', () => {
  it('fulfilment:F-15 is asked of each seller and adapter by itself, with its own lines and what they need', async () => {
    const [one, two] = [newSeller(), newSeller()]
    const [a, b, c] = [newSku('a'), newSku('b'), newSku('c')]
    const needs = { requiredSlots: ['contactPoint.email'] }
    const links = [await world.made(one, a, 5, 'CRC', needs), await world.made(one, b, 5)]
    await world.sell(one, [links[0]!], 'odoo')
    await world.sell(one, [links[1]!], 'codedispenser')
    await world.sell(one, links, 'odoo')
    await world.sell(two, [await world.made(two, c, 7)], 'odoo')
    const ordered = await world.buy(
      [
        { seller: one, sku: a, quantity: 2 },
        { seller: one, sku: b },
        { seller: two, sku: c, quantity: 3 },
      ],
      { contactPoint: { '@type': 'ContactPoint', email: 'ada@example.com' } },
    )
    await until('all is delivered', async () => {
      const jobs = await world.jobs(ordered)
      return jobs.length === 3 && jobs.every(({ status }) => status === 'done')
    })
    const { odoo, codes } = world
    const asked = [...odoo.of(ordered.orderId), ...codes.of(ordered.orderId)].toSorted(
      (left, right) => left.body.lineIndexes[0]! - right.body.lineIndexes[0]!,
    )
    const common = {
      orderId: ordered.orderId,
      paymentReference: ordered.reference,
      buyer: BUYER,
      customer: null,
      shippingAddress: null,
      billingAddress: null,
      contactPoint: null,
      trigger: 'finalized',
    }
    const key = (seller: Seller, offerType: string) => `${ordered.orderId}:100:${seller.address}:${offerType}:finalized`
    expect(asked.map(({ path, serviceKey, body, key: sent }) => ({ path, serviceKey, body, sent }))).toEqual([
      {
        path: `/fulfill/100/${one.address}`,
        serviceKey: 'key of odoo',
        sent: key(one, 'odoo'),
        body: {
          ...common,
          contactPoint: expect.objectContaining({ email: 'ada@example.com' }),
          items: [{ sku: a, quantity: 2 }],
          lineIndexes: [0],
          idempotencyKey: key(one, 'odoo'),
        },
      },
      {
        path: `/fulfill/100/${one.address}`,
        serviceKey: 'key of the dispenser',
        sent: key(one, 'codedispenser'),
        body: {
          ...common,
          items: [{ sku: b, quantity: 1 }],
          lineIndexes: [1],
          idempotencyKey: key(one, 'codedispenser'),
        },
      },
      {
        path: `/fulfill/100/${two.address}`,
        serviceKey: 'key of odoo',
        sent: key(two, 'odoo'),
        body: { ...common, items: [{ sku: c, quantity: 3 }], lineIndexes: [2], idempotencyKey: key(two, 'odoo') },
      },
    ])
    expect(await codesOf(ordered)).toHaveLength(6)
  })

  it('fulfilment:F-16 is delivered line by line as each may be: one when confirmed, the other when final', async () => {
    const seller = newSeller()
    const [early, late] = [newSku('early'), newSku('late')]
    await world.sell(
      seller,
      [
        await world.made(seller, early, 5, 'CRC', { fulfillmentTrigger: 'confirmed' }),
        await world.made(seller, late, 5, 'CRC', { fulfillmentTrigger: 'finalized' }),
      ],
      'codedispenser',
    )
    const ordered = await world.checkOut([
      { seller, sku: early },
      { seller, sku: late },
    ])
    await world.pay(ordered, CONFIRMATIONS)
    await world.job(ordered, 'done')
    const asked = () => world.codes.of(ordered.orderId).map(({ body }) => [body.trigger, body.items, body.lineIndexes])
    const first = ['confirmed', [{ sku: early, quantity: 1 }], [0]]
    expect(asked()).toEqual([first])
    expect((await world.fulfillments(ordered)).lines).toMatchObject([{ state: 'succeeded' }, { state: 'pending' }])

    world.chain.mineTo(world.chain.head() + FINALITY)
    await until('the other is delivered', async () => (await codesOf(ordered)).length === 2)
    expect(asked()).toEqual([first, ['finalized', [{ sku: late, quantity: 1 }], [1]]])
  })

  it('fulfilment:F-17 fulfilment:F-35 waits for finality unless its offer says otherwise, whatever is tried again before', async () => {
    const seller = newSeller()
    const [plain, early] = [newSku('plain'), newSku('early')]
    await world.sell(
      seller,
      [
        await world.made(seller, plain, 5),
        await world.made(seller, early, 5, 'CRC', { fulfillmentTrigger: 'confirmed' }),
      ],
      'codedispenser',
    )
    world.codes.faults.set(early, (response, _, attempt) => (attempt < 3 && answer(response, 500, {})) || undefined)
    const ordered = await world.checkOut([
      { seller, sku: plain },
      { seller, sku: early },
    ])
    await world.pay(ordered, CONFIRMATIONS)
    for (const attempts of [1, 2]) {
      await until('a pass is over', async () => {
        const [job] = await world.jobs(ordered)
        return job?.status === 'pending' && job.attempts === attempts
      })
      await world.dueNow(ordered)
    }
    await world.job(ordered, 'done')
    expect(await world.jobs(ordered)).toMatchObject([{ trigger: 'confirmed', line_indexes: [1] }])
    expect(world.codes.of(ordered.orderId).flatMap(({ body }) => body.items)).toEqual(
      Array.from({ length: 3 }, () => ({ sku: early, quantity: 1 })),
    )

    world.chain.mineTo(world.chain.head() + FINALITY)
    await until('it is delivered when the payment is final', async () => (await codesOf(ordered)).length === 2)
    expect(world.codes.of(ordered.orderId).at(-1)!.body).toMatchObject({
      items: [{ sku: plain }],
      trigger: 'finalized',
    })
  })

  it('fulfilment:F-40 is shown to each seller without the others and without the goods', async () => {
    const [one, two] = [await selling('mine'), await selling('theirs', { offerType: 'odoo' })]
    const ordered = await world.buy([one, two])
    await until('all is delivered', async () => (await codesOf(ordered)).length === 2)
    for (const [{ seller, sku }, other] of [
      [one, two],
      [two, one],
    ] as const) {
      const { status, body } = await world.read(`${ordered.orderId}/as-seller`, seller.address)
      expect(status).toBe(200)
      expect(body.orderedItem.map((item: any) => item.orderedItem.sku)).toEqual([sku])
      expect(body.outbox ?? []).toEqual([])
      const text = JSON.stringify(body)
      for (const foreign of [other.sku, other.seller.address, ...(await codesOf(ordered))]) {
        expect(text).not.toContain(foreign)
      }
    }
    expect((await world.read(ordered.orderId, one.seller.address)).status).toBe(404)
  })
})

describe('an adapter', () => {
  it('fulfilment:F-18 that answers 200 with an error has delivered nothing: it is asked again', async () => {
    const { seller, sku } = await selling('erring')
    world.codes.faults.set(sku, said(200, { status: 'error', message: 'disk full', codes: ['NOT-YOURS'] }))
    const ordered = await world.buy([{ seller, sku }])
    const job = await world
      .job(ordered, 'pending', 'needs_attention')
      .then(() =>
        until('it was tried', async () =>
          (await world.jobs(ordered)).find(({ attempts, status }) => attempts > 0 && status === 'pending'),
        ),
      )
    expect(job).toMatchObject({ attempts: 1, result: null, completed_at: null })
    expect(secondsUntil(job.next_attempt_at)).toBeGreaterThan(2)
    expect(await world.order(ordered)).toMatchObject({ outbox: [] })
    const { text } = await world
      .read(`${ordered.orderId}/fulfillments`, BUYER)
      .then(({ body }) => ({ text: JSON.stringify(body) }))
    expect(text).not.toMatch(/disk full|NOT-YOURS/)
    world.codes.faults.delete(sku)
    await world.dueNow(ordered)
    await world.job(ordered, 'done')
    expect(await codesOf(ordered)).toHaveLength(1)
  })

  it('fulfilment:F-19 fulfilment:F-34 that has none left lets the order wait, where buyer and operator see it', async () => {
    const { seller, sku } = await selling('depleted')
    world.codes.faults.set(sku, said(200, { status: 'depleted', codes: [] }))
    const before = (await world.metric('marketplace_fulfillment_jobs', { status: 'needs_attention' })) ?? 0
    const ordered = await world.buy([{ seller, sku }])
    const job = await world.job(ordered, 'needs_attention')
    expect(job).toMatchObject({ reason: 'depleted', completed_at: null, result: null })
    expect(secondsUntil(job.next_attempt_at)).toBeLessThanOrEqual(75)
    expect(await world.order(ordered)).toMatchObject({ orderStatus: 'https://schema.org/PaymentComplete', outbox: [] })
    expect(await world.fulfillments(ordered)).toMatchObject({
      items: [{ state: 'waiting', reason: 'depleted' }],
      lines: [{ state: 'waiting', reason: 'depleted' }],
    })
    await until(
      'it is counted',
      async () => (await world.metric('marketplace_fulfillment_jobs', { status: 'needs_attention' })) === before + 1,
    )

    await sql`update orders set finalized_at = now() - interval '20 minutes' where order_id = ${ordered.orderId}`.execute(
      world.ctx.db,
    )
    await until(
      'it counts as stranded',
      async () => ((await world.metric('marketplace_fulfillment_stranded')) ?? 0) >= 1,
    )
    world.codes.faults.delete(sku)
    await world.dueNow(ordered)
    await world.job(ordered, 'done')
    expect(await codesOf(ordered)).toHaveLength(1)
    await until('it does no more', async () => (await world.metric('marketplace_fulfillment_stranded')) === 0)
  })

  it('fulfilment:F-20 that fails twice is asked three times, later each time, and delivers once', async () => {
    const { seller, sku } = await selling('flaky')
    world.codes.faults.set(sku, (response, _, attempt) =>
      attempt < 3 ? answer(response, 500, { error: 'no' }) : undefined,
    )
    const ordered = await world.buy([{ seller, sku }])
    // ±20 % around 5 s and 30 s; what has passed since is left out.
    for (const [attempts, shortest, longest] of [
      [1, 2.5, 6],
      [2, 22, 36],
    ] as const) {
      const job = await until('an attempt is over', async () =>
        (await world.jobs(ordered)).find((one) => one.attempts === attempts && one.status === 'pending'),
      )
      expect(job.last_http_status).toBe(500)
      expect(secondsUntil(job.next_attempt_at)).toBeGreaterThan(shortest)
      expect(secondsUntil(job.next_attempt_at)).toBeLessThan(longest)
      await world.dueNow(ordered)
    }
    await world.job(ordered, 'done')
    expect(world.codes.of(ordered.orderId).map(({ key }) => key)).toEqual(
      Array.from({ length: 3 }, () => `${ordered.orderId}:100:${seller.address}:codedispenser:finalized`),
    )
    expect((await world.attempts(ordered)).map(({ status }) => status)).toEqual(['pending', 'pending', 'done'])
    expect((await world.order(ordered)).outbox).toHaveLength(1)
    expect(await codesOf(ordered)).toEqual([`${sku}-1-${world.codes.delivered.size - 1}`])
  })

  const elsewhere: string[] = []
  it.each<[answer: string, status: string, publicReason: string, retries: boolean, fault: Fault]>([
    ['202', 'pending', 'inProgress', true, said(202, { status: 'inProgress' })],
    ['insufficientStock', 'needs_attention', 'insufficientStock', true, said(409, { status: 'insufficientStock' })],
    ['notApplicable', 'needs_attention', 'notApplicable', false, said(200, { status: 'notApplicable' })],
    ['ambiguous', 'rejected', 'ambiguous', false, said(200, { status: 'ambiguous' })],
    ['400', 'rejected', 'adapter_error', false, said(400, { error: 'sesame' })],
    ['401', 'rejected', 'adapter_error', false, said(401, { error: 'sesame' })],
    ['429', 'pending', 'adapter_error', true, said(429, { error: 'sesame' })],
    ['503 without a body', 'pending', 'adapter_error', true, said(503, '')],
    ['no JSON', 'pending', 'adapter_error', true, said(200, '<html>sesame</html>')],
    ['no object', 'pending', 'adapter_error', true, said(200, ['ok'])],
    ['a status nobody knows', 'pending', 'adapter_error', true, said(200, { status: 'shipped' })],
    [
      'fulfilment:F-11 65,537 bytes',
      'pending',
      'adapter_error',
      true,
      said(200, { status: 'ok', pad: 'x'.repeat(65_537 - '{"status":"ok","pad":""}'.length) }),
    ],
    [
      'fulfilment:F-11 a body without end',
      'pending',
      'adapter_error',
      true,
      (response) => {
        const flood = () => {
          while (!response.destroyed && response.write('x'.repeat(65_536)));
        }
        response.on('drain', flood).writeHead(200)
        flood()
        return true
      },
    ],
    ['nothing at all', 'pending', 'adapter_error', true, () => true],
    [
      'half an answer, and hangs up',
      'pending',
      'adapter_error',
      true,
      (response) => {
        response.writeHead(200, { 'Content-Length': '100' })
        response.write('{"status":"ok"', () => response.destroy())
        return true
      },
    ],
    [
      'fulfilment:F-14 a redirect',
      'pending',
      'adapter_error',
      true,
      (response, { body }) => {
        elsewhere.push(body.orderId)
        // The other adapter of this market, whose key is another.
        response.writeHead(307, { Location: `${world.odoo.origin}/fulfill/100/elsewhere` }).end('{"status":"ok"}')
        return true
      },
    ],
  ])('that answers %s leaves the job %s, to the buyer "%s"', async (_, status, publicReason, retries, fault) => {
    const { seller, sku } = await selling('odd')
    world.codes.faults.set(sku, fault)
    const ordered = await world.buy([{ seller, sku }])
    const job = await until('it was tried', async () =>
      (await world.jobs(ordered)).find((one) => one.attempts > 0 && one.status !== 'running'),
    )
    expect(job).toMatchObject({ status, completed_at: null, result: null, locked_by: null })
    expect(job.next_attempt_at !== null).toBe(retries)
    expect((await world.order(ordered)).outbox).toEqual([])
    const told = await world.fulfillments(ordered)
    expect(told.items).toMatchObject([{ reason: publicReason }])
    expect(JSON.stringify(told)).not.toMatch(/sesame|127\.0\.0\.1|HTTP/)
    expect(world.odoo.asked.filter(({ path }) => path.includes('elsewhere'))).toEqual([])

    // Whatever it was, what is tried again ends well.
    world.codes.faults.delete(sku)
    if (!retries) return
    await world.dueNow(ordered)
    await world.job(ordered, 'done')
    expect(await codesOf(ordered)).toHaveLength(1)
  })

  it('that delivers a part is asked for the rest, and the buyer has that part meanwhile', async () => {
    const { seller, sku } = await selling('partial')
    world.codes.faults.set(sku, said(200, { status: 'partial', codes: ['FIRST'] }))
    const ordered = await world.buy([{ seller, sku, quantity: 2 }])
    await world.job(ordered, 'partial')
    expect(await codesOf(ordered)).toEqual(['FIRST'])
    expect(await world.fulfillments(ordered)).toMatchObject({ items: [{ state: 'waiting', reason: 'partial' }] })
    world.codes.faults.set(sku, said(200, { status: 'ok', codes: ['FIRST', 'SECOND'] }))
    await world.dueNow(ordered)
    await world.job(ordered, 'done')
    expect(await codesOf(ordered)).toEqual(['FIRST', 'SECOND'])
  })
})

describe('several processes of one market', () => {
  it('fulfilment:F-22 ask an adapter for a job once at a time, however many look at it', async () => {
    await world.replica()
    await world.replica()
    const { seller, sku } = await selling('shared')
    world.codes.mostAtOnce = 0
    world.codes.faults.set(sku, async () => void (await new Promise((go) => setTimeout(go, 300))))
    const ordered = await Promise.all(Array.from({ length: 10 }, () => world.checkOut([{ seller, sku }])))
    for (const one of ordered) await world.pay(one)
    world.chain.mineTo(world.chain.head() + FINALITY)
    await until('all are due', async () => {
      const jobs = await Promise.all(ordered.map((one) => world.jobs(one)))
      return jobs.every(({ length }) => length === 1)
    })
    await Promise.all(
      ordered.map(async (one) => {
        await world.job(one, 'done')
        expect(world.codes.of(one.orderId)).toHaveLength(1)
        expect(await codesOf(one)).toHaveLength(1)
      }),
    )
    expect(world.codes.mostAtOnce).toBe(1)
  })
})

it('fulfilment:F-21 fulfilment:F-23 a process that is killed while its adapter delivers is stood in for by another, which gets the same goods', async () => {
  const own = await startFulfillment()
  const data = await mkdtemp(join(tmpdir(), 'market-killed-'))
  const port = String(await freePort())
  const killed = await spawnTethered({
    command: process.execPath,
    args: [main],
    stopSignal: 'SIGTERM',
    env: {
      ...own.settings,
      PATH: process.env.PATH,
      PORT: port,
      LOG_LEVEL: 'error',
      POSTGRES_CONNECTION: own.databaseUrl,
      PUBLIC_BASE_URL: `http://127.0.0.1:${port}`,
      MARKET_AUTH_ALLOWED_DOMAINS: '*',
      MARKET_JWT_PRIVATE_KEY: await generateSigningKey(),
      CIRCLES_SERVICE_KEY: 'key of none of them',
      IPFS_STORE_DIR: data,
      // Long enough to be killed in.
      OUTBOUND_FULFILLMENT_TIMEOUT_MS: '60000',
    },
  })
  try {
    const seller = own.seller((sellers += 1))
    await own.sell(seller, [await own.made(seller, 'gift', 5)], 'codedispenser')
    own.codes.faults.set('gift', (_, asked, attempt) => (attempt === 1 ? own.codes.goodsFor(asked) : undefined))
    const ordered = await own.buy([{ seller, sku: 'gift', quantity: 2 }])
    const held = await until('the adapter is asked', async () => {
      const [job] = await own.jobs(ordered)
      return own.codes.asked.length === 1 && job?.status === 'running' && job
    })
    expect(held.locked_by).not.toBeNull()
    killed.kill()
    await killed.exited
    const [left] = await own.jobs(ordered)
    expect(left).toMatchObject({ status: 'running', locked_by: held.locked_by, result: null })

    await own.run()
    await own.job(ordered, 'done')
    const { asked } = own.codes
    expect(asked.map(({ key }) => key)).toEqual([held.idempotency_key, held.idempotency_key])
    expect(asked[1]!.body).toEqual(asked[0]!.body)
    // The hold was the dead one's until it ran out.
    expect(performance.timeOrigin + asked[1]!.at).toBeGreaterThan(left!.locked_until!.getTime() - 50)
    const goods = [...own.codes.delivered.values()] as { codes: string[] }[]
    expect(goods).toHaveLength(1)
    expect((await own.order(ordered)).outbox).toMatchObject([{ payload: { codes: goods[0]!.codes } }])
  } finally {
    await killed.stop(1000)
    await own.close()
    await rm(data, { recursive: true, force: true })
  }
})

describe('what an operator changes about a route', () => {
  /** Two processes, and what each of them says about a sku. */
  async function watched() {
    const other = await world.replica({ delivers: false })
    return [world.url, other.url].map((url) => ({
      async feed(kind: string, { seller, sku }: Line) {
        const response = await fetch(`${url}/inventory/${kind}/100/${seller.address}/${sku}`)
        const body = (await response.json()) as { detail?: string }
        return response.status === 404 ? body.detail : response.status
      },
      async page({ seller, sku }: Line) {
        const query = `avatars=${seller.address}`
        const page = (await (await fetch(`${url}/api/operator/${OPERATOR}/catalog?${query}`)).json()) as any
        const { market } = page.products.find(({ product }: any) => product.sku === sku)
        return [market.availabilityFeed !== null, market.inventoryFeed !== null, market.buyable]
      },
      async validates(path: string) {
        const response = await fetch(`${url}/api/cart/v1/baskets${path}/validate`, { method: 'POST' })
        return response.status
      },
      async sells({ seller }: Line) {
        const all = (await (await fetch(`${url}/api/sellers`)).json()) as { seller: string }[]
        return all.some((one) => one.seller === seller.address)
      },
    }))
  }
  const ON = { availability: 200, inventory: 200, page: [true, true, true], validates: 200, sells: true }
  const OFF = {
    availability: 'Product not configured',
    inventory: 'Product not configured',
    page: [false, false, false],
    validates: 422,
    sells: false,
  }

  it.each<[string, (line: Line) => Promise<unknown>, (line: Line) => Promise<unknown>]>([
    [
      'the route off by SQL and on by the ops command',
      ({ sku }) => sql`update market_service_routes set enabled = false where sku = ${sku}`.execute(world.ctx.db),
      ({ seller, sku }) =>
        upsertRoute(world.ctx.db, { chainId: 100, seller: seller.address, sku, offerType: `type-of-${sku}` }),
    ],
    [
      'its offer type',
      ({ sku }) =>
        sql`update offer_types set enabled = false where offer_type = ${`type-of-${sku}`}`.execute(world.ctx.db),
      ({ sku }) =>
        sql`update offer_types set enabled = true where offer_type = ${`type-of-${sku}`}`.execute(world.ctx.db),
    ],
    [
      'the row itself, deleted and made again',
      ({ sku }) => sql`delete from market_service_routes where sku = ${sku}`.execute(world.ctx.db),
      ({ seller, sku }) =>
        upsertRoute(world.ctx.db, { chainId: 100, seller: seller.address, sku, offerType: `type-of-${sku}` }),
    ],
  ])('fulfilment:F-36 shows on every process within a second: %s', async (_, switchOff, switchOn) => {
    const sku = newSku('switched')
    const offerType = `type-of-${sku}`
    await world.ctx.db
      .insertInto('offer_types')
      .values({
        offer_type: offerType,
        inventory_url_template: `${world.odoo.origin}/inventory/{chain_id}/{seller}/{sku}`,
        availability_url_template: null,
        fulfillment_url_template: `${world.odoo.origin}/fulfill/{chain_id}/{seller}`,
      })
      .execute()
    const seller = newSeller()
    await world.sell(seller, [await world.made(seller, sku, 5)], offerType)
    const line = { seller, sku }
    const path = await world.basketOf([line])
    const processes = await watched()
    const seen = () =>
      Promise.all(
        processes.map(async ({ feed, page, validates, sells }) => ({
          availability: await feed('availability', line),
          inventory: await feed('inventory', line),
          page: await page(line),
          validates: await validates(path),
          sells: await sells(line),
        })),
      )
    for (const [change, expected] of [
      [undefined, ON],
      [switchOff, OFF],
      [switchOn, ON],
    ] as const) {
      // What was just asked may be kept; after the change it may not be shown any more.
      await seen()
      await change?.(line)
      const changed = performance.now()
      let asked = 0
      let last: unknown
      await until('every process has noticed', async () => {
        asked = performance.now()
        last = await seen()
        return JSON.stringify(last) === JSON.stringify([expected, expected])
      }).catch(() => expect(last).toEqual([expected, expected]))
      expect(asked - changed).toBeLessThan(1000)
    }
  })
})

describe('variables of the second pass that older deployments had', () => {
  const read = (env: Record<string, string>) => {
    const required = {
      POSTGRES_CONNECTION: 'postgres://nobody@127.0.0.1:1/none',
      PUBLIC_BASE_URL: 'http://127.0.0.1:1',
      MARKET_AUTH_ALLOWED_DOMAINS: '*',
      MARKET_JWT_PRIVATE_KEY: '{}',
      CIRCLES_SERVICE_KEY: 'key',
      RPC: 'http://127.0.0.1:2',
    }
    return readConfig(Config, { ...required, ...env })
  }

  it('fulfilment:F-32 stop the start when they switch it on for no orders in particular', () => {
    const on = { FULFILLMENT_RECONCILE_ENABLED: 'true' }
    expect(() => read(on)).toThrow(/FULFILLMENT_RECONCILE_ENABLED is true, but neither .*ORDER_IDS nor .*SETTLED_AFTER/)
    expect(() => read({ ...on, FULFILLMENT_RECONCILE_ORDER_IDS: '' })).toThrow('is true')
    expect(() => read({ ...on, FULFILLMENT_RECONCILE_ORDER_IDS: ' , ,' })).toThrow('names no order')
    read({ ...on, FULFILLMENT_RECONCILE_ORDER_IDS: 'ord_1 ord_2,ord_1' })
    read({ ...on, FULFILLMENT_RECONCILE_SETTLED_AFTER: '2026-07-03' })
    read({ FULFILLMENT_RECONCILE_ENABLED: 'false' })
    read({})
  })

  it.each(['03/07/2026', '2026-7-3', '2026-02-30', '2026-13-01', '2026-07-03 12:00:00', '2026-07-03T25:00:00', 'soon'])(
    'fulfilment:F-33 stop the start at a time like %s, switched on or not',
    (time) => {
      for (const on of ['true', 'false']) {
        expect(() => read({ FULFILLMENT_RECONCILE_ENABLED: on, FULFILLMENT_RECONCILE_SETTLED_AFTER: time })).toThrow(
          'FULFILLMENT_RECONCILE_SETTLED_AFTER must be a time such as',
        )
      }
    },
  )

  it.each([
    '2026-07-03',
    '2026-07-03T12:00:00',
    '2026-07-03T12:00:00Z',
    '2026-07-03T12:00:00.123456+02:00',
    '2024-02-29',
  ])('take a time like %s', (time) => {
    read({ FULFILLMENT_RECONCILE_SETTLED_AFTER: time })
  })
})

describe('a one-off', () => {
  it('fulfilment:F-38 goes to one of two checkouts at once, and is for sale again when nobody pays', async () => {
    const seller = newSeller()
    const sku = newSku('print')
    await world.sell(seller, [await world.made(seller, sku, 40)], null)
    const paths = await Promise.all([1, 2].map(() => world.basketOf([{ seller, sku }])))
    const answers = await Promise.all(paths.map((path) => world.cart('POST', `${path}/checkout`)))
    expect(answers.map(({ status }) => status).toSorted()).toEqual([201, 409])
    const feed = async (kind: string) =>
      (await fetch(`${world.url}/inventory/${kind}/100/${seller.address}/${sku}`)).json()
    expect(await feed('inventory')).toMatchObject({ value: 0 })
    expect(await feed('availability')).toBe('https://schema.org/OutOfStock')

    world.ctx.now = () => new Date(Date.now() + 1_000_000)
    await until('it is for sale again', async () => (await feed('availability')) === 'https://schema.org/InStock')
    world.ctx.now = now
    const lost = paths[answers.findIndex(({ status }) => status === 409)]!
    expect((await world.cart('POST', `${lost}/checkout`)).status).toBe(201)
  })
})
