import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { CodesDatabase } from '@market/codedispenser/ops'
import { type Database, openDatabase } from '@market/kit/db'
import { messageOf } from '@market/kit/errors'
import {
  eraseAddress,
  generateSigningKey,
  type MarketDatabase,
  removeGateway,
  UnknownOfferTypeError,
  upsertGateway,
} from '@market/market-api/ops'
import { Command, CommanderError } from 'commander'
import { addCatalogCommands } from './catalog.ts'
import { addCodeDispenserCommands } from './codedisp.ts'
import { addJobsCommands } from './jobs.ts'
import { address, chainId } from './operatorArguments.ts'
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
ADAPTER_SECRETS_KEY is what the dispenser's codes are encrypted with; that of \`npm start\` is known.
Exit codes: 0 done, 1 failed, 2 wrong usage.`,
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

addCodeDispenserCommands(ops, { json, say, finish }, { withCodes, withMarket, secretsKey })
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
  const password = env.POSTGRES_PASSWORD || localSecrets(env.MARKET_DATA_DIR || '.market').postgresPassword
  if (!password) {
    throw new UsageError(
      `no database to work on: set OPS_${owner}_URL or POSTGRES_PASSWORD, or run \`npm start\` first`,
    )
  }
  return `postgres://${user}:${encodeURIComponent(password)}@${host}:${port}/${database}`
}

function secretsKey(): string {
  const env = process.env
  const key = env.ADAPTER_SECRETS_KEY || localSecrets(env.MARKET_DATA_DIR || '.market').adapterSecretsKey
  if (!key) throw new UsageError("set ADAPTER_SECRETS_KEY to the dispenser's, or run `npm start` first")
  return key
}

/** Of a data folder of `npm start`; empty when there is none. */
function localSecrets(dataDir: string): { postgresPassword?: string; adapterSecretsKey?: string } {
  try {
    return JSON.parse(readFileSync(join(dataDir, 'secrets.json'), 'utf8')) as ReturnType<typeof localSecrets>
  } catch {
    return {}
  }
}
