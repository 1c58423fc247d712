import { payInCrc } from '@market/dev-chain/payInCrc'
import { Market } from '@market/sdk/market'
import { payTo } from '@market/sdk/verify'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'

/** A person with a wallet and a browser: nothing but the market's HTTP and the chain. */
export async function signedInBuyer(marketUrl: string) {
  const account = privateKeyToAccount(generatePrivateKey())
  // The first answer is what a test is about.
  const market = new Market(marketUrl, { retryForMs: 0 })
  const wallet = { address: account.address, signMessage: (message: string) => account.signMessage({ message }) }
  const { address: buyer } = await market.signIn(wallet)

  return {
    market,
    buyer,
    /** Basket with one line, checked out. */
    async checkOut(operator: string, seller: string, sku: string, quantity = 1) {
      const basket = await market.createBasket({ operator })
      await basket.setItems([{ seller, sku, quantity }])
      return basket.checkout()
    },
    /** Pays what the order says, to whom it says. */
    async pay(rpcUrl: string, orderId: string) {
      const { address: gateway, amountWei: amount, reference } = payTo(await market.order(orderId))
      return payInCrc(rpcUrl, account, { gateway, amount, reference })
    },
  }
}
