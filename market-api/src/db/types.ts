import type { ColumnType, Generated } from 'kysely'
import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import type { OrderStatus } from '@market/contracts/statuses'
import type { JsonObject } from '@market/contracts/canonicalJson'
import type { Basket } from '../baskets/basket.ts'
import type { OrderSnapshot } from '../orders/order.ts'
import type { JobStatus } from '../fulfillment/outcome.ts'

/** The driver gives int8 and numeric as text; comparisons and writes take either. */
type Int8 = string | number
type Numeric = string

/** The market's tables as migrated; `schema.db.test.ts` holds these names against the real ones. */
export type MarketDatabase = {
  auth_challenges: {
    challenge_id: string
    address: string
    chain_id: Int8
    domain: string
    message: string
    issued_at: Date
    expires_at: Date
    used_at: Date | null
  }
  catalog_avatars: {
    chain_id: Int8
    avatar: string
    registry_digest: string | null
    indexed_digest: string | null
    indexed_at: Date | null
    fault: CatalogFault | null
  }
  catalog_namespaces: {
    chain_id: Int8
    operator: string
    avatar: string
    faults: ColumnType<CatalogFault[], string, string>
    dropped: ColumnType<{ code: string; name: string }[], string, string>
  }
  catalog_products: {
    chain_id: Int8
    operator: string
    seller_address: string
    sku: string
    product_cid: string
    link_keccak: string
    published_at: Int8
    chunk_depth: number
    index_in_chunk: number
    product: JsonObject
  }
  offer_types: {
    offer_type: string
    inventory_url_template: string | null
    availability_url_template: string | null
    fulfillment_url_template: string | null
    enabled: Generated<boolean>
  }
  market_service_routes: {
    chain_id: Int8
    seller_address: string
    sku: string
    offer_type: string | null
    is_one_off: Generated<boolean>
    total_inventory: Int8 | null
    enabled: Generated<boolean>
  }
  baskets: {
    basket_id: string
    basket_json: Basket
    status: Generated<'Draft' | 'CheckedOut'>
    version: Generated<Int8>
    order_id: string | null
    created_at: Generated<Date>
    modified_at: Generated<Date>
    expires_at: Date
  }
  orders: {
    order_id: string
    basket_id: string
    chain_id: Int8
    buyer_address: string
    order_json: OrderSnapshot
    status: OrderStatus
    created_at: Generated<Date>
    payment_reference: string
    price_wei: Numeric
    expected_gateways: string[]
    payment_seen_at: Date | null
    paid_at: Date | null
    paid_amount_wei: Generated<Numeric>
    paid_tx_hash: string | null
    paid_log_index: number | null
    confirmed_at: Date | null
    finalized_at: Date | null
  }
  order_lines: {
    order_id: string
    line_index: number
    seller_address: string
    sku: string
    quantity: number
    fulfillment_trigger: FulfillmentTrigger
    link_keccak: string
  }
  orders_status_history: {
    id: Generated<string>
    order_id: string
    old_status: string | null
    new_status: string
    changed_at: Generated<Date>
  }
  payment_transfers: {
    chain_id: Int8
    tx_hash: string
    log_index: number
    block_number: Int8
    transaction_index: number
    block_hash: string | null
    block_time: Date | null
    payment_reference: string
    gateway_address: string
    payer_address: string | null
    payee_address: string | null
    token_id: Numeric | null
    token_avatar: string | null
    amount_wei: Numeric | null
    eligible: boolean | null
    ignored_reason: string | null
    observed_at: Generated<Date>
    orphaned_at: Date | null
  }
  payments_cursors: {
    chain_id: Int8
    last_block_number: Int8
    last_transaction_index: number
    last_log_index: number
  }
  fulfillment_jobs: {
    job_id: Generated<string>
    order_id: string
    chain_id: Int8
    seller_address: string
    offer_type: string
    trigger: FulfillmentTrigger
    line_indexes: number[]
    idempotency_key: string
    status: JobStatus
    reason: string | null
    attempts: Generated<number>
    next_attempt_at: Generated<Date | null>
    locked_until: Date | null
    locked_by: string | null
    last_http_status: number | null
    last_error: string | null
    result: Record<string, unknown> | null
    created_at: Generated<Date>
    updated_at: Generated<Date>
    completed_at: Date | null
  }
  fulfillment_job_events: {
    id: Generated<string>
    job_id: string
    at: Generated<Date>
    kind: string
    detail: Record<string, unknown> | null
  }
  order_outbox: {
    id: Generated<string>
    order_id: string
    job_id: string
    source: string
    payload: Record<string, unknown>
    created_at: Generated<Date>
  }
}

/** What the indexer could not take, as the catalog's `errors` show it (catalog.md 4.4). */
export type CatalogFault = { stage: string; code: string; cid: string | null; message: string }
