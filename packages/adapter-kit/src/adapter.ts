import type { FulfillmentRequest, LineResult } from '@market/contracts/fulfillment'
import type { Log } from '@market/kit/log'
import type { Loop } from '@market/kit/loop'
import type { Metrics } from '@market/kit/metrics'
import type { Hono } from 'hono'
import type { Kysely, Migration, Transaction } from 'kysely'
import type * as z from 'zod'
import type { RunsDatabase } from './runGate.ts'
import type { SecretBox } from './secrets.ts'
import type { Steps } from './steps.ts'

/** One thing to deliver: a line of the order that this adapter has a mapping for. */
export type Line<Mapping> = { lineIndex: number; sku: string; quantity: number; mapping: Mapping }

export type Run = {
  /** The market's idempotency key, or one made of chain, seller and payment reference for older callers. */
  key: string
  chainId: number
  seller: string
  orderId: string
  paymentReference: string
  /** As it was sent: of the buyer it says only what the offers of its lines ask for. */
  request: FulfillmentRequest
}

/** What the kit opens for an adapter when it starts. */
export type Services<DB extends RunsDatabase, Config> = {
  db: Kysely<DB>
  secrets: SecretBox
  /** A keyed digest: equal secrets are found by it without being readable. */
  fingerprint: (text: string) => Buffer
  log: Log
  metrics: Metrics
  /** The adapter's own variables, parsed. */
  config: Config
}

/**
 * An adapter is three answers on top of the kit (`findMappings`, `inventory`, and one way to fulfil); the kit owns configuration,
 * routes, service key, run gate and stored replies. `Result` is what it reports of a line: the common members and its own.
 */
export type Adapter<DB extends RunsDatabase, Mapping, Result extends LineResult, Variables extends z.ZodRawShape> = {
  offerType: string
  resultType: string
  defaultPort: number
  /** Name and default of the variable that holds the admin listener's port. */
  adminPort: { variable: string; default: number }
  /** Units of one sku in one request; more is refused with 400. */
  maxQuantity: number
  /** Environment variables of its own. */
  variables: Variables
  migrations: Record<string, Migration>
  /** After the migrations and before the first request; a failure stops the start. */
  open(services: Services<DB, z.infer<z.ZodObject<Variables>>>): Promise<Delivery<DB, Mapping, Result>>
}

export type Delivery<DB extends RunsDatabase, Mapping, Result extends LineResult> = {
  /** Enabled mappings of a seller's skus, by sku. Never asked for no sku. */
  findMappings(db: Kysely<DB>, chainId: number, seller: string, skus: string[]): Promise<Map<string, Mapping>>
  inventory(db: Kysely<DB>, mapping: Mapping): Promise<number>
  /**
   * Members of the answer besides the common ones, shown to the buyer as they are; made from every mapped line, those that
   * an earlier run of the key delivered included.
   */
  summarize(lines: Result[]): Record<string, unknown>
  /** Routes below `/admin` on the admin listener, for those whom the kit lets in. */
  admin?: Hono
  /** Background work; the kit stops it on shutdown. */
  loops?: Loop[]
} & (InDatabase<DB, Mapping, Result> | BySteps<Mapping, Result>)

/** For what is delivered out of the adapter's own database. */
type InDatabase<DB extends RunsDatabase, Mapping, Result> = {
  /**
   * One result a line, with status `ok` or the reason why not. Runs in the transaction that stores the answer: what it
   * delivered and what it said commit together or not at all. A line that was `ok` once is not asked for again.
   */
  fulfill(tx: Transaction<DB>, run: Run, lines: Line<Mapping>[]): Promise<Result[]>
  /**
   * The same for runs that came at one moment, in one transaction: their results in the order of the runs. With it many callers
   * at once cost little more than one. When it throws, each run is tried by itself.
   */
  fulfillTogether?(tx: Transaction<DB>, runs: { run: Run; lines: Line<Mapping>[] }[]): Promise<Result[][]>
}

/** For what happens elsewhere, where no transaction reaches. */
type BySteps<Mapping, Result> = {
  /** As `fulfill`, in named steps: one that ended is not taken again, one that was cut off is, and has to look before it acts. */
  fulfillBySteps(steps: Steps, run: Run, lines: Line<Mapping>[]): Promise<Result[]>
}

/** Gives an adapter its types; the value comes back unchanged. */
export function defineAdapter<
  DB extends RunsDatabase,
  Mapping,
  Result extends LineResult,
  Variables extends z.ZodRawShape,
>(adapter: Adapter<DB, Mapping, Result, Variables>): Adapter<DB, Mapping, Result, Variables> {
  return adapter
}
