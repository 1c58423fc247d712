import type { LogPosition } from './paymentSource.ts'
import type { TrustMemory } from './trustOf.ts'

/** A transfer's name on its chain. */
export const keyOf = (log: { txHash: string; logIndex: number }) => `${log.txHash}:${log.logIndex}`

/** A transfer as it is on record; `facts`: all that makes it another one when its transaction is mined again. */
export type Recorded = { blockNumber: number; facts: string }

export const recordOf = (
  log: LogPosition & { paymentReference: string; gateway: string; tokenId: unknown; amountWei: unknown },
): Recorded => {
  const { blockNumber, transactionIndex, paymentReference, gateway, tokenId, amountWei } = log
  return {
    blockNumber,
    facts: [blockNumber, transactionIndex, paymentReference, gateway, tokenId, amountWei].join(' '),
  }
}

/** What the poller keeps between rounds to read less. All of it can be lost at any time. */
export type PaymentMemory = {
  /** The holder of the lease as whom it was learned: another may have followed a reorg since. */
  epoch: string | undefined
  trust: TrustMemory
  /** The transfers near the head that are on record, by name. */
  window: Map<string, Recorded> | undefined
  /** The newest head that is a checkpoint, and the newest up to which everything was read. */
  checkpoint: string | undefined
  observedHead: number | undefined
  /** What was ignored under an earlier configuration was judged again. */
  reconsidered: boolean
  /** Contracts found to be gateways. */
  gateways: Set<string>
}

export const createPaymentMemory = (): PaymentMemory => ({
  epoch: undefined,
  trust: new Map(),
  window: undefined,
  checkpoint: undefined,
  observedHead: undefined,
  reconsidered: false,
  gateways: new Set(),
})
