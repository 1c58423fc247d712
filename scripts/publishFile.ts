import { readFileSync } from 'node:fs'
import { basename, dirname, extname } from 'node:path'
import { AddressError, normalizeAddress } from '@market/contracts/address'
import type { JsonObject } from '@market/contracts/canonicalJson'
import { addressOfPrivateKey, signLink } from '@market/contracts/link'
import { messageOf } from '@market/kit/errors'
import { MarketError } from '@market/sdk/market'
import {
  publishCatalog,
  PublishError,
  refusedProducts,
  type RefusedProduct,
  type PublishProgress,
  type PublishResult,
  type SkuOutcome,
} from '@market/sdk/publishCatalog'
import { keccak256 } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import type { Out, PublishFlags } from './catalog.ts'
import { chainOf, openPlace, openSignatureCheck, readPrivateKey } from './catalogConnections.ts'
import { type CatalogRow, readCatalogCsv, readCatalogJson, readPictures, type RowFault } from './catalogFile.ts'
import { connectRegistry, registryCall } from './catalogRegistry.ts'
import { progressBar } from './progressBar.ts'
import { type FileJournal, openFileJournal } from './publishJournal.ts'
import { UsageError } from './usageError.ts'

const PREFIX = 'publish'
/** Changes listed one by one; the rest is counted. */
const LISTED = 20

/** `ops catalog publish`. Throws `UsageError`; whatever else goes wrong leaves the published catalog as it was. */
export async function publishFile(file: string, flags: PublishFlags, out: Out): Promise<void> {
  const chainId = wholeNumber('--chain', flags.chain)
  const operator = address('--operator', flags.operator)
  const payTo = flags.payTo === undefined ? undefined : address('--pay-to', flags.payTo)
  if (file === '-' && flags.key === '-') throw new UsageError('the file and the key can not both be standard input')

  const { rows, faults } = readFile(file, { chainId, payTo })
  const folder = file === '-' ? '.' : dirname(file)
  const pictured = await readPictures(rows, { folder, strip: flags.stripExif === true })
  const products = rows.filter((row) => row.product !== undefined)
  const remove = rows.flatMap((row) => (row.product === undefined ? [row.sku!] : []))
  const refused = await refusedProducts({ products: products.map(({ product }) => product), remove })
  faults.push(...pictured.faults, ...refusedRows(refused, products))
  if (faults.length > 0) return refuse(out, faults)

  // A dry run signs nothing.
  const key = flags.dryRun && flags.avatar !== undefined ? undefined : readPrivateKey(flags.key)
  const signerAddress = key === undefined ? address('--avatar', flags.avatar!) : addressOfPrivateKey(key)
  const avatar = flags.avatar === undefined ? signerAddress : address('--avatar', flags.avatar)
  if (avatar !== signerAddress && flags.register && !flags.dryRun) {
    throw new UsageError(
      `the key is of ${signerAddress}, and only ${avatar} itself can write to the registry: add --no-register and let it execute the call that is printed`,
    )
  }

  const { rpcUrl, registry: registryAddress } = await chainOf()
  const account = key === undefined ? undefined : privateKeyToAccount(key as `0x${string}`)
  const registry = connectRegistry({ rpcUrl, address: registryAddress, chainId, account })
  const place = await openPlace({ market: flags.market, chainId, key: flags.dryRun ? undefined : key })
  const keepsJournal = file !== '-' && !flags.dryRun
  const journal = keepsJournal ? openFileJournal(`${file}.publish.jsonl`, place.name) : undefined

  out.say(
    PREFIX,
    `${rows.length} row(s) of ${file === '-' ? 'standard input' : basename(file)} by ${avatar} for ${operator} on chain ${chainId}`,
  )
  out.say(PREFIX, `to ${place.name}`)
  if (journal && journal.resumed.pinned + journal.resumed.links > 0) {
    const { pinned, links } = journal.resumed
    out.say(PREFIX, `goes on where a run was cut off: ${pinned} pinned, ${links} signed already`)
  }
  const unpaid = products.filter(({ product }) => !namesPayTo(product!)).length
  if (unpaid > 0)
    out.say(PREFIX, `${unpaid} product(s) name nobody to pay and can't be bought: set --pay-to or the column payTo`)

  const bar = out.json() ? undefined : progressBar(process.stderr, PREFIX)
  let result: PublishResult
  try {
    result = await publishCatalog({
      products: products.map(({ product }) => product),
      remove,
      prune: flags.prune === true,
      operator,
      chainId,
      avatar,
      signer: { address: signerAddress, sign: (draft) => signLink(draft, key!) },
      storage: place.storage,
      registry,
      media: pictured.pictures,
      ...(journal && { journal }),
      newProfile: { name: flags.profileName ?? '' },
      ...(flags.listKey && account ? { signingKeys: signingKeyOf(account.publicKey, journal) } : {}),
      dryRun: flags.dryRun === true,
      register: flags.register,
      repin: flags.repin === true,
      startOver: flags.startOver === true,
      checkSignature: await openSignatureCheck(rpcUrl, chainId),
      onProgress: (progress) => bar?.show(LABELS[progress.phase], progress.done, progress.total),
    })
  } catch (error) {
    throw explained(error, keepsJournal)
  } finally {
    bar?.end()
  }
  if (result.status === 'refused') {
    return refuse(out, refusedRows(result.refused, products))
  }
  // The next run with a journal finds the same links, so a Safe may take its time.
  if (result.status !== 'pinned') journal?.remove()
  tell(result, {
    products,
    avatar,
    out,
    call: result.digest && registryCall(registryAddress, result.digest),
    transaction: registry.transaction(),
  })
}

