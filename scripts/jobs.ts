import { ORDER_ID } from '@market/contracts/ids'
import {
  cancelJob,
  type Changed,
  explainPayment,
  JOB_STATUSES,
  type JobFilter,
  JobNotKnownError,
  JobRefusedError,
  listJobs,
  resolveJob,
  retryJob,
  showDelivery,
  showJob,
} from '@market/market-api/ops'
import type { Command } from 'commander'
import type { Out } from './catalog.ts'
import { jobListText, jobText, withAdvice } from './jobsText.ts'
import { address } from './operatorArguments.ts'
import { type WholeOrder, wholeJson, wholeText } from './orderExplanation.ts'
import { chainOf, depthsOf, limitOf, type MarketDb, wholeNumber, type WithMarket } from './payments.ts'
import { UsageError } from './usageError.ts'

const PREFIX = 'jobs'

const AFTER_LIST = `
On top: how many jobs there are that are not at their end, by status and reason. Then the jobs, newest first; without a filter those
that wait for a person or for stock: needs_attention, partial, rejected and failed. A reason is a word such as route_not_found,
notApplicable, depleted, manual or payment_reverted, or HTTP and a number; adapter_error is all else that an adapter said.

Examples:
  npm run ops -- jobs list
  npm run ops -- jobs list --reason route_not_found --limit 20
  npm run ops -- jobs list --status pending --offer-type codedispenser --older-than 15
  npm run ops -- jobs list --order ord_0123456789ABCDEF0123456789ABCDEF`

const AFTER_SHOW = `
A job is named by its id or the beginning of it. What the buyer was given is shown without codes; --reveal prints it whole.

Examples:
  npm run ops -- jobs show 7d3c1a52-90fe
  npm run ops -- jobs show 7d3c1a52-90fe --reveal`

const AFTER_RETRY = `
Makes jobs due now, with all their attempts before them. The adapter knows a job's key and gives what it gave before, so nothing is
delivered twice. A job that is delivered, cancelled, at work, not paid any more, or for its seller to hand over is refused; one that is
due already is unchanged. With --all, all that wait, or those with --status or --reason, oldest first; look first with --dry-run.

Examples:
  npm run ops -- jobs retry 7d3c1a52-90fe --reason 'route made'
  npm run ops -- jobs retry --all --reason route_not_found --limit 500 --dry-run
  npm run ops -- jobs retry --all --status pending --offer-type odoo`

const AFTER_RESOLVE = `
Says that a person has delivered it. The buyer reads the message, in place of what an adapter would have given; what an adapter gave
before stays. The reason is for the record alone: buyers and sellers don't see it, nor by whom.

Example:
  npm run ops -- jobs resolve 7d3c1a52-90fe --reason 'sent by e-mail, ticket 812' --message 'Your code was sent to you by e-mail.'`

const AFTER_CANCEL = `
Decides that it will not be delivered. That is final. The buyer sees that it failed; what was held of the stock is for sale again, a
one-off too. No money is given back by that: ask whoever owns the gateway (npm run ops -- payments explain ord_…).

Example:
  npm run ops -- jobs cancel 7d3c1a52-90fe --reason 'refunded in 0x5c50…, ticket 812'`

const AFTER_EXPLAIN = `
Everything about an order in time order: how it was paid, each delivery with all its attempts, what the buyer has, how it stands and
what to do. Codes, names, addresses and contacts are not shown, unless an adapter put some into its own words for a failure. More about
payments alone: npm run ops -- payments explain

Examples:
  npm run ops -- explain ord_0123456789ABCDEF0123456789ABCDEF
  npm run ops -- explain pay_0123456789ABCDEF0123456789ABCDEF
  npm run ops -- --json explain 0x5c504ed432cb51138bcf09aa5e8a410dd4a1e204ef84bfed1be16dfba1b22060`

type FilterOptions = {
  status?: string
  reason?: string
  seller?: string
  offerType?: string
  order?: string
  olderThan?: string
  chain?: string
}
type ActOptions = { by?: string; reason?: string; dryRun?: boolean }

