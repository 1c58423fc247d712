import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { weiFromDecimal } from '@market/contracts/money'
import { OrderStatus } from '@market/contracts/statuses'
import { inTransaction } from '@market/kit/db'
import { acquireLease } from '@market/kit/lease'
import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { insertJobs } from '../src/fulfillment/insertJobs.ts'
import { takeLeadership } from '../src/payments/leadership.ts'
import { storePage } from '../src/payments/observeTransfers.ts'
import { type ExplainedOrder, explainPayment } from '../src/payments/operators/explainPayment.ts'
import { listPaymentOrders, PAYMENT_STATES, type PaymentState } from '../src/payments/operators/listPaymentOrders.ts'
import { listUnmatched } from '../src/payments/operators/listUnmatched.ts'
import { MANY, readPaymentsStatus } from '../src/payments/operators/readPaymentsStatus.ts'
import { NotKnownError, type TransferVerdict } from '../src/payments/operators/records.ts'
import { ReplayRefusedError, replayPayments } from '../src/payments/operators/replayPayments.ts'
import { createPaymentMemory } from '../src/payments/paymentMemory.ts'
import type { PaymentLog, TrustLog } from '../src/payments/paymentSource.ts'
import { pollPayments } from '../src/payments/pollPayments.ts'
import { settleOrders } from '../src/payments/settleOrders.ts'
import { avatarOfToken } from '../src/payments/trust.ts'
import { GATEWAY, type Orders, PERSONAL, startOrders } from './orderWorld.ts'

const script = new URL('../../scripts/dist/ops.js', import.meta.url).pathname
const HEAD = 2000
const OTHER_GATEWAY = `0x${'8'.repeat(40)}`
const PAYER = `0x${'7'.repeat(40)}`
const TOKEN = 0xa1n
const DEPTHS = { confirm: 3, finalize: 12 }

let world: Orders
beforeAll(async () => {
  world = await startOrders()
})
afterAll(() => world.close())

beforeEach(async () => {
  const { db, ctx } = world
  await sql`truncate orders, order_lines, order_sellers, orders_status_history, order_events, order_event_audience,
    order_events_held, fulfillment_jobs, fulfillment_job_events, order_outbox, stock_reservations, payment_transfers,
    payment_row_errors, payments_cursors, payments_observed, payments_checkpoints, payment_gateways, seller_gateways,
    leases cascade`.execute(db)
  ctx.paymentMemory = createPaymentMemory()
  await sql`insert into payments_observed (chain_id, observed_at, head_block) values (100, now(), ${HEAD})`.execute(db)
  await sql`insert into payments_cursors values (100, ${HEAD - 10}, 0, 0)`.execute(db)
  await sql`insert into payment_gateways (chain_id, gateway_address, owner_address)
    values (100, ${GATEWAY}, ${`0x${'5'.repeat(40)}`})`.execute(db)
  await acquireLease(db, 'payments', ctx.instance, 3600)
})

type Ran = { code: number; stdout: string; stderr: string }

function ops(...args: string[]): Promise<Ran> {
  return opsWith({}, ...args)
}
function opsWith(env: Record<string, string>, ...args: string[]): Promise<Ran> {
  const connection = world.ctx.config.POSTGRES_CONNECTION.reveal()
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [script, ...args],
      { env: { PATH: process.env.PATH, OPS_MARKET_URL: connection, ...env } },
      (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
    )
    child.stdin!.end()
  })
}
async function opsJson(...args: string[]) {
  const { code, stdout } = await ops('--json', 'payments', ...args)
  // Every test reads what it asserts.
  return { code, ...(JSON.parse(stdout) as Record<string, any>) } as Record<string, any>
}

type Order = { orderId: string; reference: string }
type OrderOptions = { price?: number; createdAt?: Date; paymentDueBy?: Date; chainId?: number }

async function order({ price = 10, ...options }: OrderOptions = {}): Promise<Order> {
  const orderId = await world.place({ lines: [{ seller: PAYER, sku: 'tea', price }], ...options })
  const row = await world.db
    .selectFrom('orders')
    .select('payment_reference')
    .where('order_id', '=', orderId)
    .executeTakeFirstOrThrow()
  return { orderId, reference: row.payment_reference }
}

type TransferOptions = {
  crc?: string | null
  block?: number
  gateway?: string
  eligible?: boolean | null
  verdictDue?: boolean
  ignored?: string | null
  observedAt?: Date
  orphaned?: boolean
  doubted?: boolean
  tx?: string
  logIndex?: number
  chainId?: number
}

const hashes = () => `0x${randomBytes(32).toString('hex')}`

