import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import { basketId, orderId, paymentReference } from '@market/contracts/ids'
import { OrderStatus } from '@market/contracts/statuses'
import { CHAIN_ID } from '@market/dev-chain/demo'
import type postgres from 'postgres'
import { bytesOf, oneOf, type Random } from './random.ts'

/** What is sold, from which pools, and the orders that are placed. Plain data; the seed decides all of it. */

export const PRICE_WEI = 10n ** 18n

const address = (byte: string) => `0x${byte.repeat(20)}`
const [ann, ben, cem] = [address('a1'), address('b2'), address('c3')]

export type Product = { seller: string; sku: string; pool: string | null }

/** One pool is sold by two sellers, one seller sells from two pools, and nobody is set up to deliver `ghost`. */
export const PRODUCTS: readonly Product[] = [
  { seller: ann, sku: 'card', pool: 'cards' },
  { seller: ann, sku: 'ticket', pool: 'tickets' },
  { seller: ann, sku: 'ghost', pool: null },
  { seller: ben, sku: 'pass', pool: 'tickets' },
  { seller: ben, sku: 'key', pool: 'keys' },
  { seller: cem, sku: 'rare', pool: 'rares' },
  { seller: cem, sku: 'card', pool: 'cards' },
]

/** Of what is ordered from a pool, percent: what it holds at first, and after the restock in the middle. */
const STOCK: Record<string, { first: number; later: number }> = {
  cards: { first: 110, later: 110 },
  tickets: { first: 105, later: 105 },
  // Runs dry, and is filled up.
  keys: { first: 40, later: 105 },
  // Runs dry for good.
  rares: { first: 45, later: 70 },
}

export type Line = Product & { quantity: number; trigger: FulfillmentTrigger }
export type Payment = 'exact' | 'twice' | 'tooLittle' | 'none'
export type Order = {
  orderId: string
  basketId: string
  reference: string
  buyer: string
  lines: Line[]
  payment: Payment
}

export const isPaid = ({ payment }: Order) => payment === 'exact' || payment === 'twice'

const BUYERS = 12

export function planOrders(random: Random, count: number): Order[] {
  const payments: Payment[] = [...Array.from({ length: 17 }, () => 'exact' as const), 'twice', 'tooLittle', 'none']
  return Array.from({ length: count }, () => {
    const left = [...PRODUCTS]
    const lines = Array.from({ length: 1 + random(4) }, (): Line => {
      const [product] = left.splice(random(left.length), 1)
      const trigger = random(3) === 0 ? 'confirmed' : 'finalized'
      // Seldom: what nobody delivers holds up nothing else.
      return {
        ...(product!.pool === null && random(3) > 0 ? PRODUCTS[0]! : product!),
        quantity: 1 + random(3),
        trigger,
      }
    })
    return {
      orderId: orderId(bytesOf(random, 16)),
      basketId: basketId(bytesOf(random, 16)),
      reference: paymentReference(bytesOf(random, 16)),
      buyer: `0x${(1000 + random(BUYERS)).toString(16).padStart(40, '0')}`,
      lines,
      payment: oneOf(random, payments),
    }
  })
}

export type Pool = { id: string; first: string[]; later: string[] }

/** Codes of each pool: those that are there at first, and those that come in the middle. */
export function planPools(orders: readonly Order[]): Pool[] {
  return Object.entries(STOCK).map(([id, { first, later }]) => {
    const lines = orders.filter(isPaid).flatMap((order) => order.lines.filter(({ pool }) => pool === id))
    const wanted = lines.reduce((sum, { quantity }) => sum + quantity, 0)
    const codes = Array.from({ length: Math.ceil((wanted * later) / 100) + 3 }, (_, i) => `${id.toUpperCase()}-${i}`)
    const there = Math.ceil((wanted * first) / 100) + 3
    return { id, first: codes.slice(0, there), later: codes.slice(there) }
  })
}

/** Routes at the market and mappings at the dispenser. Pools have to be there. */
export async function openShop(market: postgres.Sql, codes: postgres.Sql): Promise<void> {
  for (const { seller, sku, pool } of PRODUCTS) {
    if (pool === null) continue
    await codes`
      insert into code_mappings (chain_id, seller_address, sku, pool_id, download_url_template)
      values (${CHAIN_ID}, ${seller}, ${sku}, ${pool}, ${sku === 'pass' ? 'https://shop.example/{code}' : null})`
    await market`
      insert into market_service_routes (chain_id, seller_address, sku, offer_type)
      values (${CHAIN_ID}, ${seller}, ${sku}, 'codedispenser')`
  }
}

/** The orders as checkouts leave them, all to be paid to this gateway. */
export async function placeOrders(market: postgres.Sql, orders: readonly Order[], gateway: string): Promise<void> {
  const rows = orders.map((order) => ({
    order_id: order.orderId,
    basket_id: order.basketId,
    chain_id: CHAIN_ID,
    buyer_address: order.buyer,
    order_json: snapshotOf(order),
    status: OrderStatus.paymentDue,
    created_at: new Date(),
    payment_reference: order.reference,
    price_wei: PRICE_WEI.toString(),
    expected_gateways: [gateway],
    payment_due_by: new Date(Date.now() + 3600_000),
  }))
  const lines = orders.flatMap((order) =>
    order.lines.map((line, index) => ({
      order_id: order.orderId,
      line_index: index,
      seller_address: line.seller,
      sku: line.sku,
      quantity: line.quantity,
      fulfillment_trigger: line.trigger,
      link_keccak: '0x',
    })),
  )
  const sellers = orders.flatMap((order) =>
    [...new Set(order.lines.map(({ seller }) => seller))].map((seller) => ({
      order_id: order.orderId,
      seller_address: seller,
      chain_id: CHAIN_ID,
      created_at: new Date(),
    })),
  )
  await market.begin(async (tx) => {
    for (const [table, all] of Object.entries({ orders: rows, order_lines: lines, order_sellers: sellers })) {
      const some = tx.json(all as never)
      const columns = tx(Object.keys(all[0]!))
      await tx`insert into ${tx(table)} (${columns}) select ${columns} from jsonb_populate_recordset(null::${tx(table)}, ${some})`
    }
  })
}

const snapshotOf = ({ orderId: orderNumber, reference, buyer, lines }: Order) => ({
  '@context': 'https://schema.org/',
  '@type': 'Order',
  orderNumber,
  paymentReference: reference,
  customer: { '@type': 'Person', '@id': `eip155:${CHAIN_ID}:${buyer}`, givenName: null, familyName: null },
  broker: { '@type': 'Organization', '@id': null },
  acceptedOffer: lines.map(({ seller, trigger }) => ({
    '@type': 'Offer',
    price: 1,
    priceCurrency: 'CRC',
    seller: { '@type': 'Organization', '@id': `eip155:${CHAIN_ID}:${seller}` },
    availableDeliveryMethod: null,
    requiredSlots: null,
    fulfillmentEndpoint: null,
    fulfillmentTrigger: trigger,
    isOneOff: false,
    potentialAction: {},
  })),
  orderedItem: lines.map(({ sku, quantity }) => ({
    '@type': 'OrderItem',
    orderQuantity: quantity,
    orderedItem: { '@type': 'Product', sku, name: sku },
    productCid: '',
    imageUrl: null,
  })),
  billingAddress: null,
  shippingAddress: null,
  totalPaymentDue: { '@type': 'PriceSpecification', price: 1, priceCurrency: 'CRC' },
  paymentUrl: null,
  voucherCode: null,
  downloadUrl: null,
  sellerContact: null,
  customerContact: null,
})
