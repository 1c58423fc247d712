import type { Hex, PrivateKeyAccount } from 'viem'
import { DIRECT_PATH, type FailedCalls, type FaultOptions } from './faults.ts'
import type { MiningMode } from './miningMode.ts'
import { askNode } from './node.ts'
import { type Payee, sendOneByOne, signPayments } from './payInCrc.ts'
import type { Mined, Reorg, SignedTransaction } from './reorg.ts'

/** What can be made to happen on a dev chain that runs in another process, whatever fails there at the moment. */

export type { FailedCalls, FaultKind, FaultOptions } from './faults.ts'
export type { Mined, Reorg, SignedTransaction } from './reorg.ts'

/** The same chain where nothing fails on purpose: a wallet has a node of its own. */
export const directUrl = (rpcUrl: string): string => new URL(DIRECT_PATH, rpcUrl).href

const ask = <T>(rpcUrl: string, method: string, ...params: unknown[]) => askNode<T>(directUrl(rpcUrl), method, params)

/** From now on these calls fail. Faults add up; of several that fit a call the last one befalls it. */
export async function setFault(rpcUrl: string, fault: FaultOptions): Promise<void> {
  await ask(rpcUrl, 'dev_setFault', fault)
}

export const failedCalls = (rpcUrl: string): Promise<FailedCalls> => ask(rpcUrl, 'dev_failedCalls')

/** Nothing fails on purpose any more, and what stalls is answered. Gives what `failedCalls` gave. */
export const clearFaults = (rpcUrl: string): Promise<FailedCalls> => ask(rpcUrl, 'dev_clearFaults')

/** So many blocks, also while mining is paused. */
export async function mine(rpcUrl: string, blocks: number): Promise<void> {
  await ask(rpcUrl, 'anvil_mine', `0x${blocks.toString(16)}`)
}

/**
 * From now on nothing is mined on top of transactions; with `holdTransactions` they are not mined either, and whoever waits
 * for a receipt waits. It ends by `resumeMining`, or after `forMs`.
 */
export async function pauseMining(
  rpcUrl: string,
  { holdTransactions = false, forMs }: { holdTransactions?: boolean; forMs?: number } = {},
): Promise<void> {
  const mode: MiningMode = holdTransactions ? 'off' : 'transactions'
  await ask(rpcUrl, 'dev_setMining', { mode, forMs })
}

export async function resumeMining(rpcUrl: string): Promise<void> {
  await ask(rpcUrl, 'dev_setMining', { mode: 'on' satisfies MiningMode })
}

/**
 * Takes the blocks from the transaction's on away; the chain is one block longer after that. The transaction is gone, and what
 * its sender sent after it; `remine` brings them in again. Other people's transactions stay where they were.
 */
export const reorgAway = (rpcUrl: string, { txHash }: { txHash: string }): Promise<Reorg> =>
  ask(rpcUrl, 'dev_reorgAway', txHash)

/** A reorg after which the transaction is in a block again, with so many more logs before its own: other log indexes. */
export const reorgShift = (
  rpcUrl: string,
  { txHash, logsBefore = 1 }: { txHash: string; logsBefore?: number },
): Promise<Reorg> => ask(rpcUrl, 'dev_reorgShift', txHash, logsBefore)

/** The same signed transactions in one new block, with so many other logs before theirs. */
export const remine = (
  rpcUrl: string,
  { taken, logsBefore = 0 }: { taken: readonly SignedTransaction[]; logsBefore?: number },
): Promise<Mined[]> => mineTogether(rpcUrl, { raws: taken.map(({ raw }) => raw), logsBefore })

/** Signed transactions in one new block, in this order. Throws when one does not get in. */
export const mineTogether = (
  rpcUrl: string,
  { raws, logsBefore = 0 }: { raws: readonly Hex[]; logsBefore?: number },
): Promise<Mined[]> => ask(rpcUrl, 'dev_mineTogether', raws, logsBefore)

/** Pays in several transfers, each in a block of its own or all in one. Gives their hashes. */
export async function payInParts(
  rpcUrl: string,
  wallet: PrivateKeyAccount,
  { oneBlock = false, ...payment }: Payee & { amounts: readonly bigint[]; oneBlock?: boolean },
): Promise<Hex[]> {
  const raws = await signPayments(directUrl(rpcUrl), wallet, payment)
  if (!oneBlock) return (await sendOneByOne(directUrl(rpcUrl), raws)).slice(1)
  const mined = (await mineTogether(rpcUrl, { raws })).slice(1)
  const failed = mined.find(({ succeeded }) => !succeeded)
  if (failed) throw new Error(`transaction ${failed.hash} failed on chain`)
  return mined.map(({ hash }) => hash)
}
