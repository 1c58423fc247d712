import { CanonicalJsonError, type JsonObject, parseStrictJsonBytes } from '@market/contracts/canonicalJson'
import {
  isAbsent,
  type Offer,
  parseProduct,
  payToOf,
  type PayTo,
  type Product,
} from '@market/contracts/catalogDocuments'
import { cidV0, isCidV0 } from '@market/contracts/cid'
import type { Basket, CatalogItem, CheckoutAnswer, Order } from '@market/contracts/marketApi'
import { decimalFromWei, jsonNumberFromWei, MoneyError, weiFromJsonNumber } from '@market/contracts/money'
import { OrderStatus } from '@market/contracts/statuses'
import type { RequestedItem } from './basket.ts'
import { hexOfText } from './wallet.ts'

/** Reads what a CID names, from the market (`market.raw`), a gateway or anybody: it is checked. */
export type ReadDocument = (cid: string) => Promise<Uint8Array>

/** `at` is a JSON pointer into what was looked at; absent is undefined. */
export type Difference = { at: string; expected: unknown; found: unknown }

/**
 * What the market shows is not what it should be.
 * `cid_mismatch`: other bytes than the CID names; `not_a_product`: bytes that are none; `not_signed`: the seller's own
 * namespace says otherwise; `differs`: in the `differences`; `not_payable`: nothing is due, or nobody can say to whom.
 */
export class VerificationError extends Error {
  readonly code: 'cid_mismatch' | 'not_a_product' | 'not_signed' | 'differs' | 'not_payable'
  readonly differences: Difference[]

  constructor(code: VerificationError['code'], message: string, differences: Difference[] = []) {
    super(message)
    this.name = 'VerificationError'
    this.code = code
    this.differences = differences
  }
}

/** A product as its document says, whoever showed it. That its seller signed it is `verifySeller`'s to say. */
export type VerifiedProduct = {
  seller: string
  sku: string
  cid: string
  linkKeccak: string
  product: Product
}

/** What the market adds to a product it shows (catalog.md 6.2), and what is compared for itself. */
const APART = new Set(['totalInventory', 'offers'])
const APART_IN_OFFERS = new Set(['availabilityFeed', 'inventoryFeed', 'fulfillmentEndpoint', 'potentialAction'])

/** Reads the document of a catalog item and holds the item to it: every member, each offer's price and whom to pay. */
export async function verifyItem(item: CatalogItem, read: ReadDocument): Promise<VerifiedProduct> {
  const { seller, productCid: cid, linkKeccak, product: shown } = item
  if (!isCidV0(cid)) throw new VerificationError('cid_mismatch', `${String(cid)} names no document`)
  const product = productOf(await read(cid), cid)
  const differences = [
    ...differingMembers('/product', shown as JsonObject, product as unknown as JsonObject, APART),
    ...differing('/product/offers/length', shown.offers.length, product.offers.length),
    ...product.offers.flatMap((offer, i) => differingOffers(`/product/offers/${i}`, shown.offers[i] as Offer, offer)),
  ]
  if (differences.length > 0)
    throw differs(`the catalog shows ${product.sku} otherwise than it was published`, differences)
  return { seller, sku: product.sku, cid, linkKeccak, product }
}

function productOf(bytes: Uint8Array, cid: string): Product {
  if (cidV0(bytes) !== cid) throw new VerificationError('cid_mismatch', `these bytes are not ${cid}`)
  try {
    const parsed = parseProduct(parseStrictJsonBytes(bytes))
    if (parsed.ok) return parsed.product
    throw new VerificationError('not_a_product', `${cid} is no product: ${parsed.at}: ${parsed.rule}`)
  } catch (error) {
    if (!(error instanceof CanonicalJsonError)) throw error
    throw new VerificationError('not_a_product', `${cid} is no product: ${error.message}`)
  }
}

function differingOffers(at: string, shown: Offer | undefined, signed: Offer): Difference[] {
  if (!shown) return []
  return [
    ...differingMembers(at, shown as unknown as JsonObject, signed as unknown as JsonObject, APART_IN_OFFERS),
    ...(isSame(shown.potentialAction, signed.potentialAction) ? [] : differingPayActions(at, shown, signed)),
  ]
}

