import { normalizePaymentReference } from '@market/contracts/ids'
import { type Kysely, type RawBuilder, sql } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'
import { publicReason } from '../fulfillment/jobView.ts'
import { counts, type RecordedTransfer, settle } from './settle.ts'
import { recordedTransfer, TRANSFER_COLUMNS } from './settleOrders.ts'

// What operators look at. Reads only; every count stops at MANY, and each is answered from an index that holds the exceptions
// alone (migration 0014). The `order by` inside a count is what keeps the planner on that index: without one it believes that
// a third of all orders are overpaid, and reads the table.

type Db = Kysely<MarketDatabase>
/** Wei as decimal text. */
type Wei = string

export const MANY = 10_000
/** Minutes after which what a poll should have dealt with counts as stuck. */
export const STUCK_MINUTES = 10
/** Orphans older than so many blocks below the head are not counted: a day on Gnosis Chain. */
export const ORPHANS_WITHIN_BLOCKS = 17_280

const stuckSince = sql<Date>`now() - make_interval(mins => ${sql.lit(STUCK_MINUTES)})`

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

/** Chains of which payments were ever read. */
export async function listPaymentChains(db: Db): Promise<number[]> {
  const { rows } = await sql<{ chain_id: string }>`
    select chain_id from payments_cursors union select chain_id from payments_observed order by 1`.execute(db)
  return rows.map(({ chain_id }) => Number(chain_id))
}

