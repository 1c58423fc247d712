import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { AddressError, normalizeAddress } from '@market/contracts/address'
import { type CodesDatabase, seedPool, upsertCodeMapping } from '@market/codedispenser/ops'
import { type Database, openDatabase } from '@market/kit/db'
import { messageOf } from '@market/kit/errors'
import {
  eraseAddress,
  generateSigningKey,
  type MarketDatabase,
  removeGateway,
  UnknownOfferTypeError,
  upsertGateway,
  upsertRoute,
} from '@market/market-api/ops'
import { Command, CommanderError } from 'commander'
import { addCatalogCommands } from './catalog.ts'
import { addJobsCommands } from './jobs.ts'
import { addPaymentsCommands } from './payments.ts'
import { UsageError } from './usageError.ts'

type Global = { json?: boolean }

// `npm run ops -- … | head` has read enough.
process.stdout.on('error', () => process.exit())

const ops = new Command('npm run ops --')
  .description('What an operator can do. Every command may be repeated; it says created, updated or unchanged.')
  .option('--json', 'print one JSON object instead of lines')
  .exitOverride()
  .showHelpAfterError('Run with --help for usage.')
  .configureHelp({ showGlobalOptions: true })
  .addHelpText(
    'after',
    `
Databases: OPS_MARKET_URL and OPS_CODEDISP_URL; or POSTGRES_HOST, MARKET_POSTGRES_PORT, POSTGRES_USER, POSTGRES_PASSWORD
with DB_MARKET_API and DB_CODEDISP; or, when none is set, those of a running \`npm start\` (MARKET_DATA_DIR).
Exit codes: 0 done, 1 failed, 2 wrong usage.`,
  )

ops
  .command('seed-pool')
  .description('Add codes to a pool, which is made when missing. A code the pool ever had is left as it is.')
  .argument('<pool>', 'pool id')
  .argument('<codes>', 'one code; with --file a file with a code on each line; - reads standard input')
  .option('--file', '<codes> is a file')
  .addHelpText(
    'after',
    '\nExamples:\n  npm run ops -- seed-pool vouchers ABC-123\n  npm run ops -- seed-pool vouchers codes.txt --file\n  gpg -d codes.gpg | npm run ops -- seed-pool vouchers -',
  )
  .action(async (pool: string, codes: string, options: { file?: boolean }) => {
    const poolId = named('pool_id', pool)
    const list = readCodes(codes, options.file === true)
    say('seed-pool', `Seeding ${list.length} code(s) into pool '${poolId}'...`)
    const result = await withCodes((db) => seedPool(db, poolId, list, progress('seed-pool', list.length)))
    finish(
      'seed-pool',
      result,
      `Done. added ${result.added}, duplicate ${result.duplicate}, already dispensed ${result.alreadyDispensed}`,
    )
  })

ops
  .command('mapping-codedisp')
  .description('Sell a sku from a code pool: the mapping at the dispenser and the route at the market.')
  .argument('<chain_id>', 'chain, 100 is Gnosis')
  .argument('<seller>', 'seller address')
  .argument('<sku>', 'sku as in the catalog')
  .argument('<pool>', 'pool id')
  .argument('[download_url]', 'absolute URL with {code} in it')
  .option('--no-route', 'leave the route at the market as it is')
  .addHelpText(
    'after',
    "\nExample:\n  npm run ops -- mapping-codedisp 100 0x943186fbcfd74fd575bcf9aa76a53f56b2f06aba gift-code vouchers 'https://shop.example/redeem/{code}'",
  )
  .action(
    async (
      chain: string,
      seller: string,
      sku: string,
      pool: string,
      url: string | undefined,
      options: { route: boolean },
    ) => {
      const mapping = {
        chainId: chainId(chain),
        seller: address(seller),
        sku: named('sku', sku).toLowerCase(),
        poolId: named('pool_id', pool),
        downloadUrlTemplate: urlTemplate(url),
      }
      say('set-mapping', 'Inserting/Updating mapping in CodeDispenser DB...')
      const mapped = await withCodes((db) => upsertCodeMapping(db, mapping))
      say('set-mapping', `mapping ${mapped}`)
      // The route comes last: a sku is for sale only once there is something to deliver.
      const route = options.route
        ? await withMarket((db) => upsertRoute(db, { ...mapping, offerType: 'codedispenser' }))
        : 'skipped'
      say('set-mapping', `route ${route}`)
      finish('set-mapping', { ...mapping, mapping: mapped, route }, 'Done.')
    },
  )

