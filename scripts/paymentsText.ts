import { decimalFromWei } from '@market/contracts/money'
import {
  type ChainStatus,
  type DepthSum,
  type ExplainedJob,
  type ExplainedOrder,
  type ExplainedTransfer,
  type Explanation,
  type ListedOrder,
  ORPHANS_WITHIN_BLOCKS,
  type PaymentsStatus,
  type PaymentState,
  type Replay,
  type RowError,
  type Tally,
  type Unmatched,
} from '@market/market-api/ops'

// What `ops payments` prints for people: at most 100 columns, and nothing of it is obeyed by a terminal.

const WIDTH = 100
const OPS = 'npm run ops -- payments'

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

const row = (name: string, text: string) => `${name.padEnd(21)}${text}`

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
  const widest = (head: string, of: (cells: (typeof rows)[number]) => string) =>
    Math.max(head.length, ...rows.map((cells) => of(cells).length))
  const widths = {
    state: widest('STATE', (cells) => cells.state),
    price: widest('PRICE', (cells) => cells.price),
    paid: widest('PAID', (cells) => cells.paid),
    difference: widest('DIFFERENCE', (cells) => cells.difference),
  }
  const line = (cells: { order: string; state: string; price: string; paid: string; difference: string }) =>
    [
      cells.order.padEnd(36),
      cells.state.padEnd(widths.state),
      cells.price.padStart(widths.price),
      cells.paid.padStart(widths.paid),
      cells.difference.padStart(widths.difference),
    ].join('  ')
  const head = { order: 'ORDER, REFERENCE', state: 'STATE', price: 'PRICE', paid: 'PAID', difference: 'DIFFERENCE' }
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

// ---- explain ----

type Words = { says: string; do: string | null }

/** Why a transfer counts or does not, and what to do about it. */
export function wordsOf(transfer: ExplainedTransfer, order: ExplainedOrder | undefined): Words {
  const again = `${OPS} replay --from-block ${transfer.blockNumber}`
  const givesBack = `The money is at ${transfer.gateway}: whoever owns that gateway can give it back.`
  switch (transfer.verdict) {
    case 'counts':
      return order?.cancelledAt
        ? { says: 'came for an order that is cancelled: nothing is delivered for it', do: givesBack }
        : { says: 'counts', do: null }
    case 'in_doubt':
      return {
        says: 'counts, but a reorg may have taken it: nothing is confirmed by it until it is seen again',
        do: 'Nothing. If it stays for more than a few minutes, the node or the indexer can not be read: see the log.',
      }
    case 'judged_again':
      return {
        says: 'counts, and is being judged again because a reorg moved it: nothing is confirmed by it until then',
        do: 'Nothing. If it stays for more than a few minutes: see the log, "trust of gateway not readable".',
      }
    case 'undecided':
      return {
        says: 'does not count yet: whether the gateway trusts this token is not known',
        do: 'Wait for the next poll. If it stays, RPC or CIRCLES_RPC is at fault: log "trust of gateway not readable".',
      }
    case 'orphaned':
      return {
        says: 'does not count: its block is no longer in the chain, so the payer still has the money',
        do: 'Nothing: it counts again by itself when its transaction is mined again.',
      }
    case 'untrusted_token':
      return {
        says: `does not count: the gateway did not trust CRC of ${transfer.token ?? 'that token'} when it was paid`,
        do: `${givesBack} The buyer pays again, in CRC that the gateway trusts. If the verdict itself is wrong: ${again}`,
      }
    case 'unknown_gateway':
      return {
        says: order?.gateways.some(({ gateway }) => gateway === transfer.gateway)
          ? 'does not count: PAYMENT_GATEWAYS does not name its gateway'
          : `does not count: it went to ${transfer.gateway}, where this order is not paid`,
        do: order?.gateways.some(({ gateway }) => gateway === transfer.gateway)
          ? 'If that gateway is to be taken: add it to PAYMENT_GATEWAYS and restart market-api.'
          : `${givesBack} The order has to be paid where it says.`,
      }
    case 'unknown_emitter':
      return {
        says: 'does not count: not the configured factory wrote this log, so it may be forged and no money at all',
        do: `Nothing, unless PAYMENT_GATEWAY_FACTORY was wrong: correct it, restart market-api, then ${again}`,
      }
    case 'no_order':
      return order
        ? { says: 'does not count yet: it was read before there was this order', do: again }
        : {
            says: 'counts for nothing: no order has its reference',
            do: `${givesBack} If the order was made since then: ${again}`,
          }
    case 'bad_amount':
      return { says: 'does not count: its amount could not be read', do: `Look at the transaction. ${givesBack}` }
    case 'bad_token':
      return { says: 'does not count: its token could not be read', do: `Look at the transaction. ${givesBack}` }
    case 'bad_time':
      return {
        says: 'does not count: the time of its block could not be read',
        do: `See the node's block. ${givesBack}`,
      }
  }
}

