import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { DEMO_CODE_SKU, demoOperator, demoSeller } from '@market/dev-chain/demo'
import { OrderStatus } from '@market/contracts/statuses'
import { payInCrc } from '@market/dev-chain/payInCrc'
import { codesOf } from '@market/sdk/delivered'
import { Market, safeSigner } from '@market/sdk/market'
import type { Payment } from '@market/sdk/verify'
import type { RunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { signedInBuyer } from './buyer.ts'
import { deploySafe } from './buyersApi/devChain.ts'
import { startDemoMarket } from './demoMarket.ts'
import { newSeller } from './publisher.ts'
import { buyOne } from './readmeSample.ts'

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
    env: {
      ...process.env,
      OPS_MARKET_URL: market.connections.market,
      OPS_CODEDISP_URL: market.connections.codedisp,
      ADAPTER_SECRETS_KEY: market.secrets.adapterSecretsKey,
    },
  }).then(({ stdout }) => JSON.parse(stdout) as Record<string, unknown>)

describe('a purchase through real processes', () => {
  it('npm run demo ends with one code, in the order and nowhere else', async () => {
    const { stdout } = await run(process.execPath, [
      script('demo'),
      '--market',
      market.marketUrl,
      '--rpc',
      market.rpcUrl,
      '--seed',
      '1',
      '--json',
    ])
    const result = JSON.parse(stdout) as { ok: boolean; orderId: string; codes: string[]; steps: { step: string }[] }
    expect(result).toMatchObject({ ok: true, codes: [expect.stringMatching(/^HARBOUR-/)] })
    const told = result.steps.map(({ step }) => step)
    expect(told).toContain('it is what its seller has signed')
    for (const status of ['OrderPaymentDue', 'PaymentProcessing', 'PaymentComplete'])
      expect(told).toContain(`order is ${status}`)

    const assigned =
      await codes`select 1 from code_pool_codes c join fulfillment_runs r using (run_key) where r.order_id = ${result.orderId}`
    expect(assigned).toHaveLength(1)
    const history =
      await orders`select old_status, new_status from orders_status_history where order_id = ${result.orderId} order by id`
    expect(history.map((row) => [row.old_status, row.new_status])).toEqual([
      [null, OrderStatus.paymentDue],
      [OrderStatus.paymentDue, OrderStatus.paymentProcessing],
      [OrderStatus.paymentProcessing, OrderStatus.paymentComplete],
    ])
  })

  it("the sdk's README shows a purchase that works, as it is", async () => {
    const folder = new URL('../packages/sdk/', import.meta.url)
    const readme = await readFile(new URL('README.md', folder), 'utf8')
    const sample = await readFile(new URL('readmeSample.ts', import.meta.url), 'utf8')
    expect(/```ts\n([\s\S]*?)```/.exec(readme)![1]).toBe(sample)

    const account = privateKeyToAccount(generatePrivateKey())
    const wallet = { address: account.address, signMessage: (message: string) => account.signMessage({ message }) }
    const wanted = { operator: demoOperator, seller: demoSeller, sku: DEMO_CODE_SKU }
    const pay = ({ address: gateway, amountWei: amount, reference }: Payment) =>
      payInCrc(market.rpcUrl, account, { gateway, amount, reference })
    const told = vi.spyOn(console, 'log').mockImplementation(() => {})
    onTestFinished(() => told.mockRestore())
    expect(await buyOne(market.marketUrl, wallet, wanted, pay)).toEqual([expect.stringMatching(/^HARBOUR-/)])
    const { paymentDue, paymentProcessing, paymentComplete } = OrderStatus
    expect(told.mock.calls.flat()).toEqual([paymentDue, paymentProcessing, paymentComplete])
  })

  it('a Safe signs in by the key of its owner', async () => {
    const owner = privateKeyToAccount(generatePrivateKey())
    const address = await deploySafe(market.rpcUrl, [owner.address], 1)
    const safe = safeSigner({ address, chainId: 100, signTypedData: (message) => owner.signTypedData(message) })
    const session = await new Market(market.marketUrl).signIn(safe)
    expect(session).toMatchObject({ address, chainId: 100 })

    const other = privateKeyToAccount(generatePrivateKey())
    const stranger = safeSigner({ address, chainId: 100, signTypedData: (message) => other.signTypedData(message) })
    await expect(new Market(market.marketUrl).signIn(stranger)).rejects.toMatchObject({ code: 'sign_in_refused' })
  })

  it('the demo fails with a sentence and exit code 1 when there is nothing to buy', async () => {
    const failed = await run(process.execPath, [
      script('demo'),
      '--market',
      market.marketUrl,
      '--rpc',
      market.rpcUrl,
      '--sku',
      'nothing',
      '--json',
    ]).catch((error: { code: number; stdout: string }) => error)
    expect(failed).toMatchObject({ code: 1 })
    expect(JSON.parse(failed.stdout)).toMatchObject({ ok: false, error: 'the catalog has no nothing' })
  })

  it("of two buyers one gets the last code, the other's order visibly waits until there is another", async () => {
    const sku = 'linen-tote'
    for (const code of ['ONLY-ONE', 'LOST']) {
      expect(await ops('seed-pool', 'last', code)).toMatchObject({ added: 1 })
    }
    expect(await ops('mapping-codedisp', '100', demoSeller, sku, 'last')).toMatchObject({
      mapping: 'created',
      route: 'created',
    })
    const buyers = await Promise.all([signedInBuyer(market.marketUrl), signedInBuyer(market.marketUrl)])
    const placed = await Promise.all(
      buyers.map(async (buyer) => ({ buyer, ...(await buyer.checkOut(demoOperator, demoSeller, sku)) })),
    )
    // One was kept for each of them. The seller gives one away elsewhere.
    await codes`
      delete from code_pool_codes where code_id = (select max(code_id) from code_pool_codes where pool_id = 'last')`
    await Promise.all(placed.map(({ buyer, orderId }) => buyer.pay(market.rpcUrl, orderId)))
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
      const found = codesOf(await loser!.buyer.market.order(loser!.orderId))
      return found.length > 0 && found
    })
    expect(codesOfLoser).toEqual(['ONE-MORE'])
  })

  it('fulfilment:F-39 a line that lost its route waits for a person, and is delivered once it has one again', async () => {
    const sku = 'heron-print'
    await ops('seed-pool', 'prints', 'PRINT-1')
    await ops('mapping-codedisp', '100', demoSeller, sku, 'prints')
    const buyer = await signedInBuyer(market.marketUrl)
    const { orderId } = await buyer.checkOut(demoOperator, demoSeller, sku)
    await orders`update market_service_routes set enabled = false where sku = ${sku}`
    await buyer.pay(market.rpcUrl, orderId)
    const [job] = await until('the line waits', async () => {
      const jobs = await buyer.market.fulfillments(orderId)
      return jobs[0]?.state === 'waiting' && jobs
    })
    expect(job).toMatchObject({ offerType: 'unrouted', reason: 'route_not_found' })

    expect(await ops('mapping-codedisp', '100', demoSeller, sku, 'prints')).toMatchObject({
      mapping: 'unchanged',
      route: 'updated',
    })
    await orders`update fulfillment_jobs set next_attempt_at = now() where order_id = ${orderId}`
    await until('it is delivered', async () => codesOf(await buyer.market.order(orderId))[0] === 'PRINT-1')
    await orders`update market_service_routes set enabled = false where sku = ${sku}`
  })

  it('a basket that is checked out twenty times at once becomes one order', async () => {
    const buyer = await signedInBuyer(market.marketUrl)
    const basket = await buyer.market.createBasket({ operator: demoOperator })
    await basket.setItems([{ seller: demoSeller, sku: DEMO_CODE_SKU, quantity: 1 }])
    // With a key of its own each: the basket alone has to see to it.
    const keys = Array.from({ length: 20 }, (_, i) => `press-${i}`)
    const press = () => Promise.all(keys.map((idempotencyKey) => basket.checkout({ idempotencyKey })))
    const answers = [...(await press()), ...(await press())]
    const made = await orders<{ order_id: string }[]>`select order_id from orders where basket_id = ${basket.id}`
    expect(made).toHaveLength(1)
    expect([...new Set(answers.map(({ orderId }) => orderId))]).toEqual([made[0]!.order_id])
  })

  it('market-api:A-106 payments:P24 a payment to another gateway settles nothing', async () => {
    const { createGatewayOf } = await import('./otherGateway.ts')
    const buyer = await signedInBuyer(market.marketUrl)
    const { orderId, paymentReference } = await buyer.checkOut(demoOperator, demoSeller, DEMO_CODE_SKU)
    await createGatewayOf(market.rpcUrl, paymentReference, 5n * 10n ** 18n)
    const [transfer] = await until('the transfer is recorded', async () => {
      const rows =
        await orders`select ignored_reason, eligible from payment_transfers where payment_reference = ${paymentReference}`
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
      const [row] =
        await orders`select eligible, ignored_reason from payment_transfers where payment_reference = ${paymentReference}`
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

describe('a catalog that somebody tampered with', () => {
  it('shows what the seller signed and nothing else, in the list and in the basket', async () => {
    const seller = await newSeller(market, demoOperator)
    const { gatewayOf } = await import('./otherGateway.ts')
    const payTo = await gatewayOf(market.rpcUrl, demoSeller)
    const stranger = generatePrivateKey()
    const [honest, cheap, forged, altered] = await Promise.all([
      seller.product('honest', 5, payTo),
      seller.product('swapped', 1, payTo),
      seller.product('forged', 5, payTo),
      seller.product('altered', 5, payTo),
    ])
    const swapped = { ...seller.link('swapped', await seller.product('swapped', 50, payTo)), cid: cheap }
    await seller.tamper(altered, JSON.stringify({ name: 'Altered', price: 0.01 }))
    await ops('mapping-codedisp', '100', seller.address, 'honest', 'honest-pool')
    await ops('seed-pool', 'honest-pool', 'H-1')
    for (const sku of ['swapped', 'forged', 'altered'])
      await ops('mapping-codedisp', '100', seller.address, sku, 'honest-pool')
    await seller.publish([
      seller.link('honest', honest),
      swapped,
      seller.link('forged', forged, stranger),
      seller.link('altered', altered),
    ])

    const anybody = new Market(market.marketUrl)
    const page = await until('the honest product is listed', async () => {
      const found = await anybody.catalog(demoOperator, [seller.address])
      return found.products.length > 0 && found
    })
    expect(page.products.map(({ product }) => product.sku)).toEqual(['honest'])
    expect(page.errors).toEqual([
      expect.objectContaining({ avatar: seller.address, stage: 'payload', code: 'PAYLOAD_UNAVAILABLE', cid: altered }),
    ])
    const buyer = await signedInBuyer(market.marketUrl)
    for (const sku of ['swapped', 'forged']) {
      await expect(buyer.checkOut(demoOperator, seller.address, sku), sku).rejects.toMatchObject({
        status: 422,
        code: 'product_not_found',
      })
    }
    // The right bytes may be had tomorrow.
    await expect(buyer.checkOut(demoOperator, seller.address, 'altered')).rejects.toMatchObject({
      status: 502,
      code: 'catalog_unavailable',
    })
    await expect(buyer.checkOut(demoOperator, seller.address, 'honest')).resolves.toMatchObject({
      orderId: expect.any(String),
    })
  })

  it('keeps a product that was verified when its block is damaged later, and takes it down when the seller does', async () => {
    const seller = await newSeller(market, demoOperator)
    await ops('mapping-codedisp', '100', seller.address, 'lamp', 'honest-pool')
    const lamp = await seller.product('lamp', 5, demoSeller)
    const lampLink = seller.link('lamp', lamp)
    await seller.publish([lampLink])
    const anybody = new Market(market.marketUrl)
    const skus = async () =>
      (await anybody.catalog(demoOperator, [seller.address])).products.map(({ product }) => product.sku)
    await until('the lamp is listed', async () => (await skus()).includes('lamp'))

    await seller.tamper(lamp, 'no JSON at all')
    const chair = await seller.product('chair', 9, demoSeller)
    await seller.publish([lampLink, seller.link('chair', chair)])
    await until('the chair is listed', async () => (await skus()).includes('chair'))
    expect((await skus()).toSorted()).toEqual(['chair', 'lamp'])

    await seller.publish([seller.link('chair', chair)])
    await until('the lamp is gone', async () => !(await skus()).includes('lamp'))
    expect(await skus()).toEqual(['chair'])
  })

  it('clients:6 writes feeds, pay action and no fulfilment address into the offers, from the configured base', async () => {
    const response = await fetch(
      `${market.marketUrl}/api/operator/${demoOperator}/catalog?avatars=${demoSeller}&pageSize=2`,
    )
    expect(response.headers.get('content-type')).toBe('application/ld+json; charset=utf-8')
    const cursor = response.headers.get('x-next-cursor')!
    expect(JSON.parse(Buffer.from(cursor, 'base64url').toString())).toMatchObject({ start: 2, v: 1 })
    const next = /^<(.+)>; rel="next"$/.exec(response.headers.get('link')!)![1]!
    const page = (await response.json()) as {
      products: { product: { sku: string; offers: Record<string, unknown>[] } }[]
      nextCursor: string
    }
    const rest = (await (await fetch(next)).json()) as typeof page
    expect([page.products.length, rest.products.length, page.nextCursor]).toEqual([2, 1, cursor])
    const offers = new Map([...page.products, ...rest.products].map(({ product }) => [product.sku, product.offers[0]!]))
    const feed = (kind: string) => `${market.marketUrl}/inventory/${kind}/100/${demoSeller}/${DEMO_CODE_SKU}`
    expect(offers.get(DEMO_CODE_SKU)).toMatchObject({
      price: 5,
      availabilityFeed: feed('availability'),
      inventoryFeed: feed('inventory'),
      fulfillmentEndpoint: null,
      potentialAction: {
        '@type': 'PayAction',
        price: 5,
        priceCurrency: 'CRC',
        recipient: { '@id': expect.stringMatching(/^eip155:100:0x/) },
      },
    })
    expect(offers.get('heron-print')).toMatchObject({ availabilityFeed: null, inventoryFeed: null })
    expect(await (await fetch(feed('availability'))).json()).toBe('https://schema.org/InStock')
    expect(await (await fetch(feed('inventory'))).json()).toMatchObject({
      '@type': 'QuantitativeValue',
      value: expect.any(Number),
      unitCode: 'C62',
    })
    expect((await fetch(feed('inventory').replace(DEMO_CODE_SKU, 'heron-print'))).status).toBe(404)
  })
})