/** The market writes it anew, from the offer: whoever reads but one member of it has to find the same in it. */
function differingPayActions(at: string, shown: Offer, signed: Offer): Difference[] {
  const payee = textOf(payToOf(signed))
  const { recipient, instrument, price, priceCurrency } = shown.potentialAction ?? {}
  const place = `${at}/potentialAction`
  return [
    ...differing(place, textOf(payToOf(shown)), payee),
    ...(recipient ? differing(`${place}/recipient/@id`, recipient['@id']?.toLowerCase(), payee) : []),
    ...(instrument ? differing(`${place}/instrument/value`, `eip155:${instrument.value}`.toLowerCase(), payee) : []),
    ...(isAbsent(price) ? [] : differing(`${place}/price`, price, signed.price)),
    ...(isAbsent(priceCurrency) ? [] : differing(`${place}/priceCurrency`, priceCurrency, signed.priceCurrency)),
  ]
}

/**
 * Holds a basket to the items that were put into it and to the verified products: lines, prices, whom to pay. For programs; a
 * person sees what is in the basket before they agree to it. A product whose seller signed nobody to pay always differs.
 */
export function verifyBasket(basket: Basket, asked: RequestedItem[], products: VerifiedProduct[]): void {
  const found = basket.items.map((_, i) => lineOfBasket(basket, i))
  const differences = differingLines(
    found,
    asked.map((item) => lineOfProduct(item, basket.chainId, products)),
  )
  if (differences.length > 0) throw differs('the basket is not what was asked for', differences)
}

/**
 * Holds an order to the basket that the buyer agreed to, as it was answered before checkout, and to the verified products.
 * Gives what is to be paid.
 */
export function verifyOrder(
  order: Order,
  agreed: { basket: Basket; products: VerifiedProduct[]; checkout?: CheckoutAnswer },
): Payment {
  const { basket, products, checkout } = agreed
  const asked = basket.items.map(({ seller, orderedItem: { sku }, orderQuantity: quantity, offerIndex }) =>
    lineOfProduct({ seller, sku, quantity, ...(offerIndex !== undefined && { offerIndex }) }, basket.chainId, products),
  )
  const found = linesOfOrder(order)
  const differences = [
    ...differingLines(
      found,
      basket.items.map((_, i) => lineOfBasket(basket, i)),
    ),
    ...differingLines(found, asked),
    ...(basket.buyer ? differing('/customer/@id', order.customer['@id'], eip155(basket.chainId, basket.buyer)) : []),
    ...(checkout ? differing('/orderNumber', order.orderNumber, checkout.orderId) : []),
    ...(checkout ? differing('/paymentReference', order.paymentReference, checkout.paymentReference) : []),
  ]
  if (differences.length > 0) throw differs('the order is not what was agreed to', differences)
  return payTo(order)
}

/** One transfer of CRC that settles an order. */
export type Payment = {
  chainId: number
  address: string
  amountWei: bigint
  /** The order's payment reference; its UTF-8 bytes are the transfer's data. */
  reference: string
  data: `0x${string}`
}

export type PayableOrder = Pick<
  Order,
  'orderStatus' | 'paymentReference' | 'acceptedOffer' | 'orderedItem' | 'totalPaymentDue'
>

/**
 * Whom to pay for an order, how much, with which data. `VerificationError` when its lines name more than one or nobody, don't
 * come to its total, or nothing is due: what is paid for a cancelled order buys nothing.
 */
export function payTo(order: PayableOrder): Payment {
  const { acceptedOffer: offers, orderedItem: lines, orderStatus, paymentReference: reference, totalPaymentDue } = order
  if (orderStatus !== OrderStatus.paymentDue) throw notPayable(`no payment is due: ${orderStatus}`)
  if (!/^pay_[0-9A-F]{32}$/.test(reference)) throw notPayable('the order has no payment reference')
  if (lines.length === 0 || lines.length !== offers.length) throw notPayable('prices and lines do not pair')
  const other = [totalPaymentDue, ...offers].find(({ priceCurrency }) => priceCurrency !== 'CRC')
  if (other) throw notPayable(`it is in ${other.priceCurrency}, not in CRC`)
  const recipient = payToOf(offers[0] as Offer)
  const isOne = offers.every((offer) => payToOfOffer(offer) === payToOfOffer(offers[0]!))
  if (!recipient || !isOne) throw notPayable('the lines do not name one address to pay')
  const amountWei = lines.reduce((sum, { orderQuantity }, i) => sum + lineWei(offers[i]!.price, orderQuantity), 0n)
  // The total is a JSON number, which may have lost digits that the sum of the lines has.
  if (jsonNumberFromWei(amountWei) !== totalPaymentDue.price) {
    throw notPayable(`the lines come to ${decimalFromWei(amountWei)}, the total is ${totalPaymentDue.price}`)
  }
  return { ...recipient, amountWei, reference, data: hexOfText(reference) }
}

