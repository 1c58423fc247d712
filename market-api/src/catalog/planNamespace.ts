import type { JsonValue } from '@market/contracts/canonicalJson'
import type { Product } from '@market/contracts/catalogDocuments'
import { checkLinkShape, FUTURE_SKEW_SECONDS } from '@market/contracts/link'
import { MAX_CHUNKS } from '@market/contracts/namespaceWalk'
import type { MarketContext } from '../context.ts'
import type { CatalogFault } from '../db/types.ts'
import {
  knownChunks,
  listLinks,
  listProducts,
  type NamespaceChange,
  type NamespaceKey,
  type ProductRow,
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
import { readChunk } from './readDocument.ts'
import { type payloadReader, type PlacedLink, resolveLinks, type SkuState } from './resolveLinks.ts'
import { tooManyChunks, walkChunks, type WalkEnd } from './walkChunks.ts'

/** Signatures looked at again in one pass, newest first. */
const MAX_RECHECKS = 1000

/** A namespace nobody has seen yet. */
export const UNSEEN: StoredNamespace = {
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
 * Works out what to write so that the rows say what a namespace says now. Reads chunks down to the first that is known, verifies
 * links that are not known, resolves the skus whose links changed; undefined when there is nothing to write.
 */
export async function planNamespace(
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
      walked.push({ cid, links: await verifyChunk(ctx, owner, links, verdicts) })
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
    const read = await readChunk(ctx.ipfs, cid)
    const links = read.ok ? read.document.chunk.links : undefined
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
