import { toEventSelector } from 'viem'
import { connectJsonRpc, type JsonRpc } from './jsonRpc.ts'
import {
  type BlockRef,
  MAX_INDEX,
  type MinedTransaction,
  type PaymentSource,
  PaymentSourceError,
} from './paymentSource.ts'

/** What every source asks a node, whoever it has its payments from. */
export type ChainReads = Pick<PaymentSource, 'readHead' | 'readBlock' | 'readTransaction'> & { ask: JsonRpc }

/** `emitters`: whose logs are payments; without them anybody's. */
export function connectChain({
  rpc,
  timeoutMs,
  chainId,
  emitters,
}: {
  rpc: string
  timeoutMs: number
  chainId: number
  emitters?: readonly string[]
}): ChainReads {
  const call = connectJsonRpc({ url: rpc, timeoutMs })
  // Asked again after an error: whoever answers then may be another node.
  let onChain = false
  const ask: JsonRpc = (method, params) =>
    call(method, params).catch((error) => {
      onChain = false
      throw error
    })

  const readBlock = async (number: number) => {
    const block = await ask('eth_getBlockByNumber', [toHex(number), false])
    return block === null ? undefined : blockOf(block, number)
  }

  return {
    ask,
    readBlock,

    async readHead() {
      // First, so that in an outage it is always the same call that fails: the log tells of each change.
      const number = parseHexBlock(await ask('eth_blockNumber', []))
      if (!onChain) {
        const actual = quantityOf(await ask('eth_chainId', []), 'eth_chainId')
        if (actual !== chainId) throw new PaymentSourceError(`the node is on chain ${actual}, CHAIN_ID is ${chainId}`)
        onChain = true
      }
      const head = await readBlock(number)
      // A head that is only claimed would make payments final before their time.
      if (!head) throw new PaymentSourceError(`the node says its head is ${number}, but does not have that block`)
      return head
    },

    async readTransaction(txHash) {
      const receipt = await ask('eth_getTransactionReceipt', [txHash])
      return receipt === null ? undefined : minedOf(receipt, txHash, emitters)
    },
  }
}

function blockOf(block: unknown, asked: number): BlockRef {
  const { number, hash } = recordOf(block, 'eth_getBlockByNumber')
  if (quantityOf(number, 'eth_getBlockByNumber: number') !== asked)
    throw new PaymentSourceError(`eth_getBlockByNumber: asked for block ${asked}, got another`)
  return { number: asked, hash: hashOf(hash, 'eth_getBlockByNumber: hash') }
}

const PAYMENT_RECEIVED = toEventSelector('PaymentReceived(address,address,address,uint256,uint256,bytes)')

/**
 * A payment never comes alone: the transfer of its token is another log of its transaction. When a reorg has moved them, that one
 * may stand where the payment stood, and is not the payment (payments.md P26).
 */
function isPayment({ topics, address }: Record<string, unknown>, emitters?: readonly string[]): boolean {
  const topic: unknown = Array.isArray(topics) ? topics[0] : PAYMENT_RECEIVED
  if (String(topic).toLowerCase() !== PAYMENT_RECEIVED) return false
  return !emitters || typeof address !== 'string' || emitters.includes(address.toLowerCase())
}

function minedOf(value: unknown, txHash: string, emitters?: readonly string[]): MinedTransaction | undefined {
  const of = 'eth_getTransactionReceipt'
  const receipt = recordOf(value, of)
  if (hashOf(receipt.transactionHash, `${of}: transactionHash`) !== txHash.toLowerCase())
    throw new PaymentSourceError(`${of}: the receipt of another transaction`)
  // Known, and in no block yet.
  if (receipt.blockNumber === null && receipt.blockHash === null) return undefined
  return {
    blockNumber: quantityOf(receipt.blockNumber, `${of}: blockNumber`),
    blockHash: hashOf(receipt.blockHash, `${of}: blockHash`),
    transactionIndex: quantityOf(receipt.transactionIndex, `${of}: transactionIndex`, MAX_INDEX),
    logIndexes: listOf(receipt.logs, `${of}: logs`)
      .map((log) => recordOf(log, `${of}: log`))
      .filter((log) => isPayment(log, emitters))
      .map(({ logIndex }) => quantityOf(logIndex, `${of}: logIndex`, MAX_INDEX)),
  }
}

export const toHex = (number: number) => `0x${number.toString(16)}`

/** `of` names the value in the error's message. */
export function quantityOf(value: unknown, of: string, most = Number.MAX_SAFE_INTEGER): number {
  const number = typeof value === 'string' && /^0x[0-9a-f]{1,14}$/i.test(value) ? Number(value) : Infinity
  if (number > most) throw new PaymentSourceError(`${of} is not a number`)
  return number
}

/** Lower case. */
export function hashOf(value: unknown, of: string): string {
  if (typeof value === 'string' && /^0x[0-9a-f]{64}$/i.test(value)) return value.toLowerCase()
  throw new PaymentSourceError(`${of} is not a hash`)
}

export function recordOf(value: unknown, of: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  throw new PaymentSourceError(`${of} is not an object`)
}

export function listOf(value: unknown, of: string): unknown[] {
  if (Array.isArray(value)) return value
  throw new PaymentSourceError(`${of} is not a list`)
}

/** Head block of `eth_blockNumber` (payments.md 2.3). */
export function parseHexBlock(result: unknown): number {
  if (typeof result !== 'string' || result.trim() === '') throw new PaymentSourceError('eth_blockNumber: empty')
  const digits = result.trim().replace(/^0x/i, '')
  if (digits === '') return 0
  if (!/^[0-9a-f]+$/i.test(digits)) throw new PaymentSourceError('eth_blockNumber: not hexadecimal')
  const n = BigInt(`0x${digits}`)
  if (n > 2n ** 63n - 1n) throw new PaymentSourceError('eth_blockNumber: overflow')
  if (n > BigInt(Number.MAX_SAFE_INTEGER)) throw new PaymentSourceError('eth_blockNumber: not a block of this world')
  return Number(n)
}