async function transfer(reference: string, options: TransferOptions = {}): Promise<string> {
  const { crc = '10', block = 1000, gateway = GATEWAY, eligible = true, ignored = null, tx = hashes() } = options
  await world.db
    .insertInto('payment_transfers')
    .values({
      chain_id: options.chainId ?? 100,
      tx_hash: tx,
      log_index: options.logIndex ?? 0,
      block_number: block,
      transaction_index: 0,
      block_hash: null,
      block_time: new Date(Date.UTC(2026, 0, 31, 12, 5)),
      payment_reference: reference,
      gateway_address: gateway,
      payer_address: PAYER,
      payee_address: null,
      token_id: TOKEN.toString(),
      token_avatar: avatarOfToken(TOKEN),
      amount_wei: crc === null ? null : weiFromDecimal(crc).toString(),
      eligible,
      ignored_reason: ignored,
      verdict_due: options.verdictDue ?? eligible === null,
      observed_at: options.observedAt ?? new Date(),
      orphaned_at: options.orphaned ? new Date() : null,
      doubted_at: options.doubted ? new Date() : null,
    })
    .execute()
  return tx
}

/** By the market's own rule. */
const settled = (...orders: Order[]) =>
  inTransaction(world.db, (tx) =>
    settleOrders(
      world.ctx,
      tx,
      orders.map(({ orderId }) => orderId),
      HEAD,
    ),
  )

async function paidOrder(transfers: TransferOptions, options: OrderOptions = {}): Promise<Order> {
  const made = await order(options)
  await transfer(made.reference, transfers)
  await settled(made)
  return made
}

async function rowError(gateway: string | null, block: number, seenAt = new Date()): Promise<void> {
  await world.db
    .insertInto('payment_row_errors')
    .values({
      chain_id: 100,
      block_number: block,
      transaction_index: 0,
      log_index: 0,
      tx_hash: `0x${'e'.repeat(64)}`,
      gateway_address: gateway,
      payer_address: PAYER,
      token_id: null,
      amount_wei: weiFromDecimal('2.5').toString(),
      reason: 'no_reference',
      seen_at: seenAt,
    })
    .execute()
}

const HOUR = 3_600_000
const ago = (ms: number) => new Date(Date.now() - ms)
const longAgo = () => ago(30 * 24 * HOUR)

async function reverted(): Promise<Order> {
  const made = await order()
  const tx = await transfer(made.reference)
  await settled(made)
  await world.db.updateTable('payment_transfers').set({ orphaned_at: new Date() }).where('tx_hash', '=', tx).execute()
  await settled(made)
  return made
}

async function late(): Promise<Order> {
  const made = await order({ createdAt: longAgo() })
  await world.cancel(made.orderId)
  await transfer(made.reference, { crc: '4' })
  await settled(made)
  return made
}

/** An order for each state; of those that need a person only with time, one that does. */
const WANTING = {
  reverted,
  late,
  overpaid: () => paidOrder({ crc: '12.5' }),
  underpaid: () => paidOrder({ crc: '4' }, { paymentDueBy: ago(HOUR) }),
  undecided: () => paidOrder({ eligible: null, observedAt: ago(HOUR) }),
}

const status = (days = 7) => readPaymentsStatus(world.db, { days })
const onlyChain = async (days = 7) => (await status(days)).chains[0]!

