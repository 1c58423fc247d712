import { LeaseLostError } from '@market/kit/lease'
import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import { describe, expect, it } from 'vitest'
import type { MarketContext } from '../src/context.ts'
import { runFulfillmentJob } from './runFulfillmentJob.ts'
import { expireOrders } from '../src/orders/expireOrders.ts'
import { takeLeadership } from '../src/payments/leadership.ts'
import { createPaymentMemory } from '../src/payments/paymentMemory.ts'
import { pollPayments } from '../src/payments/pollPayments.ts'
import { openStream } from './orderEventsWorld.ts'
import { BUYER, E18, freeLease, paymentMarkets, type PaymentWorld, type Placed, SELLER } from './paymentWorld.ts'
import { AVATAR, type Fault, GATEWAY, payment, secondsOf, transaction, trust } from './scriptedChain.ts'

// payments.md 20, and of its weaknesses (19) those without a vector, on a real database and over HTTP to a chain by script.

const start = paymentMarkets()

const OTHER_GATEWAY = `0x${'6b'.repeat(20)}`
const OTHER_AVATAR = `0x${'cc'.repeat(20)}`
const OTHER_SELLER = `0x${'5f'.repeat(20)}`

const TO_THE_NODE = ['eth_chainId', 'eth_blockNumber', 'eth_getBlockByNumber', 'eth_getTransactionReceipt']
const fail = (world: PaymentWorld, fault: Fault, ...methods: string[]) => {
  for (const method of methods) world.chain.faults.set(method, fault)
}
const mend = (world: PaymentWorld) => world.chain.faults.clear()

describe('amounts', () => {
  it('payments:P16 a payment in two parts pays with the second', async () => {
    const world = await start()
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 4n * E18))
    await world.poll()
    expect(await world.standing(order)).toBe('due')
    expect(await world.order(order)).toMatchObject({ paid_amount_wei: String(4n * E18) })
    world.chain.mine(world.paying(order, 6n * E18))
    await world.poll()
    expect(await world.standing(order)).toBe('paid')
    expect(await world.order(order)).toMatchObject({ paid_amount_wei: String(10n * E18) })
    expect(await world.history(order)).toEqual(['OrderPaymentDue', 'PaymentProcessing'])
  })

  it('payments:P16 one wei short is not paid, and the last wei pays', async () => {
    const world = await start()
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 10n * E18 - 1n))
    await world.pollAt(200)
    expect(await world.standing(order)).toBe('due')
    world.chain.mine(world.paying(order, 1n))
    await world.poll()
    expect(await world.standing(order)).toBe('paid')
  })

  it('payments:P17 payments:W20 what came on top is on record, counted and logged', async () => {
    const world = await start()
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 12n * E18))
    await world.poll()
    expect(await world.history(order)).toEqual(['OrderPaymentDue', 'PaymentProcessing'])
    expect(await world.order(order)).toMatchObject({ paid_amount_wei: String(12n * E18), price_wei: String(10n * E18) })
    expect(await world.metric('payments_overpaid_total')).toBe(1)
    expect(world.said('warn', /overpaid/)).toMatchObject([{ fields: { orderId: order.orderId, overCrc: '2' } }])
    // Also when it is complete, and each time once.
    await world.pollAt(112)
    world.chain.mine(world.paying(order, E18))
    await world.poll()
    await world.poll()
    expect(await world.standing(order)).toBe('complete')
    expect(await world.order(order)).toMatchObject({ paid_amount_wei: String(13n * E18) })
    expect(await world.metric('payments_overpaid_total')).toBe(2)
    expect(await world.jobs(order)).toHaveLength(1)
  })

  it('payments:W4 names the transfer with which the price was reached', async () => {
    const world = await start()
    const order = await world.place()
    const untrusted = world.paying(order, 10n * E18, { token: OTHER_AVATAR })
    const parts = [world.paying(order, 1n), world.paying(order, 4n * E18)]
    const crossing = transaction(payment('somebody else', E18), payment(order.reference, 6n * E18))
    world.chain.mineAt(90, untrusted)
    world.chain.mineAt(100, ...parts, crossing, world.paying(order, 10n * E18))
    await world.poll()
    expect(await world.order(order)).toMatchObject({ paid_tx_hash: crossing.hash, paid_log_index: 3 })
    await world.pollAt(200)
    expect(await world.order(order)).toMatchObject({ paid_tx_hash: crossing.hash, paid_log_index: 3 })
  })

  it('payments:P18 a token that the gateway does not trust pays nothing', async () => {
    const world = await start()
    const order = await world.place()
    const sent = world.paying(order, 10n * E18, { token: OTHER_AVATAR })
    world.chain.mineAt(100, sent)
    await world.pollAt(200)
    expect(await world.standing(order)).toBe('due')
    expect(await world.order(order)).toMatchObject({ paid_amount_wei: '0' })
    expect(await world.transferOf(sent)).toMatchObject({ eligible: false, ignored_reason: 'untrusted_token' })
    expect(await world.metric('payments_ineligible_token_total')).toBe(1)
    // Mined again, it is no other.
    world.chain.reorg(100)
    world.chain.mine(sent)
    await world.pollAt(201)
    expect(await world.transferOf(sent)).toMatchObject({ eligible: false, doubted_at: null, orphaned_at: null })
    expect(await world.metric('payments_ineligible_token_total')).toBe(1)
  })

  it('payments:P19 a log that is delivered again counts once and tells nothing', async () => {
    const world = await start()
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 5n * E18), world.paying(order, 5n * E18))
    await world.poll()
    const before = [await world.order(order), await world.transfers(), await world.history(order)]
    await world.poll()
    // As after `ops payments replay`, by a process that remembers nothing.
    await sql`update payments_cursors set last_block_number = 50 where chain_id = ${world.chainId}`.execute(world.db)
    world.ctx.paymentMemory = createPaymentMemory()
    await world.poll()
    expect([await world.order(order), await world.transfers(), await world.history(order)]).toEqual(before)
    expect(await world.cursor()).toEqual([100, 1, 1])
  })

  it('payments:P24 payments:W1 a gateway of somebody else pays for nothing, whatever it trusts', async () => {
    const world = await start({ PAYMENT_GATEWAY_FACTORY: `0x${'fa'.repeat(20)}` })
    const order = await world.place()
    world.chain.mine(transaction(trust(AVATAR, { gateway: OTHER_GATEWAY })))
    const sent = world.paying(order, 10n * E18, { gateway: OTHER_GATEWAY })
    world.chain.mineAt(100, sent)
    await world.pollAt(200)
    expect(await world.standing(order)).toBe('due')
    expect(await world.order(order)).toMatchObject({ paid_amount_wei: '0' })
    expect(await world.transferOf(sent)).toMatchObject({ ignored_reason: 'unknown_gateway', eligible: null })
    expect(world.said('warn', /not credited/)).toMatchObject([{ fields: { reason: 'unknown_gateway' } }])
  })

  it('payments:W20 what is too little is on record', async () => {
    const world = await start()
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 3n * E18), world.paying(order, 2n * E18))
    await world.pollAt(200)
    expect(await world.standing(order)).toBe('due')
    expect(await world.order(order)).toMatchObject({
      paid_amount_wei: String(5n * E18),
      payment_seen_at: expect.any(Date),
      settle_at_block: null,
    })
  })

  it('payments:W21 an order of another chain is not paid on this one', async () => {
    const world = await start()
    const order = await world.place({ onChain: world.chainId + 1_000_000 })
    const sent = world.paying(order, 10n * E18)
    world.chain.mineAt(100, sent)
    await world.pollAt(200)
    expect(await world.standing(order)).toBe('due')
    expect(await world.transferOf(sent)).toMatchObject({ ignored_reason: 'no_order' })
    expect(await world.metric('payments_unmatched_total')).toBe(1)
  })

  it('payments:W27 payments:W20 what comes for a cancelled order is recorded, and credited to nobody', async () => {
    const world = await start()
    const order = await world.place()
    await world.pollAt(90)
    const later = Date.now() + 2_000_000
    world.ctx.now = () => new Date(later)
    await world.poll()
    await expireOrders(world.ctx)
    expect(await world.standing(order)).toBe('cancelled')

    const sent = world.paying(order, 10n * E18)
    world.chain.mineAt(100, sent)
    await world.poll()
    expect(await world.order(order)).toMatchObject({ settle_at_block: null })
    await world.pollAt(200)
    expect(await world.standing(order)).toBe('cancelled')
    expect(await world.order(order)).toMatchObject({
      paid_at: null,
      paid_amount_wei: String(10n * E18),
      settle_at_block: null,
    })
    expect(await world.transferOf(sent)).toMatchObject({ eligible: true, ignored_reason: null })
    expect(await world.metric('payments_late_total')).toBe(1)
    expect(await world.history(order)).toEqual(['OrderPaymentDue', 'OrderCancelled'])
    expect(await world.jobs(order)).toEqual([])
  })
})