function lineWei(price: number, quantity: number): bigint {
  try {
    const wei = weiFromJsonNumber(price)
    if (wei > 0n && Number.isSafeInteger(quantity) && quantity > 0) return wei * BigInt(quantity)
  } catch (error) {
    if (!(error instanceof MoneyError)) throw error
  }
  throw notPayable(`${quantity} times ${price} can't be paid`)
}

const notPayable = (why: string) => new VerificationError('not_payable', why)

/** What is compared of a line. */
type Line = {
  seller: string
  sku: string
  quantity: number
  productCid?: string | undefined
  price?: number | undefined
  priceCurrency?: string | undefined
  payTo?: string | undefined
}

function lineOfBasket({ items, chainId }: Basket, i: number): Line {
  const { seller, orderedItem, orderQuantity: quantity, productCid, offerSnapshot: offer } = items[i]!
  const { price, priceCurrency } = offer
  // The order names sellers with their chain.
  const named = eip155(chainId, seller)
  return { seller: named, sku: orderedItem.sku, quantity, productCid, price, priceCurrency, payTo: payToOfOffer(offer) }
}

const linesOfOrder = ({ orderedItem, acceptedOffer }: Order): Line[] =>
  orderedItem.map(({ orderedItem: { sku }, orderQuantity: quantity, productCid }, i) => {
    const offer = acceptedOffer[i]
    const { price, priceCurrency } = offer ?? {}
    const seller = offer?.seller['@id'] ?? ''
    return { seller, sku, quantity, productCid, price, priceCurrency, payTo: offer && payToOfOffer(offer) }
  })

/** The line that a verified product makes of a request; nothing but what was asked for when the product was not verified. */
function lineOfProduct(item: RequestedItem, chainId: number, products: VerifiedProduct[]): Line {
  const seller = item.seller.toLowerCase()
  const line = { seller: eip155(chainId, seller), sku: item.sku, quantity: item.quantity }
  const verified = products.find((one) => one.seller === seller && one.sku === item.sku)
  const offer = verified?.product.offers[item.offerIndex ?? 0]
  if (!verified || !offer) return { ...line, productCid: undefined }
  const { price, priceCurrency } = offer
  return { ...line, productCid: verified.cid, price, priceCurrency, payTo: textOf(payToOf(offer)) }
}

const differingLines = (found: Line[], expected: Line[]): Difference[] => [
  ...differing('/items/length', found.length, expected.length),
  ...expected.flatMap((line, i) =>
    Object.entries(line).flatMap(([member, value]) =>
      differing(`/items/${i}/${member}`, found[i]?.[member as keyof Line], value),
    ),
  ),
]

function differingMembers(at: string, shown: JsonObject, signed: JsonObject, apart: ReadonlySet<string>): Difference[] {
  const names = new Set([...Object.keys(shown), ...Object.keys(signed)])
  return [...names].flatMap((name) => (apart.has(name) ? [] : differing(`${at}/${name}`, shown[name], signed[name])))
}

const differing = (at: string, found: unknown, expected: unknown): Difference[] =>
  isSame(found, expected) ? [] : [{ at, expected, found }]

function isSame(a: unknown, b: unknown): boolean {
  if (isAbsent(a) || isAbsent(b)) return isAbsent(a) && isAbsent(b)
  if (typeof a !== 'object' || typeof b !== 'object') return a === b
  if (Array.isArray(a) !== Array.isArray(b)) return false
  const [left, right] = [a, b] as [Record<string, unknown>, Record<string, unknown>]
  return [...new Set([...Object.keys(left), ...Object.keys(right)])].every((name) => isSame(left[name], right[name]))
}

function differs(what: string, differences: Difference[]): VerificationError {
  const { at, expected, found } = differences[0]!
  const more = differences.length > 1 ? `, and ${differences.length - 1} more` : ''
  const text = (value: unknown) => JSON.stringify(value)?.slice(0, 80) ?? 'nothing'
  return new VerificationError('differs', `${what}: ${at} is ${text(found)}, not ${text(expected)}${more}`, differences)
}

const payToOfOffer = (offer: object) => textOf(payToOf(offer as Offer))
const textOf = (payee: PayTo | undefined) => payee && eip155(payee.chainId, payee.address)
const eip155 = (chainId: number, address: string) => `eip155:${chainId}:${address}`
