import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { findMappings } from '../src/mappings.ts'
import { createCodesDatabase, SECRETS_KEY, type TestCodes } from './codesDatabase.ts'
import { SELLER } from './runningDispenser.ts'

const OPS = new URL('../../../scripts/dist/ops.js', import.meta.url).pathname

let home: TestCodes
let folder: string

beforeAll(async () => {
  home = await createCodesDatabase()
  folder = await mkdtemp(join(tmpdir(), 'codes-'))
})
afterAll(async () => {
  await home.remove()
  await rm(folder, { recursive: true, force: true })
})

/** No market's database is there: nothing here needs one. */
async function ops(args: string[], { input = '', key = SECRETS_KEY }: { input?: string; key?: string } = {}) {
  const child = spawn(process.execPath, [OPS, ...args], {
    env: {
      PATH: process.env.PATH,
      MARKET_DATA_DIR: folder,
      OPS_CODEDISP_URL: home.url,
      OPS_MARKET_URL: 'postgres://nobody:secret-password@127.0.0.1:1/none',
      ...(key ? { ADAPTER_SECRETS_KEY: key } : {}),
    },
  })
  child.stdin.end(input)
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')])
  return { code: code as number, stdout, stderr }
}
const asJson = async (...args: Parameters<typeof ops>) => {
  const { code, stdout } = await ops(['--json', ...args[0]], args[1])
  return { code, ...(JSON.parse(stdout) as Record<string, unknown>) }
}

it("adapters:A-45 seeds it's verbatim, from an argument, a file and standard input, and says what became of each", async () => {
  const counts = { poolId: 'p', duplicate: 0, alreadyDispensed: 0, void: 0 }
  expect(await asJson(['seed-pool', 'p', "it's"])).toEqual({
    code: 0,
    ok: true,
    ...counts,
    submitted: 1,
    added: 1,
    woken: 0,
  })
  await writeFile(join(folder, 'codes.txt'), "it's\r\n\r\n two \nthree")
  expect(await asJson(['seed-pool', 'p', join(folder, 'codes.txt'), '--file'])).toMatchObject({
    ...counts,
    submitted: 3,
    added: 2,
    duplicate: 1,
  })
  expect(await asJson(['seed-pool', 'p', '-'], { input: '$1\n; drop table code_pools\n' })).toMatchObject({ added: 2 })
  expect((await home.codesOf({ poolId: 'p' })).map(({ code }) => code)).toEqual([
    "it's",
    'two',
    'three',
    '$1',
    '; drop table code_pools',
  ])
  const told = await ops(['seed-pool', 'p', 'two'])
  expect(told.stdout).toContain('Done. added 0, duplicate 1, already dispensed 0, void 0')
})

it('adapters:A-46 stores the template without a stray brace; orders that wait for codes are told to resume by themselves', async () => {
  const mapping = ['mapping-codedisp', '100', SELLER, 'V', 'p', 'https://x/{code}', '--no-route']
  expect(await asJson(mapping)).toMatchObject({ code: 0, mapping: 'created', route: 'skipped' })
  expect(await asJson(mapping)).toMatchObject({ mapping: 'unchanged' })
  expect((await findMappings(home.db, 100, SELLER, ['v'])).get('v')).toEqual({
    poolId: 'p',
    downloadUrlTemplate: 'https://x/{code}',
  })
  const { code, stdout } = await ops(['seed-pool', 'p', 'four'])
  expect([code, stdout]).toEqual([0, expect.stringContaining('waiting orders resume within a minute')])
  expect(stdout).not.toContain('secret-password')
})

it('lists pools, sets thresholds, and voids codes that it reads from standard input', async () => {
  await home.seed('q', ['1', '2', '3'])
  expect(await asJson(['pool', 'threshold', 'q', '2'])).toMatchObject({ code: 0, lowStockThreshold: 2 })
  const input = '1\n2\n1\n\nunknown\n'
  expect(await asJson(['pool', 'void-code', 'q'], { input })).toMatchObject({
    code: 1,
    voided: 2,
    alreadyVoid: 1,
    dispensed: 0,
    unknown: 1,
  })
  expect(await asJson(['pool', 'void-code', 'q', '1'])).toMatchObject({ code: 0, voided: 0, alreadyVoid: 1 })
  const { stdout } = await ops(['pool', 'list'])
  expect(stdout).toMatch(/^q +1 +0 +2 +2 +low$/m)
  expect((await ops(['pool', 'show', 'p'])).stdout).toContain(`100 ${SELLER} v https://x/{code}`)
  expect(await asJson(['pool', 'threshold', 'q', 'off'])).toMatchObject({ lowStockThreshold: null })
  expect((await ops(['pool', 'list'])).stdout).toMatch(/^q +1 +0 +2 +-$/m)
})

it('encrypts everything anew under the first key, once', async () => {
  const key = `new:${Buffer.alloc(32, 3).toString('base64')},${SECRETS_KEY}`
  const codes = (await home.codesOf({})).length
  expect(await asJson(['codedisp-rotate'], { key })).toMatchObject({ code: 0, key: 'new', codes, left: 0 })
  expect(await asJson(['codedisp-rotate'], { key })).toMatchObject({ codes: 0, answers: 0, left: 0 })
  const only = key.split(',')[0]!
  expect(await asJson(['seed-pool', 'p', 'two'], { key: only })).toMatchObject({ duplicate: 1 })
  const lacking = await ops(['seed-pool', 'p', 'two'])
  expect([lacking.code, lacking.stderr]).toEqual([1, expect.stringContaining('not in ADAPTER_SECRETS_KEY')])
})

it.each<[string[], { input?: string; key?: string }, string]>([
  [['seed-pool', 'p', 'x'], { key: '' }, "set ADAPTER_SECRETS_KEY to the dispenser's"],
  [['seed-pool', 'p', '-'], { input: '\n \n' }, 'standard input holds no codes'],
  [['seed-pool', 'p', 'x'.repeat(2001)], {}, 'code 1 is longer than 2000 characters'],
  [['pool', 'threshold', 'p', 'many'], {}, 'threshold must be a whole number or off (got: many)'],
  [['pool', 'threshold', 'nowhere', '1'], {}, "there is no pool 'nowhere'"],
  [['pool', 'show', 'nowhere'], {}, "there is no pool 'nowhere'"],
])('adapters:A-47 refuses %j', async (args, how, message) => {
  const { code, stderr } = await ops(args, { key: `new:${Buffer.alloc(32, 3).toString('base64')}`, ...how })
  expect([code, stderr]).toEqual([2, expect.stringContaining(`Error: ${message}`)])
})
