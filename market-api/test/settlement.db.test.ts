import type { FulfillmentTrigger } from '@market/contracts/fulfillment'
import { orderId as newOrderId, paymentReference as newReference } from '@market/contracts/ids'
import { OrderStatus } from '@market/contracts/statuses'
import { inTransaction } from '@market/kit/db'
import { LeaseLostError } from '@market/kit/lease'
import type { Log } from '@market/kit/log'
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { MarketContext } from '../src/context.ts'
import { runFulfillmentJob } from './runFulfillmentJob.ts'
import { closeUnpaid } from '../src/orders/cancelOrder.ts'
import type { OrderSnapshot } from '../src/orders/order.ts'
import { insertOrder } from '../src/orders/store.ts'
import { createPaymentMemory } from '../src/payments/paymentMemory.ts'
import { PaymentSourceError } from '../src/payments/paymentSource.ts'
import { pollPayments } from '../src/payments/pollPayments.ts'
import {
  type Block,
  type Book,
  connectSimulated,
  createChain,
  type Entry,
  type Fate,
  type Fault,
  type Reorg,
  SOURCE_METHODS,
  START_SECONDS,
  worthOf,
} from './settlementModel.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

// Whatever chain, source, buyers, workers and replicas do, orders stand where a reading of the chain from its first block says.
// PAYMENT_RUNS=2000 for a long run, PAYMENT_SEED for the one that failed.

const RUNS = Number(process.env.PAYMENT_RUNS ?? 80)
/** A counterexample is made smaller for as long. */
const PATIENCE_MS = 60_000 + RUNS * 1000
const SEED = Number(process.env.PAYMENT_SEED ?? Date.now() % 2 ** 31)

const address = (n: number) => `0x${n.toString(16).padStart(40, '0')}`
const GATEWAYS = [address(0x6a), address(0x6b)]
const FACTORY = address(0xfac)
const FORGER = address(0xbad)
const BUYER = address(0xb1)
/** An adapter delivers for one of them; the other has none. */
const SELLERS = { routed: address(0x5e), unrouted: address(0x5f) }
const SLOTS = 3
const FOREVER = 2n ** 96n - 1n

let market: MarketApi
beforeAll(async () => {
  market = await startMarketApi({ env: { PAGE_SIZE: '2', PAYMENT_TRUST_CACHE_TTL_SECONDS: '5' } })
})
afterAll(() => market.close())

type Line = { seller: keyof typeof SELLERS; trigger: FulfillmentTrigger }

type Setting = {
  kind: 'indexer' | 'node'
  /** Who is believed about gateways. */
  anchor: 'nobody' | 'shadow' | 'enforced'
  confirm: number
  finalize: number
  /** What one unit of money is in wei. */
  unit: bigint
  orders: { price: number; gateways: readonly number[]; lines: Line[]; isEarly: boolean }[]
}

type Interjection =
  | { do: 'mine' }
  | { do: 'reorg'; how: Reorg }
  | { do: 'place'; slot: number }
  | { do: 'cancel'; slot: number }
  | { do: 'takeOver' }

type Poll = {
  do: 'poll'
  by: number
  lag: number
  faults: readonly Fault[]
  forget: number | undefined
  during: { call: number; what: Interjection } | undefined
}

type Pay = { slot: number; units: number | null; gateway: number; token: number | null; forged: boolean }
type Trust = { gateway: number; token: number; until: 'never' | 'soon' | 'forever'; forged: boolean }

type Command =
  | { do: 'place'; slot: number }
  /** `mined`: at once, in a block of its own. */
  | { do: 'pay'; payments: Pay[]; mined: boolean }
  | { do: 'trust'; words: Trust[] }
  | { do: 'noise' }
  | { do: 'mine'; transactions: readonly number[] }
  | { do: 'wait'; blocks: number }
  | { do: 'reorg'; how: Reorg }
  | { do: 'stall' }
  | Poll
  | { do: 'rest' }
  | { do: 'restart'; by: number }
  | { do: 'cancel'; slot: number }
  | { do: 'work'; answer: 'ok' | 'inProgress' | 'ambiguous' | 'nothing' }

// Small numbers, so that they collide.

