import type { JobCount, JobFilter, ListedJob, OrderStanding, ShownJob } from '@market/market-api/ops'
import {
  type Advice,
  adviceFor,
  delivererOf,
  eventWords,
  goodsOf,
  JOBS,
  nameOf,
  reasonWords,
  verdictOf,
} from './jobsWords.ts'
import { clock, printable, row, wrapped } from './paymentsWords.ts'

// ---- list ----

/** Enough of an id to be the only one of millions. */
const SHORT = 13

export function jobListText(
  page: { counts: JobCount[]; jobs: ListedJob[]; next: string | undefined },
  { waiting }: JobFilter,
  now = new Date(),
): string {
  const { counts, jobs, next } = page
  const lines: string[] = []
  if (counts.length > 0) {
    const rows = counts.map((count) => [
      count.status,
      count.reason ?? '',
      count.jobs.toLocaleString('en'),
      `${age(count.oldestAt, now)} ago`,
    ])
    lines.push(...table(['NOT AT THEIR END', 'REASON', 'JOBS', 'OLDEST'], rows, [2]), '')
  }
  if (jobs.length === 0) return [...lines, waiting ? 'No job waits.' : 'There is no such job.'].join('\n')
  const rows = jobs.map((job) => [
    job.jobId.slice(0, SHORT),
    job.status,
    clipped(job.reason ?? '', 20),
    clipped(job.offerType, 16),
    String(job.attempts),
    age(job.createdAt, now),
    nextOf(job, now),
  ])
  const head = ['JOB; ORDER, SELLER', 'STATUS', 'REASON', 'OFFER TYPE', 'TRIES', 'AGE', 'NEXT']
  const [title, ...body] = table(head, rows, [4, 5])
  lines.push(title!)
  jobs.forEach((job, i) => lines.push(body[i]!, `  ${job.orderId}  ${job.seller}`))
  if (next !== undefined) lines.push('', `There is more: the same with --after ${next}`)
  if (waiting) lines.push('', `What to do about one: ${JOBS} show ${jobs[0]!.jobId.slice(0, SHORT)}`)
  return lines.join('\n')
}

function nextOf({ status, nextAttemptAt, lockedUntil }: ListedJob, now: Date): string {
  if (status === 'done' || status === 'cancelled') return ''
  if (status === 'running') return lockedUntil && lockedUntil > now ? 'at work' : 'now'
  if (nextAttemptAt === null) return 'never'
  return nextAttemptAt <= now ? 'now' : `in ${age(now, nextAttemptAt)}`
}

function table(head: string[], rows: string[][], right: number[]): string[] {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((cells) => cells[i]!.length)))
  const line = (cells: string[]) =>
    cells
      .map((cell, i) => (right.includes(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd()
  return [line(head), ...rows.map(line)]
}

const clipped = (text: string, width: number) => {
  const shown = printable(text)
  return shown.length > width ? `${shown.slice(0, width - 1)}…` : shown
}

/** `45 s`, `12 min`, `7 h`, `12 d`. */
function age(from: Date, to: Date): string {
  const seconds = Math.max(0, Math.round((to.getTime() - from.getTime()) / 1000))
  if (seconds < 120) return `${seconds} s`
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} d`
}

// ---- show ----

export const withAdvice = ({ order, job }: { order: OrderStanding; job: ShownJob }) => ({
  order,
  job: { ...job, events: job.events.map((event) => ({ ...event, says: eventWords(event) })) },
  verdict: verdictOf(job),
  advice: adviceFor(job, order),
})

export function jobText({ order, job }: { order: OrderStanding; job: ShownJob }): string {
  const status = job.reason === null ? job.status : `${job.status}: ${reasonWords(job.reason)}`
  const error = job.lastError !== null && job.lastError !== job.reason ? [row('last answer', raw(job))] : []
  return [
    `Job ${job.jobId}`,
    ...wrapped(status, row('status', '')),
    ...error.flatMap((line) => wrapped(line.slice(LABEL), line.slice(0, LABEL))),
    row('order', `${order.orderId}, ${order.status.split('/').at(-1)}`),
    row('seller', `${job.seller} on chain ${job.chainId}`),
    row('delivered by', `${delivererOf(job.offerType)}, when the payment is ${job.trigger}`),
    row('tries', `${job.attempts}${whenNext(job)}`),
    '',
    'Lines',
    ...job.lines.flatMap((line) =>
      wrapped(`${line.quantity} × ${nameOf(line)}: ${routeNow(line)}`, `  ${line.lineIndex}. `),
    ),
    '',
    'What happened',
    ...job.events.flatMap((event) => wrapped(eventWords(event), `  ${clock(event.at)}  `)),
    '',
    'What the buyer has',
    ...givenLines(job),
    '',
    'What to do',
    ...adviceLines(adviceFor(job, order)),
  ].join('\n')
}

const LABEL = 21

const raw = ({ lastError, lastHttpStatus }: ShownJob) =>
  `${lastHttpStatus === null || lastError?.startsWith('HTTP ') ? '' : `HTTP ${lastHttpStatus}, `}${printable(lastError ?? '').slice(0, 400)}`

function whenNext({ nextAttemptAt, completedAt, status }: ShownJob): string {
  if (completedAt) return `, delivered ${clock(completedAt)}`
  return nextAttemptAt && status !== 'running' ? `, next ${clock(nextAttemptAt)}` : ''
}

function routeNow({ route }: ShownJob['lines'][number]): string {
  if (route === null) return 'no route'
  const kind = route.isOneOff ? 'one-off, by its seller' : printable(route.offerType ?? 'nobody')
  return `routed to ${kind}${route.enabled && route.offerTypeEnabled !== false ? '' : ', switched off'}`
}

export function givenLines({ given, lines }: ShownJob): string[] {
  if (given === null) return [`  nothing of ${goodsOf(lines)}`]
  const members = Object.entries(given.payload).filter(([name]) => !KNOWN_ANYWAY.has(name))
  const shown = members.filter(([, value]) => !isWithheld(value))
  const withheld = members.filter(([, value]) => isWithheld(value))
  const named = (names: string[]) => printable(names.join(', '))
  const text = named(
    shown.map(([name, value]) => `${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}`),
  )
  const rest = named(
    withheld.map(([name, value]) => `${name}${String(value).replace(/^(\d+) not shown$|^not shown$/, ' $1')}`.trim()),
  )
  return wrapped([text, ...(rest === '' ? [] : [`and, not shown here, ${rest}`])].join(' '), `  ${clock(given.at)}  `)
}

/** Of whom and for what stands above it. */
const KNOWN_ANYWAY = new Set(['orderId', 'paymentReference', 'seller', 'sku'])
const isWithheld = (value: unknown) => typeof value === 'string' && /^(\d+ )?not shown$/.test(value)

/** Commands on lines of their own, whole: they are copied. */
export const adviceLines = ({ says, run }: Advice) => [
  ...wrapped(says, '  '),
  ...run.map((command) => `    ${command}`),
]
