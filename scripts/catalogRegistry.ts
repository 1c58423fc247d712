import type { CatalogRegistry } from '@market/sdk/publishCatalog'
import {
  BaseError,
  createPublicClient,
  createWalletClient,
  encodeFunctionData,
  type Hex,
  http,
  parseAbi,
  type PrivateKeyAccount,
} from 'viem'

/** catalog.md 3.2. */
const abi = parseAbi([
  'function getMetadataDigest(address) view returns (bytes32)',
  'function updateMetadataDigest(bytes32)',
])

const RECEIPT_TIMEOUT_MS = 120_000

export type RegistryOptions = {
  rpcUrl: string
  address: string
  chainId: number
  /** Of the avatar itself: nobody else may write. */
  account?: PrivateKeyAccount | undefined
}

export type ConnectedRegistry = CatalogRegistry & {
  /** Of the last write. */
  transaction(): string | undefined
}

/** The name registry, which keeps for each avatar what its profile is. Errors name the contract, never the RPC's URL. */
export function connectRegistry({ rpcUrl, address, chainId, account }: RegistryOptions): ConnectedRegistry {
  const transport = http(rpcUrl)
  const client = createPublicClient({ transport, pollingInterval: 100 })
  const contract = { address: address as Hex, abi } as const
  let checked: Promise<void> | undefined
  let transaction: Hex | undefined

  const assertChain = async () => {
    const id = await client.getChainId()
    if (id !== chainId) throw new Error(`the RPC is of chain ${id}, not ${chainId}; set RPC or --chain`)
  }
  const told = async <T>(what: string, work: () => Promise<T>): Promise<T> => {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof BaseError)) throw error
      throw new Error(`name registry ${address}: ${what}: ${error.shortMessage.split('\n', 1)[0]}`, { cause: error })
    }
  }
  const readDigest = async (avatar: string) => {
    await (checked ??= told('asking the chain', assertChain))
    return told('reading the digest; is NAME_REGISTRY_ADDRESS right?', () =>
      client.readContract({ ...contract, functionName: 'getMetadataDigest', args: [avatar as Hex] }),
    )
  }

  return {
    readDigest,
    transaction: () => transaction,
    async writeDigest(digest, expected) {
      if (!account) throw new Error('nobody can write to the registry but the avatar')
      if ((await readDigest(account.address)).toLowerCase() !== expected) return 'moved'
      await told('writing the digest', async () => {
        const wallet = createWalletClient({ account, transport })
        // A dev chain asks no fee, and whoever has nothing has nothing to offer.
        const free = (await client.getBalance({ address: account.address })) === 0n
        transaction = await wallet.writeContract({
          ...contract,
          functionName: 'updateMetadataDigest',
          args: [digest as Hex],
          chain: null,
          ...(free ? { gasPrice: 0n } : {}),
        })
        const receipt = await client.waitForTransactionReceipt({ hash: transaction, timeout: RECEIPT_TIMEOUT_MS })
        if (receipt.status !== 'success') throw new Error(`transaction ${transaction} failed on chain`)
      })
      return 'written'
    },
  }
}

/** What an avatar that is a contract has to execute: CALL, value 0. */
export function registryCall(address: string, digest: string): { to: string; data: string; value: '0' } {
  return {
    to: address,
    data: encodeFunctionData({ abi, functionName: 'updateMetadataDigest', args: [digest as Hex] }),
    value: '0',
  }
}
