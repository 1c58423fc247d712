import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { OrderStatus } from '@market/contracts/statuses'
import { failedCalls } from '@market/dev-chain/scenarios'
import type { RunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startDemoMarket } from './demoMarket.ts'

// Each of `npm run demo -- --scenario …` on one market of real processes: nothing is delivered twice, nothing paid is lost.

const run = promisify(execFile)
const demo = new URL('../scripts/dist/demo.js', import.meta.url).pathname
const ops = new URL('../scripts/dist/ops.js', import.meta.url).pathname

let market: RunningMarket
let codes: postgres.Sql
let orders: postgres.Sql

beforeAll(async () => {
  market = await startDemoMarket()
  codes = postgres(market.connections.codedisp, { max: 2 })
  orders = postgres(market.connections.market, { max: 2 })
})

afterAll(async () => {
  await Promise.all([codes?.end(), orders?.end()])
  await market?.remove()
})

type Played = {
  ok: boolean
  scenario: string
  orderId: string
  paymentReference: string
  transactions: string[]
  codes: string[]
  steps: { step: string }[]
}

async function play(scenario: string) {
  const args = [
    '--market',
    market.marketUrl,
    '--rpc',
    market.rpcUrl,
    '--timeout',
    '45',
    '--scenario',
    scenario,
    '--json',
  ]
  const { stdout } = await run(process.execPath, [demo, ...args]).catch((error: { stdout?: string }) => {
    throw new Error(`${scenario}: ${error.stdout ?? String(error)}`)
  })
  const played = JSON.parse(stdout) as Played
  expect(played).toMatchObject({ ok: true, scenario })
  return { ...played, told: played.steps.map(({ step }) => step) }
}

/** What the demo tells the operator to do. */
async function asOperator({ told }: { told: string[] }): Promise<string> {
  const command = told.map((step) => /npm run ops -- (.+)$/.exec(step)?.[1]).find((found) => found !== undefined)
  const { stdout } = await run(process.execPath, [ops, '--json', ...command!.split(' ')], {
    env: { ...process.env, OPS_MARKET_URL: market.connections.market },
  })
  return stdout
}

/** The order, and what is on record of its payments in the order in which they came. */
async function recorded({ orderId, paymentReference }: Played) {
  const [order] = await orders<{ status: string; paid: string; price: string; isCancelled: boolean }[]>`
    select status, paid_amount_wei::text as paid, price_wei::text as price, cancelled_at is not null as "isCancelled"
    from orders where order_id = ${orderId}`
  const transfers = await orders<{ hash: string; amount: string; isOrphan: boolean }[]>`
    select tx_hash as hash, amount_wei::text as amount, orphaned_at is not null as "isOrphan"
    from payment_transfers where payment_reference = ${paymentReference}
    order by block_number, transaction_index, log_index`
  return { order: order!, transfers: [...transfers], price: BigInt(order!.price) }
}

const statusesOf = async ({ orderId }: Played) =>
  (await orders`select new_status from orders_status_history where order_id = ${orderId} order by id`).map(
    ({ new_status }) => new_status as string,
  )

/** One code: what the demo was told, what the dispenser gave out, what the buyer's order holds, and one job for it. */
async function expectOneCode({ orderId, codes: told }: Played) {
  expect(told).toEqual([expect.stringMatching(/^HARBOUR-/)])
  const runs = `${orderId}%`
  expect(await codes`select state from code_pool_codes where run_key like ${runs}`).toEqual([{ state: 'assigned' }])
  const outbox = await orders`select payload->'codes' as codes from order_outbox where order_id = ${orderId}`
  expect(outbox).toEqual([{ codes: told }])
  expect(await orders`select status from fulfillment_jobs where order_id = ${orderId}`).toEqual([{ status: 'done' }])
}

const { paymentDue, paymentProcessing, paymentComplete, cancelled } = OrderStatus
const STRAIGHT = [paymentDue, paymentProcessing, paymentComplete]
const sum = (transfers: { amount: string }[]) => transfers.reduce((total, { amount }) => total + BigInt(amount), 0n)