describe('depth', () => {
  it('payments:P20 confirmed with three blocks on top, complete with twelve', async () => {
    const world = await start()
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 10n * E18))
    const standings: string[] = []
    for (const head of [100, 102, 103, 111, 112]) {
      await world.pollAt(head)
      standings.push(`${head} ${await world.standing(order)}`)
    }
    expect(standings).toEqual(['100 paid', '102 paid', '103 confirmed', '111 confirmed', '112 complete'])
    expect(await world.history(order)).toEqual(['OrderPaymentDue', 'PaymentProcessing', 'PaymentComplete'])
    expect(await world.jobs(order)).toMatchObject([{ trigger: 'finalized' }])
    expect(await world.metric('orders_finalized_total')).toBe(1)
    expect(await world.metric('payment_amount_crc_total')).toBe(10)
  })

  it('payments:P21 payments:W3 dust lends its age to no later payment', async () => {
    const world = await start()
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 1n))
    await world.pollAt(199)
    world.chain.mine(world.paying(order, 10n * E18))
    const standings: string[] = []
    for (const head of [200, 203, 211, 212]) {
      await world.pollAt(head)
      standings.push(`${head} ${await world.standing(order)}`)
    }
    expect(standings).toEqual(['200 paid', '203 confirmed', '211 confirmed', '212 complete'])
  })

  it('payments:P22 payments:W2 an order topped up long after its first payment completes, with its jobs', async () => {
    const world = await start()
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 4n * E18))
    await world.pollAt(500)
    expect(await world.standing(order)).toBe('due')
    world.chain.mine(world.paying(order, 6n * E18))
    await world.poll()
    expect(await world.standing(order)).toBe('paid')
    await world.pollAt(513)
    expect(await world.standing(order)).toBe('complete')
    expect(await world.order(order)).toMatchObject({ confirmed_at: expect.any(Date), finalized_at: expect.any(Date) })
    expect(await world.jobs(order)).toMatchObject([{ trigger: 'finalized' }])
  })

  it('payments:P23 a payment that was there before its order pays it', async () => {
    const world = await start()
    const reference = `pay_${'7'.repeat(27)}${world.chainId}A`
    const [sent, elsewhere] = [
      { reference, orderId: '' },
      { reference, orderId: '' },
    ]
    world.chain.mineAt(
      100,
      world.paying(sent, 10n * E18),
      world.paying(elsewhere, 10n * E18, { gateway: OTHER_GATEWAY }),
    )
    await world.poll()
    expect(await world.transfers()).toMatchObject([{ ignored_reason: 'no_order' }, { ignored_reason: 'no_order' }])
    expect(await world.metric('payments_unmatched_total')).toBe(2)

    const order = await world.place({ reference })
    await world.poll()
    expect(await world.standing(order)).toBe('paid')
    expect(await world.transfers()).toMatchObject([{ ignored_reason: null }, { ignored_reason: 'unknown_gateway' }])
    await world.pollAt(103)
    expect(await world.standing(order)).toBe('confirmed')
    await world.pollAt(112)
    expect(await world.standing(order)).toBe('complete')
    expect(await world.jobs(order)).toHaveLength(1)
  })

  it('payments:P23 however old it is by then', async () => {
    const world = await start()
    const reference = `pay_${'7'.repeat(27)}${world.chainId}A`
    world.chain.mineAt(100, transaction(payment(reference, 10n * E18)))
    await world.pollAt(500)
    const order = await world.place({ reference })
    await world.poll()
    expect(await world.standing(order)).toBe('complete')
    expect(await world.history(order)).toEqual(['OrderPaymentDue', 'PaymentProcessing', 'PaymentComplete'])
  })

  it('payments:P23 an order placed in the middle of the poll that reads its payment is paid too', async () => {
    const world = await start()
    const other = await world.place()
    const reference = `pay_${'7'.repeat(27)}${world.chainId}A`
    world.chain.mineAt(100, world.paying(other, 10n * E18), transaction(payment(reference, 10n * E18)))
    const orders: Placed[] = []
    // The page is judged, and not stored yet.
    fail(
      world,
      async (honest) => {
        mend(world)
        orders.push(await world.place({ reference }))
        return honest
      },
      'TrustUpdated',
    )
    await world.poll()
    await world.poll()
    expect(await world.standing(orders[0]!)).toBe('paid')
  })

  it('payments:P40 0 confirmations: confirmed as soon as it is seen', async () => {
    const world = await start({ CONFIRM_CONFIRMATIONS: '0' })
    const order = await world.place({ trigger: 'confirmed' })
    world.chain.mineAt(100, world.paying(order, 10n * E18))
    await world.poll()
    expect(await world.standing(order)).toBe('confirmed')
    expect(await world.jobs(order)).toMatchObject([{ trigger: 'confirmed' }])
    await world.pollAt(112)
    expect(await world.standing(order)).toBe('complete')
  })

  it('payments:P40 also when the indexer has the block before the node', async () => {
    const world = await start({ CONFIRM_CONFIRMATIONS: '0' })
    const order = await world.place({ trigger: 'confirmed' })
    world.chain.mineTo(99)
    world.chain.hold('node', world.chain.blocks())
    world.chain.mine(world.paying(order, 10n * E18))
    await world.poll()
    expect(await world.standing(order)).toBe('confirmed')
  })

  it('payments:P40 0 for both: complete as soon as it is seen', async () => {
    const world = await start({ CONFIRM_CONFIRMATIONS: '0', FINALIZE_CONFIRMATIONS: '0' })
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 10n * E18))
    await world.poll()
    expect(await world.standing(order)).toBe('complete')
    expect(await world.history(order)).toEqual(['OrderPaymentDue', 'PaymentProcessing', 'PaymentComplete'])
  })
})

