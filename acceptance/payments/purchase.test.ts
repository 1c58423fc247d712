import { OrderStatus } from '@market/contracts/statuses'
import { type Mined, pauseMining, remine, reorgAway, reorgShift, resumeMining } from '@market/dev-chain/scenarios'
import { codesOf } from '@market/sdk/delivered'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openStream } from '../buyersApi/eventStream.ts'
import {
  COMPLETED,
  FINAL,
  type PaymentMarket,
  type Placed,
  PRICE,
  startPaymentMarket,
  usually,
} from './paymentMarket.ts'

// A purchase, and what becomes of it on a chain that changes its mind.

const { paymentDue, paymentProcessing, paymentComplete } = OrderStatus
/** Of an order whose payment was taken back once. */
const UNDONE = [paymentDue, paymentProcessing, paymentDue, paymentProcessing, paymentComplete]
/** More than are looked at again each round, so that only the checkpoints tell. */
const BEYOND_WINDOW = 80

let market: PaymentMarket
let buyer: Awaited<ReturnType<PaymentMarket['buyer']>>

beforeAll(async () => {
  market = await startPaymentMarket()
})
afterAll(() => market?.remove())

/** Waits until the market knows this payment; gives the transaction. */
async function paid(...orders: Placed[]): Promise<Mined> {
  const [mined] = await market.pay(...orders)
  await market.untilAll(orders, paymentProcessing)
  return mined!
}

const timelineOf = async ({ orderId }: Placed) =>
  (await buyer.market.timeline(orderId)).map(({ kind, data }) =>
    data.reason ? `${kind}: ${String(data.reason)}` : kind,
  )

