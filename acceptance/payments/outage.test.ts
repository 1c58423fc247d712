import { OrderStatus } from '@market/contracts/statuses'
import { clearFaults, type FaultOptions, pauseMining, resumeMining, setFault } from '@market/dev-chain/scenarios'
import { until } from '@market/testkit/until'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import {
  FINAL,
  METHOD_OF,
  type PaymentMarket,
  type Placed,
  type Replica,
  startPaymentMarket,
  usually,
} from './paymentMarket.ts'

// What a chain host does wrong costs time, and nothing else. Wallets have nodes of their own and go on paying.

const { paymentDue, paymentProcessing } = OrderStatus

let market: PaymentMarket
let replica: Replica
let buyer: Awaited<ReturnType<PaymentMarket['buyer']>>

beforeAll(async () => {
  // Pages of three, so that there are several.
  market = await startPaymentMarket({
    env: { RPC_TIMEOUT_MS: '1000', PAGE_SIZE: '3', PAYMENT_TRUST_CACHE_TTL_SECONDS: '1' },
  })
  replica = market.replicas[0]!
})
afterAll(() => market?.remove())

const progress = async () => {
  const [row] = await market.sql`
    select c.last_block_number, c.last_transaction_index, c.last_log_index, o.observed_at
      from payments_cursors c join payments_observed o using (chain_id)`
  return row!
}
const fail = (fault: FaultOptions) => setFault(market.rpcUrl, fault)
/** Waits until so many rounds have begun and come to their end. */
async function rounds(count: number) {
  for (let round = 0; round < count; round += 1) {
    const now = new Date()
    await until('a round is over', async () => (await progress()).observed_at > now)
  }
}
/** Waits until so many more looks at the chain have failed. */
async function failures(count: number) {
  const failed = () => replica.metric('marketplace_payments_query_failures_total')
  const before = await failed()
  await until(`${count} looks have failed`, async () => (await failed()) >= before + count)
}
const saysSo = () =>
  until('readiness names payments', async () => /^Unhealthy:.*\bpayments\b/.test(await replica.readiness()))
const linesOfLoop = (since: number) =>
  replica
    .logged(since)
    .filter(({ loop }) => loop === 'payments')
    .map(({ msg }) => msg)

