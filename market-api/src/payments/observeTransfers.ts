import { inTransaction } from '@market/kit/db'
import { assertLease, type Lease } from '@market/kit/lease'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { LogPosition, PaymentLog } from './paymentSource.ts'
import { avatarOfToken } from './trust.ts'

/**
 * Reads one page of payments behind the cursor and stores it: transfers, the mark on their orders and the cursor in one
 * transaction, so the cursor never passes what is not stored. True when there may be more.
 */
export async function observeTransfers(ctx: MarketContext, lease: Lease): Promise<boolean> {
  const chainId = ctx.config.CHAIN_ID
  const page = await ctx.paymentSource.readPayments(await readCursor(ctx), ctx.config.PAGE_SIZE)
  const { end } = page
  if (!end) return false
  await inTransaction(ctx.db, async (tx) => {
    await assertLease(tx, lease)
    if (page.logs.length > 0) {
      await tx
        .insertInto('payment_transfers')
        .values(page.logs.map((log) => toRow(chainId, log)))
        .onConflict((conflict) => conflict.doNothing())
        .execute()
      await markOrders(tx, chainId, page.logs)
    }
    await tx
      .insertInto('payments_cursors')
      .values({
        chain_id: chainId,
        last_block_number: end.blockNumber,
        last_transaction_index: end.transactionIndex,
        last_log_index: end.logIndex,
      })
      .onConflict((conflict) =>
        conflict.column('chain_id').doUpdateSet({
          last_block_number: end.blockNumber,
          last_transaction_index: end.transactionIndex,
          last_log_index: end.logIndex,
        }),
      )
      .execute()
    ctx.failpoint('payments.observing')
  })
  ctx.failpoint('payments.observed')
  ctx.log.info(
    { transfers: page.logs.length, unreadable: page.unreadable, block: end.blockNumber },
    'payments observed',
  )
  return page.full
}

async function readCursor(ctx: MarketContext): Promise<LogPosition | undefined> {
  const row = await ctx.db
    .selectFrom('payments_cursors')
    .selectAll()
    .where('chain_id', '=', ctx.config.CHAIN_ID)
    .executeTakeFirst()
  return (
    row && {
      blockNumber: Number(row.last_block_number),
      transactionIndex: row.last_transaction_index,
      logIndex: row.last_log_index,
    }
  )
}

/** Says of each new transfer why it can't count, and of each order that something came for it. */
async function markOrders(tx: MarketContext['db'], chainId: number, logs: PaymentLog[]) {
  const references = [...new Set(logs.map((log) => log.paymentReference))]
  await sql`
    update payment_transfers t set ignored_reason = case
        when o.order_id is null then 'no_order'
        when not t.gateway_address = any(o.expected_gateways) then 'unknown_gateway'
        when t.amount_wei is null then 'bad_amount'
        when t.token_avatar is null then 'bad_token'
        when t.block_time is null then 'bad_time'
      end
    from payment_transfers same
    left join orders o on o.payment_reference = same.payment_reference and o.chain_id = same.chain_id
    where same.chain_id = t.chain_id and same.tx_hash = t.tx_hash and same.log_index = t.log_index
      and t.chain_id = ${chainId} and t.payment_reference = any(${references}::text[]) and t.eligible is null`.execute(
    tx,
  )
  await sql`
    update orders set payment_seen_at = now()
    where chain_id = ${chainId} and payment_reference = any(${references}::text[]) and payment_seen_at is null`.execute(
    tx,
  )
}

function toRow(chainId: number, log: PaymentLog) {
  return {
    chain_id: chainId,
    tx_hash: log.txHash,
    log_index: log.logIndex,
    block_number: log.blockNumber,
    transaction_index: log.transactionIndex,
    block_hash: null,
    block_time: log.blockTime,
    payment_reference: log.paymentReference!,
    gateway_address: log.gateway,
    payer_address: log.payer,
    payee_address: log.payee,
    token_id: log.tokenId?.toString() ?? null,
    token_avatar: log.tokenId === null ? null : avatarOfToken(log.tokenId),
    amount_wei: log.amountWei?.toString() ?? null,
    eligible: null,
    ignored_reason: null,
    orphaned_at: null,
  }
}
