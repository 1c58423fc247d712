import { eip155Id, parseEip155Id } from '@market/contracts/address'
import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import type { Person } from '@market/contracts/orderDocuments'
import { jsonNumberFromWei, MoneyError, weiFromJsonNumber } from '@market/contracts/money'
import type { OrderLine, OrderSnapshot } from '../orders/order.ts'
import type { Basket, BasketItem } from './basket.ts'
import { UnsellableLineError } from './errors.ts'

const CURRENCY = 'CRC'
const MAX_PRICE_WEI = 10n ** 15n * 10n ** 18n

export type OrderDraft = {
  snapshot: OrderSnapshot
  lines: OrderLine[]
  priceWei: bigint
  /** The gateways whose transfers count: the one address every line is paid to (payments.md W1). */
  expectedGateways: string[]
}

/**
 * The order a basket becomes: price, currency and recipient fixed for good (market-api.md 5.2, payments.md 18).
 * Throws `UnsellableLineError` (422) for a line that could not be paid.
 */
export function composeOrder(
  basket: Basket,
  buyer: string,
  orderId: string,
  paymentReference: string,
  now: Date,
): OrderDraft {
  let priceWei = 0n
  let gateway: string | undefined
  for (const [i, item] of basket.items.entries()) {
    const { price, priceCurrency } = item.offerSnapshot
    if (priceCurrency !== CURRENCY) {
      throw new UnsellableLineError(
        'unsupported_currency',
        `Only ${CURRENCY} can be checked out, not ${priceCurrency}`,
        i,
      )
    }
    const payTo = payToOfItem(item)
    if (payTo?.chainId !== basket.chainId) {
      throw new UnsellableLineError('no_pay_to', `The offer of ${item.orderedItem.sku} names no address to pay to`, i)
    }
    gateway ??= payTo.address
    if (payTo.address !== gateway) {
      throw new UnsellableLineError('mixed_pay_to', 'All lines of an order must be paid to one address', i)
    }
    const lineWei = weiOfPrice(price, i) * BigInt(item.orderQuantity)
    priceWei += lineWei
    if (lineWei <= 0n || priceWei > MAX_PRICE_WEI) {
      throw new UnsellableLineError('invalid_offer', 'The total is out of range', i)
    }
  }
  if (gateway === undefined) throw new RangeError('an order needs a line')

  return {
    priceWei,
    expectedGateways: [gateway],
    lines: basket.items.map((item, lineIndex) => ({
      lineIndex,
      seller: item.seller,
      sku: item.orderedItem.sku,
      quantity: item.orderQuantity,
      trigger: triggerOf(item),
      linkKeccak: item.linkKeccak,
    })),
    snapshot: {
      '@context': 'https://schema.org/',
      '@type': 'Order',
      orderNumber: orderId,
      paymentReference,
      customer: {
        '@type': 'Person',
        '@id': eip155Id(basket.chainId, buyer),
        givenName: basket.customer?.givenName ?? null,
        familyName: basket.customer?.familyName ?? null,
      },
      broker: { '@type': 'Organization', '@id': basket.operator && eip155Id(basket.chainId, basket.operator) },
      acceptedOffer: basket.items.map((item) => item.offerSnapshot),
      orderedItem: basket.items.map(({ orderQuantity, orderedItem, productCid, imageUrl }) => ({
        '@type': 'OrderItem',
        orderQuantity,
        orderedItem,
        productCid,
        imageUrl,
      })),
      billingAddress: basket.billingAddress,
      shippingAddress: basket.shippingAddress,
      totalPaymentDue: {
        '@type': 'PriceSpecification',
        price: jsonNumberFromWei(priceWei),
        priceCurrency: CURRENCY,
      },
      paymentUrl: null,
      voucherCode: null,
      downloadUrl: null,
      sellerContact: basket.contactPoint,
      customerContact: basket.contactPoint,
      customerAge: ageOf(basket.ageProof, now),
    },
  }
}

const ADULT_YEARS = 18

/** All an order keeps of a birth date: whether its owner is of age (W-47). */
function ageOf(proof: Person | null, now: Date): OrderSnapshot['customerAge'] {
  const born = /^([0-9]{4})(-[0-9]{2}-[0-9]{2})$/.exec(proof?.birthDate ?? '')
  if (!born) return null
  const comesOfAge = `${Number(born[1]) + ADULT_YEARS}${born[2]}`
  return { adult: comesOfAge.padStart(10, '0') <= now.toISOString().slice(0, 10) }
}

/** The catalog lists any price above zero; nobody can pay 10^-19 CRC, or more CRC than a transfer holds. */
function weiOfPrice(price: number, line: number): bigint {
  try {
    return weiFromJsonNumber(price)
  } catch (error) {
    if (!(error instanceof MoneyError)) throw error
    throw new UnsellableLineError('invalid_offer', `A price of ${price} can't be paid`, line)
  }
}

function payToOfItem(item: BasketItem) {
  const recipient = (item.offerSnapshot.potentialAction as { recipient?: { '@id'?: string } | null }).recipient
  return recipient?.['@id'] === undefined ? undefined : parseEip155Id(recipient['@id'])
}

/** The catalog admits only these two and none at all, which means finalized (catalog.md 6.5). */
const triggerOf = (item: BasketItem): FulfillmentTrigger =>
  item.offerSnapshot.fulfillmentTrigger === 'confirmed' ? 'confirmed' : 'finalized'
