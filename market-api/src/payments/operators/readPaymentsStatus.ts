import { type RawBuilder, sql } from 'kysely'
import {
  type Db,
  gatewaysOnRecord,
  listPaymentChains,
  OF_ORDERS,
  OF_TRANSFERS,
  stuckSince,
  type Wei,
} from './records.ts'

// Every count stops at MANY, and each is answered from an index that holds the exceptions alone (migration 0014). The `order by`
// inside a count is what keeps the planner on that index: without one it believes that a third of all orders are overpaid, and
// reads the table.

export const MANY = 10_000
/** Orphans older than so many blocks below the head are not counted: a day on Gnosis Chain. */
export const ORPHANS_WITHIN_BLOCKS = 17_280

/** `count` stops at MANY, and then there are `more`; `urgent` of them need a person now. */
export type Tally = { count: number; more: boolean; urgent: number }

export type ChainStatus = {
  chainId: number
  /** Everything that was on the chain at this time is stored; null = payments were never read to the end. */
  observedAt: Date | null
  ageSeconds: number | null
  headBlock: number | null
  /** The last log, or block, that was read; null = nothing was. */
  cursor: { blockNumber: number; transactionIndex: number; logIndex: number } | null
  reorg: { at: Date; depth: number } | null
  /** Something is paid, not all; urgent: the time to pay is over. */
  underpaid: Tally
  /** Urgent, here and below: something came in the last days. */
  overpaid: Tally
  /** Paid after it was cancelled. */
  late: Tally
  /** A reorg took the money after delivery had begun. All urgent. */
  reverted: Tally
  /** To be settled by the next poll; urgent: for longer than a poll can take. */
  due: Tally
  /** Whether their gateway trusts their token is not known; oldest first. Urgent: for longer than a poll can take. */
  undecided: (Tally & { gateway: string; oldestAt: Date })[]
  /** Left out by the chain the last time; urgent as above. */
  doubted: Tally
  /** Of the last ORPHANS_WITHIN_BLOCKS; nobody has to do anything about them. */
  orphaned: Tally
  /** To gateways on record, with a reference that no order has. */
  unmatched: Tally & { wei: Wei }
  /** Logs that could not be stored as transfers; urgent: to a gateway on record. */
  rowErrors: Tally
}

export type PaymentsStatus = {
  days: number
  /** Who reads payments, of all chains. */
  lease: { holder: string; expiresAt: Date; held: boolean } | null
  chains: ChainStatus[]
}

/** How payments stand, at a glance. @param days for how long money that nothing but a person can deal with counts as urgent */
export async function readPaymentsStatus(
  db: Db,
  { chainId, days }: { chainId?: number | undefined; days: number },
): Promise<PaymentsStatus> {
  const lease = await sql<{ holder: string; expires_at: Date; held: boolean }>`
    select holder, expires_at, expires_at > now() as held from leases where name = 'payments'`.execute(db)
  const [row] = lease.rows
  const chains: ChainStatus[] = []
  for (const chain of chainId === undefined ? await listPaymentChains(db) : [chainId]) {
    chains.push(await readChainStatus(db, chain, days))
  }
  return { days, lease: row ? { holder: row.holder, expiresAt: row.expires_at, held: row.held } : null, chains }
}

