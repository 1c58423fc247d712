import type { JsonObject } from '@market/contracts/canonicalJson'
import type { CustomDataLink, LinkDraft } from '@market/contracts/link'
import type { CheckSignature } from '@market/contracts/namespaceWalk'

/** Where documents and pictures go. */
export type CatalogStorage = {
  /** The bytes of a CID, already checked against it. Throws when they can't be had. */
  get(cid: string): Promise<Uint8Array>
  /** Stores and pins, and gives the CIDv0 when that is certain. `mediaType` comes with pictures, not with documents. */
  put(bytes: Uint8Array, mediaType?: string): Promise<string>
  /** Whether it is stored and pinned. Where it is known, what got lost of unchanged products is put back. */
  has?(cid: string): Promise<boolean>
}

export type CatalogRegistry = {
  /** The avatar's metadata digest now, `0x` + 64 hex; all zero = no profile. */
  readDigest(avatar: string): Promise<string>
  /** Looks again and writes only if the registry still holds `expected`; resolves when the write is final enough to rely on. */
  writeDigest(digest: string, expected: string): Promise<'written' | 'moved'>
}

/** Signs as the avatar, or as a key its profile lists. Asked for one link after another. */
export type CatalogSigner = { address: string; sign(draft: LinkDraft): CustomDataLink | Promise<CustomDataLink> }

/** A picture that a product names as `ipfs://` + CID and that may have to be pinned. */
export type CatalogMedia = { mediaType: string; read(): Promise<Uint8Array> }

/** What survives of a run that was cut off, so that the next one neither pins nor signs again. */
export type PublishJournal = {
  isPinned(cid: string): boolean
  pinned(cid: string): void
  /** Links signed for a name earlier on, in any order. One that can't be used any more is passed over. */
  linksOf(name: string): readonly CustomDataLink[]
  signed(link: CustomDataLink): void
}

/** `total` is 0 while it isn't known. A product takes two steps: its payload pinned, its link signed. */
export type PublishProgress = {
  phase: 'reading' | 'products' | 'namespace' | 'registry'
  done: number
  total: number
}

export type PublishOptions = {
  /** schema.org Products as they are to be listed (catalog.md 1.6). Members that are undefined count as absent. */
  products: readonly unknown[]
  /** Skus to take down. */
  remove?: readonly string[]
  /** Takes down every sku that `products` does not name. */
  prune?: boolean
  operator: string
  chainId: number
  signer: CatalogSigner
  /** Whose namespace it is, when the signer is but a key listed in the avatar's profile. */
  avatar?: string
  storage: CatalogStorage
  registry: CatalogRegistry
  media?: ReadonlyMap<string, CatalogMedia>
  journal?: PublishJournal
  /** Members of the profile if there is none yet: name, description and so on. */
  newProfile?: JsonObject
  /** Keys to list in the profile, by fingerprint (catalog.md 2.6), unless it lists them already. */
  signingKeys?: { [fingerprint: string]: JsonObject }
  /** `stop` (default): one refused product and nothing is published. `skip`: the others are. */
  onRefused?: 'stop' | 'skip'
  /** Tells what would change; nothing is pinned, signed or written. */
  dryRun?: boolean
  /** False: everything is pinned and signed, and the digest is left to somebody else to write, such as a Safe. */
  register?: boolean
  /** Pins unchanged products again too, for a storage that lost some and can't say which. */
  repin?: boolean
  /** Begins anew where what is published can't be read. All that hung on it is lost. */
  startOver?: boolean
  /** Verdict on signatures, on chain for a contract account; the default knows keys only. Throws when it can't tell. */
  checkSignature?: CheckSignature
  onProgress?: (progress: PublishProgress) => void
  signal?: AbortSignal
  /** Unix time. */
  nowSeconds?: () => number
  /** 16 bytes as lower-case 0x hex, never the same twice. */
  nonce?: () => string
  sleep?: (ms: number) => Promise<void>
}

export type SkuOutcome = {
  sku: string
  outcome: 'created' | 'updated' | 'unchanged' | 'removed'
  /** Of the payload: the product, or the tombstone of one that is removed. Absent where there is none, or not yet. */
  cid?: string
}

export type RefusedProduct = {
  /** Position in `products`; undefined for a sku of `remove` or one that is pruned. */
  index?: number
  sku?: string
  /** Path in the product such as `offers[0].price`. */
  at: string
  rule: string
}

export type PublishResult = {
  /** `pinned`: ready, and left to somebody else to register. */
  status: 'published' | 'pinned' | 'unchanged' | 'dry-run' | 'refused'
  /** In the order of `products`, then what is removed. */
  outcomes: SkuOutcome[]
  refused: RefusedProduct[]
  counts: Record<SkuOutcome['outcome'] | 'refused', number>
  /** What the registry held when the run began, or began again. */
  previousDigest?: string
  /** The new profile and what the registry is to hold. */
  profileCid?: string
  digest?: string
}
