import { OrderStatus } from '@market/contracts/statuses'
import { describe, expect, it } from 'vitest'
import { type OrderRecord, type RecordedJobEvent, type RecordedTransfer, timelineOf } from './timeline.ts'

const at = (seconds: number) => new Date(Date.UTC(2026, 0, 31, 12, 0, seconds))
const CRC = 10n ** 18n

const record = (more: Partial<OrderRecord> = {}): OrderRecord => ({
  createdAt: at(0),
  priceWei: 26n * CRC + CRC / 2n,
  paymentDueBy: at(1800),
  confirmedAt: null,
  cancelledAt: null,
  cancelReason: null,
  paymentRevertedAt: null,
  lines: [{ lineIndex: 0, name: 'Mug', sku: 'mug', quantity: 2 }],
  isPart: false,
  history: [{ oldStatus: null, newStatus: OrderStatus.paymentDue, changedAt: at(0) }],
  transfers: [],
  jobEvents: [],
  ...more,
})
const transfer = (more: Partial<RecordedTransfer> = {}): RecordedTransfer => ({
  txHash: '0xaa',
  blockNumber: '7',
  gateway: '0x99',
  payer: '0x11',
  amountWei: 5n * CRC,
  eligible: true,
  ignoredReason: null,
  observedAt: at(10),
  orphanedAt: null,
  ...more,
})
const job = (more: Partial<RecordedJobEvent> = {}): RecordedJobEvent => ({
  jobId: 'j1',
  seller: '0x5e',
  offerType: 'odoo',
  lineIndexes: [0],
  kind: 'attempted',
  status: 'done',
  reason: null,
  at: at(30),
  until: at(30),
  times: 1,
  ...more,
})
const texts = (events: { text: string }[]) => events.map(({ text }) => text)

it('begins with what was ordered, for how much and until when', () => {
  const line = (n: number) => ({ lineIndex: n, name: n === 1 ? null : `Item ${n}`, sku: `sku-${n}`, quantity: 1 })
  const first = (n: number) => timelineOf(record({ lines: Array.from({ length: n }, (_, i) => line(i)) }), 'buyer')[0]!
  expect(timelineOf(record(), 'buyer')).toEqual([
    {
      at: '2026-01-31T12:00:00.000Z',
      kind: 'placed',
      text: 'Order placed: 2 × Mug for 26.5 CRC. Payment is due by 2026-01-31 12:30 UTC.',
      data: { lineIndexes: [0], total: '26.5', currency: 'CRC', paymentDueBy: '2026-01-31T12:30:00.000Z' },
    },
  ])
  expect(first(2).text).toContain('1 × Item 0 and 1 × sku-1 for')
  expect(first(4).text).toContain('1 × Item 0, 1 × sku-1, 1 × Item 2 and 1 × Item 3 for')
  expect(first(5).text).toContain('1 × Item 0, 1 × sku-1, 1 × Item 2 and 2 more for')
})

describe('a payment', () => {
  it.each([
    ['credited', {}, 'A payment of 5 CRC arrived and counts.', true],
    [
      'not decided',
      { eligible: null },
      'A payment of 5 CRC arrived. Whether it counts is not decided yet: the market is asking if its token is accepted.',
      null,
    ],
    [
      'to somebody else',
      { eligible: null, ignoredReason: 'unknown_gateway' },
      'A payment of 5 CRC arrived but does not count: it went to another address than this order is paid to.',
      false,
    ],
    [
      'of an untrusted token',
      { eligible: false, ignoredReason: 'untrusted_token' },
      'A payment of 5 CRC arrived but does not count: the address it was paid to does not accept that kind of CRC.',
      false,
    ],
    [
      'of no readable amount',
      { amountWei: null, eligible: null, ignoredReason: 'bad_amount' },
      'A payment arrived but does not count: its amount could not be read.',
      false,
    ],
    [
      'whose block is gone',
      { orphanedAt: at(20) },
      'A payment of 5 CRC arrived but does not count: its block is no longer part of the chain.',
      false,
    ],
    [
      'refused for a reason that is new',
      { ignoredReason: 'on_the_moon' },
      'A payment of 5 CRC arrived but does not count: it does not fit this order.',
      false,
    ],
  ])('%s', (_, more, text, counted) => {
    const [, event] = timelineOf(record({ transfers: [transfer(more)] }), 'buyer')
    expect(event).toMatchObject({ kind: 'paymentSeen', text, data: { counted } })
  })
})

it('puts confirmation between paid and final, whatever two clocks say', () => {
  const history = [
    { oldStatus: null, newStatus: OrderStatus.paymentDue, changedAt: at(0) },
    { oldStatus: OrderStatus.paymentDue, newStatus: OrderStatus.paymentProcessing, changedAt: at(10) },
    { oldStatus: OrderStatus.paymentProcessing, newStatus: OrderStatus.paymentComplete, changedAt: at(20) },
  ]
  for (const seconds of [5, 10, 15, 20, 25]) {
    const kinds = timelineOf(record({ history, confirmedAt: at(seconds) }), 'buyer').map(({ kind }) => kind)
    expect(kinds, `${seconds}`).toEqual(['placed', 'paid', 'confirmed', 'paymentFinal'])
  }
  const waiting = timelineOf(record({ history: history.slice(0, 2), confirmedAt: at(15) }), 'buyer')
  expect(waiting.at(-1)).toMatchObject({ kind: 'confirmed', at: at(15).toISOString() })
})

