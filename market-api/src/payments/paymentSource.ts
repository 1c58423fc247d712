/**
 * Where payments are read from: a Circles indexer (circlesRpc.ts) or a plain EVM node (evmNode.ts). Both give the same facts in
 * the same order, and one contract test holds them to it.
 */

export type LogPosition = { blockNumber: number; transactionIndex: number; logIndex: number }

/** What Postgres' `integer` can count; no block of this world has more transactions or logs. */
export const MAX_INDEX = 2_147_483_647

/** Behind everything in this block. */
export const endOfBlock = (blockNumber: number): LogPosition => ({
  blockNumber,
  transactionIndex: MAX_INDEX,
  logIndex: MAX_INDEX,
})

export type BlockRef = { number: number; hash: string }

/** One `PaymentReceived` log. Null = the log has none that can be read; it is stored and never credited. */
export type PaymentLog = LogPosition & {
  txHash: string
  /** Only a node knows it. */
  blockHash: string | null
  blockTime: Date | null
  /** The contract whose log it is; null when the source doesn't say. */
  emitter: string | null
  gateway: string
  payer: string | null
  payee: string | null
  tokenId: bigint | null
  amountWei: bigint | null
  paymentReference: string
}

/** A row that names no payment of anybody. It is kept for people to see: it may be value that arrived with a broken reference. */
export type UnreadableLog = LogPosition & {
  reason: 'no_reference' | 'negative_amount' | 'no_transaction' | 'no_gateway'
  txHash: string | null
  gateway: string | null
  payer: string | null
  tokenId: bigint | null
  amountWei: bigint | null
}

/** A page of logs and where to go on. `end` moves past what could not be read, and past blocks without logs, too. */
export type PaymentPage = {
  logs: PaymentLog[]
  unreadable: UnreadableLog[]
  end: LogPosition | undefined
  full: boolean
}

export type TrustLog = LogPosition & { emitter: string | null; trustReceiver: string; expirySeconds: bigint }

export type GatewayLog = LogPosition & { emitter: string | null; gateway: string; owner: string }

/** What the chain knows of a transaction. */
export type MinedTransaction = {
  blockNumber: number
  blockHash: string
  transactionIndex: number
  /** Of its payments. */
  logIndexes: number[]
}

/**
 * Every method throws `PaymentSourceError` when the chain can't be read, or its answer can't be right: an error is never an
 * empty page (payments.md W7, W8).
 */
export type PaymentSource = {
  /** The newest block that the node has and can name the hash of. */
  readHead(): Promise<BlockRef>
  /** Undefined when the node doesn't have it. */
  readBlock(number: number): Promise<BlockRef | undefined>
  /** Logs behind a position (undefined = from the beginning), in chain order; about `limit` of them. `full` = ask again. */
  readPayments(after: LogPosition | undefined, limit: number, head: BlockRef): Promise<PaymentPage>
  /** All trust a gateway ever gave or took, or what came behind a position; only of these emitters when given. In any order. */
  readTrust(gateway: string, only: { emitters?: readonly string[]; after?: LogPosition }): Promise<TrustLog[]>
  /** Who created this gateway, as often as somebody said so. */
  readGateway(gateway: string): Promise<GatewayLog[]>
  /** Undefined when the chain does not have it (any more). */
  readTransaction(txHash: string): Promise<MinedTransaction | undefined>
}

export class PaymentSourceError extends Error {}
