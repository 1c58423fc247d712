import { inTransaction } from '@market/kit/db'
import { messageOf } from '@market/kit/errors'
import { sql, type Transaction } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import type { Leadership } from './leadership.ts'
import { keyOf, recordOf } from './paymentMemory.ts'
import {
  type BlockRef,
  type LogPosition,
  type PaymentLog,
  type PaymentPage,
  PaymentSourceError,
} from './paymentSource.ts'
import { askFor, deepBlock } from './resolveDoubts.ts'
import { settleOrders, tellSettled } from './settleOrders.ts'
import {
  claimForOrders,
  formerOrders,
  type JudgedLog,
  judgeLogs,
  REFUSED,
  storeLogs,
  storeUnreadable,
  tellStored,
} from './storeTransfers.ts'

/** How long a backlog is read before the other steps get their turn, so that it holds up nobody's confirmation (W15). */
const BUDGET_MS = 20_000

/** Reads on from the cursor to the end. True when there is more. */
export async function observeTransfers(ctx: MarketContext, leadership: Leadership, head: BlockRef): Promise<boolean> {
  const until = Date.now() + BUDGET_MS
  let cursor = await readCursor(ctx)
  let ahead: Promise<JudgedPage> | undefined
  for (;;) {
    const page = await (ahead ?? readPage(ctx, cursor, head))
    const isDone = !page.full || !page.end
    // The next page is read while this one is stored.
    ahead = isDone ? undefined : readPage(ctx, page.end, head)
    ahead?.catch(() => {})
    try {
      await storePage(ctx, leadership, page, head, page.end && { from: cursor, to: page.end })
      cursor = page.end ?? cursor
    } catch (error) {
      if (!(error instanceof CursorMovedError)) throw error
      ctx.log.info({ cursor }, 'the cursor was set by somebody else; reading on from there')
      cursor = await readCursor(ctx)
      ahead = undefined
      continue
    }
    if (isDone) return false
    if (Date.now() > until) return true
  }
}

/** A page with what is known of its transfers before they are stored. */
type JudgedPage = Omit<PaymentPage, 'logs'> & { logs: JudgedLog[] }

async function readPage(ctx: MarketContext, after: LogPosition | undefined, head: BlockRef): Promise<JudgedPage> {
  const page = await ctx.paymentSource.readPayments(after, ctx.config.PAGE_SIZE, head)
  // By their emitter forged ones are known.
  if (ctx.config.PAYMENT_GATEWAY_FACTORY_ENFORCED && page.logs.some(({ emitter }) => emitter === null)) {
    throw new PaymentSourceError('payments without an emitter: the source has to say which contract reported them')
  }
  return { ...page, logs: await judgePayments(ctx, page.logs, head) }
}

/**
 * Judges what was read under a head that still stands: of another branch, the depth below this one would be a guess.
 *
 * @throws PaymentSourceError the head was replaced meanwhile
 */
export async function judgePayments(ctx: MarketContext, logs: PaymentLog[], head: BlockRef): Promise<JudgedLog[]> {
  if (logs.length === 0) return []
  if (head.number >= 0 && (await ctx.paymentSource.readBlock(head.number))?.hash !== head.hash) {
    throw new PaymentSourceError('the head was replaced while payments were read')
  }
  return judgeLogs(ctx, logs, head)
}

type Move = { from: LogPosition | undefined; to: LogPosition }

/**
 * Stores a page: transfers, what they do to their orders, and the cursor, in one transaction, so that the cursor never passes
 * what is not stored. Of a page that the database refuses, each row is tried by itself: one bad row stops nobody else's payment.
 */
export async function storePage(
  ctx: MarketContext,
  leadership: Leadership,
  { logs, unreadable }: Pick<JudgedPage, 'logs' | 'unreadable'>,
  head: BlockRef,
  move: Move | undefined,
): Promise<void> {
  if (logs.length === 0 && unreadable.length === 0 && !move) return
  await leadership.keep()
  await askForMoved(ctx, leadership, logs, head)
  try {
    await storeTogether(ctx, leadership, logs, head, async (tx) => {
      await storeUnreadable(ctx, tx, unreadable)
      if (move) await moveCursor(ctx, tx, move)
      ctx.failpoint('payments.observing')
    })
  } catch (error) {
    if (!isRefusal(error)) throw error
    ctx.log.warn({ reason: messageOf(error), transfers: logs.length }, 'a page of payments was refused; row by row')
    for (const log of logs) await storeAlone(ctx, leadership, log, head)
    await inTransaction(ctx.db, async (tx) => {
      await leadership.assert(tx)
      await storeUnreadable(ctx, tx, unreadable)
      if (move) await moveCursor(ctx, tx, move)
    })
  }
  ctx.failpoint('payments.observed')
  for (const log of logs) ctx.paymentMemory.window?.set(keyOf(log), recordOf(log))
  if (unreadable.length > 0) {
    ctx.metrics.rowErrors.inc(unreadable.length)
    ctx.log.warn({ rows: unreadable.length }, 'payments without a readable reference')
  }
}