it('tells how an order ended without payment, and of a payment that was undone', () => {
  const changed = (oldStatus: string, newStatus: string) => [{ oldStatus, newStatus, changedAt: at(40) }]
  const last = (history: OrderRecord['history'], cancelReason: OrderRecord['cancelReason'] = null) =>
    timelineOf(record({ history, cancelReason }), 'buyer').at(-1)!
  const cancelled = changed(OrderStatus.paymentDue, OrderStatus.cancelled)
  expect(last(cancelled, 'expired')).toMatchObject({ kind: 'expired' })
  expect(last(cancelled, 'buyer').text).toBe('The order was cancelled by its buyer.')
  expect(last(cancelled, 'operator').text).toBe('The order was cancelled by the operator of the market.')
  expect(last(changed(OrderStatus.paymentProcessing, OrderStatus.paymentDue))).toMatchObject({ kind: 'paymentUndone' })
  expect(last(changed(OrderStatus.paymentComplete, 'https://schema.org/OrderReturned')).text).toBe(
    'The order is now OrderReturned.',
  )
})

describe('a delivery', () => {
  it.each([
    ['created', 'pending', null, 'Delivery of Mug begins.'],
    ['created', 'needs_attention', 'manual', 'The seller hands over Mug in person and says so here when it is done.'],
    [
      'created',
      'needs_attention',
      'route_not_found',
      'Nothing is set up to deliver Mug. The operator of the market has to look at it.',
    ],
    ['attempted', 'done', null, 'Delivered: Mug.'],
    ['attempted', 'partial', 'partial', 'Part of Mug is delivered. The rest follows when there is stock.'],
    ['attempted', 'pending', 'inProgress', "The seller's system is preparing Mug."],
    ['attempted', 'pending', 'HTTP 503', "The seller's system could not deliver Mug yet. It is tried again."],
    ['attempted', 'needs_attention', 'depleted', 'There is no stock of Mug at the moment. It is tried again.'],
    [
      'attempted',
      'needs_attention',
      'notApplicable',
      "The seller's system does not know how to deliver Mug. The operator of the market has to look at it.",
    ],
    [
      'attempted',
      'rejected',
      'HTTP 400',
      "The seller's system refused to deliver Mug. The operator of the market has to look at it.",
    ],
    [
      'attempted',
      'failed',
      'HTTP 500',
      'Many attempts to deliver Mug have failed. The operator of the market has to look at it.',
    ],
    ['completed', 'done', null, 'The seller has handed over Mug.'],
    // The reason is the operator's, and nobody else's.
    ['retried', null, 'route_not_found', 'Delivery of Mug is tried again.'],
    ['resolved', 'done', 'ticket 812', 'Delivered by hand: Mug.'],
    ['cancelled', null, 'ticket 812', 'The operator of the market has decided not to deliver Mug.'],
    ['moved', null, null, 'Something about the delivery of Mug was changed.'],
  ] as const)('%s %s %s', (kind, status, reason, text) => {
    const events = timelineOf(record({ jobEvents: [job({ kind, status, reason })] }), 'seller')
    expect(texts(events).at(-1)).toBe(text)
  })

  it('that is tried often is told once, with how often, each line by itself', () => {
    const depleted = { status: 'needs_attention', reason: 'depleted' } as const
    const failed = { status: 'pending' } as const
    const events = timelineOf(
      record({
        lines: [
          { lineIndex: 0, name: 'Mug', sku: 'mug', quantity: 2 },
          { lineIndex: 1, name: 'Tee', sku: 'tee', quantity: 1 },
        ],
        jobEvents: [
          job({ ...depleted, times: 3, until: at(60) }),
          job({ jobId: 'j2', lineIndexes: [1], ...failed, reason: 'HTTP 500', at: at(31), until: at(31) }),
          job({ ...depleted, reason: 'insufficientStock', at: at(61), until: at(120) }),
          job({ jobId: 'j2', lineIndexes: [1], ...failed, reason: 'socket hang up', at: at(62), until: at(62) }),
          job({ at: at(130), until: at(130) }),
        ],
      }),
      'buyer',
    ).slice(1)
    expect(texts(events)).toEqual([
      'There is no stock of Mug at the moment. It is tried again. (4 times until 2026-01-31 12:02 UTC)',
      "The seller's system could not deliver Tee yet. It is tried again. (2 times until 2026-01-31 12:01 UTC)",
      'Delivered: Mug.',
    ])
    expect(events[0]!.data).toMatchObject({ fulfillmentId: 'j1', times: 4, reason: 'depleted' })
    expect(events[1]!.data).toMatchObject({ times: 2, reason: 'adapter_error' })
  })
})
