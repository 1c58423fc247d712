import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import { sql, type Transaction } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import { findRoutes, routeKey } from '../serviceRoutes/resolveRoute.ts'
import { type JobLine, offerTypeOf, planJobs } from './planJobs.ts'

/** Postgres channel on which workers are told that a job is due. */
export const JOBS_CHANNEL = 'fulfillment_jobs'

/** The jobs that `trigger` makes due for an order, in the transaction that moved the order. Repeating it adds nothing. */
export async function insertJobs(
  ctx: MarketContext,
  tx: Transaction<MarketDatabase>,
  orderId: string,
  trigger: FulfillmentTrigger,
): Promise<void> {
  const lines = await tx
    .selectFrom('order_lines as l')
    .innerJoin('orders as o', 'o.order_id', 'l.order_id')
    .select(['l.line_index', 'l.seller_address', 'l.sku', 'o.chain_id'])
    .select(
      sql<boolean>`o.order_json #>> array['acceptedOffer', l.line_index::text, 'isOneOff'] is not distinct from 'true'`.as(
        'is_one_off',
      ),
    )
    .where('l.order_id', '=', orderId)
    .where('l.fulfillment_trigger', '=', trigger)
    .orderBy('l.line_index')
    .execute()
  if (lines.length === 0) return
  const chainId = Number(lines[0]!.chain_id)
  const keys = lines.map((line) => ({ seller: line.seller_address, sku: line.sku }))
  const routes = await findRoutes(ctx, chainId, keys, tx)
  const jobs = planJobs(
    lines.map((line): JobLine => {
      const route = routes.get(routeKey(line.seller_address, line.sku))
      const offerType = offerTypeOf(route, line.is_one_off)
      return { lineIndex: line.line_index, seller: line.seller_address, offerType }
    }),
  )
  const inserted = await tx
    .insertInto('fulfillment_jobs')
    .values(
      jobs.map((job) => ({
        order_id: orderId,
        chain_id: chainId,
        seller_address: job.seller,
        offer_type: job.offerType,
        trigger,
        line_indexes: job.lineIndexes,
        idempotency_key: `${orderId}:${chainId}:${job.seller}:${job.offerType}:${trigger}`,
        status: job.waitsFor === null ? ('pending' as const) : ('needs_attention' as const),
        reason: job.waitsFor,
        next_attempt_at: job.waitsFor === null ? sql<Date>`now()` : null,
        locked_until: null,
        locked_by: null,
        last_http_status: null,
        last_error: null,
        result: null,
        completed_at: null,
      })),
    )
    .onConflict((conflict) => conflict.doNothing())
    .returning(['job_id', 'status', 'reason'])
    .execute()
  if (inserted.length === 0) return
  await tx
    .insertInto('fulfillment_job_events')
    .values(inserted.map(({ job_id, status, reason }) => ({ job_id, kind: 'created', detail: { status, reason } })))
    .execute()
  await sql`select pg_notify(${JOBS_CHANNEL}, ${orderId})`.execute(tx)
}
