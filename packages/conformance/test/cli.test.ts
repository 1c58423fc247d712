import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CHECKS } from '../src/checks.ts'
import type { Report } from '../src/suite.ts'
import { type Break, DEPLETED_SKU, SELLER, SERVICE_KEY, SKU, startBrokenAdapter } from './brokenAdapter.ts'
import { runConformance } from './runConformance.ts'

const folder = mkdtempSync(join(tmpdir(), 'conformance-'))
const adapters: { stop(): void }[] = []
let right: Awaited<ReturnType<typeof start>>
let wrong: Awaited<ReturnType<typeof start>>

async function start(broken?: Break) {
  const adapter = await startBrokenAdapter(100, join(folder, `kill-${adapters.length}`), broken)
  adapters.push(adapter)
  return adapter
}
beforeAll(async () => {
  right = await start()
  wrong = await start('replays without the goods')
})
afterAll(() => {
  for (const adapter of adapters) adapter.stop()
  rmSync(folder, { recursive: true })
})

const at = ({ url }: { url: string }) => ['--url', url, '--service-key', SERVICE_KEY, '--seller', SELLER, '--sku', SKU]

describe('a run', () => {
  it('tells beforehand what it uses, each check as it ends, and the sum; 0 when nothing failed', async () => {
    const before = right.left()
    const { code, stdout, stderr } = await runConformance([...at(right), '--depleted-sku', DEPLETED_SKU])
    expect(stderr).toBe('')
    expect(code).toBe(0)
    const lines = stdout.trimEnd().split('\n')
    expect(lines[0]).toBe(
      `${CHECKS.length} checks of ${right.url}; at most ${unitsAtMost(stdout)} of voucher are used (in stock: 100)`,
    )
    expect(before - right.left()).toBeLessThanOrEqual(unitsAtMost(stdout))
    expect(lines).toContainEqual(expect.stringMatching(/^✓ replay +A repeated request .* \(\d+ ms\)$/))
    expect(lines).toContainEqual(
      expect.stringMatching(/^– crash .* \(skipped: needs --kill-command and --restart-command\)$/),
    )
    expect(lines.at(-1)).toBe(`${CHECKS.length - 1} passed, 0 failed, 1 skipped`)
    expect(stdout).not.toContain(SERVICE_KEY)
  })

  it('says what was expected, what came and where the contract says so; 1 when a check failed', async () => {
    const { code, stdout } = await runConformance([...at(wrong), '--only', 'replay,health'])
    expect(code).toBe(1)
    expect(stdout).toMatch(/^✓ health /m)
    expect(stdout).toMatch(
      /^✗ replay .*\n {4}expected {2}the goods .*"codes".*\n {4}came {6}\[\] in HTTP 200 .*\n {4}see {7}fulfilment\.md 10, 14.*\n/m,
    )
    expect(stdout).toMatch(/\n1 passed, 1 failed, 0 skipped: replay\n$/)
  })

  it('is one object with --json', async () => {
    const { code, stdout } = await runConformance([...at(wrong), '--only', 'health', '--only', 'replay', '--json'])
    expect(code).toBe(1)
    expect(JSON.parse(stdout)).toEqual({
      url: wrong.url,
      passed: 1,
      failed: 1,
      skipped: 0,
      unitsAtMost: 1,
      checks: [
        expect.objectContaining({ id: 'health', verdict: 'passed', ms: expect.any(Number) }),
        {
          id: 'replay',
          title: expect.any(String),
          section: expect.stringContaining('fulfilment.md'),
          verdict: 'failed',
          ms: expect.any(Number),
          expected: expect.stringContaining('codes'),
          came: expect.stringContaining('HTTP 200'),
        },
      ],
    })
  })

  it('skips what needs a sku when none is named, and uses none', async () => {
    const before = right.left()
    const { code, stdout } = await runConformance(['--url', right.url, '--json'], {
      CONFORMANCE_SERVICE_KEY: SERVICE_KEY,
    })
    const report = JSON.parse(stdout) as Report
    for (const { id, needs } of CHECKS) {
      const { verdict, reason } = report.checks.find((finding) => finding.id === id)!
      expect([id, verdict, reason]).toEqual([
        id,
        needs.length === 0 ? 'passed' : 'skipped',
        needs.length === 0 ? undefined : expect.stringContaining('needs --seller and'),
      ])
    }
    expect(report.unitsAtMost).toBe(0)
    expect(right.left()).toBe(before)
    expect(code).toBe(0)
  })

  it('skips, and does not pass, a depleted sku that has stock', async () => {
    const { stdout } = await runConformance([...at(right), '--depleted-sku', SKU, '--only', 'depleted'])
    expect(stdout).toMatch(/^– depleted .*\(skipped: voucher has a stock of \d+\)$/m)
  })
})