describe('npm run demo -- --scenario', () => {
  // What they do to the chain is their own payments' business: they play together.
  it.concurrent('split: three parts pay one order, once, with the last', async () => {
    const played = await play('split')
    await expectOneCode(played)
    const { order, transfers, price } = await recorded(played)
    expect(transfers.map(({ hash }) => hash)).toEqual(played.transactions)
    expect(transfers).toHaveLength(3)
    expect(sum(transfers)).toBe(price)
    expect(order).toMatchObject({ status: paymentComplete, paid: String(price) })
    expect(await statusesOf(played)).toEqual(STRAIGHT)
    // The demo fails when a part too early pays the order; here it is the third that did.
    const paidWith = await orders`select paid_tx_hash as hash from orders where order_id = ${played.orderId}`
    expect(paidWith).toEqual([{ hash: played.transactions[2] }])
  })

  it.concurrent('underpaid: the buyer reads what is missing, tops up, and gets the code', async () => {
    const played = await play('underpaid')
    await expectOneCode(played)
    const { order, transfers, price } = await recorded(played)
    expect(transfers.map(({ amount }) => BigInt(amount))).toEqual([(price * 3n) / 5n, price - (price * 3n) / 5n])
    expect(order).toMatchObject({ status: paymentComplete, paid: String(price) })
    expect(played.told).toContainEqual(expect.stringMatching(/CRC are missing; order is OrderPaymentDue/))
    expect(await statusesOf(played)).toEqual(STRAIGHT)
  })

  it.concurrent('overpaid: one code, and the surplus is on record', async () => {
    const played = await play('overpaid')
    await expectOneCode(played)
    const { order, transfers, price } = await recorded(played)
    expect(order).toMatchObject({ status: paymentComplete, paid: String(price + price / 2n) })
    expect(transfers).toEqual([{ hash: played.transactions[0], amount: String(price + price / 2n), isOrphan: false }])
    expect(await asOperator(played)).toContain(played.orderId)
  })

  it.concurrent('late: money for a cancelled order delivers nothing and is on record', async () => {
    const played = await play('late')
    expect(played).toMatchObject({ codes: [], transactions: [expect.any(String)] })
    const { order, transfers, price } = await recorded(played)
    expect(order).toEqual({ status: cancelled, isCancelled: true, paid: String(price), price: String(price) })
    expect(transfers).toEqual([{ hash: played.transactions[0], amount: String(price), isOrphan: false }])
    const { orderId } = played
    expect(await orders`select 1 from fulfillment_jobs where order_id = ${orderId}`).toEqual([])
    expect(await orders`select 1 from order_outbox where order_id = ${orderId}`).toEqual([])
    expect(await codes`select 1 from code_pool_codes where run_key like ${`${orderId}%`}`).toEqual([])
    expect(await statusesOf(played)).toEqual([paymentDue, cancelled])
    expect(await asOperator(played)).toContain(orderId)
  })
})

describe('npm run demo -- --scenario, one at a time', () => {
  it('outage: what is paid while the RPC fails is credited afterwards', async () => {
    const played = await play('outage')
    await expectOneCode(played)
    const { order, transfers, price } = await recorded(played)
    expect(order).toMatchObject({ status: paymentComplete, paid: String(price) })
    expect(transfers).toEqual([{ hash: played.transactions[0], amount: String(price), isOrphan: false }])
    expect(played.told).toContainEqual(expect.stringMatching(/in vain; order is OrderPaymentDue$/))
    expect(await statusesOf(played)).toEqual(STRAIGHT)
    expect(await failedCalls(market.rpcUrl), 'nothing fails any more').toEqual({})
  })

  it('payments:P25 reorg: the order waits again, and one code is given for the payment that came back', async () => {
    const played = await play('reorg')
    await expectOneCode(played)
    expect(await statusesOf(played)).toEqual([paymentDue, paymentProcessing, ...STRAIGHT])
    const { order, price } = await recorded(played)
    expect(order).toMatchObject({ status: paymentComplete, paid: String(price) })
    // The same transaction stands in two places; only the one that the chain has counts.
    const transfers = await until('the record is that of the chain', async () => {
      const found = (await recorded(played)).transfers
      return found.some(({ isOrphan }) => isOrphan) && found
    })
    const [hash] = played.transactions
    expect(transfers).toEqual([
      { hash, amount: String(price), isOrphan: true },
      { hash, amount: String(price), isOrphan: false },
    ])
  })

  it('the chain goes on as before, and the next buyer notices nothing', async () => {
    const { stdout } = await run(process.execPath, [
      demo,
      '--market',
      market.marketUrl,
      '--rpc',
      market.rpcUrl,
      '--json',
    ])
    const played = JSON.parse(stdout) as Played
    expect(played).not.toHaveProperty('scenario')
    await expectOneCode(played)
  })
})

describe('npm run demo', () => {
  it('lists the scenarios, and refuses one that it does not know with exit code 2', async () => {
    const { stdout } = await run(process.execPath, [demo, '--help'])
    for (const name of ['split', 'underpaid', 'overpaid', 'late', 'outage', 'reorg']) {
      expect(stdout).toMatch(new RegExp(`^  ${name} +\\S.*$`, 'm'))
    }
    const refused = await run(process.execPath, [demo, '--scenario', 'flood']).catch(
      (error: { code: number; stderr: string }) => error,
    )
    expect(refused).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('split, underpaid, overpaid, late, outage, reorg'),
    })
  })
})
