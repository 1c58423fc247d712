import { productLinkName } from '@market/contracts/catalogDocuments'
import { type CustomDataLink, verifyEoaSignature } from '@market/contracts/link'
import type { CheckSignature } from '@market/contracts/namespaceWalk'
import type { Run } from './publish/concurrency.ts'
import { preparePayloads } from './publish/payloads.ts'
import { pinAndSign } from './publish/pinAndSign.ts'
import type { PublishJournal, PublishOptions, PublishResult, RefusedProduct, SkuOutcome } from './publish/ports.ts'
import { PublishError } from './publish/publishError.ts'
import { beginRound, compareWithPublished, needsProfile, type Round } from './publish/round.ts'
import { writeNamespace } from './publish/writeNamespace.ts'

export type * from './publish/ports.ts'
export { PublishError, type PublishErrorCode } from './publish/publishError.ts'

const MAX_RETRIES = 3

/**
 * Makes the namespace of an avatar say what `products`, `remove` and `prune` want (catalog.md 3.3). It compares with what
 * is published, and what is so already is neither pinned nor signed again; repeated, it changes nothing. All products are
 * checked before anything is pinned, and everything is pinned before the registry is written. When somebody else writes to
 * the registry meanwhile, it begins again from what they wrote, keeping what is pinned and signed.
 *
 * Throws `PublishError`, and what storage, registry and signer throw; the published catalog is then as it was.
 */
export async function publishCatalog(options: PublishOptions): Promise<PublishResult> {
  const run: Run = { signal: options.signal }
  const prepared = await preparePayloads(options, run)
  const stops = (refused: RefusedProduct[]) => refused.length > 0 && (options.onRefused ?? 'stop') === 'stop'
  if (stops(prepared.refused)) return resultOf('refused', { outcomes: [], refused: prepared.refused })

  const journal = options.journal ?? rememberingJournal()
  const checkSignature = checkedOnce(options.checkSignature ?? verifyEoaSignature)
  let built: PublishResult | undefined
  for (let attempt = 0; attempt <= MAX_RETRIES; attempt += 1) {
    const round = await beginRound(options, { run, journal, checkSignature })
    const found = await compareWithPublished(round, prepared)
    const news = { outcomes: found.outcomes, refused: [...prepared.refused, ...found.refused] }
    const before = { ...news, previousDigest: round.expected }
    if (stops(news.refused)) return resultOf('refused', before)
    if (options.dryRun) return resultOf('dry-run', before)

    const links = await pinAndSign(round, found)
    // What the last attempt wrote may be in what somebody else has built on it by now.
    if (links.length === 0 && !needsProfile(round)) return built ?? resultOf('unchanged', before)
    const written = await writeNamespace(round, links)
    const after = { ...before, outcomes: withTombstones(news.outcomes, links), ...written }
    if (options.register === false) return resultOf('pinned', after)
    const registered = await register(round, written.digest)
    if (registered !== 'moved') built = resultOf('published', after)
    if (registered === 'written') return built!
  }
  throw new PublishError(
    'registry_moved',
    `somebody else wrote to the registry ${MAX_RETRIES + 1} times while this was being published; run it again`,
  )
}

/** What `publishCatalog` would refuse of these before it looks at what is published. */
export async function refusedProducts(wanted: Pick<PublishOptions, 'products' | 'remove'>): Promise<RefusedProduct[]> {
  return (await preparePayloads(wanted, {})).refused
}

function resultOf(status: PublishResult['status'], news: Omit<PublishResult, 'status' | 'counts'>): PublishResult {
  const counts = { created: 0, updated: 0, unchanged: 0, removed: 0, refused: news.refused.length }
  for (const { outcome } of news.outcomes) counts[outcome] += 1
  return { status, ...news, counts }
}

function withTombstones(outcomes: SkuOutcome[], links: CustomDataLink[]): SkuOutcome[] {
  const cids = new Map(links.map(({ name, cid }) => [name, cid]))
  return outcomes.map((one) => {
    const cid = one.cid ?? cids.get(productLinkName(one.sku))
    return cid === undefined ? one : { ...one, cid }
  })
}

/** `moved`: nothing was written, because the registry no longer held what was read. `overtaken`: somebody wrote after us. */
async function register(
  { options, avatar, expected }: Round,
  digest: string,
): Promise<'written' | 'moved' | 'overtaken'> {
  options.onProgress?.({ phase: 'registry', done: 0, total: 1 })
  if ((await options.registry.writeDigest(digest, expected)) === 'moved') return 'moved'
  // Two who looked at the same moment both write, and the first one sees it only now. A node that lags shows what was before.
  const now = (await options.registry.readDigest(avatar)).toLowerCase()
  if (now !== digest && now !== expected) return 'overtaken'
  options.onProgress?.({ phase: 'registry', done: 1, total: 1 })
  return 'written'
}

/** A signature takes 2 ms to check, and what comes after a retry has mostly been seen before. */
function checkedOnce(check: CheckSignature): CheckSignature {
  const verdicts = new Map<string, Awaited<ReturnType<CheckSignature>>>()
  return async (link, digest) => {
    const key = `${digest} ${link.signature}`
    const verdict = verdicts.get(key) ?? (await check(link, digest))
    verdicts.set(key, verdict)
    return verdict
  }
}

/** Enough for the retries of one run. */
function rememberingJournal(): PublishJournal {
  const pinned = new Set<string>()
  const links = new Map<string, CustomDataLink[]>()
  return {
    isPinned: (cid) => pinned.has(cid),
    pinned: (cid) => void pinned.add(cid),
    linksOf: (name) => links.get(name) ?? [],
    signed: (link) => void links.set(link.name, [...(links.get(link.name) ?? []), link]),
  }
}
