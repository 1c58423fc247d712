import { setTimeout as delay } from 'node:timers/promises'
import { until } from '@market/testkit/until'
import { openPayer, type Payer } from './payer.ts'
import { gatherEvidence, judge, type Verdict } from './proof.ts'
import { randomOf } from './random.ts'
import { isPaid, openShop, type Order, placeOrders, planOrders, planPools, type Pool, PRICE_WEI } from './shop.ts'
import { type Counts, makeTrouble } from './troubles.ts'
import { startWorld, type World } from './world.ts'

export type ChaosOptions = {
  orders: number
  /** How long there is trouble. */
  seconds: number
  seed: number
  replicas: number
  /** For everything to come to rest afterwards. */
  restSeconds: number
  say: (text: string) => void
}

export type ChaosReport = Counts &
  Verdict & {
    orders: number
    paid: number
    faults: Record<string, number>
    /** Processes that ended though nobody had killed them, each with what it said last. */
    exits: string[]
    seconds: number
    seed: number
  }

/** Blocks until a payment is final, and a few more. */
const FINAL = 15
/** Of kills and stalls, of cuts, of faulty answers. */
const LEAST = 5
/** How often an operator looks whether something waits that could be tried at once. */
const IMPATIENCE_MS = 2000

/** A market in which all that can fail fails while orders are paid; then what became of every paid line. */
export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const { seed, replicas } = options
  const began = performance.now()
  const elapsed = () => Math.round((performance.now() - began) / 1000)
  const say = (text: string) => options.say(`${String(elapsed()).padStart(4)} s  ${text}`)
  // One for each, so that who comes first changes nothing for the others.
  const [plan, network, calls] = [randomOf(seed), randomOf(seed + 1), randomOf(seed + 2)]
  const orders = planOrders(plan, options.orders)
  const pools = planPools(orders)
  const world = await startWorld({ replicas, random: calls })
  try {
    const payer = await openPayer(world.rpcUrl)
    await Promise.all(pools.map(({ id, first }) => world.ops(['seed-pool', id, '-'], first.join('\n'))))
    await openShop(world.sql, world.codes)
    await placeOrders(world.sql, orders, payer.gateway)
    await Promise.all([...world.replicas, world.dispenser].map((one) => one.start()))
    await Promise.all([...world.replicas, world.dispenser].map((one) => one.untilReady()))
    say(`${orders.length} orders are placed, ${replicas} market-api and a codedispenser run; seed ${seed}`)

    const counts: Counts = { kills: 0, stalls: 0, cuts: 0 }
    const faults = () => Object.values(world.adapter.counts).reduce((sum, n) => sum + n, 0)
    const over = new AbortController()
    const progress = setInterval(
      () => say(`${counts.kills} kills, ${counts.stalls} stalls, ${counts.cuts} cuts, ${faults()} faulty answers`),
      5000,
    )
    const impatience = setInterval(() => void hurry(world).catch(() => {}), IMPATIENCE_MS)
    try {
      const trouble = makeTrouble(world, network, counts, over.signal)
      await Promise.all([
        payAll(payer, orders, options.seconds)
          .then(() => enough(counts, faults, options.seconds))
          .then(() => over.abort()),
        restockInTheMiddle(world, pools, options.seconds),
        trouble,
      ])
    } finally {
      over.abort()
      clearInterval(progress)
      clearInterval(impatience)
    }
    const ended = new Date()
    say('the trouble is over; waiting until everything is still')
    await Promise.all([...world.replicas, world.dispenser].map((one) => one.start()))
    await Promise.all([...world.replicas, world.dispenser].map((one) => one.untilReady()))
    await payer.mine(FINAL)
    say('all processes are ready')
    const unrest = await untilStill(world, orders, ended, options.restSeconds)

    say(unrest.length > 0 ? 'it never became still' : 'all is still')
    const verdict = judge(await gatherEvidence(world, orders, pools))
    verdict.wrong.push(...unrest)
    return {
      ...counts,
      ...verdict,
      orders: orders.length,
      paid: orders.filter(isPaid).length,
      faults: world.adapter.counts,
      exits: [...world.replicas, world.dispenser].flatMap(({ exits }) => exits),
      seconds: elapsed(),
      seed,
    }
  } finally {
    await world.remove()
  }
}