ops
  .command('gateway')
  .description("Put a payment gateway on record as a seller's. Without it the catalog names no place to pay there.")
  .argument('<chain_id>', 'chain, 100 is Gnosis')
  .argument('<seller>', 'seller address')
  .argument('<gateway>', 'address of the gateway')
  .option('--remove', 'take it off the record')
  .addHelpText(
    'after',
    '\nExample:\n  npm run ops -- gateway 100 0x943186fbcfd74fd575bcf9aa76a53f56b2f06aba 0x5b2cb3c5a1cbb6b1b3be7f1d2a5d8a9a1c0f7e11',
  )
  .action(async (chain: string, seller: string, gateway: string, options: { remove?: boolean }) => {
    const record = {
      chainId: chainId(chain),
      seller: address(seller, 'seller'),
      gateway: address(gateway, 'gateway'),
    }
    const done = await withMarket((db) => (options.remove ? removeGateway(db, record) : upsertGateway(db, record)))
    finish('gateway', { ...record, gatewayRecord: done }, `gateway ${done}`)
  })

ops
  .command('privacy')
  .description('What the market keeps of persons.')
  .command('erase')
  .description(
    'Erase what is kept of the person behind an address. Orders stay, without names, addresses and contacts.',
  )
  .argument('<address>', "the buyer's address")
  .option('--dry-run', 'count only')
  .addHelpText(
    'after',
    `
An order that is not delivered yet keeps what its delivery needs and is named; run it again then. One that is not paid loses
its data by itself when it is cancelled. What was published, paid or sent to a seller's system is not the market's to erase.

Examples:
  npm run ops -- privacy erase 0x7e5f4552091a69125d5dfcb7b8c2659029395bdf --dry-run
  npm run ops -- privacy erase 0x7e5f4552091a69125d5dfcb7b8c2659029395bdf`,
  )
  .action(async (text: string, { dryRun = false }: { dryRun?: boolean }) => {
    const whose = address(text, 'address')
    const done = await withMarket((db) => eraseAddress(db, whose, { dryRun }))
    for (const { orderId, reason } of done.waiting) {
      say('erase', `${orderId} keeps its data: it is ${reason === 'unpaid' ? 'not paid' : 'not delivered'} yet`)
    }
    finish(
      'erase',
      { dryRun, ...done },
      `${dryRun ? 'To do' : 'Done'}. orders erased ${done.orders}, unchanged ${done.unchanged}, waiting ${done.waiting.length}; ` +
        `baskets deleted ${done.baskets}, challenges ${done.challenges}, checkout answers ${done.answers}`,
    )
  })

ops
  .command('jwt-key')
  .description('Make a signing key for MARKET_JWT_PRIVATE_KEY and print it. It is kept nowhere else.')
  .action(async () => {
    const key = await generateSigningKey()
    console.log(json() ? JSON.stringify({ MARKET_JWT_PRIVATE_KEY: key }) : key)
  })

addCatalogCommands(ops, { json, say, finish })
addPaymentsCommands(ops, { json, say, finish }, withMarket)
addJobsCommands(ops, { json, say, finish }, withMarket)

try {
  await ops.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2
  } else {
    const usage = error instanceof UsageError || error instanceof UnknownOfferTypeError
    if (json()) console.log(JSON.stringify({ ok: false, error: messageOf(error) }))
    console.error(`Error: ${messageOf(error)}`)
    process.exitCode = usage ? 2 : 1
  }
}

function json() {
  return ops.opts<Global>().json === true
}

function say(prefix: string, text: string) {
  if (!json()) console.log(`[${prefix}] ${text}`)
}

