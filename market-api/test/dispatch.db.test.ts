import type { ServerResponse } from 'node:http'
import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { pollPayments } from '../src/payments/pollPayments.ts'
import { answer, type Asked, FINALITY, type FulfillmentWorld, startFulfillment } from './fulfillmentWorld.ts'
import { type PlacedOrder, person, placeOrder } from './orderEventsWorld.ts'
import { payment, transaction } from './scriptedChain.ts'

/** What `placeOrder` asks for an order. */
const PRICE_WEI = 3n * 10n ** 18n
const SKU = 'tea'

let world: FulfillmentWorld
let running: { stop(): Promise<void> }
/** By seller: what happens to requests, instead of a delivery. */
const faults = new Map<string, typeof stall | ((response: ServerResponse) => unknown)>()
/** Requests that nobody answers, in the order they came. */
let held: { response: ServerResponse; asked: Asked }[] = []
const stall = true

/** Of the tests of a group. */
function market(env: Record<string, string>, fulfillmentTimeoutMs = 60_000) {
  beforeAll(async () => {
    const limits = {
      FULFILLMENT_WORKERS: '16',
      FULFILLMENT_SELLER_CONCURRENCY: '8',
      FULFILLMENT_ADAPTER_CONCURRENCY: '64',
    }
    world = await startFulfillment({ ...limits, ...env }, { fulfillmentTimeoutMs })
    world.odoo.faults.set(SKU, (response, asked) => {
      const fault = faults.get(asked.path.split('/').at(-1)!)
      return fault === undefined ? undefined : fault === stall ? held.push({ response, asked }) : fault(response)
    })
    running = await world.run()
  })
  afterEach(() => {
    faults.clear()
    for (const { response } of held.splice(0)) response.destroy()
  })
  afterAll(() => world?.close())
}

let people = 5000
/** A seller of tea, delivered by the first adapter. */
async function newSeller(): Promise<string> {
  const seller = person((people += 1))
  await world.ctx.db
    .insertInto('market_service_routes')
    .values({ chain_id: 100, seller_address: seller, sku: SKU, offer_type: 'odoo', total_inventory: null })
    .execute()
  return seller
}
const place = (seller: string, count: number): Promise<PlacedOrder[]> =>
  Promise.all(Array.from({ length: count }, () => placeOrder(world.ctx, { buyer: person(7), sellers: [seller] })))
/** All in one block, and final. */
function pay(orders: PlacedOrder[]): void {
  world.chain.mine(...orders.map(({ reference }) => transaction(payment(reference, PRICE_WEI))))
  world.chain.mineTo(world.chain.head() + FINALITY)
}
async function jobsOf(seller: string) {
  const { rows } = await sql<{
    job_id: string
    order_id: string
    status: string
    reason: string | null
    attempts: number
    ms: number
    due_in: number | null
    locked_by: string | null
  }>`
    select job_id, order_id, status, reason, attempts, locked_by,
           extract(epoch from completed_at - created_at)::float8 * 1000 as ms,
           extract(epoch from next_attempt_at - now())::float8 as due_in
    from fulfillment_jobs where seller_address = ${seller} order by created_at, job_id`.execute(world.ctx.db)
  return rows
}
const allDone = (seller: string, count: number, seconds?: number) =>
  until(
    `${count} jobs of ${seller} are done`,
    async () => {
      const jobs = await jobsOf(seller)
      return jobs.length === count && jobs.every(({ status }) => status === 'done') && jobs
    },
    seconds,
  )
const askedOf = (seller: string) => world.odoo.asked.filter(({ path }) => path.endsWith(seller))
const keysOf = (seller: string) => askedOf(seller).map(({ key }) => key)

