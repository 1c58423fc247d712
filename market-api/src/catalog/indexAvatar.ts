import { isAddress } from '@market/contracts/address'
import { isJsonObject, type JsonObject, type JsonValue } from '@market/contracts/canonicalJson'
import { parseProfile, type Product } from '@market/contracts/catalogDocuments'
import { profileCidOfDigest } from '@market/contracts/cid'
import { checkLinkShape, FUTURE_SKEW_SECONDS } from '@market/contracts/link'
import { inTransaction } from '@market/kit/db'
import type { MarketContext } from '../context.ts'
import type { CatalogFault } from '../db/types.ts'
import {
  findAvatar,
  isVisible,
  knownChunks,
  listLinks,
  listNamespaces,
  listProducts,
  lockAvatar,
  type NamespaceChange,
  type NamespaceKey,
  nextRevision,
  type ProductRow,
  removeNamespace,
  saveNamespace,
  type StoredAvatar,
  type StoredLink,
  type StoredNamespace,
  type StoredProduct,
} from './indexStore.ts'
import {
  ALWAYS,
  judge,
  type KnownVerdicts,
  type LinkRow,
  type Owner,
  reauthorize,
  verdictKey,
  verifyChunk,
} from './linkRows.ts'
import { readChunkLinks, readDocument } from './readDocument.ts'
import { payloadReader, type PlacedLink, resolveLinks, type SkuState } from './resolveLinks.ts'
import { MAX_CHUNKS, tooManyChunks, walkChunks, type WalkEnd } from './walkChunks.ts'

/** What the name registry said about an avatar, and at which block. */
export type RegistryEntry = { digest: string; block: bigint }

/** A normal state, told only to those who ask for diagnostics. */
export const NO_PROFILE: CatalogFault = {
  stage: 'registry',
  code: 'NO_PROFILE',
  cid: null,
  message: 'No profile in the name registry',
}

const MAX_NAMESPACES = 16
/** How long one pass asks IPFS for payloads before it leaves the rest to the next. */
const PAYLOAD_BUDGET_MS = 20_000
const RETRY_SECONDS = { first: 5, longest: 600 }
/** Signatures looked at again in one pass, newest first. */
const MAX_RECHECKS = 1000

const EMPTY: StoredNamespace = {
  operator: '',
  indexCid: null,
  headSeq: 0,
  completeSeq: 0,
  fault: null,
  tailFault: null,
  newestSignedAt: null,
  recheckAt: null,
}

/**
 * Brings what is indexed of an avatar in line with its profile: reads only chunks that are not known, verifies only links that
 * are not known, resolves only skus whose links changed, and saves it all in one transaction (catalog.md 4). May run anywhere
 * at any time: a pass that worked from an older state saves nothing.
 */
