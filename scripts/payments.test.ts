import type { ExplainedOrder, ExplainedTransfer, PaymentsStatus } from '@market/market-api/ops'
import { Command } from 'commander'
import { describe, expect, it } from 'vitest'
import { explanationText, nextOf, wordsOf } from './explanationText.ts'
import { addPaymentsCommands } from './payments.ts'
import { needsOf, statusText } from './paymentsText.ts'
import { UsageError } from './usageError.ts'

// Words and usage; what the commands find is proved on a real database by market-api's own tests.

function commands() {
  const ops = new Command('ops').exitOverride().configureOutput({ writeErr: () => {}, writeOut: () => {} })
  const noDatabase = () => Promise.reject(new Error('no database was to be asked'))
  addPaymentsCommands(ops, { json: () => true, say: () => {}, finish: () => {} }, noDatabase)
  return ops
}
const run = (...args: string[]) => commands().parseAsync(['payments', ...args], { from: 'user' })

describe('usage', () => {
  it.each([
    [['status', '--days', '0'], '--days must be a whole number from 1 to 3650 (got: 0)'],
    [['status', '--max-age', '1.5'], '--max-age must be a whole number from 1 on (got: 1.5)'],
    [['list', '--state', 'paid'], '--state must be one of reverted, late'],
    [['list', '--limit', '1001'], '--limit must be a whole number from 1 to 1000'],
    [['explain', ' '], 'an order id, a payment reference or the hash'],
    [['explain', 'x', '--confirm', 'many'], '--confirm must be a whole number'],
    [['unmatched', '--chain', 'x'], '--chain must be a whole number'],
    [['replay', '--from-block', '-1'], '--from-block must be a whole number from 0 on (got: -1)'],
    [['replay', '--from-block', '1'], 'nothing was changed: say --yes, or look first with --dry-run'],
  ])('refuses %j before it asks the database', async (args, message) => {
    const refused = run(...args)
    await expect(refused).rejects.toThrow(UsageError)
    await expect(refused).rejects.toThrow(message)
  })

  it('every command has help with examples', () => {
    const [payments] = commands().commands
    const names = payments!.commands.map((command) => command.name())
    expect(names).toEqual(['status', 'list', 'explain', 'unmatched', 'replay'])
    for (const command of payments!.commands) {
      let help = ''
      command.configureOutput({ writeOut: (text) => (help += text) }).outputHelp()
      expect(help).toContain(`\nExamples:\n  npm run ops -- payments ${command.name()}`)
    }
  })
})

const GATEWAY = `0x${'9'.repeat(40)}`
const at = new Date('2026-01-31T12:05:00Z')
const CRC = 10n ** 18n
const wei = (crc: number) => (BigInt(crc) * CRC).toString()

const order: ExplainedOrder = {
  orderId: `ord_${'A'.repeat(32)}`,
  chainId: 100,
  reference: `pay_${'A'.repeat(32)}`,
  status: 'https://schema.org/OrderPaymentDue',
  priceWei: wei(10),
  paidWei: wei(0),
  createdAt: at,
  paymentDueBy: at,
  cancelledAt: null,
  cancelReason: null,
  paidAt: null,
  confirmedAt: null,
  finalizedAt: null,
  revertedAt: null,
  settleAtBlock: null,
  gateways: [{ gateway: GATEWAY, owners: [] }],
  head: { block: 1000, observedAt: at },
  confirm: 3,
  finalize: 12,
  seen: { wei: wei(0), reached: false, missingBlocks: null },
  confirmed: { wei: wei(0), reached: false, missingBlocks: null },
  final: { wei: wei(0), reached: false, missingBlocks: null },
  transfers: [],
  moreTransfers: false,
  jobs: [],
}
const seen = (crc: number) => ({ wei: wei(crc), reached: crc >= 10, missingBlocks: crc >= 10 ? 0 : null })
const transfer: ExplainedTransfer = {
  chainId: 100,
  reference: order.reference,
  txHash: `0x${'1'.repeat(64)}`,
  logIndex: 123,
  blockNumber: 38_000_000,
  blockTime: at,
  observedAt: at,
  gateway: GATEWAY,
  payer: `0x${'7'.repeat(40)}`,
  token: `0x${'8'.repeat(40)}`,
  amountWei: (2n ** 256n - 1n).toString(),
  counts: false,
  verdict: 'counts',
}

describe('a transfer', () => {
  it.each<[ExplainedTransfer['verdict'], RegExp, RegExp | null]>([
    ['counts', /^counts$/, null],
    ['in_doubt', /^counts, but a reorg may have taken it/, /^Nothing\./],
    ['judged_again', /^counts, and is being judged again/, /trust of gateway not readable/],
    ['undecided', /^does not count yet/, /^Wait for the next poll/],
    ['orphaned', /no longer in the chain/, /^Nothing/],
    ['untrusted_token', /did not trust CRC of 0x8888/, /payments replay --from-block 38000000/],
    ['unknown_gateway', /PAYMENT_GATEWAYS does not name/, /restart market-api/],
    ['unknown_emitter', /forged/, /PAYMENT_GATEWAY_FACTORY/],
    ['no_order', /before there was this order/, /payments replay --from-block 38000000/],
    ['bad_amount', /amount could not be read/, /give it back/],
    ['bad_token', /token could not be read/, /give it back/],
    ['bad_time', /time of its block/, /give it back/],
  ])('%s: says why, and what to do', (verdict, says, what) => {
    const words = wordsOf({ ...transfer, verdict }, order)
    expect(words.says).toMatch(says)
    if (what === null) expect(words.do).toBeNull()
    else expect(words.do).toMatch(what)
    const text = explanationText({
      orders: [{ ...order, transfers: [{ ...transfer, verdict }] }],
      unmatched: [{ ...transfer, reference: `\u001b]0;${'x'.repeat(250)}` }],
      unreadable: [],
    })
    expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThanOrEqual(100)
    expect(text).not.toContain('\u001b')
  })

  it('says where else it went, that it came too late, and that no order has its reference', () => {
    const elsewhere = wordsOf({ ...transfer, verdict: 'unknown_gateway', gateway: `0x${'6'.repeat(40)}` }, order)
    expect(elsewhere.says).toContain('it went to 0x6666')
    expect(wordsOf(transfer, { ...order, cancelledAt: at }).says).toContain('cancelled: nothing is delivered')
    expect(wordsOf({ ...transfer, verdict: 'no_order' }, undefined).says).toContain('no order has its reference')
  })
})

