import { CanonicalJsonError, isJsonObject, type JsonValue, parseStrictJsonBytes } from '@market/contracts/canonicalJson'
import {
  type DocumentFault,
  namespaceEntry,
  parseNameIndexDoc,
  parseNamespaceChunk,
  parseProfile,
  payToOf,
  type Product,
  type Profile,
  productLinkName,
} from '@market/contracts/catalogDocuments'
import { parseChunkBytes } from '@market/contracts/chunkText'
import { isCidV0, parseCid, profileCidOfDigest } from '@market/contracts/cid'
import { checkLinkShape, checkSignedLink, type CustomDataLink } from '@market/contracts/link'
import { sniffMedia } from '@market/contracts/media'
import {
  type CheckSignature,
  MAX_CHUNKS,
  type NamespaceLink,
  orderLinks,
  type PayloadRead,
  resolveNamespace,
  type Selection,
} from '@market/contracts/namespaceWalk'
import { parsePinDocument } from '@market/contracts/pinDocument'
import type { CatalogStorage } from '@market/sdk/publishCatalog'
import type { Out, VerifyFlags } from './catalog.ts'
import { chainOf, openPlace, openSignatureCheck, readFault, UnverifiedError } from './catalogConnections.ts'
import { explain, LINK_CHECKS } from './catalogFaults.ts'
import { connectRegistry } from './catalogRegistry.ts'
import { address, wholeNumber } from './publishFile.ts'
import { UsageError } from './usageError.ts'

const PREFIX = 'verify'

/** `null`: worth knowing, and nothing wrong. */
type Finding = {
  ok: boolean | null
  what: string
  code?: string
  /** What the code means. */
  because?: string
  detail?: string
  remedy?: string
  sku?: string
  cid?: string
}
type About = { sku?: string | undefined; cid?: string | undefined; detail?: string | undefined }

type Listed = {
  operator: string
  sku: string
  name: string
  price: number
  currency: string
  cid: string
  signedAt: number
}

type Verification = {
  chainId: number
  nowSeconds: number
  read: CatalogStorage['get']
  checkSignature: CheckSignature
  readDigest(avatar: string): Promise<string>
  findings: Finding[]
  products: Listed[]
  removed: { operator: string; sku: string; signedAt: number }[]
  good(what: string, about?: About): void
  note(what: string, about?: About): void
  /** `what` it is about; the code says what is wrong with it. */
  wrong(what: string, code: string, about?: About): void
}

/** `ops catalog verify`: exit code 1 when anything is wrong. */
export async function verifyTarget(target: string, flags: VerifyFlags, out: Out): Promise<void> {
  const chainId = wholeNumber('--chain', flags.chain)
  const operator = flags.operator === undefined ? undefined : address('--operator', flags.operator)
  const owner = flags.owner === undefined ? undefined : address('--owner', flags.owner)
  const isAvatar = /^0x/i.test(target)
  if (!isAvatar && !parseCid(target)) throw new UsageError(`${target} is neither a CID nor an address`)
  const avatar = isAvatar ? address('the avatar', target) : undefined

  const { storage } = await openPlace({ market: flags.market, chainId, readOnly: true })
  const { rpcUrl, registry } = await chainOf()
  const { readDigest } = connectRegistry({ rpcUrl, address: registry, chainId })
  const verification = verify({
    chainId,
    nowSeconds: Math.floor(Date.now() / 1000),
    read: storage.get,
    checkSignature: await openSignatureCheck(rpcUrl, chainId),
    readDigest,
    say: (text) => out.say(PREFIX, text),
  })
  if (avatar === undefined) await verifyDocument(verification, target, owner)
  else await verifyAvatar(verification, avatar, operator)

  const { findings, products, removed } = verification
  const wrong = findings.filter(({ ok }) => ok === false).length
  if (wrong > 0) process.exitCode = 1
  if (out.json()) {
    console.log(JSON.stringify({ ok: wrong === 0, target, findings, ...(isAvatar && { products, removed }) }))
  } else {
    const listed = isAvatar ? `${products.length} product(s) listed, ${removed.length} taken down. ` : ''
    out.say(PREFIX, `${listed}${wrong === 0 ? 'Nothing is wrong.' : `${wrong} thing(s) wrong.`}`)
  }
}

