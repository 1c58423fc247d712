import type { JobEvent, OrderStanding, ShownJob, ShownLine } from '@market/market-api/ops'
import { clock, printable } from './paymentsWords.ts'

// What jobs, their events and their troubles are in plain words.

export const JOBS = 'npm run ops -- jobs'

/** What is to be known or done, and the commands that do it. */
export type Advice = { says: string; run: string[] }

/** Offer types of jobs that no adapter is asked for, as the market writes them. */
const UNROUTED = 'unrouted'
const MANUAL = 'manual'
const CODES = 'codedispenser'

export const nameOf = ({ name, sku }: ShownLine) => printable(name && name !== sku ? `${name} (${sku})` : sku)

export const goodsOf = (lines: readonly ShownLine[]) =>
  lines.length === 0 ? 'no line' : lines.map((line) => `${line.quantity} × ${nameOf(line)}`).join(', ')

/** Who delivers it. */
export const delivererOf = (offerType: string) =>
  offerType === UNROUTED ? 'nobody' : offerType === MANUAL ? 'its seller' : printable(offerType)

const REASON: Record<string, string> = {
  route_not_found: 'no route says who delivers it',
  manual: 'its seller hands it over',
  depleted: 'the stock is empty',
  insufficientStock: 'there is not enough stock',
  partial: 'there was stock for a part of it',
  inProgress: 'the adapter is at it',
  notApplicable: 'the adapter has no mapping for it',
  ambiguous: 'the adapter finds more than one mapping for it',
  payment_reverted: 'its payment is gone from the chain',
  cancelled: 'an operator decided so',
  answer_not_storable: 'what the adapter answered can not be stored',
}

export const reasonWords = (reason: string) => REASON[reason] ?? `"${printable(reason).slice(0, 200)}"`

/** What it is about, beside other jobs of the order. */
export const subjectOf = ({ lines, offerType }: ShownJob) =>
  `${goodsOf(lines)}${offerType === UNROUTED ? '' : ` by ${delivererOf(offerType)}`}:`

/** One thing that happened to a job. */
export function eventWords({ kind, detail, until, times }: JobEvent): string {
  const { status, reason, by, httpStatus, attempt } = detail ?? {}
  const why = typeof reason === 'string' && reason !== '' ? reason : null
  const who = typeof by === 'string' ? printable(by) : 'somebody'
  const because = why === null ? '' : `: ${reasonWords(why)}`
  const asked = why === null ? '' : `, because: ${printable(why)}`
  const often = times > 1 ? ` (${times} times until ${clock(until)})` : ''
  const nth = typeof attempt === 'number' ? `attempt ${attempt}` : 'attempt'
  const http = typeof httpStatus === 'number' && !why?.startsWith('HTTP ') ? `, HTTP ${httpStatus}` : ''
  switch (kind) {
    case 'created':
      return status === 'pending' ? 'due, for an adapter to deliver' : `due, but waits${because}`
    case 'attempted':
      return `${attemptWords(nth, String(status), because)}${status === 'done' ? '' : http}${often}`
    case 'held':
      return 'held: the payment is gone from the chain'
    case 'released':
      return 'goes on: the payment is back'
    case 'completed':
      return 'handed over, says its seller'
    case 'retried':
      return `tried again by ${who}${asked}`
    case 'resolved':
      return `handed over, says ${who}${asked}`
    case 'cancelled':
      return `cancelled by ${who}${asked}`
    default:
      return `${printable(kind)}${because}${often}`
  }
}

function attemptWords(nth: string, status: string, because: string): string {
  switch (status) {
    case 'done':
      return `${nth}: delivered`
    case 'partial':
      return `${nth}: delivered in part${because}`
    case 'rejected':
      return `${nth}: the adapter refused${because}`
    case 'failed':
      return `${nth}: failed once too often${because}`
    case 'needs_attention':
      return `${nth}: waits${because}`
    default:
      return because.endsWith(REASON.inProgress!) ? `${nth}${because}` : `${nth}: failed, tried again${because}`
  }
}

/** Whether anybody has to do something, and who. */
export type Verdict =
  | 'delivered'
  | 'cancelled'
  | 'is being delivered'
  | 'waits for a person'
  | 'waits for stock'
  | 'waits for its seller'
  | 'waits for its payment'

export function verdictOf({ status, reason }: Pick<ShownJob, 'status' | 'reason'>): Verdict {
  if (status === 'done') return 'delivered'
  if (status === 'cancelled') return 'cancelled'
  if (status === 'pending' || status === 'running') return 'is being delivered'
  if (status === 'partial' || reason === 'depleted' || reason === 'insufficientStock') return 'waits for stock'
  if (reason === 'manual') return 'waits for its seller'
  return reason === 'payment_reverted' ? 'waits for its payment' : 'waits for a person'
}