async function readChainStatus(db: Db, chainId: number, days: number): Promise<ChainStatus> {
  const chain = sql.lit(chainId)
  const recently = sql`now() - make_interval(days => ${days})`
  // Of the money, not of the order: an order is old when something comes for it years later.
  const cameRecently = sql`(select max(t.observed_at) from payment_transfers t
    where t.payment_reference = o.payment_reference and t.chain_id = o.chain_id
      and t.eligible and t.ignored_reason is null and t.orphaned_at is null) > ${recently}`
  const orders = (where: RawBuilder<unknown>, urgent: RawBuilder<unknown>, by = sql`o.created_at desc`) =>
    tally(db, sql`select ${urgent} as urgent from orders o where o.chain_id = ${chain} and ${where} order by ${by}`)
  const transfers = (where: RawBuilder<unknown>, urgent: RawBuilder<unknown>) =>
    tally(
      db,
      sql`select ${urgent} as urgent from payment_transfers t where t.chain_id = ${chain} and ${where}
        order by t.chain_id, t.block_number`,
    )
  const observed = await sql<{
    observed_at: Date
    age: number
    head_block: string
    reorg_at: Date | null
    reorg_depth: number | null
  }>`select observed_at, extract(epoch from now() - observed_at)::float8 as age, head_block, reorg_at, reorg_depth
       from payments_observed where chain_id = ${chain}`.execute(db)
  const [seen] = observed.rows
  const cursor = await readCursor(db, chainId)
  const head = Number(seen?.head_block ?? cursor?.blockNumber ?? 0)
  return {
    chainId,
    observedAt: seen?.observed_at ?? null,
    ageSeconds: seen ? Math.max(0, Math.round(seen.age)) : null,
    headBlock: seen ? Number(seen.head_block) : null,
    cursor,
    reorg: seen?.reorg_at ? { at: seen.reorg_at, depth: seen.reorg_depth ?? 0 } : null,
    underpaid: await orders(OF_ORDERS.underpaid, sql`o.payment_due_by < now()`),
    overpaid: await orders(OF_ORDERS.overpaid, cameRecently),
    late: await orders(OF_ORDERS.late, cameRecently),
    reverted: await orders(OF_ORDERS.reverted, sql`true`, sql`o.payment_reverted_at`),
    due: await orders(
      sql`o.settle_at_block <= ${head}`,
      sql`coalesce(o.payment_seen_at, o.created_at) < ${stuckSince}`,
      sql`o.chain_id, o.settle_at_block`,
    ),
    undecided: await readUndecided(db, chainId),
    doubted: await transfers(
      sql`t.doubted_at is not null and t.orphaned_at is null`,
      sql`t.doubted_at < ${stuckSince}`,
    ),
    orphaned: await transfers(
      sql`t.block_number > ${head - ORPHANS_WITHIN_BLOCKS} and ${OF_TRANSFERS.orphaned}`,
      sql`false`,
    ),
    unmatched: await readUnmatchedTally(db, chainId, recently),
    rowErrors: await tally(
      db,
      sql`select e.seen_at > ${recently} and e.gateway_address in (${gatewaysOnRecord(chainId)}) as urgent
        from payment_row_errors e where e.chain_id = ${chain}
        order by e.chain_id desc, e.block_number desc, e.transaction_index desc, e.log_index desc`,
    ),
  }
}

async function readCursor(db: Db, chainId: number): Promise<ChainStatus['cursor']> {
  const row = await db.selectFrom('payments_cursors').selectAll().where('chain_id', '=', chainId).executeTakeFirst()
  if (!row) return null
  return {
    blockNumber: Number(row.last_block_number),
    transactionIndex: row.last_transaction_index,
    logIndex: row.last_log_index,
  }
}

async function tally(db: Db, rows: RawBuilder<unknown>): Promise<Tally> {
  const found = await sql<{ n: number; urgent: number }>`
    select ${COUNTS} from (${rows} limit ${sql.lit(MANY + 1)}) as found`.execute(db)
  return capped(found.rows[0]!)
}

const COUNTS = sql`count(*)::int as n, (count(*) filter (where urgent))::int as urgent`

const capped = ({ n, urgent }: { n: number; urgent: number }): Tally => ({
  count: Math.min(n, MANY),
  more: n > MANY,
  urgent: Math.min(urgent, MANY),
})

async function readUndecided(db: Db, chainId: number): Promise<ChainStatus['undecided']> {
  const { rows } = await sql<{ gateway_address: string; n: number; urgent: number; oldest: Date }>`
    select gateway_address, min(observed_at) as oldest, ${COUNTS}
      from (select t.gateway_address, t.observed_at, t.observed_at < ${stuckSince} as urgent from payment_transfers t
             where t.chain_id = ${sql.lit(chainId)} and ${OF_TRANSFERS.undecided}
             order by t.chain_id, t.gateway_address, t.block_number limit ${sql.lit(MANY + 1)}) as found
     group by gateway_address order by min(observed_at)`.execute(db)
  return rows.map(({ gateway_address, oldest, ...row }) => ({
    gateway: gateway_address,
    ...capped(row),
    oldestAt: oldest,
  }))
}

async function readUnmatchedTally(
  db: Db,
  chainId: number,
  recently: RawBuilder<unknown>,
): Promise<ChainStatus['unmatched']> {
  const { rows } = await sql<{ n: number; urgent: number; wei: string }>`
    select ${COUNTS}, coalesce(sum(amount_wei), 0)::text as wei
      from (
        select of_gateway.* from (${gatewaysOnRecord(chainId)}) as g
         cross join lateral (
           select t.amount_wei, t.observed_at > ${recently} as urgent from payment_transfers t
            where t.chain_id = ${sql.lit(chainId)} and t.ignored_reason = 'no_order'
              and t.gateway_address = g.gateway_address and t.orphaned_at is null
            limit ${sql.lit(MANY + 1)}) as of_gateway
         limit ${sql.lit(MANY + 1)}) as found`.execute(db)
  return { ...capped(rows[0]!), wei: rows[0]!.wei }
}
