import type { OrderStanding, ShownJob, ShownLine } from '@market/market-api/ops'
import { describe, expect, it } from 'vitest'
import { jobText } from './jobsText.ts'
import { adviceFor, eventWords, verdictOf } from './jobsWords.ts'

const NOW = new Date('2026-01-31T12:00:00Z')
const later = (minutes: number) => new Date(NOW.getTime() + minutes * 60_000)
const SELLER = `0x${'a'.repeat(40)}`
const ID = '7d3c1a52-90fe-4c4f-9f47-99727477c6de'
const RETRY = `npm run ops -- jobs retry ${ID}`

const route = (more: Partial<NonNullable<ShownLine['route']>> = {}) => ({
  offerType: 'codedispenser',
  isOneOff: false,
  enabled: true,
  offerTypeEnabled: true,
  ...more,
})
const line = (more: Partial<ShownLine> = {}): ShownLine => ({
  lineIndex: 0,
  seller: SELLER,
  sku: 'gift',
  name: 'Gift code',
  quantity: 2,
  route: route(),
  ...more,
})
const job = (more: Partial<ShownJob> = {}): ShownJob => ({
  jobId: ID,
  orderId: 'ord_1',
  chainId: 100,
  seller: SELLER,
  offerType: 'codedispenser',
  trigger: 'finalized',
  lineIndexes: [0],
  status: 'needs_attention',
  reason: null,
  attempts: 1,
  createdAt: NOW,
  updatedAt: NOW,
  nextAttemptAt: null,
  lockedUntil: null,
  lastError: null,
  lastHttpStatus: null,
  completedAt: null,
  lines: [line()],
  events: [],
  given: null,
  ...more,
})
const ORDER: OrderStanding = {
  orderId: 'ord_1',
  status: 'https://schema.org/PaymentComplete',
  confirmedAt: NOW,
  finalizedAt: NOW,
  cancelledAt: null,
  revertedAt: null,
}
const advice = (more: Partial<ShownJob>) => adviceFor(job(more), ORDER, NOW)

describe('what to do about a job', () => {
  it.each([
    [{ status: 'done' }, 'it is delivered', []],
    [{ status: 'cancelled' }, 'Nothing is delivered any more', ['npm run ops -- payments explain ord_1']],
    [{ status: 'running', lockedUntil: later(1) }, 'a worker is at it', []],
    [{ status: 'running', lockedUntil: later(-1) }, 'Its worker died', []],
    [{ status: 'pending', nextAttemptAt: later(-1) }, 'It is due', []],
    [{ status: 'pending', nextAttemptAt: null }, 'No worker ever comes to it', [RETRY]],
    [{ status: 'pending', nextAttemptAt: later(5) }, 'circuit opened', [RETRY]],
    [{ status: 'pending', nextAttemptAt: later(5), lastError: 'HTTP 503' }, 'It said: "HTTP 503"', [RETRY]],
    [{ status: 'pending', nextAttemptAt: later(5), reason: 'inProgress' }, 'the adapter is at it', []],
    [{ reason: 'depleted' }, 'Add codes to its pool', ['npm run ops -- seed-pool <pool> codes.txt --file']],
    [{ reason: 'insufficientStock', offerType: 'odoo' }, 'Restock at odoo', []],
    [{ reason: 'notApplicable', offerType: 'odoo' }, 'odoo has no mapping', [RETRY]],
    [{ status: 'rejected', reason: 'ambiguous' }, 'leave one of them', [RETRY]],
    [
      { reason: 'payment_reverted' },
      'goes on by itself when its payment is back',
      ['npm run ops -- payments explain ord_1', `npm run ops -- jobs cancel ${ID} --reason '…'`],
    ],
  ] as [Partial<ShownJob>, string, string[]][])('%j', (more, says, run) => {
    const given = advice(more)
    expect(given.says).toContain(says)
    expect(given.run).toEqual(run)
  })

  const BY_HAND = [
    `npm run ops -- jobs resolve ${ID} --reason '…' --message '…'`,
    `npm run ops -- jobs cancel ${ID} --reason '…'`,
  ]
  it.each([
    { status: 'partial', reason: 'partial' },
    { status: 'rejected', reason: 'HTTP 400' },
    { reason: 'manual', offerType: 'manual' },
    { reason: 'adapter_error', lastError: 'answer_not_storable' },
  ] as Partial<ShownJob>[])('%j can be ended by hand', (more) => {
    expect(advice(more).run).toEqual(expect.arrayContaining(BY_HAND))
  })

  const unrouted = (...lines: ShownLine[]) => advice({ reason: 'route_not_found', offerType: 'unrouted', lines })
  const mapping = `npm run ops -- mapping-codedisp 100 ${SELLER} gift <pool>`
  it.each([
    [line({ route: null }), 'has no route', [mapping, RETRY]],
    [line({ route: route({ enabled: false }) }), 'switched off', [mapping, RETRY]],
    [line({ route: route({ offerTypeEnabled: false }) }), 'to codedispenser, which is switched off', [mapping, RETRY]],
    [line({ route: route({ isOneOff: true }) }), 'a one-off', [mapping, RETRY]],
    [line(), 'There is a route by now', [RETRY]],
  ])('a line without a route: %j', (one, says, run) => {
    expect(unrouted(one)).toEqual({ says: expect.stringContaining(says), run })
  })

  it('knows that one job can not go to two adapters, nor to another than it was ordered from', () => {
    const two = unrouted(line(), line({ sku: 'mug', route: route({ offerType: 'odoo' }) }))
    expect(two.says).toContain('more than one kind')
    expect(two.run).toEqual([expect.stringContaining('jobs resolve')])
    const other = advice({ reason: 'route_not_found', offerType: 'odoo' })
    expect(other.says).toContain('has a route to codedispenser, and was ordered from odoo')
  })

  it('lets no sku become a command of its own', () => {
    const { run } = unrouted(line({ sku: "x'; rm -rf ~; '\u001b[2J", route: null }))
    expect(run[0]).toContain(` 'x'\\''; rm -rf ~; '\\''\ufffd[2J' <pool>`)
  })
})