export async function indexAvatar(
  ctx: MarketContext,
  avatar: string,
  registry: RegistryEntry,
  signal?: AbortSignal,
): Promise<void> {
  const chainId = ctx.config.CHAIN_ID
  const started = performance.now()
  const stored = await findAvatar(ctx.db, chainId, avatar)
  if (!stored || (stored.registryBlock !== null && stored.registryBlock > registry.block)) return
  const profile = await readAvatarProfile(ctx, registry.digest)
  if (profile.passing) return saveObstacle(ctx, avatar, stored, registry, profile.fault)

  const owner: Owner = { avatar, signingKeys: profile.signingKeys }
  const keysChanged = JSON.stringify(stored.signingKeys) !== JSON.stringify(owner.signingKeys)
  const before = await listNamespaces(ctx.db, chainId, avatar)
  const payloads = payloadReader(ctx, PAYLOAD_BUDGET_MS, signal)
  const changes: NamespaceChange[] = []
  for (const [operator, indexCid] of profile.namespaces) {
    const earlier = before.find((namespace) => namespace.operator === operator) ?? { ...EMPTY, operator }
    const change = await planNamespace(ctx, owner, earlier, indexCid, keysChanged, payloads)
    if (signal?.aborted) return
    if (change) changes.push(change)
  }
  await payloads.keep()
  const gone = before.filter(({ operator, headSeq }) => headSeq > 0 && !profile.namespaces.has(operator))
  const incomplete = await isIncomplete(ctx, changes, before, profile.namespaces)

  const saved = await inTransaction(ctx.db, async (tx) => {
    if (!(await lockAvatar(tx, chainId, avatar, stored.version))) return false
    const other = stored.indexedDigest !== registry.digest || JSON.stringify(stored.fault) !== JSON.stringify(profile.fault)
    const visible = other || gone.length > 0 || changes.some(isVisible)
    const revision = visible ? await nextRevision(tx, chainId, avatar) : '0'
    for (const { operator } of gone) await removeNamespace(tx, revision, { chainId, avatar, operator })
    for (const change of changes) await saveNamespace(tx, revision, change)
    const attempts = incomplete ? stored.attempts + 1 : 0
    await tx
      .updateTable('catalog_avatars')
      .set({
        version: stored.version + 1,
        registry_digest: registry.digest,
        registry_block: String(registry.block),
        indexed_digest: registry.digest,
        indexed_at: ctx.now(),
        fault: profile.fault ? (JSON.stringify(profile.fault) as never) : null,
        signing_keys: owner.signingKeys ? (JSON.stringify(owner.signingKeys) as never) : null,
        attempts,
        retry_at: incomplete ? retryAt(ctx, attempts) : null,
      })
      .where('chain_id', '=', chainId)
      .where('avatar', '=', avatar)
      .execute()
    return true
  })
  if (!saved) return
  const count = (of: (change: NamespaceChange) => unknown[]) => changes.reduce((n, change) => n + of(change).length, 0)
  for (const change of changes) {
    for (const { code } of change.addedLinks) if (code) ctx.metrics.catalogDropped.inc({ code })
  }
  ctx.log.info(
    {
      avatar,
      profile: profileCidOfDigest(registry.digest),
      links: count((change) => change.addedLinks),
      products: count((change) => change.addedProducts),
      incomplete,
      ms: Math.round(performance.now() - started),
    },
    'catalog indexed',
  )
}

type AvatarProfile = {
  namespaces: Map<string, JsonValue>
  signingKeys: JsonObject | null
} & ({ passing: true; fault: CatalogFault } | { passing: false; fault: CatalogFault | null })

/** A profile that is bad for good empties the shop: it is what the seller says now. One that can't be had changes nothing. */
async function readAvatarProfile(ctx: MarketContext, digest: string): Promise<AvatarProfile> {
  const none = { namespaces: new Map<string, JsonValue>(), signingKeys: null }
  const cid = profileCidOfDigest(digest)
  if (!cid) return { ...none, passing: false, fault: NO_PROFILE }
  const read = await readDocument(ctx.ipfs, cid, 'profile', parseProfile)
  if (!read.ok) return { ...none, passing: read.passing, fault: read.fault }
  const { namespaces, signingKeys } = read.document.profile
  const entries = Object.entries(namespaces ?? {}).filter(([operator]) => isAddress(operator))
  return {
    namespaces: new Map(entries.slice(0, MAX_NAMESPACES)),
    signingKeys: isJsonObject(signingKeys) ? signingKeys : null,
    passing: false,
    fault: null,
  }
}

