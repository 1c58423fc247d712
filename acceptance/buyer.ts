import { parseEip155Id } from '@market/contracts/address'
import { weiFromJsonNumber } from '@market/contracts/money'
import { payInCrc } from '@market/dev-chain/payInCrc'
import { Market } from '@market/sdk/market'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'

const CHAIN_ID = 100

/** A person with a wallet and a browser: nothing but the market's HTTP and the chain. */
export async function signedInBuyer(marketUrl: string) {
  const account = privateKeyToAccount(generatePrivateKey())
  const market = new Market(marketUrl)
  const wallet = { address: account.address, signMessage: (message: string) => account.signMessage({ message }) }
  await market.signIn(wallet, CHAIN_ID)
  const buyer = account.address.toLowerCase()

  return {
    market,
    buyer,
    /** Basket with one line, checked out. */
    async checkOut(operator: string, seller: string, sku: string, quantity = 1) {
      const basketId = await market.createBasket({ buyer, operator, chainId: CHAIN_ID })
      await market.setItems(basketId, [{ seller, sku, quantity }])
      return market.checkout(basketId)
    },
    /** Pays what the listed offer says, to whom it says. */
    async pay(rpcUrl: string, operator: string, seller: string, sku: string, reference: string) {
      const { products } = await market.catalog(operator, [seller], { pageSize: 100 })
      const offer = products.find(({ product }) => product.sku === sku)!.product.offers[0]!
      const { address } = parseEip155Id(offer.potentialAction.recipient!['@id'])!
      return payInCrc(rpcUrl, account, { gateway: address, amount: weiFromJsonNumber(offer.price), reference })
    },
  }
}