describe('what is wrong with the source', () => {
  it('payments:P27 payments:W7 payments:W26 an error is no empty page; orders go on', async () => {
    const world = await start()
    const [deep, late] = [await world.place(), await world.place()]
    world.chain.mineAt(100, world.paying(deep, 10n * E18))
    await world.poll()
    const cursor = await world.cursor()
    world.chain.mine(world.paying(late, 10n * E18))
    fail(world, 'error', 'PaymentReceived')
    await expect(world.pollAt(103)).rejects.toThrow('circles_query')
    expect(await world.standing(deep)).toBe('confirmed')
    expect(await world.metric('payments_query_failures_total')).toBe(1)
    await expect(world.pollAt(112)).rejects.toThrow('circles_query')
    expect(await world.standing(deep)).toBe('complete')
    expect(await world.metric('payments_query_failures_total')).toBe(2)
    expect(await world.cursor()).toEqual(cursor)
    expect(await world.standing(late)).toBe('due')
    mend(world)
    await world.poll()
    expect(await world.standing(late)).toBe('confirmed')
  })

  it.each([
    ['HTTP 500', 'http'],
    ['cut connections', 'cut'],
    ['no results', () => undefined],
  ] as [string, Fault][])(
    'payments:W26 while the indexer is down (%s) what is paid becomes deep, and nobody is cancelled',
    async (_, fault) => {
      const world = await start()
      const [deep, unpaid] = [await world.place(), await world.place()]
      world.chain.mineAt(100, world.paying(deep, 10n * E18))
      await world.poll()
      fail(world, fault, 'PaymentReceived', 'TrustUpdated')
      const later = Date.now() + 2_000_000
      world.ctx.now = () => new Date(later)
      await expect(world.pollAt(112)).rejects.toThrow('circles_query')
      await expireOrders(world.ctx)
      expect(await world.standing(deep)).toBe('complete')
      expect(await world.standing(unpaid)).toBe('due')
      mend(world)
      await world.poll()
      await expireOrders(world.ctx)
      expect(await world.standing(unpaid)).toBe('cancelled')
    },
  )

  it('payments:W26 while the node is down payments are seen and none of them is deep', async () => {
    const world = await start()
    const [deep, late] = [await world.place(), await world.place()]
    world.chain.mineAt(100, world.paying(deep, 10n * E18))
    await world.poll()
    fail(world, 'cut', ...TO_THE_NODE)
    world.chain.mineAt(120, world.paying(late, 10n * E18))
    world.chain.mineTo(200)
    await expect(world.poll()).rejects.toThrow('eth_')
    expect([await world.standing(deep), await world.standing(late)]).toEqual(['paid', 'paid'])
    mend(world)
    await world.poll()
    expect([await world.standing(deep), await world.standing(late)]).toEqual(['complete', 'complete'])
  })

  it('payments:W8 a renamed column keeps the cursor where it is, and loses nothing', async () => {
    const world = await start()
    const order = await world.place()
    await world.pollAt(90)
    world.chain.mineAt(100, world.paying(order, 10n * E18))
    for (const column of ['gateway', 'data', 'amount', 'tokenId', 'timestamp', 'transactionHash', 'logIndex']) {
      const rename = (name: string) => (name === column ? `${name}2` : name)
      fail(world, ({ columns, rows }) => ({ columns: columns.map(rename), rows }), 'PaymentReceived')
      await expect(world.poll()).rejects.toThrow(column)
      expect(await world.cursor()).toBeUndefined()
    }
    expect(await world.transfers()).toEqual([])
    mend(world)
    await world.poll()
    expect(await world.standing(order)).toBe('paid')
  })

  it('payments:W15 a backlog of many pages is read in one round, the cursor kept page by page', async () => {
    const world = await start({ PAGE_SIZE: '2' })
    const orders = await Promise.all(Array.from({ length: 11 }, () => world.place()))
    for (const [n, order] of orders.entries()) world.chain.mineAt(100 + n, world.paying(order, 10n * E18))
    let pages = 0
    const failing = (honest: unknown) => {
      pages += 1
      if (pages === 4) throw new Error('broke down')
      return honest
    }
    fail(world, failing, 'PaymentReceived')
    await expect(world.poll()).rejects.toThrow('broke down')
    expect(await world.cursor()).toEqual([105, 0, 0])
    expect(await world.transfers()).toHaveLength(6)
    expect(await world.poll()).toBe(false)
    expect(await world.transfers()).toHaveLength(11)
    expect(await world.cursor()).toEqual([110, 0, 0])
    for (const order of orders) expect(await world.standing(order)).not.toBe('due')
  })

  it('payments:W15 two payments of one transaction on two pages are two payments', async () => {
    const world = await start({ PAGE_SIZE: '1' })
    const order = await world.place()
    const half = payment(order.reference, 5n * E18)
    world.chain.mineAt(100, transaction(half, half))
    await world.poll()
    expect(await world.standing(order)).toBe('paid')
    await world.pollAt(112)
    expect(await world.standing(order)).toBe('complete')
    expect(await world.metric('payments_orphaned_total')).toBe(0)
  })

  it('payments:W15 also long after, when the node has forgotten their receipt', async () => {
    const world = await start({ PAGE_SIZE: '1' })
    const order = await world.place()
    const half = payment(order.reference, 5n * E18)
    world.chain.mineAt(100, transaction(half, half))
    fail(world, () => null, 'eth_getTransactionReceipt')
    await world.pollAt(5000)
    await world.poll()
    expect(await world.standing(order)).toBe('complete')
    // As `ops payments replay` does.
    await sql`update payments_cursors set last_block_number = 50 where chain_id = ${world.chainId}`.execute(world.db)
    await world.poll()
    await world.poll()
    expect(await world.standing(order)).toBe('complete')
    expect(await world.metric('payments_orphaned_total')).toBe(0)
  })

  it('payments:W23 keeps when it was paid and when that was seen apart', async () => {
    const world = await start()
    const order = await world.place()
    const sent = world.paying(order, 10n * E18)
    world.chain.mineAt(100, sent)
    const nowMs = Date.now() + 60_000
    world.ctx.now = () => new Date(nowMs)
    await world.poll()
    expect((await world.order(order)).paid_at).toEqual(new Date(nowMs))
    const { block_time, observed_at } = (await world.transferOf(sent))!
    expect(block_time).toEqual(new Date(secondsOf(100) * 1000))
    expect(Math.abs(observed_at.getTime() - Date.now())).toBeLessThan(30_000)
  })

  it('payments:P4 payments:P6 what names no payment is passed, and kept for people to see', async () => {
    const world = await start()
    const order = await world.place()
    const unreadable = ['pay_12', ' ', 'x'.repeat(257), 'a\0b']
    world.chain.mineAt(
      100,
      ...unreadable.map((text) => transaction(payment(text, E18))),
      world.paying(order, 10n * E18),
    )
    await world.poll()
    expect(await world.standing(order)).toBe('paid')
    expect(await world.cursor()).toEqual([100, 4, 4])
    const rows = await rowErrors(world)
    expect(rows.map(({ reason }) => reason)).toEqual(unreadable.map(() => 'no_reference'))
    expect(rows[0]).toMatchObject({ amount_wei: String(E18), gateway_address: GATEWAY })
    expect(await world.metric('payments_row_errors_total')).toBe(4)
    expect(await world.metric('payments_lag_blocks')).toBe(0)
  })

  it('payments:W5 a log that shows up behind the cursor is found', async () => {
    const world = await start()
    const [first, second] = [await world.place(), await world.place()]
    const left = world.paying(first, 10n * E18)
    world.chain.mineAt(100, left)
    world.chain.mineAt(105, world.paying(second, 10n * E18))
    world.chain.hidden.add(left.hash)
    await world.pollAt(110)
    expect(await world.cursor()).toEqual([105, 0, 0])
    expect(await world.standing(first)).toBe('due')
    world.chain.hidden.clear()
    await world.pollAt(160)
    expect(await world.standing(first)).toBe('complete')
    expect(await world.cursor()).toEqual([105, 0, 0])
  })

  it('payments:W5 a row that the indexer leaves out is asked of the node, and stays', async () => {
    const world = await start()
    const order = await world.place()
    const sent = world.paying(order, 10n * E18)
    world.chain.mineAt(100, sent)
    await world.poll()
    world.chain.hidden.add(sent.hash)
    // Who can't be asked settles nothing.
    fail(world, 'error', 'eth_getTransactionReceipt')
    await expect(world.pollAt(103)).rejects.toThrow('eth_getTransactionReceipt')
    expect(await world.transferOf(sent)).toMatchObject({ orphaned_at: null, doubted_at: expect.any(Date) })
    expect(await world.standing(order)).toBe('paid')
    mend(world)
    await world.poll()
    await world.poll()
    expect(await world.transferOf(sent)).toMatchObject({ orphaned_at: null, doubted_at: null, eligible: true })
    expect(await world.standing(order)).toBe('confirmed')
    world.chain.hidden.clear()
    await world.pollAt(112)
    expect(await world.standing(order)).toBe('complete')
    expect(await world.history(order)).toEqual(['OrderPaymentDue', 'PaymentProcessing', 'PaymentComplete'])
    expect(await world.metric('payments_orphaned_total')).toBe(0)
  })

  it('payments:W5 a node that has not got the block yet takes nothing away', async () => {
    const world = await start()
    const order = await world.place()
    const sent = world.paying(order, 10n * E18)
    world.chain.mineAt(100, sent)
    await world.poll()
    world.chain.hidden.add(sent.hash)
    world.chain.hold('node', world.chain.blocks().slice(0, 96))
    await world.poll()
    expect(await world.transferOf(sent)).toMatchObject({ orphaned_at: null })
    expect(await world.standing(order)).toBe('paid')
    world.chain.letGo('node')
    world.chain.hidden.clear()
    await world.pollAt(112)
    expect(await world.standing(order)).toBe('complete')
    expect(await world.history(order)).toEqual(['OrderPaymentDue', 'PaymentProcessing', 'PaymentComplete'])
  })

  it('changes nothing by a node that is behind what it has said before', async () => {
    const world = await start()
    const [deep, fresh] = [await world.place(), await world.place()]
    world.chain.mineAt(100, world.paying(deep, 10n * E18))
    await world.poll()
    await world.pollAt(105)
    world.chain.mine(world.paying(fresh, 10n * E18))
    await world.poll()
    const everything = async () => [await world.order(deep), await world.order(fresh), await world.transfers()]
    const before = await everything()
    world.chain.hold('node', world.chain.blocks().slice(0, 91))
    await world.poll()
    await world.poll()
    expect(await everything()).toEqual(before)
    expect(await world.metric('payments_reorgs_total')).toBe(0)
    world.chain.letGo('node')
    await world.pollAt(118)
    expect([await world.standing(deep), await world.standing(fresh)]).toEqual(['complete', 'complete'])
    expect(await world.metric('payments_reorgs_total')).toBe(0)
  })

  it('believes no head that the node has no block for', async () => {
    const world = await start()
    const [deep, fresh] = [await world.place(), await world.place()]
    world.chain.mineAt(100, world.paying(deep, 10n * E18))
    await world.poll()
    world.chain.mine(world.paying(fresh, 10n * E18))
    fail(world, () => '0xffffff', 'eth_blockNumber')
    await expect(world.poll()).rejects.toThrow('does not have that block')
    expect([await world.standing(deep), await world.standing(fresh)]).toEqual(['paid', 'paid'])
    expect(await world.metric('payments_query_failures_total')).toBe(1)
    mend(world)
    await world.pollAt(112)
    expect([await world.standing(deep), await world.standing(fresh)]).toEqual(['complete', 'confirmed'])
  })

  it('believes no node of another chain', async () => {
    const world = await start()
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 10n * E18))
    world.chain.mineTo(200)
    fail(world, () => '0x2105', 'eth_chainId')
    await expect(world.poll()).rejects.toThrow('chain 8453')
    expect(await world.standing(order)).toBe('paid')
    mend(world)
    await world.poll()
    expect(await world.standing(order)).toBe('complete')
  })
})