/** Keeps everything that is indexed, says what is in the way, and plans another try. */
async function saveObstacle(
  ctx: MarketContext,
  avatar: string,
  stored: StoredAvatar,
  registry: RegistryEntry,
  fault: CatalogFault,
): Promise<void> {
  const chainId = ctx.config.CHAIN_ID
  await inTransaction(ctx.db, async (tx) => {
    if (!(await lockAvatar(tx, chainId, avatar, stored.version))) return
    if (JSON.stringify(stored.fault) !== JSON.stringify(fault)) await nextRevision(tx, chainId, avatar)
    await tx
      .updateTable('catalog_avatars')
      .set({
        version: stored.version + 1,
        registry_digest: registry.digest,
        registry_block: String(registry.block),
        fault: JSON.stringify(fault) as never,
        attempts: stored.attempts + 1,
        retry_at: retryAt(ctx, stored.attempts + 1),
      })
      .where('chain_id', '=', chainId)
      .where('avatar', '=', avatar)
      .execute()
  })
  ctx.log.warn({ avatar, cid: fault.cid, code: fault.code }, 'profile not readable')
}

function retryAt(ctx: MarketContext, attempts: number): Date {
  const seconds = Math.min(RETRY_SECONDS.longest, RETRY_SECONDS.first * 2 ** (attempts - 1))
  return new Date(ctx.now().getTime() + seconds * 1000)
}

/** Undefined when nothing about the namespace changed. */
async function planNamespace(
  ctx: MarketContext,
  owner: Owner,
  earlier: StoredNamespace,
  indexCid: JsonValue,
  keysChanged: boolean,
  payloads: ReturnType<typeof payloadReader>,
): Promise<NamespaceChange | undefined> {
  const key: NamespaceKey = { chainId: ctx.config.CHAIN_ID, avatar: owner.avatar, operator: earlier.operator }
  const nowMs = ctx.now().getTime()
  const horizonSeconds = Math.floor(nowMs / 1000) + FUTURE_SKEW_SECONDS
  const settled = indexCid === earlier.indexCid && earlier.completeSeq === earlier.headSeq && earlier.fault === null
  const recheck = earlier.recheckAt !== null && earlier.recheckAt.getTime() <= nowMs
  const retried = earlier.headSeq === 0 ? [] : await listProducts(ctx.db, key, { retry: true })
  if (settled && !recheck && !keysChanged && retried.length === 0) return undefined

  const walk = settled ? standStill(earlier) : await walkNamespace(ctx, owner, key, earlier, indexCid)
  const { added, removed } = diffLinks(walk)
  const renewed =
    earlier.headSeq > 0 && (keysChanged || recheck)
      ? await renewVerdicts(ctx, owner, key, walk.fromSeq, { keysChanged, recheck })
      : { turned: [], confirmed: [] }
  for (const [before, after] of renewed.turned) {
    removed.push(before)
    added.push(after)
  }
  const dueAfter = earlier.newestSignedAt ?? 0
  const due = recheck ? await listLinks(ctx.db, key, { signedBetween: [dueAfter, horizonSeconds] }) : []

  const skus = new Set<string>()
  for (const { sku } of [...added, ...removed, ...retried, ...due]) if (sku !== null) skus.add(sku)
  const affected = await gatherLinks(ctx, key, earlier, { added, removed, skus })
  const placed = affected.map((link): PlacedLink => ({ ...link, avatar: owner.avatar, headSeq: walk.headSeq }))
  await payloads.prepare(placed.flatMap(({ payload_cid }) => payload_cid ?? []))
  const { states } = await resolveLinks(placed, { start: 0, end: horizonSeconds - FUTURE_SKEW_SECONDS }, payloads.read)
  const resolved = states.filter(({ sku }) => skus.has(sku)).map(toProductRow)
  const shown = earlier.headSeq === 0 ? [] : await listProducts(ctx.db, key, { skus: [...skus] })
  const depthShift = earlier.headSeq === 0 ? 0 : walk.headSeq - earlier.headSeq
  const products = diffProducts(shown, resolved, depthShift)
  return {
    key,
    namespace: {
      indexCid: typeof indexCid === 'string' ? indexCid.slice(0, 64) : null,
      headSeq: walk.headSeq,
      completeSeq: walk.completeSeq,
      fault: walk.fault,
      tailFault: walk.tailFault,
    },
    moved: !settled || JSON.stringify(walk.fault) !== JSON.stringify(earlier.fault),
    fromSeq: walk.fromSeq,
    chunks: walk.chunks,
    keepFromSeq: walk.keepFromSeq,
    removedLinks: removed,
    confirmedLinks: renewed.confirmed,
    addedLinks: added,
    depthShift,
    ...products,
    horizonSeconds,
  }
}

