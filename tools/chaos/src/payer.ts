import { devContracts, devCurrencyAvatar } from '@market/dev-chain/deployment'
import { askNode } from '@market/dev-chain/node'
import { directUrl, mine } from '@market/dev-chain/scenarios'

/** Of the dev chain's contracts, in their order there: the calls that are made here. */
const SELECTORS = {
  faucet: '7b56c2b2',
  safeTransferFrom: 'f242432a',
  createGateway: '09bb7162',
  setTrust: 'af63ee3a',
  gatewayOf: '9be35185',
}
const PAYER = `0x${'da'.repeat(20)}`
const OWNER = `0x${'0e'.repeat(20)}`

const word = (value: bigint | string) => BigInt(value).toString(16).padStart(64, '0')

function encode(call: keyof typeof SELECTORS, ...words: (bigint | string)[]): string {
  return `0x${SELECTORS[call]}${words.map(word).join('')}`
}

export type Payer = Awaited<ReturnType<typeof openPayer>>

/**
 * Somebody with all the CRC they want and a gateway that takes it. The dev chain believes whoever says that they are an account,
 * so nothing has to be signed.
 */
export async function openPayer(rpcUrl: string) {
  const node = directUrl(rpcUrl)
  const send = async (from: string, to: string, data: string) => {
    const hash = await askNode<string>(node, 'eth_sendTransaction', [
      { from, to, data, gas: '0x7a120', gasPrice: '0x0' },
    ])
    for (;;) {
      const receipt = await askNode<{ status: string } | null>(node, 'eth_getTransactionReceipt', [hash])
      if (receipt?.status === '0x1') return
      if (receipt) throw new Error(`transaction ${hash} failed on chain`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  for (const account of [PAYER, OWNER]) await askNode(node, 'anvil_impersonateAccount', [account])
  await send(OWNER, devContracts.gatewayFactory, encode('createGateway'))
  const found = await askNode<string>(node, 'eth_call', [
    { to: devContracts.gatewayFactory, data: encode('gatewayOf', OWNER) },
    'latest',
  ])
  const gateway = `0x${found.slice(-40)}`
  await send(OWNER, gateway, encode('setTrust', devCurrencyAvatar, 2n ** 96n - 1n))
  await send(PAYER, devContracts.hub, encode('faucet', devCurrencyAvatar, 10n ** 30n))

  return {
    gateway,
    /** One transfer, in a block of its own. */
    async pay(reference: string, amountWei: bigint): Promise<void> {
      const text = Buffer.from(reference)
      const data = `${word(BigInt(text.length))}${text.toString('hex').padEnd(Math.ceil(text.length / 32) * 64, '0')}`
      await send(
        PAYER,
        devContracts.hub,
        encode('safeTransferFrom', PAYER, gateway, devCurrencyAvatar, amountWei, 160n) + data,
      )
    },
    /** So many blocks on top. */
    mine: (blocks: number) => mine(rpcUrl, blocks),
  }
}