const rowErrors = (world: PaymentWorld) =>
  world.db
    .selectFrom('payment_row_errors')
    .selectAll()
    .where('chain_id', '=', world.chainId)
    .orderBy('transaction_index')
    .execute()

/** The database refuses rows of which this is true, until `undo`. */
async function refuseRows(world: PaymentWorld, table: string, condition: string) {
  const run = (text: string) => sql.raw(text).execute(world.db)
  await run(`create function refuse_rows() returns trigger language plpgsql as
    'begin if ${condition.replaceAll("'", "''")} then raise exception ''refused''; end if; return new; end'`)
  await run(
    `create trigger refuse_rows before insert or update on ${table} for each row execute function refuse_rows()`,
  )
  return () => run('drop function refuse_rows() cascade')
}

describe('rows that the database refuses', () => {
  it('payments:P28 payments:W9 one of ten: the others are processed, it is recorded, the cursor is at the end', async () => {
    const world = await start()
    const orders = await Promise.all(Array.from({ length: 10 }, () => world.place()))
    const sent = orders.map((order) => world.paying(order, 10n * E18))
    world.chain.mineAt(100, ...sent)
    const [badOrder, bad] = [orders[3]!, sent[3]!]
    const undo = await refuseRows(world, 'payment_transfers', `new.tx_hash = '${bad.hash}'`)
    try {
      await world.poll()
    } finally {
      await undo()
    }
    expect(await world.cursor()).toEqual([100, 9, 9])
    expect((await world.transfers()).map(({ tx_hash }) => tx_hash)).toEqual(
      sent.filter((one) => one !== bad).map(({ hash }) => hash),
    )
    for (const order of orders) expect(await world.standing(order)).toBe(order === badOrder ? 'due' : 'paid')
    expect(await rowErrors(world)).toMatchObject([
      { tx_hash: bad.hash, log_index: 3, reason: 'refused', amount_wei: String(10n * E18), gateway_address: GATEWAY },
    ])
    expect(await world.metric('payments_row_errors_total')).toBe(1)
    expect(world.said('error', /not stored/)).toMatchObject([{ fields: { tx: bad.hash } }])

    // What was wrong is mended: the next process finds it in the last blocks.
    world.ctx.paymentMemory = createPaymentMemory()
    await world.poll()
    expect(await world.standing(badOrder)).toBe('paid')
  })

  it('payments:W9 an order that can not be moved holds up no other', async () => {
    const world = await start()
    const [bad, ...others] = await Promise.all([world.place(), world.place(), world.place()])
    world.chain.mineAt(100, ...[bad!, ...others].map((order) => world.paying(order, 10n * E18)))
    await world.poll()
    const undo = await refuseRows(world, 'orders', `new.order_id = '${bad!.orderId}'`)
    try {
      await expect(world.pollAt(103)).rejects.toThrow('refused')
    } finally {
      await undo()
    }
    for (const order of others) expect(await world.standing(order)).toBe('confirmed')
    expect(await world.standing(bad!)).toBe('paid')
    await world.poll()
    expect(await world.standing(bad!)).toBe('confirmed')
  })
})

