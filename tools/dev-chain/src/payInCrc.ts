import { createPublicClient, encodeFunctionData, type Hex, http, type PrivateKeyAccount, stringToHex } from 'viem'
import { devContracts, devCurrencyAvatar, hubAbi } from './deployment.ts'

export type Payee = {
  gateway: string
  reference: string
  /** Whose CRC; the dev currency without it. The wallet's own address is money that nobody trusts. */
  avatar?: string
}

/**
 * Pays as a wallet does: takes CRC from the dev faucet, sends it to the gateway with the payment reference in the data, in
 * two signed transactions. `amount` is wei. Gives the hash of the second. Throws when a transaction fails on chain.
 */
export async function payInCrc(
  rpcUrl: string,
  wallet: PrivateKeyAccount,
  { amount, ...payee }: Payee & { amount: bigint },
): Promise<Hex> {
  const [, hash] = await sendOneByOne(rpcUrl, await signPayments(rpcUrl, wallet, { ...payee, amounts: [amount] }))
  return hash!
}

/** The faucet for all of it, then a transfer for each amount. */
export async function signPayments(
  rpcUrl: string,
  wallet: PrivateKeyAccount,
  { gateway, reference, amounts, avatar = devCurrencyAvatar }: Payee & { amounts: readonly bigint[] },
): Promise<Hex[]> {
  const nonce = await connect(rpcUrl).getTransactionCount({ address: wallet.address })
  const total = amounts.reduce((sum, amount) => sum + amount, 0n)
  const data = stringToHex(reference)
  const calls = [
    encodeFunctionData({ abi: hubAbi, functionName: 'faucet', args: [avatar as Hex, total] }),
    ...amounts.map((amount) => {
      const args = [wallet.address, gateway as Hex, BigInt(avatar), amount, data] as const
      return encodeFunctionData({ abi: hubAbi, functionName: 'safeTransferFrom', args })
    }),
  ]
  return Promise.all(
    calls.map((call, i) =>
      wallet.signTransaction({
        type: 'legacy',
        chainId: 100,
        nonce: nonce + i,
        to: devContracts.hub,
        data: call,
        gas: 500_000n,
        // The dev chain asks no fee, so a wallet made a moment ago can pay.
        gasPrice: 0n,
      }),
    ),
  )
}

/** Each in a block of its own, unless others come in between. */
export async function sendOneByOne(rpcUrl: string, raws: readonly Hex[]): Promise<Hex[]> {
  const client = connect(rpcUrl)
  const hashes: Hex[] = []
  for (const serializedTransaction of raws) {
    const hash = await client.sendRawTransaction({ serializedTransaction })
    const { status } = await client.waitForTransactionReceipt({ hash, timeout: 20_000 })
    if (status !== 'success') throw new Error(`transaction ${hash} failed on chain`)
    hashes.push(hash)
  }
  return hashes
}

const connect = (rpcUrl: string) =>
  createPublicClient({ transport: http(rpcUrl, { retryCount: 5 }), pollingInterval: 50 })