describe('payments status', () => {
  it('says that all is in order, with exit code 0', async () => {
    await paidOrder({})
    await paidOrder({ crc: '4' }, { paymentDueBy: new Date(Date.now() + HOUR) })
    await paidOrder({ eligible: null })
    const said = await opsJson('status')
    expect(said).toMatchObject({
      code: 0,
      ok: true,
      needs: [],
      lease: { held: true, holder: world.ctx.instance },
      chains: [
        {
          chainId: 100,
          headBlock: HEAD,
          cursor: { blockNumber: HEAD - 10 },
          reorg: null,
          underpaid: { count: 1, more: false, urgent: 0 },
          overpaid: { count: 0 },
          undecided: [{ gateway: GATEWAY, count: 1, urgent: 0 }],
        },
      ],
    })
    expect(said.chains[0].ageSeconds).toBeLessThan(60)
    const { code, stdout } = await ops('payments', 'status')
    expect(code).toBe(0)
    expect(stdout).toContain('In order: nothing needs a person.')
    expect(stdout).toMatch(/underpaid +1\n/)
  })

  it('says what needs a person, with exit code 1, and names a command that lists just that', async () => {
    const made: Record<string, Order> = {}
    for (const [state, make] of Object.entries(WANTING)) made[state] = await make()
    await paidOrder({})
    await transfer('invoice-77', { eligible: null, ignored: 'no_order' })
    await rowError(GATEWAY, 1500)
    const { code, stdout } = await ops('payments', 'status')
    expect(code).toBe(1)
    const needs = stdout.slice(stdout.indexOf('Needs a person:'))
    expect(needs).toContain('  overpaid in the last 7 days\n    → npm run ops -- payments list --state overpaid\n')
    expect(needs).toContain('  unmatched in the last 7 days\n    → npm run ops -- payments unmatched\n')
    const states = [...needs.matchAll(/payments list --state (\w+)/g)].map(([, state]) => state as PaymentState)
    expect(states.toSorted()).toEqual(Object.keys(WANTING).toSorted())
    for (const state of states) {
      const { orders } = await listPaymentOrders(world.db, { state, limit: 10 })
      expect(orders, state).toMatchObject([{ orderId: made[state]!.orderId, states: expect.arrayContaining([state]) }])
    }
    expect(Math.max(...stdout.split('\n').map((line) => line.length))).toBeLessThanOrEqual(100)
  })

  it('knows who reads payments and how far, and when nobody does', async () => {
    expect((await status()).lease).toMatchObject({ held: true })
    await sql`update leases set expires_at = now() - interval '1 minute'`.execute(world.db)
    await sql`update payments_observed set observed_at = now() - interval '10 minutes', reorg_depth = 2,
      reorg_at = '2026-01-30 08:00Z'`.execute(world.db)
    expect((await status()).lease).toMatchObject({ held: false })
    expect((await onlyChain()).ageSeconds).toBeGreaterThanOrEqual(600)
    expect((await onlyChain()).reorg).toEqual({ at: new Date('2026-01-30T08:00:00Z'), depth: 2 })
    await sql`truncate payments_observed, payments_cursors, leases`.execute(world.db)
    expect(await status()).toEqual({ days: 7, lease: null, chains: [] })
    expect(await opsJson('status')).toMatchObject({
      code: 1,
      ok: false,
      needs: [{ what: 'payments were never read' }, { what: 'no replica reads payments' }],
    })
  })

  it('calls urgent what a poll should long have dealt with', async () => {
    const tx = await transfer('x', { ignored: 'no_order', doubted: true, gateway: OTHER_GATEWAY })
    const { orderId } = await paidOrder({}, { createdAt: ago(HOUR) })
    const moment = sql`update orders set settle_at_block = 0, payment_seen_at = now() where order_id = ${orderId}`
    await moment.execute(world.db)
    expect(await onlyChain()).toMatchObject({ doubted: { count: 1, urgent: 0 }, due: { count: 1, urgent: 0 } })
    await sql`update payment_transfers set doubted_at = now() - interval '1 hour' where tx_hash = ${tx}`.execute(
      world.db,
    )
    await sql`update orders set payment_seen_at = now() - interval '1 hour' where order_id = ${orderId}`.execute(
      world.db,
    )
    expect(await onlyChain()).toMatchObject({ doubted: { count: 1, urgent: 1 }, due: { count: 1, urgent: 1 } })
  })

  it('leaves be what came to gateways of others, and what was dealt with long ago', async () => {
    await transfer('invoice-77', { eligible: null, ignored: 'no_order', gateway: OTHER_GATEWAY })
    await transfer('invoice-78', { eligible: null, ignored: 'no_order', observedAt: longAgo() })
    await rowError(OTHER_GATEWAY, 1500)
    await rowError(GATEWAY, 1501, longAgo())
    await paidOrder({ crc: '12', observedAt: longAgo() })
    expect(await onlyChain()).toMatchObject({
      undecided: [],
      overpaid: { count: 1, urgent: 0 },
      unmatched: { count: 1, urgent: 0, wei: weiFromDecimal('10').toString() },
      rowErrors: { count: 2, urgent: 0 },
    })
    expect(await onlyChain(60)).toMatchObject({
      overpaid: { urgent: 1 },
      unmatched: { urgent: 1 },
      rowErrors: { urgent: 1 },
    })
  })

  it('counts orphans near the head', async () => {
    await paidOrder({ orphaned: true, block: HEAD - 5 })
    await sql`update payments_observed set head_block = ${HEAD + 100_000}`.execute(world.db)
    await paidOrder({ orphaned: true, block: HEAD + 99_999 })
    expect((await onlyChain()).orphaned).toMatchObject({ count: 1, urgent: 0 })
  })

  it('stops counting where it would take long', async () => {
    await sql`insert into payment_transfers (chain_id, tx_hash, log_index, block_number, transaction_index,
        payment_reference, gateway_address, amount_wei, ignored_reason)
      select 100, '0x' || n, 0, 1, 0, 'x', ${GATEWAY}, 1, 'no_order' from generate_series(1, ${MANY + 5}) n`.execute(
      world.db,
    )
    expect((await onlyChain()).unmatched).toMatchObject({ count: MANY, more: true })
  })

  it('tells chains apart', async () => {
    await sql`insert into payments_observed (chain_id, observed_at, head_block) values (10200, now(), 5)`.execute(
      world.db,
    )
    await paidOrder({ crc: '12' })
    const { chains } = await status()
    expect(chains.map(({ chainId, overpaid }) => [chainId, overpaid.count])).toEqual([
      [100, 1],
      [10200, 0],
    ])
    const one = await readPaymentsStatus(world.db, { days: 7, chainId: 10200 })
    expect(one.chains.map(({ chainId }) => chainId)).toEqual([10200])
  })
})

