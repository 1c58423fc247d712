import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { freePort } from '@market/devstack/ports'
import { setTimeout as delay } from 'node:timers/promises'
import {
  type Address,
  createPublicClient,
  createWalletClient,
  type Hash,
  http,
  type HttpTransport,
  type PrivateKeyAccount,
  type PublicClient,
  stringToHex,
  type TransactionReceipt,
  type WalletClient,
} from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { devContracts, devCurrencyAvatar, gatewayAbi, gatewayFactoryAbi, hubAbi } from '../src/deployment.ts'
import { askNode } from '../src/node.ts'

export interface Chain {
  url: string
  client: PublicClient
  ask<T>(method: string, ...params: unknown[]): Promise<T>
  newWallet(): Wallet
  head(): Promise<number>
  mined(hash: Hash): Promise<TransactionReceipt>
  openGateway(owner: Wallet): Promise<Address>
  stop(): Promise<void>
}

export type Wallet = WalletClient<HttpTransport, undefined, PrivateKeyAccount>

/** A chain of its own for one test file. */
export async function startChain(): Promise<Chain> {
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const platform = `${process.platform}-${process.arch === 'x64' ? 'amd64' : process.arch}`
  const manifest = createRequire(import.meta.url).resolve(`@foundry-rs/anvil-${platform}/package.json`)
  const anvil = spawn(
    join(dirname(manifest), 'bin', 'anvil'),
    ['--port', `${port}`, '--chain-id', '100', '--base-fee', '0', '--gas-price', '0', '--silent'],
    { stdio: 'ignore' },
  )
  const exited = once(anvil, 'exit')
  const ask = <T>(method: string, ...params: unknown[]) => askNode<T>(url, method, params)
  await eventually(async () => (await ask('eth_chainId').catch(() => undefined)) === '0x64')

  const client: PublicClient = createPublicClient({ transport: http(url), pollingInterval: 20, cacheTime: 0 })
  return {
    url,
    ask,
    client,
    newWallet: () => newWallet(url),
    head: async () => Number(await ask<string>('eth_blockNumber')),
    mined: (hash: Hash) => client.waitForTransactionReceipt({ hash }),
    async openGateway(owner: Wallet): Promise<Address> {
      const factory = { address: devContracts.gatewayFactory, abi: gatewayFactoryAbi } as const
      await mined(owner, owner.writeContract({ ...factory, functionName: 'createGateway', ...free }))
      return client.readContract({ ...factory, functionName: 'gatewayOf', args: [owner.account.address] })
    },
    async stop() {
      anvil.kill('SIGKILL')
      await exited
    },
  }
}

/** Fresh wallets own nothing, and viem would offer a tip the node does not ask for. */
export const free = { chain: null, gasPrice: 0n } as const

function newWallet(url: string): Wallet {
  return createWalletClient({ account: privateKeyToAccount(generatePrivateKey()), transport: http(url) })
}

/** A busy node takes a moment from accepting a transaction to its block; what comes next builds on that block. */
export async function mined(wallet: Wallet, sent: Promise<Hash>): Promise<Hash> {
  const hash = await sent
  const client = createPublicClient({ transport: http(wallet.transport.url), pollingInterval: 20 })
  await client.waitForTransactionReceipt({ hash })
  return hash
}

export function faucet(wallet: Wallet, amount: bigint) {
  const args = [devCurrencyAvatar, amount] as const
  return mined(
    wallet,
    wallet.writeContract({ address: devContracts.hub, abi: hubAbi, functionName: 'faucet', args, ...free }),
  )
}

export function trust(owner: Wallet, gateway: Address, expiry: bigint) {
  const args = [devCurrencyAvatar, expiry] as const
  return mined(
    owner,
    owner.writeContract({ address: gateway, abi: gatewayAbi, functionName: 'setTrust', args, ...free }),
  )
}

export function pay(wallet: Wallet, gateway: Address, amount: bigint, reference: string, nonce?: number) {
  return wallet.writeContract({
    address: devContracts.hub,
    abi: hubAbi,
    functionName: 'safeTransferFrom',
    args: [wallet.account.address, gateway, BigInt(devCurrencyAvatar), amount, stringToHex(reference)],
    // With a gas limit the node need not try the transaction first, on a state where an earlier one is not mined.
    ...(nonce === undefined ? {} : { nonce, gas: 300_000n }),
    ...free,
  })
}

export async function eventually(holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 10_000
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error('not within 10 s')
    await delay(20)
  }
}
