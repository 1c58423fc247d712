import { decimalFromWei } from '@market/contracts/money'
import { OrderStatus } from '@market/contracts/statuses'
import { publicReason } from '../fulfillment/jobView.ts'
import type { JobStatus } from '../fulfillment/outcome.ts'
import type { CancelReason } from './order.ts'

/** What is on record about an order, as far as whoever asks may know it: of a seller only their own lines and jobs. */
export type OrderRecord = {
  createdAt: Date
  priceWei: bigint
  paymentDueBy: Date
  confirmedAt: Date | null
  cancelledAt: Date | null
  cancelReason: CancelReason | null
  /** The chain took the payment back after delivery had begun. */
  paymentRevertedAt: Date | null
  lines: { lineIndex: number; name: string | null; sku: string; quantity: number }[]
  /** There are lines that are not in `lines`. */
  isPart: boolean
  history: { oldStatus: string | null; newStatus: string; changedAt: Date }[]
  transfers: RecordedTransfer[]
  jobEvents: RecordedJobEvent[]
}
export type RecordedTransfer = {
  txHash: string
  blockNumber: string
  gateway: string
  payer: string | null
  amountWei: bigint | null
  eligible: boolean | null
  ignoredReason: string | null
  observedAt: Date
  orphanedAt: Date | null
}
/** One, or several in a row that say the same. */
export type RecordedJobEvent = {
  jobId: string
  seller: string
  offerType: string
  lineIndexes: number[]
  kind: string
  status: JobStatus | null
  reason: string | null
  at: Date
  until: Date
  times: number
}

export type TimelineEvent = { at: string; kind: string; text: string; data: Record<string, unknown> }
type Entry = { at: Date; kind: string; text: string; data: Record<string, unknown> }

/**
 * Everything that happened to an order, oldest first, in sentences a buyer understands; `data` has the particulars for whoever
 * helps them. Nothing an adapter said is repeated. A seller is told neither who paid nor, beside other sellers, how much.
 */
export function timelineOf(record: OrderRecord, party: 'buyer' | 'seller'): TimelineEvent[] {
  const entries = [
    placed(record, party),
    ...record.transfers.map((transfer) => paymentSeen(record, transfer, party)),
    ...withConfirmation(
      record.history.flatMap((change) => statusChanged(record, change)),
      record.confirmedAt,
    ),
    ...reverted(record),
    ...merged(record.jobEvents.map((event) => delivery(record, event))),
  ]
  // What shares a moment stays in the order above: the payment, then what came of it.
  return entries
    .toSorted((a, b) => a.at.getTime() - b.at.getTime())
    .map((entry) => ({ ...entry, at: entry.at.toISOString() }))
}

function placed(record: OrderRecord, party: 'buyer' | 'seller'): Entry {
  const isWhole = party === 'buyer' || !record.isPart
  const goods = enumerate(record.lines.map(({ quantity, ...line }) => `${quantity} × ${nameOf(line)}`))
  const total = isWhole ? ` for ${crc(record.priceWei)}` : ''
  return {
    at: record.createdAt,
    kind: 'placed',
    text: `Order placed: ${goods}${total}. Payment is due by ${clock(record.paymentDueBy)}.`,
    data: {
      lineIndexes: record.lines.map(({ lineIndex }) => lineIndex),
      total: isWhole ? decimalFromWei(record.priceWei) : null,
      currency: 'CRC',
      paymentDueBy: record.paymentDueBy.toISOString(),
    },
  }
}

/** Why a transfer is not credited (payments.md 18). */
const NOT_COUNTED: Record<string, string> = {
  unknown_gateway: 'it went to another address than this order is paid to',
  untrusted_token: 'the address it was paid to does not accept that kind of CRC',
  bad_amount: 'its amount could not be read',
  bad_token: 'its token could not be read',
  bad_time: 'the time of its block could not be read',
  orphaned: 'its block is no longer part of the chain',
}