function verify(
  given: Pick<Verification, 'chainId' | 'nowSeconds' | 'read' | 'checkSignature' | 'readDigest'> & {
    say(text: string): void
  },
): Verification {
  const findings: Finding[] = []
  const add = (finding: Finding) => {
    findings.push(Object.fromEntries(Object.entries(finding).filter(([, value]) => value !== undefined)) as Finding)
    const { ok, what, because, detail, remedy } = finding
    const mark = ok === null ? '·' : ok ? '✓' : '✗'
    const text = `${mark} ${what}${because === undefined ? '' : `: ${because}`}${detail === undefined ? '' : ` (${detail})`}`
    // Names and rules come from strangers, and a terminal obeys control characters.
    given.say(text.replaceAll(/\p{Cc}/gu, '\ufffd'))
    if (remedy !== undefined) given.say(`    → ${remedy}`)
  }
  return {
    ...given,
    findings,
    products: [],
    removed: [],
    good: (what, about) => add({ ok: true, what, ...(about as object) }),
    note: (what, about) => add({ ok: null, what, ...(about as object) }),
    wrong(what, code, about) {
      const { text, remedy } = explain(code)
      add({ ok: false, what, code, because: text, ...(about as object), remedy })
    },
  }
}

// ---- One document ----

async function verifyDocument(v: Verification, cid: string, owner: string | undefined): Promise<void> {
  const bytes = await readOr(v, 'the document', cid)
  if (!bytes) return
  v.good(`the store has it: ${bytes.length} bytes, which are what the CID names`)
  if (!isCidV0(cid)) v.note('its CID is of version 1: good for pictures; documents of a catalog are named by version 0')
  const media = sniffMedia(bytes)
  if (media) return v.good(`it is a picture (${media}) and would be pinned as one`)

  const pinnable = parsePinDocument(bytes)
  if (pinnable.ok) v.good(`it is a ${pinnable.type}, and would be pinned`)
  else v.wrong('the document', 'NOT_PINNABLE', { cid, detail: `${pinnable.at}: ${pinnable.rule}` })
  let document: JsonValue
  try {
    document = parseStrictJsonBytes(bytes)
  } catch {
    return
  }
  if (!isJsonObject(document)) return
  const authority = owner === undefined ? undefined : { owner, signingKeys: await signingKeysOf(v, owner) }
  switch (document['@type']) {
    case 'CustomDataLink':
      return verifyLink(v, document, authority)
    case 'NamespaceChunk':
      return verifyChunk(v, cid, document, authority)
    case 'NameIndexDoc':
      return v.note(`its newest chunk is ${String(document.head)}; verify that, or the avatar`)
    case 'Profile':
      return v.note(
        `it has namespaces for ${Object.keys(document.namespaces ?? {}).join(', ') || 'nobody'}; verify the avatar`,
      )
    case 'Product':
      if (pinnable.ok) notePayTo(v, pinnable.document as unknown as Product)
  }
}

type Authority = { owner: string; signingKeys: JsonValue | undefined } | undefined

/** Every check of catalog.md 2.8 that looks at one link, in its order. */
async function verifyLink(v: Verification, stored: JsonValue, authority: Authority): Promise<void> {
  const fault = await linkFault(v, stored, authority)
  for (const [i, { what, codes }] of LINK_CHECKS.entries()) {
    const label = `${i + 1}. ${what}`
    if (fault && codes.includes(fault.code)) {
      v.wrong(label, fault.code, { detail: fault.detail })
      const left = LINK_CHECKS.length - i - 1
      if (left > 0) v.note(`the ${left} check(s) after it were not made`)
      return
    }
    if (i === LINK_CHECKS.length - 1 && authority === undefined)
      v.note(`${label}: name the seller with --owner to have it checked`)
    else v.good(label)
  }
}