describe('payments list', () => {
  it('has a state for each thing that can be the matter, and no order in one where it is not', async () => {
    const made: Record<string, string> = {}
    for (const [state, make] of Object.entries(WANTING)) made[state] = (await make()).orderId
    made.settling = (await paidOrder({ block: HEAD - 5 })).orderId
    made.orphaned = (await paidOrder({ orphaned: true })).orderId
    await paidOrder({})
    expect(Object.keys(made).toSorted()).toEqual(PAYMENT_STATES.toSorted())
    for (const state of PAYMENT_STATES) {
      const { orders } = await listPaymentOrders(world.db, { state, limit: 10 })
      const wanted = state === 'orphaned' ? [made.orphaned, made.reverted] : [made[state]]
      expect(
        orders.map(({ orderId }) => orderId),
        state,
      ).toEqual(wanted)
    }
    const { orders } = await listPaymentOrders(world.db, { limit: 10 })
    expect(orders.map(({ orderId }) => orderId).toSorted()).toEqual(
      Object.keys(WANTING)
        .map((state) => made[state])
        .toSorted(),
    )
  })

  it('asks nobody to look at what may still come by itself', async () => {
    await paidOrder({ crc: '4' }, { paymentDueBy: new Date(Date.now() + HOUR) })
    await paidOrder({ eligible: null })
    expect(await listPaymentOrders(world.db, { limit: 10 })).toEqual({ orders: [], next: undefined })
  })

  it('pages through orders of one moment, each once', async () => {
    const createdAt = ago(HOUR)
    const made = new Set<string>()
    for (let i = 0; i < 7; i += 1) made.add((await paidOrder({ crc: '12' }, { createdAt })).orderId)
    for (const state of [undefined, 'overpaid'] as const) {
      const seen: string[] = []
      let after: string | undefined
      do {
        const page = await listPaymentOrders(world.db, { state, limit: 3, after })
        seen.push(...page.orders.map(({ orderId }) => orderId))
        after = page.next
      } while (after && seen.length < 20)
      expect(seen).toHaveLength(7)
      expect(new Set(seen)).toEqual(made)
    }
    const [first] = (await opsJson('list', '--limit', '1')).orders
    const { orders } = await opsJson('list', '--after', first.orderId)
    expect(orders).toHaveLength(6)
    await expect(listPaymentOrders(world.db, { limit: 1, after: 'ord_X' })).rejects.toThrow(NotKnownError)
  })

  it('fits a table into 100 columns, whatever was paid, and gives all digits to machines', async () => {
    const dust = await paidOrder({ crc: '0.000000000000000001' }, { paymentDueBy: ago(HOUR) })
    const flood = await paidOrder({ crc: String(10n ** 59n) })
    await transfer(dust.reference, { eligible: null, observedAt: ago(HOUR) })
    const { stdout } = await ops('payments', 'list')
    const lines = stdout.split('\n')
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(100)
    expect(stdout).toContain('underpaid,undecided')
    expect(stdout).toContain(dust.reference)
    expect(lines.find((line) => line.startsWith(dust.orderId))).toContain('-9.99999999…')
    const { orders } = await opsJson('list')
    expect(orders.map((row: any) => row.paidWei).toSorted()).toEqual([
      '1',
      weiFromDecimal(String(10n ** 59n)).toString(),
    ])
    expect(orders.find((row: any) => row.orderId === flood.orderId)).toMatchObject({ reference: flood.reference })
  })
})