function paymentSeen(record: OrderRecord, transfer: RecordedTransfer, party: 'buyer' | 'seller'): Entry {
  const reason = transfer.orphanedAt ? 'orphaned' : transfer.ignoredReason
  const counted = reason === null ? transfer.eligible : false
  const isTold = transfer.amountWei !== null && (party === 'buyer' || !record.isPart)
  const amount = isTold ? ` of ${crc(transfer.amountWei!)}` : ''
  const late = record.cancelledAt !== null && transfer.observedAt >= record.cancelledAt
  const verdict = late
    ? ' after the order had been cancelled. Nothing is delivered for it.'
    : counted === null
      ? '. Whether it counts is not decided yet: the market is asking if its token is accepted.'
      : counted
        ? ' and counts.'
        : ` but does not count: ${NOT_COUNTED[reason ?? ''] ?? 'it does not fit this order'}.`
  return {
    at: transfer.observedAt,
    kind: 'paymentSeen',
    text: `A payment${amount} arrived${verdict}`,
    data: {
      counted,
      reason,
      late,
      amount: isTold ? decimalFromWei(transfer.amountWei!) : null,
      currency: 'CRC',
      // Who paid stands in the transaction.
      ...(party === 'buyer'
        ? {
            transactionHash: transfer.txHash,
            blockNumber: Number(transfer.blockNumber),
            gateway: transfer.gateway,
            payer: transfer.payer,
          }
        : {}),
    },
  }
}

function statusChanged(
  record: OrderRecord,
  { oldStatus, newStatus, changedAt }: OrderRecord['history'][number],
): Entry[] {
  const entry = (kind: string, text: string) => [{ at: changedAt, kind, text, data: { oldStatus, newStatus } }]
  switch (newStatus) {
    case OrderStatus.paymentDue:
      if (oldStatus === null) return []
      return entry('paymentUndone', 'The payment no longer stands; the order waits for payment again.')
    case OrderStatus.paymentProcessing:
      return entry('paid', 'The order is paid in full. Now the chain has to confirm it.')
    case OrderStatus.paymentComplete:
      return entry('paymentFinal', 'The payment is final.')
    case OrderStatus.cancelled:
      if (record.cancelReason === 'expired') {
        return entry('expired', 'The order was not paid in time and is cancelled.')
      }
      return entry(
        'cancelled',
        record.cancelReason === 'buyer'
          ? 'The order was cancelled by its buyer.'
          : 'The order was cancelled by the operator of the market.',
      )
    default:
      return entry('statusChanged', `The order is now ${newStatus.split('/').at(-1)}.`)
  }
}

function reverted({ paymentRevertedAt: at }: OrderRecord): Entry[] {
  const text = `The payment is gone from the chain although delivery had begun. ${PERSON}`
  return at ? [{ at, kind: 'paymentReverted', text, data: {} }] : []
}

/** Confirmation has no status of its own (market-api.md 5.4). It lies between paid and final, whatever the clocks say. */
function withConfirmation(changes: Entry[], confirmedAt: Date | null): Entry[] {
  if (!confirmedAt) return changes
  const end = changes.findIndex(({ kind }) => kind === 'paymentFinal')
  const before = end < 0 ? changes : changes.slice(0, end)
  const after = end < 0 ? [] : changes.slice(end)
  const earliest = before.at(-1)?.at ?? confirmedAt
  const latest = after[0]?.at ?? confirmedAt
  const at = new Date(Math.min(latest.getTime(), Math.max(earliest.getTime(), confirmedAt.getTime())))
  return [...before, { at, kind: 'confirmed', text: 'The payment is confirmed.', data: {} }, ...after]
}

function delivery(record: OrderRecord, event: RecordedJobEvent): Entry & { until: Date; times: number } {
  const lines = record.lines.filter(({ lineIndex }) => event.lineIndexes.includes(lineIndex))
  const { kind, text } = deliveryText(event, enumerate(lines.map(nameOf)))
  return {
    at: event.at,
    until: event.until,
    times: event.times,
    kind,
    text,
    data: {
      fulfillmentId: event.jobId,
      seller: event.seller,
      offerType: event.offerType,
      lineIndexes: event.lineIndexes,
      reason: OF_OPERATORS.has(event.kind) ? null : publicReason(event.reason),
    },
  }
}

/** Why an operator did something is not for buyers. */
const OF_OPERATORS = new Set(['retried', 'resolved', 'cancelled'])

