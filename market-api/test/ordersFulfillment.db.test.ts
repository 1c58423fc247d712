import { OrderStatus } from '@market/contracts/statuses'
import { inTransaction } from '@market/kit/db'
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { runFulfillmentJob } from './runFulfillmentJob.ts'
import { BUYER, GATEWAY, type Orders, S1, S2, startOrders, STRANGER, type TestLine } from './orderWorld.ts'

let orders: Orders
beforeAll(async () => {
  orders = await startOrders()
  await orders.route(S1, 'gift', 'codedispenser')
  await orders.route(S1, 'print-1', null)
  await orders.route(S2, 'mug', 'odoo')
})
afterAll(() => orders?.close())

const GIFT: TestLine = { seller: S1, sku: 'gift', name: 'Gift code', price: 5 }
const PRINT: TestLine = { seller: S1, sku: 'print-1', name: 'Heron print', price: 40, isOneOff: true }
const MUG: TestLine = { seller: S2, sku: 'mug', name: 'Mug', price: 7.5, quantity: 3 }
const ALL = [GIFT, PRINT, MUG]

const fulfillments = async (orderId: string, who = BUYER) => {
  const { status, body } = await orders.get(`/${orderId}/fulfillments`, who)
  expect(status).toBe(200)
  expect(body.orderId).toBe(orderId)
  return body as {
    items: { id: string; seller: string; offerType: string; state: string; reason: string | null }[]
    lines: { lineIndex: number; state: string; reason: string | null }[]
  }
}
const states = async (orderId: string, who = BUYER) =>
  (await fulfillments(orderId, who)).lines.map(({ state }) => state)
const jobOf = async (orderId: string, offerType: string) =>
  (await fulfillments(orderId)).items.find((item) => item.offerType === offerType)!

describe('GET /orders/{id}/fulfillments', () => {
  it('market-api:W-08 says of every line, at every time, where it stands', async () => {
    const lines = [{ ...GIFT, trigger: 'confirmed' as const }, PRINT, MUG]
    const orderId = await orders.place({ lines })
    expect(await states(orderId)).toEqual(['awaitingPayment', 'awaitingPayment', 'awaitingPayment'])
    await orders.pay(orderId)
    expect(await states(orderId)).toEqual(['pending', 'pending', 'pending'])
    await orders.complete(orderId)
    expect(await fulfillments(orderId)).toEqual({
      orderId,
      items: expect.arrayContaining([
        {
          id: expect.any(String),
          seller: S1,
          offerType: 'manual',
          trigger: 'finalized',
          lineIndexes: [1],
          state: 'manual',
          reason: 'manual',
          updatedAt: expect.stringMatching(/Z$/),
        },
      ]),
      lines: [
        { lineIndex: 0, sku: 'gift', quantity: 1, seller: S1, state: 'pending', reason: null },
        { lineIndex: 1, sku: 'print-1', quantity: 1, seller: S1, state: 'manual', reason: 'manual' },
        { lineIndex: 2, sku: 'mug', quantity: 3, seller: S2, state: 'pending', reason: null },
      ],
    })
    await orders.answer((await jobOf(orderId, 'codedispenser')).id, 'done', null)
    await orders.answer((await jobOf(orderId, 'odoo')).id, 'needs_attention', 'depleted')
    expect((await fulfillments(orderId)).lines).toMatchObject([
      { state: 'succeeded', reason: null },
      { state: 'manual', reason: 'manual' },
      { state: 'waiting', reason: 'depleted' },
    ])

    const cancelled = await orders.place({ lines })
    await orders.cancel(cancelled)
    expect(await fulfillments(cancelled)).toMatchObject({
      items: [],
      lines: [{ state: 'cancelled' }, { state: 'cancelled' }, { state: 'cancelled' }],
    })
  })

  it('shows a seller their own lines and jobs, and others nothing', async () => {
    const orderId = await orders.place({ lines: ALL })
    await orders.complete(orderId)
    const { items, lines } = await fulfillments(orderId, S1)
    expect(items.map(({ seller }) => seller)).toEqual([S1, S1])
    expect(lines.map(({ lineIndex }) => lineIndex)).toEqual([0, 1])
    expect((await fulfillments(orderId, S2)).lines.map(({ lineIndex }) => lineIndex)).toEqual([2])
    for (const path of [orderId, orderId.toLowerCase(), `ord_${'0'.repeat(32)}`]) {
      expect(await orders.get(`/${path}/fulfillments`, STRANGER)).toMatchObject({
        status: 404,
        body: { code: 'order_not_found' },
      })
    }
    expect((await orders.get(`/${orderId}/fulfillments`, S1, { chainId: 1 })).status).toBe(404)
  })

  it('repeats nothing that an adapter or its network said', async () => {
    const orderId = await orders.place({ lines: [MUG] })
    await orders.complete(orderId)
    const raw = 'Upstream error: connect ECONNREFUSED http://erp.internal:8069'
    await orders.answer((await jobOf(orderId, 'odoo')).id, 'pending', raw)
    for (const path of ['fulfillments', 'timeline']) {
      const { text } = await orders.get(`/${orderId}/${path}`, BUYER)
      expect(text).toContain('adapter_error')
      expect(text).not.toContain('erp.internal')
    }
  })
})

