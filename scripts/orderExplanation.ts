import type { ExplainedOrder, Explanation, ShownDelivery, ShownJob } from '@market/market-api/ops'
import { explanationText, nextOf, withWords, wordsOf } from './explanationText.ts'
import { type Advice, adviceFor, delivererOf, eventWords, goodsOf, verdictOf } from './jobsWords.ts'
import { adviceLines, givenLines } from './jobsText.ts'
import { clock, crc, row, wrapped } from './paymentsWords.ts'

/** An order with all that is known of its payment and its delivery. */
export type WholeOrder = { payment: ExplainedOrder; delivery: ShownDelivery }

type Happening = { at: Date; says: string; do: string | null }
type Verdict = { verdict: string; advice: Advice[] }

/** All that happened to an order, oldest first. */
export function historyOf({ payment, delivery }: WholeOrder): Happening[] {
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
      job.events.map((event) => ({ at: event.at, says: `${subjectOf(job)} ${eventWords(event)}`, do: null })),
    ),
  ]
  // What shares a moment stays in the order above: the payment, then what came of it.
  return all.toSorted((a, b) => a.at.getTime() - b.at.getTime())
}

const subjectOf = (job: ShownJob) => `${goodsOf(job.lines)} by ${delivererOf(job.offerType)}:`

/** In one sentence how the order stands, and what to do about what it waits for. */
export function verdictOn({ payment, delivery }: WholeOrder): Verdict {
  const { jobs, linesWithoutJob, order } = delivery
  if (linesWithoutJob.length > 0) {
    const says = `Nothing is going to deliver ${goodsOf(linesWithoutJob)} although it is paid: report it, that is a fault of ours.`
    return { verdict: 'waits for a person: paid lines have no job', advice: [{ says, run: [] }] }
  }
  const ofPayment = nextOf(payment).filter((sentence) => !sentence.includes('delivery job(s)'))
  const advice = [...ofPayment.map((says) => ({ says, run: [] })), ...adviceOnJobs(delivery)]
  if (payment.revertedAt) return { verdict: 'waits for a person: its payment is gone', advice }
  if (payment.cancelledAt) return { verdict: 'cancelled', advice }
  if (!payment.paidAt) return { verdict: 'waits for its payment', advice }
  const states = jobs.map(verdictOf)
  const urgent = (
    [
      'waits for a person',
      'waits for stock',
      'waits for its seller',
      'waits for its payment',
      'is being delivered',
    ] as const
  ).find((state) => states.includes(state))
  if (urgent) return { verdict: urgent, advice }
  const isWhole = delivery.lines.every(({ lineIndex }) => jobs.some((job) => job.lineIndexes.includes(lineIndex)))
  if (!isWhole) return { verdict: order.finalizedAt ? 'waits for a person' : 'waits for confirmations', advice }
  if (states.every((state) => state === 'delivered')) return { verdict: 'delivered', advice }
  const some = states.includes('delivered') ? 'delivered in part, the rest cancelled' : 'not delivered: cancelled'
  return { verdict: some, advice }
}

const adviceOnJobs = ({ jobs, order }: ShownDelivery): Advice[] =>
  jobs
    .filter(({ status }) => status !== 'done')
    .map((job) => {
      const { says, run } = adviceFor(job, order)
      return { says: `${subjectOf(job)} ${says}`, run }
    })

export function orderText(whole: WholeOrder): string {
  const { payment, delivery } = whole
  const { verdict, advice } = verdictOn(whole)
  return [
    `Order ${payment.orderId}`,
    row('  verdict', verdict),
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
    'What to do',
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