const PERSON = 'The operator of the market has to look at it.'

function deliveryText({ kind, status, reason }: RecordedJobEvent, goods: string): { kind: string; text: string } {
  if (kind === 'held') {
    return { kind: 'deliveryHeld', text: `Delivery of ${goods} waits: the payment is gone from the chain.` }
  }
  if (kind === 'released')
    return { kind: 'deliveryDue', text: `The payment is back, and delivery of ${goods} goes on.` }
  if (kind === 'completed') return { kind: 'delivered', text: `The seller has handed over ${goods}.` }
  if (kind === 'retried') return { kind: 'deliveryRetried', text: `Delivery of ${goods} is tried again.` }
  if (kind === 'resolved') return { kind: 'delivered', text: `Delivered by hand: ${goods}.` }
  if (kind === 'cancelled') {
    return { kind: 'deliveryCancelled', text: `The operator of the market has decided not to deliver ${goods}.` }
  }
  if (kind === 'created') {
    if (reason === 'manual') {
      return {
        kind: 'deliveryByHand',
        text: `The seller hands over ${goods} in person and says so here when it is done.`,
      }
    }
    if (reason === null) return { kind: 'deliveryDue', text: `Delivery of ${goods} begins.` }
  }
  if (reason === 'route_not_found') {
    return { kind: 'deliveryWaits', text: `Nothing is set up to deliver ${goods}. ${PERSON}` }
  }
  switch (status) {
    case 'done':
      return { kind: 'delivered', text: `Delivered: ${goods}.` }
    case 'partial':
      return { kind: 'deliveredInPart', text: `Part of ${goods} is delivered. The rest follows when there is stock.` }
    case 'pending':
      return reason === 'inProgress'
        ? { kind: 'deliveryInProgress', text: `The seller's system is preparing ${goods}.` }
        : { kind: 'deliveryRetried', text: `The seller's system could not deliver ${goods} yet. It is tried again.` }
    case 'needs_attention':
      if (reason === 'depleted' || reason === 'insufficientStock') {
        return { kind: 'deliveryWaits', text: `There is no stock of ${goods} at the moment. It is tried again.` }
      }
      return { kind: 'deliveryWaits', text: `The seller's system does not know how to deliver ${goods}. ${PERSON}` }
    case 'rejected':
      return { kind: 'deliveryRefused', text: `The seller's system refused to deliver ${goods}. ${PERSON}` }
    case 'failed':
      return { kind: 'deliveryFailed', text: `Many attempts to deliver ${goods} have failed. ${PERSON}` }
    default:
      return { kind: 'deliveryChanged', text: `Something about the delivery of ${goods} was changed.` }
  }
}

/** A job that waits for stock says so every minute; the reader wants it once, with how often and until when. */
function merged(events: (Entry & { until: Date; times: number })[]): Entry[] {
  const runs: (Entry & { until: Date; times: number })[] = []
  const latest = new Map<unknown, Entry & { until: Date; times: number }>()
  for (const event of events) {
    const run = latest.get(event.data.fulfillmentId)
    if (run && run.text === event.text) {
      run.times += event.times
      run.until = event.until
    } else {
      const begun = { ...event }
      latest.set(event.data.fulfillmentId, begun)
      runs.push(begun)
    }
  }
  return runs.map(({ until, times, ...entry }) => ({
    ...entry,
    text: times > 1 ? `${entry.text} (${times} times until ${clock(until)})` : entry.text,
    data: { ...entry.data, times, until: until.toISOString() },
  }))
}

const nameOf = ({ name, sku }: { name: string | null; sku: string }) => name || sku
const crc = (wei: bigint) => `${decimalFromWei(wei)} CRC`
/** `2026-01-31 12:05 UTC`. */
const clock = (at: Date) => `${at.toISOString().slice(0, 16).replace('T', ' ')} UTC`

const NAMED = 3

/** `A`, `A and B`, `A, B, C and 4 more`. */
function enumerate(names: string[]): string {
  if (names.length === 0) return 'an item'
  if (names.length > NAMED + 1) return `${names.slice(0, NAMED).join(', ')} and ${names.length - NAMED} more`
  return names.length === 1 ? names[0]! : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`
}
