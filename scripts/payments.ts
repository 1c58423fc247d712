import { createInterface } from 'node:readline/promises'
import type { Database } from '@market/kit/db'
import {
  explainPayment,
  listPaymentChains,
  listPaymentOrders,
  listUnmatched,
  type MarketDatabase,
  PAYMENT_STATES,
  type PaymentState,
  readPaymentsStatus,
  ReplayRefusedError,
  replayPayments,
} from '@market/market-api/ops'
import type { Command } from 'commander'
import type { Out } from './catalog.ts'
import { explanationText, withWords } from './explanationText.ts'
import { listText, needsOf, replayText, statusText, unmatchedText } from './paymentsText.ts'
import { UsageError } from './usageError.ts'

export type MarketDb = Database<MarketDatabase>['db']
export type WithMarket = <T>(work: (db: MarketDb) => Promise<T>) => Promise<T>

const PREFIX = 'payments'
const MAX_LIMIT = 1000

const AFTER_STATUS = `
Each line that needs a person says which command tells more. Underpaid needs one when the time to pay is over; money that came
too late, too much or for no order needs one for --days days after it came, so give it back by then; a transfer that is undecided
or in doubt, and an order that is due to be settled, when it is for more than 10 minutes. Counts stop at 10,000.

Examples:
  npm run ops -- payments status
  npm run ops -- payments status --days 30
  npm run ops -- --json payments status

Exit codes: 0 in order, 1 something needs a person or the database can't be asked, 2 wrong usage.`

const AFTER_LIST = `
States:
  reverted   a reorg took the payment back after delivery had begun
  late       paid after it was cancelled
  overpaid   paid more than the price
  underpaid  paid less than the price
  undecided  whether a gateway trusts the token that was paid is not known yet
  orphaned   a transfer for it is gone from the chain
  settling   waits for confirmations, or is due to be settled
Without --state: all that wait for a person, that is the first three, underpaid when the time to pay is over, and undecided for
more than 10 minutes. Newest first; the amounts are CRC.

Examples:
  npm run ops -- payments list
  npm run ops -- payments list --state underpaid --limit 20
  npm run ops -- payments list --state underpaid --limit 20 --after ord_0123456789ABCDEF0123456789ABCDEF`

const AFTER_EXPLAIN = `
Says of each transfer whether it counts, and if not, why and what to do. How many confirmations are asked for is market-api's
configuration, which its database doesn't know: --confirm and --finalize, else CONFIRM_CONFIRMATIONS and FINALIZE_CONFIRMATIONS
of this environment, else 3 and 12. Names, addresses and contacts are never shown.

Examples:
  npm run ops -- payments explain ord_0123456789ABCDEF0123456789ABCDEF
  npm run ops -- payments explain pay_0123456789ABCDEF0123456789ABCDEF
  npm run ops -- payments explain 0x5c504ed432cb51138bcf09aa5e8a410dd4a1e204ef84bfed1be16dfba1b22060`

const AFTER_UNMATCHED = `
Value whose reference no order has, and logs whose reference can't be read. Only to gateways on record: those that a checkout has
found to be one, and those that \`ops gateway\` put on record as a seller's. A gateway that nothing but an old order names is not
among them, because all orders would have to be read; --all shows every gateway, those of other markets too.

Examples:
  npm run ops -- payments unmatched
  npm run ops -- payments unmatched --all --limit 200`

const AFTER_REPLAY = `
The poller reads everything from the block on once more. What is missing is stored, and what did not count is judged anew:
transfers whose token was not trusted, or that were for no order or another gateway, where that is no longer so. What counts goes
on counting, nothing is deleted, and an order that is settled stays as it is. market-api may run; it goes on from there within a
poll. Reading much takes its time, and unpaid orders are not cancelled until it is done.

Examples:
  npm run ops -- payments replay --from-block 38000000 --dry-run
  npm run ops -- payments replay --from-block 38000000 --yes`

