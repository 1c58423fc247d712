import {
  CanonicalJsonError,
  canonicalize,
  isJsonObject,
  type JsonObject,
  parseStrictJsonBytes,
  refusesToSign,
} from '@market/contracts/canonicalJson'
import { checkLinkShape, LINK_CONTEXT, linkPreimage } from '@market/contracts/link'
import { safeMessageHash } from '@market/contracts/safeMessage'
import { InvalidError } from '@market/kit/errors'
import { refuseDense } from './density.ts'
import { InvalidRequestError, UnsupportedShapeError } from './errors.ts'

export type Canonical = {
  /** RFC 8785 text without the top-level signature. */
  text: string
  /** Of a link: what names it and what an account without code signs. */
  linkKeccak: string | undefined
  /** What the owners of the Safe sign. */
  safeHash: string | undefined
}

/**
 * The text that is signed (catalog.md 2.1, 5.1). Any JSON object has one; a link is held to the full shape and to the write
 * rule first, so that what comes back can be signed, pinned and listed. Its own signature may still be empty or absent.
 * @param safe the Safe that will sign, if one will; `chainId` is its chain, a link's own by default
 */
export function canonicalizeDocument(
  bytes: Uint8Array,
  safe: { address: string; chainId: number | undefined; defaultChainId: number } | undefined,
): Canonical {
  refuseDense(bytes)
  const document = parseObject(bytes)
  const link: JsonObject | undefined = isLink(document)
    ? { ...document, signature: document.signature ?? '' }
    : undefined
  const linkKeccak = link && checkLink(link)
  const { signature: _signature, ...unsigned } = document
  const text = link ? linkPreimage(link) : canonicalize(unsigned)
  return { text, linkKeccak, safeHash: safe && hashForSafe(text, safe, link?.chainId as number | undefined) }
}

function parseObject(bytes: Uint8Array): JsonObject {
  try {
    const root = parseStrictJsonBytes(bytes)
    if (isJsonObject(root)) return root
  } catch (error) {
    if (!(error instanceof CanonicalJsonError)) throw error
    throw new InvalidError('invalid_json', 'Invalid JSON', { detail: error.message })
  }
  throw new InvalidError('invalid_json', 'Invalid JSON', { detail: 'The root is not an object' })
}

function isLink(document: JsonObject): boolean {
  const context = document['@context']
  const contexts = Array.isArray(context) ? context : [context]
  return document['@type'] === 'CustomDataLink' || contexts.includes(LINK_CONTEXT)
}

function checkLink(link: JsonObject): string {
  // Any chain and any time will do: this is about the form alone.
  const chainId = link.chainId as number
  const signedAt = link.signedAt as number
  const shaped = checkLinkShape(link, { chainId, window: { start: signedAt, end: signedAt } })
  if (!shaped.ok) {
    throw new UnsupportedShapeError('unsupported_shape', { detail: `The link is malformed: ${shaped.reason}` })
  }
  const { signature: _signature, ...unsigned } = link
  const refusal = refusesToSign(unsigned)
  if (refusal) throw new UnsupportedShapeError('unsafe_to_sign', { detail: `The link must not be signed: ${refusal}` })
  return shaped.digest
}

function hashForSafe(
  text: string,
  { address, chainId, defaultChainId }: { address: string; chainId: number | undefined; defaultChainId: number },
  linkChainId: number | undefined,
): string {
  if (linkChainId !== undefined && chainId !== undefined && chainId !== linkChainId) {
    throw new InvalidRequestError('invalid_chain', `chainId is ${chainId}, and the link is for ${linkChainId}`)
  }
  const chain = chainId ?? linkChainId ?? defaultChainId
  return safeMessageHash(chain, address, new TextEncoder().encode(text))
}
