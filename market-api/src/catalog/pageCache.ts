/** A page ready to be sent: nothing of it is made twice. */
export type CachedPage = { body: Uint8Array; headers: { ETag: string; [name: string]: string } }

/** Postgres notifies on it whenever something that a page shows has changed; the payload names the avatar, if it is one's. */
export const CATALOG_CHANNEL = 'catalog_changed'

const MAX_BYTES = 16 * 1024 * 1024
/** A notification may get lost with its connection; then a page is this old at most. */
const MAX_AGE_MS = 2000

/**
 * Pages by their URL. A page is worked out once however many ask for it at the same time, and forgotten as soon as anything it
 * may show has changed.
 */
export function createPageCache(now: () => number = () => performance.now()) {
  const pages = new Map<string, { at: number; page: Promise<CachedPage>; size: number }>()
  let size = 0

  const forget = (key: string) => {
    size -= pages.get(key)?.size ?? 0
    pages.delete(key)
  }
  return {
    get(key: string, make: () => Promise<CachedPage>): Promise<CachedPage> {
      const kept = pages.get(key)
      if (kept && now() - kept.at < MAX_AGE_MS) return kept.page
      if (kept) forget(key)
      const entry = { at: now(), page: make(), size: 0 }
      pages.set(key, entry)
      entry.page.then(
        ({ body }) => {
          if (pages.get(key) !== entry) return
          entry.size = body.length + key.length
          size += entry.size
          for (const [oldest] of pages) {
            if (size <= MAX_BYTES) break
            forget(oldest)
          }
        },
        // What failed is no answer for the next one who asks (W24).
        () => {
          if (pages.get(key) === entry) forget(key)
        },
      )
      return entry.page
    },
    /** Something changed: pages whose URL names the avatar, or without one all, may not be shown any more. */
    clear(avatar?: string) {
      for (const [key] of pages) if (!avatar || key.toLowerCase().includes(avatar)) forget(key)
    },
  }
}
