import { sql, type Transaction } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import { keyOf } from './paymentMemory.ts'
import type { BlockRef, PaymentLog, UnreadableLog } from './paymentSource.ts'
import { avatarOfToken } from './trust.ts'
import { judge, readTrust } from './trustOf.ts'

/** A log with what is known about it before it is stored: whose it is, and whether it can count. */
export type JudgedLog = PaymentLog & {
  orderId: string | null
  ignoredReason: string | null
  /** Null: could not be decided yet. */
  eligible: boolean | null
}

/** Finds the orders of these logs and judges those that may count. Reads the database and the chain, writes nothing. */
export async function judgeLogs(ctx: MarketContext, logs: PaymentLog[], head: BlockRef): Promise<JudgedLog[]> {
  if (logs.length === 0) return []
  const references = [...new Set(logs.map(({ paymentReference }) => paymentReference))]
  const orders = await ctx.db
    .selectFrom('orders')
    .select(['order_id', 'payment_reference', 'expected_gateways'])
    .where(sql<boolean>`payment_reference = any(${references}::text[])`)
    .where('chain_id', '=', ctx.config.CHAIN_ID)
    .execute()
  const byReference = new Map(orders.map((order) => [order.payment_reference, order]))
  const placed = logs.map((log) => {
    const order = byReference.get(log.paymentReference)
    return { ...log, orderId: order?.order_id ?? null, ignoredReason: reasonToIgnore(ctx, log, order) }
  })
  const asked = new Map<string, number>()
  for (const { gateway, blockNumber, ignoredReason } of placed) {
    if (ignoredReason === null) asked.set(gateway, Math.max(blockNumber, asked.get(gateway) ?? 0))
  }
  const trust = await readTrust(ctx, asked, head)
  return placed.map((log) => {
    const words = trust.get(log.gateway)
    if (log.ignoredReason !== null || !words) return { ...log, eligible: null }
    const transfer = { ...log, avatar: avatarOfToken(log.tokenId!), blockTime: log.blockTime! }
    const eligible = judge(ctx, words, transfer)
    return { ...log, eligible, ignoredReason: eligible ? null : UNTRUSTED }
  })
}

/** The database said no to it. */
export const REFUSED = 'refused'
export const UNTRUSTED = 'untrusted_token'

/** Why a transfer can't count whatever token it is; null when that is all that is left to ask (payments.md 18). */
function reasonToIgnore(
  { config }: MarketContext,
  log: PaymentLog,
  order: { expected_gateways: string[] } | undefined,
): string | null {
  if (!order) return 'no_order'
  if (config.PAYMENT_GATEWAY_FACTORY_ENFORCED && !config.PAYMENT_GATEWAY_FACTORY!.includes(log.emitter!)) {
    return 'unknown_emitter'
  }
  if (!order.expected_gateways.includes(log.gateway)) return 'unknown_gateway'
  if (config.PAYMENT_GATEWAYS && !config.PAYMENT_GATEWAYS.includes(log.gateway)) return 'unknown_gateway'
  if (log.amountWei === null) return 'bad_amount'
  if (log.tokenId === null) return 'bad_token'
  return log.blockTime === null ? 'bad_time' : null
}

/**
 * Writes transfers that are new, and those on record that stand elsewhere now or were in doubt; the others stay as they are, their
 * verdict too. Gives back what was written.
 */
export async function storeLogs(
  ctx: MarketContext,
  tx: Transaction<MarketDatabase>,
  logs: readonly JudgedLog[],
  head: BlockRef,
): Promise<StoredLog[]> {
  // One statement can't write a row twice; what comes later in the chain is where it stands.
  const rows = [...new Map(logs.map((log) => [keyOf(log), log])).values()]
  if (rows.length === 0) return []
  const column = <T>(of: (log: JudgedLog) => T) => rows.map(of)
  // What was refused once and is stored now needs nobody any more.
  const { rows: written } = await sql<{ tx_hash: string; log_index: number; inserted: boolean }>`
    with mended as (
      delete from payment_row_errors where chain_id = ${ctx.config.CHAIN_ID} and reason = ${REFUSED}
        and (tx_hash, log_index) in (select * from unnest(${column((log) => log.txHash)}::text[],
          ${column((log) => log.logIndex)}::integer[]))
    )
    insert into payment_transfers as t (chain_id, tx_hash, log_index, block_number, transaction_index, block_hash, block_time,
        payment_reference, gateway_address, payer_address, payee_address, emitter_address, token_id, token_avatar, amount_wei,
        eligible, ignored_reason, verdict_due)
      -- A block that the node doesn't have yet may change, and what was said in it.
      select ${ctx.config.CHAIN_ID}::bigint, v.*, v.eligible is null or v.block_number > ${head.number} from unnest(
        ${column((log) => log.txHash)}::text[], ${column((log) => log.logIndex)}::integer[],
        ${column((log) => log.blockNumber)}::bigint[], ${column((log) => log.transactionIndex)}::integer[],
        ${column((log) => log.blockHash)}::text[], ${column((log) => log.blockTime?.toISOString() ?? null)}::timestamptz[],
        ${column((log) => log.paymentReference)}::text[], ${column((log) => log.gateway)}::text[],
        ${column((log) => log.payer)}::text[], ${column((log) => log.payee)}::text[],
        ${column((log) => log.emitter)}::text[], ${column((log) => log.tokenId?.toString() ?? null)}::numeric[],
        ${column((log) => (log.tokenId === null ? null : avatarOfToken(log.tokenId)))}::text[],
        ${column((log) => log.amountWei?.toString() ?? null)}::numeric[],
        ${column((log) => log.eligible)}::boolean[], ${column((log) => log.ignoredReason)}::text[]
      ) as v (tx_hash, log_index, block_number, transaction_index, block_hash, block_time, payment_reference, gateway, payer,
        payee, emitter, token_id, token_avatar, amount_wei, eligible, ignored_reason)
    on conflict (chain_id, tx_hash, log_index) do update set
      block_number = excluded.block_number, transaction_index = excluded.transaction_index,
      block_hash = excluded.block_hash, block_time = excluded.block_time,
      -- Mined again, a transaction may have another of its payments in this place.
      payment_reference = excluded.payment_reference, gateway_address = excluded.gateway_address,
      payer_address = excluded.payer_address, payee_address = excluded.payee_address,
      emitter_address = excluded.emitter_address, token_id = excluded.token_id, token_avatar = excluded.token_avatar,
      amount_wei = excluded.amount_wei,
      eligible = coalesce(excluded.eligible, t.eligible),
      ignored_reason = excluded.ignored_reason, verdict_due = excluded.verdict_due,
      -- An indexer may still show the branch that is gone: without a block's hash only the node clears a doubt.
      orphaned_at = null, doubted_at = case when excluded.block_hash is null
        and (t.doubted_at is not null or t.orphaned_at is not null) then now() end
    where t.orphaned_at is not null or t.doubted_at is not null or t.verdict_due
      or (t.block_number, t.transaction_index) <> (excluded.block_number, excluded.transaction_index)
      or t.block_hash <> excluded.block_hash
      or (t.payment_reference, t.gateway_address, t.token_id, t.amount_wei)
        is distinct from (excluded.payment_reference, excluded.gateway_address, excluded.token_id, excluded.amount_wei)
    returning tx_hash, log_index, xmax = 0 as inserted`.execute(tx)
  const byKey = new Map(rows.map((log) => [keyOf(log), log]))
  return written.map((row) => ({
    log: byKey.get(keyOf({ txHash: row.tx_hash, logIndex: row.log_index }))!,
    inserted: row.inserted,
  }))
}

