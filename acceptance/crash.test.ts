import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { ServiceName } from '@market/devstack/stack'
import type { RunningMarket } from '@market/testkit/runningMarket'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startDemoMarket } from './demoMarket.ts'

const run = promisify(execFile)
const demo = new URL('../scripts/dist/demo.js', import.meta.url).pathname

/** Where a purchase is killed as `kill -9` would, in the order in which it passes them. */
const points: [ServiceName, string, string][] = [
  ['market-api', 'checkout.frozen', 'in checkout, before the order is committed'],
  ['market-api', 'checkout.committed', 'after the order, before the buyer is told its number'],
  ['market-api', 'payments.observing', 'with a transfer written and not committed'],
  [
    'market-api',
    'payments.advanced.complete',
    'after the order is complete and its job is there, before anybody works on it',
  ],
  ['market-api', 'fulfillment.claimed', 'with the job claimed and the adapter not asked'],
  ['market-api', 'fulfillment.answered', "with the adapter's answer in hand and not stored"],
  ['codedispenser', 'adapter.delivered', 'with a code assigned and not committed'],
  ['codedispenser', 'adapter.committed', 'with a code given out and the answer not sent'],
]

let market: RunningMarket
let codes: postgres.Sql
let orders: postgres.Sql

beforeAll(async () => {
  market = await startDemoMarket()
  codes = postgres(market.connections.codedisp, { max: 1 })
  orders = postgres(market.connections.market, { max: 1 })
})
afterAll(async () => {
  await Promise.all([codes?.end(), orders?.end()])
  await market?.remove()
})

describe('a purchase survives kill -9', () => {
  it.each(points)('payments:P37 market-api:A-109 fulfilment:F-21 of %s at %s: %s', async (name, failpoint) => {
    const service = market.services[name]
    const before = {
      restarts: service.restarts,
      assigned: await count(codes, "code_pool_codes where state = 'assigned'"),
      orders: await count(orders, 'orders'),
    }
    await service.restart({ FAILPOINT: failpoint })

    const { stdout } = await run(process.execPath, [
      demo,
      '--market',
      market.marketUrl,
      '--rpc',
      market.rpcUrl,
      '--json',
    ])
    const bought = JSON.parse(stdout) as { orderId: string; codes: string[] }

    expect(service.restarts - before.restarts, 'the process died at the point, once').toBe(1)
    expect(bought.codes).toHaveLength(1)
    expect(await count(codes, `code_pool_codes where run_key like '${bought.orderId}%'`)).toBe(1)
    expect(await count(codes, "code_pool_codes where state = 'assigned'")).toBe(before.assigned + 1)
    expect(await count(orders, 'orders')).toBe(before.orders + 1)
    const { orderId } = bought
    expect(await orders`select payload->'codes' as codes from order_outbox where order_id = ${orderId}`).toEqual([
      { codes: bought.codes },
    ])
    expect(await orders`select status from fulfillment_jobs where order_id = ${orderId}`).toEqual([{ status: 'done' }])
    expect(await count(orders, `orders_status_history where order_id = '${orderId}'`)).toBe(3)
  })
})

async function count(sql: postgres.Sql, from: string): Promise<number> {
  const [row] = await sql.unsafe<{ n: number }[]>(`select count(*)::int as n from ${from}`)
  return row!.n
}
