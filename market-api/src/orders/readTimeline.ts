import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { JobStatus } from '../fulfillment/outcome.ts'
import type { Caller } from '../signIn/tokens.ts'
import { OrderNotFoundError } from './errors.ts'
import { findParty } from './readOrder.ts'
import { type RecordedJobEvent, timelineOf } from './timeline.ts'

/** Anybody may send dust with an order's reference; the newest are told. */
const MAX_TRANSFERS = 500
const MAX_JOB_EVENTS = 2000

/** What happened to the order, for its buyer; for a seller, what concerns their own lines. */
export async function readTimeline(ctx: MarketContext, caller: Caller, orderId: string) {
  const party = await findParty(ctx, caller, orderId)
  if (!party) throw new OrderNotFoundError()
  const seller = party === 'seller' ? caller.address : undefined
  const [order, lines, history, transfers, jobEvents] = await Promise.all([
    ctx.db
      .selectFrom('orders as o')
      .select([
        'created_at',
        'price_wei',
        'payment_due_by',
        'confirmed_at',
        'cancelled_at',
        'cancel_reason',
        'payment_reverted_at',
      ])
      .select((of) =>
        of
          .selectFrom('order_lines as l')
          .whereRef('l.order_id', '=', 'o.order_id')
          .select(sql<string>`count(*)`.as('n'))
          .as('lines'),
      )
      .where('order_id', '=', orderId)
      .executeTakeFirstOrThrow(),
    ctx.db
      .selectFrom('order_lines as l')
      .innerJoin('orders as o', 'o.order_id', 'l.order_id')
      .select(['line_index', 'sku', 'quantity'])
      .select(
        sql<string | null>`order_json #>> array['orderedItem', line_index::text, 'orderedItem', 'name']`.as('name'),
      )
      .where('l.order_id', '=', orderId)
      .$if(seller !== undefined, (query) => query.where('seller_address', '=', seller!))
      .orderBy('line_index')
      .execute(),
    ctx.db
      .selectFrom('orders_status_history')
      .select(['old_status as oldStatus', 'new_status as newStatus', 'changed_at as changedAt'])
      .where('order_id', '=', orderId)
      .orderBy('id')
      .execute(),
    ctx.db
      .selectFrom('payment_transfers as t')
      .innerJoin('orders as o', (join) =>
        join.onRef('o.payment_reference', '=', 't.payment_reference').onRef('o.chain_id', '=', 't.chain_id'),
      )
      .select(['tx_hash', 'block_number', 'gateway_address', 'payer_address', 'amount_wei'])
      .select(['eligible', 'ignored_reason', 'observed_at', 'orphaned_at'])
      .where('o.order_id', '=', orderId)
      .orderBy('block_number', 'desc')
      .orderBy('transaction_index', 'desc')
      .orderBy('log_index', 'desc')
      .orderBy('tx_hash')
      .limit(MAX_TRANSFERS)
      .execute(),
    readJobEvents(ctx, orderId, seller),
  ])
  const record = {
    createdAt: order.created_at,
    priceWei: BigInt(order.price_wei),
    paymentDueBy: order.payment_due_by,
    confirmedAt: order.confirmed_at,
    cancelledAt: order.cancelled_at,
    cancelReason: order.cancel_reason,
    paymentRevertedAt: order.payment_reverted_at,
    lines: lines.map(({ line_index, name, sku, quantity }) => ({ lineIndex: line_index, name, sku, quantity })),
    isPart: lines.length < Number(order.lines),
    history,
    transfers: transfers.toReversed().map((transfer) => ({
      txHash: transfer.tx_hash,
      blockNumber: String(transfer.block_number),
      gateway: transfer.gateway_address,
      payer: transfer.payer_address,
      amountWei: transfer.amount_wei === null ? null : BigInt(transfer.amount_wei),
      eligible: transfer.eligible,
      ignoredReason: transfer.ignored_reason,
      observedAt: transfer.observed_at,
      orphanedAt: transfer.orphaned_at,
    })),
    jobEvents,
  }
  return { orderId, events: timelineOf(record, party) }
}

/** Runs of equal events as one: a job that waits for stock writes one a minute. */
async function readJobEvents(
  ctx: MarketContext,
  orderId: string,
  seller: string | undefined,
): Promise<RecordedJobEvent[]> {
  const { rows } = await sql<{
    job_id: string
    seller_address: string
    offer_type: string
    line_indexes: number[]
    kind: string
    status: JobStatus | null
    reason: string | null
    at: Date
    until: Date
    times: number
  }>`
    select j.job_id, j.seller_address, j.offer_type, j.line_indexes, e.kind, e.status, e.reason,
           min(e.at) as at, max(e.at) as until, count(*)::int as times
      from (
        select e.id, e.job_id, e.at, e.kind, e.detail ->> 'status' as status, e.detail ->> 'reason' as reason,
               row_number() over (partition by e.job_id order by e.id)
                 - row_number() over (partition by e.job_id, e.kind, e.detail ->> 'status', e.detail ->> 'reason' order by e.id)
                 as run
          from fulfillment_job_events e
         where e.job_id in (
           select job_id from fulfillment_jobs
            where order_id = ${orderId} and (${seller ?? null}::text is null or seller_address = ${seller ?? null}))
      ) e
      join fulfillment_jobs j using (job_id)
     group by j.job_id, e.kind, e.status, e.reason, e.run
     order by min(e.id) limit ${MAX_JOB_EVENTS}`.execute(ctx.db)
  return rows.map(({ job_id, seller_address, offer_type, line_indexes, ...event }) => ({
    jobId: job_id,
    seller: seller_address,
    offerType: offer_type,
    lineIndexes: line_indexes,
    ...event,
  }))
}
