import { afterEach, describe, expect, it } from 'vitest'
import { createPaymentMemory } from '../src/payments/paymentMemory.ts'
import { FACTORY, gatewayCreated, type ScriptedChain, startScriptedChain, transaction } from './scriptedChain.ts'
import { startShop } from './shop.ts'

// Who can be paid at all (payments.md W1, W19): a payment to anything but a gateway is seen by nobody.

const FORGER = `0x${'bad0'.repeat(10)}`
const OWNER = `0x${'0e'.repeat(20)}`
const PAY_TO = `0x${'7a'.repeat(20)}`

type Shop = Awaited<ReturnType<typeof startShop>>
let open: { chain: ScriptedChain; shop: Shop } | undefined
afterEach(async () => {
  await open?.shop.close()
  await open?.chain.stop()
  open = undefined
})

async function start(env: Record<string, string> = {}) {
  const chain = await startScriptedChain()
  const shop = await startShop({ RPC: chain.node, CIRCLES_RPC: chain.indexer, ...env })
  open = { chain, shop }
  const seller = shop.seller(77)
  let skus = 0

  return {
    chain,
    shop,
    seller,
    /** A basket with something in it that is paid to this address; null = the seller says nothing. */
    async basket(payTo: string | null = PAY_TO, { price = 5, currency = 'CRC' } = {}) {
      const sku = `tea-${(skus += 1)}`
      const recipient = payTo && { '@id': `eip155:100:${payTo}` }
      const potentialAction = { '@type': 'PayAction', recipient }
      await shop.sell(seller, [await shop.made(seller, sku, price, currency, { potentialAction })])
      return shop.basketOf([{ seller, sku }])
    },
    async checkout(path: string) {
      const { status, body } = await shop.cart('POST', `${path}/checkout`)
      return { status, code: body.code, details: body.details, body }
    },
    orders: () => shop.ctx.db.selectFrom('orders').select(['order_id', 'expected_gateways']).execute(),
    /** Another process, which remembers nothing. */
    forget: () => void (shop.ctx.paymentMemory = createPaymentMemory()),
    down: () => void chain.faults.set('GatewayCreated', 'cut'),
    up: () => chain.faults.clear(),
  }
}

