import { hash } from 'node:crypto'
import { cidV0 } from '@market/contracts/cid'
import type { MarketContext } from '../context.ts'
import { QuotaExceededError, upstreamError } from './errors.ts'
import { type Pinner, recordPin, reserveQuota, returnPin, returnQuota, utcDay } from './store.ts'

const DAY_MS = 86_400_000

/**
 * Pins exactly these bytes and gives their CIDv0 (catalog.md 1.7). Every call counts against the quota, bytes that are
 * pinned already too: storing them again costs the same. Throws `QuotaExceededError`; what IPFS refuses counts for nothing.
 */
export async function pinBytes(ctx: MarketContext, pinner: Pinner, bytes: Uint8Array, kind: string): Promise<string> {
  const now = ctx.now()
  const day = utcDay(now)
  if (!(await reserveQuota(ctx.db, pinner, day, bytes.length))) {
    throw new QuotaExceededError(Math.ceil((DAY_MS - (now.getTime() % DAY_MS)) / 1000))
  }
  const cid = cidV0(bytes, (block) => hash('sha256', block, 'buffer'))
  const pin = { cid, subject: pinner.subject, kind, size: bytes.length, pinned_at: now }
  let isNew = false
  try {
    // Before the bytes are stored: else a sweep could take away what is there already and was just asked for again.
    isNew = await recordPin(ctx.db, pin)
    return await ctx.ipfs.put(bytes)
  } catch (error) {
    if (isNew) await returnPin(ctx.db, pin)
    await returnQuota(ctx.db, pinner, day, bytes.length)
    throw upstreamError(error)
  }
}
