import { inTransaction } from '@market/kit/db'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { Leadership } from './leadership.ts'
import { type BlockRef, MAX_INDEX } from './paymentSource.ts'
import { deepBlock } from './resolveDoubts.ts'

/** How far back checkpoints are kept; what forked before the oldest is read again from the first block on. */
const CHECKPOINT_BLOCKS = 4096
const MAX_BLOCK = Number.MAX_SAFE_INTEGER

/**
 * Notices by the checkpoints that the chain has changed its mind, and takes the cursor back to where it did: what stood behind that
 * is in doubt until it is read again (payments.md W5).
 */
export async function followReorgs(ctx: MarketContext, leadership: Leadership, head: BlockRef): Promise<void> {
  const { rows } = await sql<Checkpoint & { highest: string }>`
    select block_number, block_hash,
      (select max(block_number) from payments_checkpoints where chain_id = ${ctx.config.CHAIN_ID}) as highest
    from payments_checkpoints where chain_id = ${ctx.config.CHAIN_ID} and block_number <= ${head.number}
    order by block_number desc limit 1`.execute(ctx.db)
  const [newest] = rows
  if (!newest) return
  if (!(await holds(ctx, newest, head))) {
    const fork = await findFork(ctx, head)
    const depth = Number(newest.block_number) - fork
    const doubted = await turnBack(ctx, leadership, { fork, doubtTo: MAX_BLOCK, depth })
    ctx.paymentMemory.trust.clear()
    ctx.metrics.reorgs.inc()
    const fields = { fork, head: head.number, atMostBlocks: depth, ...doubted }
    if (doubted.ofCompleteOrders > 0)
      ctx.log.error(fields, 'chain reorganised deeper than finality: what was complete is checked')
    else ctx.log.warn(fields, 'chain reorganised: payments since are read again')
    return
  }
  // A node that is a little behind, or a branch that is shorter than the one before: nobody can tell. Of one that is far behind
  // nothing is believed but its age.
  const highest = Number(newest.highest)
  if (highest <= head.number || deepBlock(ctx, { ...head, number: highest }) >= head.number) return
  const fork = Number(newest.block_number)
  const doubted = await turnBack(ctx, leadership, { fork, doubtTo: head.number, depth: undefined })
  ctx.log.info(
    { fork, head: head.number, highest, ...doubted },
    'head below an earlier one: payments since are read again',
  )
}

type Turn = {
  /** The last block that is as it was. */
  fork: number
  /** Nothing above it is in doubt: a node knows nothing of blocks that it doesn't have. */
  doubtTo: number
  /** By how many blocks the chain was reorganised at most; undefined when that isn't sure. */
  depth: number | undefined
}

async function turnBack(ctx: MarketContext, leadership: Leadership, { fork, doubtTo, depth }: Turn) {
  const chainId = ctx.config.CHAIN_ID
  const doubted = await inTransaction(ctx.db, async (tx) => {
    await leadership.assert(tx)
    await sql`
      update payments_cursors
        set last_block_number = ${fork}, last_transaction_index = ${MAX_INDEX}, last_log_index = ${MAX_INDEX}
      where chain_id = ${chainId} and last_block_number > ${fork}`.execute(tx)
    await sql`delete from payments_checkpoints where chain_id = ${chainId} and block_number > ${fork}`.execute(tx)
    if (depth !== undefined) {
      await sql`
        update payments_observed set reorg_at = now(), reorg_depth = ${depth} where chain_id = ${chainId}`.execute(tx)
    }
    const { rows } = await sql<{ transfers: string; complete: string }>`
      with doubted as (
        update payment_transfers set doubted_at = now(), verdict_due = true
        where chain_id = ${chainId} and block_number > ${fork} and block_number <= ${doubtTo}
          and orphaned_at is null and doubted_at is null
        returning payment_reference
      )
      select count(*) as transfers, count(o.finalized_at) as complete
      from doubted left join orders o on o.payment_reference = doubted.payment_reference and o.chain_id = ${chainId}`.execute(
      tx,
    )
    ctx.failpoint('payments.forking')
    return { transfers: Number(rows[0]!.transfers), ofCompleteOrders: Number(rows[0]!.complete) }
  })
  ctx.paymentMemory.window = undefined
  ctx.paymentMemory.checkpoint = undefined
  return doubted
}

