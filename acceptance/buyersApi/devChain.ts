import { cidToDigest } from '@market/contracts/cid'
import {
  devContracts,
  devCurrencyAvatar,
  gatewayAbi,
  gatewayFactoryAbi,
  nameRegistryAbi,
} from '@market/dev-chain/deployment'
import { safeDouble } from '@market/testkit/contractAccounts.gen'
import {
  createPublicClient,
  createWalletClient,
  encodeFunctionData,
  type Hex,
  http,
  type PrivateKeyAccount,
} from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'

const connect = (rpcUrl: string) =>
  createPublicClient({ transport: http(rpcUrl, { retryCount: 5 }), pollingInterval: 50 })

const mined = async (rpcUrl: string, hash: Hex) => {
  const receipt = await connect(rpcUrl).waitForTransactionReceipt({ hash, timeout: 20_000 })
  if (receipt.status !== 'success') throw new Error('transaction failed on chain')
  return receipt
}

/** Sends transactions of one account, each when the one before it is mined. The dev chain asks no fee. */
function walletOf(rpcUrl: string, account: PrivateKeyAccount) {
  const wallet = createWalletClient({ account, transport: http(rpcUrl, { retryCount: 5 }) })
  return { wallet, free: { account, chain: null, gasPrice: 0n } as const }
}

/** A gateway whose payments count: the owner's, trusting the dev currency. */
export async function openGateway(rpcUrl: string, owner: PrivateKeyAccount): Promise<string> {
  const { wallet, free } = walletOf(rpcUrl, owner)
  const factory = { address: devContracts.gatewayFactory, abi: gatewayFactoryAbi } as const
  await mined(rpcUrl, await wallet.writeContract({ ...factory, ...free, functionName: 'createGateway', args: [] }))
  const address = await connect(rpcUrl).readContract({ ...factory, functionName: 'gatewayOf', args: [owner.address] })
  const args = [devCurrencyAvatar, 2n ** 96n - 1n] as const
  await mined(rpcUrl, await wallet.writeContract({ ...free, address, abi: gatewayAbi, functionName: 'setTrust', args }))
  return address.toLowerCase()
}

const naming = (profileCid: string) =>
  ({
    address: devContracts.nameRegistry,
    abi: nameRegistryAbi,
    functionName: 'updateMetadataDigest',
    args: [cidToDigest(profileCid) as Hex],
  }) as const

/** Names a profile as the account's own in the registry. */
export async function nameProfile(rpcUrl: string, account: PrivateKeyAccount, profileCid: string): Promise<void> {
  const { wallet, free } = walletOf(rpcUrl, account)
  await mined(rpcUrl, await wallet.writeContract({ ...naming(profileCid), ...free }))
}

/** The same for an account that is a contract; the dev chain takes its word for it. */
export async function nameProfileOfContract(rpcUrl: string, contract: string, profileCid: string): Promise<void> {
  const ask = (method: string, params: unknown[]) =>
    connect(rpcUrl).request({ method, params } as never) as Promise<unknown>
  await ask('anvil_impersonateAccount', [contract])
  const data = encodeFunctionData(naming(profileCid))
  const transaction = { from: contract, to: devContracts.nameRegistry, data, gas: '0x7a120', gasPrice: '0x0' }
  await mined(rpcUrl, (await ask('eth_sendTransaction', [transaction])) as Hex)
}

/** A Safe whose owners have to sign, `threshold` of them, each over the hash of the Safe's own domain. */
export async function deploySafe(rpcUrl: string, owners: string[], threshold: number): Promise<string> {
  const { wallet, free } = walletOf(rpcUrl, privateKeyToAccount(generatePrivateKey()))
  const { abi, bytecode } = safeDouble
  const { contractAddress } = await mined(rpcUrl, await wallet.deployContract({ ...free, abi, bytecode, args: [] }))
  const setup = { functionName: 'setup', args: [owners as Hex[], BigInt(threshold)] } as const
  await mined(rpcUrl, await wallet.writeContract({ ...free, address: contractAddress!, abi, ...setup }))
  return contractAddress!.toLowerCase()
}