type Walk = {
  /** Chunks and links from this position on are replaced. */
  fromSeq: number
  keepFromSeq: number
  headSeq: number
  completeSeq: number
  chunks: { seq: number; cid: string }[]
  links: LinkRow[]
  /** Live links at and above `fromSeq`, or below `keepFromSeq`. */
  replaced: StoredLink[]
  fault: CatalogFault | null
  tailFault: CatalogFault | null
}

/** The namespace as it is, nothing read. */
function standStill({ headSeq, completeSeq, fault, tailFault }: StoredNamespace): Walk {
  const nothing = { chunks: [], links: [], replaced: [] }
  return { fromSeq: headSeq + 1, keepFromSeq: 0, headSeq, completeSeq, fault, tailFault, ...nothing }
}

async function walkNamespace(
  ctx: MarketContext,
  owner: Owner,
  key: NamespaceKey,
  earlier: StoredNamespace,
  indexCid: JsonValue,
): Promise<Walk> {
  const known = await knownChunks(ctx.db, key, earlier.completeSeq)
  const verdicts = await knownVerdicts(ctx, key, earlier)
  const walked: { cid: string; links: LinkRow[] }[] = []
  const end: WalkEnd = await walkChunks(
    ctx.ipfs,
    indexCid,
    (cid) => known.has(cid),
    async (cid, links) => {
      // Positions are numbered from the tail, which comes last: filled in below.
      walked.push({ cid, links: await verifyChunk(ctx, owner, { seq: 0, links }, verdicts) })
      // Hundreds of chunks in one go would keep every request of this process waiting.
      await new Promise((resolve) => setImmediate(resolve))
    },
  )

  const broken = end.kind === 'obstacle' && end.passing
  const below = end.kind === 'known' ? known.get(end.cid)! : broken ? earlier.completeSeq : 0
  const headSeq = below + walked.length
  const chunks = walked.map(({ cid }, i) => ({ seq: headSeq - i, cid }))
  const links = walked.flatMap((chunk, i) => chunk.links.map((link) => ({ ...link, chunk_seq: headSeq - i })))
  // Nothing new could be read: what is there stays as it is.
  if (broken && walked.length === 0) return { ...standStill(earlier), fault: end.fault }
  const keepFromSeq = Math.max(0, headSeq - MAX_CHUNKS + 1)
  const replaced =
    earlier.headSeq === 0
      ? []
      : [
          ...(await listLinks(ctx.db, key, { fromSeq: below + 1 })),
          ...(keepFromSeq > 1 ? await listLinks(ctx.db, key, { belowSeq: keepFromSeq }) : []),
        ]
  return {
    fromSeq: below + 1,
    keepFromSeq,
    headSeq,
    completeSeq: broken ? earlier.completeSeq : headSeq,
    chunks,
    links,
    replaced,
    fault: broken ? end.fault : null,
    tailFault: tailFaultOf(end, earlier, keepFromSeq),
  }
}

function tailFaultOf(end: WalkEnd, earlier: StoredNamespace, keepFromSeq: number): CatalogFault | null {
  if (keepFromSeq > 1) return tooManyChunks(null)
  if (end.kind === 'obstacle') return end.passing ? earlier.tailFault : end.fault
  return end.kind === 'known' ? earlier.tailFault : null
}

/**
 * Verdicts worth looking up: those of the newest chunk, which an update replaces by one of nearly the same links, and those of
 * chunks that were read before the walk broke off. The others can't come up again under a known tail.
 */