describe('a seller whose adapter stalls', () => {
  market({ FULFILLMENT_WORKERS: '16', FULFILLMENT_SELLER_CONCURRENCY: '8' })

  it('delays nobody else, however much of theirs is due', async () => {
    const [stalled, quick] = [await newSeller(), await newSeller()]
    faults.set(stalled, stall)
    pay(await place(stalled, 200))
    await until('the stalled one has all that it gets', () => askedOf(stalled).length === 8)

    const count = 40
    for (let batch = 0; batch < 4; batch += 1) {
      pay(await place(quick, count / 4))
      await until('the batch is on its way', async () => (await jobsOf(quick)).length === (batch + 1) * (count / 4))
    }
    const waits = (await allDone(quick, count)).map(({ ms }) => ms).toSorted((a, b) => a - b)
    expect(waits[Math.floor(count * 0.99)]).toBeLessThan(1000)
    expect(new Set(keysOf(quick)).size).toBe(count)
    expect(keysOf(quick)).toHaveLength(count)
    // Those due before them are still due, and nobody asked for more than the seller's share.
    expect(askedOf(stalled)).toHaveLength(8)
    const left = await jobsOf(stalled)
    expect(left.filter(({ status }) => status === 'running')).toHaveLength(8)
    expect(left.filter(({ status, attempts }) => status === 'pending' && attempts === 0)).toHaveLength(192)
  })

  it('delays nobody else when there are several of them', async () => {
    const stalled = await Promise.all(Array.from({ length: 3 }, newSeller))
    for (const seller of stalled) faults.set(seller, stall)
    pay((await Promise.all(stalled.map((seller) => place(seller, 20)))).flat())
    await until('they have all workers', () => held.length >= 16)
    const quick = await newSeller()
    pay(await place(quick, 10))
    const waits = (await allDone(quick, 10)).map(({ ms }) => ms)
    expect(Math.max(...waits)).toBeLessThan(3000)
    for (const seller of stalled) expect(askedOf(seller).length).toBeLessThanOrEqual(8)
  })

  it('that answers is not one that stalls: errors open no circuit', async () => {
    const failing = await newSeller()
    faults.set(failing, (response) => answer(response, 500, { error: 'no' }))
    pay(await place(failing, 20))
    await until('all were tried', async () => {
      const jobs = await jobsOf(failing)
      return jobs.length === 20 && jobs.every(({ attempts, status }) => attempts === 1 && status === 'pending')
    })
    expect(world.logged.filter(({ fields }) => fields.seller === failing)).toEqual([])
  })
})

describe('an adapter that stopped answering', () => {
  market({ FULFILLMENT_SELLER_CONCURRENCY: '2' }, 150)

  it('is left alone after five calls without an answer, and its jobs lose no attempt by that', async () => {
    const [dying, quick] = [await newSeller(), await newSeller()]
    faults.set(dying, stall)
    pay(await place(dying, 40))
    const open = () => world.metric('marketplace_fulfillment_circuit_open', { offer_type: 'odoo' })
    await until('its circuit opens', async () => (await open()) === 1)
    const opened = performance.now()
    await until('calls under way are over', async () =>
      (await jobsOf(dying)).every(({ status }) => status !== 'running'),
    )
    const tried = askedOf(dying).length
    expect(tried).toBeGreaterThanOrEqual(5)
    expect(tried).toBeLessThanOrEqual(6)
    const waiting = await until('what was due is put off', async () => {
      const jobs = await jobsOf(dying)
      return jobs.every(({ due_in }) => due_in! > 1) && jobs
    })
    expect(waiting.map(({ attempts }) => attempts).toSorted((a, b) => b - a)).toEqual([
      ...Array<number>(tried).fill(1),
      ...Array<number>(40 - tried).fill(0),
    ])
    expect(world.logged).toContainEqual(
      expect.objectContaining({
        level: 'error',
        fields: expect.objectContaining({ seller: dying, offerType: 'odoo' }),
      }),
    )
    // Another seller of the same adapter is not concerned.
    pay(await place(quick, 5))
    await allDone(quick, 5)

    // It comes back: the first call that gets through lets the others go.
    faults.delete(dying)
    await allDone(dying, 40, 30)
    const asked = askedOf(dying)
    expect(asked[tried]!.at - opened).toBeGreaterThan(4000)
    expect(await open()).toBe(0)
    expect(new Set(keysOf(dying)).size).toBe(40)
    expect(asked).toHaveLength(40 + tried)
    const events = await sql<{ attempts: number; told: string }>`
      select j.attempts, count(*) as told from fulfillment_jobs j join fulfillment_job_events e using (job_id)
      where seller_address = ${dying} and e.kind = 'attempted' group by job_id, j.attempts`.execute(world.ctx.db)
    expect(events.rows.every(({ attempts, told }) => attempts === Number(told))).toBe(true)
  })

  it('is tried by one job while nobody knows whether it is back', async () => {
    const dying = await newSeller()
    faults.set(dying, stall)
    pay(await place(dying, 30))
    const pauses = () =>
      world.logged.flatMap(({ message, fields }) =>
        message.startsWith('circuit opened') && fields.seller === dying ? [Number(fields.pauseMs)] : [],
      )
    await until('its circuit opens', () => pauses().length === 1)
    await until('calls under way are over', async () =>
      (await jobsOf(dying)).every(({ status }) => status !== 'running'),
    )
    const before = askedOf(dying).length
    // Everything is due again, which makes no difference while it is open and one call's difference afterwards.
    await sql`update fulfillment_jobs set next_attempt_at = now() where seller_address = ${dying}`.execute(world.ctx.db)
    await sql`select pg_notify('fulfillment_jobs', '')`.execute(world.ctx.db)
    await until('it is tried', () => askedOf(dying).length > before)
    await until('it is left alone again', () => pauses().length === 2)
    expect(pauses()[1]).toBeGreaterThan(2 * pauses()[0]! - 1000)
    expect(askedOf(dying)).toHaveLength(before + 1)
  })
})

