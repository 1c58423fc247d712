import type { Basket, CatalogItem, Order } from '@market/contracts/marketApi'
import { weiFromJsonNumber } from '@market/contracts/money'
import { OrderStatus } from '@market/contracts/statuses'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { basketOf, CHAIN, GATEWAY, orderOf, publishingSeller } from '../test/catalog.ts'
import { payTo, VerificationError, type VerifiedProduct, verifyBasket, verifyItem, verifyOrder } from './verify.ts'

const caught = (work: () => unknown) => {
  try {
    work()
  } catch (error) {
    return error as VerificationError
  }
  return undefined
}
/** The places where it found something else. */
const places = (error: VerificationError | undefined) => error?.differences.map(({ at }) => at)

/** A copy with one member otherwise. */
function altered<T>(value: T, path: (string | number)[], to: unknown): T {
  const copy = structuredClone(value)
  let at = copy as Record<string | number, unknown>
  for (const step of path.slice(0, -1)) at = at[step] as Record<string | number, unknown>
  at[path.at(-1)!] = to
  return copy
}

describe('a catalog item', () => {
  const seller = publishingSeller()
  const image = [{ '@type': 'ImageObject', url: 'https://x.example/a.png' }]
  const tote = seller.product('tote', 19.5, { description: 'A bag', image, colour: 'red' }, [{}, { price: 30 }])
  const item = seller.item(tote)

  it('is what its document says, with what the market adds and without', async () => {
    const verified = {
      seller: seller.address,
      sku: 'tote',
      cid: tote.cid,
      linkKeccak: item.linkKeccak,
      product: tote.document,
    }
    expect(await verifyItem(item, seller.read)).toEqual(verified)
    const asSigned = { ...item, product: tote.document as unknown as CatalogItem['product'] }
    expect(await verifyItem(asSigned, seller.read)).toEqual(verified)
    // Others than this market write null for what is absent.
    const withNulls = { ...item, product: { ...item.product, brand: null } }
    expect(await verifyItem(withNulls, seller.read)).toEqual(verified)
  })

  const payAction = ['product', 'offers', 0, 'potentialAction']
  it.each<[string, (string | number)[], unknown]>([
    ['/product/name', ['product', 'name'], 'Another'],
    ['/product/sku', ['product', 'sku'], 'other'],
    ['/product/image', ['product', 'image', 0, 'url'], 'https://evil.example'],
    ['/product/colour', ['product', 'colour'], undefined],
    ['/product/brand', ['product', 'brand'], 'Ours'],
    ['/product/offers/0/price', ['product', 'offers', 0, 'price'], 19.500000000000004],
    ['/product/offers/1/price', ['product', 'offers', 1, 'price'], 3],
    ['/product/offers/0/priceCurrency', ['product', 'offers', 0, 'priceCurrency'], 'EUR'],
    ['/product/offers/0/potentialAction', [...payAction], null],
    ['/product/offers/0/potentialAction/recipient/@id', [...payAction, 'recipient', '@id'], 'eip155:100:0x0'],
    ['/product/offers/0/potentialAction/instrument/value', [...payAction, 'instrument', 'value'], '100:0x0'],
    ['/product/offers/0/potentialAction/price', [...payAction, 'price'], 1],
    ['/product/offers/0/potentialAction/priceCurrency', [...payAction, 'priceCurrency'], 'EUR'],
    ['/product/offers/0/requiredSlots', ['product', 'offers', 0, 'requiredSlots'], ['customer']],
    ['/product/offers/length', ['product', 'offers', 2], { price: 1, priceCurrency: 'CRC' }],
  ])('that shows another %s differs there', async (at, path, to) => {
    const error = await verifyItem(altered(item, path, to), seller.read).catch((reason: unknown) => reason)
    expect(error).toMatchObject({ code: 'differs', differences: [{ at }] })
  })

  it('is refused when the bytes are others, or no product, however they are called', async () => {
    const read = (bytes: Uint8Array) => async () => bytes
    const other = seller.product('tote', 1)
    const code = async (one: CatalogItem, bytes: Uint8Array) =>
      verifyItem(one, read(bytes)).catch(({ code: why }: VerificationError) => why)
    expect(await code(item, other.bytes)).toBe('cid_mismatch')
    expect(await code(item, tote.bytes.subarray(1))).toBe('cid_mismatch')
    const never = () => Promise.reject(new Error('read'))
    await expect(verifyItem({ ...item, productCid: '../../secrets' }, never)).rejects.toMatchObject({
      code: 'cid_mismatch',
    })
    for (const document of [{ '@type': 'Tombstone', sku: 'tote' }, 'tote', [tote.document]]) {
      const { cid, bytes } = seller.put(document)
      expect(await code({ ...item, productCid: cid }, bytes)).toBe('not_a_product')
    }
    const twice = new TextEncoder().encode(
      `{"price":1,${new TextDecoder().decode(tote.bytes).slice(1)}`.replace('"price":1,', '"name":"x",'),
    )
    const { cidV0 } = await import('@market/contracts/cid')
    expect(await code({ ...item, productCid: cidV0(twice) }, twice)).toBe('not_a_product')
  })
})

