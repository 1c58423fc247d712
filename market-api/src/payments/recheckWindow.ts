import { inTransaction } from '@market/kit/db'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { Leadership } from './leadership.ts'
import { storePage } from './observeTransfers.ts'
import { keyOf } from './paymentMemory.ts'
import type { BlockRef, LogPosition } from './paymentSource.ts'

/** Fewer are never looked at again (payments.md W5). */
const MIN_BLOCKS = 64
/** More are looked at in the next round, so that a flood of payments doesn't keep new ones waiting. */
const MAX_PAGES = 40
/** Behind everything in its block. */
const LAST = 2_147_483_647

/**
 * Reads the last blocks once more: a source that left a log out, or a chain that moved it, is found out while nothing is final yet.
 * What is on record and missing is in doubt. What it knows already costs no look into the database.
 */
export async function recheckWindow(ctx: MarketContext, leadership: Leadership, head: BlockRef): Promise<void> {
  const from = head.number - Math.max(ctx.config.FINALIZE_CONFIRMATIONS, MIN_BLOCKS)
  const known = await knownSince(ctx, leadership, from)
  const seen = new Set<string>()
  let after: LogPosition | undefined =
    from < 0 ? undefined : { blockNumber: from, transactionIndex: LAST, logIndex: LAST }
  for (let page = 0; ; page += 1) {
    if (page === MAX_PAGES) return
    const { logs, end, full } = await ctx.paymentSource.readPayments(after, ctx.config.PAGE_SIZE, head)
    for (const log of logs) seen.add(keyOf(log))
    const news = logs.filter((log) => known.get(keyOf(log)) !== log.blockNumber)
    if (news.length > 0) {
      await storePage(ctx, leadership, { logs: news, unreadable: [], end, full }, head, undefined)
    }
    if (!full || !end) break
    after = end
  }
  const missing = [...known].filter(([key, block]) => block > from && !seen.has(key))
  for (const [key, block] of known) if (block <= from) known.delete(key)
  if (missing.length > 0) await doubt(ctx, leadership, missing)
}

/** What is on record behind a block. Another leader may have written since the last time this replica led. */
async function knownSince(ctx: MarketContext, { epoch }: Leadership, from: number): Promise<Map<string, number>> {
  const { window } = ctx.paymentMemory
  if (window?.epoch === epoch) return window.blocks
  const rows = await ctx.db
    .selectFrom('payment_transfers')
    .select(['tx_hash', 'log_index', 'block_number'])
    .where('chain_id', '=', ctx.config.CHAIN_ID)
    .where('block_number', '>', from)
    .where('orphaned_at', 'is', null)
    .execute()
  const blocks = new Map(rows.map((row) => [`${row.tx_hash}:${row.log_index}`, Number(row.block_number)]))
  ctx.paymentMemory.window = { epoch, blocks }
  return blocks
}

async function doubt(ctx: MarketContext, leadership: Leadership, missing: [string, number][]): Promise<void> {
  const keys = missing.map(([key]) => key)
  await inTransaction(ctx.db, async (tx) => {
    await leadership.assert(tx)
    await sql`
      update payment_transfers set doubted_at = now()
      where chain_id = ${ctx.config.CHAIN_ID} and doubted_at is null and orphaned_at is null
        and (tx_hash, log_index) in (select split_part(key, ':', 1), split_part(key, ':', 2)::integer
          from unnest(${keys}::text[]) as key)`.execute(tx)
  })
  ctx.log.warn(
    { transfers: missing.length },
    'payments on record are missing from what the source shows; asking the node',
  )
}
