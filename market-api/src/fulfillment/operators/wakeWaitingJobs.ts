import { inTransaction } from '@market/kit/db'
import { sql } from 'kysely'
import { JOBS_CHANNEL } from '../insertJobs.ts'
import type { Db } from './jobRecords.ts'

/**
 * Makes jobs due now that wait for stock, and wakes a worker: somebody has restocked. Gives how many. One that is in a worker's hands
 * this moment is not among them: it may have asked before there was stock, and asks again within a minute by itself.
 *
 * @param of.keys only jobs with a line of one of these; sellers and skus in lower case
 */
export async function wakeWaitingJobs(
  db: Db,
  of: { offerType: string; keys?: readonly { chainId: number; seller: string; sku: string }[] },
): Promise<number> {
  const { offerType, keys } = of
  if (keys?.length === 0) return 0
  const wanted =
    keys === undefined
      ? sql`true`
      : sql`exists (
          select from order_lines l
            join unnest(${keys.map(({ chainId }) => chainId)}::bigint[], ${keys.map(({ seller }) => seller)}::text[],
              ${keys.map(({ sku }) => sku)}::text[]) as k (chain_id, seller_address, sku)
              on k.seller_address = l.seller_address and k.sku = lower(l.sku)
           where l.order_id = j.order_id and l.line_index = any(j.line_indexes) and k.chain_id = j.chain_id)`
  return inTransaction(db, async (tx) => {
    const { numAffectedRows } = await sql`
      with waiting as (
        select job_id from fulfillment_jobs j
         where (status = 'partial' or (status = 'needs_attention' and reason in ('depleted', 'insufficientStock')))
           and offer_type = ${offerType} and next_attempt_at > now() and ${wanted}
         order by job_id for update of j
      )
      update fulfillment_jobs j set next_attempt_at = now() from waiting where j.job_id = waiting.job_id`.execute(tx)
    const woken = Number(numAffectedRows ?? 0)
    if (woken > 0) await sql`select pg_notify(${JOBS_CHANNEL}, '')`.execute(tx)
    return woken
  })
}