/** What becomes of the order, by itself or by somebody's doing. */
export function nextOf(order: ExplainedOrder): string[] {
  const price = BigInt(order.priceWei)
  const seen = BigInt(order.seen.wei)
  const says: string[] = []
  if (order.settleAtBlock !== null && order.head && order.settleAtBlock <= order.head.block) {
    says.push('It is due to be settled: the next poll does that.')
  }
  if (order.revertedAt) {
    says.push(
      `A reorg took the payment back on ${clock(order.revertedAt)}, after delivery had begun: ${crc(price - seen)} are missing.` +
        ' Ask the buyer to pay again with the same reference; that mends it by itself. Else it is a loss to write off.',
    )
  } else if (order.cancelledAt) {
    const why = order.cancelReason === 'expired' ? 'because it was not paid in time' : `by its ${order.cancelReason}`
    says.push(`It was cancelled on ${clock(order.cancelledAt)}, ${why}. That is final.`)
    if (seen > 0n) says.push(`${crc(seen)} came for it: give them back. Nothing is delivered.`)
  } else if (order.finalizedAt) {
    says.push('The payment is final.')
  } else if (order.paidAt) {
    const confirmed = order.confirmedAt ? 'It is confirmed.' : depthSentence('Confirmed', order.confirmed, order)
    says.push(confirmed, depthSentence('Final', order.final, order))
  } else if (order.seen.reached) {
    says.push('Enough is paid: the next poll marks it as paid.')
  } else if (seen > 0n) {
    says.push(
      `${crc(price - seen)} are missing; a further payment with the same reference adds to what came.` +
        ` Due by ${clock(order.paymentDueBy)}; the market waits a day longer for the rest, then it cancels the order.`,
    )
  } else {
    says.push(
      `It waits for a payment until ${clock(order.paymentDueBy)}. Then it is cancelled, as soon as payments are read so far.`,
    )
  }
  if (!order.cancelledAt && seen > price) says.push(`${crc(seen - price)} more than the price came: give them back.`)
  const waiting = order.jobs.filter(({ status }) => status !== 'done')
  if (waiting.length > 0 && order.paidAt) {
    const held = waiting.filter(({ reason }) => reason === 'payment_reverted').length
    if (held > 0) says.push(`${held} delivery job(s) are held until the payment stands again.`)
    if (waiting.length > held)
      says.push(`${waiting.length - held} delivery job(s) are not done: docs/operations.md, "An order waits".`)
  }
  return says
}

function depthSentence(what: string, { missingBlocks }: DepthSum, { head }: ExplainedOrder): string {
  if (missingBlocks === null) return `${what} when what is in doubt was seen again.`
  if (missingBlocks === 0) return `${what} with the next poll.`
  return `${what} at block ${(head?.block ?? 0) + missingBlocks}, that is in ${missingBlocks} block(s).`
}

/** The explanation with its sentences, for `--json`. */
export const withWords = ({ orders, unmatched, unreadable }: Explanation) => ({
  orders: orders.map((order) => ({
    ...order,
    transfers: order.transfers.map((transfer) => ({ ...transfer, ...wordsOf(transfer, order) })),
    next: nextOf(order),
  })),
  unmatched: unmatched.map((transfer) => ({ ...transfer, ...wordsOf(transfer, undefined) })),
  unreadable,
})

export function explanationText({ orders, unmatched, unreadable }: Explanation): string {
  const parts = orders.map((order) => orderLines(order).join('\n'))
  if (unmatched.length > 0) {
    const lines = unmatched.flatMap((transfer, i) => [
      ...transferLines(transfer, i + 1, undefined),
      `     ref   ${quoted(transfer.reference)}`,
    ])
    parts.push(['Transfers whose reference no order has', ...lines].join('\n'))
  }
  if (unreadable.length > 0) {
    parts.push(['Logs that could not be stored as transfers', ...unreadable.flatMap(rowErrorLines)].join('\n'))
  }
  return parts.join('\n\n')
}

