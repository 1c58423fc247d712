import { access } from 'node:fs/promises'
import {
  CodeError,
  type CodeKeys,
  type CodesDatabase,
  countToReseal,
  listMappings,
  listPools,
  openCodeKeys,
  type Pool,
  readCodeFile,
  resealAdapterSecrets,
  resealCodes,
  sealStoredAnswers,
  seedPool,
  type SeedResult,
  setLowStockThreshold,
  upsertCodeMapping,
  voidCode,
} from '@market/codedispenser/ops'
import type { Database } from '@market/kit/db'
import { messageOf } from '@market/kit/errors'
import { type MarketDatabase, upsertRoute, wakeWaitingJobs } from '@market/market-api/ops'
import type { Command } from 'commander'
import type { Out } from './catalog.ts'
import { address, chainId, named } from './operatorArguments.ts'
import { progressBar } from './progressBar.ts'
import { UsageError } from './usageError.ts'

type CodesDb = Database<CodesDatabase>['db']
type MarketDb = Database<MarketDatabase>['db']

/** Where the commands work. */
export type CodeDispenserOps = {
  withCodes: <T>(work: (db: CodesDb) => Promise<T>) => Promise<T>
  withMarket: <T>(work: (db: MarketDb) => Promise<T>) => Promise<T>
  /** The dispenser's `ADAPTER_SECRETS_KEY`. */
  secretsKey: () => string
}

const AFTER_SEED = `
Codes lie encrypted; ADAPTER_SECRETS_KEY must be the dispenser's. A code the pool ever had, dispensed or void, never comes back.
A file is read as it is stored: one that was cut off is finished by running the same again. Orders that wait for a code of the
pool are tried at once.

Examples:
  npm run ops -- seed-pool vouchers ABC-123
  npm run ops -- seed-pool vouchers codes.txt --file
  gpg -d codes.gpg | npm run ops -- seed-pool vouchers -`

const AFTER_MAPPING = `
Example:
  npm run ops -- mapping-codedisp 100 0x943186fbcfd74fd575bcf9aa76a53f56b2f06aba gift-code vouchers 'https://shop.example/redeem/{code}'`

const AFTER_POOL = `
Examples:
  npm run ops -- pool list
  npm run ops -- pool threshold vouchers 50
  npm run ops -- pool threshold vouchers off
  npm run ops -- pool void-code vouchers - < leaked.txt`

const AFTER_ROTATE = `
To change the key: put the new one before the old one, ADAPTER_SECRETS_KEY=new:…,old:…, here and at the dispenser, and restart
it; run this until it says that nothing is left under another key; then leave the old one away. It may run while codes are
dispensed, be cut off, and be repeated.

Example:
  ADAPTER_SECRETS_KEY=k2:…,k1:… npm run ops -- codedisp-rotate`