/** What to do about a job. */
export function adviceFor(job: ShownJob, order: OrderStanding, now = new Date()): Advice {
  const retry = `${JOBS} retry ${job.jobId}`
  const byHand = [`${JOBS} resolve ${job.jobId} --reason '…' --message '…'`, `${JOBS} cancel ${job.jobId} --reason '…'`]
  const said = job.lastError === null ? '' : ` It said: ${reasonWords(job.lastError)}.`
  switch (job.status) {
    case 'done':
      return { says: 'Nothing: it is delivered.', run: [] }
    case 'cancelled':
      return {
        says: 'Nothing is delivered any more. The money is at the gateway it was paid to, whose owner can give it back.',
        run: [`npm run ops -- payments explain ${order.orderId}`],
      }
    case 'running':
      return job.lockedUntil !== null && job.lockedUntil > now
        ? { says: 'Nothing: a worker is at it.', run: [] }
        : { says: 'Its worker died: another takes it within seconds. If none does, no market-api runs.', run: [] }
    case 'pending':
      return pendingAdvice(job, retry, said, now)
    case 'partial':
      return {
        says: `A part is delivered. ${restocked(job)} What can not be restocked: hand over the rest, or give it up.`,
        run: [...restock(job), ...byHand],
      }
    case 'rejected':
      return job.reason === 'ambiguous'
        ? {
            says: 'More than one mapping of the adapter fits: leave one of them, then try again.',
            run: [retry],
          }
        : {
            says: `The adapter refused.${said} Its log says why, by the order's id. Mend that and try again, or end it by hand.`,
            run: [retry, ...byHand],
          }
    case 'failed':
      return {
        says: `A day of tries is over.${said} Mend the adapter, then try again.`,
        run: [retry, `${JOBS} retry --all --status failed --offer-type ${quotedForShell(job.offerType)} --dry-run`],
      }
    case 'needs_attention':
      return attentionAdvice(job, order, retry, byHand, said)
  }
}

function pendingAdvice(job: ShownJob, retry: string, said: string, now: Date): Advice {
  if (job.reason === 'inProgress') return { says: 'Nothing: the adapter is at it, and is asked again soon.', run: [] }
  if (job.nextAttemptAt === null) {
    return { says: 'No worker ever comes to it: report it, that is a fault of ours. Then try it again.', run: [retry] }
  }
  if (job.nextAttemptAt <= now) {
    return {
      says: 'It is due: a worker takes it at once. If none does, no market-api runs, or all of them are busy.',
      run: [],
    }
  }
  const when = `It is tried again by itself, next on ${clock(job.nextAttemptAt)}.`
  return job.lastError === null
    ? { says: `${when} Log "circuit opened" says why it waits.`, run: [retry] }
    : { says: `${when}${said} Mend the adapter; to try at once:`, run: [retry] }
}

function attentionAdvice(job: ShownJob, order: OrderStanding, retry: string, byHand: string[], said: string): Advice {
  switch (job.reason) {
    case 'route_not_found':
      return routeAdvice(job, retry)
    case 'notApplicable':
      return job.offerType === CODES
        ? {
            says: 'The dispenser has no mapping for it: make one, then try again.',
            run: [...mappings(job.lines, job), retry],
          }
        : { says: `${delivererOf(job.offerType)} has no mapping for it: make one there, then try again.`, run: [retry] }
    case 'depleted':
    case 'insufficientStock':
      return { says: restocked(job), run: restock(job) }
    case 'manual':
      return {
        says: 'Its seller hands it over and says so. If they do not, ask them; if they did and can not say so, say it for them.',
        run: byHand,
      }
    case 'payment_reverted':
      return {
        says: 'Nothing: it goes on by itself when its payment is back. Only if that is never to happen, give it up.',
        run: [`npm run ops -- payments explain ${order.orderId}`, byHand[1]!],
      }
    default:
      return {
        says: `Look at the adapter.${said} Mend that and try again, or end it by hand.`,
        run: [retry, ...byHand],
      }
  }
}

function routeAdvice(job: ShownJob, retry: string): Advice {
  const usable = ({ route }: ShownLine) =>
    route !== null &&
    route.enabled &&
    !route.isOneOff &&
    route.offerTypeEnabled === true &&
    (job.offerType === UNROUTED || route.offerType === job.offerType)
  const missing = job.lines.filter((line) => !usable(line))
  if (missing.length > 0) {
    const lines = missing.map((line) => `${nameOf(line)} ${routeWords(line, job)}`).join('; ')
    return {
      says: `${lines}. Make the route, for codes with the first command, then try again.`,
      run: [...mappings(missing, job), retry],
    }
  }
  if (new Set(job.lines.map(({ route }) => route?.offerType)).size > 1) {
    return {
      says: 'Its lines have routes of more than one kind by now, and one job can be given to one adapter only: deliver it by hand.',
      run: [`${JOBS} resolve ${job.jobId} --reason '…' --message '…'`],
    }
  }
  return { says: 'There is a route by now: try again.', run: [retry] }
}

function routeWords({ route }: ShownLine, job: ShownJob): string {
  if (route === null) return 'has no route'
  if (!route.enabled) return 'has a route that is switched off'
  if (route.isOneOff) return 'has the route of a one-off, which no adapter delivers'
  if (route.offerTypeEnabled !== true) return `has a route to ${route.offerType ?? 'nobody'}, which is switched off`
  return `has a route to ${route.offerType}, and was ordered from ${job.offerType}`
}

const mappings = (lines: readonly ShownLine[], { chainId, seller }: ShownJob) =>
  [...new Set(lines.map(({ sku }) => sku))].map(
    (sku) => `npm run ops -- mapping-codedisp ${chainId} ${seller} ${quotedForShell(sku)} <pool>`,
  )

const restocked = ({ offerType }: ShownJob) =>
  offerType === CODES
    ? 'Add codes to its pool: it goes on by itself then.'
    : `Restock at ${delivererOf(offerType)}: it goes on by itself within a minute.`

const restock = ({ offerType }: ShownJob) =>
  offerType === CODES ? ['npm run ops -- seed-pool <pool> codes.txt --file'] : []

/** Text of a stranger's in a command that somebody copies. */
const quotedForShell = (text: string) =>
  /^[\w.-]+$/.test(text) ? text : `'${printable(text).replaceAll("'", String.raw`'\''`)}'`