/** `payments status`, `list`, `explain`, `unmatched` and `replay`. */
export function addPaymentsCommands(ops: Command, out: Out, withMarket: WithMarket): void {
  const payments = ops.command('payments').description('What was paid on chain, what it did, and what needs a person.')
  const tell = (result: object, text: string) => {
    if (out.json()) out.finish(PREFIX, result, '')
    else console.log(text)
  }
  payments
    .command('status')
    .description('How far payments are read, by whom, and what needs a person. Exit code 1 when something does.')
    .option('--days <n>', 'for how long money that only a person can deal with needs one', '7')
    .option('--max-age <seconds>', 'older than this, reading has stopped', '120')
    .option('--chain <id>', 'this chain alone')
    .addHelpText('after', AFTER_STATUS)
    .action(async (options: { days: string; maxAge: string; chain?: string }) => {
      const days = wholeNumber('--days', options.days, 1, 3650)
      const maxAgeSeconds = wholeNumber('--max-age', options.maxAge, 1)
      const chainId = chainOf(options)
      const status = await withMarket((db) => readPaymentsStatus(db, { chainId, days }))
      const needs = needsOf(status, maxAgeSeconds)
      if (needs.length > 0) process.exitCode = 1
      if (out.json()) console.log(JSON.stringify({ ok: needs.length === 0, needs, ...status }))
      else console.log(statusText(status, needs))
    })
  payments
    .command('list')
    .description('Orders with something the matter with their payment.')
    .option('--state <state>', PAYMENT_STATES.join(', '))
    .option('--limit <n>', 'at most so many', '50')
    .option('--after <order>', 'go on after this order, the last of the page before')
    .option('--chain <id>', 'this chain alone')
    .addHelpText('after', AFTER_LIST)
    .action(async (options: { state?: string; limit: string; after?: string; chain?: string }) => {
      const { state } = options
      if (state !== undefined && !isState(state)) {
        throw new UsageError(`--state must be one of ${PAYMENT_STATES.join(', ')} (got: ${state})`)
      }
      const of = { state, limit: limitOf(options), after: options.after, chainId: chainOf(options) }
      const page = await withMarket((db) => listPaymentOrders(db, of))
      const next = page.next ?? null
      tell({ state: state ?? null, orders: page.orders, next }, listText(page, of))
    })
  payments
    .command('explain')
    .description('One payment in plain words: what came, what of it counts, what happens next.')
    .argument('<what>', 'order id, payment reference or hash of a transaction')
    .option('--confirm <blocks>', 'confirmations of a confirmed payment')
    .option('--finalize <blocks>', 'confirmations of a final payment')
    .option('--chain <id>', 'this chain alone')
    .addHelpText('after', AFTER_EXPLAIN)
    .action(async (what: string, options: { confirm?: string; finalize?: string; chain?: string }) => {
      if (what.trim() === '') throw new UsageError('an order id, a payment reference or the hash of a transaction')
      const depths = depthsOf(options)
      const explanation = await withMarket((db) => explainPayment(db, what, depths))
      tell(withWords(explanation), explanationText(explanation))
    })
  payments
    .command('unmatched')
    .description('Value that came with a reference of no order, or with none that can be read.')
    .option('--all', 'to any gateway, not only to those on record')
    .option('--limit <n>', 'at most so many gateways and rows of each kind', '50')
    .option('--chain <id>', 'this chain alone')
    .addHelpText('after', AFTER_UNMATCHED)
    .action(async (options: { all?: boolean; limit: string; chain?: string }) => {
      const of = { all: options.all === true, limit: limitOf(options), chainId: chainOf(options) }
      const unmatched = await withMarket((db) => listUnmatched(db, of))
      tell({ all: of.all, ...unmatched }, unmatchedText(unmatched, of))
    })
  payments
    .command('replay')
    .description('Read payments from a block on once more, and judge anew what did not count. May be repeated.')
    .requiredOption('--from-block <n>', 'the first block to read')
    .option('--dry-run', 'show what would change')
    .option('--yes', 'do it without asking')
    .option('--chain <id>', 'chain; needed when the database has several')
    .addHelpText('after', AFTER_REPLAY)
    .action(async (options: { fromBlock: string; dryRun?: boolean; yes?: boolean; chain?: string }) => {
      const fromBlock = wholeNumber('--from-block', options.fromBlock, 0)
      const dryRun = options.dryRun === true
      const isAsked = !dryRun && options.yes !== true
      if (isAsked && (out.json() || !process.stdin.isTTY)) {
        throw new UsageError('nothing was changed: say --yes, or look first with --dry-run')
      }
      await withMarket(async (db) => {
        const replay = { chainId: chainOf(options) ?? (await onlyChain(db)), fromBlock }
        try {
          if (isAsked) {
            console.log(replayText(await replayPayments(db, { ...replay, dryRun: true }), true))
            if (!(await isConfirmed())) return tell({ dryRun: true }, 'Nothing was changed.')
          }
          const done = await replayPayments(db, { ...replay, dryRun })
          tell({ dryRun, ...done }, replayText(done, dryRun))
        } catch (error) {
          if (error instanceof ReplayRefusedError) throw new UsageError(error.message)
          throw error
        }
      })
    })
}

const isState = (text: string): text is PaymentState => (PAYMENT_STATES as readonly string[]).includes(text)

/** @throws UsageError */
export function wholeNumber(name: string, text: string, least: number, most = Number.MAX_SAFE_INTEGER): number {
  const number = /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN
  if (number >= least && number <= most) return number
  const range = most === Number.MAX_SAFE_INTEGER ? `from ${least} on` : `from ${least} to ${most}`
  throw new UsageError(`${name} must be a whole number ${range} (got: ${text})`)
}

/** @throws UsageError */
export const limitOf = ({ limit }: { limit: string }) => wholeNumber('--limit', limit, 1, MAX_LIMIT)

/** @throws UsageError */
export const chainOf = ({ chain }: { chain?: string }) =>
  chain === undefined ? undefined : wholeNumber('--chain', chain, 1)

/** Confirmations that are asked for, as far as this side can know them. @throws UsageError */
export const depthsOf = (options: { confirm?: string; finalize?: string; chain?: string }) => ({
  confirm: depthOf('--confirm', options.confirm, 'CONFIRM_CONFIRMATIONS', 3),
  finalize: depthOf('--finalize', options.finalize, 'FINALIZE_CONFIRMATIONS', 12),
  chainId: chainOf(options),
})

function depthOf(name: string, option: string | undefined, variable: string, fallback: number): number {
  if (option !== undefined) return wholeNumber(name, option, 0, 10_000)
  const set = process.env[variable]?.trim()
  return set ? wholeNumber(variable, set, 0, 10_000) : fallback
}

async function onlyChain(db: MarketDb): Promise<number> {
  const [chainId, ...others] = await listPaymentChains(db)
  if (chainId === undefined) throw new Error('no payments were ever read: there is nothing to read again')
  if (others.length > 0) throw new UsageError(`say which --chain: ${[chainId, ...others].join(' or ')}`)
  return chainId
}

async function isConfirmed(): Promise<boolean> {
  const asking = createInterface({ input: process.stdin, output: process.stdout })
  try {
    return /^y(es)?$/i.test((await asking.question('Go on? [y/N] ')).trim())
  } finally {
    asking.close()
  }
}