describe('POST /orders/{id}/fulfillments/{id}/complete', () => {
  let orderId: string
  let id: string
  beforeEach(async () => {
    orderId = await orders.place({ lines: ALL })
    await orders.complete(orderId)
    id = (await jobOf(orderId, 'manual')).id
  })
  const complete = (who: string | undefined, body?: unknown, of: { orderId?: string; id?: string } = {}) =>
    orders.post(`/${of.orderId ?? orderId}/fulfillments/${of.id ?? id}/complete`, who, body)
  const outbox = async () => (await orders.get(`/${orderId}`, BUYER)).body.outbox

  it('market-api:W-08 closes what a seller hands over, once, and tells the buyer', async () => {
    const [first, ...again] = [
      await complete(S1, { message: 'Sent with the morning post ' }),
      await complete(S1, { message: 'Sent again' }),
      await complete(S1),
    ]
    expect(first.status).toBe(200)
    expect(first.body).toEqual({
      orderId,
      id,
      seller: S1,
      offerType: 'manual',
      trigger: 'finalized',
      lineIndexes: [1],
      state: 'succeeded',
      reason: null,
      updatedAt: expect.stringMatching(/Z$/),
    })
    for (const { status, body } of again) expect([status, body]).toEqual([200, first.body])
    expect(await outbox()).toEqual([
      expect.objectContaining({
        source: 'fulfillment',
        payload: { '@type': 'Message', text: 'Sent with the morning post' },
      }),
    ])
    expect((await fulfillments(orderId)).lines[1]).toMatchObject({ state: 'succeeded', reason: null })
    const events = await orders.db
      .selectFrom('fulfillment_job_events')
      .select('kind')
      .where('job_id', '=', id)
      .orderBy('id')
      .execute()
    expect(events.map(({ kind }) => kind)).toEqual(['created', 'completed'])
    const job = await orders.db
      .selectFrom('fulfillment_jobs')
      .select(['status', 'attempts', 'completed_at', 'next_attempt_at'])
      .where('job_id', '=', id)
      .executeTakeFirstOrThrow()
    expect(job).toMatchObject({ status: 'done', attempts: 0, completed_at: expect.any(Date), next_attempt_at: null })
  })

  it('says so in words of its own when the seller has none', async () => {
    for (const body of [undefined, {}, { message: null }]) {
      expect((await complete(S1, body)).status, JSON.stringify(body)).toBe(200)
    }
    expect((await outbox())[0].payload).toEqual({ '@type': 'Message', text: 'Delivered by the seller' })
  })

  it('happens once when asked twenty times at once', async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, () => complete(S1, { message: 'Here' })))
    expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(200))
    expect(await outbox()).toHaveLength(1)
  })

  it('is for the seller of its lines alone', async () => {
    const otherOrder = await orders.place({ lines: ALL })
    const foreign = { status: 404, body: { error: 'Fulfillment not found', code: 'fulfillment_not_found' } }
    expect(await complete(S2)).toMatchObject(foreign)
    expect(await complete(BUYER)).toMatchObject(foreign)
    expect(await complete(S1, undefined, { orderId: otherOrder })).toMatchObject(foreign)
    expect(await complete(S1, undefined, { orderId: 'junk' })).toMatchObject(foreign)
    for (const junk of ['junk', '00000000-0000-0000-0000-000000000000', `${id}0`, '%00']) {
      expect(await complete(S1, undefined, { id: junk }), junk).toMatchObject(foreign)
    }
    expect((await complete(undefined)).status).toBe(401)
    expect(await complete(S1, undefined, { id: (await jobOf(orderId, 'codedispenser')).id })).toMatchObject({
      status: 409,
      body: { code: 'not_manual' },
    })
    expect(await states(orderId)).toEqual(['pending', 'manual', 'pending'])
  })

  it('refuses a body it cannot take', async () => {
    for (const body of ['nonsense', '[]', { message: 7 }, { message: 'x'.repeat(2001) }]) {
      expect((await complete(S1, body)).status, JSON.stringify(body).slice(0, 20)).toBe(400)
    }
    expect(
      (await orders.post(`/${orderId}/fulfillments/${id}/complete`, S1, 'x', { 'Content-Type': 'text/plain' })).status,
    ).toBe(415)
    expect((await complete(S1, { message: 'x'.repeat(2000) })).status).toBe(200)
  })

  it('lets the last event of an order go that waited for it', async () => {
    const told = async () =>
      (await orders.db.selectFrom('order_events').select('event_id').where('order_id', '=', orderId).execute()).length
    const before = await told()
    // As an operator leaves it who asked for the job to be tried: claimed by nobody yet, so the order has no outcome.
    await orders.db
      .updateTable('fulfillment_jobs')
      .set({ status: 'pending', attempts: 0 })
      .where('job_id', '=', id)
      .execute()
    for (const offerType of ['codedispenser', 'odoo']) {
      await orders.answer((await jobOf(orderId, offerType)).id, 'done', null)
    }
    await inTransaction(orders.db, (tx) =>
      sql`insert into order_events_held (order_id, history_id)
          select order_id, max(id) from orders_status_history where order_id = ${orderId} group by order_id
          on conflict do nothing`.execute(tx),
    )
    expect(await told()).toBe(before)
    await complete(S1)
    expect(await told()).toBe(before + 1)
  })
})

