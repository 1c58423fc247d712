import { MediaStructureError, type MediaType, sniffMedia, stripMetadata } from '@market/contracts/media'
import type { MarketContext } from '../context.ts'
import { InvalidRequestError } from './errors.ts'
import { pinBytes } from './pinBytes.ts'
import type { Pinner } from './store.ts'

/** Pins an image, told by its bytes whatever it was called (catalog.md 5.3); `strip` takes its metadata out first. */
export async function pinMedia(ctx: MarketContext, pinner: Pinner, bytes: Uint8Array, strip: boolean): Promise<string> {
  if (bytes.length === 0) throw new InvalidRequestError('empty_media', 'Empty media payload')
  const type = sniffMedia(bytes)
  if (!type) throw new InvalidRequestError('unsupported_media', 'The bytes are no PNG, JPEG, GIF, WebP or AVIF image')
  return pinBytes(ctx, pinner, strip ? withoutMetadata(bytes, type) : bytes, 'media')
}

function withoutMetadata(bytes: Uint8Array, type: MediaType): Uint8Array {
  try {
    return stripMetadata(bytes, type)
  } catch (error) {
    if (!(error instanceof MediaStructureError)) throw error
    throw new InvalidRequestError('damaged_media', `The metadata can't be taken out: ${error.message}`)
  }
}