const slot = fc.constantFrom(0, 0, 0, 1, 1, 2)
const aReorg: fc.Arbitrary<Reorg> = fc.record({
  depth: fc.constantFrom(1, 1, 2, 3, 4, 6, 9),
  longer: fc.constantFrom(0, 1, 1, 2, -1),
  fates: fc.array(fc.constantFrom('dropped', 'waits', 'again'), { minLength: 1, maxLength: 3 }),
  turned: fc.boolean(),
})
const aLine: fc.Arbitrary<Line> = fc.record({
  seller: fc.constantFrom('routed', 'routed', 'unrouted'),
  trigger: fc.constantFrom('confirmed', 'finalized'),
})
const aPay: fc.Arbitrary<Pay> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      slot,
      units: fc.constantFrom(5, 5, 1, 2, 3),
      gateway: fc.constant(0),
      token: fc.constant(0),
      forged: fc.constant(false),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      slot: fc.constantFrom(0, 1, 2, SLOTS),
      units: fc.constantFrom(1, 4, 9, 0, null),
      gateway: fc.constantFrom(0, 0, 1),
      token: fc.constantFrom(0, 1, 1, null),
      forged: fc.constantFrom(false, false, true),
    }),
  },
)
const aTrust: fc.Arbitrary<Trust> = fc.record({
  gateway: fc.constantFrom(0, 0, 1),
  token: fc.constantFrom(0, 1),
  until: fc.constantFrom('never', 'soon', 'forever', 'forever'),
  forged: fc.constantFrom(false, false, false, true),
})
const aPoll: fc.Arbitrary<Poll> = fc.record({
  do: fc.constant('poll'),
  by: fc.constantFrom(0, 0, 0, 1),
  lag: fc.constantFrom(0, 0, 0, 0, 1, 3),
  faults: fc.oneof(
    { weight: 3, arbitrary: fc.constant<Fault[]>([]) },
    {
      weight: 2,
      arbitrary: fc.array(
        fc.record({
          method: fc.constantFrom(...SOURCE_METHODS),
          after: fc.constantFrom(0, 0, 1, 2, 4),
          calls: fc.constantFrom(1, 2, 100),
        }),
        { minLength: 1, maxLength: 2 },
      ),
    },
  ),
  forget: fc.option(fc.nat(9), { freq: 5, nil: undefined }),
  during: fc.option(
    fc.record({
      call: fc.integer({ min: 1, max: 9 }),
      what: fc.oneof(
        fc.record({ do: fc.constant('mine' as const) }),
        fc.record({ do: fc.constant('reorg' as const), how: aReorg }),
        fc.record({ do: fc.constant('place' as const), slot }),
        fc.record({ do: fc.constant('cancel' as const), slot }),
        fc.record({ do: fc.constant('takeOver' as const) }),
      ),
    }),
    { freq: 3, nil: undefined },
  ),
})

const aCommand: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant('place' as const), slot }),
  },
  {
    weight: 9,
    arbitrary: fc.record({
      do: fc.constant('pay' as const),
      payments: fc.array(aPay, { minLength: 1, maxLength: 2 }),
      mined: fc.constantFrom(false, true, true),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('trust' as const),
      words: fc.array(aTrust, { minLength: 1, maxLength: 2 }),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ do: 'noise' as const }) },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('mine' as const),
      transactions: fc.array(fc.constantFrom(9, 9, 1, 0), { minLength: 1, maxLength: 4 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('wait' as const), blocks: fc.constantFrom(5, 70) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('reorg' as const), how: aReorg }) },
  { weight: 1, arbitrary: fc.constant({ do: 'stall' as const }) },
  { weight: 12, arbitrary: aPoll },
  { weight: 4, arbitrary: fc.constant({ do: 'rest' as const }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('restart' as const), by: fc.nat(1) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('cancel' as const), slot: fc.constantFrom(0, 1, 2) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('work' as const),
      answer: fc.constantFrom('ok', 'ok', 'inProgress', 'ambiguous', 'nothing'),
    }),
  },
)

const aSetting: fc.Arbitrary<Setting> = fc.record({
  kind: fc.constantFrom('indexer', 'indexer', 'node'),
  anchor: fc.constantFrom('nobody', 'enforced', 'shadow'),
  confirm: fc.constantFrom(2, 2, 2, 0),
  finalize: fc.constantFrom(4, 4, 4, 0),
  unit: fc.constantFrom(1n, 10n ** 18n),
  orders: fc.array(
    fc.record({
      price: fc.integer({ min: 1, max: 5 }),
      gateways: fc.constantFrom([0], [0], [0], [0, 1], [1]),
      lines: fc.uniqueArray(aLine, {
        minLength: 1,
        maxLength: 3,
        selector: ({ seller, trigger }) => `${seller} ${trigger}`,
      }),
      /** Placed before anything happens. */
      isEarly: fc.constantFrom(true, true, false),
    }),
    { minLength: SLOTS, maxLength: SLOTS },
  ),
})

