import { CanonicalJsonError, type JsonValue, parseStrictJsonBytes } from '@market/contracts/canonicalJson'
import { type DocumentFault, parseNamespaceChunk } from '@market/contracts/catalogDocuments'
import { parseChunkBytes } from '@market/contracts/chunkText'
import type { CatalogFault } from '../db/types.ts'
import { type Ipfs, IpfsMismatchError, IpfsTooLargeError, IpfsUnavailableError } from './ipfs/ipfs.ts'

type Stage = CatalogFault['stage']

/** What stands in the way of a document. `passing` = it may be different next time; otherwise it is so for ever. */
export type Obstacle = { passing: boolean; fault: CatalogFault }

export type ReadDocument<T> = { ok: true; document: T } | ({ ok: false } & Obstacle)

/** Reads, verifies and parses one document. Faults carry our words only, never an upstream's: anybody may read them. */
export async function readDocument<T>(
  ipfs: Ipfs,
  cid: string,
  stage: Stage,
  parse: (value: JsonValue) => ({ ok: true } & T) | DocumentFault,
  readJson = parseStrictJsonBytes,
): Promise<ReadDocument<T>> {
  let bytes: Uint8Array
  try {
    bytes = await ipfs.get(cid)
  } catch (error) {
    return { ok: false, ...obstacleOf(error, stage, cid) }
  }
  try {
    const parsed = parse(readJson(bytes))
    if (parsed.ok) return { ok: true, document: parsed }
    return {
      ok: false,
      passing: false,
      fault: { stage, cid, code: codeOf(parsed), message: `${parsed.at}: ${parsed.rule}` },
    }
  } catch (error) {
    if (!(error instanceof CanonicalJsonError)) throw error
    return {
      ok: false,
      passing: false,
      fault: { stage, cid, code: 'MALFORMED', message: `Malformed JSON: ${error.message}` },
    }
  }
}

/** Why bytes could not be had. Those that don't match their CID are a passing fault: another source may have the right ones. */
export function obstacleOf(error: unknown, stage: Stage, cid: string): Obstacle {
  if (error instanceof IpfsTooLargeError) {
    return { passing: false, fault: { stage, cid, code: 'TOO_LARGE', message: 'Larger than 8 MiB' } }
  }
  if (error instanceof IpfsMismatchError) {
    return { passing: true, fault: { stage, cid, code: 'CID_MISMATCH', message: 'The bytes do not match the CID' } }
  }
  if (error instanceof IpfsUnavailableError) {
    return { passing: true, fault: { stage, cid, code: 'UNAVAILABLE', message: 'Not available at the moment' } }
  }
  throw error
}

function codeOf({ at, rule }: DocumentFault): string {
  if (at === '@type' || at === '@context' || at === '$') return 'ENVELOPE'
  if (rule === 'CIDv0') return 'CID_FORMAT'
  return at === 'links' && rule.startsWith('at most') ? 'CHUNK_TOO_LONG' : 'SHAPE'
}

/** Reads a chunk; a link in it that nobody can parse spoils only itself. */
export const readChunk = (ipfs: Ipfs, cid: string) =>
  readDocument(ipfs, cid, 'chunk', parseNamespaceChunk, parseChunkBytes)
