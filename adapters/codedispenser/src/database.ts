import type { RunsDatabase } from '@market/adapter-kit/runGate'
import type { Generated } from 'kysely'

/** The driver gives int8 as text; comparisons and writes take either. */
type Int8 = string | number

export type CodesDatabase = RunsDatabase & {
  code_pools: {
    pool_id: string
    created_at: Generated<Date>
    /** Null: nobody is told. */
    low_stock_threshold: number | null
    low_since: Date | null
    first_code_id: Generated<string>
  }
  code_pool_codes: {
    code_id: Generated<string>
    pool_id: string
    /** Of an older release, until the next start seals it. */
    plain: string | null
    sealed: string | null
    fingerprint: Buffer | null
    state: Generated<'available' | 'assigned' | 'void'>
    run_key: string | null
    line_index: number | null
    inserted_at: Generated<Date>
    assigned_at: Date | null
  }
  code_pool_counts: { pool_id: string; slot: number; available: Int8; assigned: Int8; void: Int8 }
  code_mappings: {
    chain_id: Int8
    seller_address: string
    sku: string
    pool_id: string
    download_url_template: string | null
    enabled: Generated<boolean>
    created_at: Generated<Date>
    revoked_at: Date | null
  }
}
