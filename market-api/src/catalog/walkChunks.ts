import type { JsonValue } from '@market/contracts/canonicalJson'
import { parseNameIndexDoc } from '@market/contracts/catalogDocuments'
import { isCidV0 } from '@market/contracts/cid'
import { MAX_CHUNKS } from '@market/contracts/namespaceWalk'
import type { CatalogFault } from '../db/types.ts'
import type { Ipfs } from './ipfs/ipfs.ts'
import { type Obstacle, readChunk, readDocument } from './readDocument.ts'

/** Where a walk ended: at a chunk known before, at the oldest one, or at something in the way. */
export type WalkEnd = { kind: 'known'; cid: string } | { kind: 'tail' } | ({ kind: 'obstacle' } & Obstacle)

/**
 * Follows `head → prev → …` of the index and hands over each chunk that is not known yet, newest first. Never stops early
 * because of time stamps: chunks are in order of appending (catalog.md 4.5).
 */
export async function walkChunks(
  ipfs: Ipfs,
  indexCid: JsonValue,
  isKnown: (cid: string) => boolean,
  onChunk: (cid: string, links: JsonValue[]) => Promise<void>,
): Promise<WalkEnd> {
  if (!isCidV0(indexCid)) {
    const fault = { stage: 'index', code: 'CID_FORMAT', cid: null, message: 'The namespace is no CIDv0' } as const
    return { kind: 'obstacle', passing: false, fault }
  }
  const index = await readDocument(ipfs, indexCid, 'index', parseNameIndexDoc)
  if (!index.ok) return { kind: 'obstacle', passing: index.passing, fault: index.fault }
  let next: string | null | undefined = index.document.index.head
  for (let walked = 0; next; walked += 1) {
    const cid: string = next
    if (isKnown(cid)) return { kind: 'known', cid }
    if (walked === MAX_CHUNKS) return { kind: 'obstacle', passing: false, fault: tooManyChunks(cid) }
    const read = await readChunk(ipfs, cid)
    if (!read.ok) return { kind: 'obstacle', passing: read.passing, fault: read.fault }
    const { chunk }: { chunk: { links: JsonValue[]; prev?: string | null } } = read.document
    await onChunk(cid, chunk.links)
    next = chunk.prev
  }
  return { kind: 'tail' }
}

export const tooManyChunks = (cid: string | null): CatalogFault => ({
  stage: 'chunk',
  code: 'TOO_MANY_CHUNKS',
  cid,
  message: `Only the newest ${MAX_CHUNKS} chunks are read`,
})
