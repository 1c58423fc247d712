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

/**
 * An adapter is three answers on top of the kit (`findMappings`, `inventory`, `fulfill`); the kit owns routes, service
 * key, run gate and stored replies. `Result` is what it reports of a line: the common members and its own.
 */
export type Adapter<DB extends RunsDatabase, Mapping, Result extends LineResult> = {
  offerType: string
  resultType: string
  defaultPort: number
  /** Units of one sku in one request; more is refused with 400. */
  maxQuantity: number
  migrations: Record<string, Migration>
  /** Enabled mappings of a seller's skus, by sku. Never asked for no sku. */
  findMappings(db: Kysely<DB>, chainId: number, seller: string, skus: string[]): Promise<Map<string, Mapping>>
  inventory(db: Kysely<DB>, mapping: Mapping): Promise<number>
  /**
   * One result a line, with status `ok` or the reason why not. Runs in the transaction that stores the answer: what it
   * delivered and what it said commit together or not at all. A line that was `ok` once is not asked for again.
   */
  fulfill(tx: Transaction<DB>, run: Run, lines: Line<Mapping>[]): Promise<Result[]>
  /**
   * Members of the answer besides the common ones, shown to the buyer as they are; made from every mapped line, those that
   * an earlier run of the key delivered included.
   */
  summarize(lines: Result[]): Record<string, unknown>
}

/** Gives an adapter its types; the value comes back unchanged. */
export function defineAdapter<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  adapter: Adapter<DB, Mapping, Result>,
): Adapter<DB, Mapping, Result> {
  return adapter
}
