import { cidV0, isCidV0 } from '@market/contracts/cid'

/** Where signed documents live: content by CID. Two implementations: the embedded store and Kubo. */
export type Ipfs = {
  readonly kind: 'embedded' | 'kubo'
  /** Stores the bytes durably and pinned; gives their CIDv0. */
  put(bytes: Uint8Array): Promise<string>
  /**
   * The bytes of a CID, checked against it whoever sent them.
   * Throws `IpfsUnavailableError` when they can't be had now, `IpfsMismatchError` when they are not what the CID says.
   */
  get(cid: string): Promise<Uint8Array>
  /** Resolves when the store answers. */
  check(): Promise<void>
}

export class IpfsUnavailableError extends Error {}
export class IpfsMismatchError extends Error {}

/** Where bytes come from, before anybody has checked them. */
export type BlockSource = Omit<Ipfs, 'get'> & { read(cid: string): Promise<Uint8Array> }

/** The one place that believes nobody: bytes that don't hash to their CID never get past it (catalog.md 3.5). */
export function verified(source: BlockSource): Ipfs {
  return {
    kind: source.kind,
    check: () => source.check(),
    async put(bytes) {
      const cid = await source.put(bytes)
      const expected = cidV0(bytes)
      if (cid !== expected) throw new IpfsMismatchError(`the store named ${cid} what is ${expected}`)
      return cid
    },
    async get(cid) {
      if (!isCidV0(cid)) throw new IpfsMismatchError('not a CIDv0')
      const bytes = await source.read(cid)
      if (cidV0(bytes) !== cid) throw new IpfsMismatchError(`bytes do not match ${cid}`)
      return bytes
    },
  }
}