async function readChainStatus(db: Db, chainId: number, days: number): Promise<ChainStatus> {
  const chain = sql.lit(chainId)
  const recently = sql`now() - make_interval(days => ${days})`
  // Of the money, not of the order: an order is old when something comes for it years later.
  const cameRecently = sql`(select max(t.observed_at) from payment_transfers t
    where t.payment_reference = o.payment_reference and t.chain_id = o.chain_id
      and t.eligible and t.ignored_reason is null and t.orphaned_at is null) > ${recently}`
  const orders = (where: RawBuilder<unknown>, urgent: RawBuilder<unknown>) =>
    tally(
      db,
      sql`select ${urgent} as urgent from orders o where o.chain_id = ${chain} and ${where} order by o.created_at desc`,
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
    cursor: cursor ?? null,
    reorg: seen?.reorg_at ? { at: seen.reorg_at, depth: seen.reorg_depth ?? 0 } : null,
    underpaid: await orders(IN_STATE.underpaid, sql`o.payment_due_by < now()`),
    overpaid: await orders(IN_STATE.overpaid, cameRecently),
    late: await orders(IN_STATE.late, cameRecently),
    reverted: await tally(
      db,
      sql`select true as urgent from orders o where o.chain_id = ${chain} and ${IN_STATE.reverted}
        order by o.payment_reverted_at`,
    ),
    due: await tally(
      db,
      sql`select coalesce(o.payment_seen_at, o.created_at) < ${stuckSince} as urgent from orders o
        where o.chain_id = ${chain} and o.settle_at_block <= ${head} order by o.chain_id, o.settle_at_block`,
    ),
    undecided: await readUndecided(db, chainId),
    doubted: await tally(
      db,
      sql`select t.doubted_at < ${stuckSince} as urgent from payment_transfers t
        where t.chain_id = ${chain} and t.doubted_at is not null and t.orphaned_at is null
        order by t.chain_id, t.block_number`,
    ),
    orphaned: await tally(
      db,
      sql`select false as urgent from payment_transfers t
        where t.chain_id = ${chain} and t.block_number > ${head - ORPHANS_WITHIN_BLOCKS} and t.orphaned_at is not null
        order by t.chain_id, t.block_number`,
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

async function tally(db: Db, rows: RawBuilder<unknown>): Promise<Tally> {
  const found = await sql<{ n: number; urgent: number }>`
    select count(*)::int as n, (count(*) filter (where urgent))::int as urgent
      from (${rows} limit ${sql.lit(MANY + 1)}) as found`.execute(db)
  return capped(found.rows[0]!)
}

const capped = ({ n, urgent }: { n: number; urgent: number }): Tally => ({
  count: Math.min(n, MANY),
  more: n > MANY,
  urgent: Math.min(urgent, MANY),
})

async function readUndecided(db: Db, chainId: number): Promise<ChainStatus['undecided']> {
  const { rows } = await sql<{ gateway_address: string; n: number; urgent: number; oldest: Date }>`
    select gateway_address, count(*)::int as n, min(observed_at) as oldest,
           (count(*) filter (where observed_at < ${stuckSince}))::int as urgent
      from (select t.gateway_address, t.observed_at from payment_transfers t
             where t.chain_id = ${sql.lit(chainId)} and ${UNDECIDED}
             order by t.chain_id, t.gateway_address, t.block_number limit ${sql.lit(MANY + 1)}) as found
     group by gateway_address order by min(observed_at)`.execute(db)
  return rows.map(({ gateway_address, oldest, ...row }) => ({
    gateway: gateway_address,
    ...capped(row),
    oldestAt: oldest,
  }))
}

async function readUnmatchedTally(db: Db, chainId: number, recently: RawBuilder<unknown>) {
  const { rows } = await sql<{ n: number; urgent: number; wei: string }>`
    select count(*)::int as n, (count(*) filter (where urgent))::int as urgent, coalesce(sum(amount_wei), 0)::text as wei
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

/**
 * Gateways that the market knows to be one, or its operator to be a seller's. Those that only some order names are not among them:
 * a market of a million orders would have to read them all.
 */
const gatewaysOnRecord = (chainId: number) => sql`
  select gateway_address from payment_gateways where chain_id = ${sql.lit(chainId)}
  union select gateway_address from seller_gateways where chain_id = ${sql.lit(chainId)}`

async function readCursor(db: Db, chainId: number) {
  const row = await db.selectFrom('payments_cursors').selectAll().where('chain_id', '=', chainId).executeTakeFirst()
  return (
    row && {
      blockNumber: Number(row.last_block_number),
      transactionIndex: row.last_transaction_index,
      logIndex: row.last_log_index,
    }
  )
}

// ---- Orders, by what is the matter with their payment ----

export const PAYMENT_STATES = [
  'reverted',
  'late',
  'overpaid',
  'underpaid',
  'undecided',
  'orphaned',
  'settling',
] as const
export type PaymentState = (typeof PAYMENT_STATES)[number]

/** Of transfers `t`; as the partial index has it. */
const UNDECIDED = sql`t.verdict_due and t.ignored_reason is null and t.orphaned_at is null`
/** Of orders `o`; as the partial indexes have it. */
const IN_STATE = {
  underpaid: sql`o.paid_at is null and o.paid_amount_wei > 0 and o.cancelled_at is null`,
  overpaid: sql`o.paid_amount_wei > o.price_wei and o.cancelled_at is null`,
  late: sql`o.paid_amount_wei > 0 and o.cancelled_at is not null`,
  reverted: sql`o.payment_reverted_at is not null`,
  settling: sql`o.settle_at_block is not null`,
}

export type ListedOrder = {
  orderId: string
  chainId: number
  reference: string
  /** Each that the order is in. */
  states: PaymentState[]
  status: string
  priceWei: Wei
  paidWei: Wei
  createdAt: Date
  paymentDueBy: Date
  cancelledAt: Date | null
  revertedAt: Date | null
  settleAtBlock: number | null
}

export class NotKnownError extends Error {}

/**
 * Orders in a state, newest first; without one, all that wait for a person: reverted, late, overpaid, underpaid with the time to
 * pay over, undecided for longer than a poll can take.
 *
 * @param of.after the last order of the page before; throws NotKnownError when there is no such order
 * @returns `next` is the order to go on after
 */
export async function listPaymentOrders(
  db: Db,
  of: { state?: PaymentState | undefined; limit: number; after?: string | undefined; chainId?: number | undefined },
): Promise<{ orders: ListedOrder[]; next: string | undefined }> {
  const place = of.after === undefined ? undefined : await findPlace(db, of.after)
  const onPage = sql`${of.chainId === undefined ? sql`true` : sql`o.chain_id = ${sql.lit(of.chainId)}`}
    and ${place ? sql`(o.created_at, o.order_id) < (${place.created_at}::timestamptz, ${of.after})` : sql`true`}`
  const newest = sql`order by o.created_at desc, o.order_id desc limit ${of.limit + 1}`
  const inOrders = (where: RawBuilder<unknown>) =>
    sql`(select o.order_id from orders o where ${where} and ${onPage} ${newest})`
  // The limit says that there is one order a reference: a planner that believes in many transfers would read all orders instead.
  const byTransfers = (where: RawBuilder<unknown>) => sql`(
    with concerned as materialized (
      select distinct t.chain_id, t.payment_reference from payment_transfers t where ${where})
    select o.order_id from concerned c cross join lateral (
      select * from orders where chain_id = c.chain_id and payment_reference = c.payment_reference limit 1) o
     where ${onPage} ${newest})`
  const picks: Record<PaymentState, RawBuilder<unknown>> = {
    reverted: inOrders(IN_STATE.reverted),
    late: inOrders(IN_STATE.late),
    overpaid: inOrders(IN_STATE.overpaid),
    underpaid: inOrders(IN_STATE.underpaid),
    undecided: byTransfers(UNDECIDED),
    orphaned: byTransfers(sql`t.orphaned_at is not null`),
    settling: inOrders(IN_STATE.settling),
  }
  const picked = of.state
    ? picks[of.state]
    : sql.join(
        [
          picks.reverted,
          picks.late,
          picks.overpaid,
          inOrders(sql`${IN_STATE.underpaid} and o.payment_due_by < now()`),
          byTransfers(sql`${UNDECIDED} and t.observed_at < ${stuckSince}`),
        ],
        sql` union `,
      )
  const anyTransfer = (where: RawBuilder<unknown>) => sql<boolean>`(select bool_or(${where}) from payment_transfers t
    where t.payment_reference = o.payment_reference and t.chain_id = o.chain_id)`
  const { rows } = await sql<{
    order_id: string
    chain_id: string
    payment_reference: string
    status: string
    price_wei: string
    paid_amount_wei: string
    created_at: Date
    payment_due_by: Date
    cancelled_at: Date | null
    payment_reverted_at: Date | null
    settle_at_block: string | null
    states: PaymentState[]
  }>`
    select o.order_id, o.chain_id, o.payment_reference, o.status, o.price_wei, o.paid_amount_wei, o.created_at,
           o.payment_due_by, o.cancelled_at, o.payment_reverted_at, o.settle_at_block,
           array_remove(array[${sql.join(
             PAYMENT_STATES.map((state) => {
               const holds =
                 state === 'undecided'
                   ? anyTransfer(UNDECIDED)
                   : state === 'orphaned'
                     ? anyTransfer(sql`t.orphaned_at is not null`)
                     : IN_STATE[state]
               return sql`case when ${holds} then ${sql.lit(state)} end`
             }),
           )}], null) as states
      from (${picked}) as picked join orders o using (order_id) ${newest}`.execute(db)
  const orders = rows.slice(0, of.limit).map((row) => ({
    orderId: row.order_id,
    chainId: Number(row.chain_id),
    reference: row.payment_reference,
    states: row.states,
    status: row.status,
    priceWei: row.price_wei,
    paidWei: row.paid_amount_wei,
    createdAt: row.created_at,
    paymentDueBy: row.payment_due_by,
    cancelledAt: row.cancelled_at,
    revertedAt: row.payment_reverted_at,
    settleAtBlock: row.settle_at_block === null ? null : Number(row.settle_at_block),
  }))
  return { orders, next: rows.length > of.limit ? orders.at(-1)?.orderId : undefined }
}

/** As text: a Date would round, and an order at the edge would show twice or never. */
async function findPlace(db: Db, orderId: string) {
  const { rows } = await sql<{ created_at: string }>`
    select created_at::text from orders where order_id = ${orderId}`.execute(db)
  if (!rows[0]) throw new NotKnownError(`--after names an order that is not known: ${orderId}`)
  return rows[0]
}

// ---- One payment, explained ----

/** Why a transfer counts or does not; besides these, what `payment_transfers.ignored_reason` says. */
export type TransferVerdict =
  | 'counts'
  /** It counts, but a reorg may have taken it: nothing is confirmed by it. */
  | 'in_doubt'
  /** It counts, and is being judged again: nothing is confirmed by it until then. */
  | 'judged_again'
  | 'undecided'
  | 'orphaned'
  | 'untrusted_token'
  | 'unknown_gateway'
  | 'unknown_emitter'
  | 'no_order'
  | 'bad_amount'
  | 'bad_token'
  | 'bad_time'

export type ExplainedTransfer = {
  chainId: number
  reference: string
  txHash: string
  logIndex: number
  blockNumber: number
  blockTime: Date | null
  observedAt: Date
  gateway: string
  payer: string | null
  /** Whose CRC it is. */
  token: string | null
  amountWei: Wei | null
  counts: boolean
  verdict: TransferVerdict
}

export type ExplainedJob = {
  jobId: string
  seller: string
  offerType: string
  trigger: string
  lineIndexes: number[]
  status: string
  reason: string | null
  attempts: number
  createdAt: Date
  nextAttemptAt: Date | null
}

/** A sum of what counts, and how many blocks until it is the price; null = never, without more money. */
export type DepthSum = { wei: Wei; reached: boolean; missingBlocks: number | null }

export type ExplainedOrder = {
  orderId: string
  chainId: number
  reference: string
  status: string
  priceWei: Wei
  paidWei: Wei
  createdAt: Date
  paymentDueBy: Date
  cancelledAt: Date | null
  cancelReason: string | null
  paidAt: Date | null
  confirmedAt: Date | null
  finalizedAt: Date | null
  revertedAt: Date | null
  settleAtBlock: number | null
  gateways: { gateway: string; owners: string[] }[]
  head: { block: number; observedAt: Date } | null
  confirm: number
  finalize: number
  seen: DepthSum
  confirmed: DepthSum
  final: DepthSum
  /** In chain order; the newest MAX_TRANSFERS. */
  transfers: ExplainedTransfer[]
  moreTransfers: boolean
  jobs: ExplainedJob[]
}

export type RowError = {
  chainId: number
  blockNumber: number
  transactionIndex: number
  logIndex: number
  txHash: string | null
  gateway: string | null
  payer: string | null
  /** As the chain gave it; no number when that could not be read. */
  amountWei: string | null
  reason: string
  seenAt: Date
}

export type Explanation = {
  orders: ExplainedOrder[]
  /** Transfers that were asked for and whose reference no order has. */
  unmatched: ExplainedTransfer[]
  unreadable: RowError[]
}

/** Anybody may send dust with an order's reference. */
const MAX_TRANSFERS = 500
/** One transaction can pay many orders. */
const MAX_ORDERS = 20

const COLUMNS = [...TRANSFER_COLUMNS, 'chain_id', 'block_time', 'observed_at', 'payer_address', 'token_avatar'] as const

/**
 * All that is known about one payment, and why it counts or does not.
 *
 * @param asked an order id, a payment reference or the hash of a transaction
 * @param depths as market-api is configured; the database doesn't know
 * @throws NotKnownError
 */
export async function explainPayment(
  db: Db,
  asked: string,
  depths: { confirm: number; finalize: number; chainId?: number | undefined },
): Promise<Explanation> {
  const { orderIds, references, txHash } = await findAsked(db, asked.trim())
  const chains = depths.chainId === undefined ? await listPaymentChains(db) : [depths.chainId]
  const errors = txHash === undefined ? [] : await listRowErrors(db, sql`e.tx_hash = ${txHash}`, 100)
  const orders: ExplainedOrder[] = []
  for (const orderId of orderIds.slice(0, MAX_ORDERS)) orders.push(await explainOrder(db, orderId, depths))
  const ofChain = <T extends { chainId: number }>(rows: T[]) =>
    rows.filter((row) => depths.chainId === undefined || row.chainId === depths.chainId)
  const withOrder = new Set(orders.map(({ chainId, reference }) => `${chainId} ${reference}`))
  const rows = await db
    .selectFrom('payment_transfers')
    .select(COLUMNS)
    .where('chain_id', 'in', chains.length > 0 ? chains : [-1])
    .$if(txHash !== undefined, (query) => query.where('tx_hash', '=', txHash!))
    .$if(txHash === undefined, (query) => query.where('payment_reference', 'in', references))
    .orderBy('block_number', 'desc')
    .orderBy('log_index', 'desc')
    .limit(MAX_TRANSFERS)
    .execute()
  const found = {
    orders: ofChain(orders),
    unmatched: rows
      .toReversed()
      .filter((row) => !withOrder.has(`${Number(row.chain_id)} ${row.payment_reference}`))
      .map((row) => explainTransfer(row, undefined)),
    unreadable: ofChain(errors),
  }
  if (found.orders.length + found.unmatched.length + found.unreadable.length === 0) {
    throw new NotKnownError(`no order, payment reference or transaction is known as ${asked}`)
  }
  return found
}

async function findAsked(db: Db, asked: string) {
  if (/^ord_[0-9a-f]{32}$/i.test(asked)) {
    const orderId = `ord_${asked.slice(4).toUpperCase()}`
    const known = await db.selectFrom('orders').select('order_id').where('order_id', '=', orderId).executeTakeFirst()
    if (!known) throw new NotKnownError(`no order is known as ${orderId}`)
    return { orderIds: [orderId], references: ['-'], txHash: undefined }
  }
  const txHash = /^0x[0-9a-f]{64}$/i.test(asked) ? asked.toLowerCase() : undefined
  const reference = normalizePaymentReference(asked)
  const references = txHash === undefined ? [reference ?? '-'] : await referencesIn(db, txHash)
  const orders = await db
    .selectFrom('orders')
    .select('order_id')
    .where(sql<boolean>`payment_reference = any(${references}::text[])`)
    .orderBy('order_id')
    .execute()
  return { orderIds: orders.map(({ order_id }) => order_id), references, txHash }
}

async function referencesIn(db: Db, txHash: string): Promise<string[]> {
  const chains = await listPaymentChains(db)
  const rows = await db
    .selectFrom('payment_transfers')
    .select('payment_reference')
    .distinct()
    .where('chain_id', 'in', chains.length > 0 ? chains : [-1])
    .where('tx_hash', '=', txHash)
    .execute()
  return rows.map(({ payment_reference }) => payment_reference)
}

async function explainOrder(
  db: Db,
  orderId: string,
  { confirm, finalize }: { confirm: number; finalize: number },
): Promise<ExplainedOrder> {
  const order = await db
    .selectFrom('orders')
    .select([
      'order_id',
      'chain_id',
      'payment_reference',
      'status',
      'price_wei',
      'paid_amount_wei',
      'expected_gateways',
    ])
    .select([
      'created_at',
      'payment_due_by',
      'cancelled_at',
      'cancel_reason',
      'paid_at',
      'confirmed_at',
      'finalized_at',
    ])
    .select(['payment_reverted_at', 'settle_at_block'])
    .where('order_id', '=', orderId)
    .executeTakeFirstOrThrow()
  const newest = await db
    .selectFrom('payment_transfers')
    .select(COLUMNS)
    .where('payment_reference', '=', order.payment_reference)
    .where('chain_id', '=', order.chain_id)
    .orderBy('block_number', 'desc')
    .orderBy('transaction_index', 'desc')
    .orderBy('log_index', 'desc')
    .execute()
  const jobs = await db
    .selectFrom('fulfillment_jobs')
    .select(['job_id', 'seller_address', 'offer_type', 'trigger', 'line_indexes', 'status', 'reason', 'attempts'])
    .select(['created_at', 'next_attempt_at'])
    .where('order_id', '=', orderId)
    .orderBy('created_at')
    .orderBy('seller_address')
    .execute()
  const observed = await db
    .selectFrom('payments_observed')
    .select(['head_block', 'observed_at'])
    .where('chain_id', '=', order.chain_id)
    .executeTakeFirst()

  const payable = { priceWei: BigInt(order.price_wei), expectedGateways: order.expected_gateways }
  const recorded = newest.map(recordedTransfer)
  const head = Number(observed?.head_block ?? 0)
  return {
    orderId,
    chainId: Number(order.chain_id),
    reference: order.payment_reference,
    status: order.status,
    priceWei: order.price_wei,
    paidWei: order.paid_amount_wei,
    createdAt: order.created_at,
    paymentDueBy: order.payment_due_by,
    cancelledAt: order.cancelled_at,
    cancelReason: order.cancel_reason,
    paidAt: order.paid_at,
    confirmedAt: order.confirmed_at,
    finalizedAt: order.finalized_at,
    revertedAt: order.payment_reverted_at,
    settleAtBlock: order.settle_at_block === null ? null : Number(order.settle_at_block),
    gateways: await readOwners(db, Number(order.chain_id), order.expected_gateways),
    head: observed ? { block: head, observedAt: observed.observed_at } : null,
    confirm,
    finalize,
    seen: sumAt(payable, recorded, head, 0),
    confirmed: sumAt(payable, recorded, head, confirm),
    final: sumAt(payable, recorded, head, finalize),
    transfers: newest
      .slice(0, MAX_TRANSFERS)
      .toReversed()
      .map((row) => explainTransfer(row, payable)),
    moreTransfers: newest.length > MAX_TRANSFERS,
    jobs: jobs.map((job) => ({
      jobId: job.job_id,
      seller: job.seller_address,
      offerType: job.offer_type,
      trigger: job.trigger,
      lineIndexes: job.line_indexes,
      status: job.status,
      // What an adapter said may name a person.
      reason: publicReason(job.reason),
      attempts: job.attempts,
      createdAt: job.created_at,
      nextAttemptAt: job.next_attempt_at,
    })),
  }
}

type Payable = Parameters<typeof settle>[0]

/** What counts so deep, and, by the rule of settlement itself, when that is the price. */
function sumAt(order: Payable, transfers: RecordedTransfer[], head: number, depth: number): DepthSum {
  const deep = transfers.filter(
    (transfer) =>
      counts(order, transfer) && (depth === 0 || (!transfer.inDoubt && transfer.blockNumber + depth <= head)),
  )
  const { complete, settleAt } = settle(order, transfers, { head, confirm: depth, finalize: depth })
  return {
    wei: deep.reduce((sum, { amountWei }) => sum + amountWei!, 0n).toString(),
    reached: complete,
    missingBlocks: complete ? 0 : settleAt === undefined ? null : settleAt - head,
  }
}

type TransferRow = Parameters<typeof recordedTransfer>[0] & {
  chain_id: string | number
  payment_reference: string
  block_time: Date | null
  observed_at: Date
  payer_address: string | null
  token_avatar: string | null
}

function explainTransfer(row: TransferRow, order: Payable | undefined): ExplainedTransfer {
  const transfer = recordedTransfer(row)
  const isCounted = order !== undefined && counts(order, transfer)
  return {
    chainId: Number(row.chain_id),
    reference: row.payment_reference,
    txHash: row.tx_hash,
    logIndex: row.log_index,
    blockNumber: transfer.blockNumber,
    blockTime: row.block_time,
    observedAt: row.observed_at,
    gateway: row.gateway_address,
    payer: row.payer_address,
    token: row.token_avatar,
    amountWei: row.amount_wei,
    counts: isCounted,
    verdict: isCounted ? standing(row) : refusal(row, transfer, order),
  }
}

const standing = ({ doubted_at, verdict_due }: TransferRow): TransferVerdict =>
  doubted_at ? 'in_doubt' : verdict_due ? 'judged_again' : 'counts'

function refusal(row: TransferRow, transfer: RecordedTransfer, order: Payable | undefined): TransferVerdict {
  if (transfer.orphaned) return 'orphaned'
  if (transfer.ignoredReason !== null) {
    return transfer.ignoredReason === 'untrusted_token' && row.verdict_due
      ? 'undecided'
      : (transfer.ignoredReason as TransferVerdict)
  }
  if (!order) return 'no_order'
  if (!order.expectedGateways.includes(transfer.gateway)) return 'unknown_gateway'
  if (transfer.amountWei === null) return 'bad_amount'
  return transfer.eligible === null || row.verdict_due ? 'undecided' : 'untrusted_token'
}

/** Whose gateways these are, by what is on record. */
async function readOwners(db: Db, chainId: number, gateways: string[]): Promise<ExplainedOrder['gateways']> {
  const { rows } = await sql<{ gateway_address: string; owner: string }>`
    select gateway_address, owner_address as owner from payment_gateways
      where chain_id = ${chainId} and gateway_address = any(${gateways}::text[])
    union select gateway_address, seller_address from seller_gateways
      where chain_id = ${chainId} and gateway_address = any(${gateways}::text[])
    order by 1, 2`.execute(db)
  return gateways.map((gateway) => ({
    gateway,
    owners: rows.filter((row) => row.gateway_address === gateway).map(({ owner }) => owner),
  }))
}

// ---- Value that belongs to no order ----

export type UnmatchedGateway = {
  chainId: number
  gateway: string
  owners: string[]
  transfers: number
  unreadable: number
  /** Of both; what has no readable amount counts nothing. */
  wei: Wei
}

export type Unmatched = { gateways: UnmatchedGateway[]; transfers: ExplainedTransfer[]; unreadable: RowError[] }

/**
 * Value whose reference no order has, and logs that name none: totals by gateway, most first, then the newest rows.
 *
 * @param of.all to any gateway; else only to those on record (see `gatewaysOnRecord`)
 */
export async function listUnmatched(
  db: Db,
  of: { all: boolean; limit: number; chainId?: number | undefined },
): Promise<Unmatched> {
  const chains = of.chainId === undefined ? await listPaymentChains(db) : [of.chainId]
  const perChain: Unmatched[] = []
  for (const chainId of chains) perChain.push(await listUnmatchedOn(db, chainId, of))
  const byBlock = (a: { blockNumber: number }, b: { blockNumber: number }) => b.blockNumber - a.blockNumber
  return {
    gateways: perChain.flatMap(({ gateways }) => gateways).toSorted((a, b) => compareWei(b.wei, a.wei)),
    transfers: perChain
      .flatMap(({ transfers }) => transfers)
      .toSorted(byBlock)
      .slice(0, of.limit),
    unreadable: perChain
      .flatMap(({ unreadable }) => unreadable)
      .toSorted(byBlock)
      .slice(0, of.limit),
  }
}

const compareWei = (a: Wei, b: Wei) => (BigInt(a) < BigInt(b) ? -1 : BigInt(a) > BigInt(b) ? 1 : 0)

async function listUnmatchedOn(
  db: Db,
  chainId: number,
  { all, limit }: { all: boolean; limit: number },
): Promise<Unmatched> {
  const chain = sql.lit(chainId)
  const toWanted = (gateway: RawBuilder<unknown>) =>
    all ? sql`true` : sql`${gateway} in (${gatewaysOnRecord(chainId)})`
  const unmatched = sql`t.chain_id = ${chain} and t.ignored_reason = 'no_order' and t.orphaned_at is null
    and ${toWanted(sql`t.gateway_address`)}`
  const unreadable = sql`e.chain_id = ${chain} and ${toWanted(sql`e.gateway_address`)}`
  const totals = await sql<{ gateway: string; transfers: number; unreadable: number; wei: string }>`
    select gateway, sum(transfers)::int as transfers, sum(unreadable)::int as unreadable, sum(wei)::text as wei
      from (
        select t.gateway_address as gateway, count(*) as transfers, 0 as unreadable, coalesce(sum(t.amount_wei), 0) as wei
          from payment_transfers t where ${unmatched} group by t.gateway_address
        union all
        select coalesce(e.gateway_address, '?'), 0, count(*),
               coalesce(sum(case when e.amount_wei ~ '^[0-9]{1,78}$' then e.amount_wei::numeric end), 0)
          from payment_row_errors e where ${unreadable} group by 1
      ) as each_kind
     group by gateway order by sum(wei) desc, gateway limit ${limit}`.execute(db)
  const rows = await sql<TransferRow>`
    select ${sql.join(COLUMNS.map((column) => sql.ref(`t.${column}`)))} from payment_transfers t where ${unmatched}
     order by t.block_number desc, t.transaction_index desc, t.log_index desc limit ${limit}`.execute(db)
  const owners = await readOwners(
    db,
    chainId,
    totals.rows.map(({ gateway }) => gateway),
  )
  return {
    gateways: totals.rows.map((row, i) => ({ chainId, ...row, owners: owners[i]!.owners })),
    transfers: rows.rows.map((row) => explainTransfer(row, undefined)),
    unreadable: await listRowErrors(db, unreadable, limit),
  }
}

async function listRowErrors(db: Db, where: RawBuilder<unknown>, limit: number): Promise<RowError[]> {
  const { rows } = await sql<{
    chain_id: string
    block_number: string
    transaction_index: number
    log_index: number
    tx_hash: string | null
    gateway_address: string | null
    payer_address: string | null
    amount_wei: string | null
    reason: string
    seen_at: Date
  }>`
    select chain_id, block_number, transaction_index, log_index, tx_hash, gateway_address, payer_address, amount_wei,
           reason, seen_at
      from payment_row_errors e where ${where}
     order by e.block_number desc, e.transaction_index desc, e.log_index desc limit ${limit}`.execute(db)
  return rows.map((row) => ({
    chainId: Number(row.chain_id),
    blockNumber: Number(row.block_number),
    transactionIndex: row.transaction_index,
    logIndex: row.log_index,
    txHash: row.tx_hash,
    gateway: row.gateway_address,
    payer: row.payer_address,
    amountWei: row.amount_wei,
    reason: row.reason,
    seenAt: row.seen_at,
  }))
}
