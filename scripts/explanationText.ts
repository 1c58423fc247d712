import type { DepthSum, ExplainedJob, ExplainedOrder, ExplainedTransfer, Explanation } from '@market/market-api/ops'
import { clock, crc, OPS, quoted, row, rowErrorLines, wrapped } from './paymentsWords.ts'

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
      return order?.gateways.some(({ gateway }) => gateway === transfer.gateway)
        ? {
            says: 'does not count: PAYMENT_GATEWAYS does not name its gateway',
            do: 'If that gateway is to be taken: add it to PAYMENT_GATEWAYS and restart market-api.',
          }
        : {
            says: `does not count: it went to ${transfer.gateway}, where this order is not paid`,
            do: `${givesBack} The order has to be paid where it says.`,
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
  const waiting = order.jobs.filter(({ status }) => status !== 'done' && status !== 'cancelled')
  if (waiting.length > 0 && order.paidAt) {
    const held = waiting.filter(({ reason }) => reason === 'payment_reverted').length
    if (held > 0) says.push(`${held} delivery job(s) are held until the payment stands again.`)
    if (waiting.length > held)
      says.push(`${waiting.length - held} delivery job(s) are not done: npm run ops -- explain ${order.orderId}`)
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
  const next = job.nextAttemptAt ? `, next ${clock(job.nextAttemptAt)}` : ''
  return [
    `  ${job.status}${reason}: ${job.offerType}, when ${job.trigger}, line(s) ${job.lineIndexes.join(', ')}`,
    `    seller ${job.seller}, ${job.attempts} attempt(s)${next}`,
  ]
}