/** `jobs list`, `show`, `retry`, `resolve`, `cancel`, and `explain`. */
export function addJobsCommands(ops: Command, out: Out, withMarket: WithMarket): void {
  const jobs = ops
    .command('jobs')
    .description('Deliveries of paid orders: what waits, why, and what a person does about it.')
  const tell = (result: object, text: string) => {
    if (out.json()) out.finish(PREFIX, result, '')
    else console.log(text)
  }
  const filterOf = (options: FilterOptions): JobFilter => {
    const { status, order, olderThan } = options
    const isKnown = (text: string): text is (typeof JOB_STATUSES)[number] =>
      (JOB_STATUSES as readonly string[]).includes(text)
    if (status !== undefined && !isKnown(status)) {
      throw new UsageError(`--status must be one of ${JOB_STATUSES.join(', ')} (got: ${status})`)
    }
    return {
      status,
      reason: options.reason,
      seller: options.seller === undefined ? undefined : address(options.seller, '--seller'),
      offerType: options.offerType,
      orderId: order === undefined ? undefined : orderIdOf(order),
      olderThanMinutes: olderThan === undefined ? undefined : wholeNumber('--older-than', olderThan, 0, 10_000_000),
      chainId: chainOf(options),
    }
  }
  filters(
    jobs.command('list').description('Deliveries, those that wait first of all, with how many there are of each kind.'),
  )
    .option('--reason <word>', 'why it waits')
    .option('--waiting', 'those that wait for a person or for stock; the default when no filter is given')
    .option('--limit <n>', 'at most so many', '50')
    .option('--after <job>', 'go on after this job, the last of the page before')
    .addHelpText('after', AFTER_LIST)
    .action(async (options: FilterOptions & { waiting?: boolean; limit: string; after?: string }) => {
      const filter = filterOf(options)
      if (options.waiting && filter.status !== undefined) throw new UsageError('either --waiting or --status')
      const isFiltered = Object.values(filter).some((value) => value !== undefined)
      const of = {
        ...filter,
        waiting: options.waiting === true || !isFiltered,
        limit: limitOf(options),
        after: options.after,
      }
      const page = await withMarket((db) => listJobs(db, of))
      tell({ ...page, next: page.next ?? null }, jobListText(page, of))
    })
  jobs
    .command('show')
    .description('One delivery: its lines, how they are routed now, what happened, what to do.')
    .argument('<job>', 'its id, or the beginning of it')
    .option('--reveal', 'print what the buyer was given, codes and all')
    .addHelpText('after', AFTER_SHOW)
    .action(async (job: string, options: { reveal?: boolean }) => {
      const shown = await withMarket((db) => showJob(db, job, { reveal: options.reveal === true }))
      tell(withAdvice(shown), jobText(shown))
    })
  filters(acts(jobs.command('retry').description('Try deliveries again now.')))
    .argument('[jobs...]', 'ids, or their beginnings')
    .option('--all', 'all that wait; the filters choose among them')
    .option('--reason <text>', 'why, for the record; with --all, only those that wait for this reason')
    .option('--limit <n>', 'with --all, at most so many', '100')
    .addHelpText('after', AFTER_RETRY)
    .action(async (ids: string[], options: ActOptions & FilterOptions & { all?: boolean; limit: string }) => {
      const filter = filterOf(options)
      const { reason: _, ...among } = filter
      if (options.all ? ids.length > 0 : ids.length === 0) throw new UsageError('either ids of jobs, or --all')
      if (!options.all && Object.values(among).some((value) => value !== undefined)) {
        throw new UsageError('filters choose among --all')
      }
      const by = personOf(options)
      const limit = limitOf(options)
      await withMarket(async (db) => {
        const found = options.all ? await findAll(db, filter, limit) : ids
        const reason = options.all
          ? `all of ${options.reason ?? options.status ?? 'what waits'}`
          : (options.reason?.trim().slice(0, 2000) ?? null)
        const done = await each(found, (id) => retryJob(db, id, { by, reason, dryRun: options.dryRun === true }))
        report(out, 'retry', done, options.dryRun === true)
        if (options.all && found.length === limit) out.say(PREFIX, `The oldest ${limit}; there may be more.`)
      })
    })
  acts(jobs.command('resolve').description('Say that deliveries were made by hand.'))
    .argument('<jobs...>', 'ids, or their beginnings')
    .requiredOption('--reason <text>', 'why, for the record')
    .option('--message <text>', 'what the buyer reads', 'Delivered by hand')
    .addHelpText('after', AFTER_RESOLVE)
    .action(async (ids: string[], options: ActOptions & { message: string }) => {
      const act = { by: personOf(options), reason: reasonOf(options), dryRun: options.dryRun === true }
      const message = options.message.trim()
      if (message === '' || message.length > 2000) throw new UsageError('--message must have 1 to 2000 characters')
      await withMarket(async (db) => {
        report(out, 'resolve', await each(ids, (id) => resolveJob(db, id, { ...act, message })), act.dryRun)
      })
    })
  acts(jobs.command('cancel').description('Decide that deliveries will not be made. Final.'))
    .argument('<jobs...>', 'ids, or their beginnings')
    .requiredOption('--reason <text>', 'why, for the record')
    .addHelpText('after', AFTER_CANCEL)
    .action(async (ids: string[], options: ActOptions) => {
      const act = { by: personOf(options), reason: reasonOf(options), dryRun: options.dryRun === true }
      await withMarket(async (db) => {
        report(out, 'cancel', await each(ids, (id) => cancelJob(db, id, act)), act.dryRun)
      })
    })
  ops
    .command('explain')
    .description('Everything about an order in plain words: payment, delivery, what the buyer has, what to do.')
    .argument('<order>', 'order id, payment reference or hash of a transaction')
    .option('--confirm <blocks>', 'confirmations of a confirmed payment')
    .option('--finalize <blocks>', 'confirmations of a final payment')
    .option('--chain <id>', 'this chain alone')
    .addHelpText('after', AFTER_EXPLAIN)
    .action(async (asked: string, options: { confirm?: string; finalize?: string; chain?: string }) => {
      if (asked.trim() === '') throw new UsageError('an order id, a payment reference or the hash of a transaction')
      const depths = depthsOf(options)
      await withMarket(async (db) => {
        const explanation = await explainPayment(db, asked, depths)
        const orders: WholeOrder[] = []
        for (const payment of explanation.orders) {
          orders.push({ payment, delivery: await showDelivery(db, payment.orderId) })
        }
        tell(wholeJson(orders, explanation), wholeText(orders, explanation))
      })
    })
}

