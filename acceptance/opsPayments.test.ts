import { OrderStatus } from '@market/contracts/statuses'
import { DEMO_CODE_SKU, demoOperator, demoSeller } from '@market/dev-chain/demo'
import { payInCrc } from '@market/dev-chain/payInCrc'
import { payTo } from '@market/sdk/verify'
import type { RunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { signedInBuyer } from './buyer.ts'
import { startDemoMarket } from './demoMarket.ts'
import { runOps } from './opsCommand.ts'

// `ops payments` beside a market that runs: what was paid is what its commands say.

let market: RunningMarket
let database: postgres.Sql

beforeAll(async () => {
  market = await startDemoMarket()
  database = postgres(market.connections.market, { max: 1 })
})
afterAll(async () => {
  await database?.end()
  await market?.remove()
})

const ops = (...args: string[]) => runOps({ OPS_MARKET_URL: market.connections.market }, 'payments', ...args)
/** Every test reads what it asserts. */
async function opsJson(...args: string[]): Promise<Record<string, any>> {
  const { code, stdout } = await ops(...args, '--json')
  return { code, ...(JSON.parse(stdout) as object) }
}

/** A buyer with an order that waits for payment. */
async function ordered() {
  const buyer = await signedInBuyer(market.marketUrl)
  const { orderId } = await buyer.checkOut(demoOperator, demoSeller, DEMO_CODE_SKU)
  return { buyer, orderId, payment: payTo(await buyer.market.order(orderId)) }
}

const somebody = () => privateKeyToAccount(generatePrivateKey())
const isRead = (txHash: string) =>
  until('the transfer is stored', async () => {
    const rows = await database`select 1 from payment_transfers where tx_hash = ${txHash}`
    return rows.length > 0
  })

it('explains a purchase, and a replay changes nothing about it', async () => {
  const { buyer, orderId, payment } = await ordered()
  const before = await ops('explain', orderId)
  expect(before.stdout).toContain('Nothing was paid with this reference, as far as payments are read.')

  const txHash = await buyer.pay(market.rpcUrl, orderId)
  await until('the order is delivered', async () => (await buyer.market.order(orderId)).outbox.length > 0)
  expect((await buyer.market.order(orderId)).orderStatus).toBe(OrderStatus.paymentComplete)

  const status = await ops('status')
  expect(status).toMatchObject({ code: 0, stderr: '', stdout: expect.stringContaining('In order') })
  expect(await opsJson('list')).toMatchObject({ code: 0, orders: [], next: null })
  for (const asked of [orderId, payment.reference, txHash]) {
    const { orders, unmatched } = await opsJson('explain', asked)
    expect(unmatched).toEqual([])
    expect(orders).toMatchObject([
      {
        orderId,
        priceWei: payment.amountWei.toString(),
        gateways: [{ gateway: payment.address }],
        transfers: [{ txHash, payer: buyer.buyer, amountWei: payment.amountWei.toString(), verdict: 'counts' }],
        final: { wei: payment.amountWei.toString(), reached: true },
        jobs: [{ status: 'done' }],
        next: ['The payment is final.'],
      },
    ])
  }

  const orderRow = () => database`select * from orders where order_id = ${orderId}`
  const transferRow = () => database`select * from payment_transfers where tx_hash = ${txHash}`
  const history = () => database`select * from orders_status_history where order_id = ${orderId} order by id`
  const known = [await orderRow(), await transferRow(), await history()]
  const asPromised = {
    cursor: 'updated',
    readAgain: 1,
    transfers: { updated: 0, unchanged: 1 },
    orders: { updated: 0 },
  }
  expect(await opsJson('replay', '--from-block', '0', '--dry-run')).toMatchObject({ code: 0, ...asPromised })
  expect(await opsJson('replay', '--from-block', '0', '--yes')).toMatchObject({ code: 0, ...asPromised })
  await until('everything is read once more', async () => {
    const [row] = await database`select last_block_number from payments_cursors`
    return Number(row!.last_block_number) >= Number((await transferRow())[0]!.block_number)
  })
  const { stdout } = await ops('status')
  expect(stdout).toContain('In order')
  expect([await orderRow(), await transferRow(), await history()]).toEqual(known)
})

it('shows an operator the money that nobody else would miss', async () => {
  const part = await ordered()
  const much = await ordered()
  const { address: gateway, amountWei } = part.payment
  const pay = (amount: bigint, reference: string) => payInCrc(market.rpcUrl, somebody(), { gateway, amount, reference })
  const transactions = [
    await pay(amountWei / 2n, part.payment.reference),
    await pay(amountWei * 2n, much.payment.reference),
    await pay(amountWei, 'invoice-77'),
  ]
  for (const txHash of transactions) await isRead(txHash)

  const overpaid = await until('the surplus is known', async () => {
    const { orders } = await opsJson('list', '--state', 'overpaid')
    return orders.length > 0 && orders
  })
  expect(overpaid).toMatchObject([{ orderId: much.orderId, paidWei: (amountWei * 2n).toString() }])
  expect(await opsJson('list', '--state', 'underpaid')).toMatchObject({
    orders: [{ orderId: part.orderId, reference: part.payment.reference }],
  })
  const table = await ops('list')
  expect(table.stdout).toContain(much.orderId)
  // The time to pay the rest is not over.
  expect(table.stdout).not.toContain(part.orderId)
  const { stdout } = await ops('explain', part.orderId)
  expect(stdout).toMatch(/2\.5 CRC are missing; a further payment/)

  const unmatched = await opsJson('unmatched')
  expect(unmatched.gateways).toMatchObject([{ gateway, transfers: 1, wei: amountWei.toString() }])
  expect(unmatched.transfers).toMatchObject([{ reference: 'invoice-77', txHash: transactions[2] }])

  const status = await ops('status')
  expect(status.code).toBe(1)
  expect(status.stdout).toContain('payments list --state overpaid')
  expect(status.stdout).toContain('payments unmatched')
  expect(status.stdout).not.toContain('--state underpaid')
})