describe('what comes next', () => {
  it.each<[string, Partial<ExplainedOrder>]>([
    ['It waits for a payment until 2026-01-31 12:05 UTC.', {}],
    ['6 CRC are missing; a further payment', { seen: seen(4) }],
    ['Enough is paid: the next poll marks it as paid.', { seen: seen(10) }],
    ['the next poll does that', { settleAtBlock: 1000 }],
    [
      'Confirmed at block 1002, that is in 2 block(s). Final at block 1011',
      {
        paidAt: at,
        seen: seen(10),
        confirmed: { ...seen(0), missingBlocks: 2 },
        final: { ...seen(0), missingBlocks: 11 },
      },
    ],
    ['It is confirmed. Final when what is in doubt was seen again.', { paidAt: at, confirmedAt: at, seen: seen(10) }],
    ['The payment is final.', { paidAt: at, finalizedAt: at, seen: seen(10) }],
    ['2 CRC more than the price came: give them back.', { paidAt: at, finalizedAt: at, seen: seen(12) }],
    ['because it was not paid in time. That is final.', { cancelledAt: at, cancelReason: 'expired' }],
    ['by its buyer. That is final. 4 CRC came for it', { cancelledAt: at, cancelReason: 'buyer', seen: seen(4) }],
    ['after delivery had begun: 10 CRC are missing.', { paidAt: at, finalizedAt: at, revertedAt: at }],
    [
      '1 delivery job(s) are held until the payment stands again. 1 delivery job(s) are not done',
      {
        paidAt: at,
        jobs: ['payment_reverted', 'depleted'].map((reason) => ({
          jobId: '1',
          seller: GATEWAY,
          offerType: 'codedispenser',
          trigger: 'finalized',
          lineIndexes: [0],
          status: 'needs_attention',
          reason,
          attempts: 0,
          createdAt: at,
          nextAttemptAt: null,
        })),
      },
    ],
  ])('%s', (sentence, how) => {
    expect(nextOf({ ...order, ...how }).join(' ')).toContain(sentence)
  })

  it('does not say that a later block settles an order', () => {
    expect(nextOf({ ...order, settleAtBlock: 1001 }).join(' ')).not.toContain('due to be settled')
  })
})

describe('status', () => {
  const none = { count: 0, more: false, urgent: 0 }
  const status: PaymentsStatus = {
    days: 7,
    lease: { holder: 'market-api:1', expiresAt: at, held: true },
    chains: [
      {
        chainId: 100,
        observedAt: at,
        ageSeconds: 5,
        headBlock: 1000,
        cursor: null,
        reorg: { at, depth: 2 },
        underpaid: { ...none, count: 10_000, more: true },
        overpaid: none,
        late: none,
        reverted: none,
        due: none,
        undecided: [],
        doubted: none,
        orphaned: none,
        unmatched: { ...none, wei: '0' },
        rowErrors: none,
      },
    ],
  }
  const [chain] = status.chains as [PaymentsStatus['chains'][number]]

  it('is in order when nothing is urgent', () => {
    expect(needsOf(status, 120)).toEqual([])
    const text = statusText(status, [])
    expect(text).toContain('In order')
    expect(text).toMatch(/underpaid +10,000\+\n/)
    expect(text).toMatch(/last reorg +2026-01-31 12:05 UTC, at most 2 block/)
  })

  const urgent = { count: 3, more: false, urgent: 2 }
  it.each<[string, Partial<PaymentsStatus>, Partial<typeof chain>]>([
    ['no replica reads payments', { lease: null }, {}],
    ['payments were never read', { chains: [] }, {}],
    ['not read to the end for 3 min', {}, { ageSeconds: 181 }],
    ['not read to the end for ever', {}, { ageSeconds: null }],
    ['reverted after delivery began', {}, { reverted: urgent }],
    ['paid after they were cancelled', {}, { late: urgent }],
    ['overpaid in the last 7 days', {}, { overpaid: urgent }],
    ['paid in part with the time to pay over', {}, { underpaid: urgent }],
    ['unmatched in the last 7 days', {}, { unmatched: { ...urgent, wei: '1' } }],
    ['not storable as transfers', {}, { rowErrors: urgent }],
    ['undecided for more than 10 minutes', {}, { undecided: [{ ...urgent, gateway: GATEWAY, oldestAt: at }] }],
    ['in doubt for more than 10 minutes', {}, { doubted: urgent }],
    ['due to be settled for more than 10 minutes', {}, { due: urgent }],
  ])('%s needs a person', (what, how, ofChain) => {
    const said = { ...status, chains: [{ ...chain, ...ofChain }], ...how }
    const needs = needsOf(said, 120)
    expect(needs).toMatchObject([{ what: expect.stringContaining(what) }])
    expect(statusText(said, needs)).toContain(`${what}`)
  })
})