describe('a basket and its order', () => {
  const seller = publishingSeller()
  const other = publishingSeller(`0x${'12'.repeat(32)}`)
  const tote = seller.item(seller.product('tote', 19.5))
  const mug = other.item(other.product('mug', 7.25, {}, [{}, { price: 0.1 }]))
  const basket = basketOf([
    { item: tote, quantity: 2 },
    { item: mug, quantity: 3, offerIndex: 1 },
  ])
  const order = orderOf(basket)
  const asked = [
    { seller: seller.address.toUpperCase().replace('X', 'x'), sku: 'tote', quantity: 2 },
    { seller: other.address, sku: 'mug', quantity: 3, offerIndex: 1 },
  ]
  const verified = () => Promise.all([verifyItem(tote, seller.read), verifyItem(mug, other.read)])

  it('are what was asked for, and give the transfer to make', async () => {
    const products = await verified()
    verifyBasket(basket, asked, products)
    const { orderNumber: orderId, paymentReference } = order
    const checkout = { orderId, basketId: 'bkt', paymentReference, orderCid: null }
    expect(verifyOrder(order, { basket, products, checkout })).toEqual({
      chainId: CHAIN,
      address: GATEWAY,
      amountWei: 39_300_000_000_000_000_000n,
      reference: paymentReference,
      data: `0x${Buffer.from(paymentReference).toString('hex')}`,
    })
    const elsewhere = { ...checkout, orderId: 'ord_other', paymentReference: 'pay_other' }
    expect(places(caught(() => verifyOrder(order, { basket, products, checkout: elsewhere })))).toEqual([
      '/orderNumber',
      '/paymentReference',
    ])
  })

  const pay = ['offerSnapshot', 'potentialAction']
  const stranger = { recipient: { '@id': `eip155:${CHAIN}:0x${'66'.repeat(20)}` } }
  it.each<[string, (string | number)[], unknown]>([
    ['/items/0/quantity', ['items', 0, 'orderQuantity'], 200],
    ['/items/1/sku', ['items', 1, 'orderedItem', 'sku'], 'cup'],
    ['/items/0/seller', ['items', 0, 'seller'], `0x${'bb'.repeat(20)}`],
    ['/items/0/productCid', ['items', 0, 'productCid'], mug.productCid],
    ['/items/0/price', ['items', 0, 'offerSnapshot', 'price'], 19.6],
    ['/items/1/price', ['items', 1, 'offerSnapshot', 'price'], 7.25],
    ['/items/1/priceCurrency', ['items', 1, 'offerSnapshot', 'priceCurrency'], 'EUR'],
    ['/items/1/payTo', ['items', 1, ...pay], stranger],
    ['/items/1/payTo', ['items', 1, ...pay], { recipient: null }],
    ['/items/length', ['items', 2], basket.items[0]],
  ])('a basket with another %s is not what was asked for', async (at, path, to) => {
    const products = await verified()
    const error = caught(() => verifyBasket(altered(basket, path, to), asked, products))
    expect(error).toMatchObject({ code: 'differs' })
    expect(places(error)).toEqual([at])
  })

  it('a basket is not what was asked for without its products, or when a seller signed nobody to pay', async () => {
    const [first] = await verified()
    expect(places(caught(() => verifyBasket(basket, asked, [first])))).toEqual(['/items/1/productCid'])
    const unsigned = seller.product('free', 3, {}, [{ potentialAction: null }])
    const product = await verifyItem(seller.item(unsigned), seller.read)
    // The market may know a gateway of the seller; the seller did not sign it.
    const filled = altered(basketOf([{ item: seller.item(unsigned), quantity: 1 }]), ['items', 0, ...pay], stranger)
    const lines = [{ seller: seller.address, sku: 'free', quantity: 1 }]
    expect(places(caught(() => verifyBasket(filled, lines, [product])))).toEqual(['/items/0/payTo'])
  })

  it.each<[string, (order: Order) => Order]>([
    ['/items/0/quantity', (one) => altered(one, ['orderedItem', 0, 'orderQuantity'], 3)],
    ['/items/1/sku', (one) => altered(one, ['orderedItem', 1, 'orderedItem', 'sku'], 'cup')],
    ['/items/1/productCid', (one) => altered(one, ['orderedItem', 1, 'productCid'], tote.productCid)],
    ['/items/0/seller', (one) => altered(one, ['acceptedOffer', 0, 'seller', '@id'], `eip155:1:${seller.address}`)],
    ['/items/0/price', (one) => altered(one, ['acceptedOffer', 0, 'price'], 20)],
    ['/items/0/priceCurrency', (one) => altered(one, ['acceptedOffer', 0, 'priceCurrency'], 'EUR')],
    ['/items/0/payTo', (one) => altered(one, ['acceptedOffer', 0, 'potentialAction'], stranger)],
    ['/customer/@id', (one) => altered(one, ['customer', '@id'], `eip155:${CHAIN}:${GATEWAY}`)],
  ])('an order with another %s is not what was agreed to', async (at, change) => {
    const products = await verified()
    const error = caught(() => verifyOrder(change(order), { basket, products }))
    expect(error).toMatchObject({ code: 'differs' })
    expect(new Set(places(error))).toEqual(new Set([at]))
  })

  it('an order that follows a basket into a lie is found out by the products', async () => {
    const products = await verified()
    const dearer: Basket = altered(basket, ['items', 0, 'offerSnapshot', 'price'], 25)
    expect(places(caught(() => verifyOrder(orderOf(dearer), { basket: dearer, products })))).toEqual(['/items/0/price'])
  })

  it('is only paid while a payment is due, to one address, in CRC, as much as its lines come to', () => {
    const refused: Order[] = [
      { ...order, orderStatus: OrderStatus.cancelled },
      { ...order, orderStatus: OrderStatus.paymentProcessing },
      { ...order, paymentReference: '' as Order['paymentReference'] },
      { ...order, acceptedOffer: [], orderedItem: [] },
      { ...order, acceptedOffer: order.acceptedOffer.slice(1) },
      altered(order, ['totalPaymentDue', 'price'], 39),
      altered(order, ['totalPaymentDue', 'priceCurrency'], 'EUR'),
      altered(order, ['acceptedOffer', 1, 'priceCurrency'], 'EUR'),
      altered(order, ['acceptedOffer', 1, 'potentialAction'], stranger),
      altered(order, ['acceptedOffer', 0, 'price'], 1e-19),
      altered(order, ['acceptedOffer', 0, 'price'], -19.5),
      altered(order, ['orderedItem', 0, 'orderQuantity'], 1.5),
      altered(order, ['orderedItem', 0, 'orderQuantity'], 0),
    ]
    for (const one of refused)
      expect(
        caught(() => payTo(one)),
        JSON.stringify(one),
      ).toMatchObject({ code: 'not_payable' })
  })

  it('comes to the wei of its lines, whatever digits its total has lost', () => {
    const decimals = fc.tuple(fc.integer({ min: 1, max: 999_999 }), fc.integer({ min: 0, max: 9 }))
    fc.assert(
      fc.property(
        fc.array(fc.tuple(decimals, fc.integer({ min: 1, max: 1000 })), { minLength: 1, maxLength: 4 }),
        (lines) => {
          const prices = lines.map(([[digits, scale]]) => digits / 10 ** scale)
          const items = prices.map((price, i) => ({
            item: seller.item(seller.product(`p-${i}`, price)),
            quantity: lines[i]![1],
          }))
          const expected = lines.reduce(
            (sum, [[digits, scale], quantity]) => sum + BigInt(digits) * 10n ** BigInt(18 - scale) * BigInt(quantity),
            0n,
          )
          expect(
            prices.every(
              (price, i) => weiFromJsonNumber(price) === BigInt(lines[i]![0][0]) * 10n ** BigInt(18 - lines[i]![0][1]),
            ),
          ).toBe(true)
          expect(payTo(orderOf(basketOf(items))).amountWei).toBe(expected)
        },
      ),
      { numRuns: 50 },
    )
  })
})

describe('what is verified', () => {
  it('carries no bigint in its differences, so that they can be written down', async () => {
    const seller = publishingSeller()
    const tote = seller.item(seller.product('tote', 5))
    const products: VerifiedProduct[] = [await verifyItem(tote, seller.read)]
    const basket = basketOf([{ item: tote, quantity: 1 }])
    const error = caught(() =>
      verifyOrder(altered(orderOf(basket), ['acceptedOffer', 0, 'price'], 6), { basket, products }),
    )
    expect(JSON.parse(JSON.stringify(error!.differences))[0]).toEqual({ at: '/items/0/price', expected: 5, found: 6 })
    expect(error!.message).toContain('/items/0/price is 6, not 5')
  })
})