describe('a run that can not be', () => {
  it.each<[string, () => string[], string]>([
    ['no adapter named', () => [], '--url and --service-key are needed'],
    ['no key', () => ['--url', right.url], '--url and --service-key are needed'],
    ['a URL that is none', () => ['--url', 'ftp://x', '--service-key', 'k'], 'an http or https URL'],
    ['a seller that is none', () => [...at(right), '--seller', '0x12'], 'an address'],
    ['a chain that is none', () => [...at(right), '--chain', '0'], 'a chain id'],
    ['a sku of nobody', () => ['--url', right.url, '--service-key', 'k', '--sku', 'x'], 'name him with --seller'],
    ['an unknown check', () => [...at(right), '--only', 'replay,nonsense'], 'there is no check "nonsense"'],
    ['an unknown option', () => ['--nonsense'], "unknown option '--nonsense'"],
    ['an argument', () => ['nonsense'], 'too many arguments'],
    ['a budget that is none', () => [...at(right), '--budget', '0'], 'seconds, more than 0'],
    [
      'nobody there',
      () => ['--url', 'http://127.0.0.1:1', '--service-key', 'k'],
      'does not answer: connect ECONNREFUSED',
    ],
    ['a sku that is not mapped', () => [...at(right), '--sku', 'x'], 'the adapter has no mapping for x of'],
    ['too little stock', () => [...at(right), '--sku', DEPLETED_SKU], 'sold-out of'],
  ])('ends with 2 and says why: %s', async (_what, args, message) => {
    const { code, stdout, stderr } = await runConformance(args())
    expect([code, stdout]).toEqual([2, ''])
    expect(stderr).toContain(message)
  })

  it('says so in JSON as well', async () => {
    const { code, stdout } = await runConformance([...at(right), '--sku', 'x', '--json'])
    expect(code).toBe(2)
    expect(JSON.parse(stdout)).toEqual({ error: expect.stringContaining('no mapping for x') })
  })
})

it('lists the checks without an adapter, as lines or as JSON', async () => {
  const { code, stdout } = await runConformance(['--list'])
  expect(code).toBe(0)
  expect(stdout.trimEnd().split('\n')).toHaveLength(CHECKS.length)
  for (const { id, title, section } of CHECKS) expect(stdout).toContain(`${id.padEnd(20)} ${title} [${section}]\n`)
  const listed = JSON.parse((await runConformance(['--list', '--json', '--only', 'crash'])).stdout) as unknown
  expect(listed).toEqual([expect.objectContaining({ id: 'crash', needs: ['sku', 'crashCommands'], units: 36 })])
})

it('explains itself with --help, exit code 0', async () => {
  const { code, stdout, stderr } = await runConformance(['--help'])
  expect([code, stderr]).toEqual([0, ''])
  for (const part of ['--service-key', '--other-sku', '--kill-command', '--only', 'Exit codes: 0']) {
    expect(stdout).toContain(part)
  }
})

const unitsAtMost = (stdout: string) => Number(/at most (\d+) of voucher/.exec(stdout)?.[1])