describe('payments explain', () => {
  it('adds up what counts at each depth, by the rule of settlement', async () => {
    const made = await order()
    await transfer(made.reference, { crc: '4', block: HEAD - 20 })
    await transfer(made.reference, { crc: '5', block: HEAD - 5 })
    await transfer(made.reference, { crc: '3', block: HEAD - 1 })
    await transfer(made.reference, { crc: '99', block: HEAD - 30, gateway: OTHER_GATEWAY })
    await settled(made)
    const { orders } = await explainPayment(world.db, made.orderId, DEPTHS)
    const wei = (crc: string) => weiFromDecimal(crc).toString()
    expect(orders).toMatchObject([
      {
        paidWei: wei('12'),
        seen: { wei: wei('12'), reached: true, missingBlocks: 0 },
        confirmed: { wei: wei('9'), reached: false, missingBlocks: 2 },
        final: { wei: wei('4'), reached: false, missingBlocks: 11 },
        transfers: [
          { verdict: 'unknown_gateway' },
          { verdict: 'counts' },
          { verdict: 'counts' },
          { verdict: 'counts' },
        ],
      },
    ])
    const { stdout } = await ops('payments', 'explain', made.orderId)
    expect(stdout).toMatch(/seen +12 CRC: enough\n/)
    expect(stdout).toMatch(/3 blocks deep +9 CRC: enough in 2 block/)
    expect(stdout).toMatch(/12 blocks deep +4 CRC: enough in 11 block/)
    expect(stdout).toContain(`Confirmed at block ${HEAD + 2}`)
    expect(stdout).toContain('2 CRC more than the price came: give them back.')
    const other = await opsWith({ FINALIZE_CONFIRMATIONS: '20' }, 'payments', 'explain', made.orderId, '--confirm', '1')
    expect(other.stdout).toMatch(/\n {2}1 blocks deep +12 CRC: enough\n {2}20 blocks deep/)
  })

  it('takes nothing for deep that is in doubt', async () => {
    const made = await paidOrder({ doubted: true, block: 10 })
    const [one] = (await explainPayment(world.db, made.orderId, DEPTHS)).orders
    expect(one).toMatchObject({
      seen: { reached: true },
      confirmed: { wei: '0', reached: false, missingBlocks: null },
      final: { wei: '0', reached: false, missingBlocks: null },
    })
  })

  it.each<[TransferVerdict, TransferOptions]>([
    ['counts', {}],
    ['in_doubt', { doubted: true }],
    ['judged_again', { verdictDue: true }],
    ['undecided', { eligible: null }],
    ['undecided', { eligible: false, verdictDue: true }],
    ['orphaned', { orphaned: true }],
    ['untrusted_token', { eligible: false, ignored: 'untrusted_token' }],
    ['unknown_gateway', { eligible: null, ignored: 'unknown_gateway', gateway: OTHER_GATEWAY }],
    ['unknown_gateway', { gateway: OTHER_GATEWAY }],
    ['unknown_gateway', { eligible: null, ignored: 'unknown_gateway' }],
    ['unknown_emitter', { eligible: null, ignored: 'unknown_emitter' }],
    ['no_order', { eligible: null, ignored: 'no_order' }],
    ['bad_amount', { crc: null, eligible: null, ignored: 'bad_amount' }],
    ['bad_amount', { crc: null }],
    ['bad_token', { eligible: null, ignored: 'bad_token' }],
    ['bad_time', { eligible: null, ignored: 'bad_time' }],
  ])('%s: %j, and it counts just when settlement counts it', async (verdict, options) => {
    const made = await paidOrder(options)
    const { orders } = await explainPayment(world.db, made.reference, DEPTHS)
    const [{ transfers, paidWei, seen }] = orders as [ExplainedOrder]
    expect(transfers).toMatchObject([{ verdict, counts: paidWei !== '0' }])
    expect(seen.wei).toBe(paidWei)
  })

  it('finds a payment by what an operator has in hand, and never tells who bought', async () => {
    const one = await paidOrder({})
    const two = await order()
    const tx = await transfer(two.reference, { crc: '4' })
    await transfer(one.reference, { crc: '1', tx, logIndex: 1 })
    await transfer('invoice-77', { ignored: 'no_order', eligible: null, tx, logIndex: 2 })
    await settled(two)
    await inTransaction(world.db, (dbTx) =>
      insertJobs(world.ctx, dbTx, [{ orderId: one.orderId, trigger: 'finalized' }]),
    )
    await sql`update fulfillment_jobs set reason = 'Ada Lovelace is not at home'`.execute(world.db)
    const explain = (asked: string) => explainPayment(world.db, asked, DEPTHS)
    for (const asked of [one.orderId, one.orderId.toLowerCase(), one.reference, ` ${one.reference.toLowerCase()} `]) {
      expect(await explain(asked)).toMatchObject({ orders: [{ orderId: one.orderId }], unmatched: [] })
    }
    const both = await opsJson('explain', tx.toUpperCase().replace('0X', '0x'))
    expect(both.orders.map((of: any) => of.orderId).toSorted()).toEqual([one.orderId, two.orderId].toSorted())
    expect(both.unmatched).toMatchObject([{ reference: 'invoice-77', verdict: 'no_order' }])
    expect(await explain('invoice-77')).toMatchObject({ orders: [], unmatched: [{ txHash: tx }] })
    await rowError(GATEWAY, 1500)
    expect(await explain(`0x${'e'.repeat(64)}`)).toMatchObject({ unreadable: [{ blockNumber: 1500 }] })

    const { stdout } = await ops('payments', 'explain', tx)
    expect(stdout).toContain('adapter_error')
    const all = stdout + JSON.stringify([both, await explain(tx)])
    const { givenName, familyName, contact, address } = PERSONAL
    for (const word of ['at home', givenName, familyName, contact.email, contact.telephone, address.streetAddress]) {
      expect(all).not.toContain(word)
    }
  })

  it('fails clearly for what is not known', async () => {
    for (const asked of [`ord_${'0'.repeat(32)}`, `pay_${'0'.repeat(32)}`, hashes(), 'nonsense']) {
      await expect(explainPayment(world.db, asked, DEPTHS)).rejects.toThrow(NotKnownError)
    }
    const { code, stdout, stderr } = await ops('--json', 'payments', 'explain', 'nonsense')
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: 'Error: no order, payment reference or transaction is known as nonsense\n',
    })
    expect(JSON.parse(stdout)).toMatchObject({ ok: false })
  })
})

