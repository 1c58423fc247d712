import { comparePositions } from './trust.ts'

/** The one rule of settlement: three sums over what an order was paid, at three depths (payments.md 18). Pure. */

export type Payable = { priceWei: bigint; expectedGateways: readonly string[] }

/** A transfer with the order's reference on the order's chain, as it is on record. */
export type RecordedTransfer = {
  blockNumber: number
  transactionIndex: number
  logIndex: number
  txHash: string
  gateway: string
  amountWei: bigint | null
  /** Whether its gateway trusted its token; null = not decided. */
  eligible: boolean | null
  /** Why it can't count, whatever the verdict. */
  ignoredReason: string | null
  /** The chain does not have it any more. */
  orphaned: boolean
  /** It counts, but not as deep: a reorg may have taken it, or its verdict, back. */
  inDoubt: boolean
}

/** Blocks; 0 confirmations means as soon as seen. */
export type Depths = { head: number; confirm: number; finalize: number }

export type Settlement = {
  /** All that counts, deep or not. */
  seenWei: bigint
  /** The transfer that reached the price; undefined while the order is not paid. */
  paidBy: RecordedTransfer | undefined
  confirmed: boolean
  complete: boolean
  /** The next head that changes anything if no transfer does; undefined when none will. */
  settleAt: number | undefined
}

/** Whether a transfer is money for this order: to its own gateway, in a token that is trusted there, in the chain. */
export const counts = (order: Payable, transfer: RecordedTransfer): boolean =>
  transfer.eligible === true &&
  transfer.ignoredReason === null &&
  !transfer.orphaned &&
  transfer.amountWei !== null &&
  order.expectedGateways.includes(transfer.gateway)

/** Each transfer has to be deep itself; an early dust transfer lends its age to none. What is final is confirmed as well. */
export function settle(
  order: Payable,
  transfers: readonly RecordedTransfer[],
  { head, confirm, finalize }: Depths,
): Settlement {
  const counted = transfers.filter((transfer) => counts(order, transfer)).toSorted(comparePositions)
  const solid = counted.filter(({ inDoubt }) => !inDoubt)
  const paidBy = reaching(order.priceWei, counted)
  const solidBy = reaching(order.priceWei, solid)
  const reachedAt = (confirmations: number) => {
    if (confirmations === 0) return paidBy && Number.NEGATIVE_INFINITY
    return solidBy && solidBy.blockNumber + confirmations
  }
  const isReached = (confirmations: number) => {
    const at = reachedAt(confirmations)
    return at !== undefined && at <= head
  }
  const complete = isReached(finalize)
  const ahead = complete ? [] : [reachedAt(confirm), reachedAt(finalize)].filter((at) => at !== undefined && at > head)
  return {
    seenWei: counted.reduce((total, { amountWei }) => total + amountWei!, 0n),
    paidBy,
    confirmed: complete || isReached(confirm),
    complete,
    settleAt: ahead.length > 0 ? Math.min(...(ahead as number[])) : undefined,
  }
}

/** Of transfers in chain order, the one with which their sum reaches the price. */
function reaching(priceWei: bigint, ordered: readonly RecordedTransfer[]): RecordedTransfer | undefined {
  let running = 0n
  return ordered.find(({ amountWei }) => (running += amountWei!) >= priceWei)
}
