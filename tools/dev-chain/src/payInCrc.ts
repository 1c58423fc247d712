import { createPublicClient, encodeFunctionData, type Hex, http, type PrivateKeyAccount, stringToHex } from 'viem'
import { devContracts, devCurrencyAvatar, hubAbi } from './deployment.ts'

/**
 * Pays as a wallet does: takes CRC from the dev faucet, sends it to the gateway with the payment reference in the data, in
 * two signed transactions. `amount` is wei. Throws when a transaction fails on chain.
 */
export async function payInCrc(
  rpcUrl: string,
  wallet: PrivateKeyAccount,
  payment: { gateway: string; amount: bigint; reference: string },
): Promise<Hex> {
  const client = createPublicClient({ transport: http(rpcUrl, { retryCount: 5 }), pollingInterval: 50 })
  const nonce = await client.getTransactionCount({ address: wallet.address })
  const calls = [
    encodeFunctionData({ abi: hubAbi, functionName: 'faucet', args: [devCurrencyAvatar, payment.amount] }),
    encodeFunctionData({
      abi: hubAbi,
      functionName: 'safeTransferFrom',
      args: [
        wallet.address,
        payment.gateway as Hex,
        BigInt(devCurrencyAvatar),
        payment.amount,
        stringToHex(payment.reference),
      ],
    }),
  ]
  let hash: Hex = '0x'
  for (const [i, data] of calls.entries()) {
    const serializedTransaction = await wallet.signTransaction({
      type: 'legacy',
      chainId: 100,
      nonce: nonce + i,
      to: devContracts.hub,
      data,
      gas: 500_000n,
      // The dev chain asks no fee, so a wallet made a moment ago can pay.
      gasPrice: 0n,
    })
    hash = await client.sendRawTransaction({ serializedTransaction })
    const { status } = await client.waitForTransactionReceipt({ hash, timeout: 20_000 })
    if (status !== 'success') throw new Error(`transaction ${hash} failed on chain`)
  }
  return hash
}
