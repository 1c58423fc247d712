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