const LABELS: Record<PublishProgress['phase'], string> = {
  reading: 'reading what is published, chunks',
  products: 'pinning and signing',
  namespace: 'pinning the namespace',
  registry: 'writing to the registry',
}

function readFile(file: string, defaults: { chainId: number; payTo: string | undefined }) {
  const kind = file === '-' ? '.json' : extname(file).toLowerCase()
  if (kind !== '.csv' && kind !== '.json') throw new UsageError(`${file} must end in .csv or .json`)
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(file === '-' ? 0 : file))
  } catch (error) {
    if (error instanceof TypeError) throw new UsageError(`${file} is not UTF-8: save it with that encoding`)
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    throw new UsageError(missing ? `File not found: ${file}` : `${file} can't be read: ${messageOf(error)}`)
  }
  return kind === '.csv' ? readCatalogCsv(text, defaults) : readCatalogJson(text, defaults)
}

function refuse(out: Out, unordered: RowFault[]): void {
  // In the order of the file; a row that could not be read stands where its number says.
  const numberOf = ({ where }: RowFault) => Number(/\d+$/.exec(where)?.[0] ?? Infinity)
  const faults = unordered.toSorted((a, b) => numberOf(a) - numberOf(b))
  const error = `${faults.length} row(s) refused, nothing is published`
  if (out.json()) {
    console.log(JSON.stringify({ ok: false, status: 'refused', error, refused: faults }))
  } else {
    for (const { where, sku, what } of faults) console.error(`${where}${sku === undefined ? '' : ` (${sku})`}: ${what}`)
  }
  console.error(`Error: ${error}`)
  process.exitCode = 1
}

function refusedRows(refused: RefusedProduct[], products: CatalogRow[]): RowFault[] {
  return refused.map(({ index, sku, at, rule }) => {
    const row = index === undefined ? undefined : products[index]
    // The columns of a file have the names that members have in its only offer.
    const member = at.replace(/^offers\[0\]\./, '')
    return { where: row?.where ?? 'published', sku: row?.sku ?? sku, what: `${member}: ${RULES[rule] ?? rule}` }
  })
}

/** Rules whose short form says too little to somebody who fills in a table. */
const RULES: Record<string, string> = {
  required: 'is missing',
  'required decimal': 'a number is needed, such as 18.50',
  'greater than zero': 'must be greater than zero',
  pattern: 'may have small letters, digits, - and _, must begin with a letter or digit, and has at most 63 of them',
  'three capitals': 'must be three capital letters, such as CRC',
  'absolute URI': 'must be a whole address, such as https://…',
  'RFC 3339': 'must be a time such as 2026-01-31T12:00:00Z',
  'confirmed or finalized': 'must be confirmed or finalized',
  'known slot': 'names something a buyer is never asked for; contactPoint.email and shippingAddress are examples',
  'only once': 'stands in the file more than once',
  'published or removed, not both': 'is to be published and taken down in one file',
}