/** On the dev chain, spread over two thirds of the time: what was paid last is to meet trouble, too. */
async function payAll(payer: Payer, orders: readonly Order[], seconds: number): Promise<void> {
  const amounts = { exact: [PRICE_WEI], twice: [PRICE_WEI, PRICE_WEI], tooLittle: [PRICE_WEI - 1n], none: [] }
  const began = performance.now()
  const pauseMs = (seconds * 667) / orders.length
  for (const [i, { reference, payment }] of orders.entries()) {
    for (const amount of amounts[payment]) await payer.pay(reference, amount)
    await delay(Math.max(0, began + (i + 1) * pauseMs - performance.now()))
  }
  await payer.mine(FINAL)
  await delay(Math.max(0, began + seconds * 1000 - performance.now()))
}

/** On a slow machine little may have happened by then. Waits for some more, but not for ever. */
async function enough(counts: Counts, faults: () => number, seconds: number): Promise<void> {
  const deadline = performance.now() + seconds * 1000
  const least = () => Math.min(counts.kills + counts.stalls, counts.cuts, faults())
  while (least() < LEAST && performance.now() < deadline) await delay(100)
}

/** Codes that the pool had already among those that it gets. */
async function restockInTheMiddle(world: World, pools: readonly Pool[], seconds: number): Promise<void> {
  await delay(seconds * 500)
  for (const { id, first, later } of pools) {
    if (later.length === 0) continue
    // Its connection may be one of those that are cut. What it got done is not done twice.
    for (let tries = 1; ; tries += 1) {
      const done = await world.ops(['seed-pool', id, '-'], [...first, ...later].join('\n')).catch((error) => {
        if (tries === 5) throw error
      })
      if (done) break
    }
  }
}

/**
 * The hours that lie between tries pass at once, while there are tries left. Nothing else about a job is touched.
 */
async function hurry(world: World): Promise<void> {
  const due = await world.sql`
    update fulfillment_jobs set next_attempt_at = now()
     where status = 'pending' and attempts < 20 and next_attempt_at > now() returning 1`
  if (due.length > 0) await world.sql`select pg_notify('fulfillment_jobs', '')`
}

/** Waits until nothing goes on any more; says what still does when the time is over. */
async function untilStill(world: World, orders: readonly Order[], ended: Date, seconds: number): Promise<string[]> {
  const paid = orders.filter(isPaid).map(({ orderId }) => orderId)
  // What waits for stock looks once more.
  await world.sql`
    update fulfillment_jobs set next_attempt_at = now()
     where status in ('needs_attention', 'partial') and next_attempt_at is not null`
  let left = ''
  try {
    await until(
      'all is still',
      async () => {
        await hurry(world)
        const [row] = await world.sql`
          select (select count(*)::int from orders where order_id = any(${paid}) and finalized_at is null) as unsettled,
                 count(*) filter (where status in ('pending', 'running'))::int as open,
                 count(*) filter (where status in ('needs_attention', 'partial') and next_attempt_at is not null
                   and updated_at < ${ended})::int as unseen
            from fulfillment_jobs`
        const { unsettled, open, unseen } = row!
        left = `${unsettled} paid orders not complete, ${open} jobs under way, ${unseen} waiting jobs not looked at`
        const isStill = unsettled + open + unseen + world.adapter.underWay() === 0
        if (!isStill) await delay(500)
        return isStill
      },
      seconds,
    )
    return []
  } catch {
    return [`not still after ${seconds} s: ${left}, ${world.adapter.underWay()} calls on their way`]
  }
}
