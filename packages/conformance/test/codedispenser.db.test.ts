import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '@market/devstack/ports'
import { type Child, spawnTethered } from '@market/devstack/tether'
import { createTestDatabase, type TestDatabase } from '@market/testkit/testDatabase'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Report } from '../src/suite.ts'
import { runConformance } from './runConformance.ts'

const MAIN = new URL('../../../adapters/codedispenser/dist/main.js', import.meta.url).pathname
const SERVICE_KEY = 'the key of these tests, long enough'
const SELLER = `0x${'cd'.repeat(20)}`
const CODES = 200

const folder = mkdtempSync(join(tmpdir(), 'conformance-'))
const pidFile = join(folder, 'pid')
const restartFile = join(folder, 'restart')
let home: TestDatabase
let port: number
let child: Child
let restarts = 0
let watch: NodeJS.Timeout

/** Whoever makes the restart file has it started again, as a supervisor would on the same port and database. */
async function start() {
  child = await spawnTethered({
    command: process.execPath,
    args: [MAIN],
    env: {
      PATH: process.env.PATH,
      POSTGRES_CONNECTION: home.url,
      CIRCLES_SERVICE_KEY: SERVICE_KEY,
      ADAPTER_SECRETS_KEY: `t1:${Buffer.alloc(32, 7).toString('base64')}`,
      CODE_POOLS_DIR: folder,
      PORT: String(port),
      LOG_LEVEL: 'error',
    },
    stopSignal: 'SIGTERM',
  })
  writeFileSync(pidFile, String(child.pid))
}

beforeAll(async () => {
  home = await createTestDatabase()
  port = await freePort()
  writeFileSync(join(folder, 'vouchers.txt'), Array.from({ length: CODES }, (_, i) => `code-${i}`).join('\n'))
  await start()
  await until('the dispenser is ready', async () => (await fetch(`http://127.0.0.1:${port}/health/ready`)).ok, 30)
  const sql = postgres(home.url, { max: 1 })
  await sql`insert into code_pools (pool_id) values ('nothing')`
  for (const [sku, pool] of [
    ['voucher', 'vouchers'],
    ['sold-out', 'nothing'],
  ] as const) {
    await sql`
      insert into code_mappings (chain_id, seller_address, sku, pool_id, download_url_template, enabled)
      values (100, ${SELLER}, ${sku}, ${pool}, 'https://example.org/redeem/{code}', true)`
  }
  await sql.end()
  watch = setInterval(() => {
    if (!existsSync(restartFile)) return
    rmSync(restartFile)
    restarts += 1
    void start()
  }, 20)
})
afterAll(async () => {
  clearInterval(watch)
  await child?.stop(5000)
  await home?.drop()
  rmSync(folder, { recursive: true })
})

it('holds the code dispenser to the whole contract, and again, killed in between', async () => {
  const args = [
    ['--url', `http://127.0.0.1:${port}`, '--seller', SELLER, '--sku', 'voucher', '--depleted-sku', 'sold-out'],
    ['--kill-command', `kill -9 "$(cat '${pidFile}')"`, '--restart-command', `: > '${restartFile}'`, '--json'],
  ].flat()
  for (const _ of ['first', 'again']) {
    const { stdout, stderr, code } = await runConformance(args, { CONFORMANCE_SERVICE_KEY: SERVICE_KEY })
    expect(stderr).toBe('')
    const report = JSON.parse(stdout) as Report
    expect(report.checks.filter(({ verdict }) => verdict !== 'passed')).toEqual([])
    expect(code).toBe(0)
  }
  expect(restarts).toBeGreaterThanOrEqual(2)
})
