import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { CHECKS } from '../src/checks.ts'
import type { Target } from '../src/subject.ts'
import { runChecks, unitsOf } from '../src/suite.ts'
import { type Break, DEPLETED_SKU, SELLER, SERVICE_KEY, SKU, startBrokenAdapter } from './brokenAdapter.ts'

const folder = mkdtempSync(join(tmpdir(), 'conformance-'))
afterAll(() => rmSync(folder, { recursive: true }))
let names = 0
const STOCK = 400

function targetAt(url: string, killFile: string): Target {
  return {
    url,
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
  }
}

async function held(broken?: Break, only: Partial<Target> = {}) {
  const killFile = join(folder, `kill-${++names}`)
  const adapter = await startBrokenAdapter(STOCK, killFile, broken)
  try {
    const target = { ...targetAt(adapter.url, killFile), ...only }
    const report = await runChecks(CHECKS, target)
    return { report, target, used: STOCK - adapter.left() }
  } finally {
    adapter.stop()
  }
}

it('lets an adapter pass that keeps the contract, and uses no more stock than it says', async () => {
  const { report, used, target } = await held()
  expect(report.checks.filter(({ verdict }) => verdict !== 'passed')).toEqual([])
  expect(report).toMatchObject({ passed: CHECKS.length, failed: 0, skipped: 0, unitsAtMost: unitsOf(CHECKS, target) })
  expect(used).toBeLessThanOrEqual(report.unitsAtMost)
  console.log(report.checks.map((c) => `${c.id} ${c.ms}`).join('\n'), used, report.unitsAtMost)
})

const PROBE: Break[] = ['health says only a word', 'inventory is open to anybody', 'fulfil is open to those without a key', 'reads the body before the key', 'takes any key of the right length', 'runs first and looks at the key then', 'compares the key as far as it was sent', 'does not trim the key', 'dies of an odd key', 'takes anything for a seller', 'knows sellers in lower case only', 'dies of what is no JSON', 'takes an array for a body', 'says it in other words', 'takes a blank order id', 'takes an order of nothing', 'takes any trigger', 'knows member names in one case only', 'takes numbers only', 'ignores quantities', 'knows skus in lower case only', 'refuses members it does not know', 'dies of NUL', 'keeps half a surrogate pair', 'takes a line twice', 'tells the stock as text', 'tells the stock without a type', 'has nothing of what it does not know', 'tells availability in a word', 'is always in stock', 'answers without a type', 'answers without lines', 'sends it as text', 'is slow', 'calls it ok what it does not have', 'calls it an error what it does not have', 'calls it ok when it has none left', 'calls it ok when a line is missing', 'delivers a part twice', 'delivers the first line only', 'does not say that it was processed', 'replays without the goods', 'has no gate', 'does not read the header', 'does not read the key in the body', 'makes up a key', 'locks on the payment', 'replays whatever was asked', 'says ok while it is under way', 'says nothing of when to come again', 'answers a duplicate with 409', 'gives one code to two', 'counts two for one', 'stops when the caller goes', 'takes again when the caller goes', 'starts with the header', 'takes bodies of any size', 'falls over a large body', 'serves one after another', 'shows its stack', 'shows its SQL', 'talks without end', 'forgets what it gave when it dies', 'never ends what it began when it dies']
it.each(PROBE)('probe %s', async (way) => {
  const { report } = await held(way, way === 'is slow' ? { budgetMs: 300 } : {})
  const failed = report.checks.filter(({ verdict }) => verdict === 'failed')
  console.log(`PROBE ${way} => ${failed.map((f) => f.id).join(' ')} | ${report.checks.filter(({ verdict }) => verdict === 'skipped').map((f) => f.id + ':' + f.reason).join(' ')}\n` + failed.map((f) => `   ${f.id}: ${f.expected} <> ${f.came}`).join('\n'))
})