/** The orders that these logs, as they are on record, belong to and as they came do not. */
export async function formerOrders(
  ctx: MarketContext,
  tx: Transaction<MarketDatabase>,
  logs: readonly JudgedLog[],
): Promise<string[]> {
  if (logs.length === 0) return []
  const { rows } = await sql<{ order_id: string }>`
    select o.order_id
      from unnest(${logs.map(({ txHash }) => txHash)}::text[], ${logs.map(({ logIndex }) => logIndex)}::integer[],
        ${logs.map(({ paymentReference }) => paymentReference)}::text[]) as v (tx_hash, log_index, payment_reference)
      join payment_transfers t on t.chain_id = ${ctx.config.CHAIN_ID} and t.tx_hash = v.tx_hash
        and t.log_index = v.log_index and t.payment_reference <> v.payment_reference
      join orders o on o.payment_reference = t.payment_reference and o.chain_id = t.chain_id`.execute(tx)
  return rows.map(({ order_id }) => order_id)
}

/**
 * Lets transfers count for orders that were placed while they were being judged; the next look at what is undecided judges them
 * (payments.md P23). Orders placed after them claim them themselves.
 */
export async function claimForOrders(ctx: MarketContext, tx: Transaction<MarketDatabase>, logs: readonly StoredLog[]) {
  const unclaimed = logs.flatMap(({ log }) => (log.ignoredReason === 'no_order' ? [log.paymentReference] : []))
  if (unclaimed.length === 0) return
  await sql`
    update payment_transfers t set ignored_reason = null from orders o
    where t.chain_id = ${ctx.config.CHAIN_ID} and t.payment_reference = any(${unclaimed}::text[])
      and t.ignored_reason = 'no_order' and o.payment_reference = t.payment_reference and o.chain_id = t.chain_id`.execute(
    tx,
  )
}

export type StoredLog = { log: JudgedLog; inserted: boolean }

/** Keeps what can't be stored as a transfer, for people to look at. */
export async function storeUnreadable(
  ctx: MarketContext,
  tx: Transaction<MarketDatabase>,
  logs: readonly (Omit<UnreadableLog, 'reason'> & { reason: string })[],
): Promise<void> {
  if (logs.length === 0) return
  const rows = logs.map((log) => ({
    chain_id: ctx.config.CHAIN_ID,
    block_number: log.blockNumber,
    transaction_index: log.transactionIndex,
    log_index: log.logIndex,
    tx_hash: log.txHash,
    gateway_address: log.gateway,
    payer_address: log.payer,
    token_id: log.tokenId?.toString() ?? null,
    amount_wei: log.amountWei?.toString() ?? null,
    reason: log.reason,
  }))
  await tx
    .insertInto('payment_row_errors')
    .values(rows)
    .onConflict((conflict) => conflict.doNothing())
    .execute()
}

/** Counts what was stored and committed. */
export function tellStored(ctx: MarketContext, stored: readonly StoredLog[]): void {
  for (const { log, inserted } of stored) {
    if (!inserted) continue
    const fields = { tx: log.txHash, logIndex: log.logIndex, gateway: log.gateway, orderId: log.orderId }
    if (log.orderId === null) {
      ctx.metrics.unmatchedTransfers.inc()
    } else if (log.ignoredReason === UNTRUSTED) {
      ctx.metrics.ineligibleTransfers.inc()
      ctx.log.warn(
        { ...fields, token: log.tokenId && avatarOfToken(log.tokenId) },
        'transfer not credited: untrusted token',
      )
    } else if (log.ignoredReason !== null) {
      ctx.log.warn({ ...fields, reason: log.ignoredReason }, 'transfer not credited')
    } else if (log.eligible === null) {
      ctx.metrics.undeterminedTransfers.inc()
      ctx.log.warn(fields, 'transfer not credited yet: the trust of its gateway is not known')
    }
  }
}