describe('jobs', () => {
  market({ FULFILLMENT_WORKERS: '16', FULFILLMENT_SELLER_CONCURRENCY: '8' })

  it('are begun by the notification of their payment, long before anybody polls', async () => {
    const seller = await newSeller()
    for (let i = 1; i <= 6; i += 1) {
      pay(await place(seller, 1))
      await allDone(seller, i)
    }
    // Polls are 2 s apart: by chance one may fall together with a payment, but not six.
    const waits = (await jobsOf(seller)).map(({ ms }) => ms)
    expect(Math.max(...waits)).toBeLessThan(1000)
  })

  it('are found by the poll when the notification is lost', async () => {
    const seller = await newSeller()
    faults.set(seller, (response) => answer(response, 503, {}))
    pay(await place(seller, 1))
    await until('it waits', async () => (await jobsOf(seller))[0]?.status === 'pending')
    faults.clear()
    await sql`update fulfillment_jobs set next_attempt_at = now() where seller_address = ${seller}`.execute(
      world.ctx.db,
    )
    await allDone(seller, 1, 5)
  })

  const saying = (text: string) => (response: ServerResponse) => answer(response, 200, text)
  it.each([
    ['an answer that Postgres can not keep', 'needs_attention', saying('{"status":"ok","codes":["\\u0000"]}')],
    ['half a character', 'needs_attention', saying('{"status":"ok","codes":["\\ud800"]}')],
    ['an error that Postgres can not keep', undefined, saying('{"status":"error","message":"\\u0000"}')],
  ])('are each stored though one of their batch has %s', async (_, status, poison) => {
    const [poisoned, seller] = [await newSeller(), await newSeller()]
    faults.set(seller, stall)
    faults.set(poisoned, stall)
    pay([...(await place(seller, 8)), ...(await place(poisoned, 1))])
    await until('all are asked for', () => held.length === 9)
    // All at once, so that they are stored together.
    for (const { response, asked } of held) {
      if (asked.path.endsWith(poisoned)) poison(response)
      else answer(response, 200, world.odoo.goodsFor(asked))
    }
    await allDone(seller, 8)
    const [job] = await until('the other has its end too', async () => {
      const jobs = await jobsOf(poisoned)
      return jobs[0]!.status !== 'running' && jobs
    })
    expect(job).toMatchObject({ locked_by: null, ms: null })
    if (status) expect(job).toMatchObject({ status, due_in: null })
    const shown = world.ctx.db.selectFrom('order_outbox').select('order_id').where('order_id', '=', job!.order_id)
    expect(await shown.execute()).toEqual([])
    expect(askedOf(poisoned)).toHaveLength(1)
  })

  it.each([
    ['lines that are not there', sql`line_indexes = '{7}'`],
    ['a line that is not there', sql`line_indexes = '{7,0}'`],
  ])('are each called for though one of their batch has %s', async (_, damage) => {
    const [poisoned, seller] = [await newSeller(), await newSeller()]
    await running.stop()
    pay([...(await place(poisoned, 1)), ...(await place(seller, 10))])
    await until('all are due', async () => {
      await pollPayments(world.ctx)
      return [...(await jobsOf(poisoned)), ...(await jobsOf(seller))].length === 11
    })
    await sql`update fulfillment_jobs set ${damage} where seller_address = ${poisoned}`.execute(world.ctx.db)
    running = await world.run()
    await allDone(seller, 10)
    await until('the other waits for a person', async () => (await jobsOf(poisoned))[0]!.status === 'needs_attention')
    expect(askedOf(poisoned)).toEqual([])
  })
})

describe('a process that stops', () => {
  market({ FULFILLMENT_WORKERS: '2', FULFILLMENT_SELLER_CONCURRENCY: '2' })

  it('waits for the answers under way, stores them, and leaves the rest to the next', async () => {
    const seller = await newSeller()
    faults.set(seller, stall)
    pay(await place(seller, 6))
    await until('two are under way', () => held.length === 2)
    const stopped = running.stop()
    for (const { response, asked } of held) answer(response, 200, world.odoo.goodsFor(asked))
    await stopped
    const jobs = await jobsOf(seller)
    expect(jobs.filter(({ status }) => status === 'done')).toHaveLength(2)
    expect(jobs.filter(({ status, attempts }) => status === 'pending' && attempts === 0)).toHaveLength(4)
    expect(askedOf(seller)).toHaveLength(2)

    faults.clear()
    running = await world.run()
    await allDone(seller, 6)
    expect(new Set(keysOf(seller)).size).toBe(6)
    expect(keysOf(seller)).toHaveLength(6)
  })
})