async function verifyChunk(v: Verification, cid: string, document: JsonValue, authority: Authority): Promise<void> {
  const parsed = parseNamespaceChunk(document)
  if (!parsed.ok) return v.wrong('the chunk', 'BROKEN_DOCUMENT', { cid, detail: ruleOf(parsed) })
  const { links, prev } = parsed.chunk
  const good: NamespaceLink[] = []
  for (const [indexInChunk, stored] of links.entries()) {
    const label = `link ${indexInChunk} ${nameOf(stored)}`
    const fault = await linkFault(v, stored, authority)
    if (fault) {
      v.wrong(label, fault.code, { detail: fault.detail })
      continue
    }
    const link = stored as unknown as CustomDataLink
    const { digest } = checkLinkShape(link, everyDate(v)) as { digest: string }
    v.good(label, { cid: link.cid, detail: `signed ${dateOf(link.signedAt)} by ${link.signerAddress}` })
    const signer = link.signerAddress.toLowerCase()
    const place = { depth: 0, indexInChunk, avatar: authority?.owner ?? '', chunkCid: cid }
    good.push({ link, signer, signedAt: link.signedAt, linkKeccak: digest, ...place })
  }
  for (const { name, code, indexInChunk } of orderLinks(good).dropped) {
    if (code === 'DUPLICATE_LINK') v.note(`link ${indexInChunk} ${name} stands there twice, which does no harm`)
    else v.wrong(`link ${indexInChunk} ${name}`, code)
  }
  if (authority === undefined) v.note('who may sign in this namespace was not checked: name the seller with --owner')
  v.note(prev ? `the chunk before it is ${prev}` : 'it is the oldest chunk of its namespace')
}

/** The first of checks 1 to 10 that a link fails. */
async function linkFault(
  v: Verification,
  stored: JsonValue,
  authority: Authority,
): Promise<{ code: string; detail: string } | undefined> {
  const shaped = checkLinkShape(stored, { chainId: v.chainId, window: { start: 0, end: v.nowSeconds } })
  if (!shaped.ok) return { code: shaped.code, detail: detailOf(v, stored, shaped.code) ?? shaped.reason }
  const { link, digest } = shaped
  try {
    const signed = await v.checkSignature(link, digest)
    if (!signed.ok) return { code: signed.code, detail: detailOf(v, stored, signed.code) ?? signed.reason }
  } catch (error) {
    if (!(error instanceof UnverifiedError)) throw error
    return { code: 'UNVERIFIED', detail: error.message }
  }
  const { owner, signingKeys } = authority ?? { owner: link.signerAddress, signingKeys: undefined }
  const entitled = checkSignedLink(link, { owner, ...(signingKeys !== undefined && { signingKeys }) })
  return entitled && { code: entitled.code, detail: detailOf(v, stored, entitled.code) ?? entitled.reason }
}

const everyDate = (v: Verification) => ({ chainId: v.chainId, window: { start: 0, end: Number.MAX_SAFE_INTEGER } })

/** What of the link itself helps to understand a code. */
function detailOf(v: Verification, stored: JsonValue, code: string): string | undefined {
  if (!isJsonObject(stored)) return undefined
  const { signedAt, chainId, signerAddress } = stored
  if (code === 'WINDOW') return `dated ${dateOf(Number(signedAt))}, now it is ${dateOf(v.nowSeconds)}`
  if (code === 'CHAIN') return `for chain ${String(chainId)}, not ${v.chainId}`
  if (code === 'SIGNER' || code === 'SIGNER_NOT_OWNER' || code === 'SIGNING_KEY')
    return `it names ${String(signerAddress)}`
  return undefined
}

// ---- A whole catalog ----

async function verifyAvatar(v: Verification, avatar: string, operator: string | undefined): Promise<void> {
  const profileCid = profileCidOfDigest(await v.readDigest(avatar))
  if (!profileCid) return v.wrong(`registry: ${avatar}`, 'NO_PROFILE')
  v.good('registry: it names a profile', { cid: profileCid })
  const profile = (await readParsed(v, 'profile', profileCid, parseProfile))?.profile
  if (!profile) return
  v.good('profile: it can be read', { cid: profileCid })
  for (const key of Object.keys(profile.namespaces ?? {})) {
    const isWanted = operator === undefined || key.toLowerCase() === operator
    if (isWanted && key !== key.toLowerCase()) v.wrong(`profile: ${key}`, 'NAMESPACE_KEY')
  }
  const operators = operator === undefined ? Object.keys(profile.namespaces ?? {}) : [operator]
  if (operators.length === 0) v.wrong('profile: namespaces', 'NO_NAMESPACE')
  for (const one of operators.filter((key) => key === key.toLowerCase())) await verifyNamespace(v, avatar, profile, one)
}

