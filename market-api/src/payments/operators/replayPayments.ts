import { inTransaction } from '@market/kit/db'
import { type Kysely, sql, type Transaction } from 'kysely'
import type { MarketDatabase } from '../../db/types.ts'
import { endOfBlock } from '../paymentSource.ts'

export type Replay = {
  chainId: number
  fromBlock: number
  /** The cursor's block; null = nothing was read yet. */
  readTo: number | null
  cursor: 'updated' | 'unchanged'
  /** Transfers on record that the poller comes across once more. */
  readAgain: number
  /** Of these, the ones that are judged anew, and those that stay as they are. */
  transfers: { updated: number; unchanged: number }
  /** Orders that are settled anew. */
  orders: { updated: number }
}

/** What can't be replayed, and why. */
export class ReplayRefusedError extends Error {}

/**
 * Has the poller read everything from a block on once more, and judge what did not count there: transfers whose token was not
 * trusted, and those that were for no order, or another gateway, of which that is no longer so. Rows are only marked, by one
 * transaction; what counts goes on counting. It may be called while market-api runs, and again.
 *
 * @throws ReplayRefusedError for a block that is none, or ahead of what is read
 */
export async function replayPayments(
  db: Kysely<MarketDatabase>,
  { chainId, fromBlock, dryRun = false }: { chainId: number; fromBlock: number; dryRun?: boolean },
): Promise<Replay> {
  if (!Number.isSafeInteger(fromBlock) || fromBlock < 0) {
    throw new ReplayRefusedError(`a block is a whole number from 0 on, not ${fromBlock}`)
  }
  return inTransaction(db, async (tx) => {
    if (!dryRun) {
      // Every transaction of the poller holds this row: it is between two of them now, and none begins until the commit.
      await sql`select 1 from leases where name = 'payments' for update`.execute(tx)
    }
    const cursor = await tx
      .selectFrom('payments_cursors')
      .select('last_block_number')
      .where('chain_id', '=', chainId)
      .$if(!dryRun, (query) => query.forUpdate())
      .executeTakeFirst()
    const observed = await tx
      .selectFrom('payments_observed')
      .select('head_block')
      .where('chain_id', '=', chainId)
      .executeTakeFirst()
    const readTo = cursor ? Number(cursor.last_block_number) : null
    const head = Math.max(readTo ?? 0, Number(observed?.head_block ?? 0))
    if (fromBlock > head) {
      throw new ReplayRefusedError(`block ${fromBlock} is ahead of ${head}, up to which chain ${chainId} is read`)
    }

    const counted = await sql<{ n: number }>`
      select count(*)::int as n from payment_transfers
       where chain_id = ${chainId} and block_number >= ${fromBlock}`.execute(tx)
    const readAgain = counted.rows[0]!.n
    const references = await markTransfers(tx, chainId, fromBlock, dryRun)
    const orders = await markOrders(tx, chainId, [...new Set(references)], dryRun)
    const isBehind = readTo !== null && readTo >= fromBlock
    if (isBehind && !dryRun) {
      const { blockNumber, transactionIndex, logIndex } = endOfBlock(fromBlock - 1)
      await sql`
        update payments_cursors
          set last_block_number = ${blockNumber}, last_transaction_index = ${transactionIndex}, last_log_index = ${logIndex}
         where chain_id = ${chainId}`.execute(tx)
    }
    return {
      chainId,
      fromBlock,
      readTo,
      cursor: isBehind ? 'updated' : 'unchanged',
      readAgain,
      transfers: { updated: references.length, unchanged: readAgain - references.length },
      orders: { updated: orders },
    }
  })
}

/** `eligible` keeps the last word until there is another, so that nothing counts that should not. References, one a transfer. */
async function markTransfers(
  tx: Transaction<MarketDatabase>,
  chainId: number,
  fromBlock: number,
  dryRun: boolean,
): Promise<string[]> {
  const due = sql`
    select t.chain_id, t.tx_hash, t.log_index, t.payment_reference from payment_transfers t
      left join orders o on o.payment_reference = t.payment_reference and o.chain_id = t.chain_id
     where t.chain_id = ${chainId} and t.block_number >= ${fromBlock} and t.orphaned_at is null
       and t.eligible is not true
       and case coalesce(t.ignored_reason, '')
             when '' then not t.verdict_due
             when 'untrusted_token' then true
             when 'no_order' then o.order_id is not null
             -- An allowlist may have left out what the order names; judging reads it anew.
             when 'unknown_gateway' then t.gateway_address = any(o.expected_gateways)
             when 'unknown_emitter' then t.gateway_address = any(o.expected_gateways)
             else false
           end`
  const { rows } = dryRun
    ? await sql<{ payment_reference: string }>`select payment_reference from (${due}) as due`.execute(tx)
    : await sql<{ payment_reference: string }>`
        with due as (${due})
        update payment_transfers t set verdict_due = true, ignored_reason = null from due
         where t.chain_id = due.chain_id and t.tx_hash = due.tx_hash and t.log_index = due.log_index
        returning t.payment_reference`.execute(tx)
  return rows.map(({ payment_reference }) => payment_reference)
}

/** How many orders with these references are to be settled that were not before. */
async function markOrders(
  tx: Transaction<MarketDatabase>,
  chainId: number,
  references: string[],
  dryRun: boolean,
): Promise<number> {
  const concerned = sql`
    select order_id from orders
     where chain_id = ${chainId} and payment_reference = any(${references}::text[])
       and settle_at_block is distinct from 0`
  const { rows } = dryRun
    ? await sql`${concerned}`.execute(tx)
    : // In order, so that two who lock the same orders wait for each other and not in a circle.
      await sql`
        with concerned as (${concerned} order by order_id for update)
        update orders o set settle_at_block = 0 from concerned where o.order_id = concerned.order_id
        returning o.order_id`.execute(tx)
  return rows.length
}
