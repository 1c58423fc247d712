import { OrderStatus } from '@market/contracts/statuses'
import { clearFaults, failedCalls, pauseMining, reorgShift, setFault } from '@market/dev-chain/scenarios'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { METHOD_OF, FINAL, type PaymentMarket, type Replica, startPaymentMarket, usually } from './paymentMarket.ts'

// Two replicas on one database and one chain. Whatever becomes of the one that leads, each payment counts once.

const BURST = 60
/** Each of these tests starts processes again and again. */
const PATIENCE_MS = 120_000
const AT_ONCE = 20

let market: PaymentMarket
let buyer: Awaited<ReturnType<PaymentMarket['buyer']>>

beforeAll(async () => {
  market = await startPaymentMarket({ replicas: 2 })
})
afterAll(() => market?.remove())

const follower = (leader: Replica) => market.replicas.find((replica) => replica !== leader)!
const epoch = async () => {
  const [row] = await market.sql<{ epoch: number }[]>`select epoch::int from leases where name = 'payments'`
  return row!.epoch
}
/** Milliseconds until another replica leads. */
const takenOver = async (since: number) => {
  const before = Date.now()
  await until('another replica leads', async () => (await epoch()) > since)
  return Date.now() - before
}
const { paymentProcessing } = OrderStatus

/** Starts both with it anew, so that it does not matter which of them leads. */
async function arm(failpoint?: string) {
  await Promise.all(market.replicas.map((replica) => replica.stop()))
  await Promise.all(market.replicas.map((replica) => replica.start(undefined, failpoint)))
}

/** Waits until so many have died: both of what is not committed yet, one after the other; one of what is. */
const died = (count: 1 | 2) =>
  until(`${count} died`, () => market.replicas.filter((replica) => !replica.isUp()).length === count)

