import { spawnSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { expect, it } from 'vitest'

const ops = new URL('../scripts/dist/ops.js', import.meta.url).pathname
const SELLER = `0x${'11'.repeat(20)}`

/** No database is named, so whatever gets as far as one fails there. */
const run = (...args: string[]) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [ops, ...args], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, MARKET_DATA_DIR: tmpdir() },
  })
  return { code: status, stdout, stderr }
}

it('adapters:A-47 ends with 2 on wrong usage, 0 on --help', () => {
  expect(run()).toMatchObject({ code: 2 })
  expect(run('nonsense')).toMatchObject({ code: 2, stderr: expect.stringContaining("unknown command 'nonsense'") })
  expect(run('seed-pool', 'p')).toMatchObject({ code: 2, stderr: expect.stringContaining('--help') })
  for (const help of [['--help'], ['seed-pool', '--help'], ['mapping-codedisp', '--help']]) {
    expect(run(...help)).toMatchObject({ code: 0, stdout: expect.stringContaining('Usage:'), stderr: '' })
  }
})

it.each([
  [['mapping-codedisp', 'x', SELLER, 'v', 'p'], 'chain_id must be an integer (got: x)'],
  [['mapping-codedisp', '100', '0x12', 'v', 'p'], 'seller_address must be a 0x hex address (got: 0x12)'],
  [['mapping-codedisp', '100', SELLER, ' ', 'p'], 'sku cannot be empty'],
  [['mapping-codedisp', '100', SELLER, 'v', ' '], 'pool_id cannot be empty'],
  [['mapping-codedisp', '100', SELLER, 'v', 'p', 'https://x/'], 'download_url must contain {code}'],
  [['mapping-codedisp', '100', SELLER, 'v', 'p', 'x/{code}'], 'download_url must be an absolute http or https URL'],
  [['gateway', '100', SELLER, '0x12'], 'gateway must be a 0x hex address (got: 0x12)'],
  [['seed-pool', 'p', ' '], 'code_or_file cannot be empty'],
  [['seed-pool', 'p', 'no-such-file', '--file'], 'File not found: no-such-file'],
])('says what is wrong with %j', (args, message) => {
  expect(run(...args)).toMatchObject({ code: 2, stderr: `Error: ${message}\n` })
})

it('says which database it lacks, in JSON for a machine as well', () => {
  const { code, stdout, stderr } = run('--json', 'seed-pool', 'p', 'c')
  expect(code).toBe(2)
  expect(stderr).toContain('OPS_CODEDISP_URL')
  expect(JSON.parse(stdout)).toEqual({ ok: false, error: expect.stringContaining('OPS_CODEDISP_URL') })
})

it('makes a key that signs, and prints nothing else', () => {
  const { code, stdout } = run('jwt-key')
  expect(code).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject({ kty: 'OKP', crv: 'Ed25519', d: expect.any(String), x: expect.any(String) })
})
