import { encodeFunctionData, type Hex, keccak256 } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { devContracts, devCurrencyAvatar, hubAbi } from './deployment.ts'
import { askNode, invalidParams, RpcError } from './node.ts'

/** As its sender signed it: whoever has it can send it again. */
export type SignedTransaction = { hash: Hex; raw: Hex }

export type Reorg = {
  /** The newest block that both chains have. */
  forkBlock: number
  /** How many blocks were replaced. */
  depth: number
  /** One more than before. */
  head: number
  /** What is in no block any more, nor waits for one, in the order in which it stood. */
  taken: SignedTransaction[]
}

export type Mined = {
  hash: Hex
  blockNumber: number
  transactionIndex: number
  logIndexes: number[]
  succeeded: boolean
}

type Sent = SignedTransaction & { from: Hex; nonce: number }
type Receipt = { blockNumber: Hex; transactionIndex: Hex; status: Hex; logs: { logIndex: Hex }[] }

/** The functions here want the chain to stand still meanwhile. */

/**
 * Replaces a transaction's block and all on top, and is one block longer. The transaction is gone, with what its sender sent
 * after it; all others stay where they were. Throws invalid params when it is in no block.
 */
export function reorgAway(nodeUrl: string, txHash: string): Promise<Reorg> {
  return replaceBlocks(nodeUrl, txHash, (blocks) => {
    const { from, nonce } = blocks.flat().find(({ hash }) => hash === txHash)!
    return blocks.map((block) => block.filter((sent) => sent.from !== from || sent.nonce < nonce))
  })
}

/** As `reorgAway`, but the transaction is in its block again, behind so many more logs (payments.md P26). */
export async function reorgShift(nodeUrl: string, txHash: string, logsBefore: number): Promise<Reorg> {
  const fillers = await signFillers(logsBefore)
  return replaceBlocks(nodeUrl, txHash, ([first = [], ...rest]) => [[...fillers, ...first], ...rest])
}

/**
 * Mines signed transactions in one block, in this order, behind so many other logs. Throws the node's refusal, and when one
 * did not get in.
 */
export async function mineTogether(nodeUrl: string, raws: readonly Hex[], logsBefore: number): Promise<Mined[]> {
  const fillers = await signFillers(logsBefore)
  const send = (raw: Hex) => askNode<Hex>(nodeUrl, 'eth_sendRawTransaction', [raw])
  for (const { raw } of fillers) await send(raw)
  const hashes: Hex[] = []
  for (const raw of raws) hashes.push(await send(raw))
  await askNode(nodeUrl, 'anvil_mine', ['0x1'])
  return Promise.all(
    hashes.map(async (hash) => {
      const receipt = await findReceipt(nodeUrl, hash)
      if (!receipt)
        throw new RpcError(-32000, `${hash} did not get into the block: an earlier one of its sender is missing`)
      return {
        hash,
        blockNumber: Number(receipt.blockNumber),
        transactionIndex: Number(receipt.transactionIndex),
        logIndexes: receipt.logs.map(({ logIndex }) => Number(logIndex)),
        succeeded: receipt.status === '0x1',
      }
    }),
  )
}

/**
 * `anvil_reorg` leaves as many blocks as there were, with those transactions that it is told, and forgets the others: they
 * don't wait for a block.
 */
async function replaceBlocks(
  nodeUrl: string,
  txHash: string,
  edit: (blocks: Sent[][]) => SignedTransaction[][],
): Promise<Reorg> {
  const receipt = await findReceipt(nodeUrl, txHash)
  if (!receipt) throw invalidParams(`${txHash} is in no block`)
  const first = Number(receipt.blockNumber)
  const head = Number(await askNode<string>(nodeUrl, 'eth_blockNumber'))
  const before: Sent[][] = []
  for (let number = first; number <= head; number++) before.push(await readBlock(nodeUrl, number))
  const after = edit(before)
  const placed = after.flatMap((block, i) => block.map(({ raw }) => [raw, i] as const))
  await askNode(nodeUrl, 'anvil_reorg', [before.length, placed])
  await askNode(nodeUrl, 'anvil_mine', ['0x1'])
  const kept = new Set(after.flat().map(({ hash }) => hash))
  const taken = before.flat().filter(({ hash }) => !kept.has(hash))
  return {
    forkBlock: first - 1,
    depth: before.length,
    head: head + 1,
    taken: taken.map(({ hash, raw }) => ({ hash, raw })),
  }
}

const findReceipt = (nodeUrl: string, hash: string) =>
  askNode<Receipt | null>(nodeUrl, 'eth_getTransactionReceipt', [hash])

async function readBlock(nodeUrl: string, number: number): Promise<Sent[]> {
  type Block = { transactions: { hash: Hex; from: Hex; nonce: Hex }[] }
  const { transactions } = await askNode<Block>(nodeUrl, 'eth_getBlockByNumber', [`0x${number.toString(16)}`, true])
  return Promise.all(
    transactions.map(async ({ hash, from, nonce }) => {
      const raw = await askNode<Hex>(nodeUrl, 'eth_getRawTransactionByHash', [hash])
      return { hash, from, nonce: Number(nonce), raw }
    }),
  )
}

/** Of wallets that were never seen before, each with one log. */
function signFillers(count: number): Promise<SignedTransaction[]> {
  const data = encodeFunctionData({ abi: hubAbi, functionName: 'faucet', args: [devCurrencyAvatar, 1n] })
  return Promise.all(
    Array.from({ length: count }, async () => {
      const wallet = privateKeyToAccount(generatePrivateKey())
      const fees = { gas: 100_000n, gasPrice: 0n } as const
      const raw = await wallet.signTransaction({
        type: 'legacy',
        chainId: 100,
        nonce: 0,
        to: devContracts.hub,
        data,
        ...fees,
      })
      return { hash: keccak256(raw), raw }
    }),
  )
}