describe('a chain that changes its mind', () => {
  it('payments:P25 payments:W5 a payment that is gone counts no more, and the order waits again', async () => {
    const world = await start()
    const order = await world.place()
    const sent = world.paying(order, 10n * E18)
    await world.pollAt(95)
    world.chain.mineAt(100, sent)
    await world.pollAt(101)
    expect(await world.standing(order)).toBe('paid')
    const due = (await world.order(order)).payment_due_by

    const later = Date.now() + 900_000
    world.ctx.now = () => new Date(later)
    world.chain.reorg(100)
    await world.pollAt(102)
    expect(await world.standing(order)).toBe('due')
    expect(await world.transferOf(sent)).toMatchObject({ orphaned_at: expect.any(Date), doubted_at: null })
    expect(await world.order(order)).toMatchObject({ paid_amount_wei: '0', paid_tx_hash: null, paid_log_index: null })
    expect((await world.order(order)).payment_due_by.getTime()).toBeGreaterThan(due.getTime())
    expect(await world.metric('payments_reorgs_total')).toBe(1)
    expect(await world.metric('payments_orphaned_total')).toBe(1)
    expect(world.said('warn', /unpaid again/)).toHaveLength(1)
    expect(world.said('error', /./)).toEqual([])
    expect(await observed(world)).toMatchObject({ reorg_at: expect.any(Date), reorg_depth: 6 })

    // It comes in again, later.
    world.chain.mine(sent)
    await world.pollAt(106)
    expect(await world.standing(order)).toBe('confirmed')
    expect(await world.transferOf(sent)).toMatchObject({ orphaned_at: null, block_number: '103' })
    expect(await world.history(order)).toEqual([
      'OrderPaymentDue',
      'PaymentProcessing',
      'OrderPaymentDue',
      'PaymentProcessing',
    ])
  })

  it('payments:P25 without a receipt to look at, it is in doubt: neither gone nor deep', async () => {
    const world = await start()
    const order = await world.place()
    const sent = world.paying(order, 10n * E18)
    world.chain.mineAt(100, sent)
    await world.poll()
    world.chain.reorg(100)
    fail(world, 'error', 'eth_getTransactionReceipt')
    await expect(world.pollAt(120)).rejects.toThrow('eth_getTransactionReceipt')
    expect(await world.standing(order)).toBe('paid')
    mend(world)
    await world.poll()
    expect(await world.standing(order)).toBe('due')
  })

  it('takes the cursor back to where the branches part, and no further than it knows', async () => {
    const world = await start()
    const [old, replaced] = [await world.place(), await world.place()]
    const [before, after] = [world.paying(old, 10n * E18), world.paying(replaced, 10n * E18)]
    world.chain.mineAt(90, before)
    for (const head of [90, 94, 98]) await world.pollAt(head)
    world.chain.mineAt(100, after)
    await world.pollAt(102)
    world.chain.reorg(97)
    world.chain.mineAt(99, after)
    world.chain.mineTo(103)
    const asked = world.chain.asked.length
    await world.poll()
    const first = world.chain.asked.slice(asked).find(({ what }) => what === 'PaymentReceived')!
    // 94 is the newest block that was read and still stands.
    expect(JSON.stringify(first.params)).toContain('"filterType":"GreaterThan","column":"blockNumber","value":94')
    expect(await observed(world)).toMatchObject({ reorg_depth: 8 })
    expect(await world.transferOf(after)).toMatchObject({ block_number: '99', orphaned_at: null, doubted_at: null })
    expect(await world.cursor()).toEqual([99, 0, 0])
    expect([await world.standing(old), await world.standing(replaced)]).toEqual(['complete', 'confirmed'])
    expect(await world.history(replaced)).toEqual(['OrderPaymentDue', 'PaymentProcessing'])
  })

  it.each([5n, 10n, 20n])(
    'payments:P26 a transaction mined again at another log index counts once: %d of 10 CRC',
    async (crc) => {
      const world = await start()
      const order = await world.place()
      const sent = world.paying(order, crc * E18)
      world.chain.mineAt(100, { ...sent, logIndex: 7 })
      await world.pollAt(101)
      const standing = crc < 10n ? 'due' : 'paid'
      expect(await world.standing(order)).toBe(standing)
      const [history, overpaid] = [await world.history(order), await world.metric('payments_overpaid_total')]

      world.chain.reorg(100)
      world.chain.mine({ ...sent, logIndex: 9 })
      await world.pollAt(102)
      expect(await world.standing(order)).toBe(standing)
      expect(await world.order(order)).toMatchObject({ paid_amount_wei: String(crc * E18) })
      expect(await world.transfers()).toMatchObject([
        { log_index: 7, orphaned_at: expect.any(Date) },
        { log_index: 9, orphaned_at: null },
      ])
      // Nor was it twice the money for a moment.
      expect(await world.history(order)).toEqual(history)
      expect(await world.metric('payments_overpaid_total')).toBe(overpaid)
    },
  )

  it('payments:P26 not even when goods are delivered as soon as a payment is seen', async () => {
    const world = await start({ CONFIRM_CONFIRMATIONS: '0', FINALIZE_CONFIRMATIONS: '0' })
    const order = await world.place()
    const sent = world.paying(order, 5n * E18)
    world.chain.mineAt(100, { ...sent, logIndex: 7 })
    await world.pollAt(101)
    world.chain.reorg(100)
    world.chain.mine({ ...sent, logIndex: 9 })
    await world.pollAt(102)
    expect(await world.standing(order)).toBe('due')
    expect(await world.jobs(order)).toEqual([])
  })

  it('payments:P26 found in the last blocks, when the head gives nothing away', async () => {
    const world = await start()
    const order = await world.place()
    const sent = world.paying(order, 5n * E18)
    world.chain.mineAt(100, { ...sent, logIndex: 7 })
    // The indexer saw a branch that the node never had.
    const branch = world.chain.blocks()
    world.chain.reorg(100)
    world.chain.mine({ ...sent, logIndex: 9 })
    world.chain.mineTo(101)
    world.chain.hold('indexer', branch)
    await world.poll()
    expect(await world.transfers()).toMatchObject([{ log_index: 7 }])
    world.chain.letGo('indexer')
    await world.pollAt(102)
    expect(await world.transfers()).toMatchObject([
      { log_index: 7, orphaned_at: expect.any(Date) },
      { log_index: 9, orphaned_at: null },
    ])
    expect(await world.standing(order)).toBe('due')
    expect(await world.history(order)).toEqual(['OrderPaymentDue'])
  })

  it('payments:P25 holds what nobody has begun to deliver, and lets it go on when the money is back', async () => {
    const world = await start()
    const adapter = await world.openAdapter()
    const order = await world.place({ trigger: 'confirmed' })
    const sent = world.paying(order, 10n * E18)
    world.chain.mineAt(100, sent)
    await world.pollAt(103)
    expect(await world.jobs(order)).toMatchObject([{ status: 'pending', reason: null, attempts: 0 }])

    world.chain.reorg(100)
    await world.pollAt(104)
    expect(await world.standing(order)).toBe('due')
    expect(await world.jobs(order)).toMatchObject([
      { status: 'needs_attention', reason: 'payment_reverted', next_attempt_at: null },
    ])
    expect(await runFulfillmentJob(world.ctx)).toBe(false)

    // Not before it is as deep as the first time.
    world.chain.mine(sent)
    await world.pollAt(107)
    expect(await world.standing(order)).toBe('paid')
    expect(await runFulfillmentJob(world.ctx)).toBe(false)
    await world.pollAt(108)
    expect(await world.standing(order)).toBe('confirmed')
    expect(await world.jobs(order)).toMatchObject([
      { status: 'pending', reason: null, next_attempt_at: expect.any(Date) },
    ])
    expect(await runFulfillmentJob(world.ctx)).toBe(true)
    expect(await runFulfillmentJob(world.ctx)).toBe(false)
    expect(adapter.delivered).toHaveLength(1)
    expect(await world.jobs(order)).toMatchObject([{ status: 'done' }])
  })

  it('payments:P25 takes nothing back once delivery began, and raises an alarm', async () => {
    const world = await start()
    const adapter = await world.openAdapter()
    const order = await world.place({ trigger: 'confirmed' })
    const sent = world.paying(order, 10n * E18)
    world.chain.mineAt(100, sent)
    await world.pollAt(103)
    await runFulfillmentJob(world.ctx)
    expect(adapter.delivered).toHaveLength(1)
    const [reverted, jobs] = [await world.metric('payments_reverted_orders'), await world.jobs(order)]

    world.chain.reorg(100)
    await world.pollAt(104)
    expect(await world.standing(order)).toBe('confirmed, reverted')
    expect(await world.jobs(order)).toEqual(jobs)
    expect(await world.metric('payments_reverted_orders')).toBe(reverted + 1)
    expect(world.said('error', /payment reverted after delivery began/)).toMatchObject([
      { fields: { orderId: order.orderId, missingCrc: '10' } },
    ])
    // Said once, and not complete by itself.
    await world.pollAt(200)
    expect(await world.standing(order)).toBe('confirmed, reverted')
    expect(world.said('error', /payment reverted/)).toHaveLength(1)

    // Paid for after all, by another transfer.
    world.chain.mine(world.paying(order, 10n * E18))
    await world.poll()
    expect(await world.standing(order)).toBe('confirmed')
    await world.pollAt(213)
    expect(await world.standing(order)).toBe('complete')
    expect(await world.history(order)).toEqual(['OrderPaymentDue', 'PaymentProcessing', 'PaymentComplete'])
    expect(adapter.delivered).toHaveLength(1)
  })

  it('payments:P25 deeper than finality: a complete order stays complete, what was not begun waits, people are told', async () => {
    const world = await start()
    await world.openAdapter()
    const order = await world.place()
    const sent = world.paying(order, 10n * E18)
    world.chain.mineAt(100, sent)
    await world.pollAt(112)
    expect(await world.standing(order)).toBe('complete')

    world.chain.reorg(100)
    await world.pollAt(120)
    expect(await world.standing(order)).toBe('complete, reverted')
    expect(await world.jobs(order)).toMatchObject([{ status: 'needs_attention', reason: 'payment_reverted' }])
    expect(world.said('error', /payment reverted/)).toHaveLength(1)
    expect(world.said('error', /deeper than finality/)).toHaveLength(1)

    world.chain.mine(sent)
    await world.pollAt(125)
    expect(await world.standing(order)).toBe('complete')
    expect(await world.jobs(order)).toMatchObject([{ status: 'pending', reason: null }])
    expect(await world.history(order)).toEqual(['OrderPaymentDue', 'PaymentProcessing', 'PaymentComplete'])
  })

  it('judges a payment again whose trust went with the branch', async () => {
    const world = await start()
    const order = await world.place()
    const sent = world.paying(order, 10n * E18, { token: OTHER_AVATAR })
    world.chain.mineAt(50, transaction(trust(OTHER_AVATAR)))
    world.chain.mineAt(60, sent)
    await world.poll()
    expect(await world.standing(order)).toBe('paid')

    world.chain.reorg(50)
    world.chain.mineAt(60, sent)
    await world.pollAt(100)
    expect(await world.transferOf(sent)).toMatchObject({ eligible: false, ignored_reason: 'untrusted_token' })
    expect(await world.standing(order)).toBe('due')

    world.chain.reorg(50)
    world.chain.mineAt(55, transaction(trust(OTHER_AVATAR)))
    world.chain.mineAt(60, sent)
    await world.pollAt(101)
    expect(await world.transferOf(sent)).toMatchObject({ eligible: true, ignored_reason: null })
    expect(await world.standing(order)).toBe('complete')
  })

  it('judges it again also when the indexer had been ahead of the node', async () => {
    const world = await start()
    const order = await world.place()
    await world.pollAt(59)
    // The node does not know of block 60 when its payment and its trust are read.
    world.chain.hold('node', world.chain.blocks())
    const sent = world.paying(order, 10n * E18, { token: OTHER_AVATAR })
    const granting = transaction(trust(OTHER_AVATAR))
    world.chain.mine(granting, sent)
    await world.poll()
    expect(await world.standing(order)).toBe('paid')

    world.chain.reorg(60)
    world.chain.letGo('node')
    world.chain.mine(transaction(trust(OTHER_AVATAR, { expiry: 0n })), sent)
    await world.pollAt(61)
    await world.pollAt(100)
    expect(await world.transferOf(sent)).toMatchObject({ eligible: false })
    expect(await world.standing(order)).toBe('due')
  })

  it('begins anew on another chain that is shorter', async () => {
    const world = await start()
    const [old, fresh] = [await world.place(), await world.place()]
    world.chain.mineAt(100, world.paying(old, 10n * E18))
    await world.pollAt(103)
    world.chain.reorg(0)
    world.chain.mine(transaction(trust()))
    world.chain.mineAt(20, world.paying(fresh, 10n * E18))
    await world.pollAt(32)
    expect([await world.standing(old), await world.standing(fresh)]).toEqual(['due', 'complete'])
    expect(await world.cursor()).toEqual([20, 0, 0])
    await world.poll()
    expect(await world.metric('payments_reorgs_total')).toBe(1)
  })
})

