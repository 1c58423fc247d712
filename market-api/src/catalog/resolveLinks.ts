import { CanonicalJsonError, decodeUtf8, parseStrictJson } from '@market/contracts/canonicalJson'
import { productLinkName } from '@market/contracts/catalogDocuments'
import { type CustomDataLink, FUTURE_SKEW_SECONDS, type LinkWindow } from '@market/contracts/link'
import {
  compareLinks,
  type DroppedLink,
  type NamespaceLink,
  orderLinks,
  type PayloadRead,
  selectWinners,
  type Winner,
} from '@market/contracts/namespaceWalk'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { CatalogFault } from '../db/types.ts'
import type { LinkRow } from './linkRows.ts'
import { obstacleOf } from './readDocument.ts'

export type PlacedLink = LinkRow & { avatar: string; headSeq: number }

/** What a namespace says about one sku. */
export type SkuState = {
  avatar: string
  sku: string
  kind: 'product' | 'tombstone' | 'none'
  winner: (NamespaceLink & Partial<Pick<Winner, 'product'>>) | undefined
  faults: CatalogFault[]
  /** Something could not be had just now. */
  retry: boolean
}

export type Resolved = { states: SkuState[]; dropped: Pick<DroppedLink, 'avatar' | 'name' | 'code'>[] }

/**
 * From verified links to what each sku is (catalog.md 4.5, 4.6), within a window. The links may be of many avatars. `errors`
 * of links that never got a sku are not in here: they are rows of their own.
 */
export async function resolveLinks(
  links: PlacedLink[],
  window: LinkWindow,
  readPayload: (cid: string) => Promise<PayloadRead>,
): Promise<Resolved> {
  const dropped: Resolved['dropped'] = []
  const good: NamespaceLink[] = []
  const unverified: NamespaceLink[] = []
  for (const row of links) {
    if (row.code === 'SHAPE' || row.code === 'ENVELOPE') continue
    const name = row.name ?? ''
    const outside =
      row.signed_at !== null && (row.signed_at < window.start || row.signed_at > window.end + FUTURE_SKEW_SECONDS)
    // In the order of catalog.md 2.8: the window comes before everything but shape, envelope and chain.
    if (row.code === 'CHAIN') dropped.push({ avatar: row.avatar, name, code: 'CHAIN' })
    else if (outside) dropped.push({ avatar: row.avatar, name, code: 'WINDOW' })
    else if (row.code === null) good.push(placed(row))
    else if (row.code === 'UNVERIFIED') unverified.push(placed(row))
    else dropped.push({ avatar: row.avatar, name, code: row.code as DroppedLink['code'] })
  }
  const ordered = orderLinks(good)
  const selected = await selectWinners(ordered.links, readPayload)
  dropped.push(...ordered.dropped, ...selected.dropped)

  const states = new Map<string, SkuState>()
  const stateOf = (avatar: string, sku: string) => {
    const key = `${avatar} ${sku}`
    const known = states.get(key)
    if (known) return known
    const fresh: SkuState = { avatar, sku, kind: 'none', winner: undefined, faults: [], retry: false }
    states.set(key, fresh)
    return fresh
  }
  for (const winner of selected.winners) {
    Object.assign(stateOf(winner.avatar, winner.sku), { kind: 'product', winner })
  }
  for (const buried of selected.tombstoned) {
    Object.assign(stateOf(buried.avatar, buried.sku), { kind: 'tombstone', winner: buried })
  }
  for (const { avatar, sku, cid, code, reason } of selected.errors) {
    const state = stateOf(avatar, sku!)
    state.faults.push({ stage: 'payload', code, cid, message: reason })
    if (code === 'PAYLOAD_UNAVAILABLE') state.retry = true
  }
  for (const link of unverified) {
    const sku = link.link.name.slice(productLinkName('').length)
    if (!sku) continue
    const state = stateOf(link.avatar, sku)
    if (state.winner && compareLinks(link, state.winner) > 0) continue
    // The seller may just have changed the price or taken it back: an older version must not stand in for it (W10).
    Object.assign(state, { kind: 'none', winner: undefined, retry: true })
  }
  return { states: [...states.values()], dropped }
}

