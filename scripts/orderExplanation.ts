import type { ExplainedOrder, Explanation, ShownDelivery, ShownJob } from '@market/market-api/ops'
import { explanationText, nextOf, withWords, wordsOf } from './explanationText.ts'
import { type Advice, adviceFor, eventWords, goodsOf, reasonWords, subjectOf, verdictOf } from './jobsWords.ts'
import { adviceLines, givenLines } from './jobsText.ts'
import { clock, crc, row, wrapped } from './paymentsWords.ts'

/** An order with all that is known of its payment and its delivery. */
export type WholeOrder = { payment: ExplainedOrder; delivery: ShownDelivery }

type Happening = { at: Date; says: string; do: string | null }
/** `because`: of what, and why, for people. */
type Verdict = { verdict: string; because: string | null; advice: Advice[] }

/** All that happened to an order, oldest first. */
export function historyOf({ payment, delivery }: WholeOrder): Happening[] {
  const dueSince = ({ trigger }: ShownJob) => (trigger === 'confirmed' ? payment.confirmedAt : payment.finalizedAt)
  const happened = (at: Date | null, says: string): Happening[] => (at ? [{ at, says, do: null }] : [])
  const why = payment.cancelReason === 'expired' ? 'because it was not paid in time' : `by its ${payment.cancelReason}`
  const all = [
    ...happened(
      payment.createdAt,
      `placed: ${goodsOf(delivery.lines)} for ${crc(payment.priceWei)}, to be paid by ${clock(payment.paymentDueBy)}`,
    ),
    ...payment.transfers.map((transfer) => {
      const { says, do: what } = wordsOf(transfer, payment)
      const amount = transfer.amountWei === null ? 'an unreadable amount' : crc(transfer.amountWei)
      return { at: transfer.observedAt, says: `${amount} came at block ${transfer.blockNumber}: ${says}`, do: what }
    }),
    ...happened(payment.paidAt, 'paid'),
    ...happened(payment.confirmedAt, 'the payment is confirmed'),
    ...happened(payment.finalizedAt, 'the payment is final'),
    ...happened(payment.cancelledAt, `cancelled, ${why}`),
    ...happened(payment.revertedAt, 'a reorg took the payment back after delivery had begun'),
    ...delivery.jobs.flatMap((job) =>
      job.events.map((event) => ({
        // Made in the transaction that said so of the payment, whose clock is another's.
        at: event.kind === 'created' ? later(event.at, dueSince(job)) : event.at,
        says: `${subjectOf(job)} ${eventWords(event)}`,
        do: null,
      })),
    ),
  ]
  // What shares a moment stays in the order above: the payment, then what came of it.
  return all.toSorted((a, b) => a.at.getTime() - b.at.getTime())
}

const later = (a: Date, b: Date | null) => (b !== null && b > a ? b : a)

/** How the order stands, and what is to be done about what it waits for. */
export function verdictOn({ payment, delivery }: WholeOrder): Verdict {
  const { jobs, linesWithoutJob } = delivery
  const ofPayment = nextOf(payment).filter((sentence) => !sentence.includes('delivery job(s)'))
  const advice = [...ofPayment.map((says) => ({ says, run: [] })), ...adviceOnJobs(delivery)]
  if (linesWithoutJob.length > 0) {
    const because = `${goodsOf(linesWithoutJob)}, paid, and no job delivers it`
    const says = 'Report it, that is a fault of ours: docs/operations.md, "A paid line without a job".'
    return { verdict: 'waits for a person', because, advice: [{ says, run: [] }, ...advice] }
  }
  if (payment.revertedAt)
    return { verdict: 'waits for a person', because: 'its payment is gone from the chain', advice }
  if (payment.cancelledAt) return { verdict: 'cancelled', because: null, advice }
  if (!payment.paidAt) return { verdict: 'waits for its payment', because: null, advice }
  const urgent = MOST_URGENT.find((state) => jobs.some((job) => verdictOf(job) === state))
  if (urgent) {
    const those = jobs.filter((job) => verdictOf(job) === urgent)
    const because = those.map((job) => `${goodsOf(job.lines)}${job.reason ? `, ${reasonWords(job.reason)}` : ''}`)
    return { verdict: urgent, because: because.join('; '), advice }
  }
  const isWhole = delivery.lines.every(({ lineIndex }) => jobs.some((job) => job.lineIndexes.includes(lineIndex)))
  if (!isWhole) return { verdict: 'waits for confirmations', because: null, advice }
  const given = jobs.filter(({ status }) => status === 'done').length
  const verdict = given === jobs.length ? 'delivered' : given > 0 ? 'delivered in part' : 'not delivered'
  return {
    verdict,
    because: given === jobs.length ? null : given > 0 ? 'an operator cancelled the rest' : 'an operator cancelled it',
    advice,
  }
}

/** Of what jobs wait for, in this order. */
const MOST_URGENT = [
  'waits for a person',
  'waits for stock',
  'waits for its seller',
  'waits for its payment',
  'is being delivered',
] as const

const adviceOnJobs = ({ jobs, order }: ShownDelivery): Advice[] =>
  jobs
    .filter(({ status }) => status !== 'done')
    .map((job) => {
      const { says, run } = adviceFor(job, order)
      return { says: `${subjectOf(job)} ${says}`, run }
    })

export function orderText(whole: WholeOrder): string {
  const { payment, delivery } = whole
  const { verdict, because, advice } = verdictOn(whole)
  return [
    `Order ${payment.orderId}`,
    ...wrapped(because === null ? verdict : `${verdict}: ${because}`, row('  verdict', '')),
    row('  state', payment.status.split('/').at(-1)!),
    row('  reference', payment.reference),
    row('  price', `${crc(payment.priceWei)}, paid ${crc(payment.paidWei)}`),
    '',
    'What happened',
    ...historyOf(whole).flatMap((one) => [
      ...wrapped(one.says, `  ${clock(one.at)}  `),
      ...(one.do === null ? [] : wrapped(one.do, '                        → ')),
    ]),
    '',
    'What the buyer has',
    ...(delivery.jobs.length === 0 ? ['  nothing: no delivery is due yet'] : delivery.jobs.flatMap(givenLines)),
    '',
    'Next',
    ...advice.flatMap(adviceLines),
  ].join('\n')
}

/** For what was asked: its orders, and transfers that have none. */
export function wholeText(orders: WholeOrder[], { unmatched, unreadable }: Explanation): string {
  const rest = explanationText({ orders: [], unmatched, unreadable })
  return [...orders.map(orderText), ...(rest === '' ? [] : [rest])].join('\n\n')
}

/** The same with its sentences, for `--json`. */
export const wholeJson = (orders: WholeOrder[], explanation: Explanation) => ({
  ...withWords(explanation),
  orders: orders.map((whole) => ({
    orderId: whole.payment.orderId,
    ...verdictOn(whole),
    history: historyOf(whole),
    payment: withWords({ orders: [whole.payment], unmatched: [], unreadable: [] }).orders[0],
    delivery: whole.delivery,
  })),
})