async function verifyNamespace(v: Verification, avatar: string, profile: Profile, operator: string): Promise<void> {
  const entry = namespaceEntry(profile, operator)
  if (entry === undefined) return v.wrong(`namespace ${operator}`, 'NO_NAMESPACE')
  const indexCid = String(entry)
  const index = (await readParsed(v, `index of ${operator}`, indexCid, parseNameIndexDoc))?.index
  if (!index) return
  v.good(`index of ${operator}: ${Object.keys(index.entries).length} name(s)`, { cid: indexCid })

  const chunks: { cid: string; links: JsonValue[] }[] = []
  let next: string | null | undefined = index.head
  while (next) {
    if (chunks.length === MAX_CHUNKS) {
      v.wrong('chunks', 'TOO_MANY_CHUNKS', { cid: next })
      break
    }
    const cid: string = next
    const chunk = (await readParsed(v, `chunk ${chunks.length}`, cid, parseNamespaceChunk, parseChunkBytes))?.chunk
    if (!chunk) break
    chunks.push({ cid, links: chunk.links })
    next = chunk.prev
  }
  const links = chunks.reduce((sum, chunk) => sum + chunk.links.length, 0)
  v.good(`chunks: ${chunks.length} with ${links} link(s)`)

  const unverified = new Set<string>()
  const checkSignature: CheckSignature = async (link, digest) => {
    try {
      return await v.checkSignature(link, digest)
    } catch (error) {
      if (!(error instanceof UnverifiedError)) throw error
      unverified.add(digest)
      return { ok: false, code: 'SIGNER', reason: error.message }
    }
  }
  const damaged = new Set<string>()
  const readPayload = async (cid: string): Promise<PayloadRead> => {
    try {
      return { kind: 'bytes', value: await v.read(cid) }
    } catch (error) {
      const { code, detail } = readFault(error)
      if (code === 'TOO_LARGE') return { kind: 'bad', reason: detail }
      if (code === 'CID_MISMATCH') damaged.add(cid)
      return { kind: 'unavailable', reason: detail }
    }
  }
  const window = { start: 0, end: v.nowSeconds }
  const scope = { avatar, chainId: v.chainId, window, signingKeys: profile.signingKeys as JsonValue }
  const selection = await resolveNamespace(chunks, scope, readPayload, { checkSignature })
  tellLinks(v, chunks, selection, unverified)
  for (const { cid, code, reason, sku } of selection.errors.filter(({ stage }) => stage === 'payload')) {
    v.wrong(`product ${sku}`, damaged.has(cid) ? 'CID_MISMATCH' : code, { sku, cid, detail: reason })
  }
  for (const { sku, link, signedAt, product, chunkCid } of selection.winners) {
    const [offer] = product.offers
    const { price, priceCurrency: currency } = offer!
    v.products.push({ operator, sku, name: product.name, price, currency, cid: link.cid, signedAt })
    v.good(`product ${sku}: ${product.name}, ${price} ${currency}`, {
      sku,
      cid: link.cid,
      detail: `since ${dateOf(signedAt)}`,
    })
    notePayTo(v, product)
    const indexed = index.entries[productLinkName(sku)]
    if (indexed !== chunkCid)
      v.note(`product ${sku}: the index points elsewhere than the chain, which older carts go by`, { sku })
  }
  for (const { sku, signedAt } of selection.tombstoned) {
    v.removed.push({ operator, sku, signedAt })
    v.note(`product ${sku}: taken down ${dateOf(signedAt)}`, { sku })
  }
}

