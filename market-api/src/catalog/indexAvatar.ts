import { isAddress } from '@market/contracts/address'
import { isJsonObject, type JsonObject, type JsonValue } from '@market/contracts/canonicalJson'
import { parseProfile } from '@market/contracts/catalogDocuments'
import { profileCidOfDigest } from '@market/contracts/cid'
import { inTransaction } from '@market/kit/db'
import { createGate } from '@market/kit/gate'
import type { Transaction } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { CatalogFault, MarketDatabase } from '../db/types.ts'
import {
  findAvatar,
  isVisible,
  listNamespaces,
  listProducts,
  lockAvatar,
  type NamespaceChange,
  nextRevision,
  removeNamespace,
  saveNamespace,
  type StoredAvatar,
  type StoredNamespace,
} from './indexStore.ts'
import type { Owner } from './linkRows.ts'
import { planNamespace, UNSEEN } from './planNamespace.ts'
import { readDocument } from './readDocument.ts'
import { payloadReader } from './resolveLinks.ts'

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

const oneAtATime = createGate(1)

/** Writers wait for each other's lock anyway; waiting here, they hold no connection that a page could use. */
const inTurn = <T>(ctx: MarketContext, work: (tx: Transaction<MarketDatabase>) => Promise<T>): Promise<T> =>
  oneAtATime(() => inTransaction(ctx.db, work))

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
    const earlier = before.find((namespace) => namespace.operator === operator) ?? { ...UNSEEN, operator }
    const change = await planNamespace(ctx, owner, earlier, indexCid, keysChanged, payloads)
    if (signal?.aborted) return
    if (change) changes.push(change)
  }
  await payloads.keep()
  const gone = before.filter(({ operator, headSeq }) => headSeq > 0 && !profile.namespaces.has(operator))
  const incomplete = await isIncomplete(ctx, changes, before, profile.namespaces)

  const saved = await inTurn(ctx, async (tx) => {
    if (!(await lockAvatar(tx, chainId, avatar, stored.version))) return false
    const other =
      stored.indexedDigest !== registry.digest || JSON.stringify(stored.fault) !== JSON.stringify(profile.fault)
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
  await inTurn(ctx, async (tx) => {
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