describe('payments unmatched', () => {
  it('adds up by gateway, for those on record, or all', async () => {
    await sql`insert into seller_gateways values (100, ${PAYER}, ${`0x${'6'.repeat(40)}`})`.execute(world.db)
    const none = { eligible: null, ignored: 'no_order' }
    await transfer('a', { ...none, crc: '4', block: 1001 })
    await transfer('b', { ...none, crc: '0.5', block: 1002 })
    await transfer('c', { ...none, crc: '20', gateway: `0x${'6'.repeat(40)}` })
    await transfer('gone', { ...none, orphaned: true })
    await transfer('\u001b[2Jevil', { ...none, crc: '999', gateway: OTHER_GATEWAY })
    await rowError(GATEWAY, 1500)
    await rowError(null, 1501)
    const wei = (crc: string) => weiFromDecimal(crc).toString()
    const known = await listUnmatched(world.db, { all: false, limit: 50 })
    expect(known.gateways).toMatchObject([
      { gateway: `0x${'6'.repeat(40)}`, wei: wei('20'), owners: [PAYER], transfers: 1, unreadable: 0 },
      { gateway: GATEWAY, wei: wei('7'), transfers: 2, unreadable: 1 },
    ])
    expect(known.transfers.map(({ reference }) => reference)).toEqual(['b', 'a', 'c'])
    expect(known.unreadable).toMatchObject([{ blockNumber: 1500, reason: 'no_reference' }])

    const all = await ops('payments', 'unmatched', '--all')
    expect(all.stdout).toMatch(new RegExp(`${OTHER_GATEWAY} +999 CRC`))
    expect(all.stdout).toContain('no readable gateway')
    expect(all.stdout).toContain('"\ufffd[2Jevil"')
    expect(all.stdout).not.toContain('\u001b')
    expect(Math.max(...all.stdout.split('\n').map((line) => line.length))).toBeLessThanOrEqual(100)
    expect((await listUnmatched(world.db, { all: false, limit: 1 })).transfers).toHaveLength(1)
  })
})

