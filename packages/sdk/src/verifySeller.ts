import { CanonicalJsonError, type JsonValue, parseStrictJsonBytes } from '@market/contracts/canonicalJson'
import {
  type DocumentFault,
  namespaceEntry,
  parseNameIndexDoc,
  parseNamespaceChunk,
  parseProfile,
  productLinkName,
} from '@market/contracts/catalogDocuments'
import { parseChunkBytes } from '@market/contracts/chunkText'
import { cidV0, isCidV0 } from '@market/contracts/cid'
import { verifyEoaSignature } from '@market/contracts/link'
import {
  type CheckSignature,
  MAX_CHUNKS,
  type PayloadRead,
  resolveNamespace,
  type WalkedChunk,
  type WalkError,
  type Winner,
} from '@market/contracts/namespaceWalk'
import { breather } from './publish/concurrency.ts'
import { type ReadDocument, VerificationError, type VerifiedProduct } from './verify.ts'

export type SellerToVerify = {
  seller: string
  operator: string
  chainId: number
  /** What the name registry holds for the seller, as a CID: ask the chain yourself (`profileCidOfDigest`). */
  profileCid: string
  read: ReadDocument
  /** Only these; a namespace of thousands takes its time. */
  skus?: readonly string[]
  /** Verdict on signatures, on chain for a contract account; without it those of plain keys alone are good. */
  checkSignature?: CheckSignature
  /** Unix time. */
  nowSeconds?: number
}

/** What a seller has published for an operator, newest first, and what of it could not be read or is no good. */
export type SellerCatalog = { products: VerifiedProduct[]; errors: WalkError[] }

/**
 * What a seller sells, by the seller's own signatures: profile → index → chunks → links → products, as the market itself reads
 * them. `VerificationError` `not_signed` when the way there is broken.
 */
export async function verifySeller(options: SellerToVerify): Promise<SellerCatalog> {
  const { chainId, operator, profileCid, skus, checkSignature = verifyEoaSignature } = options
  const seller = options.seller.toLowerCase()
  const read = checked(options.read)
  const { profile } = await readAs('profile', profileCid, read, parseProfile)
  const { index } = await readAs('index', String(namespaceEntry(profile, operator)), read, parseNameIndexDoc)
  const chunks: WalkedChunk[] = []
  let next: string | null | undefined = index.head
  while (next && chunks.length < MAX_CHUNKS) {
    const cid: string = next
    const { chunk } = await readAs('chunk', cid, read, parseNamespaceChunk, parseChunkBytes)
    chunks.push({ cid, links: chunk.links })
    next = chunk.prev
  }

  const readPayload = async (cid: string): Promise<PayloadRead> => {
    try {
      return { kind: 'bytes', value: await read(cid) }
    } catch (error) {
      return { kind: 'unavailable', reason: (error as Error).message }
    }
  }
  const breathe = breather()
  const resolved = await resolveNamespace(
    skus ? only(skus, chunks) : chunks,
    {
      avatar: seller,
      chainId,
      window: { start: 0, end: options.nowSeconds ?? Math.floor(Date.now() / 1000) },
      ...(profile.signingKeys !== undefined && { signingKeys: profile.signingKeys as JsonValue }),
    },
    readPayload,
    {
      checkSignature: async (link, digest) => {
        await breathe()
        return checkSignature(link, digest)
      },
    },
  )
  const wanted = (sku: string | undefined) => !skus || (sku !== undefined && skus.includes(sku))
  return {
    products: resolved.winners.filter(({ sku }) => wanted(sku)).map((winner) => verifiedOf(seller, winner)),
    errors: resolved.errors.filter(({ sku }) => wanted(sku)),
  }
}

/** Holds a product to what its seller signed. `VerificationError` `not_signed` when that is another one, or none any more. */
export function verifyListed(product: VerifiedProduct, { products }: SellerCatalog): void {
  const { seller, sku, cid, linkKeccak } = product
  const listed = products.find((one) => one.seller === seller && one.sku === sku)
  if (listed?.cid === cid && listed.linkKeccak === linkKeccak) return
  const differences = [
    { at: '/productCid', expected: listed?.cid, found: cid },
    { at: '/linkKeccak', expected: listed?.linkKeccak, found: linkKeccak },
  ]
  throw new VerificationError('not_signed', `${seller} does not sell ${sku} as it is shown`, differences)
}

const verifiedOf = (seller: string, { sku, link, linkKeccak, product }: Winner): VerifiedProduct => ({
  seller,
  sku,
  cid: link.cid,
  linkKeccak,
  product,
})

/** The links that name one of these skus, or share a nonce with one that does: of those only the newest counts. */
function only(skus: readonly string[], chunks: WalkedChunk[]): WalkedChunk[] {
  const names = new Set<unknown>(skus.map(productLinkName))
  const member = (link: unknown, name: string) => (link as Record<string, unknown> | null)?.[name]
  const named = chunks.flatMap(({ links }) => links.filter((link) => names.has(member(link, 'name'))))
  const nonces = new Set(named.map((link) => member(link, 'nonce')))
  // What stands elsewhere keeps its place: the order of links goes by it.
  return chunks.map(({ cid, links }) => ({
    cid,
    links: links.map((link) => (nonces.has(member(link, 'nonce')) ? link : undefined)),
  }))
}

const checked =
  (read: ReadDocument): ReadDocument =>
  async (cid) => {
    if (!isCidV0(cid)) throw new VerificationError('not_signed', `${cid} names no document`)
    const bytes = await read(cid)
    if (cidV0(bytes) !== cid) throw new VerificationError('cid_mismatch', `these bytes are not ${cid}`)
    return bytes
  }

async function readAs<T>(
  what: string,
  cid: string,
  read: ReadDocument,
  parse: (value: JsonValue) => ({ ok: true } & T) | DocumentFault,
  readJson = parseStrictJsonBytes,
): Promise<T> {
  const bytes = await read(cid)
  const refuse = (why: string) => new VerificationError('not_signed', `the ${what} ${cid} can't be read: ${why}`)
  try {
    const parsed = parse(readJson(bytes))
    if (parsed.ok) return parsed
    throw refuse(`${parsed.at}: ${parsed.rule}`)
  } catch (error) {
    if (error instanceof CanonicalJsonError) throw refuse(error.message)
    throw error
  }
}