function tell(
  result: PublishResult,
  {
    products,
    avatar,
    out,
    call,
    transaction,
  }: {
    products: CatalogRow[]
    avatar: string
    out: Out
    call: ReturnType<typeof registryCall> | undefined | ''
    transaction: string | undefined
  },
): void {
  const { status, outcomes, counts, profileCid, digest } = result
  const { refused: _, ...told } = counts
  const bySku = new Map(products.map(({ sku, product }) => [sku, product]))
  const changes = outcomes.filter(({ outcome }) => outcome !== 'unchanged')
  const shown = status === 'dry-run' ? changes : changes.slice(0, LISTED)
  const width = shown.reduce((most, { sku }) => Math.max(most, sku.length), 0)
  for (const one of shown) out.say(PREFIX, lineOf(one, width, bySku.get(one.sku)))
  if (shown.length < changes.length) out.say(PREFIX, `… and ${changes.length - shown.length} more`)
  if (status === 'pinned' && call && digest) {
    out.say(PREFIX, `digest ${digest}`)
    out.say(PREFIX, `not public yet: ${avatar} has to execute this call (CALL, value 0)`)
    out.say(PREFIX, `  to   ${call.to}`)
    out.say(PREFIX, `  data ${call.data}`)
  } else if (digest) {
    out.say(PREFIX, `profile ${profileCid}, digest ${digest}, transaction ${transaction}`)
  }
  const summary = Object.entries(told)
    .map(([word, count]) => `${word} ${count}`)
    .join(', ')
  out.finish(
    PREFIX,
    {
      status,
      avatar,
      ...told,
      products: outcomes,
      ...(digest && { profileCid, digest }),
      ...(status === 'published' && { transaction }),
      ...(status === 'pinned' && { call }),
    },
    `${status === 'dry-run' ? 'Dry run, nothing was changed. To do:' : 'Done.'} ${summary}`,
  )
}

function lineOf({ sku, outcome }: SkuOutcome, width: number, product: JsonObject | undefined): string {
  const [offer] = (product?.offers ?? []) as { price?: number; priceCurrency?: string }[]
  const price = offer ? `${offer.price} ${offer.priceCurrency}` : ''
  return `${outcome.padEnd(8)} ${sku.padEnd(width)}  ${price.padStart(12)}  ${String(product?.name ?? '')}`.trimEnd()
}

function namesPayTo({ offers }: JsonObject): boolean {
  return Array.isArray(offers) && offers.some((offer) => (offer as JsonObject | null)?.potentialAction !== undefined)
}

/** catalog.md 1.2, 2.6: valid from now on; a second run must not list it as younger than the links of the first. */
function signingKeyOf(publicKey: `0x${string}`, journal: FileJournal | undefined) {
  const fingerprint = keccak256(`0x${publicKey.slice(4)}`)
  const now = Math.floor(Date.now() / 1000)
  return { [fingerprint]: { '@type': 'SigningKey', publicKey, validFrom: journal?.firstTime(now) ?? now } }
}

/** What a person can do about it, where that isn't plain. */
function explained(error: unknown, keepsJournal: boolean): unknown {
  const goOn = keepsJournal ? '. Run the same command again: what is pinned and signed is kept' : ''
  if (error instanceof MarketError && error.code === 'pin_quota_exceeded') {
    const hours =
      error.retryAfterSeconds === undefined ? '' : `, more is allowed in ${Math.ceil(error.retryAfterSeconds / 3600)} h`
    return new Error(
      `the market's quota of the day is used up${hours}; its operator can raise MARKET_PIN_OBJECTS_PER_DAY and MARKET_PIN_BYTES_PER_DAY${goOn}`,
    )
  }
  if (error instanceof PublishError) {
    const advice = {
      unavailable: '. Restore it, or publish the whole catalog anew with --start-over: what hung on it is then lost',
      unreadable: '. Publish the whole catalog anew with --start-over: what hung on it is then lost',
      signer: '. Use the key of the avatar, or one its profile lists; --list-key lists this one',
      registry_moved: '',
      storage: '',
      clock: '',
      too_large: '',
    }
    return new Error(`${messageOf(error)}${advice[error.code]}`, { cause: error })
  }
  return new Error(`${messageOf(error)}${goOn}`, { cause: error })
}

export function wholeNumber(what: string, text: string): number {
  if (!/^[0-9]{1,15}$/.test(text)) throw new UsageError(`${what} must be an integer (got: ${text})`)
  return Number(text)
}

export function address(what: string, text: string): string {
  try {
    return normalizeAddress(text)
  } catch (error) {
    if (error instanceof AddressError) throw new UsageError(`${what} must be a 0x hex address (got: ${text})`)
    throw error
  }
}