/** Links that don't count. One that a newer link has replaced is history, and nothing needs to be done about it. */
function tellLinks(
  v: Verification,
  chunks: { cid: string; links: JsonValue[] }[],
  { winners, tombstoned, dropped, errors }: Selection,
  unverified: ReadonlySet<string>,
): void {
  const newest = new Map([...winners, ...tombstoned].map(({ link, signedAt }) => [link.name, signedAt]))
  const places = new Map(chunks.map((chunk, depth) => [chunk.cid, { depth, links: chunk.links }]))
  const linkErrors = errors.filter(({ stage }) => stage !== 'payload')
  const all = [
    ...linkErrors.map(({ cid, index, code, reason }) => ({ chunkCid: cid, indexInChunk: index, code, reason })),
    ...dropped.map(({ chunkCid, indexInChunk, code }) => ({ chunkCid, indexInChunk, code, reason: undefined })),
  ]
  for (const { chunkCid, indexInChunk, code, reason } of all) {
    const { depth, links } = places.get(chunkCid)!
    const stored = links[indexInChunk]!
    const name = nameOf(stored)
    const shaped = checkLinkShape(stored, everyDate(v))
    const said = shaped.ok && unverified.has(shaped.digest) ? 'UNVERIFIED' : code
    const label = `link ${name}`
    const detail = [detailOf(v, stored, said) ?? reason, `place ${indexInChunk} of chunk ${depth}`]
      .filter(Boolean)
      .join(', ')
    const replacedAt = newest.get(name)
    const isReplaced = replacedAt !== undefined && !(isJsonObject(stored) && Number(stored.signedAt) > replacedAt)
    const isHarmless = said === 'DUPLICATE_LINK' || said === 'NOT_A_PRODUCT_NAME' || said === 'CHAIN'
    if (isReplaced && !isHarmless)
      v.note(`${label}: ${explain(said).text}; a newer link has replaced it`, { detail, cid: chunkCid })
    else if (isHarmless) v.note(`${label}: ${explain(said).text}`, { detail, cid: chunkCid })
    else v.wrong(label, said, { detail, cid: chunkCid })
  }
}

function notePayTo(v: Verification, { sku, offers }: Product): void {
  const [offer] = offers
  if (offer && !payToOf(offer))
    v.note(`product ${sku}: it names nobody to pay, so it is listed and can't be bought`, { sku })
}

async function signingKeysOf(v: Verification, avatar: string): Promise<JsonValue | undefined> {
  const profileCid = profileCidOfDigest(await v.readDigest(avatar))
  if (!profileCid) return undefined
  const profile = (await readParsed(v, `profile of ${avatar}`, profileCid, parseProfile))?.profile
  return profile?.signingKeys as JsonValue | undefined
}

// ---- Reading ----

async function readOr(v: Verification, what: string, cid: string): Promise<Uint8Array | undefined> {
  try {
    return await v.read(cid)
  } catch (error) {
    const { code, detail } = readFault(error)
    v.wrong(what, code, { cid, detail })
    return undefined
  }
}

async function readParsed<T>(
  v: Verification,
  what: string,
  cid: string,
  parse: (value: JsonValue) => ({ ok: true } & T) | DocumentFault,
  readJson = parseStrictJsonBytes,
): Promise<T | undefined> {
  if (!isCidV0(cid)) {
    v.wrong(what, 'BROKEN_DOCUMENT', { detail: 'it is named by what is no CIDv0' })
    return undefined
  }
  const bytes = await readOr(v, what, cid)
  if (!bytes) return undefined
  try {
    const parsed = parse(readJson(bytes))
    if (parsed.ok) return parsed
    v.wrong(what, 'BROKEN_DOCUMENT', { cid, detail: ruleOf(parsed) })
  } catch (error) {
    if (!(error instanceof CanonicalJsonError)) throw error
    v.wrong(what, 'MALFORMED', { cid, detail: error.message })
  }
  return undefined
}

const ruleOf = ({ at, rule }: DocumentFault) => `${at}: ${rule}`

function nameOf(stored: JsonValue): string {
  const name = isJsonObject(stored) ? stored.name : undefined
  return typeof name === 'string' ? name.slice(0, 100) : '(no name)'
}

function dateOf(seconds: number): string {
  const date = new Date(seconds * 1000)
  return Number.isNaN(date.getTime()) ? String(seconds) : `${date.toISOString().slice(0, 19)}Z`
}
