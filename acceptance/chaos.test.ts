import { execFile } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { expect, it } from 'vitest'

// A short run of `npm run chaos`. What it proves, and that it can fail, is in tools/chaos.

const main = new URL('../tools/chaos/dist/main.js', import.meta.url).pathname
const ORDERS = 90
const SECONDS = 12

/** CHAOS_SEED repeats a run, as far as processes can be made to. */
const SEED = Number(process.env.CHAOS_SEED || randomInt(1e9))

it(`delivers every paid line once or says why it waits, whatever is killed, stalled or cut; seed ${SEED}`, async () => {
  const args = ['--orders', ORDERS, '--seconds', SECONDS, '--replicas', 2, '--seed', SEED, '--json'].map(String)
  const { code, stdout, stderr } = await run(args)
  expect(stdout, `exit code ${code}: ${stderr}`).toMatch(/^\{/)
  const report = JSON.parse(stdout) as Record<string, unknown>
  console.info(`chaos: ${JSON.stringify(report)}`)

  expect(report).toMatchObject({ orders: ORDERS, duplicates: [], losses: [], wrong: [], seed: SEED })
  const { lines, deliveries, waiting, kills, stalls, cuts, faults } = report as {
    waiting: Record<string, number>
    faults: Record<string, number>
  } & Record<'lines' | 'deliveries' | 'kills' | 'stalls' | 'cuts', number>
  expect(deliveries + sum(waiting)).toBe(lines)
  expect(deliveries).toBeGreaterThan(ORDERS)
  // Nothing is proven by a run in which nothing happened.
  expect(Math.min(kills + stalls, cuts, sum(faults))).toBeGreaterThan(3)
  expect(code).toBe(0)
}, 240_000)

const sum = (counts: Record<string, number>) => Object.values(counts).reduce((total, n) => total + n, 0)

function run(args: string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], { maxBuffer: 2 ** 24 }, (error, stdout, stderr) =>
      resolve({ code: error ? error.code : 0, stdout, stderr }),
    )
  })
}