type Checkpoint = { block_number: string | number; block_hash: string }

async function holds(ctx: MarketContext, checkpoint: Checkpoint, head: BlockRef): Promise<boolean> {
  const number = Number(checkpoint.block_number)
  const block = number === head.number ? head : await ctx.paymentSource.readBlock(number)
  // Not there although the head is above it: a node that is just turning around. The next round sees more.
  return block === undefined || block.hash === checkpoint.block_hash
}

/** The highest checkpoint that still holds; -1 = none. */
async function findFork(ctx: MarketContext, head: BlockRef): Promise<number> {
  const checkpoints = await ctx.db
    .selectFrom('payments_checkpoints')
    .select(['block_number', 'block_hash'])
    .where('chain_id', '=', ctx.config.CHAIN_ID)
    .where('block_number', '<=', head.number)
    .orderBy('block_number')
    .execute()
  // All below the fork hold and none above it does.
  let [low, high] = [-1, checkpoints.length]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (await holds(ctx, checkpoints[middle]!, head)) low = middle
    else high = middle
  }
  return low < 0 ? -1 : Number(checkpoints[low]!.block_number)
}

/** Remembers that everything up to this head was read at this time: unpaid orders may be cancelled up to then. */
export async function recordObserved(
  ctx: MarketContext,
  leadership: Leadership,
  head: BlockRef,
  at: Date,
): Promise<void> {
  const chainId = ctx.config.CHAIN_ID
  await inTransaction(ctx.db, async (tx) => {
    await leadership.assert(tx)
    await sql`
      insert into payments_observed as p (chain_id, observed_at, head_block) values (${chainId}, ${at}, ${head.number})
      on conflict (chain_id) do update set observed_at = greatest(p.observed_at, excluded.observed_at),
        head_block = excluded.head_block`.execute(tx)
  })
  ctx.paymentMemory.observedHead = head.number
}

/**
 * Makes a head that follows the others a checkpoint, before anything is read under it: every transfer stands below a checkpoint that
 * is older than its row, so that no fork below it goes unnoticed, however the round ends.
 */
export async function recordCheckpoint(ctx: MarketContext, leadership: Leadership, head: BlockRef): Promise<void> {
  const { CHAIN_ID: chainId } = ctx.config
  const { checkpoint } = ctx.paymentMemory
  if (checkpoint === head.hash) return
  const genesis = checkpoint === undefined ? await ctx.paymentSource.readBlock(0) : undefined
  await inTransaction(ctx.db, async (tx) => {
    await leadership.assert(tx)
    // What was stored before its block had a checkpoint above it may have gone unnoticed: the node is asked.
    await sql`
      update payment_transfers set doubted_at = now(), verdict_due = true
      where chain_id = ${chainId} and orphaned_at is null and doubted_at is null and block_number <= ${head.number}
        and block_number > (select coalesce(max(block_number), -1) from payments_checkpoints where chain_id = ${chainId})`.execute(
      tx,
    )
    const blocks = [head, ...(genesis ? [genesis] : [])]
    await sql`
      insert into payments_checkpoints (chain_id, block_number, block_hash)
      select ${chainId}::bigint, * from unnest(${blocks.map(({ number }) => number)}::bigint[],
        ${blocks.map(({ hash }) => hash)}::text[]) on conflict do nothing`.execute(tx)
    await sql`
      delete from payments_checkpoints where chain_id = ${chainId} and block_number > 0
        and block_number < ${head.number - CHECKPOINT_BLOCKS}`.execute(tx)
  })
  ctx.paymentMemory.checkpoint = head.hash
}
