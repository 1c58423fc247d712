import { createMetrics } from '@market/kit/metrics'
import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import type { MarketDatabase } from './db/types.ts'
import type { JobStatus } from './fulfillment/outcome.ts'

export type MarketMetrics = ReturnType<typeof createMarketMetrics>

const OPEN: JobStatus[] = ['pending', 'running', 'partial', 'rejected', 'failed', 'needs_attention']

/** The families of payments.md 16 and fulfilment.md 14, all present from the start so that alerts see 0, not absence. */
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
  return {
    ...metrics,
    ordersCreated: metrics.counter('marketplace_orders_created_total', 'Successful checkouts'),
    ordersFinalized: metrics.counter('marketplace_orders_finalized_total', 'Orders whose payment became final'),
    paidCrc: metrics.counter('marketplace_payment_amount_crc_total', 'CRC credited to orders when they became final'),
    ineligibleTransfers: metrics.counter(
      'marketplace_payments_ineligible_token_total',
      'Transfers not credited: the gateway does not trust the token',
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
  }
}
