import { decimalFromWei } from '@market/contracts/money'
import {
  type ChainStatus,
  type ListedOrder,
  ORPHANS_WITHIN_BLOCKS,
  type PaymentsStatus,
  type PaymentState,
  type Replay,
  type Tally,
  type Unmatched,
} from '@market/market-api/ops'
import { clock, crc, OPS, printable, quoted, row, rowErrorLines } from './paymentsWords.ts'

// ---- status ----

export type Need = { chainId: number | null; what: string; count: number; see: string }

const list = (state: PaymentState) => `${OPS} list --state ${state}`
const RUNBOOK = 'docs/operations.md, "Payments are not read"'

/** What needs a person, and where to read on. */
export function needsOf({ chains, lease, days }: PaymentsStatus, maxAgeSeconds: number): Need[] {
  const needs: Need[] = []
  const need = (chainId: number | null, what: string, count: number, see: string) => {
    if (count > 0) needs.push({ chainId, what, count, see })
  }
  need(null, 'payments were never read', chains.length === 0 ? 1 : 0, RUNBOOK)
  need(null, 'no replica reads payments', lease?.held ? 0 : 1, RUNBOOK)
  for (const chain of chains) {
    const { chainId } = chain
    const isOld = chain.ageSeconds === null || chain.ageSeconds > maxAgeSeconds
    need(chainId, `not read to the end for ${forHowLong(chain.ageSeconds)}`, isOld ? 1 : 0, RUNBOOK)
    need(chainId, 'reverted after delivery began', chain.reverted.urgent, list('reverted'))
    need(chainId, `paid after they were cancelled, in the last ${days} days`, chain.late.urgent, list('late'))
    need(chainId, `overpaid in the last ${days} days`, chain.overpaid.urgent, list('overpaid'))
    need(chainId, 'paid in part with the time to pay over', chain.underpaid.urgent, list('underpaid'))
    need(chainId, `unmatched in the last ${days} days`, chain.unmatched.urgent, `${OPS} unmatched`)
    need(chainId, `not storable as transfers, in the last ${days} days`, chain.rowErrors.urgent, `${OPS} unmatched`)
    const undecided = chain.undecided.reduce((sum, { urgent }) => sum + urgent, 0)
    need(chainId, 'undecided for more than 10 minutes', undecided, list('undecided'))
    need(chainId, 'in doubt for more than 10 minutes', chain.doubted.urgent, RUNBOOK)
    need(chainId, 'due to be settled for more than 10 minutes', chain.due.urgent, list('settling'))
  }
  return needs
}

export function statusText(status: PaymentsStatus, needs: Need[]): string {
  const { lease, chains } = status
  const lines = [row('read by', lease?.held ? printable(lease.holder) : 'nobody')]
  if (lease)
    lines.push(row('', `${lease.held ? 'lease until' : 'the last lease ran out'} ${lease.expiresAt.toISOString()}`))
  for (const chain of chains) lines.push('', `Chain ${chain.chainId}`, ...chainLines(chain))
  if (needs.length === 0) return [...lines, '', 'In order: nothing needs a person.'].join('\n')
  lines.push('', 'Needs a person:')
  for (const { count, what, see, chainId } of needs) {
    const where = chainId !== null && chains.length > 1 ? `chain ${chainId}: ` : ''
    lines.push(`  ${where}${count > 1 ? `${count} ` : ''}${what}`, `    → ${see}`)
  }
  return lines.join('\n')
}

const SHOWN_GATEWAYS = 5

function chainLines(chain: ChainStatus): string[] {
  const { cursor, reorg, unmatched, undecided } = chain
  const undecidedLines = undecided
    .slice(0, SHOWN_GATEWAYS)
    .map((of) => `    ${many(of)} at ${of.gateway}, the oldest from ${clock(of.oldestAt)}`)
  if (undecided.length > SHOWN_GATEWAYS)
    undecidedLines.push(`    and at ${undecided.length - SHOWN_GATEWAYS} gateway(s) more`)
  return [
    row('read', chain.ageSeconds === null ? 'never to the end' : `${chain.ageSeconds} s ago, head ${chain.headBlock}`),
    row('cursor', cursor ? `block ${cursor.blockNumber}` : 'at the beginning'),
    row('last reorg', reorg ? `${clock(reorg.at)}, at most ${reorg.depth} block(s)` : 'none'),
    'orders',
    row('  underpaid', tallied(chain.underpaid, 'with the time to pay over')),
    row('  overpaid', tallied(chain.overpaid, 'new')),
    row('  late', tallied(chain.late, 'new')),
    row('  reverted', tallied(chain.reverted)),
    row('  due to be settled', tallied(chain.due, 'for too long')),
    'transfers',
    row('  undecided', String(undecided.reduce((sum, { count }) => sum + count, 0))),
    ...undecidedLines,
    row('  in doubt', tallied(chain.doubted, 'for too long')),
    row('  orphaned', `${tallied(chain.orphaned)} in the last ${ORPHANS_WITHIN_BLOCKS} blocks`),
    row('  unmatched', `${tallied(unmatched, 'new')}, ${crc(unmatched.wei)}, to gateways on record`),
    row('  row errors', tallied(chain.rowErrors, 'new to gateways on record')),
  ]
}

