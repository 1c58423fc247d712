import { sniffMedia } from '@market/contracts/media'
import { AppError, NotFoundError } from '@market/kit/errors'
import { IpfsUnavailableError } from '../catalog/ipfs/ipfs.ts'
import type { MarketContext } from '../context.ts'
import { isTooDense } from './density.ts'
import { upstreamError } from './errors.ts'

/** Bytes that were checked against their CID, and what they are. */
export type StoredObject = { bytes: Uint8Array; type: string }

const OTHER = 'application/octet-stream'

/**
 * Any object by its CID, with the media type its bytes show: JSON, an image, or neither.
 * Throws `NotFoundError` when nobody has it, or nobody who answers in time; Kubo knows no other no.
 */
export async function readObject(ctx: MarketContext, cid: string): Promise<StoredObject> {
  const bytes = await read(ctx, cid)
  return { bytes, type: sniffMedia(bytes) ?? (isJson(bytes) ? 'application/json; charset=utf-8' : OTHER) }
}

/** An image by its CID. What is none is not found: nothing else may be shown by a browser under our name. */
export async function readImage(ctx: MarketContext, cid: string): Promise<StoredObject> {
  const bytes = await read(ctx, cid)
  const type = sniffMedia(bytes)
  if (!type) throw new AppError(404, 'not_an_image', 'Not found', { detail: 'The object is not an image' })
  return { bytes, type }
}

async function read(ctx: MarketContext, cid: string): Promise<Uint8Array> {
  try {
    return await ctx.ipfs.get(cid)
  } catch (error) {
    const absent = error instanceof IpfsUnavailableError && error.reason !== 'unreachable'
    throw absent ? new NotFoundError('not_available', 'Not found') : upstreamError(error)
  }
}

/** JSON, and an object or an array: a lone number or word is more likely something else. What is too dense we never pin. */
function isJson(bytes: Uint8Array): boolean {
  const first = bytes.find((byte) => !WHITE_SPACE.includes(byte))
  if ((first !== 0x7b && first !== 0x5b) || isTooDense(bytes)) return false
  try {
    JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes))
    return true
  } catch {
    return false
  }
}

const WHITE_SPACE = [0x20, 0x09, 0x0a, 0x0d]
