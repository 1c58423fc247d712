import { codesOf } from '@market/sdk/delivered'
import { Market, type Wallet } from '@market/sdk/market'
import { type Payment, verifyBasket, verifyItem, verifyOrder } from '@market/sdk/verify'

/** Buys one and gives the codes that were delivered. `pay` makes the transfer, as wallets do. */
export async function buyOne(
  marketUrl: string,
  wallet: Wallet,
  { operator, seller, sku }: { operator: string; seller: string; sku: string },
  pay: (payment: Payment) => Promise<unknown>,
): Promise<string[]> {
  // Sign in: with a plain key, or with a Safe by `safeSigner`.
  const market = new Market(marketUrl, { renew: (self) => self.signIn(wallet) })
  await market.signIn(wallet)

  // What the market shows has to be what the product's CID names.
  const item = await market.product(operator, seller, sku)
  const product = await verifyItem(item, (cid) => market.raw(cid))

  // Buy: the basket has to hold what was put into it, at the product's price.
  const basket = await market.createBasket({ operator })
  const items = [{ seller, sku, quantity: 1 }]
  const agreed = await basket.setItems(items)
  verifyBasket(agreed, items, [product])
  const { valid, missing } = await basket.validate()
  if (!valid) throw new Error(`needed as well: ${missing.map(({ path }) => path).join(', ')}`)
  const checkout = await basket.checkout()

  // Pay what was agreed to, to whom the seller has signed.
  const order = await market.order(checkout.orderId)
  await pay(verifyOrder(order, { basket: agreed, products: [product], checkout }))

  // Watch it become complete, and wait for what was bought.
  for await (const { newStatus } of market.watchOrder(checkout.orderId)) console.log(newStatus)
  return codesOf(await market.awaitDelivery(checkout.orderId))
}