async function knownVerdicts(ctx: MarketContext, key: NamespaceKey, earlier: StoredNamespace): Promise<KnownVerdicts> {
  if (earlier.headSeq === 0) return new Map()
  const fromSeq = Math.min(earlier.headSeq, earlier.completeSeq + 1)
  const links = await listLinks(ctx.db, key, { fromSeq })
  return new Map(links.filter(({ signature }) => signature !== null).map((link) => [verdictKey(link), link]))
}

/** A link in the same place with the same verdict is the same row. */
function diffLinks({ links, replaced }: Walk): { added: LinkRow[]; removed: StoredLink[] } {
  const identity = (row: LinkRow) =>
    [row.chunk_seq, row.index_in_chunk, row.code, row.reason, row.link_keccak, row.signature].join(' ')
  const before = new Map(replaced.map((row) => [identity(row), row]))
  const added = links.filter((row) => !before.delete(identity(row)))
  return { added, removed: [...before.values()] }
}

type Renewed = {
  /** Links whose verdict is another now, each with the row that takes its place. */
  turned: [StoredLink, LinkRow][]
  confirmed: StoredLink[]
}

/** Looks again at links below `fromSeq`: at who may sign, when the owner's keys changed, and at signatures that are due. */
async function renewVerdicts(
  ctx: MarketContext,
  owner: Owner,
  key: NamespaceKey,
  fromSeq: number,
  { keysChanged, recheck }: { keysChanged: boolean; recheck: boolean },
): Promise<Renewed> {
  const turned = new Map<string, [StoredLink, LinkRow]>()
  const confirmed: StoredLink[] = []
  if (keysChanged) {
    for (const row of await listLinks(ctx.db, key, { authorized: true })) {
      const after = reauthorize(ctx, owner, row)
      if (row.chunk_seq < fromSeq && after.code !== row.code) turned.set(placeOf(row), [row, after])
    }
  }
  if (!recheck) return { turned: [...turned.values()], confirmed }

  const due = await listLinks(ctx.db, key, { dueBy: ctx.now(), limit: MAX_RECHECKS })
  const cids = new Map([...(await knownChunks(ctx.db, key, fromSeq - 1))].map(([cid, seq]) => [seq, cid]))
  for (const [seq, rows] of groupBy(due, (row) => row.chunk_seq)) {
    const cid = cids.get(seq)
    if (cid === undefined) continue
    const links = await readChunkLinks(ctx.ipfs, cid)
    for (const row of rows) {
      const shaped = links && checkLinkShape(links[row.index_in_chunk], { chainId: key.chainId, window: ALWAYS })
      const after = shaped?.ok
        ? judge(ctx, owner, row, shaped.link, await ctx.signatures.check(shaped.link, shaped.digest))
        : row
      if (after.code !== row.code) turned.set(placeOf(row), [row, after])
      // No answer just now is no reason to ask again at once.
      else confirmed.push({ ...row, verdict_at: ctx.now(), verdict_block: after.verdict_block })
    }
  }
  return { turned: [...turned.values()], confirmed }
}

const placeOf = (row: LinkRow) => `${row.chunk_seq} ${row.index_in_chunk}`

