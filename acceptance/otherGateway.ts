import { devContracts, devCurrencyAvatar, gatewayAbi, gatewayFactoryAbi, hubAbi } from '@market/dev-chain/deployment'
import { createPublicClient, createWalletClient, type Hex, http, stringToHex } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'

/** Sends one transaction of a wallet made for it and waits for its receipt. */
function freshWallet(rpcUrl: string) {
  const account = privateKeyToAccount(generatePrivateKey())
  const transport = http(rpcUrl)
  const chain = createPublicClient({ transport, pollingInterval: 50 })
  const wallet = createWalletClient({ account, transport })
  const free = { account, chain: null, gasPrice: 0n } as const
  const mined = async (hash: Promise<Hex>) => {
    const { status } = await chain.waitForTransactionReceipt({ hash: await hash })
    if (status !== 'success') throw new Error('transaction failed on chain')
  }
  return { account, chain, wallet, free, mined }
}

const factory = { address: devContracts.gatewayFactory, abi: gatewayFactoryAbi } as const
const hub = { address: devContracts.hub, abi: hubAbi } as const

async function pay(rpcUrl: string, gateway: Hex, avatar: Hex, amount: bigint, reference: string) {
  const { account, wallet, free, mined } = freshWallet(rpcUrl)
  await mined(wallet.writeContract({ ...hub, ...free, functionName: 'faucet', args: [avatar, amount] }))
  const args = [account.address, gateway, BigInt(avatar), amount, stringToHex(reference)] as const
  await mined(wallet.writeContract({ ...hub, ...free, functionName: 'safeTransferFrom', args }))
}

/** An attacker opens a gateway of their own, lets it trust the money, and pays it with somebody's payment reference. */
export async function createGatewayOf(rpcUrl: string, reference: string, amount: bigint) {
  const { account, chain, wallet, free, mined } = freshWallet(rpcUrl)
  await mined(wallet.writeContract({ ...factory, ...free, functionName: 'createGateway', args: [] }))
  const gateway = await chain.readContract({ ...factory, functionName: 'gatewayOf', args: [account.address] })
  const forever = 2n ** 96n - 1n
  await mined(
    wallet.writeContract({
      ...free,
      address: gateway,
      abi: gatewayAbi,
      functionName: 'setTrust',
      args: [devCurrencyAvatar, forever],
    }),
  )
  await pay(rpcUrl, gateway, devCurrencyAvatar, amount, reference)
}

/** The gateway of this seller. */
export const gatewayOf = (rpcUrl: string, seller: string): Promise<Hex> =>
  createPublicClient({ transport: http(rpcUrl) }).readContract({
    ...factory,
    functionName: 'gatewayOf',
    args: [seller as Hex],
  })

/** Pays the right gateway in a currency anybody can print. */
export async function payInUntrustedToken(rpcUrl: string, seller: string, reference: string, amount: bigint) {
  const { account } = freshWallet(rpcUrl)
  await pay(rpcUrl, await gatewayOf(rpcUrl, seller), account.address, amount, reference)
}