type Job = {
  seller: string
  trigger: FulfillmentTrigger
  lines: number[]
  status: string
  reason: string | null
  attempts: number
  due: boolean
}
type Standing = {
  order_id: string
  status: string
  paid_at: string | null
  confirmed_at: string | null
  finalized_at: string | null
  cancelled_at: string | null
  payment_reverted_at: string | null
  paid_amount_wei: string
  paid_tx_hash: string | null
  paid_log_index: number | null
  settle_at_block: number | null
  jobs: Job[]
  history: { from: string | null; to: string; told: number }[]
  held: number
}
type Placed = {
  orderId: string
  reference: string
  priceWei: bigint
  gateways: string[]
  lines: Line[]
  /** Triggers it has ever reached. */
  reached: Set<FulfillmentTrigger>
}

let chains = 1000

/** A chain and a market of its own in the common database. */
async function startHistory(setting: Setting) {
  chains += 1
  const chainId = chains
  const { kind, anchor, confirm, finalize, unit, orders } = setting
  const factories = kind === 'node' || anchor !== 'nobody' ? [FACTORY] : undefined
  const chain = createChain()
  const source = connectSimulated(chain, kind, [FACTORY])
  const book: Book = { confirm, finalize, factories: anchor === 'enforced' || kind === 'node' ? [FACTORY] : undefined }
  let nowMs = START_SECONDS * 1000
  let answer = 'ok'
  /** Orders whose payment was said to be gone for good, since the last look. */
  let alerts = new Set<unknown>()
  const quiet = () => {}
  const silent: Log = {
    debug: quiet,
    info: quiet,
    warn: quiet,
    error: (fields, message) => void (/reverted/.test(message) && alerts.add((fields as { orderId: unknown }).orderId)),
    child: () => silent,
  }
  /** Two replicas. */
  const replicas = [0, 1].map((n): MarketContext => ({
    ...market.ctx,
    instance: `replica ${n} of ${chainId}`,
    now: () => new Date(nowMs),
    log: silent,
    paymentSource: source,
    paymentMemory: createPaymentMemory(),
    config: {
      ...market.ctx.config,
      CHAIN_ID: chainId,
      CONFIRM_CONFIRMATIONS: confirm,
      FINALIZE_CONFIRMATIONS: finalize,
      PAYMENT_GATEWAY_FACTORY: factories,
      PAYMENT_GATEWAY_FACTORY_ENFORCED: factories !== undefined && anchor !== 'shadow',
    },
    adapters: {
      ...market.ctx.adapters,
      fulfill: async () =>
        answer === 'nothing'
          ? { kind: 'failed', httpStatus: null, error: 'timeout' }
          : { kind: 'answered', httpStatus: answer === 'inProgress' ? 202 : 200, body: { status: answer } },
    },
  }))
  const { db } = market.ctx
  await db
    .insertInto('market_service_routes')
    .values({
      chain_id: chainId,
      seller_address: SELLERS.routed,
      sku: 'tea',
      offer_type: 'codedispenser',
      total_inventory: null,
    })
    .execute()

  const references = Array.from({ length: SLOTS + 1 }, () => newReference(market.ctx.random16()))
  const placed: (Placed | undefined)[] = Array.from({ length: SLOTS })
  let standings = new Map<string, Standing>()
  /** The chain as it was at one time or another of the poll. */
  let states: Block[][] = []
  /** As it was at any look since nothing was left to do. */
  let seen: Block[][] = []
  let longest = 0
  function remember() {
    states.push([...chain.blocks])
    seen.push([...chain.blocks])
    longest = Math.max(longest, chain.blocks.length)
  }

  const expire = () =>
    sql`update leases set expires_at = now() - interval '1 second' where name = 'payments'`.execute(db)

  async function place(n: number) {
    if (placed[n]) return
    const { price, gateways, lines } = orders[n]!
    const orderId = newOrderId(market.ctx.random16())
    const order: Placed = {
      orderId,
      reference: references[n]!,
      priceWei: BigInt(price) * unit,
      gateways: gateways.map((g) => GATEWAYS[g]!),
      lines,
      reached: new Set(),
    }
    placed[n] = order
    await inTransaction(db, (tx) =>
      insertOrder(tx, {
        orderId,
        basketId: `bkt_${orderId.slice(4).toLowerCase()}`,
        chainId,
        buyer: BUYER,
        paymentReference: order.reference,
        priceWei: order.priceWei,
        expectedGateways: order.gateways,
        snapshot: {
          orderNumber: orderId,
          paymentReference: order.reference,
          customer: { '@type': 'Person', '@id': `eip155:${chainId}:${BUYER}`, givenName: 'Ada', familyName: 'L' },
          acceptedOffer: lines.map(() => ({ requiredSlots: [] })),
          orderedItem: [],
        } as unknown as OrderSnapshot,
        lines: lines.map(({ seller, trigger }, lineIndex) => ({
          lineIndex,
          seller: SELLERS[seller],
          sku: 'tea',
          quantity: 1,
          trigger,
          linkKeccak: `0x${'00'.repeat(32)}`,
        })),
        createdAt: new Date(nowMs),
        paymentDueBy: new Date(nowMs),
        listed: true,
        placedFrom: null,
      }),
    )
  }

  async function cancel(n: number) {
    const order = placed[n]
    if (!order) return
    await inTransaction(db, async (tx) => {
      const { status } = await tx
        .selectFrom('orders')
        .select('status')
        .where('order_id', '=', order.orderId)
        .forUpdate()
        .executeTakeFirstOrThrow()
      if (status === OrderStatus.paymentDue) await closeUnpaid(replicas[0]!, tx, [order.orderId], 'expired')
    })
  }

  async function interject(what: Interjection) {
    if (what.do === 'mine') chain.mine(9)
    if (what.do === 'reorg') chain.reorg(what.how)
    remember()
    if (what.do === 'place') await place(what.slot)
    if (what.do === 'cancel') await cancel(what.slot)
    if (what.do === 'takeOver') {
      await expire()
      await pollOnce(1)
    }
  }

  /** Whether it went well to its end, and there is more to read. */
  async function pollOnce(by: number): Promise<{ isWell: boolean; more: boolean }> {
    try {
      return { isWell: true, more: await pollPayments(replicas[by]!) }
    } catch (error) {
      if (!(error instanceof PaymentSourceError || error instanceof LeaseLostError)) throw error
      return { isWell: false, more: true }
    }
  }

  async function poll({ by, lag, faults, forget, during }: Omit<Poll, 'do'>): Promise<void> {
    nowMs += 2000
    for (const fault of faults) source.fault(fault)
    if (forget !== undefined) source.forget(forget)
    source.lag(lag)
    if (during) source.interject(during.call, () => interject(during.what))
    await expire()
    states = []
    alerts = new Set()
    remember()
    const showsAll = source.showsAll()
    const before = standings
    await pollOnce(by)
    const heard = await observedAt()
    standings = await readStandings()
    checkMoves(before, {
      showsAll,
      isWhole: forget === undefined,
      isSmooth: showsAll && faults.length === 0 && !during,
    })
    if (heard === nowMs && showsAll) await checkObserved(states[0]!)
    source.heal()
  }

  /** Until nothing is left to do, with a source that works and a chain that is past where it was before a reorg. */
  async function rest(): Promise<void> {
    while (chain.blocks.length < longest) chain.mine(0)
    source.heal()
    source.unstall()
    nowMs += 2000
    await expire()
    states = []
    alerts = new Set()
    remember()
    const before = standings
    for (let round = 0; ; round += 1) {
      const { isWell, more } = await pollOnce(0)
      expect(isWell, 'a poll that nothing disturbs goes well').toBe(true)
      if (!more) break
      expect(round, 'a poll comes to an end').toBeLessThan(20)
    }
    standings = await readStandings()
    checkMoves(before, { showsAll: true, isWhole: true, isSmooth: true })
    seen = []
    remember()
    await checkRest()
    await pollOnce(0)
    expect(await readStandings(), 'one poll more changes nothing').toEqual(standings)
  }

  async function observedAt(): Promise<number | undefined> {
    const row = await db
      .selectFrom('payments_observed')
      .select('observed_at')
      .where('chain_id', '=', chainId)
      .executeTakeFirst()
    return row?.observed_at.getTime()
  }

  async function readStandings(): Promise<Map<string, Standing>> {
    const { rows } = await sql<{ standing: Standing }>`
      select jsonb_build_object('order_id', order_id, 'status', status, 'paid_at', paid_at, 'confirmed_at', confirmed_at,
        'finalized_at', finalized_at, 'cancelled_at', cancelled_at, 'payment_reverted_at', payment_reverted_at,
        'paid_amount_wei', paid_amount_wei::text, 'paid_tx_hash', paid_tx_hash, 'paid_log_index', paid_log_index,
        'settle_at_block', settle_at_block,
        'held', (select count(*) from order_events_held h where h.order_id = o.order_id),
        'jobs', (select coalesce(jsonb_agg(jsonb_build_object('seller', seller_address, 'trigger', trigger,
            'lines', line_indexes, 'status', status, 'reason', reason, 'attempts', attempts,
            'due', next_attempt_at is not null) order by seller_address, trigger), '[]')
          from fulfillment_jobs j where j.order_id = o.order_id),
        'history', (select jsonb_agg(jsonb_build_object('from', old_status, 'to', new_status,
            'told', (select count(*) from order_events e where e.history_id = h.id)) order by id)
          from orders_status_history h where h.order_id = o.order_id)) as standing
      from orders o where chain_id = ${chainId}`.execute(db)
    return new Map(rows.map(({ standing }) => [standing.order_id, standing]))
  }

  /** What no poll may do, however it went. */
  function checkMoves(
    before: Map<string, Standing>,
    { showsAll, isWhole, isSmooth }: Record<'showsAll' | 'isWhole' | 'isSmooth', boolean>,
  ) {
    for (const order of placed) {
      if (!order) continue
      const now = standings.get(order.orderId)!
      const was = before.get(order.orderId)
      const worths = states.map((blocks) => worthOf(blocks, order, book))
      const label = (promise: string) => `${promise}: ${order.orderId} of slot ${placed.indexOf(order)}`
      const isNew = (column: 'paid_at' | 'confirmed_at' | 'finalized_at') => now[column] !== null && !was?.[column]

      // Without anything to say how deep, it may be on record that a payment was there, or was gone.
      const lately = seen.map((blocks) => worthOf(blocks, order, book))
      const isPaid = lately.map(({ paidBy }) => paidBy !== undefined)
      if (isNew('paid_at') && showsAll) expect(isPaid, label('paid only by what was there')).toContain(true)
      // A payment that a source leaves out may be taken for another of its transaction; nothing but its log tells them apart.
      if (isNew('confirmed_at') && isWhole) {
        const deep = confirm === 0 || finalize === 0 ? lately : worths
        expect(
          deep.map(({ confirmed }) => confirmed),
          label('confirmed only what is as deep'),
        ).toContain(true)
      }
      if (isNew('finalized_at') && isWhole) {
        const deep = finalize === 0 ? lately : worths
        expect(
          deep.map(({ complete }) => complete),
          label('complete only what is final'),
        ).toContain(true)
      }
      if (was?.paid_at && !now.paid_at) {
        expect(was.finalized_at, label('complete stays complete')).toBeNull()
        expect(was.jobs.filter(isBegun), label('begun stays paid')).toEqual([])
        if (isSmooth) expect(isPaid, label('taken back only what was gone')).toContain(false)
      }
      if (now.payment_reverted_at && !was?.payment_reverted_at) {
        expect(alerts, label('somebody is told that the money is gone')).toContain(order.orderId)
      }
      if (was?.finalized_at) {
        for (const column of ['status', 'paid_at', 'confirmed_at', 'finalized_at'] as const) {
          expect(now[column], label(`complete keeps its ${column}`)).toEqual(was[column])
        }
      }
      if (was?.cancelled_at) expect(now.status, label('cancelled stays cancelled')).toBe(OrderStatus.cancelled)

      expect(now.status, label('the status that its times say')).toBe(statusOf(now))
      expect(now.history[0], label('made once')).toEqual({ from: null, to: OrderStatus.paymentDue, told: 0 })
      expect(now.history.at(-1)!.to, label('history ends with the status')).toBe(now.status)
      for (const [n, { from, to, told }] of now.history.entries()) {
        if (n === 0) continue
        expect(from, label('history is a chain')).toBe(now.history[n - 1]!.to)
        expect(ALLOWED, label('a step that exists')).toContain(`${nameOf(from!)} ${nameOf(to)}`)
        const isHeld = to === OrderStatus.paymentComplete && now.held === 1
        expect(told, label(`told once of ${nameOf(to)}`)).toBe(isHeld ? 0 : 1)
      }

      if (now.confirmed_at) order.reached.add('confirmed')
      if (now.finalized_at) order.reached.add('finalized')
      // There and back within one poll.
      const jobOf = (trigger: FulfillmentTrigger) => now.jobs.some((job) => job.trigger === trigger)
      if (jobOf('confirmed') && (!isWhole || worths.some(({ confirmed }) => confirmed))) order.reached.add('confirmed')
      const lines = order.lines.map(({ seller, trigger }, n) => ({ seller: SELLERS[seller], trigger, lines: [n] }))
      const ordered = lines
        .filter(({ trigger }) => order.reached.has(trigger))
        .toSorted((a, b) => (a.seller + a.trigger < b.seller + b.trigger ? -1 : 1))
      expect(
        now.jobs.map(({ seller, trigger, lines: of }) => ({ seller, trigger, lines: of })),
        label('each job once, when it is due'),
      ).toEqual(ordered)
      for (const job of now.jobs) {
        if (isBegun(job) || !job.due) continue
        expect(now.payment_reverted_at, label('no delivery begins without the money')).toBeNull()
        expect(now.cancelled_at, label('no delivery of what is cancelled')).toBeNull()
        const at = job.trigger === 'confirmed' ? now.confirmed_at : now.finalized_at
        expect(at, label(`no delivery before it is ${job.trigger}`)).not.toBeNull()
      }
    }
  }

  /** "All that the source knew then is stored": orders are cancelled for it. */
  async function checkObserved(blocks: Block[]) {
    const stillThere = new Set(states.at(-1)!.map(({ hash }) => hash))
    const rows = await transferRows()
    for (const log of readable(blocks.filter(({ hash }) => stillThere.has(hash)))) {
      expect(rows, 'what was there before a poll that saw all').toContainEqual(log)
    }
  }

  const transferRows = async () =>
    (
      await db
        .selectFrom('payment_transfers')
        .select(['tx_hash', 'log_index', 'block_number', 'transaction_index'])
        .where('chain_id', '=', chainId)
        .where('orphaned_at', 'is', null)
        .orderBy('block_number')
        .orderBy('log_index')
        .execute()
    ).map((row) => ({ ...row, block_number: Number(row.block_number) }))

  const readable = (blocks: readonly Block[]) =>
    blocks.flatMap(({ logs }) =>
      logs
        .filter(({ entry }) => entry.kind === 'payment' && (kind === 'indexer' || entry.emitter === FACTORY))
        .map((log) => ({
          tx_hash: log.txHash,
          log_index: log.logIndex,
          block_number: log.blockNumber,
          transaction_index: log.transactionIndex,
        })),
    )

  /** What the database has to say when nothing is left to do. */
  async function checkRest() {
    for (const [n, order] of placed.entries()) {
      if (!order) continue
      const now = standings.get(order.orderId)!
      const worth = worthOf(chain.blocks, order, book)
      const label = (promise: string) => `${promise}: ${order.orderId} of slot ${n}`
      expect(BigInt(now.paid_amount_wei), label('amount')).toBe(worth.seenWei)
      const isGone = now.cancelled_at !== null || (now.paid_at === null ? worth.paidBy === undefined : false)
      for (const job of now.jobs.filter((any) => !isBegun(any))) {
        const isHeld = isGone || now.payment_reverted_at !== null
        const at = job.trigger === 'confirmed' ? now.confirmed_at : now.finalized_at
        if (isHeld) expect(job, label('held')).toMatchObject({ reason: 'payment_reverted', due: false })
        else if (at && job.seller === SELLERS.routed)
          expect(job, label('due')).toMatchObject({ status: 'pending', due: true })
        else if (at) expect(job, label('waits')).toMatchObject({ reason: 'route_not_found', due: false })
      }
      if (now.cancelled_at) {
        expect(now, label('cancelled')).toMatchObject({ paid_at: null, settle_at_block: null })
        continue
      }
      if (worth.paidBy) {
        expect(now.paid_at, label('paid')).not.toBeNull()
        expect({ txHash: now.paid_tx_hash, logIndex: now.paid_log_index }, label('paid by')).toEqual(worth.paidBy)
        expect(now.payment_reverted_at, label('not reverted')).toBeNull()
      } else if (now.paid_at) {
        expect(now.finalized_at !== null || now.jobs.some(isBegun), label('paid without money')).toBe(true)
        expect(now.payment_reverted_at, label('reverted')).not.toBeNull()
      }
      if (worth.confirmed) expect(now.confirmed_at, label('confirmed')).not.toBeNull()
      if (worth.complete) expect(now.finalized_at, label('complete')).not.toBeNull()
      expect(now.settle_at_block, label('looked at again')).toBe(worth.next ?? null)
    }
    expect(await transferRows(), 'what is on record as in the chain').toEqual(readable(chain.blocks))
    const doubts = await sql<{ n: number }>`
      select count(*)::integer as n from payment_transfers where chain_id = ${chainId} and orphaned_at is null
        and (doubted_at is not null or (verdict_due and ignored_reason is null))`.execute(db)
    expect(doubts.rows[0]!.n, 'nothing is in doubt').toBe(0)
  }

  const entriesOfTrust = (words: Trust[]): Entry[] =>
    words.map(({ gateway, token, until, forged }) => ({
      kind: 'trust',
      gateway: GATEWAYS[gateway]!,
      avatar: address(0xa0 + token),
      expirySeconds: { never: 0n, soon: BigInt(START_SECONDS + chain.blocks.length * 5 + 7), forever: FOREVER }[until],
      emitter: forged ? FORGER : FACTORY,
    }))

  async function run(command: Command): Promise<void> {
    switch (command.do) {
      case 'place':
        return place(command.slot)
      case 'pay':
        chain.submit(
          command.payments.map((pay) => ({
            kind: 'payment',
            reference: references[pay.slot]!,
            gateway: GATEWAYS[pay.gateway]!,
            token: pay.token === null ? null : BigInt(address(0xa0 + pay.token)),
            amountWei: pay.units === null ? null : BigInt(pay.units) * unit,
            emitter: pay.forged ? FORGER : FACTORY,
          })),
        )
        if (command.mined) chain.mine(9)
        return
      case 'trust':
        return chain.submit(entriesOfTrust(command.words))
      case 'noise':
        return chain.submit([{ kind: 'noise' }])
      case 'mine':
        for (const transactions of command.transactions) chain.mine(transactions)
        return
      case 'wait':
        // What the source left out must have been in sight before it is out of sight for good.
        if (command.blocks > 60) await rest()
        for (let n = 0; n < command.blocks; n += 1) chain.mine(9)
        return
      case 'reorg':
        return chain.reorg(command.how)
      case 'stall':
        await rest()
        return source.stall()
      case 'poll':
        return poll(command)
      case 'rest':
        return rest()
      case 'restart':
        replicas[command.by]!.paymentMemory = createPaymentMemory()
        return
      case 'cancel':
        return cancel(command.slot)
      case 'work':
        answer = command.answer
        await runFulfillmentJob(replicas[0]!)
        standings = await readStandings()
    }
  }

  return {
    async play(commands: Command[]) {
      chain.submit(entriesOfTrust([{ gateway: 0, token: 0, until: 'forever', forged: false }]))
      // Deep enough that few reorgs take it back.
      for (let n = 0; n < 8; n += 1) chain.mine(1)
      for (const [n, { isEarly }] of orders.entries()) if (isEarly) await place(n)
      for (const command of commands) await run(command)
      await rest()
      for (let n = 0; n <= Math.max(confirm, finalize); n += 1) chain.mine(9)
      await rest()
    },
    async forget() {
      await sql`update fulfillment_jobs set next_attempt_at = null where chain_id = ${chainId}`.execute(db)
    },
  }
}

