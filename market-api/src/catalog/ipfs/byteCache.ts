/** What an entry costs besides its bytes, so that many small ones count as well. About right is enough. */
const ENTRY_BYTES = 256

export type ByteCache = {
  get(key: string): Uint8Array | undefined
  set(key: string, bytes: Uint8Array): void
  delete(key: string): void
}

/** Bytes in memory; past `maxBytes` those that were used longest ago go. */
export function createByteCache(maxBytes: number): ByteCache {
  // A Map gives its keys in the order they were set: the first one is the one to go.
  const entries = new Map<string, Uint8Array>()
  let held = 0
  const remove = (key: string) => {
    const bytes = entries.get(key)
    if (!bytes) return
    entries.delete(key)
    held -= bytes.length + ENTRY_BYTES
  }
  return {
    get(key) {
      const bytes = entries.get(key)
      if (!bytes) return undefined
      entries.delete(key)
      entries.set(key, bytes)
      return bytes
    },
    set(key, bytes) {
      remove(key)
      entries.set(key, bytes)
      held += bytes.length + ENTRY_BYTES
      for (const oldest of entries.keys()) {
        if (held <= maxBytes) break
        remove(oldest)
      }
    },
    delete: remove,
  }
}