const observed = (world: PaymentWorld) =>
  world.db.selectFrom('payments_observed').selectAll().where('chain_id', '=', world.chainId).executeTakeFirstOrThrow()

describe('two replicas', () => {
  it('payments:P29 the other takes over when the lease has run out, from the cursor on, and does nothing twice', async () => {
    const world = await start()
    const other = await world.replica()
    const [before, behind] = [await world.place(), await world.place()]
    world.chain.mineAt(100, world.paying(before, 10n * E18))
    await world.poll()
    world.chain.mine(world.paying(behind, 10n * E18))

    // Its leader is silent from here on; its lease is not over.
    expect(await pollPayments(other.ctx)).toBe(false)
    expect(await world.standing(behind)).toBe('due')
    expect(await world.metric('payments_leader', {}, other.ctx)).toBe(0)

    await freeLease(world.ctx)
    const asked = world.chain.asked.length
    await pollPayments(other.ctx)
    expect(await world.metric('payments_leader', {}, other.ctx)).toBe(1)
    expect(await world.standing(behind)).toBe('paid')
    const first = world.chain.asked.slice(asked).find(({ what }) => what === 'PaymentReceived')!
    expect(JSON.stringify(first.params)).toContain('"column":"blockNumber","value":100')
    world.chain.mineTo(113)
    await pollPayments(other.ctx)
    for (const order of [before, behind]) {
      expect(await world.history(order)).toEqual(['OrderPaymentDue', 'PaymentProcessing', 'PaymentComplete'])
      expect(await world.order(order)).toMatchObject({ paid_amount_wei: String(10n * E18) })
      expect(await world.jobs(order)).toHaveLength(1)
    }
    expect(await world.transfers()).toHaveLength(2)
  })

  it('payments:P29 the lease lasts as long as configured', async () => {
    const world = await start({ PAYMENTS_LEASE_SECONDS: '31' })
    await world.poll()
    const { rows } = await sql<{ left: number; holder: string }>`
      select extract(epoch from expires_at - now())::float8 as left, holder from leases
      where name = 'payments'`.execute(world.db)
    expect(rows[0]!.holder).toBe(world.ctx.instance)
    expect(rows[0]!.left).toBeGreaterThan(25)
    expect(rows[0]!.left).toBeLessThanOrEqual(31)
  })

  /** Where the leader sleeps, and what has to have happened before for it to come there. */
  const asleep: [string, (world: PaymentWorld, order: Placed) => Promise<void>][] = [
    ['eth_blockNumber', async (world, order) => world.chain.mineAt(100, world.paying(order, 10n * E18))],
    ['PaymentReceived', async (world, order) => world.chain.mineAt(100, world.paying(order, 10n * E18))],
    ['TrustUpdated', async (world, order) => world.chain.mineAt(100, world.paying(order, 10n * E18))],
    [
      'eth_getTransactionReceipt',
      async (world, order) => {
        const sent = world.paying(order, 4n * E18)
        world.chain.mineAt(100, sent)
        await world.poll()
        world.chain.reorg(100)
        world.chain.mineTo(100)
      },
    ],
  ]
  it.each(asleep)(
    'payments:P30 a leader that slept in %s through a takeover writes nothing',
    async (method, before) => {
      const world = await start()
      const other = await world.replica()
      const order = await world.place()
      await before(world, order)
      const all = async () => [await world.order(order), await world.transfers(), await world.cursor(), await epoch()]
      const epoch = async () =>
        (await sql`select holder, epoch from leases where name = 'payments'`.execute(world.db)).rows
      let taken: unknown
      fail(
        world,
        async (honest) => {
          mend(world)
          await freeLease(world.ctx)
          // What the sleeper has in its hands, nobody else sees.
          for (const { logs } of world.chain.blocks()) for (const log of logs) world.chain.hidden.add(log.txHash)
          fail(world, 'error', 'eth_getTransactionReceipt')
          await pollPayments(other.ctx).catch(() => {})
          mend(world)
          taken = await all()
          return honest
        },
        method,
      )
      await expect(world.poll()).rejects.toThrow(LeaseLostError)
      expect(await all()).toEqual(taken)
      expect(await world.poll()).toBe(false)

      world.chain.hidden.clear()
      await pollPayments(other.ctx)
      const { paid_amount_wei } = await world.order(order)
      expect(paid_amount_wei).toBe(method === 'eth_getTransactionReceipt' ? '0' : String(10n * E18))
    },
  )

  it('payments:P30 nor does it move an order on', async () => {
    const world = await start()
    const other = await world.replica()
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 10n * E18))
    await world.poll()
    world.chain.mineTo(103)
    // With nothing to read, orders are all that is left to write.
    fail(world, 'error', 'PaymentReceived')
    const takenOver = async (honest: unknown) => {
      await freeLease(world.ctx)
      expect(await takeLeadership(other.ctx)).toBeDefined()
      return honest
    }
    fail(world, takenOver, 'eth_blockNumber')
    await expect(world.poll()).rejects.toThrow(LeaseLostError)
    expect(await world.standing(order)).toBe('paid')
    mend(world)
    await pollPayments(other.ctx)
    expect(await world.standing(order)).toBe('confirmed')
  })
})