/** `seed-pool`, `mapping-codedisp`, `pool` and `codedisp-rotate`. */
export function addCodeDispenserCommands(ops: Command, out: Out, at: CodeDispenserOps): void {
  ops
    .command('seed-pool')
    .description('Add codes to a pool, which is made when missing. A code the pool ever had is left as it is.')
    .argument('<pool>', 'pool id')
    .argument('<codes>', 'one code; with --file a file with a code on each line; - reads standard input')
    .option('--file', '<codes> is a file')
    .addHelpText('after', AFTER_SEED)
    .action(async (pool: string, codes: string, options: { file?: boolean }) => {
      const poolId = named('pool_id', pool)
      const { lines, total } = await readCodes(codes, options.file === true)
      out.say('seed-pool', `Seeding ${total || 'the'} code(s) into pool '${poolId}'...`)
      const result = await withKeys(at, (db, keys) => seed(out, db, keys, poolId, lines, total))
      const woken = await wakeOrders(out, at, poolId)
      const { added, duplicate, alreadyDispensed } = result
      out.finish(
        'seed-pool',
        { ...result, woken },
        `Done. added ${added}, duplicate ${duplicate}, already dispensed ${alreadyDispensed}, void ${result.void}`,
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
    .addHelpText('after', AFTER_MAPPING)
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
        out.say('set-mapping', 'Inserting/Updating mapping in CodeDispenser DB...')
        const mapped = await at.withCodes((db) => upsertCodeMapping(db, mapping))
        out.say('set-mapping', `mapping ${mapped}`)
        // The route comes last: a sku is for sale only once there is something to deliver.
        const route = options.route
          ? await at.withMarket((db) => upsertRoute(db, { ...mapping, offerType: 'codedispenser' }))
          : 'skipped'
        out.say('set-mapping', `route ${route}`)
        out.finish('set-mapping', { ...mapping, mapping: mapped, route }, 'Done.')
      },
    )

  addPoolCommands(ops, out, at)

  ops
    .command('codedisp-rotate')
    .description('Encrypt codes and stored answers anew under the first key of ADAPTER_SECRETS_KEY. May be repeated.')
    .addHelpText('after', AFTER_ROTATE)
    .action(async () => {
      const done = await withKeys(at, async (db, keys) => {
        const total = await countToReseal(db, keys)
        const progress = out.json() ? undefined : progressBar(process.stderr, 'codedisp-rotate')
        const codes = await resealCodes(db, keys, (n) => progress?.show('codes', n, total))
        progress?.end()
        const answers = await sealStoredAnswers(db, keys.secrets)
        await resealAdapterSecrets(db, keys.secrets)
        return { key: keys.secrets.keyId, codes, answers, left: await countToReseal(db, keys) }
      })
      const { key, codes, answers, left } = done
      out.finish(
        'codedisp-rotate',
        done,
        `Done. codes ${codes}, stored answers ${answers} under the key ${key}; ` +
          (left === 0
            ? 'nothing is left under another key'
            : `${left} codes came meanwhile under another: run it again when every dispenser has restarted`),
      )
    })
}

function addPoolCommands(ops: Command, out: Out, at: CodeDispenserOps): void {
  const pools = ops
    .command('pool')
    .description('Pools of codes: how many are left, when to warn, and codes that must not be dispensed.')
    .addHelpText('after', AFTER_POOL)
  const tell = (result: object, text: string) => {
    if (out.json()) out.finish('pool', result, '')
    else console.log(text)
  }
  pools
    .command('list')
    .description('Each pool with its codes by state, and its threshold.')
    .action(async () => {
      const found = await at.withCodes((db) => listPools(db))
      tell({ pools: found }, poolsText(found))
    })
  pools
    .command('show')
    .description('One pool, and the skus that draw from it.')
    .argument('<pool>', 'pool id')
    .action(async (pool: string) => {
      const poolId = named('pool_id', pool)
      const [found, mappings] = await at.withCodes(async (db) => [
        await readPool(db, poolId),
        await listMappings(db, { poolId }),
      ])
      const skus = mappings.map(
        ({ chainId: chain, seller, sku, enabled, downloadUrlTemplate }) =>
          `  ${chain} ${seller} ${sku}${enabled ? '' : ' (off)'}${downloadUrlTemplate ? ` ${downloadUrlTemplate}` : ''}`,
      )
      tell(
        { ...found, mappings },
        [poolsText([found]), skus.length > 0 ? 'sold as' : 'sold as nothing', ...skus].join('\n'),
      )
    })
  pools
    .command('threshold')
    .description('At or under so many available codes the dispenser warns: in its log, once, and as a metric.')
    .argument('<pool>', 'pool id')
    .argument('<n>', 'how many, or off')
    .action(async (pool: string, n: string) => {
      const poolId = named('pool_id', pool)
      if (!/^([0-9]{1,9}|off)$/.test(n)) throw new UsageError(`threshold must be a whole number or off (got: ${n})`)
      const threshold = n === 'off' ? null : Number(n)
      await at.withCodes(async (db) => {
        if (!(await setLowStockThreshold(db, poolId, threshold))) throw unknownPool(poolId)
      })
      out.finish('pool', { poolId, lowStockThreshold: threshold }, `threshold of '${poolId}': ${threshold ?? 'none'}`)
    })
  pools
    .command('void-code')
    .description(
      'Take codes out of circulation: they are never dispensed. One that was dispensed stays with its order.',
    )
    .argument('<pool>', 'pool id')
    .argument('[code]', 'the code; - or nothing reads standard input, where nobody sees it who lists processes', '-')
    .action(async (pool: string, code: string) => {
      const poolId = named('pool_id', pool)
      const counts = { voided: 0, 'already void': 0, dispensed: 0, unknown: 0 }
      const { lines } = await readCodes(code, false)
      await withKeys(at, async (db, keys) => {
        await readPool(db, poolId)
        for await (const line of lines) {
          if (line.trim() !== '') counts[await voidCode(db, keys, poolId, line)] += 1
        }
      })
      if (Object.values(counts).every((n) => n === 0)) throw new UsageError('standard input holds no codes')
      if (counts.dispensed + counts.unknown > 0) process.exitCode = 1
      const { voided, 'already void': alreadyVoid, dispensed, unknown } = counts
      out.finish(
        'pool',
        { poolId, voided, alreadyVoid, dispensed, unknown },
        `void: ${voided} now, ${alreadyVoid} before; not possible: ${dispensed} dispensed, ${unknown} not in the pool`,
      )
    })
}

const unknownPool = (poolId: string) => new UsageError(`there is no pool '${poolId}'`)

async function readPool(db: CodesDb, poolId: string): Promise<Pool> {
  const [found] = await listPools(db, poolId)
  if (!found) throw unknownPool(poolId)
  return found
}

function poolsText(pools: Pool[]): string {
  if (pools.length === 0) return 'no pools'
  const rows = pools.map((pool) => [
    pool.poolId,
    String(pool.available),
    String(pool.assigned),
    String(pool.void),
    pool.lowStockThreshold === null ? '-' : String(pool.lowStockThreshold),
    pool.lowStockThreshold !== null && pool.available <= pool.lowStockThreshold ? 'low' : '',
  ])
  const table = [['pool', 'available', 'dispensed', 'void', 'threshold', ''], ...rows]
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)))
  return table
    .map((row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '))
    .map((line) => line.trimEnd())
    .join('\n')
}

function withKeys<T>(at: CodeDispenserOps, work: (db: CodesDb, keys: CodeKeys) => Promise<T>): Promise<T> {
  return at.withCodes(async (db) => work(db, await openCodeKeys(db, at.secretsKey())))
}

async function seed(
  out: Out,
  db: CodesDb,
  keys: CodeKeys,
  poolId: string,
  lines: Iterable<string> | AsyncIterable<string>,
  total: number,
): Promise<SeedResult> {
  const progress = out.json() ? undefined : progressBar(process.stderr, 'seed-pool')
  try {
    const result = await seedPool(db, keys, poolId, lines, (done) => progress?.show('codes', done, total))
    if (result.submitted === 0) throw new UsageError('standard input holds no codes')
    return result
  } catch (error) {
    if (error instanceof CodeError) throw new UsageError(error.message)
    throw error
  } finally {
    progress?.end()
  }
}

/** How many jobs that wait for codes of the pool are tried now; null when the market's database was not reached. */
async function wakeOrders(out: Out, at: CodeDispenserOps, poolId: string): Promise<number | null> {
  const mappings = await at.withCodes((db) => listMappings(db, { poolId }))
  const keys = mappings.filter(({ enabled }) => enabled)
  if (keys.length === 0) return 0
  try {
    const woken = await at.withMarket((db) => wakeWaitingJobs(db, { offerType: 'codedispenser', keys }))
    if (woken > 0) out.say('seed-pool', `${woken} waiting order(s) are tried now`)
    return woken
  } catch (error) {
    out.say('seed-pool', `waiting orders resume within a minute (market database: ${messageOf(error)})`)
    return null
  }
}

/** `total` 0: not known before it is read. */
async function readCodes(
  source: string,
  isFile: boolean,
): Promise<{ lines: Iterable<string> | AsyncIterable<string>; total: number }> {
  if (source.trim() === '') throw new UsageError('code_or_file cannot be empty')
  if (source === '-') return { lines: readCodeFile(process.stdin), total: 0 }
  if (!isFile) return { lines: [source], total: 1 }
  let total = 0
  try {
    await access(source)
    for await (const line of readCodeFile(source)) if (line.trim() !== '') total += 1
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    throw new UsageError(missing ? `File not found: ${source}` : `${source} can't be read: ${messageOf(error)}`)
  }
  if (total === 0) throw new UsageError(`${source} holds no codes`)
  return { lines: readCodeFile(source), total }
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
