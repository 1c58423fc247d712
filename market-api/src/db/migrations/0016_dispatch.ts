import { type Kysely, sql } from 'kysely'

/** Dispatch costs the same however much is due and however many jobs wait. */
export async function up(db: Kysely<unknown>): Promise<void> {
  // The first of what is due, in order of the index and no further. When nearly all rows are done, as is usual, the planner expects few
  // due ones and would read and sort them all, each time, on the day when they are a hundred thousand.
  await sql`
    create function due_jobs(_full_adapters text[], _full_lanes text[], _count integer)
      returns table (job_id uuid, next_attempt_at timestamptz, offer_type text, lane text)
      language plpgsql stable rows 16 set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
      set enable_sort = off as $$
    begin
      return query
        select j.job_id, j.next_attempt_at, j.offer_type, j.seller_address || ' ' || j.offer_type from fulfillment_jobs j
        where j.next_attempt_at <= now() and j.offer_type <> all(_full_adapters)
          and j.seller_address || ' ' || j.offer_type <> all(_full_lanes)
        order by j.next_attempt_at limit _count;
    end $$`.execute(db)

  // Of many orders in one go. An order's jobs are found by the order: the expressions keep the index of all open jobs out of it.
  await sql`drop function tell_completion(text)`.execute(db)
  await sql`
    create function tell_completions(of_orders text[]) returns void language plpgsql as $$
    declare told_orders text[]; told_histories bigint[];
    begin
      -- The order's row: else the last outcome and the completion, at once, would each not see the other and both keep silent.
      perform 1 from orders where order_id = any(of_orders) order by order_id for key share;
      -- The lock has two workers that finish the last two jobs at once look one after the other.
      perform 1 from order_events_held where order_id = any(of_orders) order by order_id for update;
      with told as (
        delete from order_events_held h where order_id = any(of_orders) and not exists (
          select 1 from fulfillment_jobs j where j.order_id = h.order_id
            and (j.status || '' = 'running' or (j.status || '' = 'pending' and j.attempts = 0)))
        returning order_id, history_id
      )
      select array_agg(order_id order by history_id), array_agg(history_id order by history_id)
        into told_orders, told_histories from told;
      if told_orders is not null then perform emit_order_events(told_orders, told_histories); end if;
    end $$`.execute(db)
}