describe.each(usually('circles'))('payments read from %s', (source) => {
  const method = METHOD_OF[source]
  const paid = async (...orders: Placed[]) => {
    await market.pay(...orders)
    await market.untilAll(orders, paymentProcessing)
  }

  beforeAll(async () => {
    await market.start(source)
    buyer = await market.buyer()
    await buyer.place(1)
    await pauseMining(market.rpcUrl)
    // The first payment has the gateway's trust read.
    const [first] = (await buyer.place(1)) as [Placed]
    await paid(first)
    await market.mine(FINAL)
    await market.expectDeliveredOnce([first])
  })
  afterEach(async () => {
    await clearFaults(market.rpcUrl)
    await until('it has recovered', async () => (await replica.readiness()) === 'Healthy', 40)
  })
  afterAll(async () => {
    await resumeMining(market.rpcUrl)
    await market.stop()
  })

  it('an outage is said once, stops the cursor, and is made up for', async () => {
    const orders = await buyer.place(8)
    // Between two rounds: one that it cut in half would fail in other words than those that follow.
    await rounds(1)
    const since = replica.logged().length
    const before = await progress()
    await fail({ methods: ['*'], fault: 'http503' })
    for (const order of orders) await market.pay(order)
    await market.mine(FINAL)
    await saysSo()
    // An indexer is asked even when nobody knows the head.
    await failures(source === 'circles' ? 2 : 1)
    expect(linesOfLoop(since)).toEqual(['loop failed'])
    expect(await progress()).toEqual(before)
    await market.untilAll(orders, paymentDue)
    await clearFaults(market.rpcUrl)
    await market.expectDeliveredOnce(orders)
    await until('it says that it is over', () => linesOfLoop(since).length > 1)
    expect(linesOfLoop(since)).toEqual(['loop failed', 'loop recovered'])
    await market.expectBooksOfTheChain()
  })

  it('payments:P27 while payments can not be asked for, those that are known become final all the same', async () => {
    const orders = await buyer.place(4)
    const [known, ...late] = orders as [Placed, ...Placed[]]
    await paid(known)
    for (const fault of ['error', 'garbage', 'stall'] as const) {
      const since = replica.logged().length
      await fail({ methods: [method], fault })
      await saysSo()
      const before = await progress()
      await market.pay(late.shift()!)
      if (fault === 'error') {
        await market.mine(FINAL)
        await market.expectDeliveredOnce([known])
      }
      expect(await progress(), fault).toEqual(before)
      expect(
        linesOfLoop(since).filter((line) => line === 'loop failed'),
        fault,
      ).toHaveLength(1)
      await clearFaults(market.rpcUrl)
      await until('it has recovered', async () => (await replica.readiness()) === 'Healthy', 40)
    }
    await market.untilAll(orders.slice(2), paymentProcessing)
    await market.mine(FINAL)
    await market.expectDeliveredOnce(orders)
    await market.expectBooksOfTheChain()
  })

  it('a source that leaves out every other row loses no payment', async () => {
    const orders = await buyer.place(12)
    await fail({ methods: [method], fault: 'truncate' })
    for (let i = 0; i < orders.length; i += 4) await market.pay(...orders.slice(i, i + 4))
    await rounds(2)
    expect((await clearFaults(market.rpcUrl))[method]).toBeGreaterThan(2)
    await market.untilAll(orders, paymentProcessing)
    await fail({ methods: [method], fault: 'truncate' })
    await rounds(2)
    await market.mine(FINAL)
    await market.expectDeliveredOnce(orders)
    await clearFaults(market.rpcUrl)
    await market.expectBooksOfTheChain()
  })

  it('a source that has forgotten everything takes nothing back', async () => {
    const [paidBefore, late] = (await buyer.place(2)) as [Placed, Placed]
    await paid(paidBefore)
    await fail({ methods: [method], fault: 'empty' })
    await market.pay(late)
    // Judged anew, as after a reorg, also when what was known of the gateway's trust is old.
    for (let round = 0; round < 3; round += 1) {
      await market.sql`
        update payment_transfers set verdict_due = true where payment_reference = ${paidBefore.reference}`
      await rounds(1)
    }
    expect(await market.statusesOf(paidBefore)).toEqual([paymentDue, paymentProcessing])
    await clearFaults(market.rpcUrl)
    await market.untilAll([paidBefore, late], paymentProcessing)
    await market.mine(FINAL)
    await market.expectDeliveredOnce([paidBefore, late])
    await market.expectBooksOfTheChain()
  })

  it('neither a head a million blocks too high nor one that goes back changes anything', async () => {
    const [order, second, third] = (await buyer.place(3)) as [Placed, Placed, Placed]
    const heads = ['eth_blockNumber', 'eth_getBlockByNumber']
    await paid(order)
    await market.mine(1)
    await fail({ methods: heads, fault: 'lieHead' })
    await market.pay(second)
    await saysSo()
    for (const { isConfirmed } of await market.ordersOf([order, second])) expect(isConfirmed).toBe(false)
    await clearFaults(market.rpcUrl)
    await market.untilAll([order, second], paymentProcessing)
    await market.mine(4)
    await until('they are confirmed', async () =>
      (await market.ordersOf([order, second])).every(({ isConfirmed }) => isConfirmed),
    )

    // A node that has fallen behind does not have the newest blocks, nor what is in them.
    await fail({ methods: heads, fault: 'lieHead', blocks: -20 })
    await fail({ methods: ['eth_getTransactionReceipt'], fault: 'empty' })
    await market.pay(third)
    await rounds(2)
    for (const one of await market.ordersOf([order, second])) {
      expect(one).toMatchObject({ status: paymentProcessing, isConfirmed: true })
    }
    await clearFaults(market.rpcUrl)
    await market.untilAll([third], paymentProcessing)
    await market.mine(FINAL)
    await market.expectDeliveredOnce([order, second, third])
    await market.expectBooksOfTheChain()
  })
})
