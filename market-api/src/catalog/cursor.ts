import type { LinkPosition } from '@market/contracts/namespaceWalk'

/** Where a page begins: a number of items to skip, or a place in one state of the catalog. */
export type PageStart = { kind: 'offset'; offset: number } | { kind: 'place'; cursor: CatalogCursor }

export type CatalogCursor = {
  /** How many items came before. */
  start: number
  /** State of the index and the window, so that all pages are of one catalog (catalog.md 4.3). */
  snapshot: Snapshot
  /** The last item of the page before. */
  after: LinkPosition
}

/** `windowed`: the page was worked out for its window, not read from the index of what is listed now. */
export type Snapshot = { revision: string; windowStart: number; windowEnd: number; windowed: boolean }

export class CursorError extends Error {}

/** base64url of `{"start":N,"v":1,"s":"<revision>.<from>.<to>.<i|w>","k":[signedAt,depth,index,avatar,linkKeccak]}`. */
export function encodeCursor({ start, snapshot, after }: CatalogCursor): string {
  const { revision, windowStart, windowEnd, windowed } = snapshot
  const s = [revision, windowStart, windowEnd, windowed ? 'w' : 'i'].join('.')
  const k = [after.signedAt, after.depth, after.indexInChunk, after.avatar, after.linkKeccak]
  return Buffer.from(JSON.stringify({ start, v: 1, s, k })).toString('base64url')
}

const SNAPSHOT = /^([0-9]{1,18})\.([0-9]{1,15})\.([0-9]{1,15})\.([iw])$/
const AVATAR = /^0x[0-9a-f]{40}$/
const KECCAK = /^0x[0-9a-f]{64}$/

/** Postgres keeps these in 32 bits. */
const isPlace = (n: unknown) => Number.isInteger(n) && (n as number) >= 0 && (n as number) < 2 ** 31

/**
 * Reads a cursor of ours, or the older base64 of `{"start":N}`. Throws `CursorError` with the sentence that
 * market-api.md 1.8 gives for it.
 */
export function decodeCursor(text: string): PageStart {
  let value: { start?: unknown; v?: unknown; s?: unknown; k?: unknown }
  try {
    if (!/^[A-Za-z0-9+/_-]+={0,2}$/.test(text)) throw new CursorError()
    value = JSON.parse(Buffer.from(text, 'base64').toString('utf8'))
    if (typeof value !== 'object' || value === null) throw new CursorError()
  } catch {
    throw new CursorError('Invalid cursor')
  }
  const { start, v, s, k } = value
  if (!Number.isSafeInteger(start)) throw new CursorError('Invalid cursor')
  if ((start as number) < 0) throw new CursorError('cursor.start must be >= 0')
  if (v === undefined) return { kind: 'offset', offset: start as number }
  const snapshot = SNAPSHOT.exec(typeof s === 'string' ? s : '')
  const [signedAt, depth, indexInChunk, avatar, linkKeccak] = Array.isArray(k) ? (k as unknown[]) : []
  const whole = Number.isSafeInteger(signedAt) && isPlace(depth) && isPlace(indexInChunk)
  const named = AVATAR.test(String(avatar)) && KECCAK.test(String(linkKeccak))
  if (v !== 1 || !snapshot || !whole || !named) throw new CursorError('Invalid cursor')
  return {
    kind: 'place',
    cursor: {
      start: start as number,
      snapshot: {
        revision: snapshot[1]!,
        windowStart: Number(snapshot[2]),
        windowEnd: Number(snapshot[3]),
        windowed: snapshot[4] === 'w',
      },
      after: { signedAt, depth, indexInChunk, avatar, linkKeccak } as LinkPosition,
    },
  }
}
