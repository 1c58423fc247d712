import { randomBytes } from 'node:crypto'
import { AddressError, normalizeAddress } from '@market/contracts/address'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import type { Check } from './check.ts'
import { CHECKS } from './checks.ts'
import type { Target } from './subject.ts'
import { type Finding, lookBefore, type Report, runChecks, UnfitError, unitsOf } from './suite.ts'

const USAGE = 2

// `… | head` has read enough.
process.stdout.on('error', () => process.exit())

const seconds = (text: string) => {
  const value = Number(text)
  if (!(value > 0 && value <= 3600)) throw new InvalidArgumentError('seconds, more than 0 and at most 3600')
  return value * 1000
}
const chainId = (text: string) => {
  if (!/^[1-9][0-9]{0,14}$/.test(text)) throw new InvalidArgumentError('a chain id, such as 100')
  return Number(text)
}
const address = (text: string) => {
  try {
    return normalizeAddress(text)
  } catch (error) {
    if (error instanceof AddressError) throw new InvalidArgumentError('an address, 0x and 40 hex digits')
    throw error
  }
}
const baseUrl = (text: string) => {
  if (!/^https?:\/\/[^\s?#]+$/.test(text) || !URL.canParse(text)) {
    throw new InvalidArgumentError('an http or https URL without a query')
  }
  return text.replace(/\/+$/, '')
}
const name = (text: string) => {
  if (text.trim() === '') throw new InvalidArgumentError('it is blank')
  return text.trim()
}
const ids = (text: string, before: string[] = []) => {
  const named = text.split(',').map((id) => id.trim())
  const unknown = named.find((id) => !CHECKS.some((check) => check.id === id))
  if (unknown !== undefined) throw new InvalidArgumentError(`there is no check ${JSON.stringify(unknown)}; see --list`)
  return [...before, ...named]
}

type Options = {
  url?: string
  serviceKey?: string
  chain: number
  seller?: string
  sku?: string
  otherSku?: string
  depletedSku?: string
  killCommand?: string
  restartCommand?: string
  budget: number
  patience: number
  inventoryLag: number
  only?: string[]
  list?: boolean
  json?: boolean
}

const program = new Command('conformance')
  .description('Holds an adapter, in whatever language, against the contract of fulfil, inventory and availability.')
  .option('--url <url>', 'where the adapter listens', baseUrl)
  .addOption(new Option('--service-key <key>', 'the key it shares with the market').env('CONFORMANCE_SERVICE_KEY'))
  .option('--chain <id>', 'chain id', chainId, 100)
  .option('--seller <address>', 'a seller whose skus follow', address)
  .option('--sku <sku>', 'one the adapter has mapped for him, with stock', name)
  .option('--other-sku <sku>', 'one it has not mapped (without it, one that is made up)', name)
  .option('--depleted-sku <sku>', 'one it has mapped, without stock', name)
  .option('--kill-command <command>', 'kills the adapter while it delivers, as kill -9 would; run by a shell')
  .option('--restart-command <command>', 'starts it again on the same URL and data')
  .addOption(
    new Option('--budget <seconds>', 'within which it answers, if only with 202')
      .argParser(seconds)
      .default(30_000, '30'),
  )
  .addOption(
    new Option('--patience <seconds>', 'within which a delivery answered with 202 ends')
      .argParser(seconds)
      .default(120_000, '120'),
  )
  .addOption(
    new Option('--inventory-lag <seconds>', 'by which its inventory may be late').argParser(seconds).default(6000, '6'),
  )
  .option('--only <ids>', 'these checks, by comma', ids)
  .option('--list', 'list the checks and end')
  .option('--json', 'print one JSON object instead of lines')
  .allowExcessArguments(false)
  .exitOverride()
  .showHelpAfterError('Run with --help for usage.')
  .addHelpText(
    'after',
    `
Each run takes ids nobody used before, so it may be repeated; it says beforehand how much stock it uses. Nobody else should
use these skus meanwhile.

Exit codes: 0 nothing failed, 1 a check failed, 2 wrong usage, or an adapter that can't be tried as it is.`,
  )

async function main(): Promise<number> {
  program.parse()
  const options = program.opts<Options>()
  const checks = CHECKS.filter(({ id }) => options.only?.includes(id) ?? true)
  if (options.list) {
    list(checks, options.json === true)
    return 0
  }
  const target = targetOf(options)
  const { stock } = await lookBefore(checks, target)
  if (options.json !== true) announce(checks, target, stock)
  const report = await runChecks(checks, target, options.json ? undefined : tell)
  if (options.json) console.log(JSON.stringify(report, null, 2))
  else summarize(report)
  return report.failed > 0 ? 1 : 0
}

function targetOf(options: Options): Target {
  const { url, serviceKey, seller, sku, depletedSku } = options
  if (url === undefined || serviceKey === undefined || serviceKey.trim() === '') {
    return program.error('error: --url and --service-key are needed')
  }
  if (seller === undefined && (sku !== undefined || depletedSku !== undefined || options.otherSku !== undefined)) {
    return program.error('error: a sku belongs to a seller: name him with --seller')
  }
  return {
    url,
    serviceKey: serviceKey.trim(),
    chain: options.chain,
    seller: seller ?? `0x${randomBytes(20).toString('hex')}`,
    sku: sku?.toLowerCase(),
    unmappedSku: options.otherSku?.toLowerCase() ?? `conformance-${randomBytes(8).toString('hex')}`,
    depletedSku: depletedSku?.toLowerCase(),
    killCommand: options.killCommand,
    restartCommand: options.restartCommand,
    budgetMs: options.budget,
    patienceMs: options.patience,
    inventoryLagMs: options.inventoryLag,
  }
}

function list(checks: readonly Check[], json: boolean): void {
  const rows = checks.map(({ id, title, section, needs, units }) => ({ id, title, section, needs, units }))
  if (json) return console.log(JSON.stringify(rows, null, 2))
  for (const { id, title, section } of rows) console.log(`${id.padEnd(20)} ${title} [${section}]`)
}

function announce(checks: readonly Check[], target: Target, stock: number | undefined): void {
  const units = unitsOf(checks, target)
  const inStock = stock === undefined ? '' : ` (in stock: ${stock})`
  const use = target.sku === undefined ? 'no stock is used' : `at most ${units} of ${target.sku} are used${inStock}`
  console.log(`${checks.length} checks of ${target.url}; ${use}\n`)
}

const MARKS = { passed: '✓', failed: '✗', skipped: '–' }

function tell({ id, title, section, verdict, ms, expected, came, reason }: Finding): void {
  const end = verdict === 'skipped' ? `skipped: ${reason}` : `${ms} ms`
  console.log(`${MARKS[verdict]} ${id.padEnd(20)} ${title} (${end})`)
  if (verdict === 'failed') console.log(`    expected  ${expected}\n    came      ${came}\n    see       ${section}`)
}

function summarize({ passed, failed, skipped, checks }: Report): void {
  const ofFailed = checks.filter(({ verdict }) => verdict === 'failed').map(({ id }) => id)
  console.log(`\n${passed} passed, ${failed} failed, ${skipped} skipped${failed > 0 ? `: ${ofFailed.join(', ')}` : ''}`)
}

function refuse(message: string): number {
  console.error(`error: ${message}`)
  if (program.opts<Options>().json) console.log(JSON.stringify({ error: message }))
  return USAGE
}

process.exitCode = await main().catch((error: unknown) => {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE
  if (!(error instanceof UnfitError)) throw error
  return refuse(error.message)
})