describe('a one-off', () => {
  it('is never claimed by a worker', async () => {
    const orderId = await orders.place({ lines: [PRINT] })
    await orders.complete(orderId)
    await sql`update fulfillment_jobs set next_attempt_at = null where order_id <> ${orderId}`.execute(orders.db)
    expect(await runFulfillmentJob(orders.ctx)).toBe(false)
    expect(await states(orderId)).toEqual(['manual'])
  })

  it('stays with its seller when its route was switched off meanwhile', async () => {
    const orderId = await orders.place({ lines: [{ ...PRINT, sku: 'gone' }] })
    await orders.complete(orderId)
    expect((await fulfillments(orderId)).items).toMatchObject([{ offerType: 'manual', state: 'manual' }])
  })

  it('is seen by what watches jobs', async () => {
    const orderId = await orders.place({ lines: [PRINT] })
    await orders.complete(orderId)
    const metrics = async () => {
      const text = await orders.ctx.metrics.registry.metrics()
      return Number(/^marketplace_fulfillment_jobs\{status="needs_attention",[^}]*\} (\d+)$/m.exec(text)![1])
    }
    const before = await metrics()
    await orders.post(`/${orderId}/fulfillments/${(await jobOf(orderId, 'manual')).id}/complete`, S1)
    expect(await metrics()).toBe(before - 1)
  })
})