describe.each(usually('circles'))('two replicas that read payments from %s', (source) => {
  beforeAll(async () => {
    await market.start(source)
    // Blocks come when a test says so.
    await pauseMining(market.rpcUrl)
    buyer = await market.buyer()
    await market.readUpTo(await market.head())
  })
  afterAll(() => market.stop())

  it(
    'payments:P29 payments:P37 the leader dies at every step of a burst, and the other goes on',
    { timeout: PATIENCE_MS },
    async () => {
      const orders = await buyer.place(BURST)
      await arm('payments.observing')
      await market.pay(...orders)
      await died(2)
      await arm('payments.advancing.pay')
      await died(2)
      await arm('payments.observed')
      await died(1)
      await market.untilAll(orders, paymentProcessing)
      await arm('payments.advanced.complete')
      await market.mine(FINAL)
      await died(1)
      await market.expectDeliveredOnce(orders)
      await market.expectBooksOfTheChain()
    },
  )

  it(
    'payments:P29 the leader dies while it follows a reorg, and the other follows it',
    { timeout: PATIENCE_MS },
    async () => {
      const orders = await buyer.place(BURST)
      const [first] = await market.pay(...orders)
      await market.untilAll(orders, paymentProcessing)
      await arm('payments.forking')
      await reorgShift(market.rpcUrl, { txHash: first!.hash, logsBefore: 3 })
      await died(2)
      await arm()
      await market.expectBooksOfTheChain()
      await market.mine(FINAL)
      await market.expectDeliveredOnce(orders)
    },
  )

  it('payments:P29 the leader is killed at any instant of a burst, three times', { timeout: PATIENCE_MS }, async () => {
    const orders = await buyer.place(BURST * 2)
    const paying = (async () => {
      for (let i = 0; i < orders.length; i += 10) await market.pay(...orders.slice(i, i + 10))
    })()
    const took: number[] = []
    for (let kills = 0; kills < 3; kills += 1) {
      const leader = await market.leader()
      const since = await epoch()
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 1000))
      await leader.kill()
      took.push(await takenOver(since))
      await leader.start()
    }
    await paying
    await market.untilAll(orders, paymentProcessing)
    await market.mine(FINAL)
    await market.expectDeliveredOnce(orders)
    await market.expectBooksOfTheChain()
    console.info(`${source}: ms until another leads, lease 2 s, poll 1 s: ${took.join(', ')}`)
    expect(Math.max(...took)).toBeLessThan(10_000)
  })

  it('payments:P30 a leader that slept longer than its lease writes nothing any more and says why', async () => {
    const orders = await buyer.place(AT_ONCE)
    const leader = await market.leader()
    const since = await epoch()
    // It asks and gets no answer: asleep in the middle of a round.
    await setFault(market.rpcUrl, { methods: [METHOD_OF[source]], fault: 'stall', times: 1 })
    await market.pay(...orders)
    await until(
      'the leader waits for the chain',
      async () => (await failedCalls(market.rpcUrl))[METHOD_OF[source]] === 1,
    )
    leader.pause()
    const told = leader.logged().length
    try {
      await takenOver(since)
      await market.untilAll(orders, paymentProcessing)
      await market.mine(FINAL)
      await market.expectDeliveredOnce(orders)
      await clearFaults(market.rpcUrl)
    } finally {
      leader.resume()
    }
    await until('it says that it was taken over', () =>
      leader.logged(told).some(({ loop, err }) => loop === 'payments' && err?.message.includes('taken over')),
    )
    await until('it is of use again', async () => (await leader.readiness()) === 'Healthy')
    expect(leader.logged(told).filter(({ msg }) => msg === 'order advanced')).toEqual([])
    expect(await market.leader()).toBe(follower(leader))
    await market.expectDeliveredOnce(orders)
    await market.expectBooksOfTheChain()
  })

  it('payments:P30 a leader that lost its lease a moment ago writes nothing any more', async () => {
    const orders = await buyer.place(AT_ONCE)
    const leader = await market.leader()
    const told = leader.logged().length
    await setFault(market.rpcUrl, { methods: [METHOD_OF[source]], fault: 'stall', times: 1 })
    await market.pay(...orders)
    await until(
      'the leader waits for the chain',
      async () => (await failedCalls(market.rpcUrl))[METHOD_OF[source]] === 1,
    )
    await market.sql.begin(async (tx) => {
      await tx`select 1 from leases where name = 'payments' for update`
      await clearFaults(market.rpcUrl)
      await until('the leader is about to write, or to look at its lease', async () => {
        const [waiting] = await market.sql`
          select count(*) filter (where query like '%for share%')::int as writers, count(*)::int as n
            from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
        return waiting!.writers === 1 || waiting!.n === 2
      })
      // What another does that takes over just then.
      await tx`
        update leases set holder = 'another', epoch = epoch + 1, expires_at = now() + interval '2 seconds'
         where name = 'payments'`
    })
    await until('it says that it was taken over', () =>
      leader.logged(told).some(({ loop, err }) => loop === 'payments' && err?.message.includes('taken over')),
    )
    expect(leader.logged(told).filter(({ msg }) => msg === 'payments observed')).toEqual([])
    await market.untilAll(orders, paymentProcessing)
    await market.mine(FINAL)
    await market.expectDeliveredOnce(orders)
    await market.expectBooksOfTheChain()
  })

  it('payments:P30 a leader that falls asleep in the middle of its transaction keeps nobody waiting', async () => {
    const orders = await buyer.place(AT_ONCE)
    const leader = await market.leader()
    const since = await epoch()
    const told = leader.logged().length
    await market.sql.begin(async (tx) => {
      await tx`select 1 from orders where order_id = ${orders[0]!.orderId} for update`
      await market.pay(...orders)
      await until('the leader waits for that order', async () => {
        const [waiting] = await market.sql`
          select count(*)::int as n from pg_stat_activity
           where datname = current_database() and wait_event_type = 'Lock' and query like '%for update%'`
        return waiting!.n === 1
      })
      leader.pause()
    })
    try {
      await takenOver(since)
      await market.untilAll(orders, paymentProcessing)
      await market.mine(FINAL)
      await market.expectDeliveredOnce(orders)
    } finally {
      leader.resume()
    }
    await until('it is of use again', async () => (await leader.readiness()) === 'Healthy')
    expect(leader.logged(told).filter(({ msg }) => msg === 'order advanced')).toEqual([])
    await market.expectDeliveredOnce(orders)
    await market.expectBooksOfTheChain()
  })
})
