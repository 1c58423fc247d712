import type { ColumnType, Generated } from 'kysely'
import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import type { OrderStatus } from '@market/contracts/statuses'
import type { JsonObject, JsonValue } from '@market/contracts/canonicalJson'
import type { Basket } from '../baskets/basket.ts'
import type { CancelReason, OrderSnapshot } from '../orders/order.ts'
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
  catalog_state: {
    chain_id: Int8
    revision: Generated<Int8>
    kept_from: Generated<Int8>
    purge_mark: Generated<Int8>
    checked_at: Date | null
    checked_block: Int8 | null
  }
  catalog_avatars: {
    chain_id: Int8
    avatar: string
    version: Generated<number>
    registry_digest: string | null
    registry_block: Int8 | null
    indexed_digest: string | null
    indexed_at: Date | null
    fault: CatalogFault | null
    signing_keys: JsonObject | null
    attempts: Generated<number>
    retry_at: Date | null
    requested_at: Date | null
  }
  catalog_namespaces: {
    chain_id: Int8
    avatar: string
    operator: string
    index_cid: string | null
    head_seq: Generated<number>
    complete_seq: Generated<number>
    fault: CatalogFault | null
    tail_fault: CatalogFault | null
    oldest_signed_at: Int8 | null
    newest_signed_at: Int8 | null
    recheck_at: Date | null
    faulty: Generated<boolean>
    changed_revision: Int8
  }
  catalog_chunks: {
    chain_id: Int8
    avatar: string
    operator: string
    chunk_seq: number
    chunk_cid: string
  }
  catalog_links: {
    chain_id: Int8
    avatar: string
    operator: string
    chunk_seq: number
    index_in_chunk: number
    added_revision: Int8
    removed_revision: Int8 | null
    code: string | null
    reason: string | null
    account: 'none' | 'contract' | null
    verdict_at: Date
    verdict_block: Int8 | null
    name: string | null
    sku: string | null
    payload_cid: string | null
    signer: string | null
    signed_at: Int8 | null
    nonce: string | null
    link_keccak: string | null
    signature: string | null
  }
  catalog_payloads: {
    cid: string
    document: JsonValue | null
    refused: string | null
    seen_at: Date
  }
  catalog_products: {
    chain_id: Int8
    operator: string
    seller_address: string
    sku: string
    added_revision: Int8
    removed_revision: Int8 | null
    kind: 'product' | 'tombstone' | 'none'
    faults: ColumnType<CatalogFault[] | null, string | null, string | null>
    retry: Generated<boolean>
    product_cid: string | null
    link_keccak: string | null
    published_at: Int8 | null
    chunk_depth: number | null
    index_in_chunk: number | null
    name: string | null
    category: string | null
    price: Numeric | null
    price_currency: string | null
    words: string | null
  }
  offer_types: {
    offer_type: string
    inventory_url_template: string | null
    availability_url_template: string | null
    fulfillment_url_template: string | null
    enabled: Generated<boolean>
  }
  seller_gateways: {
    chain_id: Int8
    seller_address: string
    gateway_address: string
    created_at: Generated<Date>
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
  one_off_sales: {
    chain_id: Int8
    seller_address: string
    sku: string
    order_id: string
    ordered_at: Generated<Date>
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
    maker_address: string | null
    owned: Generated<boolean>
    token_hash: Buffer | null
    token_required: Generated<boolean>
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
    payment_due_by: Date
    cancelled_at: Generated<Date | null>
    cancel_reason: Generated<CancelReason | null>
    listed: Generated<boolean>
    placed_from: Generated<string | null>
    settle_at_block: Generated<Int8 | null>
    payment_reverted_at: Generated<Date | null>
  }
  order_sellers: {
    order_id: string
    seller_address: string
    chain_id: Int8
    created_at: Date
  }
  stock_levels: {
    chain_id: Int8
    seller_address: string
    sku: string
    slot: number
    reserved: Generated<Int8>
    delivered: Generated<Int8>
  }
  stock_reservations: {
    order_id: string
    chain_id: Int8
    seller_address: string
    sku: string
    slot: number
    quantity: number
    delivered: Generated<boolean>
  }
  idempotency_keys: {
    scope: string
    key: string
    fingerprint: string
    status: number
    answer: JsonObject
    created_at: Generated<Date>
  }
  order_events: {
    event_id: Generated<string>
    order_id: string
    history_id: Int8
    created_at: Generated<Date>
  }
  order_event_audience: {
    side: 'buyer' | 'seller'
    address: string
    chain_id: Int8
    event_id: Int8
  }
  order_events_held: {
    order_id: string
    history_id: Int8
    held_since: Generated<Date>
  }
  issuer_keys: {
    issuer: string
    jwks: JsonObject
    fetched_at: Date
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
    emitter_address: Generated<string | null>
    doubted_at: Generated<Date | null>
    verdict_due: Generated<boolean>
  }
  payment_row_errors: {
    chain_id: Int8
    block_number: Int8
    transaction_index: number
    log_index: number
    tx_hash: string | null
    gateway_address: string | null
    payer_address: string | null
    token_id: string | null
    amount_wei: string | null
    reason: string
    seen_at: Generated<Date>
  }
  payments_checkpoints: {
    chain_id: Int8
    block_number: Int8
    block_hash: string
  }
  payment_gateways: {
    chain_id: Int8
    gateway_address: string
    owner_address: string
    found_at: Generated<Date>
  }
  payments_cursors: {
    chain_id: Int8
    last_block_number: Int8
    last_transaction_index: number
    last_log_index: number
  }
  payments_observed: {
    chain_id: Int8
    observed_at: Date
    head_block: Generated<Int8>
    reorg_at: Generated<Date | null>
    reorg_depth: Generated<number | null>
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
  pins: {
    cid: string
    subject: string
    kind: string
    size: number
    pinned_at: Date
    reached_by: Generated<string[]>
    unreachable_since: Date | null
  }
  pin_quotas: {
    subject: string
    day: Date
    objects: number
    bytes: Int8
  }
}

/** What the indexer could not take, as the catalog's `errors` show it (catalog.md 4.4). */
export type CatalogFault = {
  stage: 'registry' | 'profile' | 'index' | 'chunk' | 'link' | 'verify' | 'payload'
  code: string
  cid: string | null
  message: string
  /** Position in the chunk, of a link's fault. */
  index?: number
}