function finish(prefix: string, result: object, text: string) {
  if (json()) console.log(JSON.stringify({ ok: true, ...result }))
  else console.log(`[${prefix}] ${text}`)
}

/** Tells how far a long run has come, at most once a second. */
function progress(prefix: string, total: number) {
  let told = Date.now()
  return (done: number) => {
    if (Date.now() - told < 1000) return
    told = Date.now()
    say(prefix, `${done} of ${total} (${Math.floor((100 * done) / total)} %)`)
  }
}

function readCodes(source: string, isFile: boolean): string[] {
  if (source.trim() === '') throw new UsageError('code_or_file cannot be empty')
  if (source !== '-' && !isFile) return [source]
  let text: string
  try {
    text = readFileSync(source === '-' ? 0 : source, 'utf8')
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    throw new UsageError(missing ? `File not found: ${source}` : `${source} can't be read: ${messageOf(error)}`)
  }
  const codes = text.split(/\r?\n/).filter((line) => line.trim() !== '')
  if (codes.length === 0) throw new UsageError(`${source === '-' ? 'standard input' : source} holds no codes`)
  return codes
}

function named(what: string, text: string): string {
  if (text.trim() === '') throw new UsageError(`${what} cannot be empty`)
  return text.trim()
}

function chainId(text: string): number {
  if (!/^[0-9]{1,15}$/.test(text)) throw new UsageError(`chain_id must be an integer (got: ${text})`)
  return Number(text)
}

function address(text: string, what = 'seller_address'): string {
  try {
    return normalizeAddress(text)
  } catch (error) {
    if (error instanceof AddressError) throw new UsageError(`${what} must be a 0x hex address (got: ${text})`)
    throw error
  }
}

function urlTemplate(text: string | undefined): string | null {
  if (text === undefined) return null
  if (!text.includes('{code}')) throw new UsageError('download_url must contain {code}')
  const sample = text.replaceAll('{code}', 'code')
  if (!URL.canParse(sample) || !/^https?:$/.test(new URL(sample).protocol)) {
    throw new UsageError('download_url must be an absolute http or https URL')
  }
  return text
}

function withCodes<T>(work: (db: Database<CodesDatabase>['db']) => Promise<T>): Promise<T> {
  return withDatabase(connection('CODEDISP', 'circles_codedisp'), work)
}

function withMarket<T>(work: (db: Database<MarketDatabase>['db']) => Promise<T>): Promise<T> {
  return withDatabase(connection('MARKET', 'circles_market_api'), work)
}

function withDatabase<DB, T>(url: string, work: (db: Database<DB>['db']) => Promise<T>): Promise<T> {
  const { db, close } = openDatabase<DB>(url, { name: 'ops', poolSize: 1 })
  return work(db).finally(close)
}

/** Where a service's database is: its URL, the parts of one, or those of `npm start` on this machine. */
function connection(owner: 'MARKET' | 'CODEDISP', fallbackName: string): string {
  const env = process.env
  const url = env[`OPS_${owner}_URL`]
  if (url) return url
  const database = (owner === 'MARKET' ? env.DB_MARKET_API : env.DB_CODEDISP) || fallbackName
  const host = env.POSTGRES_HOST || '127.0.0.1'
  const port = env.MARKET_POSTGRES_PORT || '65004'
  const user = env.POSTGRES_USER || 'postgres'
  const password = env.POSTGRES_PASSWORD || localPassword(env.MARKET_DATA_DIR || '.market')
  if (!password) {
    throw new UsageError(
      `no database to work on: set OPS_${owner}_URL or POSTGRES_PASSWORD, or run \`npm start\` first`,
    )
  }
  return `postgres://${user}:${encodeURIComponent(password)}@${host}:${port}/${database}`
}

/** The superuser's password of a data folder of `npm start`; undefined when there is none. */
function localPassword(dataDir: string): string | undefined {
  try {
    const secrets = JSON.parse(readFileSync(join(dataDir, 'secrets.json'), 'utf8')) as { postgresPassword?: string }
    return secrets.postgresPassword
  } catch {
    return undefined
  }
}
