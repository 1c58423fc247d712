import type { JsonObject, JsonValue } from '@market/contracts/canonicalJson'
import { skuOfLinkName } from '@market/contracts/catalogDocuments'
import { type CustomDataLink, checkLinkShape, checkSignedLink, FUTURE_SKEW_SECONDS } from '@market/contracts/link'
import type { MarketContext } from '../context.ts'
import type { SignatureVerdict } from './linkSignatures.ts'

/** A link as the index keeps it: where it stands, what was found out about it, and of the link what resolution needs. */
export type LinkRow = {
  chunk_seq: number
  index_in_chunk: number
  /** Null = passed checks 1 to 10 of catalog.md 2.8. `UNVERIFIED` = the chain could not be asked. */
  code: string | null
  reason: string | null
  /** Who vouches for a signature's verdict. A contract may change its mind, and an account without code may get code. */
  account: 'none' | 'contract' | null
  verdict_at: Date
  verdict_block: string | null
  name: string | null
  sku: string | null
  payload_cid: string | null
  signer: string | null
  signed_at: number | null
  nonce: string | null
  link_keccak: string | null
  signature: string | null
}

export type Owner = { avatar: string; signingKeys: JsonObject | null }

/** All of time: windows are applied when somebody asks, so that the verdict of a link holds for every window. */
export const ALWAYS = { start: 0, end: Number.MAX_SAFE_INTEGER - FUTURE_SKEW_SECONDS }
const LONGEST_NAME = 200
const SIGNATURE = /^0x[0-9a-fA-F]{0,4096}$/
const BY_AUTHORITY = new Set(['SIGNER_NOT_OWNER', 'SIGNING_KEY'])

/** Verdicts of earlier passes and of this one so far, by `verdictKey`. */
export type KnownVerdicts = Map<string, LinkRow>
export const verdictKey = (row: Pick<LinkRow, 'link_keccak' | 'signature'>) => `${row.link_keccak} ${row.signature}`

/** As many as the chain is asked about at once; of keys that is 8 ms of work, during which no request is answered. */
const LINKS_AT_ONCE = 32

/** Checks the links of one chunk, whose position its caller knows. Each stands alone: what is wrong with one never touches another (W4). */
export async function verifyChunk(
  ctx: MarketContext,
  owner: Owner,
  links: JsonValue[],
  known: KnownVerdicts,
): Promise<LinkRow[]> {
  const rows: LinkRow[] = []
  for (let i = 0; i < links.length; i += LINKS_AT_ONCE) {
    const batch = links.slice(i, i + LINKS_AT_ONCE)
    const verified = batch.map((stored, n) =>
      verifyLink(ctx, owner, stored, { chunk_seq: 0, index_in_chunk: i + n }, known),
    )
    rows.push(...(await Promise.all(verified)))
    await new Promise((resolve) => setImmediate(resolve))
  }
  return rows
}

/** Checks 1 to 10 for one stored link; a verdict that is known already isn't worked out again. */
async function verifyLink(
  ctx: MarketContext,
  owner: Owner,
  stored: JsonValue,
  place: Pick<LinkRow, 'chunk_seq' | 'index_in_chunk'>,
  known: KnownVerdicts,
): Promise<LinkRow> {
  const empty = {
    ...place,
    code: null,
    reason: null,
    account: null,
    verdict_at: ctx.now(),
    verdict_block: null,
    name: null,
    sku: null,
    payload_cid: null,
    signer: null,
    signed_at: null,
    nonce: null,
    link_keccak: null,
    signature: null,
  }
  const shaped = checkLinkShape(stored, { chainId: ctx.config.CHAIN_ID, window: ALWAYS })
  if (!shaped.ok) {
    const { name, signedAt } = (stored ?? {}) as Partial<CustomDataLink>
    const wellFormed = shaped.code !== 'SHAPE' && shaped.code !== 'ENVELOPE'
    return {
      ...empty,
      code: shaped.code,
      reason: shaped.reason,
      ...(wellFormed ? { name: printable(name!), signed_at: signedAt! } : {}),
    }
  }
  const { link, digest } = shaped
  const row: LinkRow = {
    ...empty,
    name: printable(link.name),
    sku: skuOfLinkName(link.name) ?? null,
    payload_cid: link.cid,
    signer: link.signerAddress.toLowerCase(),
    signed_at: link.signedAt,
    nonce: link.nonce,
    link_keccak: digest,
    signature: SIGNATURE.test(link.signature) ? link.signature : null,
  }
  const earlier = row.signature === null ? undefined : known.get(verdictKey(row))
  if (earlier && earlier.code !== 'UNVERIFIED') return { ...earlier, ...place }
  const judged = judge(ctx, owner, row, link, await ctx.signatures.check(link, digest))
  if (judged.signature !== null) known.set(verdictKey(judged), judged)
  return judged
}

/** The row with a new answer about its signature. An answer that is not there yet leaves an earlier one as it is. */
export function judge(
  ctx: MarketContext,
  owner: Owner,
  row: LinkRow,
  link: CustomDataLink,
  verdict: SignatureVerdict,
): LinkRow {
  if (verdict.kind === 'unknown') {
    if (row.account !== null) return row
    return { ...row, code: 'UNVERIFIED', reason: 'The chain could not be asked about the signature' }
  }
  const asked = { ...row, verdict_at: ctx.now(), code: null, reason: null }
  if (verdict.kind === 'invalid') {
    return { ...asked, account: verdict.account, code: verdict.code, reason: verdict.reason }
  }
  const fault = checkSignedLink(link, authorityOf(ctx, owner))
  return {
    ...asked,
    account: verdict.block === null ? 'none' : 'contract',
    verdict_block: verdict.block === null ? null : String(verdict.block),
    code: fault?.code ?? null,
    reason: fault?.reason ?? null,
  }
}

/** Check 10 again, after the owner changed the keys in its profile. The signature itself needs no second look. */
export function reauthorize(ctx: MarketContext, owner: Owner, row: LinkRow): LinkRow {
  if (row.code !== null && !BY_AUTHORITY.has(row.code)) return row
  if (row.sku === null || row.signer === null) return row
  const fault = checkSignedLink(
    { name: `product/${row.sku}`, signerAddress: row.signer, signedAt: row.signed_at } as CustomDataLink,
    authorityOf(ctx, owner),
  )
  return { ...row, code: fault?.code ?? null, reason: fault?.reason ?? null }
}

const authorityOf = (ctx: MarketContext, { avatar, signingKeys }: Owner) => ({
  owner: avatar,
  ...(signingKeys ? { signingKeys } : {}),
  holdToSigningKeys: ctx.config.CATALOG_HOLD_TO_SIGNING_KEYS,
})

/** Postgres can't hold U+0000, and a name may be megabytes long. */
const printable = (text: string) => text.slice(0, LONGEST_NAME).replaceAll('\u0000', '\uFFFD')
