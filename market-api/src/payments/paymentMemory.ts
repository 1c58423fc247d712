import type { TrustMemory } from './trustOf.ts'

/** A transfer's name on its chain. */
export const keyOf = (log: { txHash: string; logIndex: number }) => `${log.txHash}:${log.logIndex}`

/** What the poller keeps between rounds to read less. All of it can be lost at any time. */
export type PaymentMemory = {
  trust: TrustMemory
  /** The block of each transfer near the head that is on record, as found by the holder of the lease in this epoch. */
  window: { epoch: string; blocks: Map<string, number> } | undefined
  /** The newest head that is a checkpoint. */
  checkpoint: number | undefined
  /** What was ignored under an earlier configuration was judged again. */
  reconsidered: boolean
  /** Contracts found to be gateways. */
  gateways: Set<string>
}

export const createPaymentMemory = (): PaymentMemory => ({
  trust: new Map(),
  window: undefined,
  checkpoint: undefined,
  reconsidered: false,
  gateways: new Set(),
})
