import { createPublicClient, createWalletClient, encodeDeployData, http } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { devHub, nameRegistry, paymentGateway, paymentGatewayFactory } from './contracts.gen.ts'

export const nameRegistryAbi = nameRegistry.abi
export const hubAbi = devHub.abi
export const gatewayFactoryAbi = paymentGatewayFactory.abi
export const gatewayAbi = paymentGateway.abi

/** Account 0 of every anvil: the key is printed in its manual, so whatever it owns belongs to everybody. */
const deployer = privateKeyToAccount('0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80')

/** Where the deployer's transactions 0, 1 and 2 put them, on every new chain. */
export const devContracts = {
  nameRegistry: '0x5fbdb2315678afecb367f032d93f642f64180aa3',
  hub: '0xe7f1725e7734ce288f8367e1bb143e90bb3f0512',
  gatewayFactory: '0x9fe46736679d2d9a65f0992f2272de9f3c7fa6e0',
} as const

/** The group whose CRC the dev seller's gateway trusts and every dev buyer takes from the faucet. */
export const devCurrencyAvatar = '0xdec2c00000000000000000000000000000000001'

const deployments = [
  { address: devContracts.nameRegistry, data: nameRegistry.bytecode },
  { address: devContracts.hub, data: devHub.bytecode },
  {
    address: devContracts.gatewayFactory,
    data: encodeDeployData({ ...paymentGatewayFactory, args: [devContracts.hub] }),
  },
] as const

/** Finishes what an interrupted earlier call left out. */
export async function deployDevContracts(rpcUrl: string): Promise<'deployed' | 'already deployed'> {
  const transport = http(rpcUrl)
  const client = createPublicClient({ transport, pollingInterval: 50 })
  const wallet = createWalletClient({ account: deployer, transport })
  let outcome: 'deployed' | 'already deployed' = 'already deployed'

  for (const [nonce, { address, data }] of deployments.entries()) {
    if (await client.getCode({ address })) continue
    const sent = await client.getTransactionCount({ address: deployer.address })
    if (sent !== nonce) {
      throw new Error(
        `anvil's account 0 has sent ${sent} transactions and the contracts are not there; begin a new chain`,
      )
    }
    const hash = await wallet.sendTransaction({ data, nonce, chain: null })
    await client.waitForTransactionReceipt({ hash, timeout: 10_000 })
    outcome = 'deployed'
  }
  return outcome
}