describe('the address that an order is paid to', () => {
  it('payments:W1 is refused when it is no gateway; the basket waits until it is one', async () => {
    const { chain, basket, checkout, orders } = await start()
    const path = await basket()
    expect(await checkout(path)).toMatchObject({ status: 422, code: 'no_gateway', details: { path: '/items/0' } })
    expect(await orders()).toEqual([])
    chain.mine(transaction(gatewayCreated(PAY_TO, OWNER)))
    expect(await checkout(path)).toMatchObject({ status: 201 })
    expect(await orders()).toMatchObject([{ expected_gateways: [PAY_TO] }])
  })

  it('payments:W1 is not guessed at while the chain can not be asked: 502, and nothing is ordered', async () => {
    const { chain, basket, checkout, orders, down, up } = await start()
    chain.mine(transaction(gatewayCreated(PAY_TO, OWNER)))
    const path = await basket()
    for (const fault of ['cut', 'http', 'error'] as const) {
      chain.faults.set('GatewayCreated', fault)
      const refused = await checkout(path)
      expect(refused).toMatchObject({ status: 502, code: 'payments_unavailable' })
      expect(JSON.stringify(refused.body)).not.toMatch(/script|circles_query|127\.0\.0\.1/)
    }
    down()
    expect(await orders()).toEqual([])
    up()
    expect(await checkout(path)).toMatchObject({ status: 201 })
  })

  it('is asked for once; then it is on record, for other processes too, and needs no chain', async () => {
    const { chain, shop, basket, checkout, forget, down } = await start()
    chain.mine(transaction(gatewayCreated(PAY_TO, OWNER)))
    expect(await checkout(await basket())).toMatchObject({ status: 201 })
    expect(await checkout(await basket())).toMatchObject({ status: 201 })
    forget()
    down()
    expect(await checkout(await basket())).toMatchObject({ status: 201 })
    expect(chain.countAsked('GatewayCreated')).toBe(1)
    const recorded = await shop.ctx.db.selectFrom('payment_gateways').selectAll().execute()
    expect(recorded).toContainEqual(expect.objectContaining({ gateway_address: PAY_TO, owner_address: OWNER }))
  })

  it('is not on record for being asked for', async () => {
    const { shop, basket, checkout, forget } = await start()
    const path = await basket()
    expect((await checkout(path)).code).toBe('no_gateway')
    forget()
    expect((await checkout(path)).code).toBe('no_gateway')
    const recorded = await shop.ctx.db.selectFrom('payment_gateways').select('gateway_address').execute()
    expect(recorded.map(({ gateway_address }) => gateway_address)).not.toContain(PAY_TO)
  })

  it('is taken from the record of the seller when the offer names none, without a chain', async () => {
    const { shop, seller, basket, checkout, orders, down } = await start()
    down()
    await shop.ctx.db
      .insertInto('seller_gateways')
      .values({ chain_id: 100, seller_address: seller.address, gateway_address: PAY_TO })
      .execute()
    expect(await checkout(await basket(null))).toMatchObject({ status: 201 })
    expect(await orders()).toMatchObject([{ expected_gateways: [PAY_TO] }])
  })

  it('payments:W1 enforced: has to be made by the factory', async () => {
    const { chain, basket, checkout } = await start({ PAYMENT_GATEWAY_FACTORY: FACTORY })
    const path = await basket()
    chain.mine(transaction(gatewayCreated(PAY_TO, OWNER, { emitter: FORGER })))
    expect(await checkout(path)).toMatchObject({ status: 422, code: 'no_gateway' })
    chain.mine(transaction(gatewayCreated(PAY_TO, OWNER)))
    expect(await checkout(path)).toMatchObject({ status: 201 })
  })

  it('not enforced: may be made by anybody', async () => {
    const { chain, basket, checkout } = await start({
      PAYMENT_GATEWAY_FACTORY: FACTORY,
      PAYMENT_GATEWAY_FACTORY_ENFORCED: 'false',
    })
    chain.mine(transaction(gatewayCreated(PAY_TO, OWNER, { emitter: FORGER })))
    expect(await checkout(await basket())).toMatchObject({ status: 201 })
  })

  it('with PAYMENT_GATEWAYS: is one of these, whatever the chain says', async () => {
    const { chain, shop, basket, checkout, down } = await start({ PAYMENT_GATEWAYS: PAY_TO })
    const other = `0x${'8b'.repeat(20)}`
    chain.mine(transaction(gatewayCreated(other, OWNER)))
    const known = { chain_id: 100, gateway_address: other, owner_address: OWNER }
    await shop.ctx.db.insertInto('payment_gateways').values(known).execute()
    down()
    expect(await checkout(await basket(other))).toMatchObject({ status: 422, code: 'no_gateway' })
    expect(await checkout(await basket())).toMatchObject({ status: 201 })
    expect(chain.countAsked('GatewayCreated')).toBe(0)
  })
})

describe('the price', () => {
  it('payments:W19 is paid in CRC, or not at all', async () => {
    const { basket, checkout, orders, chain } = await start()
    chain.mine(transaction(gatewayCreated(PAY_TO, OWNER)))
    expect(await checkout(await basket(PAY_TO, { currency: 'EUR' }))).toMatchObject({
      status: 422,
      code: 'unsupported_currency',
      details: { path: '/items/0' },
    })
    expect(await orders()).toEqual([])
  })

  it('payments:W19 is more than nothing, and there is one', async () => {
    const { shop, seller, orders } = await start()
    for (const [sku, price] of Object.entries({ free: 0, owed: -1, unpriced: undefined })) {
      await shop.sell(seller, [await shop.made(seller, sku, price!)])
      const added = await shop.cart('PATCH', await shop.emptyBasket(), {
        items: [{ seller: seller.address, orderedItem: { '@type': 'Product', sku }, orderQuantity: 1 }],
      })
      expect([sku, added.status, added.body.code]).toEqual([sku, 422, 'invalid_offer'])
    }
    expect(await orders()).toEqual([])
  })
})
