import type { LineResult } from '@market/contracts/fulfillment'
import type { Kysely, Migration, Transaction } from 'kysely'
import type { RunsDatabase } from './runGate.ts'

/** One thing to deliver: a line of the order that this adapter has a mapping for. */
export type Line<Mapping> = { lineIndex: number; sku: string; quantity: number; mapping: Mapping }

export type Run = {
  /** The market's idempotency key, or one made of chain, seller and payment reference for older callers. */
  key: string
  chainId: number
  seller: string
  orderId: string
  paymentReference: string
}

export type Delivery = {
  /** One entry a line, with status `ok` or the reason why not. */
  lines: LineResult[]
  /** Members of the answer besides the common ones, shown to the buyer as they are. */
  body: Record<string, unknown>
}

/**
 * An adapter is three answers on top of the kit, which owns routes, service key, run gate and stored replies.
 * `fulfill` runs in the transaction that stores its answer: what it delivered and what it said commit together or not at all.
 * It must take up where an earlier partial run of the same key left off.
 */
export type Adapter<DB extends RunsDatabase, Mapping> = {
  offerType: string
  resultType: string
  defaultPort: number
  /** Units of one sku in one request; more is refused with 400. */
  maxQuantity: number
  migrations: Record<string, Migration>
  /** Enabled mappings of a seller's skus, by sku. */
  findMappings(db: Kysely<DB>, chainId: number, seller: string, skus: string[]): Promise<Map<string, Mapping>>
  inventory(db: Kysely<DB>, mapping: Mapping): Promise<number>
  fulfill(tx: Transaction<DB>, run: Run, lines: Line<Mapping>[]): Promise<Delivery>
}

/** Gives an adapter its types; the value comes back unchanged. */
export function defineAdapter<DB extends RunsDatabase, Mapping>(adapter: Adapter<DB, Mapping>): Adapter<DB, Mapping> {
  return adapter
}