describe('event streams', () => {
  const listen = async (
    world: PaymentWorld,
    { ctx, url }: { ctx: MarketContext; url: string },
    address: string,
    options: Parameters<typeof openStream>[2] = {},
  ) => {
    const { token } = await ctx.tokens.issue({ address, chainId: world.chainId }, 'x')
    const stream = await openStream(url, token, options)
    await until('the stream is open', () => stream.comments() > 0)
    return stream
  }
  const told = (stream: Awaited<ReturnType<typeof openStream>>) =>
    stream.events().map(({ data }) => `${data.orderId} ${data.newStatus.split('/').at(-1)}`)

  it('payments:P34 payments:W17 one frame each, on whichever replica, for an order of two sellers', async () => {
    const world = await start()
    const elsewhere = await world.replica()
    const sellers = [SELLER, OTHER_SELLER]
    const streams = [await listen(world, elsewhere, BUYER), await listen(world, world, BUYER)]
    for (const seller of sellers) streams.push(await listen(world, elsewhere, seller, { side: 'seller' }))
    const [order, next] = [await world.place({ sellers }), await world.place({ sellers })]
    world.chain.mineAt(100, world.paying(order, 10n * E18))
    await world.poll()
    // Comes after everything that there is to hear of the first.
    world.chain.mine(world.paying(next, 10n * E18))
    await world.poll()
    const both = [`${order.orderId} PaymentProcessing`, `${next.orderId} PaymentProcessing`]
    for (const stream of streams) {
      await until('both orders are told', () => told(stream).includes(both[1]!))
      expect(told(stream)).toEqual(both)
      stream.close()
    }
  })

  it('payments:P34 a payment that a reorg took back is told, too', async () => {
    const world = await start()
    const elsewhere = await world.replica()
    const stream = await listen(world, elsewhere, BUYER)
    const order = await world.place()
    world.chain.mineAt(100, world.paying(order, 10n * E18))
    await world.pollAt(101)
    world.chain.reorg(100)
    await world.pollAt(102)
    await until('the reversal is told', () => told(stream).length === 2)
    expect(told(stream)).toEqual([`${order.orderId} PaymentProcessing`, `${order.orderId} OrderPaymentDue`])
    stream.close()
  })

  it('payments:P35 whoever comes back hears what was missed, in order, then what happens', async () => {
    const world = await start()
    const elsewhere = await world.replica()
    const orders = [await world.place(), await world.place(), await world.place(), await world.place()]
    const pay = async (order: Placed, block: number) => {
      world.chain.mineAt(block, world.paying(order, 10n * E18))
      await world.poll()
    }
    const before = await listen(world, world, BUYER)
    await pay(orders[0]!, 100)
    await until('the first is told', () => before.events().length === 1)
    const last = before.events()[0]!.id
    before.close()
    await pay(orders[1]!, 101)
    await pay(orders[2]!, 102)

    const after = await listen(world, elsewhere, BUYER, { headers: { 'Last-Event-ID': String(last) } })
    await until('what was missed is told', () => after.events().length >= 2)
    await pay(orders[3]!, 103)
    await until('what happens is told', () => after.events().length >= 3)
    expect(told(after)).toEqual(
      [orders[1]!, orders[2]!, orders[3]!].map(({ orderId }) => `${orderId} PaymentProcessing`),
    )
    const ids = after.events().map(({ id }) => id)
    expect(ids).toEqual(ids.toSorted((a, b) => a - b))
    expect(ids[0]).toBeGreaterThan(last)
    after.close()
  })

  it('payments:P36 without a valid token: 401', async () => {
    const world = await start()
    const { token } = await world.ctx.tokens.issue({ address: BUYER, chainId: world.chainId }, 'x')
    const forged = `${token.slice(0, -6)}AAAAAA`
    for (const side of ['buyer', 'seller'] as const) {
      for (const bad of [undefined, 'x', forged]) {
        const stream = await openStream(world.url, bad, { side })
        expect(stream.status).toBe(401)
        stream.close()
      }
    }
  })
})
