/** Where payments are read from. One implementation today: a Circles indexer (circlesRpc.ts). */

export type LogPosition = { blockNumber: number; transactionIndex: number; logIndex: number }

/** One `PaymentReceived` log, facts only. `undefined` reference or token: the log carried none that can be read. */
export type PaymentLog = LogPosition & {
  txHash: string
  blockTime: Date | null
  gateway: string
  payer: string | null
  payee: string | null
  tokenId: bigint | null
  amountWei: bigint | null
  paymentReference: string | undefined
}

export type TrustLog = LogPosition & { trustReceiver: string; expirySeconds: bigint }

/** A page of logs and where to go on. `end` moves past rows that could not be read, too. */
export type PaymentPage = { logs: PaymentLog[]; unreadable: number; end: LogPosition | undefined; full: boolean }

/** Every method throws `PaymentSourceError` when the chain can't be read: an error is never an empty page (payments.md W7). */
export type PaymentSource = {
  readPayments(after: LogPosition | undefined, limit: number): Promise<PaymentPage>
  /** All trust a gateway ever gave or took, in any order. */
  readTrust(gateway: string): Promise<TrustLog[]>
  readHead(): Promise<number>
}

export class PaymentSourceError extends Error {}