const isBegun = ({ attempts }: Job) => attempts > 0
const nameOf = (status: string) => status.split('/').at(-1)
const ALLOWED = [
  'OrderPaymentDue PaymentProcessing',
  'OrderPaymentDue OrderCancelled',
  'PaymentProcessing OrderPaymentDue',
  'PaymentProcessing PaymentComplete',
]
const statusOf = ({ cancelled_at, finalized_at, paid_at }: Standing) =>
  cancelled_at
    ? OrderStatus.cancelled
    : finalized_at
      ? OrderStatus.paymentComplete
      : paid_at
        ? OrderStatus.paymentProcessing
        : OrderStatus.paymentDue

// Histories that once came out wrong, and why.

const PLAIN: Setting = {
  kind: 'indexer',
  anchor: 'nobody',
  confirm: 2,
  finalize: 4,
  unit: 1n,
  orders: Array.from({ length: SLOTS }, (_, n) => ({
    price: 2,
    gateways: [0],
    lines: [{ seller: 'routed', trigger: 'confirmed' }],
    isEarly: n < 2,
  })),
}
const pay = (...payments: [slot: number, units: number][]): Command => ({
  do: 'pay',
  payments: payments.map(([to, units]) => ({ slot: to, units, gateway: 0, token: 0, forged: false })),
  mined: false,
})
const mine = (blocks = 1): Command => ({ do: 'mine', transactions: Array.from({ length: blocks }, () => 9) })
const poll = (how: Partial<Poll> = {}): Command => ({
  do: 'poll',
  by: 0,
  lag: 0,
  faults: [],
  forget: undefined,
  during: undefined,
  ...how,
})
const reorg = (depth: number, fate: Fate, longer = 0, turned = false): Command => ({
  do: 'reorg',
  how: { depth, longer, fates: [fate], turned },
})
const rest: Command = { do: 'rest' }
const noHead = { faults: [{ method: 'readHead', after: 0, calls: 1 }] } as const