/**
 * A transaction that was mined again may have its payments at other places in the log. What is on record of these transactions and
 * not among what came is asked for first, so that no payment counts twice for a moment (payments.md P26).
 */
async function askForMoved(
  ctx: MarketContext,
  leadership: Leadership,
  logs: readonly JudgedLog[],
  head: BlockRef,
): Promise<void> {
  if (logs.length === 0) return
  const came = new Set(logs.map(keyOf))
  const recorded = await ctx.db
    .selectFrom('payment_transfers')
    .select(['tx_hash as txHash', 'log_index as logIndex'])
    .where('chain_id', '=', ctx.config.CHAIN_ID)
    .where(sql<boolean>`tx_hash = any(${logs.map(({ txHash }) => txHash)}::text[])`)
    .where('orphaned_at', 'is', null)
    .where('block_number', '>', deepBlock(ctx, head))
    .execute()
  const others = recorded.map(keyOf).filter((key) => !came.has(key))
  if (others.length === 0) return
  await askFor(ctx, leadership, others)
}

/** Transfers and what they do to their orders, in one transaction. */
export async function storeTogether(
  ctx: MarketContext,
  leadership: Leadership,
  logs: JudgedLog[],
  head: BlockRef,
  also: (tx: Transaction<MarketDatabase>) => Promise<void> = async () => {},
): Promise<void> {
  const { stored, orders } = await inTransaction(ctx.db, async (tx) => {
    await leadership.assert(tx)
    const former = await formerOrders(ctx, tx, logs)
    const written = await storeLogs(ctx, tx, logs, head)
    await claimForOrders(ctx, tx, written)
    const touched = new Set([...former, ...written.flatMap(({ log }) => log.orderId ?? [])])
    // Before the orders: from their first change of status on, all who have something to tell wait.
    await also(tx)
    return { stored: written, orders: await settleOrders(ctx, tx, [...touched], head.number) }
  })
  tellStored(ctx, stored)
  tellSettled(ctx, orders)
  if (stored.length > 0)
    ctx.log.info({ transfers: stored.length, block: logs.at(-1)!.blockNumber }, 'payments observed')
}

async function storeAlone(ctx: MarketContext, leadership: Leadership, log: JudgedLog, head: BlockRef): Promise<void> {
  try {
    await storeTogether(ctx, leadership, [log], head)
  } catch (error) {
    if (!isRefusal(error)) throw error
    ctx.metrics.rowErrors.inc()
    ctx.log.error(
      { tx: log.txHash, logIndex: log.logIndex, err: error },
      'payment not stored: a person has to look at it',
    )
    await inTransaction(ctx.db, async (tx) => {
      await leadership.assert(tx)
      await storeUnreadable(ctx, tx, [{ ...log, reason: REFUSED }])
    })
  }
}

/** The database said no to what it was given; class 08, 53, 57 and the like are its own trouble and pass (payments.md W9). */
const isRefusal = (error: unknown) => /^(22|23|54|P0)/.test(String((error as { code?: unknown }).code))

export async function readCursor(ctx: MarketContext): Promise<LogPosition | undefined> {
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

class CursorMovedError extends Error {}

/** Throws `CursorMovedError` when somebody, such as `ops payments replay`, has set the cursor since it was read. */
async function moveCursor(ctx: MarketContext, tx: Transaction<MarketDatabase>, { from, to }: Move): Promise<void> {
  const position = [to.blockNumber, to.transactionIndex, to.logIndex]
  const { rows } = from
    ? await sql`
        update payments_cursors
          set (last_block_number, last_transaction_index, last_log_index) = (${sql.join(position)})
        where chain_id = ${ctx.config.CHAIN_ID} and (last_block_number, last_transaction_index, last_log_index)
          = (${sql.join([from.blockNumber, from.transactionIndex, from.logIndex])}) returning 1`.execute(tx)
    : await sql`
        insert into payments_cursors (chain_id, last_block_number, last_transaction_index, last_log_index)
        values (${sql.join([ctx.config.CHAIN_ID, ...position])}) on conflict do nothing returning 1`.execute(tx)
  if (rows.length === 0) throw new CursorMovedError()
}