describe('GET /orders/{id}/timeline', () => {
  let logIndex = 0
  const transfer = async (orderId: string, txHash: string, more: object = {}) => {
    const { payment_reference } = await orders.db
      .selectFrom('orders')
      .select('payment_reference')
      .where('order_id', '=', orderId)
      .executeTakeFirstOrThrow()
    await orders.db
      .insertInto('payment_transfers')
      .values({
        chain_id: 100,
        tx_hash: txHash,
        log_index: (logIndex += 1),
        block_number: 7,
        transaction_index: 0,
        block_hash: null,
        block_time: null,
        payment_reference,
        gateway_address: GATEWAY,
        payer_address: BUYER,
        payee_address: null,
        token_id: null,
        token_avatar: null,
        amount_wei: '67500000000000000000',
        eligible: true,
        ignored_reason: null,
        orphaned_at: null,
        ...more,
      })
      .execute()
  }
  type Event = { at: string; kind: string; text: string; data: Record<string, unknown> }
  const timeline = async (orderId: string, who = BUYER) => {
    const { status, body } = await orders.get(`/${orderId}/timeline`, who)
    expect(status).toBe(200)
    expect(body.orderId).toBe(orderId)
    const times = body.events.map(({ at }: Event) => at)
    expect(times).toEqual(times.toSorted())
    return body.events as Event[]
  }
  const told = (events: Event[]) => events.map(({ kind }) => kind)

  it('tells a buyer from the order to the last line of it what happened', async () => {
    const orderId = await orders.place({ lines: ALL, createdAt: new Date(Date.now() - 60_000) })
    await transfer(orderId, `0x1${orderId}`, {
      gateway_address: STRANGER,
      ignored_reason: 'unknown_gateway',
      eligible: null,
    })
    await transfer(orderId, `0x2${orderId}`)
    await orders.complete(orderId)
    await orders.answer((await jobOf(orderId, 'odoo')).id, 'needs_attention', 'depleted')
    await orders.answer((await jobOf(orderId, 'odoo')).id, 'needs_attention', 'depleted')
    await orders.answer((await jobOf(orderId, 'odoo')).id, 'done', null)
    await orders.answer((await jobOf(orderId, 'codedispenser')).id, 'done', null)
    await orders.post(`/${orderId}/fulfillments/${(await jobOf(orderId, 'manual')).id}/complete`, S1)

    const events = await timeline(orderId)
    expect(told(events).slice(0, 6)).toEqual([
      'placed',
      'paymentSeen',
      'paymentSeen',
      'paid',
      'confirmed',
      'paymentFinal',
    ])
    expect(told(events).slice(6, 9).toSorted()).toEqual(['deliveryByHand', 'deliveryDue', 'deliveryDue'])
    expect(told(events).slice(9)).toEqual(['deliveryWaits', 'delivered', 'delivered', 'delivered'])
    const texts = events.map(({ text }) => text)
    expect(texts[0]).toMatch(
      /^Order placed: 1 × Gift code, 1 × Heron print and 3 × Mug for 67\.5 CRC\. Payment is due by \d{4}-\d\d-\d\d \d\d:\d\d UTC\.$/,
    )
    expect(texts[1]).toBe(
      'A payment of 67.5 CRC arrived but does not count: it went to another address than this order is paid to.',
    )
    expect(texts[2]).toBe('A payment of 67.5 CRC arrived and counts.')
    expect(texts[9]).toMatch(/^There is no stock of Mug at the moment\. It is tried again\. \(2 times until .+ UTC\)$/)
    expect(texts.slice(10)).toEqual([
      'Delivered: Mug.',
      'Delivered: Gift code.',
      'The seller has handed over Heron print.',
    ])
    expect(events[2]!.data).toMatchObject({
      counted: true,
      amount: '67.5',
      payer: BUYER,
      transactionHash: `0x2${orderId}`,
    })
    expect(events[3]!.data).toEqual({ oldStatus: OrderStatus.paymentDue, newStatus: OrderStatus.paymentProcessing })
  })

  it('tells a seller what concerns them, neither who paid nor, beside others, how much', async () => {
    const orderId = await orders.place({ lines: ALL })
    await transfer(orderId, `0x3${orderId}`)
    await orders.complete(orderId)
    const events = await timeline(orderId, S2)
    expect(told(events)).toEqual(['placed', 'paymentSeen', 'paid', 'confirmed', 'paymentFinal', 'deliveryDue'])
    expect(events[0]).toMatchObject({
      text: expect.stringMatching(/^Order placed: 3 × Mug\. Payment is due by/),
      data: { lineIndexes: [2], total: null },
    })
    expect(events[1]).toMatchObject({ text: 'A payment arrived and counts.', data: { counted: true, amount: null } })
    const text = JSON.stringify(events)
    expect(text).not.toContain(BUYER)
    expect(text).not.toContain('0x3')
    expect(text).not.toContain('67.5')

    // Alone, the payment is what they are owed.
    const alone = await orders.place({ lines: [MUG] })
    await transfer(alone, `0x4${alone}`, { amount_wei: '22500000000000000000' })
    expect((await timeline(alone, S2))[1]!.text).toBe('A payment of 22.5 CRC arrived and counts.')
  })

  it('tells of an order that came to nothing, and of money that came too late', async () => {
    const expired = await orders.place({ lines: [MUG] })
    await orders.cancel(expired)
    await transfer(expired, `0x5${expired}`)
    const events = await timeline(expired)
    expect(told(events)).toEqual(['placed', 'expired', 'paymentSeen'])
    expect(events.map(({ text }) => text).slice(1)).toEqual([
      'The order was not paid in time and is cancelled.',
      'A payment of 67.5 CRC arrived after the order had been cancelled. Nothing is delivered for it.',
    ])
    const cancelled = await orders.place({ lines: [MUG] })
    await orders.cancel(cancelled, 'buyer')
    expect((await timeline(cancelled)).at(-1)).toMatchObject({
      kind: 'cancelled',
      text: 'The order was cancelled by its buyer.',
    })
  })

  it('is a 404 for everybody else', async () => {
    const orderId = await orders.place({ lines: [MUG] })
    for (const who of [S1, STRANGER]) expect((await orders.get(`/${orderId}/timeline`, who)).status).toBe(404)
  })
})