function placed(row: PlacedLink): NamespaceLink {
  return {
    avatar: row.avatar,
    signedAt: row.signed_at!,
    depth: row.headSeq - row.chunk_seq,
    indexInChunk: row.index_in_chunk,
    linkKeccak: row.link_keccak!,
    signer: row.signer!,
    chunkCid: '',
    link: {
      name: row.sku === null ? row.name! : productLinkName(row.sku),
      cid: row.payload_cid!,
      nonce: row.nonce!,
    } as CustomDataLink,
  }
}

const PAYLOAD_WAIT_MS = 2000

/**
 * Reads payloads, each once for ever: what verified bytes say is kept. Stops asking IPFS after `budgetMs`, so that a seller
 * whose blocks are gone does not hold up the others; what was not asked for counts as unavailable.
 */
export function payloadReader(ctx: MarketContext, budgetMs: number, signal?: AbortSignal) {
  const deadline = performance.now() + budgetMs
  const kept = new Map<string, PayloadRead>()
  const found: PayloadRow[] = []

  /** What is there to say of verified bytes, for ever; throws what `obstacleOf` knows for what may be different next time. */
  const readNew = async (cid: string, timeoutMs: number): Promise<{ row: PayloadRow; read: PayloadRead }> => {
    const bytes = await ctx.ipfs.get(cid, { timeoutMs })
    try {
      const text = decodeUtf8(bytes)
      const value = parseStrictJson(text)
      return { row: { cid, document: text, refused: null }, read: { kind: 'json', value } }
    } catch (error) {
      if (!(error instanceof CanonicalJsonError)) throw error
      return refusal(cid, `Malformed JSON: ${error.message}`)
    }
  }

  return {
    /** Loads what is kept of these, in one query. */
    async prepare(cids: string[]) {
      const rows = await ctx.db
        .selectFrom('catalog_payloads')
        .select(['cid', 'document', 'refused'])
        .where(sql<boolean>`cid = any(${cids}::text[])`)
        .execute()
      for (const { cid, document, refused } of rows) {
        kept.set(cid, refused === null ? { kind: 'json', value: document } : toBad(refused))
      }
    },
    async read(cid: string): Promise<PayloadRead> {
      const known = kept.get(cid)
      if (known) return known
      const left = deadline - performance.now()
      if (left <= 0 || signal?.aborted) return { kind: 'unavailable', reason: 'Not available at the moment' }
      const { row, read } = await readNew(cid, Math.min(left, PAYLOAD_WAIT_MS)).catch((error: unknown) => {
        const { passing, fault } = obstacleOf(error, 'payload', cid)
        if (!passing) return refusal(cid, fault.message)
        return { row: undefined, read: { kind: 'unavailable', reason: fault.message } as const }
      })
      if (row) {
        found.push(row)
        kept.set(cid, read)
      }
      return read
    },
    /** Keeps what was read. Safe at any time: a payload's row says nothing about who sells it. */
    async keep() {
      const fresh = found.splice(0)
      if (fresh.length === 0) return
      await sql`
        insert into catalog_payloads (cid, document, refused, seen_at)
        select cid, document::json, refused, ${ctx.now()} from json_to_recordset(${JSON.stringify(fresh)}::json)
          as r(cid text, document text, refused text)
        on conflict (cid) do nothing`.execute(ctx.db)
    },
  }
}

type PayloadRow = { cid: string; document: string | null; refused: string | null }

const refusal = (cid: string, refused: string): { row: PayloadRow; read: PayloadRead } => ({
  row: { cid, document: null, refused },
  read: toBad(refused),
})

const toBad = (reason: string): PayloadRead => ({
  kind: 'bad',
  reason,
  code: reason.startsWith('Malformed') ? 'PAYLOAD_MALFORMED' : 'PAYLOAD_REFUSED',
})
