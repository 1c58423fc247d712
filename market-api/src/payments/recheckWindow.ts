import type { MarketContext } from '../context.ts'
import type { Leadership } from './leadership.ts'
import { judgePayments, storePage } from './observeTransfers.ts'
import { keyOf, type Recorded, recordOf } from './paymentMemory.ts'
import { type BlockRef, endOfBlock, type PaymentLog } from './paymentSource.ts'
import { askFor, deepBlock } from './resolveDoubts.ts'

/** More are looked at in the next round, so that a flood of payments doesn't keep new ones waiting. */
const MAX_PAGES = 40

/**
 * Reads the last blocks once more: a source that left a log out, or a chain that moved it, is found out while nothing is final yet.
 * What is on record and missing is asked for before anything new is stored, so that a payment in two places counts in one.
 * What is known already costs no look into the database.
 */
export async function recheckWindow(ctx: MarketContext, leadership: Leadership, head: BlockRef): Promise<void> {
  const from = deepBlock(ctx, head)
  const known = await rememberWindow(ctx, head)
  const shown = await readWindow(ctx, from, head)
  if (!shown) return
  const seen = new Set(shown.map(keyOf))
  // A node that has fallen behind shows nothing of what is above its head.
  const missing = [...known].filter(
    ([key, { blockNumber }]) => blockNumber > from && blockNumber <= head.number && !seen.has(key),
  )
  const news = shown.filter((log) => known.get(keyOf(log))?.facts !== recordOf(log).facts)
  for (const [key, { blockNumber }] of known) if (blockNumber <= from) known.delete(key)
  if (missing.length > 0) {
    ctx.log.warn(
      { transfers: missing.length },
      'payments on record are missing from what the source shows; asking the node',
    )
    await askFor(
      ctx,
      leadership,
      missing.map(([key]) => key),
    )
  }
  if (news.length === 0) return
  const logs = await judgePayments(ctx, news, head)
  await storePage(ctx, leadership, { logs, unreadable: [] }, head, undefined)
}

/** All logs behind a block; undefined when they are too many for one look. */
async function readWindow(ctx: MarketContext, from: number, head: BlockRef): Promise<PaymentLog[] | undefined> {
  const logs: PaymentLog[] = []
  let after = from < 0 ? undefined : endOfBlock(from)
  for (let pages = 0; pages < MAX_PAGES; pages += 1) {
    const page = await ctx.paymentSource.readPayments(after, ctx.config.PAGE_SIZE, head)
    logs.push(...page.logs)
    if (!page.full || !page.end) return logs
    after = page.end
  }
  return undefined
}

/** What is on record near the head, read when this replica begins to lead. */
export async function rememberWindow(ctx: MarketContext, head: BlockRef): Promise<Map<string, Recorded>> {
  const { window } = ctx.paymentMemory
  if (window) return window
  const rows = await ctx.db
    .selectFrom('payment_transfers')
    .select(['tx_hash as txHash', 'log_index as logIndex', 'block_number', 'transaction_index as transactionIndex'])
    .select(['payment_reference as paymentReference', 'gateway_address as gateway', 'token_id as tokenId'])
    .select('amount_wei as amountWei')
    .where('chain_id', '=', ctx.config.CHAIN_ID)
    .where('block_number', '>', deepBlock(ctx, head))
    .where('orphaned_at', 'is', null)
    .execute()
  const known = new Map(
    rows.map((row) => [keyOf(row), recordOf({ ...row, blockNumber: Number(row.block_number) })] as const),
  )
  ctx.paymentMemory.window = known
  return known
}
