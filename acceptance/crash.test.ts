import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { ServiceName } from '@market/devstack/stack'
import postgres from 'postgres'
import { describe, expect, it } from 'vitest'
import { startDemoMarket } from './demoMarket.ts'

const run = promisify(execFile)
const demo = new URL('../scripts/dist/demo.js', import.meta.url).pathname

/** Where a purchase is killed as `kill -9` would, in the order in which it passes them. */
const points: [ServiceName, string, string][] = [
  ['market-api', 'checkout.frozen', 'in checkout, before the order is committed'],
  ['market-api', 'checkout.committed', 'after the order, before the buyer is told its number'],
  ['market-api', 'payments.observing', 'with a transfer written and not committed'],
  ['market-api', 'payments.advanced.complete', 'after the order is complete and its job is there, before anybody works on it'],
  ['market-api', 'fulfillment.claimed', 'with the job claimed and the adapter not asked'],
  ['market-api', 'fulfillment.answered', 'with the adapter\'s answer in hand and not stored'],
  ['codedispenser', 'adapter.delivered', 'with a code assigned and not committed'],
  ['codedispenser', 'adapter.committed', 'with a code given out and the answer not sent'],
]

describe.concurrent('a purchase survives kill -9', () => {
  it.each(points)('payments:P37 market-api:A-109 fulfilment:F-21 of %s at %s: %s', async (service, failpoint) => {
    const market = await startDemoMarket({ firstEnv: { [service]: { FAILPOINT: failpoint } } })
    try {
      const codes = postgres(market.connections.codedisp, { max: 1 })
      const orders = postgres(market.connections.market, { max: 1 })
      try {
        const { stdout } = await run(process.execPath, [demo, '--market', market.marketUrl, '--rpc', market.rpcUrl, '--json'])
        const bought = JSON.parse(stdout) as { orderId: string; codes: string[] }
        expect(market.services[service].restarts, 'the process died at the point').toBe(1)
        expect(bought.codes).toHaveLength(1)
        expect(await codes`select code from code_pool_codes where state = 'assigned'`).toEqual([{ code: bought.codes[0] }])
        expect(await orders`select order_id from orders`).toEqual([{ order_id: bought.orderId }])
        expect(await orders`select payload->'codes' as codes from order_outbox`).toEqual([{ codes: bought.codes }])
        expect(await orders`select status from fulfillment_jobs`).toEqual([{ status: 'done' }])
        expect(await orders`select count(*)::int as n from orders_status_history`).toEqual([{ n: 3 }])
      } finally {
        await Promise.all([codes.end(), orders.end()])
      }
    } finally {
      await market.remove()
    }
  })
})
