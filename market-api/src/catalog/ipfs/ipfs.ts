/** Where signed documents live: content by CID. Two implementations: the embedded store and Kubo. */
export type Ipfs = {
  readonly kind: 'embedded' | 'kubo'
  /** Stores the bytes durably and pinned; gives their CIDv0. Throws `IpfsTooLargeError`, `IpfsUnavailableError`. */
  put(bytes: Uint8Array): Promise<string>
  /**
   * The bytes of a CID (see `parseCid`), checked against it whoever sent them.
   * @param options.timeoutMs how long this caller waits; the read goes on behind it, so that a slow object is quick next time
   * Throws `IpfsUnavailableError`, `IpfsMismatchError`, `IpfsTooLargeError`.
   */
  get(cid: string, options?: { timeoutMs?: number }): Promise<Uint8Array>
  /** The store may forget these bytes. Nothing happens when it doesn't keep them. */
  unpin(cid: string): Promise<void>
  /** Resolves when the store answers; else throws `IpfsUnavailableError`. */
  check(): Promise<void>
}

export type Unavailability = 'missing' | 'timeout' | 'unreachable'

/** Not to be had just now; it may be different next time. */
export class IpfsUnavailableError extends Error {
  readonly reason: Unavailability

  constructor(reason: Unavailability, message: string, options?: ErrorOptions) {
    super(message, options)
    this.reason = reason
  }
}

/** What there is isn't what the CID says, or the CID names no file. */
export class IpfsMismatchError extends Error {}

/** Above 8 MiB, and so for ever. */
export class IpfsTooLargeError extends Error {}
