/** The one rule of settlement: three sums over what an order was paid, at three depths (payments.md 18). Pure. */

/** A transfer that counts: to the order's gateway, of a trusted token, in the chain. */
export type CreditedTransfer = {
  blockNumber: number
  transactionIndex: number
  logIndex: number
  txHash: string
  amountWei: bigint
}

export type Depths = { head: number; confirm: number; finalize: number }

export type Settlement = {
  /** All that was credited, deep or not. */
  seenWei: bigint
  /** The transfer that reached the price; undefined while the order is not paid. */
  paidBy: CreditedTransfer | undefined
  confirmed: boolean
  complete: boolean
}

/** 0 confirmations means as soon as seen. Each transfer has to be deep itself; an early dust transfer lends its age to none. */
export function settle(
  priceWei: bigint,
  transfers: readonly CreditedTransfer[],
  { head, confirm, finalize }: Depths,
): Settlement {
  const ordered = transfers.toSorted(
    (a, b) => a.blockNumber - b.blockNumber || a.transactionIndex - b.transactionIndex || a.logIndex - b.logIndex,
  )
  const deep = (confirmations: number) =>
    sum(ordered.filter((t) => confirmations === 0 || t.blockNumber <= head - confirmations))
  let running = 0n
  const paidBy = ordered.find((transfer) => {
    running += transfer.amountWei
    return running >= priceWei
  })
  const paid = paidBy !== undefined
  return {
    seenWei: sum(ordered),
    paidBy,
    confirmed: paid && deep(confirm) >= priceWei,
    complete: paid && deep(finalize) >= priceWei,
  }
}

const sum = (transfers: readonly CreditedTransfer[]) => transfers.reduce((total, t) => total + t.amountWei, 0n)
