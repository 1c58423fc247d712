import { canonicalize, CanonicalJsonError, isJsonObject, type JsonValue } from '@market/contracts/canonicalJson'
import { isSku, MARKET_CONTEXT, parseProduct, type Product, storedDocument } from '@market/contracts/catalogDocuments'
import { cidV0, MAX_OBJECT_BYTES } from '@market/contracts/cid'
import { assertGoing, breather, type Run } from './concurrency.ts'
import type { PublishOptions, RefusedProduct } from './ports.ts'

/** `index`: where it stands in `products`. */
export type Payload = { sku: string; cid: string; bytes: Uint8Array; media: string[]; index?: number }
export type Prepared = {
  wanted: Map<string, Payload>
  removed: Set<string>
  refused: RefusedProduct[]
  refusedSkus: Set<string>
}

/** Every product checked and turned into its bytes: canonical, so that one product has one CID whoever wrote it down. */
export async function preparePayloads(
  options: Pick<PublishOptions, 'products' | 'remove'>,
  run: Run,
): Promise<Prepared> {
  const wanted = new Map<string, Payload>()
  const removed = new Set<string>()
  const refused: RefusedProduct[] = []
  const refusedSkus = new Set<string>()
  const breathe = breather()
  for (const [index, value] of options.products.entries()) {
    assertGoing(run)
    await breathe()
    const prepared = payloadOf(value)
    const claimed = isJsonObject(value) && isSku(value.sku) ? value.sku : undefined
    const repeated = claimed !== undefined && (wanted.has(claimed) || refusedSkus.has(claimed))
    if (prepared.ok && !repeated) {
      wanted.set(prepared.payload.sku, { ...prepared.payload, index })
      continue
    }
    const { at, rule } = prepared.ok ? { at: 'sku', rule: 'only once' } : prepared
    refused.push({ index, ...(claimed !== undefined && { sku: claimed }), at, rule })
    if (claimed !== undefined) refusedSkus.add(claimed)
  }
  for (const sku of options.remove ?? []) {
    if (!isSku(sku)) refused.push({ sku, at: 'sku', rule: 'pattern' })
    else if (wanted.has(sku) || refusedSkus.has(sku))
      refused.push({ sku, at: 'sku', rule: 'published or removed, not both' })
    else removed.add(sku)
  }
  return { wanted, removed, refused, refusedSkus }
}

type PreparedPayload = { ok: true; payload: Payload } | { ok: false; at: string; rule: string }

function payloadOf(value: unknown): PreparedPayload {
  let text: string
  try {
    // The detour drops members that are undefined, which have no canonical form.
    text = canonicalize(JSON.parse(JSON.stringify(value)) as JsonValue)
  } catch (error) {
    return { ok: false, at: '$', rule: error instanceof CanonicalJsonError ? error.message : 'JSON' }
  }
  const parsed = parseProduct(JSON.parse(text))
  if (!parsed.ok) return parsed
  const bytes = new TextEncoder().encode(text)
  if (bytes.length > MAX_OBJECT_BYTES) return { ok: false, at: '$', rule: `at most ${MAX_OBJECT_BYTES} bytes` }
  const { product } = parsed
  return { ok: true, payload: { sku: product.sku, cid: cidV0(bytes), bytes, media: mediaOf(product) } }
}

function mediaOf({ image }: Product): string[] {
  const uris = (image ?? []).map((one) => (typeof one === 'string' ? one : (one.contentUrl ?? '')))
  return uris.flatMap((uri) => /^ipfs:\/\/([^/?#]+)$/i.exec(uri)?.[1] ?? [])
}

export function tombstoneOf(sku: string, at: number): Payload {
  const { cid, bytes } = storedDocument({ '@context': MARKET_CONTEXT, '@type': 'Tombstone', sku, at })
  return { sku, cid, bytes, media: [] }
}