function orderLines(order: ExplainedOrder): string[] {
  const { head } = order
  const gateways = order.gateways.map(({ gateway, owners }, i) =>
    row(i === 0 ? '  paid to' : '', `${gateway}${owners.length > 0 ? '' : ' (not on record)'}`),
  )
  const ofGateways = order.gateways.flatMap(({ owners }) => owners.map((owner) => row('', `of ${owner}`)))
  const transfers = order.transfers.flatMap((transfer, i) => transferLines(transfer, i + 1, order))
  return [
    `Order ${order.orderId}`,
    row('  reference', order.reference),
    row('  state', `${order.status.split('/').at(-1)}, placed ${clock(order.createdAt)}`),
    row('  price', `${crc(order.priceWei)}, due by ${clock(order.paymentDueBy)}`),
    ...gateways,
    ...ofGateways,
    row(
      '  read up to',
      head ? `block ${head.block}, ${clock(head.observedAt)}` : 'payments were never read to the end',
    ),
    '',
    order.transfers.length === 0 ? 'Nothing was paid with this reference, as far as payments are read.' : 'Transfers',
    ...(order.moreTransfers ? [`  (the newest ${order.transfers.length} of more)`] : []),
    ...transfers,
    '',
    `Sums of what counts, against the price of ${crc(order.priceWei)}`,
    sumLine('seen', order.seen, order),
    sumLine(`${order.confirm} blocks deep`, order.confirmed, order),
    sumLine(`${order.finalize} blocks deep`, order.final, order),
    '',
    order.jobs.length === 0 ? 'No delivery is due yet.' : 'Delivery',
    ...order.jobs.flatMap(jobLines),
    '',
    'Next',
    ...nextOf(order).flatMap((sentence) => wrapped(sentence, '  ')),
  ]
}

function transferLines(transfer: ExplainedTransfer, number: number, order: ExplainedOrder | undefined): string[] {
  const { says, do: what } = wordsOf(transfer, order)
  const amount = transfer.amountWei === null ? 'an unreadable amount' : crc(transfer.amountWei)
  const at = transfer.blockTime ? `, ${clock(transfer.blockTime)}` : ''
  return [
    ...wrapped(`${amount} at block ${transfer.blockNumber}${at}: ${says}`, `${String(number).padStart(3)}. `),
    `     tx    ${transfer.txHash} log ${transfer.logIndex}`,
    `     from  ${transfer.payer ?? 'not known'}`,
    ...(order ? [] : [`     to    ${transfer.gateway}`]),
    ...(what === null ? [] : wrapped(what, '     → ')),
  ]
}

function sumLine(name: string, { wei, missingBlocks }: DepthSum, { priceWei, seen }: ExplainedOrder): string {
  const missing = BigInt(priceWei) - BigInt(wei)
  const rest =
    missing <= 0n
      ? 'enough'
      : !seen.reached
        ? `${crc(missing)} are missing`
        : missingBlocks === null
          ? `${crc(missing)} are in doubt`
          : `enough in ${missingBlocks} block(s)`
  return row(`  ${name}`, `${crc(wei)}: ${rest}`)
}

function jobLines(job: ExplainedJob): string[] {
  const reason = job.reason === null ? '' : ` (${job.reason})`
  const next = job.nextAttemptAt && job.status !== 'done' ? `, next ${clock(job.nextAttemptAt)}` : ''
  return [
    `  ${job.status}${reason}: ${job.offerType}, when ${job.trigger}, line(s) ${job.lineIndexes.join(', ')}`,
    `    seller ${job.seller}, ${job.attempts} attempt(s)${next}`,
  ]
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

const REASON: Record<string, string> = {
  no_reference: 'its reference is missing or can not be read',
  negative_amount: 'its amount is negative',
  no_transaction: 'it names no transaction',
  no_gateway: 'it names no gateway',
  refused: 'the database refused it; why is in the log, "payment not stored"',
}

function rowErrorLines(error: RowError): string[] {
  const isAmount = error.amountWei !== null && /^[0-9]{1,78}$/.test(error.amountWei)
  const amount = isAmount ? crc(error.amountWei!) : 'unreadable amount'
  return [
    ...wrapped(`${amount} at block ${error.blockNumber}: ${REASON[error.reason] ?? printable(error.reason)}`, '  '),
    `    tx    ${error.txHash ?? 'not known'} log ${error.logIndex}`,
    `    from  ${error.payer ?? 'not known'} to ${error.gateway ?? 'not known'}`,
  ]
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

// ---- Words and numbers ----

const crc = (wei: string | bigint) => `${decimalFromWei(BigInt(wei))} CRC`

/** `2026-01-31 12:05 UTC`. */
const clock = (at: Date) => `${at.toISOString().slice(0, 16).replace('T', ' ')} UTC`

/** Text of a stranger's. */
const printable = (text: string) => text.replaceAll(/\p{C}/gu, '\ufffd')

const quoted = (text: string) => {
  const shown = printable(text)
  return `"${shown.length > 80 ? `${shown.slice(0, 79)}…` : shown}"`
}

/** Lines of at most WIDTH columns; those after the first stand under its text. */
function wrapped(text: string, lead: string): string[] {
  const indent = ' '.repeat(lead.length)
  const lines: string[] = []
  let line = lead
  for (const word of text.split(' ')) {
    const isFirst = line === lead || line === indent
    if (!isFirst && line.length + 1 + word.length > WIDTH) {
      lines.push(line)
      line = indent + word
    } else line += isFirst ? word : ` ${word}`
  }
  return [...lines, line]
}
