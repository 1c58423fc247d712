import { OrderStatus } from '@market/contracts/statuses'
import { devCurrencyAvatar } from '@market/dev-chain/deployment'
import {
  type Mined,
  mineTogether,
  pauseMining,
  remine,
  reorgAway,
  reorgShift,
  type SignedTransaction,
} from '@market/dev-chain/scenarios'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type ChainTransfer,
  FINAL,
  type PaymentMarket,
  type Placed,
  PRICE,
  startPaymentMarket,
  usually,
  type Transfer,
} from './paymentMarket.ts'

// Whatever people pay, whatever the chain makes of it and whoever dies meanwhile: in the end the books are the chain's.

const ORDERS = 110
const KILLS = 4
const { paymentDue, paymentProcessing, paymentComplete, cancelled } = OrderStatus
const CRC = 10n ** 18n

let market: PaymentMarket
let strangers: string

beforeAll(async () => {
  market = await startPaymentMarket({ replicas: 2 })
  strangers = await market.strangersGateway()
})
afterAll(() => market?.remove())

type Random = (below: number) => number

/** SOAK_SEED repeats a run, as far as processes can be made to. */
const SEED = Number(process.env.SOAK_SEED || Math.floor(Math.random() * 1e9))

/** mulberry32. */
function randomOf(seed: number): Random {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

function shuffled<T>(random: Random, list: readonly T[]): T[] {
  const left = [...list]
  return list.map(() => left.splice(random(left.length), 1)[0]!)
}

/** What comes to the price, not all of one size. */
function inParts(parts: number): bigint[] {
  const each = PRICE / BigInt(parts) - 1n
  return Array.from({ length: parts }, (_, i) => (i > 0 ? each : PRICE - each * BigInt(parts - 1)))
}

/** How one order is paid, if it is. */
function transfersFor(random: Random, { reference }: Placed): Transfer[] {
  const exact = { reference }
  const kinds: (() => Transfer[])[] = [
    () => [exact],
    () => inParts(2 + random(3)).map((amount) => ({ reference, amount })),
    () => inParts(2).map((amount) => ({ reference, amount })),
    () => [{ reference, amount: PRICE - 1n }],
    () => [{ reference, amount: PRICE + BigInt(random(9)) * CRC }],
    () => [exact, exact],
    () => [{ reference, gateway: strangers }],
    () => [{ reference, worthless: true }],
    () => [{ reference, worthless: true }, { reference, gateway: strangers }, exact],
    () => [{ reference, amount: 1n }, exact],
    () => [],
  ]
  return kinds[random(kinds.length)]!()
}

describe.each(usually('evm'))('payments read from %s', (source) => {
  beforeAll(async () => {
    await market.start(source)
    await pauseMining(market.rpcUrl)
  })
  afterAll(() => market.stop())

  it(`payments:P25 payments:P26 payments:P29 the books are the chain's after reorgs and deaths, seed ${SEED}`, async () => {
    const random = randomOf(SEED)
    const buyer = await market.buyer()
    const orders = await buyer.place(ORDERS)
    const late = orders.filter(() => random(8) === 0)
    for (const { orderId } of late) await buyer.market.cancel(orderId)
    const nobodys = Array.from({ length: 8 }, (_, i) => ({ reference: `invoice-${source}-${i}` }))
    const toPay = shuffled(random, [...orders.flatMap((order) => transfersFor(random, order)), ...nobodys])
    const payments = toPay.length
    const killAt = Array.from({ length: KILLS }, (_, i) => Math.floor((payments * (i + 0.5)) / KILLS))

    /** What was mined of late, and what a reorg took and may come in again. */
    let recent: Mined[] = []
    const taken: SignedTransaction[][] = []
    let reorgs = 0
    const reorg = async () => {
      const head = await market.head()
      const victims = recent.filter(({ blockNumber }) => blockNumber > head - 3)
      if (victims.length === 0) return
      const { hash } = victims[random(victims.length)]!
      reorgs += 1
      if (random(3) === 0) {
        await reorgShift(market.rpcUrl, { txHash: hash, logsBefore: 1 + random(4) })
      } else {
        const { taken: gone } = await reorgAway(market.rpcUrl, { txHash: hash })
        recent = recent.filter((mined) => !gone.some((one) => one.hash === mined.hash))
        // Some never come again.
        if (random(4) > 0) taken.push(gone)
      }
    }
    const comeAgain = async () => {
      const again = taken.splice(random(taken.length), 1)[0]!
      recent.push(...(await remine(market.rpcUrl, { taken: again, logsBefore: random(3) })))
    }

    let comingBack: Promise<void> | undefined
    while (toPay.length > 0) {
      const done = payments - toPay.length
      if (killAt[0] !== undefined && done >= killAt[0]) {
        killAt.shift()
        await comingBack
        const leader = await market.leader()
        await leader.kill()
        comingBack = leader.start()
      }
      const raws = await Promise.all(toPay.splice(0, 1 + random(4)).map((transfer) => market.sign([transfer])))
      const mined = await mineTogether(market.rpcUrl, { raws: raws.flat() })
      // Of each wallet the transfer; what it took from the faucet before stays.
      recent.push(...mined.filter(({ logIndexes }) => logIndexes.length > 1))
      if (random(3) === 0) await market.mine(random(3))
      if (random(3) === 0) await reorg()
      if (taken.length > 0 && random(2) === 0) await comeAgain()
      if (random(6) === 0) await anotherRound()
    }
    while (taken.length > 0) await comeAgain()
    await comingBack
    await market.mine(FINAL)
    await market.expectBooksOfTheChain(30)
    expect(reorgs).toBeGreaterThan(5)

    const paid = sums(await market.onChain())
    const expected = orders.map((order) => {
      const sum = paid.get(order.reference) ?? 0n
      const status = late.includes(order) ? cancelled : sum >= PRICE ? paymentComplete : paymentDue
      return { orderId: order.orderId, status, paidWei: String(sum) }
    })
    await until('every order is what the chain says', async () => {
      const found = await market.ordersOf(orders)
      expect(found.map(({ orderId, status, paidWei }) => ({ orderId, status, paidWei }))).toEqual(expected)
      return true
    })
    const complete = orders.filter((_, i) => expected[i]!.status === paymentComplete)
    await market.expectDeliveredOnce(complete, 'any')
    const undelivered = orders.filter((order) => !complete.includes(order))
    expect(await market.jobsOf(undelivered)).toEqual([])
    for (const order of complete) expectSound(await market.statusesOf(order))
    console.info(
      `${source}: ${payments} payments, ${reorgs} reorgs, ${complete.length} of ${ORDERS} orders complete, seed ${SEED}`,
    )
  }, 120_000)

  async function anotherRound() {
    const now = new Date()
    await until('somebody has read the chain', async () => {
      const [row] = await market.sql`select observed_at from payments_observed`
      return row!.observed_at > now
    })
  }
})

/** Money that the seller's gateway got and trusts, by reference. */
function sums(transfers: readonly ChainTransfer[]): Map<string, bigint> {
  const sum = new Map<string, bigint>()
  for (const { reference, gateway, avatar, amount } of transfers) {
    if (gateway !== market.gateway() || avatar !== devCurrencyAvatar) continue
    sum.set(reference, (sum.get(reference) ?? 0n) + amount)
  }
  return sum
}

/** Due, and processing, and due again when a reorg took it, as often as that may be; then complete, once. */
function expectSound(statuses: readonly string[]) {
  const [first, ...rest] = statuses
  expect(first).toBe(paymentDue)
  expect(rest.at(-1)).toBe(paymentComplete)
  const between = rest.slice(0, -1)
  expect(between).toEqual(between.map((_, i) => (i % 2 === 0 ? paymentProcessing : paymentDue)))
  expect(between.length % 2).toBe(1)
}
