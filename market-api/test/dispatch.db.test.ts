import type { ServerResponse } from 'node:http'
import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { answer, FINALITY, type FulfillmentWorld, startFulfillment } from './fulfillmentWorld.ts'
import { type PlacedOrder, person, placeOrder } from './orderEventsWorld.ts'
import { payment, transaction } from './scriptedChain.ts'

/** What `placeOrder` asks for an order. */
const PRICE_WEI = 3n * 10n ** 18n
const SKU = 'tea'

let world: FulfillmentWorld
let held: ServerResponse[]
beforeEach(() => {
  held = []
})
afterEach(async () => {
  // Nobody waits for an answer any more.
  world.odoo.faults.clear()
  for (const response of held) response.destroy()
  await world?.close()
})

const start = async (env: Record<string, string> = {}, fulfillmentTimeoutMs = 60_000) => {
  world = await startFulfillment(env, { fulfillmentTimeoutMs })
  // Hangs for those that a test wants dead.
  world.odoo.faults.set(SKU, (response, { path }) => {
    const fault = dead.get(path.split('/').at(-1)!)
    return fault?.(response)
  })
  dead.clear()
  return world.run()
}
/** By seller: what happens to requests, instead of a delivery. */
const dead = new Map<string, (response: ServerResponse) => unknown>()
const stall = (response: ServerResponse) => held.push(response)

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
  it('delays nobody else, however much of theirs is due', async () => {
    await start({ FULFILLMENT_WORKERS: '16', FULFILLMENT_SELLER_CONCURRENCY: '8' })
    const [stalled, quick] = [await newSeller(), await newSeller()]
    dead.set(stalled, stall)
    pay(await place(stalled, 200))
    await until('the stalled one has all that it gets', () => askedOf(stalled).length === 8)

    const count = 100
    for (let batch = 0; batch < 4; batch += 1) {
      pay(await place(quick, count / 4))
      await until('the batch is on its way', async () => (await jobsOf(quick)).length === (batch + 1) * (count / 4))
    }
    const waits = (await allDone(quick, count)).map(({ ms }) => ms).toSorted((a, b) => a - b)
    console.log(waits)
    expect(waits[Math.floor(count * 0.99)]).toBeLessThan(1000)
    expect(new Set(keysOf(quick)).size).toBe(count)
    expect(keysOf(quick)).toHaveLength(count)
    // Those due before them are still due, and nobody asked for more than the seller's share.
    expect(askedOf(stalled)).toHaveLength(8)
    const left = await jobsOf(stalled)
    expect(left.filter(({ status }) => status === 'running')).toHaveLength(8)
    expect(left.filter(({ status, attempts }) => status === 'pending' && attempts === 0)).toHaveLength(192)
  })

  it('is left alone after five calls without an answer, and its jobs lose no attempt by that', async () => {
    await start({ FULFILLMENT_SELLER_CONCURRENCY: '2' }, 150)
    const [dying, quick] = [await newSeller(), await newSeller()]
    dead.set(dying, stall)
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
      expect.objectContaining({ level: 'error', message: expect.stringContaining('circuit opened') }),
    )
    // Another seller of the same adapter is not concerned.
    pay(await place(quick, 5))
    await allDone(quick, 5)

    // It comes back: the first call that gets through lets the others go.
    dead.delete(dying)
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
    await start({ FULFILLMENT_SELLER_CONCURRENCY: '4' }, 150)
    const dying = await newSeller()
    dead.set(dying, stall)
    pay(await place(dying, 30))
    await until('its circuit opens', () => world.logged.some(({ message }) => message.includes('circuit opened')))
    await until('calls under way are over', async () =>
      (await jobsOf(dying)).every(({ status }) => status !== 'running'),
    )
    const before = askedOf(dying).length
    // Everything is due again, which makes no difference while it is open and one call's difference afterwards.
    const dueNow = async () => {
      await sql`update fulfillment_jobs set next_attempt_at = now() where seller_address = ${dying} and status <> 'done'`.execute(
        world.ctx.db,
      )
      await sql`select pg_notify('fulfillment_jobs', '')`.execute(world.ctx.db)
    }
    await dueNow()
    await until('it is tried', () => askedOf(dying).length > before)
    await until('it is left alone again, for longer', () =>
      world.logged.some(({ message, fields }) => message.includes('circuit opened') && Number(fields.pauseMs) > 9000),
    )
    expect(askedOf(dying)).toHaveLength(before + 1)
  })

  it('that answers is not one that stalls: errors open no circuit', async () => {
    await start()
    const failing = await newSeller()
    dead.set(failing, (response) => answer(response, 500, { error: 'no' }))
    pay(await place(failing, 20))
    await until('all were tried', async () => {
      const jobs = await jobsOf(failing)
      return jobs.length === 20 && jobs.every(({ attempts, status }) => attempts === 1 && status === 'pending')
    })
    expect(world.logged.filter(({ message }) => message.includes('circuit'))).toEqual([])
  })
})

