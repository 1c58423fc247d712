import { createMetrics } from '@market/kit/metrics'
import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import type { MarketDatabase } from './db/types.ts'
import type { JobStatus } from './fulfillment/outcome.ts'

export type MarketMetrics = ReturnType<typeof createMarketMetrics>

/** How long a complete order may wait for its goods before it counts as stranded (fulfilment.md 11). */
const GRACE_MINUTES = 15

const OPEN: JobStatus[] = ['pending', 'running', 'partial', 'rejected', 'failed', 'needs_attention']

/**
 * Families of the contract that nothing here can count, kept so that alerts on them go on working: payments and jobs need no
 * second pass, columns are created with their collation.
 */
const STAY_AT_ZERO: { name: string; help: string; label?: string; values?: string[] }[] = [
  { name: 'marketplace_payments_reconciled_total', help: 'Orders settled by a second pass over payments' },
  { name: 'marketplace_fulfillment_reconciled_total', help: 'Orders fulfilled by a second pass over jobs' },
  { name: 'marketplace_fulfillment_reconcile_failed_total', help: 'Second passes over jobs without effect' },
  {
    name: 'marketplace_schema_collation_migration_failures_total',
    help: 'Columns whose collation could not be converted',
    label: 'store',
    values: ['orders', 'payments'],
  },
]

/** The families of market-api.md 1.12 and fulfilment.md 14, with all their labels from the start: alerts see 0, not absence. */
export function createMarketMetrics(db: Kysely<MarketDatabase>, chainId: number) {
  const metrics = createMetrics('market-api')
  const fulfillments = metrics.counter('marketplace_fulfillment_total', 'Adapter calls by outcome', ['outcome'])
  fulfillments.inc({ outcome: 'succeeded' }, 0)
  fulfillments.inc({ outcome: 'failed' }, 0)
  metrics.gauge('marketplace_fulfillment_jobs', 'Jobs that are not done, by status', ['status'], async (gauge) => {
    const rows = await db
      .selectFrom('fulfillment_jobs')
      .select(['status', sql<string>`count(*)`.as('n')])
      .where('status', 'not in', ['done', 'cancelled'])
      .groupBy('status')
      .execute()
      .catch(() => undefined)
    // Without the database the last numbers stay; the other metrics are what the person on call needs then.
    if (!rows) return
    for (const status of OPEN) gauge.set({ status }, Number(rows.find((row) => row.status === status)?.n ?? 0))
  })
  const stranded = 'Complete orders that still wait for goods'
  metrics.gauge('marketplace_fulfillment_stranded', stranded, [], async (gauge) => {
    const row = await db
      .selectFrom('fulfillment_jobs as j')
      .innerJoin('orders as o', 'o.order_id', 'j.order_id')
      .select(sql<string>`count(distinct j.order_id)`.as('n'))
      .where('j.status', 'not in', ['done', 'cancelled'])
      .where('o.finalized_at', '<', sql<Date>`now() - make_interval(mins => ${GRACE_MINUTES})`)
      .executeTakeFirst()
      .catch(() => undefined)
    if (row) gauge.set(Number(row.n))
  })
  for (const { name, help, label = '', values = [] } of STAY_AT_ZERO) {
    const counter = metrics.counter(name, help, values.length ? [label] : [])
    for (const value of values) counter.inc({ [label]: value }, 0)
  }
  addPaymentGauges(metrics, db, chainId)
  const factoryDivergence = metrics.counter(
    'marketplace_payments_factory_divergence_total',
    'Transfers about whose token others than the factory say something else',
    ['mode'],
  )
  for (const mode of ['shadow', 'enforced']) factoryDivergence.inc({ mode }, 0)
  const sseStreams = metrics.gauge('marketplace_sse_streams', 'Open event streams', ['side'])
  for (const side of ['buyer', 'seller']) sseStreams.set({ side }, 0)
  return {
    ...metrics,
    ordersCreated: metrics.counter('marketplace_orders_created_total', 'Successful checkouts'),
    /** Observed by the checkout. */
    orderValueCrc: metrics.histogram(
      'marketplace_order_value_crc',
      'Totals of orders at checkout',
      Array.from({ length: 15 }, (_, i) => 2 ** i),
    ),
    ordersFinalized: metrics.counter('marketplace_orders_finalized_total', 'Orders whose payment became final'),
    paidCrc: metrics.counter('marketplace_payment_amount_crc_total', 'CRC credited to orders when they became final'),
    ineligibleTransfers: metrics.counter(
      'marketplace_payments_ineligible_token_total',
      'Transfers not credited: the gateway does not trust the token',
    ),
    /** Counted by the payment poll. */
    undeterminedTransfers: metrics.counter(
      'marketplace_payments_undetermined_token_total',
      'Transfers whose token the gateway was not yet known to trust or not',
    ),
    /** Set by the leader; on the others it stays at what it was. */
    headBlock: metrics.gauge('marketplace_payments_head_block', 'Head of the chain, as the node last said'),
    lagBlocks: metrics.gauge('marketplace_payments_lag_blocks', 'Blocks between the head and what is read'),
    isLeader: metrics.gauge('marketplace_payments_leader', '1 on the replica that reads payments'),
    queryFailures: metrics.counter(
      'marketplace_payments_query_failures_total',
      'Failed reads of payments from the chain',
    ),
    factoryDivergence,
    unmatchedTransfers: metrics.counter(
      'marketplace_payments_unmatched_total',
      'Transfers whose reference no order has',
    ),
    overpaidOrders: metrics.counter('marketplace_payments_overpaid_total', 'Transfers that brought more than was due'),
    latePayments: metrics.counter('marketplace_payments_late_total', 'Transfers for orders that were cancelled before'),
    rowErrors: metrics.counter(
      'marketplace_payments_row_errors_total',
      'Transfers that could not be read or stored, kept for a person',
    ),
    reorgs: metrics.counter('marketplace_payments_reorgs_total', 'Times the chain took back blocks that were read'),
    orphanedTransfers: metrics.counter(
      'marketplace_payments_orphaned_total',
      'Transfers that a reorg took from the chain',
    ),
    trustFailures: metrics.counter(
      'marketplace_gateway_trust_fetch_failures_total',
      "Failed reads of a gateway's trust",
    ),
    fulfillments,
    /** Set by the replica that reconciles; on the others it stays at what it was. */
    linesWithoutJob: metrics.gauge(
      'marketplace_fulfillment_lines_without_job',
      'Paid lines that no job delivers; there must be none',
    ),
    openCircuits: metrics.gauge(
      'marketplace_fulfillment_circuit_open',
      'Sellers whose adapter this replica leaves alone for a while because it does not answer',
      ['offer_type'],
    ),
    sseStreams,
    sseDropped: metrics.counter(
      'marketplace_sse_dropped_total',
      'Event streams cut because their client read too slowly',
    ),
    /** Observed once an event that somebody of this process hears. */
    sseLag: metrics.histogram(
      'marketplace_sse_lag_seconds',
      'Seconds from the change of an order to the sending of its event',
      [0.01, 0.05, 0.1, 0.5, 1, 2, 5, 30],
    ),
    catalogDropped: metrics.counter(
      'marketplace_catalog_links_dropped_total',
      'Links that an indexing pass found and dropped, by code of catalog.md 2.8',
      ['code'],
    ),
  }
}

