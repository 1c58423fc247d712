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
 * second pass, gateways are not judged by the factory they come from, columns are created with their collation.
 */
const STAY_AT_ZERO: { name: string; help: string; label?: string; values?: string[] }[] = [
  { name: 'marketplace_payments_reconciled_total', help: 'Orders settled by a second pass over payments' },
  { name: 'marketplace_fulfillment_reconciled_total', help: 'Orders fulfilled by a second pass over jobs' },
  { name: 'marketplace_fulfillment_reconcile_failed_total', help: 'Second passes over jobs without effect' },
  {
    name: 'marketplace_payments_factory_divergence_total',
    help: 'Payments that judging by factory would decide otherwise',
    label: 'mode',
    values: ['shadow', 'enforced'],
  },
  {
    name: 'marketplace_schema_collation_migration_failures_total',
    help: 'Columns whose collation could not be converted',
    label: 'store',
    values: ['orders', 'payments'],
  },
]

/** The families of market-api.md 1.12 and fulfilment.md 14, with all their labels from the start: alerts see 0, not absence. */
export function createMarketMetrics(db: Kysely<MarketDatabase>) {
  const metrics = createMetrics('market-api')
  const fulfillments = metrics.counter('marketplace_fulfillment_total', 'Adapter calls by outcome', ['outcome'])
  fulfillments.inc({ outcome: 'succeeded' }, 0)
  fulfillments.inc({ outcome: 'failed' }, 0)
  metrics.gauge('marketplace_fulfillment_jobs', 'Jobs that are not done, by status', ['status'], async (gauge) => {
    const rows = await db
      .selectFrom('fulfillment_jobs')
      .select(['status', sql<string>`count(*)`.as('n')])
      .where('status', '<>', 'done')
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
      .where('j.status', '<>', 'done')
      .where('o.finalized_at', '<', sql<Date>`now() - make_interval(mins => ${GRACE_MINUTES})`)
      .executeTakeFirst()
      .catch(() => undefined)
    if (row) gauge.set(Number(row.n))
  })
  for (const { name, help, label = '', values = [] } of STAY_AT_ZERO) {
    const counter = metrics.counter(name, help, values.length ? [label] : [])
    for (const value of values) counter.inc({ [label]: value }, 0)
  }
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
    queryFailures: metrics.counter(
      'marketplace_payments_query_failures_total',
      'Failed reads of payments from the chain',
    ),
    trustFailures: metrics.counter(
      'marketplace_gateway_trust_fetch_failures_total',
      "Failed reads of a gateway's trust",
    ),
    fulfillments,
    sseStreams,
    sseDropped: metrics.counter('marketplace_sse_dropped_total', 'Event streams cut because their client read too slowly'),
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