describe('jobs', () => {
  it('are begun by the notification of their payment, long before anybody polls', async () => {
    await start()
    const seller = await newSeller()
    for (let i = 1; i <= 5; i += 1) {
      pay(await place(seller, 1))
      await allDone(seller, i)
    }
    // Polls are 2 s apart: by chance one may fall together with a payment, but not five.
    const waits = (await jobsOf(seller)).map(({ ms }) => ms)
    expect(Math.max(...waits)).toBeLessThan(1000)
    expect(waits.toSorted((a, b) => a - b)[2]).toBeLessThan(300)
  })

  it('are found by the poll when the notification is lost', async () => {
    await start()
    const seller = await newSeller()
    dead.set(seller, (response) => answer(response, 503, {}))
    pay(await place(seller, 1))
    await until('it waits', async () => (await jobsOf(seller))[0]?.status === 'pending')
    dead.clear()
    await sql`update fulfillment_jobs set next_attempt_at = now() where seller_address = ${seller}`.execute(
      world.ctx.db,
    )
    await allDone(seller, 1, 5)
  })

  it.each([
    [
      'an answer that Postgres can not keep',
      (response: ServerResponse) => answer(response, 200, '{"status":"ok","codes":["\\u0000"]}'),
    ],
    ['half a character', (response: ServerResponse) => answer(response, 200, '{"status":"ok","codes":["\\ud800"]}')],
    [
      'an error that Postgres can not keep',
      (response: ServerResponse) => answer(response, 200, '{"status":"error","message":"\\u0000"}'),
    ],
  ])('are each stored though one of their batch has %s', async (_, poison) => {
    await start({ FULFILLMENT_WORKERS: '40', FULFILLMENT_SELLER_CONCURRENCY: '40' })
    const [poisoned, seller] = [await newSeller(), await newSeller()]
    dead.set(seller, stall)
    dead.set(poisoned, stall)
    pay([...(await place(seller, 30)), ...(await place(poisoned, 1))])
    await until('all are asked for', () => held.length === 31)
    // All at once, so that they are stored together.
    const { asked } = world.odoo
    for (const [i, response] of held.entries()) {
      if (asked[i]!.path.endsWith(poisoned)) poison(response)
      else answer(response, 200, world.odoo.goodsFor(asked[i]!))
    }
    await allDone(seller, 30)
    const [job] = await until('the other has its end too', async () => {
      const jobs = await jobsOf(poisoned)
      return jobs[0]!.status !== 'running' && jobs
    })
    expect(job).toMatchObject({ locked_by: null })
    expect(['needs_attention', 'pending']).toContain(job!.status)
    const outbox = await world.ctx.db
      .selectFrom('order_outbox')
      .select('order_id')
      .where('order_id', '=', job!.order_id)
      .execute()
    expect(outbox).toEqual([])
  })

  it.each([
    ['lines that are not there', sql`line_indexes = '{7}'`],
    ['a line that is not there', sql`line_indexes = '{7,0}'`],
  ])('are each called for though one of their batch has %s', async (_, damage) => {
    await start({ FULFILLMENT_WORKERS: '0' })
    const [poisoned, seller] = [await newSeller(), await newSeller()]
    pay([...(await place(poisoned, 1)), ...(await place(seller, 10))])
    await until('all are due', async () => [...(await jobsOf(poisoned)), ...(await jobsOf(seller))].length === 11)
    await sql`update fulfillment_jobs set ${damage} where seller_address = ${poisoned}`.execute(world.ctx.db)
    await world.replica()
    await allDone(seller, 10)
    const [job] = await until('the other has its end too', async () => {
      const jobs = await jobsOf(poisoned)
      return jobs[0]!.status !== 'running' && jobs
    })
    expect(job!.status).not.toBe('done')
  })
})

describe('a process that stops', () => {
  it('waits for the answers under way, stores them, and leaves the rest to the next', async () => {
    const running = await start({ FULFILLMENT_WORKERS: '2', FULFILLMENT_SELLER_CONCURRENCY: '2' })
    const seller = await newSeller()
    dead.set(seller, stall)
    pay(await place(seller, 6))
    await until('two are under way', () => held.length === 2)
    const stopped = running.stop()
    const begun = world.odoo.asked.slice(0, 2)
    for (const [i, response] of held.entries()) answer(response, 200, world.odoo.goodsFor(begun[i]!))
    await stopped
    const jobs = await jobsOf(seller)
    expect(jobs.filter(({ status }) => status === 'done')).toHaveLength(2)
    expect(jobs.filter(({ status, attempts }) => status === 'pending' && attempts === 0)).toHaveLength(4)
    expect(world.odoo.asked).toHaveLength(2)

    dead.clear()
    await world.run()
    await allDone(seller, 6)
    expect(new Set(keysOf(seller)).size).toBe(6)
    expect(keysOf(seller)).toHaveLength(6)
  })
})