function groupBy<K, T>(rows: T[], keyOf: (row: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>()
  for (const row of rows) {
    const group = groups.get(keyOf(row))
    if (group) group.push(row)
    else groups.set(keyOf(row), [row])
  }
  return groups
}

/**
 * All live links that decide about `skus`, after the change. A nonce counts once in a namespace, so links that share one with
 * a link of these skus have a say too; a sku that gains or loses a link by that joins the set.
 */
async function gatherLinks(
  ctx: MarketContext,
  key: NamespaceKey,
  earlier: StoredNamespace,
  { added, removed, skus }: { added: LinkRow[]; removed: StoredLink[]; skus: Set<string> },
): Promise<LinkRow[]> {
  if (earlier.headSeq === 0) return added
  const noncesOf = (rows: LinkRow[]) => [...new Set(rows.flatMap(({ nonce }) => nonce ?? []))]
  for (const { sku } of await listLinks(ctx.db, key, { nonces: noncesOf([...added, ...removed]) })) {
    if (sku !== null) skus.add(sku)
  }
  const gone = new Set(removed.map(placeOf))
  const staying = (rows: StoredLink[]) => rows.filter((row) => !gone.has(placeOf(row)))
  const ofSkus = [...staying(await listLinks(ctx.db, key, { skus: [...skus] })), ...added]
  const places = new Set(ofSkus.map(placeOf))
  const sharing = staying(await listLinks(ctx.db, key, { nonces: noncesOf(ofSkus) }))
  return [...ofSkus, ...sharing.filter((row) => !places.has(placeOf(row)))]
}

function toProductRow({ sku, kind, winner, faults, retry }: SkuState): ProductRow {
  const row: ProductRow = {
    sku,
    kind,
    faults: faults.length > 0 ? faults : null,
    retry,
    product_cid: winner?.link.cid ?? null,
    link_keccak: winner?.linkKeccak ?? null,
    published_at: winner?.signedAt ?? null,
    chunk_depth: winner?.depth ?? null,
    index_in_chunk: winner?.indexInChunk ?? null,
    name: null,
    category: null,
    price: null,
    price_currency: null,
    text: null,
  }
  return winner?.product ? { ...row, ...searchColumns(winner.product) } : row
}

/** Postgres can't index more than this of one text. */
const LONGEST_TEXT = 20_000

function searchColumns(product: Product) {
  const offer = product.offers[0]!
  const clean = (text: string) => text.slice(0, LONGEST_TEXT).replaceAll('\u0000', ' ')
  const words = [product.name, product.sku, product.brand, product.category, product.description]
  return {
    name: clean(product.name),
    category: product.category == null ? null : clean(product.category),
    price: String(offer.price),
    price_currency: offer.priceCurrency,
    text: clean(words.filter((part) => part != null).join(' ')),
  }
}

/** What to write so that the rows say what was resolved. */
function diffProducts(shown: StoredProduct[], resolved: ProductRow[], depthShift: number) {
  const same = (a: StoredProduct, b: ProductRow) =>
    a.kind === b.kind &&
    a.retry === b.retry &&
    a.link_keccak === b.link_keccak &&
    a.index_in_chunk === b.index_in_chunk &&
    (a.chunk_depth === null ? null : a.chunk_depth + depthShift) === b.chunk_depth &&
    JSON.stringify(a.faults) === JSON.stringify(b.faults)
  const bySku = new Map(resolved.map((row) => [row.sku, row]))
  const removedProducts = shown.filter((row) => {
    const wanted = bySku.get(row.sku)
    if (!wanted || !same(row, wanted)) return true
    bySku.delete(row.sku)
    return false
  })
  return { removedProducts, addedProducts: [...bySku.values()] }
}

/** Whether anything of the avatar could not be had just now. */
async function isIncomplete(
  ctx: MarketContext,
  changes: NamespaceChange[],
  before: StoredNamespace[],
  wanted: Map<string, JsonValue>,
): Promise<boolean> {
  for (const { key, namespace, addedProducts, removedProducts } of changes) {
    if (namespace.fault || namespace.completeSeq < namespace.headSeq) return true
    if (addedProducts.some(({ retry }) => retry)) return true
    const changed = new Set(removedProducts.map(({ sku }) => sku))
    const waiting = await listProducts(ctx.db, key, { retry: true })
    if (waiting.some(({ sku }) => !changed.has(sku))) return true
  }
  const touched = new Set(changes.map(({ key }) => key.operator))
  return before.some(
    ({ operator, fault, completeSeq, headSeq }) =>
      wanted.has(operator) && !touched.has(operator) && (fault !== null || completeSeq < headSeq),
  )
}