const many = ({ count, more }: Tally) => `${count.toLocaleString('en')}${more ? '+' : ''}`

const tallied = (tally: Tally, urgent?: string) =>
  urgent !== undefined && tally.urgent > 0 ? `${many(tally)} (${tally.urgent} ${urgent})` : many(tally)

function forHowLong(seconds: number | null): string {
  if (seconds === null) return 'ever'
  return seconds < 120 ? `${seconds} s` : `${Math.floor(seconds / 60)} min`
}

// ---- list ----

export function listText(
  { orders, next }: { orders: ListedOrder[]; next: string | undefined },
  { state }: { state?: PaymentState | undefined },
): string {
  if (orders.length === 0) return state ? `No order is ${state}.` : 'No order waits for a person.'
  const rows = orders.map((order) => ({
    order: order.orderId,
    state: state ?? order.states.filter((one) => one !== 'settling' && one !== 'orphaned').join(','),
    price: narrow(order.priceWei),
    paid: narrow(order.paidWei),
    difference: narrow((BigInt(order.paidWei) - BigInt(order.priceWei)).toString(), '+'),
    below: `${order.reference}  ${whenOf(order)}`,
  }))
  const head = { order: 'ORDER, REFERENCE', state: 'STATE', price: 'PRICE', paid: 'PAID', difference: 'DIFFERENCE' }
  const columns = (Object.keys(head) as (keyof typeof head)[]).map((name) => {
    const width = Math.max(...[head, ...rows].map((cells) => cells[name].length))
    const isText = name === 'order' || name === 'state'
    return (cells: typeof head) => (isText ? cells[name].padEnd(width) : cells[name].padStart(width))
  })
  const line = (cells: typeof head) => columns.map((cell) => cell(cells)).join('  ')
  const more = next === undefined ? [] : ['', `There is more: the same with --after ${next}`]
  return [line(head), ...rows.flatMap((cells) => [line(cells), cells.below]), ...more].join('\n')
}

function whenOf({ createdAt, paymentDueBy, cancelledAt, revertedAt, states }: ListedOrder): string {
  if (revertedAt) return `reverted ${clock(revertedAt)}`
  if (cancelledAt) return `cancelled ${clock(cancelledAt)}`
  return states.includes('underpaid') ? `due by ${clock(paymentDueBy)}` : `placed ${clock(createdAt)}`
}

/** An amount in twelve columns; one that loses digits ends in `…`. */
function narrow(wei: string, sign = ''): string {
  const text = decimalFromWei(BigInt(wei))
  const signed = BigInt(wei) > 0n ? `${sign}${text}` : text
  if (signed.length <= 12) return signed
  const [whole = ''] = signed.split('.')
  if (whole.length <= 10) return `${signed.slice(0, 11)}…`
  return `${whole.slice(0, whole.search(/[0-9]/) + 4)}…e${whole.replace(/^[-+]/, '').length - 4}`
}

// ---- unmatched ----

export function unmatchedText(
  { gateways, transfers, unreadable }: Unmatched,
  { all, limit }: { all: boolean; limit: number },
): string {
  const where = all ? 'any gateway' : 'gateways on record'
  if (gateways.length === 0) return `Nothing unmatched came to ${where}.`
  const totals = gateways.flatMap((of) => [
    `  ${of.gateway === '?' ? 'no readable gateway'.padEnd(42) : of.gateway}  ${crc(of.wei)}`,
    `    ${of.transfers} transfer(s), ${of.unreadable} unreadable${of.owners.length > 0 ? `, of ${of.owners[0]}` : ''}`,
  ])
  const rows = transfers.flatMap((transfer) => [
    `  ${transfer.amountWei === null ? 'unreadable amount' : crc(transfer.amountWei)} at block ${transfer.blockNumber}`,
    `    ref   ${quoted(transfer.reference)}`,
    `    tx    ${transfer.txHash} log ${transfer.logIndex}`,
    `    from  ${transfer.payer ?? 'not known'} to ${transfer.gateway}`,
  ])
  return [
    `Unmatched, to ${where}`,
    ...totals,
    ...(rows.length > 0 ? ['', 'No order has this reference', ...rows] : []),
    ...(unreadable.length > 0 ? ['', 'Not storable as a transfer', ...unreadable.flatMap(rowErrorLines)] : []),
    ...(transfers.length === limit || unreadable.length === limit
      ? ['', `The newest ${limit}; more with --limit.`]
      : []),
  ].join('\n')
}

// ---- replay ----

export function replayText(replay: Replay, dryRun: boolean): string {
  const { fromBlock, readTo, chainId } = replay
  const cursor =
    replay.cursor === 'updated'
      ? `cursor ${dryRun ? 'to be updated' : 'updated'}: from block ${readTo} back to just before ${fromBlock}`
      : `cursor unchanged: everything from block ${fromBlock} on is still to be read`
  return [
    `${dryRun ? 'To do' : 'Done'} on chain ${chainId}.`,
    `  ${cursor}`,
    `  transfers on record from there: ${replay.readAgain}; to judge anew: updated ${replay.transfers.updated}, unchanged ${replay.transfers.unchanged}`,
    `  orders to settle anew: updated ${replay.orders.updated}`,
    ...(dryRun ? [] : [`The next poll begins with it; \`${OPS} status\` says when it is through.`]),
  ].join('\n')
}
