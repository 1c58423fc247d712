import { expect, it } from 'vitest'
import { type Evidence, judge } from './proof.ts'
import type { Order } from './shop.ts'

// Each way in which a delivery can go wrong is held against a market of one pool and two orders.

const SELLER = `0x${'a1'.repeat(20)}`
const order = (orderId: string, payment: Order['payment']): Order => ({
  orderId,
  basketId: `bkt_${orderId}`,
  reference: `pay_${orderId}`,
  buyer: SELLER,
  lines: [{ seller: SELLER, sku: 'card', pool: 'cards', quantity: 2, trigger: 'finalized' }],
  payment,
})
const jobOf = (orderId: string) => ({
  job_id: `job_${orderId}`,
  order_id: orderId,
  seller_address: SELLER,
  trigger: 'finalized',
  line_indexes: [0],
  idempotency_key: `key_${orderId}`,
  status: 'done',
  reason: null as string | null,
})
const code = (run: string | null) => ({
  pool_id: 'cards',
  state: run ? 'assigned' : 'available',
  run_key: run,
  line_index: run ? 0 : null,
})
const shown = (orderId: string, codes: string[]) => ({
  orderId,
  status: '',
  outbox: codes.length > 0 ? [{ payload: { codes, lines: [{ lineIndex: 0, codes }] } }] : [],
})

/** `paid` has C-0 and C-1, `waits` has nothing yet, `unpaid` nothing ever. */
const market = () => ({
  orders: [order('paid', 'exact'), order('waits', 'twice'), order('unpaid', 'none')],
  pools: [{ id: 'cards', first: ['C-0', 'C-1', 'C-2'], later: ['C-3'] }],
  jobs: [jobOf('paid'), { ...jobOf('waits'), status: 'needs_attention', reason: 'depleted' as string | null }],
  codes: [code('key_paid'), code('key_paid'), code(null), code(null)],
  settled: ['paid', 'waits', 'unpaid'].map((order_id) => {
    const is = order_id !== 'unpaid'
    return { order_id, confirmed: is, finalized: is }
  }),
  seen: [shown('paid', ['C-0', 'C-1']), shown('waits', []), shown('unpaid', [])],
  stock: { cards: 2 },
})

type Market = ReturnType<typeof market>

it('finds nothing wrong with lines that are delivered or wait for a reason', () => {
  expect(judge(market() satisfies Evidence)).toEqual({
    lines: 2,
    deliveries: 1,
    waiting: { depleted: 1 },
    duplicates: [],
    losses: [],
    wrong: [],
  })
})

it.each<[string, 'duplicates' | 'losses' | 'wrong', (of: Market) => void]>([
  ['a line that was delivered twice', 'duplicates', (of) => void (of.codes[2] = code('key_paid'))],
  ['two jobs for a line', 'duplicates', (of) => void of.jobs.push({ ...jobOf('paid'), job_id: 'another' })],
  ['a code that two orders show', 'duplicates', (of) => void (of.seen[1] = shown('waits', ['C-1', 'C-0']))],
  ['a code that one order shows twice', 'duplicates', (of) => void (of.seen[0] = shown('paid', ['C-0', 'C-0']))],
  ['a code that is gone', 'losses', (of) => void of.codes.pop()],
  ['a code that nobody has and nobody can get', 'losses', (of) => void (of.codes[3]!.state = 'void')],
  ['a paid line without a job', 'losses', (of) => void of.jobs.pop()],
  ['a job that is done without codes', 'losses', (of) => void (of.jobs[1]!.status = 'done')],
  ['a job that waits for nothing', 'losses', (of) => void (of.jobs[1]!.reason = null)],
  ['a job under way when all is still', 'losses', (of) => void (of.jobs[1]!.status = 'running')],
  ['codes that their buyer does not see', 'losses', (of) => void (of.seen[0] = shown('paid', []))],
  ['an order that its buyer does not find', 'losses', (of) => void of.seen.pop()],
  ['a payment that nobody noticed', 'losses', (of) => void (of.settled[1]!.finalized = false)],
  [
    'a buyer who sees a code that is still for sale',
    'wrong',
    (of) => void (of.seen[0] = shown('paid', ['C-0', 'C-2'])),
  ],
  ['a buyer who sees what was never seeded', 'wrong', (of) => void (of.seen[1] = shown('waits', ['FALSE-1', 'F-2']))],
  ['half a line', 'wrong', (of) => void (of.codes[2] = code('key_waits'))],
  ['an inventory that counts wrong', 'wrong', (of) => void (of.stock.cards = 3)],
  ['codes for no run of ours', 'wrong', (of) => void (of.codes[2] = code('key_nobody'))],
  ['a job of an order that is not paid', 'wrong', (of) => void of.jobs.push(jobOf('unpaid'))],
  ['a job before its order is final', 'wrong', (of) => void (of.settled[0]!.finalized = false)],
  ['a delivery to somebody who did not pay', 'wrong', (of) => void (of.seen[2] = shown('unpaid', ['C-2']))],
])('finds %s', (_, kind, spoil) => {
  const spoilt = market()
  spoil(spoilt)
  expect(judge(spoilt)[kind]).not.toEqual([])
})
