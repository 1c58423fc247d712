import { parsePinDocument } from '@market/contracts/pinDocument'
import type { MarketContext } from '../context.ts'
import { refuseDense } from './density.ts'
import { UnsupportedShapeError } from './errors.ts'
import { pinBytes } from './pinBytes.ts'
import type { Pinner } from './store.ts'

/** Pins a JSON-LD document whose shape is one that the catalog takes (catalog.md 5.2, 5.3), as it was written. */
export async function pinDocument(ctx: MarketContext, pinner: Pinner, bytes: Uint8Array): Promise<string> {
  refuseDense(bytes)
  const parsed = parsePinDocument(bytes)
  if (parsed.ok) return pinBytes(ctx, pinner, bytes, parsed.type)
  const { at, rule, pointer } = parsed
  const detail = at === '$' ? `The document breaks a rule: ${rule}` : `The member ${at} breaks a rule: ${rule}`
  throw new UnsupportedShapeError('unsupported_shape', { detail, at, rule, pointer })
}