describe('payments replay', () => {
  const everything = async () => {
    const { rows } = await sql<{ rows: unknown }>`
      select jsonb_build_array(
        (select jsonb_agg(t order by tx_hash) from payment_transfers t),
        (select jsonb_agg(o order by order_id) from orders o),
        (select jsonb_agg(c) from payments_cursors c), (select jsonb_agg(p) from payments_observed p)) as rows`.execute(
      world.db,
    )
    return rows[0]!.rows
  }
  const cursor = async () =>
    (await world.db.selectFrom('payments_cursors').selectAll().where('chain_id', '=', 100).executeTakeFirst())!

  it('changes nothing when it is dry, marks what did not count, and the second time nothing', async () => {
    const judged = await paidOrder({ eligible: false, ignored: 'untrusted_token', block: 1000 })
    const tooOld = await paidOrder({ eligible: false, ignored: 'untrusted_token', block: 999 })
    const allowlisted = await paidOrder({ eligible: null, ignored: 'unknown_gateway', block: 1001 })
    await paidOrder({ eligible: null, ignored: 'unknown_gateway', gateway: OTHER_GATEWAY, block: 1002 })
    await paidOrder({ eligible: false, ignored: 'untrusted_token', orphaned: true, block: 1003 })
    const early = await order()
    await transfer(early.reference, { eligible: null, ignored: 'no_order', block: 1004 })
    await transfer('invoice-77', { eligible: null, ignored: 'no_order', block: 1005 })
    const settledOrder = await paidOrder({ block: 1006 })
    await paidOrder({ eligible: null, ignored: 'bad_token', block: 1007 })

    const before = await everything()
    const dry = await replayPayments(world.db, { chainId: 100, fromBlock: 1000, dryRun: true })
    expect(await everything()).toEqual(before)
    const counts = {
      cursor: 'updated',
      readTo: HEAD - 10,
      readAgain: 8,
      transfers: { updated: 3, unchanged: 5 },
      orders: { updated: 3 },
    }
    expect(dry).toMatchObject(counts)

    const settledBefore = await orderRow(settledOrder)
    expect(await opsJson('replay', '--from-block', '1000', '--yes')).toMatchObject({ dryRun: false, ...counts })
    expect(await cursor()).toMatchObject({ last_block_number: '999', last_log_index: 2_147_483_647 })
    expect(await orderRow(settledOrder)).toEqual(settledBefore)
    const due = await world.db
      .selectFrom('payment_transfers as t')
      .innerJoin('orders as o', 'o.payment_reference', 't.payment_reference')
      .select(['o.order_id', 't.eligible', 'o.settle_at_block'])
      .where('verdict_due', '=', true)
      .where('ignored_reason', 'is', null)
      .execute()
    expect(due.map(({ order_id }) => order_id).toSorted()).toEqual(
      [judged, allowlisted, early].map(({ orderId }) => orderId).toSorted(),
    )
    // What did not count goes on not counting until it is judged.
    expect(due.map(({ eligible }) => eligible)).not.toContain(true)
    expect(due.map((row) => row.settle_at_block)).toEqual(['0', '0', '0'])
    expect((await orderRow(tooOld)).settle_at_block).toBeNull()

    const after = await everything()
    const { stdout } = await ops('payments', 'replay', '--from-block', '1000', '--yes')
    expect(stdout).toContain('cursor unchanged')
    expect(stdout).toContain('updated 0, unchanged 8')
    expect(await everything()).toEqual(after)
    // Further on is not back.
    await replayPayments(world.db, { chainId: 100, fromBlock: 1500 })
    expect(await cursor()).toMatchObject({ last_block_number: '999' })
  })

  const orderRow = ({ orderId }: Order) =>
    world.db.selectFrom('orders').selectAll().where('order_id', '=', orderId).executeTakeFirstOrThrow()

  it('refuses a block that is none, or ahead', async () => {
    for (const fromBlock of [-1, 1.5, HEAD + 1, Number.NaN]) {
      await expect(replayPayments(world.db, { chainId: 100, fromBlock })).rejects.toThrow(ReplayRefusedError)
    }
    const { code, stderr } = await ops('payments', 'replay', '--yes', '--from-block', String(HEAD + 1))
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: `Error: block ${HEAD + 1} is ahead of ${HEAD}, up to which chain 100 is read\n`,
    })
  })

  it('asks before it does anything, of a person only, and which chain when there are several', async () => {
    const { code, stderr } = await ops('payments', 'replay', '--from-block', '1')
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining('say --yes') })
    expect(await cursor()).toMatchObject({ last_block_number: String(HEAD - 10) })
    await sql`insert into payments_cursors values (10200, 50, 0, 0)`.execute(world.db)
    const several = await ops('payments', 'replay', '--from-block', '1', '--yes')
    expect(several).toMatchObject({ code: 2, stderr: expect.stringContaining('--chain: 100 or 10200') })
    expect(await replayPayments(world.db, { chainId: 10200, fromBlock: 1 })).toMatchObject({ readTo: 50 })
    expect(await cursor()).toMatchObject({ last_block_number: String(HEAD - 10) })
  })

  it('reads from the first block too', async () => {
    await replayPayments(world.db, { chainId: 100, fromBlock: 0 })
    expect(await cursor()).toMatchObject({ last_block_number: '-1' })
  })

  it('has the poller store what was missed, and judge anew what was misjudged', async () => {
    const judged = await paidOrder({ eligible: false, ignored: 'untrusted_token', block: 1000 })
    const missed = await order()
    const done = await paidOrder({ block: 1002 })
    const doneBefore = await orderRow(done)
    const rows = await world.db.selectFrom('payment_transfers').selectAll().execute()
    const logs: PaymentLog[] = rows.map((row) => ({
      ...logOf(row.payment_reference, Number(row.block_number)),
      txHash: row.tx_hash,
    }))
    logs.push(logOf(missed.reference, 1500))
    const trust: TrustLog = {
      blockNumber: 1,
      transactionIndex: 0,
      logIndex: 0,
      emitter: null,
      trustReceiver: avatarOfToken(TOKEN),
      expirySeconds: 2n ** 96n - 1n,
    }
    const { ctx } = world
    const head = { number: HEAD + 1, hash: '0xhead' }
    ctx.paymentSource = {
      readHead: async () => head,
      readBlock: async (number) => ({ number, hash: number === head.number ? head.hash : `0x${number}` }),
      readPayments: async (after, limit) => {
        const left = logs
          .filter((log) => !after || log.blockNumber > after.blockNumber)
          .toSorted((a, b) => a.blockNumber - b.blockNumber)
        const page = left.slice(0, limit)
        return { logs: page, unreadable: [], end: page.at(-1), full: page.length === limit }
      },
      readTrust: async () => [trust],
      readGateway: async () => [],
      readTransaction: async (txHash) => {
        const log = logs.find((one) => one.txHash === txHash)
        return log && { ...log, blockHash: `0x${log.blockNumber}`, logIndexes: [log.logIndex] }
      },
    }
    await pollPayments(ctx)
    expect(await orderRow(missed)).toMatchObject({ paid_at: null })
    expect(await orderRow(judged)).toMatchObject({ paid_at: null })

    await replayPayments(ctx.db, { chainId: 100, fromBlock: 1000 })
    await pollPayments(ctx)
    expect(await orderRow(missed)).toMatchObject({ status: OrderStatus.paymentComplete })
    expect(await orderRow(judged)).toMatchObject({ status: OrderStatus.paymentComplete, settle_at_block: null })
    expect(await orderRow(done)).toEqual(doneBefore)
    expect(await cursor()).toMatchObject({ last_block_number: '1500' })
  })

  it('waits for a page that is being stored, and a page that was read before it moves no cursor', async () => {
    const { ctx, db } = world
    const leadership = (await takeLeadership(ctx))!
    const head = { number: HEAD, hash: '0xhead' }
    const from = { blockNumber: HEAD - 10, transactionIndex: 0, logIndex: 0 }
    const to = { ...from, blockNumber: HEAD - 5 }
    const page = { logs: [], unreadable: [], end: to, full: false }

    const [letGo, held] = [signal(), signal()]
    const storing = inTransaction(db, async (tx) => {
      await leadership.assert(tx)
      await sql`update payments_cursors set last_block_number = ${to.blockNumber} where chain_id = 100`.execute(tx)
      held.give()
      await letGo.given
    })
    await held.given
    const replaying = replayPayments(db, { chainId: 100, fromBlock: 1000 })
    await until('the replay waits for the page', async () => {
      const { rows } = await sql`select 1 from pg_stat_activity
        where wait_event_type = 'Lock' and query like '%leases%' and datname = current_database()`.execute(db)
      return rows.length > 0
    })
    letGo.give()
    await storing
    expect(await replaying).toMatchObject({ cursor: 'updated', readTo: to.blockNumber })
    await expect(storePage(ctx, leadership, page, head, { from, to })).rejects.toThrow()
    await expect(
      storePage(ctx, leadership, page, head, { from: to, to: { ...to, blockNumber: HEAD } }),
    ).rejects.toThrow()
    expect(await cursor()).toMatchObject({ last_block_number: '999' })
  })
})

function signal() {
  let give = () => {}
  const given = new Promise<void>((resolve) => {
    give = resolve
  })
  return { given, give: () => give() }
}

const logOf = (paymentReference: string, blockNumber: number): PaymentLog => ({
  blockNumber,
  transactionIndex: 0,
  logIndex: 0,
  txHash: hashes(),
  blockHash: null,
  blockTime: new Date(Date.UTC(2026, 0, 31, 12, 5)),
  emitter: null,
  gateway: GATEWAY,
  payer: PAYER,
  payee: null,
  tokenId: TOKEN,
  amountWei: weiFromDecimal('10'),
  paymentReference,
})
