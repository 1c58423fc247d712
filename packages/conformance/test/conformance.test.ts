import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { CHECKS } from '../src/checks.ts'
import type { Target } from '../src/subject.ts'
import { runChecks } from '../src/suite.ts'
import { type Break, DEPLETED_SKU, type Manner, SELLER, SERVICE_KEY, SKU, startBrokenAdapter } from './brokenAdapter.ts'

const folder = mkdtempSync(join(tmpdir(), 'conformance-'))
afterAll(() => rmSync(folder, { recursive: true }))

const STOCK = 400
let names = 0

async function hold(way: Break | Manner | undefined, differing: Partial<Target> = {}) {
  const killFile = join(folder, `kill-${++names}`)
  const adapter = await startBrokenAdapter(STOCK, killFile, way)
  const target: Target = {
    url: adapter.url,
    serviceKey: SERVICE_KEY,
    chain: 100,
    seller: SELLER,
    sku: SKU,
    unmappedSku: 'nobody-mapped-this',
    depletedSku: DEPLETED_SKU,
    killCommand: `: > '${killFile}'`,
    restartCommand: `rm '${killFile}'`,
    budgetMs: 10_000,
    patienceMs: 1000,
    inventoryLagMs: 150,
    ...differing,
  }
  try {
    return { report: await runChecks(CHECKS, target), used: STOCK - adapter.left() }
  } finally {
    adapter.stop()
  }
}

it.each<Manner | undefined>([
  undefined,
  'answers at once and works then',
  'has no availability',
  'caches inventory',
  'cuts large bodies off',
  'refuses with 409 what it does not have in stock',
])('passes an adapter that keeps the contract (%s), with no more stock than it says', async (manner) => {
  const { report, used } = await hold(manner, { inventoryLagMs: 1000 })
  expect(report.checks.filter(({ verdict }) => verdict !== 'passed')).toEqual([])
  expect(report).toMatchObject({ passed: CHECKS.length, failed: 0, skipped: 0 })
  expect(used).toBeGreaterThan(0)
  expect(used).toBeLessThanOrEqual(report.unitsAtMost)
})

/** The checks that each way of being broken fails, all of them and no other. */
const FAILED: Record<Break, string> = {
  'health says only a word': 'health',
  'inventory is open to anybody': 'key-missing key-wrong key-length',
  'fulfil is open to those without a key': 'key-missing',
  'reads the body before the key': 'key-missing key-wrong',
  'takes any key of the right length': 'key-wrong',
  'runs first and looks at the key then': 'key-missing key-wrong',
  'compares the key as far as it was sent': 'key-length',
  'dies of an odd key': 'key-length',
  'takes anything for a seller': 'seller-invalid',
  'knows sellers in lower case only': 'seller-spelling',
  'dies of what is no JSON': 'body-not-json',
  'takes an array for a body': 'body-not-json',
  'says it in other words': 'body-not-json body-incomplete trigger-unknown',
  'takes a blank order id': 'body-incomplete',
  'takes an order of nothing': 'body-incomplete',
  'takes any trigger': 'trigger-unknown',
  'knows member names in one case only': 'names-any-case',
  'takes numbers only': 'quantity-spelling',
  'ignores quantities': 'quantity-spelling several-lines key-reused',
  'knows skus in lower case only': 'sku-spelling',
  'refuses members it does not know': 'unknown-members',
  'dies of NUL': 'odd-text',
  'dies of NUL in a name': 'odd-text',
  'dies of a wrong type': 'malformed',
  'keeps half a surrogate pair': 'odd-text',
  'takes a line twice': 'line-indexes',
  'tells the stock as text': 'inventory-shape',
  'tells the stock without a type': 'inventory-shape',
  'has nothing of what it does not know': 'inventory-unmapped',
  'tells availability in a word': 'availability',
  'is always out of stock': 'availability',
  'answers without a type': 'answer-shape',
  'answers without lines': 'quantity-spelling sku-spelling answer-shape unmapped partial several-lines',
  'sends it as text': 'inventory-shape answer-shape',
  'is slow': 'in-time',
  'calls it ok what it does not have': 'unmapped',
  'calls it an error what it does not have': 'unmapped',
  'calls it ok when it has none left': 'depleted',
  'calls it ok when a line is missing': 'partial',
  'delivers a part twice': 'partial',
  'delivers the first line only': 'partial several-lines',
  'does not say that it was processed': 'replay',
  'replays without the goods': 'replay key-place key-absent key-reused duplicates-at-once',
  'has no gate': 'seller-spelling partial replay key-place key-absent key-reused duplicates-at-once caller-gone',
  'does not read the header': 'key-place',
  'does not read the key in the body': 'key-place',
  'makes up a key': 'key-absent',
  'locks on the payment': 'key-per-job key-reused',
  'replays whatever was asked': 'key-reused',
  'says ok while it is under way': 'duplicates-at-once',
  'says nothing of when to come again': 'duplicates-at-once',
  'answers a duplicate with 409': 'duplicates-at-once',
  'gives one code to two': 'keys-at-once',
  'stops when the caller goes': 'caller-gone',
  'takes again when the caller goes': 'caller-gone',
  'starts with the header': 'caller-gone-early',
  'takes bodies of any size': 'oversize-body',
  'falls over a large body': 'oversize-body slow-body malformed errors-quiet answer-size',
  'waits for ever over a large body': 'oversize-body',
  'serves one after another': 'slow-body',
  'shows its stack': 'errors-quiet',
  'shows its SQL': 'errors-quiet',
  'talks without end': 'answer-size',
  'forgets what it gave when it dies': 'crash',
  'never ends what it began when it dies': 'crash',
}

it.concurrent.each(Object.entries(FAILED) as [Break, string][])('fails an adapter that %s: %s', async (way, ids) => {
  const { report } = await hold(way, {
    ...(way === 'is slow' ? { budgetMs: 50 } : {}),
    ...(way === 'waits for ever over a large body' ? { budgetMs: 1000 } : {}),
    // Killing takes its time; the others need not die.
    ...(ids === 'crash' ? {} : { killCommand: undefined }),
  })
  const failed = report.checks.filter(({ verdict }) => verdict === 'failed')
  expect(failed.map(({ id }) => id).join(' '), JSON.stringify(failed, null, 2)).toBe(ids)
  for (const { expected, came, section } of failed) {
    expect(expected).toBeTruthy()
    expect(came).toBeTruthy()
    expect(section).toMatch(/^(fulfilment|adapters)\.md \d/)
  }
})

it('has a way of failing each check', () => {
  const failing = new Set(Object.values(FAILED).flatMap((ids) => ids.split(' ')))
  expect(CHECKS.map(({ id }) => id).filter((id) => !failing.has(id))).toEqual([])
})