describe('what a job waits for', () => {
  it.each([
    ['done', null, 'delivered'],
    ['cancelled', 'cancelled', 'cancelled'],
    ['pending', 'HTTP 503', 'is being delivered'],
    ['running', null, 'is being delivered'],
    ['partial', 'partial', 'waits for stock'],
    ['needs_attention', 'depleted', 'waits for stock'],
    ['needs_attention', 'manual', 'waits for its seller'],
    ['needs_attention', 'payment_reverted', 'waits for its payment'],
    ['needs_attention', 'route_not_found', 'waits for a person'],
    ['rejected', 'HTTP 400', 'waits for a person'],
    ['failed', 'adapter_error', 'waits for a person'],
  ] as const)('%s %s', (status, reason, verdict) => {
    expect(verdictOf({ status, reason })).toBe(verdict)
  })
})

describe('an event in words', () => {
  const words = (kind: string, detail: Record<string, unknown> | null, times = 1) =>
    eventWords({ kind, detail, at: NOW, until: later(3), times })
  it.each([
    ['created', { status: 'pending', reason: null }, 'due, for an adapter to deliver'],
    ['created', { status: 'needs_attention', reason: 'manual' }, 'due, but waits: its seller hands it over'],
    ['attempted', { attempt: 2, status: 'done', httpStatus: 200 }, 'attempt 2: delivered'],
    [
      'attempted',
      { attempt: 1, status: 'pending', reason: 'inProgress', httpStatus: 202 },
      'attempt 1: the adapter is at it, HTTP 202',
    ],
    [
      'attempted',
      { attempt: 1, status: 'pending', reason: 'HTTP 503', httpStatus: 503 },
      'attempt 1: failed, tried again: "HTTP 503"',
    ],
    [
      'attempted',
      { attempt: 9, status: 'failed', reason: 'no answer', httpStatus: null },
      'attempt 9: failed once too often: "no answer"',
    ],
    [
      'attempted',
      { attempt: 1, status: 'rejected', reason: 'ambiguous' },
      'attempt 1: the adapter refused: the adapter finds more than one mapping for it',
    ],
    ['held', { reason: 'payment_reverted' }, 'held: the payment is gone from the chain'],
    ['completed', { by: 'seller' }, 'handed over, says its seller'],
    ['resolved', { by: 'ada', reason: 'ticket 812' }, 'handed over, says ada, because: ticket 812'],
    ['retried', { by: 'ada', reason: null }, 'tried again by ada'],
    ['cancelled', null, 'cancelled by somebody'],
    ['moved', null, 'moved'],
  ] as [string, Record<string, unknown> | null, string][])('%s %j', (kind, detail, text) => {
    expect(words(kind, detail)).toBe(text)
  })

  it('says how often, and until when', () => {
    const detail = { attempt: 7, status: 'needs_attention', reason: 'depleted' }
    expect(words('attempted', detail, 4)).toBe(
      'attempt 7: waits: the stock is empty (4 times until 2026-01-31 12:03 UTC)',
    )
  })

  it('obeys nobody on its way to the terminal', () => {
    const evil = '\u001b]0;x\u0007'
    const text = jobText({
      order: ORDER,
      job: job({
        lastError: evil,
        offerType: evil,
        lines: [line({ name: evil, sku: evil })],
        events: [{ kind: evil, detail: { reason: evil, by: evil }, at: NOW, until: NOW, times: 1 }],
        given: { at: NOW, source: 'fulfillment', payload: { [evil]: evil } },
      }),
    })
    expect(text).not.toContain('\u001b')
    expect(text).not.toContain('\u0007')
  })
})
