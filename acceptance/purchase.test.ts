import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { OrderStatus } from '@market/contracts/statuses'
import type { RunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { DEMO_CODE_SKU, demoOperator, demoSeller } from '../scripts/demoSeller.ts'
import { signedInBuyer } from './buyer.ts'
import { startDemoMarket } from './demoMarket.ts'

const run = promisify(execFile)
const script = (name: string) => new URL(`../scripts/dist/${name}.js`, import.meta.url).pathname

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

const ops = (...args: string[]) =>
  run(process.execPath, [script('ops'), '--json', ...args], {
    env: { ...process.env, OPS_MARKET_URL: market.connections.market, OPS_CODEDISP_URL: market.connections.codedisp },
  }).then(({ stdout }) => JSON.parse(stdout) as Record<string, unknown>)

describe('a purchase through real processes', () => {
  it('npm run demo ends with one code, in the order and nowhere else', async () => {
    const { stdout } = await run(process.execPath, [script('demo'), '--market', market.marketUrl, '--rpc', market.rpcUrl, '--seed', '1', '--json'])
    const result = JSON.parse(stdout) as { ok: boolean; orderId: string; codes: string[]; steps: { step: string }[] }
    expect(result).toMatchObject({ ok: true, codes: [expect.stringMatching(/^HARBOUR-/)] })
    const told = result.steps.map(({ step }) => step)
    for (const status of ['OrderPaymentDue', 'PaymentProcessing', 'PaymentComplete']) expect(told).toContain(`order is ${status}`)

    const assigned = await codes`select code from code_pool_codes c join fulfillment_runs r using (run_key) where r.order_id = ${result.orderId}`
    expect(assigned.map(({ code }) => code)).toEqual(result.codes)
    const history = await orders`select old_status, new_status from orders_status_history where order_id = ${result.orderId} order by id`
    expect(history.map((row) => [row.old_status, row.new_status])).toEqual([
      [null, OrderStatus.paymentDue],
      [OrderStatus.paymentDue, OrderStatus.paymentProcessing],
      [OrderStatus.paymentProcessing, OrderStatus.paymentComplete],
    ])
  })

  it('the demo fails with a sentence and exit code 1 when there is nothing to buy', async () => {
    const failed = await run(process.execPath, [script('demo'), '--market', market.marketUrl, '--rpc', market.rpcUrl, '--sku', 'nothing', '--json']).catch(
      (error: { code: number; stdout: string }) => error,
    )
    expect(failed).toMatchObject({ code: 1 })
    expect(JSON.parse(failed.stdout)).toMatchObject({ ok: false, error: 'the catalog has no nothing' })
  })

  it('two buyers race for the last code: one gets it, the other\'s order visibly waits until there is another', async () => {
    const sku = 'linen-tote'
    expect(await ops('seed-pool', 'last', 'ONLY-ONE')).toMatchObject({ added: 1 })
    expect(await ops('mapping-codedisp', '100', demoSeller, sku, 'last')).toMatchObject({ mapping: 'created', route: 'created' })
    const buyers = await Promise.all([signedInBuyer(market.marketUrl), signedInBuyer(market.marketUrl)])
    // Both see one in stock and check out before either has paid.
    const placed = await Promise.all(
      buyers.map(async (buyer) => ({ buyer, ...(await buyer.checkOut(demoOperator, demoSeller, sku)) })),
    )
    await Promise.all(
      placed.map(({ buyer, paymentReference }) => buyer.pay(market.rpcUrl, demoOperator, demoSeller, sku, paymentReference)),
    )
    const states = await until('both orders are complete and tried', async () => {
      const found = await Promise.all(
        placed.map(async ({ buyer, orderId }) => ({
          orderId,
          buyer,
          order: await buyer.market.order(orderId),
          jobs: await buyer.market.fulfillments(orderId),
        })),
      )
      return found.every(({ jobs }) => ['succeeded', 'waiting'].includes(jobs[0]?.state ?? '')) && found
    })
    const [winner, loser] = states[0]!.jobs[0]!.state === 'succeeded' ? states : [states[1]!, states[0]!]
    expect(winner!.order.outbox[0]?.payload).toMatchObject({ status: 'ok', codes: ['ONLY-ONE'] })
    expect(loser!.order).toMatchObject({ orderStatus: OrderStatus.paymentComplete, outbox: [] })
    expect(loser!.jobs).toMatchObject([{ state: 'waiting', reason: 'depleted' }])

    await ops('seed-pool', 'last', 'ONE-MORE')
    // The next look is a minute away; an operator who is in a hurry makes it due.
    await orders`update fulfillment_jobs set next_attempt_at = now() where order_id = ${loser!.orderId}`
    const codesOfLoser = await until('the waiting order gets the new code', async () => {
      const { outbox } = await loser!.buyer.market.order(loser!.orderId)
      return outbox[0]?.payload.codes
    })
    expect(codesOfLoser).toEqual(['ONE-MORE'])
  })

  it('a basket that is checked out twenty times at once becomes one order', async () => {
    const buyer = await signedInBuyer(market.marketUrl)
    const basketId = await buyer.market.createBasket({ buyer: buyer.buyer, operator: demoOperator, chainId: 100 })
    await buyer.market.setItems(basketId, [{ seller: demoSeller, sku: DEMO_CODE_SKU, quantity: 1 }])
    const answers = await Promise.all(Array.from({ length: 20 }, () => buyer.market.checkout(basketId)))
    expect(new Set(answers.map(({ orderId }) => orderId)).size).toBe(1)
    expect(await orders`select 1 from orders where basket_id = ${basketId}`).toHaveLength(1)
  })

  it('market-api:A-106 payments:P24 a payment to another gateway settles nothing', async () => {
    const { createGatewayOf } = await import('./otherGateway.ts')
    const buyer = await signedInBuyer(market.marketUrl)
    const { orderId, paymentReference } = await buyer.checkOut(demoOperator, demoSeller, DEMO_CODE_SKU)
    await createGatewayOf(market.rpcUrl, paymentReference, 5n * 10n ** 18n)
    const [transfer] = await until('the transfer is recorded', async () => {
      const rows = await orders`select ignored_reason, eligible from payment_transfers where payment_reference = ${paymentReference}`
      return rows.length > 0 && rows
    })
    expect(transfer).toMatchObject({ ignored_reason: 'unknown_gateway', eligible: null })
    expect((await buyer.market.order(orderId)).orderStatus).toBe(OrderStatus.paymentDue)
  })

  it('payments:P18 a token the gateway does not trust settles nothing', async () => {
    const { payInUntrustedToken } = await import('./otherGateway.ts')
    const buyer = await signedInBuyer(market.marketUrl)
    const { orderId, paymentReference } = await buyer.checkOut(demoOperator, demoSeller, DEMO_CODE_SKU)
    await payInUntrustedToken(market.rpcUrl, demoSeller, paymentReference, 5n * 10n ** 18n)
    await until('the transfer is refused', async () => {
      const [row] = await orders`select eligible, ignored_reason from payment_transfers where payment_reference = ${paymentReference}`
      return row?.eligible === false && row.ignored_reason === 'untrusted_token'
    })
    expect((await buyer.market.order(orderId)).orderStatus).toBe(OrderStatus.paymentDue)
  })

  it('market-api:A-081 nobody else sees an order', async () => {
    const [owner, stranger] = await Promise.all([signedInBuyer(market.marketUrl), signedInBuyer(market.marketUrl)])
    const { orderId } = await owner.checkOut(demoOperator, demoSeller, DEMO_CODE_SKU)
    const unknown = 'ord_00000000000000000000000000000000'
    for (const id of [orderId, unknown, orderId.toLowerCase()]) {
      await expect(stranger.market.order(id)).rejects.toMatchObject({ status: 404, code: 'order_not_found' })
    }
    const anonymous = await fetch(`${market.marketUrl}/api/cart/v1/orders/${orderId}`)
    expect(anonymous.status).toBe(401)
    expect(anonymous.headers.get('www-authenticate')).toBe('Bearer')
  })

  it('logs neither a basket id nor a token', async () => {
    const text = market.log.map(({ line }) => line).join('\n')
    expect(text).toContain('"msg":"request"')
    expect(text).not.toMatch(/bkt_[0-9a-f]{32}/)
    expect(text).not.toContain('eyJ')
  })
})
