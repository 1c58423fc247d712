import { inTransaction } from '@market/kit/db'
import type { Kysely } from 'kysely'
import { openEmbeddedIpfs } from './catalog/ipfs/embedded.ts'
import type { Ipfs } from './catalog/ipfs/ipfs.ts'
import { connectKubo } from './catalog/ipfs/kubo.ts'
import type { LinkSignatures } from './catalog/linkSignatures.ts'
import type { Config } from './config.ts'
import type { MarketDatabase } from './db/types.ts'

export { type Ipfs, IpfsMismatchError, IpfsTooLargeError, IpfsUnavailableError } from './catalog/ipfs/ipfs.ts'
export type { LinkSignatures } from './catalog/linkSignatures.ts'
export type { MarketDatabase } from './db/types.ts'
export { cancelJob } from './fulfillment/operators/cancelJob.ts'
export {
  type Changed,
  JOB_STATUSES,
  JobNotKnownError,
  JobRefusedError,
  type ListedJob,
} from './fulfillment/operators/jobRecords.ts'
export { type JobCount, type JobFilter, listJobs } from './fulfillment/operators/listJobs.ts'
export { resolveJob } from './fulfillment/operators/resolveJob.ts'
export { retryJob } from './fulfillment/operators/retryJob.ts'
export {
  type JobEvent,
  type OrderStanding,
  showDelivery,
  type ShownDelivery,
  showJob,
  type ShownJob,
  type ShownLine,
} from './fulfillment/operators/showJob.ts'
export { wakeWaitingJobs } from './fulfillment/operators/wakeWaitingJobs.ts'
export {
  type DepthSum,
  type ExplainedJob,
  type ExplainedOrder,
  type Explanation,
  explainPayment,
} from './payments/operators/explainPayment.ts'
export {
  type ListedOrder,
  listPaymentOrders,
  PAYMENT_STATES,
  type PaymentState,
} from './payments/operators/listPaymentOrders.ts'
export { listUnmatched, type Unmatched } from './payments/operators/listUnmatched.ts'
export {
  type ChainStatus,
  ORPHANS_WITHIN_BLOCKS,
  type PaymentsStatus,
  readPaymentsStatus,
  type Tally,
} from './payments/operators/readPaymentsStatus.ts'
export {
  type ExplainedTransfer,
  listPaymentChains,
  NotKnownError,
  type RowError,
} from './payments/operators/records.ts'
export { type Replay, ReplayRefusedError, replayPayments } from './payments/operators/replayPayments.ts'
export { type Erasure, eraseAddress } from './privacy/eraseAddress.ts'
export { generateSigningKey } from './signIn/tokens.ts'

export type RouteInput = { chainId: number; seller: string; sku: string; offerType: string }

export class UnknownOfferTypeError extends Error {}

/** Makes (chain, seller, sku) deliverable by an offer type, enabling the route again if it was off. */
export async function upsertRoute(
  db: Kysely<MarketDatabase>,
  { chainId, seller, sku, offerType }: RouteInput,
): Promise<'created' | 'updated' | 'unchanged'> {
  return inTransaction(db, async (tx) => {
    const known = await tx
      .selectFrom('offer_types')
      .select('offer_type')
      .where('offer_type', '=', offerType)
      .executeTakeFirst()
    if (!known) throw new UnknownOfferTypeError(`unknown offerType ${offerType}`)
    const key = { chain_id: chainId, seller_address: seller, sku }
    const inserted = await tx
      .insertInto('market_service_routes')
      .values({ ...key, offer_type: offerType, total_inventory: null })
      .onConflict((conflict) => conflict.doNothing())
      .returning('sku')
      .executeTakeFirst()
    if (inserted) return 'created'
    const updated = await tx
      .updateTable('market_service_routes')
      .set({ offer_type: offerType, is_one_off: false, enabled: true })
      .where('chain_id', '=', chainId)
      .where('seller_address', '=', seller)
      .where('sku', '=', sku)
      .where((is) =>
        is.or([
          is('offer_type', 'is distinct from', offerType),
          is('is_one_off', '=', true),
          is('enabled', '=', false),
        ]),
      )
      .returning('sku')
      .executeTakeFirst()
    return updated ? 'updated' : 'unchanged'
  })
}

/** Puts a gateway on record as the seller's, so that the market tells buyers to pay there. */
export async function upsertGateway(
  db: Kysely<MarketDatabase>,
  { chainId, seller, gateway }: { chainId: number; seller: string; gateway: string },
): Promise<'created' | 'unchanged'> {
  const inserted = await db
    .insertInto('seller_gateways')
    .values({ chain_id: chainId, seller_address: seller, gateway_address: gateway })
    .onConflict((conflict) => conflict.doNothing())
    .returning('seller_address')
    .executeTakeFirst()
  return inserted ? 'created' : 'unchanged'
}

/** Takes a gateway off the record again. */
export async function removeGateway(
  db: Kysely<MarketDatabase>,
  { chainId, seller, gateway }: { chainId: number; seller: string; gateway: string },
): Promise<'removed' | 'unchanged'> {
  const removed = await db
    .deleteFrom('seller_gateways')
    .where('chain_id', '=', chainId)
    .where('seller_address', '=', seller)
    .where('gateway_address', '=', gateway)
    .returning('seller_address')
    .executeTakeFirst()
  return removed ? 'removed' : 'unchanged'
}

/** The IPFS the configuration names: Kubo's RPC when set, else the embedded store. */
export async function openIpfs(
  config: Pick<Config, 'IPFS_RPC_URL' | 'IPFS_RPC_BEARER' | 'IPFS_STORE_DIR' | 'IPFS_TIMEOUT_MS'>,
): Promise<Ipfs> {
  if (config.IPFS_RPC_URL === undefined) return openEmbeddedIpfs(config.IPFS_STORE_DIR)
  return connectKubo(config.IPFS_RPC_URL, {
    bearer: config.IPFS_RPC_BEARER?.reveal(),
    timeoutMs: config.IPFS_TIMEOUT_MS,
  })
}

/** Who signed a link, as the catalog decides it. Loaded when it is asked for: no other command needs WebAssembly. */
export async function openLinkSignatures(options: {
  rpcUrl: string
  chainId: number
  timeoutMs: number
}): Promise<LinkSignatures> {
  const { connectLinkSignatures } = await import('./catalog/linkSignatures.ts')
  return connectLinkSignatures(options)
}