/** `moves`: of them depends by how much the logs of the other branch are shifted. Six of each are played. */
const HISTORIES: Record<string, (moves: Command[], n: number) => Command[]> = {
  'counts a payment once that is mined again some logs on': (moves) => [
    pay([0, 2]),
    mine(),
    rest,
    ...moves,
    reorg(1, 'again'),
  ],
  'follows two payments of one transaction to where they stand now': (moves) => [
    pay([0, 1], [0, 2]),
    mine(),
    rest,
    ...moves,
    reorg(1, 'again'),
    poll(),
  ],
  'takes the credit from the order whose place in the log another got': (moves) => [
    pay([1, 2], [0, 2]),
    mine(),
    rest,
    ...moves,
    reorg(1, 'again'),
  ],
  'believes no stale amount where the source left the new one out': (moves) => [
    pay([0, 5], [0, 1]),
    mine(),
    rest,
    ...moves,
    reorg(1, 'again'),
    poll({ forget: 0 }),
  ],
  'reads on from the fork, however long nobody looked': () => [
    pay([1, 2]),
    mine(),
    pay([1, 2]),
    mine(),
    rest,
    pay([0, 2]),
    reorg(2, 'dropped', -2),
    mine(75),
    rest,
  ],
  'says of a complete order that its money is gone, until it is back': () => [
    pay([0, 2]),
    mine(6),
    rest,
    reorg(7, 'waits'),
    poll(),
    rest,
    mine(),
    rest,
  ],
  'takes nothing back that is being delivered': () => [
    pay([0, 2]),
    mine(3),
    rest,
    { do: 'work', answer: 'inProgress' },
    reorg(4, 'waits'),
    poll(),
    rest,
    mine(),
  ],
  'delivers nothing for new money before it is confirmed': () => [
    pay([0, 2]),
    mine(3),
    rest,
    reorg(4, 'dropped'),
    poll(),
    pay([0, 2]),
    mine(),
    rest,
  ],
  'finds the payment that was mined while it asked, and gone again': (moves) => [
    pay([0, 2]),
    poll({ during: { call: 2, what: { do: 'mine' } } }),
    mine(),
    ...moves,
    reorg(2, 'waits'),
    mine(1),
    mine(1),
  ],
  'finds what moved in a block that it had no head for': (moves) => [
    pay([0, 1], [0, 2]),
    mine(),
    poll(noHead),
    ...moves,
    reorg(1, 'again'),
  ],
  'is not fooled by rounds that end early': () => [
    pay([0, 2]),
    mine(),
    poll({ faults: [{ method: 'readPayments', after: 1, calls: 100 }] }),
    reorg(1, 'dropped'),
    mine(5),
    poll({ faults: [{ method: 'readPayments', after: 1, calls: 100 }] }),
  ],
  'pays an order that is placed while its payment is judged': (_, n) => [
    pay([2, 2], [0, 2]),
    mine(),
    poll({ during: { call: n + 1, what: { do: 'place', slot: 2 } } }),
  ],
  'judges a transfer anew that stands before or behind the word on its token now': () => [
    { do: 'trust', words: [{ gateway: 0, token: 1, until: 'forever', forged: false }] },
    mine(),
    { do: 'pay', payments: [{ slot: 0, units: 2, gateway: 0, token: 1, forged: false }], mined: true },
    rest,
    reorg(2, 'again', 0, true),
    rest,
    reorg(3, 'again', 0, true),
    rest,
  ],
  'takes no word of an indexer that did not see the reorg': () => [
    pay([0, 2]),
    mine(),
    { do: 'stall' },
    reorg(1, 'dropped'),
    mine(5),
    poll(),
    poll(),
  ],
  'judges a token by the branch that is there, whoever leads': () => [
    { do: 'trust', words: [{ gateway: 0, token: 1, until: 'forever', forged: false }] },
    mine(),
    { do: 'pay', payments: [{ slot: 1, units: 2, gateway: 0, token: 1, forged: false }], mined: true },
    poll({ by: 0 }),
    { do: 'pay', payments: [{ slot: 0, units: 2, gateway: 0, token: 1, forged: false }], mined: false },
    reorg(2, 'dropped', -1),
    mine(),
    poll({ by: 1, forget: 0 }),
    poll({ by: 0 }),
  ],
  'judges a token by no word that an indexer had of another branch': () => [
    { do: 'trust', words: [{ gateway: 0, token: 0, until: 'never', forged: false }] },
    { do: 'pay', payments: [{ slot: 0, units: 5, gateway: 0, token: 0, forged: false }], mined: true },
    { do: 'stall' },
    reorg(4, 'again'),
    poll(),
  ],
  'takes a payment of a shorter branch for no deeper than it is there': () => [
    { do: 'pay', payments: [{ slot: 0, units: 5, gateway: 0, token: 0, forged: false }], mined: false },
    { do: 'pay', payments: [{ slot: 1, units: 5, gateway: 0, token: 0, forged: false }], mined: true },
    poll({
      during: { call: 2, what: { do: 'reorg', how: { depth: 4, longer: -1, fates: ['again'], turned: false } } },
    }),
  ],
}

it.each(Object.entries(HISTORIES))('%s', async (_, history) => {
  for (const kind of ['indexer', 'node'] as const) {
    for (let n = 0; n < 6; n += 1) {
      const moves = Array.from({ length: n % 3 }, (): Command => ({ do: 'noise' }))
      await play({ ...PLAIN, kind }, history(moves, n))
    }
  }
})

async function play(setting: Setting, commands: Command[]): Promise<void> {
  const history = await startHistory(setting)
  try {
    await history.play(commands)
  } finally {
    await history.forget()
  }
}

it(
  'stands every order where the chain says, whatever happened on the way',
  async () => {
    await fc.assert(
      fc.asyncProperty(aSetting, fc.noBias(fc.array(aCommand, { minLength: 1, maxLength: 30, size: 'max' })), play),
      { numRuns: RUNS, seed: SEED, interruptAfterTimeLimit: PATIENCE_MS },
    )
  },
  PATIENCE_MS + 60_000,
)