/** How far payments are read, by what the leader has stored, so that every replica says the same. */
function addPaymentGauges(metrics: ReturnType<typeof createMetrics>, db: Kysely<MarketDatabase>, chainId: number) {
  const read = () =>
    db
      .selectFrom('payments_observed')
      .select(['head_block', 'observed_at'])
      .where('chain_id', '=', chainId)
      .executeTakeFirst()
      .catch(() => undefined)
  const seconds = 'Seconds since everything the chain had was read; since the start of the process, if it never was'
  const startedAt = Date.now()
  metrics.gauge('marketplace_payments_lag_seconds', seconds, [], async (gauge) => {
    gauge.set((Date.now() - ((await read())?.observed_at.getTime() ?? startedAt)) / 1000)
  })
  metrics.gauge('marketplace_payments_observed_block', 'Head up to which payments are read', [], async (gauge) => {
    const row = await read()
    if (row) gauge.set(Number(row.head_block))
  })
  const reverted = 'Orders whose payment a reorg took back after delivery began'
  metrics.gauge('marketplace_payments_reverted_orders', reverted, [], async (gauge) => {
    const row = await db
      .selectFrom('orders')
      .select(sql<string>`count(*)`.as('n'))
      .where('payment_reverted_at', 'is not', null)
      .where('chain_id', '=', chainId)
      .executeTakeFirst()
      .catch(() => undefined)
    if (row) gauge.set(Number(row.n))
  })
}