describe.each(usually('evm'))('payments read from %s', (source) => {
  beforeAll(async () => {
    await market.start(source)
    buyer = await market.buyer()
  })
  afterAll(() => market.stop())

  it('a purchase goes from due to paid, confirmed and complete, and its code is there', async () => {
    const order = await buyer.checkOut()
    await buyer.pay(market.rpcUrl, order.orderId)
    const bought = await until('the code is delivered', async () => {
      const found = await buyer.market.order(order.orderId)
      return codesOf(found).length > 0 && found
    })
    expect(bought.orderStatus).toBe(paymentComplete)
    const happened = ['placed', 'paymentSeen', 'paid', 'confirmed', 'paymentFinal', 'deliveryDue', 'delivered']
    expect(await timelineOf(order)).toEqual(happened)
    await market.expectDeliveredOnce([order])
    await market.expectBooksOfTheChain()
  })

  it('a payment is seen within a poll', async () => {
    const orders = await buyer.place(15)
    const minedAt: number[] = []
    for (const order of orders) {
      await market.pay(order)
      minedAt.push(Date.now())
    }
    await market.expectDeliveredOnce(orders)
    const ms = (await market.ordersOf(orders)).map(({ paidAt }, i) => paidAt!.getTime() - minedAt[i]!)
    const sorted = ms.toSorted((a, b) => a - b)
    console.info(
      `${source}: ms from block to paid, poll 1 s: ${[0, 7, 14].map((i) => sorted[i]).join(' / ')} (least / median / most)`,
    )
    expect(sorted.at(-1)).toBeLessThan(10_000)
  })

  describe('after a reorg', () => {
    beforeAll(() => pauseMining(market.rpcUrl))
    afterAll(() => resumeMining(market.rpcUrl))

    it('payments:P25 payments:P26 a payment that is gone is due again, and counts once when it comes in again', async () => {
      const [taken, earlier, stays] = (await buyer.place(3)) as [Placed, Placed, Placed]
      const stream = await openStream(`${market.replicas[0]!.url()}/api/cart/v1/orders/events`, {
        token: buyer.market.session!.token,
      })
      await paid(earlier)
      const first = await paid(taken)
      await paid(stays)
      const [before] = await market.ordersOf([taken])

      const reorg = await reorgAway(market.rpcUrl, { txHash: first.hash })
      await market.untilAll([taken], paymentDue)
      const [after] = await market.ordersOf([taken])
      expect(after).toMatchObject({ paidWei: '0', isConfirmed: false })
      expect(after!.dueBy.getTime()).toBeGreaterThan(before!.dueBy.getTime())
      expect(await timelineOf(taken)).toEqual(['placed', 'paymentSeen: orphaned', 'paid', 'paymentUndone'])

      const [again] = await remine(market.rpcUrl, { taken: reorg.taken, logsBefore: 2 })
      expect(again!.logIndexes).not.toEqual(first.logIndexes)
      await market.untilAll([taken], paymentProcessing)
      await market.mine(FINAL)
      await market.expectDeliveredOnce([taken], UNDONE)
      await market.expectDeliveredOnce([earlier, stays])
      await market.expectBooksOfTheChain()

      const told = () => stream.events().map(({ data }) => data as { orderId: string; newStatus: string })
      const toldOf = ({ orderId }: Placed) =>
        told()
          .filter((event) => event.orderId === orderId)
          .map((event) => event.newStatus)
      await until('the buyer is told of all of it', () => told().length >= 8)
      stream.close()
      expect(toldOf(taken)).toEqual(UNDONE.slice(1))
      for (const order of [earlier, stays]) expect(toldOf(order)).toEqual(COMPLETED.slice(1))
    })

    it('payments:P25 a confirmed payment that comes in again in another block is one payment', async () => {
      const [order] = (await buyer.place(1)) as [Placed]
      const first = await paid(order)
      await market.mine(4)
      await until('it is confirmed', async () => (await market.ordersOf([order]))[0]!.isConfirmed)
      const { taken } = await reorgAway(market.rpcUrl, { txHash: first.hash })
      await market.untilAll([order], paymentDue)
      expect((await market.ordersOf([order]))[0]).toMatchObject({ isConfirmed: false })
      const [again] = await remine(market.rpcUrl, { taken })
      expect(again).toMatchObject({ hash: first.hash })
      expect(again!.blockNumber).toBeGreaterThan(first.blockNumber)
      await market.mine(FINAL)
      await market.untilAll([order], paymentComplete)
      const [rows] = await market.sql`
        select count(*)::int as n from payment_transfers where payment_reference = ${order.reference}`
      expect(rows!.n).toBe(again!.logIndexes.at(-1) === first.logIndexes.at(-1) ? 1 : 2)
      await market.expectBooksOfTheChain()
      expect((await market.ordersOf([order]))[0]).toMatchObject({ paidWei: String(PRICE) })
    })

    it('payments:P26 a payment that only moves within its block stays paid', async () => {
      const orders = await buyer.place(5)
      const first = await paid(...orders)
      await reorgShift(market.rpcUrl, { txHash: first.hash, logsBefore: 1 })
      await market.expectBooksOfTheChain()
      await market.mine(FINAL)
      await market.expectDeliveredOnce(orders)
      for (const { paidWei } of await market.ordersOf(orders)) expect(paidWei).toBe(String(PRICE))
    })

    it('payments:P25 what is delivered stays delivered, and people are told', async () => {
      const [replica] = market.replicas as [(typeof market.replicas)[number]]
      const told = replica.logged().length
      const [near, far] = (await buyer.place(2)) as [Placed, Placed]
      const farMined = await paid(far)
      await market.mine(BEYOND_WINDOW)
      const nearMined = await paid(near)
      await market.mine(FINAL)
      await market.expectDeliveredOnce([near, far])

      for (const [order, { hash }] of [
        [near, nearMined],
        [far, farMined],
      ] as const) {
        const { taken } = await reorgAway(market.rpcUrl, { txHash: hash })
        await until('it is known to be gone', async () => (await market.ordersOf([order]))[0]!.isReverted)
        expect((await market.ordersOf([order]))[0]).toMatchObject({ status: paymentComplete, paidWei: '0' })
        const isTold = (line: { level: string; msg: string; orderId?: unknown }) =>
          line.level === 'error' && line.msg.startsWith('payment reverted') && line.orderId === order.orderId
        await until('people are told', () => replica.logged(told).some(isTold))
        expect(replica.logged(told).filter(isTold)).toHaveLength(1)
        expect(await replica.metric('marketplace_payments_reverted_orders')).toBeGreaterThan(0)
        await remine(market.rpcUrl, { taken })
        await until('it is back', async () => !(await market.ordersOf([order]))[0]!.isReverted)
      }
      const deep = replica.logged(told).filter(({ msg }) => msg.startsWith('chain reorganised deeper'))
      expect(deep.length).toBeGreaterThanOrEqual(2)
      await market.expectDeliveredOnce([near, far])
      await market.expectBooksOfTheChain()
    })

    it('payments:P25 payments in blocks whose numbers were read before are seen', async () => {
      const [lost, other] = (await buyer.place(2)) as [Placed, Placed]
      await paid(lost)
      await market.mine(3)
      await market.readUpTo(await market.head())
      await market.loseBlocks(4)
      // Shorter than it was, it may be a node that has fallen behind; with another block in that place it is not.
      const again = await paid(other)
      await market.untilAll([lost], paymentDue)
      await market.pay(lost)
      expect(await market.head()).toBe(again.blockNumber + 1)
      await market.untilAll([lost], paymentProcessing)
      await market.mine(FINAL)
      await market.expectDeliveredOnce([lost], UNDONE)
      await market.expectDeliveredOnce([other])
      await market.expectBooksOfTheChain()
    })

    it('payments:P25 a chain that changed and lost its last blocks while nobody looked is followed', async () => {
      const [lost, moved, kept] = (await buyer.place(3)) as [Placed, Placed, Placed]
      await paid(kept)
      const movedMined = await paid(moved)
      await market.mine(3)
      await paid(lost)
      await market.mine(1)
      await market.readUpTo(await market.head())
      await market.replicas[0]!.stop()
      await market.loseBlocks(2)
      const { taken } = await reorgAway(market.rpcUrl, { txHash: movedMined.hash })
      await remine(market.rpcUrl, { taken, logsBefore: 1 })
      await market.loseBlocks(1)
      await market.replicas[0]!.start()

      await market.untilAll([lost, moved], paymentDue)
      await market.untilAll([kept], paymentProcessing)
      await market.pay(lost, moved)
      await market.untilAll([lost, moved], paymentProcessing)
      await market.mine(FINAL)
      await market.expectDeliveredOnce([kept])
      await market.expectDeliveredOnce([lost, moved], UNDONE)
      await market.expectBooksOfTheChain()
    })
  })
})