const filters = (command: Command) =>
  command
    .option('--status <status>', JOB_STATUSES.join(', '))
    .option('--seller <address>', "of this seller's")
    .option('--offer-type <type>', 'for this kind of adapter; unrouted = none, manual = the seller')
    .option('--order <order>', 'of this order')
    .option('--older-than <minutes>', 'made longer ago than this')
    .option('--chain <id>', 'this chain alone')

const acts = (command: Command) =>
  command
    .option('--by <name>', 'who does it, for the record; $USER when it is left out')
    .option('--dry-run', 'show what would change')

type Done = {
  job: string
  orderId: string | null
  result: Changed['result'] | 'refused' | 'unknown'
  why: string | null
}

/** One after the other, each for itself: what one is refused is done for the others. */
async function each(ids: readonly string[], act: (id: string) => Promise<Changed>): Promise<Done[]> {
  const all: Done[] = []
  for (const id of ids) {
    try {
      const { jobId, orderId, result } = await act(id)
      all.push({ job: jobId, orderId, result, why: null })
    } catch (error) {
      if (!(error instanceof JobRefusedError || error instanceof JobNotKnownError)) throw error
      const result = error instanceof JobRefusedError ? 'refused' : 'unknown'
      all.push({ job: id, orderId: null, result, why: error.message })
    }
  }
  return all
}

function report(out: Out, what: string, done: Done[], dryRun: boolean): void {
  const count = (result: Done['result']) => done.filter((one) => one.result === result).length
  const counts = {
    updated: count('updated'),
    unchanged: count('unchanged'),
    refused: count('refused'),
    unknown: count('unknown'),
  }
  const ok = counts.refused + counts.unknown === 0
  if (!ok) process.exitCode = 1
  if (out.json()) return console.log(JSON.stringify({ ok, what, dryRun, ...counts, jobs: done }))
  for (const { job, orderId, result, why } of done)
    console.log(why ? `${result}: ${why}` : `${result} ${job} ${orderId}`)
  const summary = Object.entries(counts)
    .filter(([name, n]) => n > 0 || name === 'updated' || name === 'unchanged')
    .map(([name, n]) => `${name} ${n}`)
  console.log(`[${PREFIX}] ${dryRun ? 'To do' : 'Done'}. ${summary.join(', ')}`)
}

async function findAll(db: MarketDb, filter: JobFilter, limit: number): Promise<string[]> {
  const waiting = filter.status === undefined
  const { jobs } = await listJobs(db, { ...filter, waiting, retryable: true, limit, oldestFirst: true })
  return jobs.map(({ jobId }) => jobId)
}

function orderIdOf(text: string): string {
  const orderId = `ord_${text.trim().slice(4).toUpperCase()}`
  if (!/^ord_/i.test(text.trim()) || !ORDER_ID.test(orderId))
    throw new UsageError(`--order must be an order id (got: ${text})`)
  return orderId
}

function personOf({ by = process.env.USER ?? process.env.LOGNAME ?? '' }: ActOptions): string {
  if (by.trim() === '') throw new UsageError('say --by whom: it is kept with the job')
  return by.trim().slice(0, 200)
}

function reasonOf({ reason = '' }: ActOptions): string {
  if (reason.trim() === '') throw new UsageError('--reason cannot be empty: it is kept with the job')
  return reason.trim().slice(0, 2000)
}
