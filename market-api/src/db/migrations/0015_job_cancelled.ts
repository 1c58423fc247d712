import { type Kysely, sql } from 'kysely'

/** A person may decide that a delivery will not be made; such a job is at its end, as one that is done. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table fulfillment_jobs
      drop constraint fulfillment_jobs_status_check,
      add constraint fulfillment_jobs_status_check check (status in
        ('pending', 'running', 'done', 'partial', 'rejected', 'failed', 'needs_attention', 'cancelled'))`.execute(db)
}
