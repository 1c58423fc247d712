import { isJsonObject, type JsonValue } from '@market/contracts/canonicalJson'
import { MAX_CHUNK_LINKS, productLinkName, type Profile, PROFILE_CONTEXT } from '@market/contracts/catalogDocuments'
import { checkSignedLink, type CustomDataLink, type LinkAuthority } from '@market/contracts/link'
import type { CheckSignature } from '@market/contracts/namespaceWalk'
import { assertGoing, breather, forEachOf, PARALLEL, type Run } from './concurrency.ts'
import { type OwnNamespace, isTombstone, readOwnNamespace, type Standing, standingOf } from './ownNamespace.ts'
import type { Payload, Prepared } from './payloads.ts'
import type { PublishJournal, PublishOptions, RefusedProduct, SkuOutcome } from './ports.ts'
import { PublishError } from './publishError.ts'

export type Change = {
  sku: string
  outcome: 'created' | 'updated' | 'removed'
  /** Undefined until it is known when the tombstone is signed. */
  payload: Payload | undefined
  /** `signedAt` of the link that is replaced. */
  newerThan: number
  /** Replaced in place in the head, so that it takes no room. */
  inHead: boolean
}

/** One go from what the registry holds now to what it shall hold. */
export type Round = {
  options: PublishOptions
  run: Run
  journal: PublishJournal
  read(cid: string): Promise<Uint8Array>
  avatar: string
  operator: string
  expected: string
  namespace: OwnNamespace
  profile: Profile
  standing: Standing
  authority: LinkAuthority
  checkSignature: CheckSignature
  now: () => number
}

export async function beginRound(
  options: PublishOptions,
  { run, journal, checkSignature }: Pick<Round, 'run' | 'journal' | 'checkSignature'>,
): Promise<Round> {
  const avatar = (options.avatar ?? options.signer.address).toLowerCase()
  const operator = options.operator.toLowerCase()
  const { chainId, startOver = false } = options
  const now = options.nowSeconds ?? (() => Math.floor(Date.now() / 1000))
  const expected = (await options.registry.readDigest(avatar)).toLowerCase()
  const read = (cid: string) => options.storage.get(cid)
  const onChunk = (done: number) => {
    assertGoing(run)
    options.onProgress?.({ phase: 'reading', done, total: 0 })
  }
  const namespace = await readOwnNamespace(read, expected, { operator, startOver, onChunk })
  const profile = withSigningKeys(
    namespace.profile ?? { '@context': PROFILE_CONTEXT, '@type': 'Profile', name: '', ...options.newProfile },
    options.signingKeys,
  )
  const authority: LinkAuthority = { owner: avatar, signingKeys: profile.signingKeys as JsonValue }
  assertEntitled(options.signer.address, authority, now())
  const standing = await standingOf(namespace, { ...authority, chainId, nowSeconds: now(), checkSignature })
  return {
    options,
    run,
    journal,
    read,
    avatar,
    operator,
    expected,
    namespace,
    profile,
    standing,
    authority,
    checkSignature,
    now,
  }
}

/** Found out before anything is pinned for nothing. */
function assertEntitled(signer: string, authority: LinkAuthority, now: number): void {
  const fault = checkSignedLink(
    { name: productLinkName('any'), signerAddress: signer, signedAt: now } as CustomDataLink,
    authority,
  )
  if (fault) throw new PublishError('signer', `${signer} may not sign for ${authority.owner}: ${fault.reason}`)
}

function withSigningKeys(profile: Profile, keys: PublishOptions['signingKeys']): Profile {
  if (keys === undefined) return profile
  const listed = isJsonObject(profile.signingKeys) ? profile.signingKeys : {}
  return { ...profile, signingKeys: { ...keys, ...listed } }
}

/** Nothing to sell has changed, and yet the profile has to be written. */
export function needsProfile({ namespace, options }: Round): boolean {
  const listed = isJsonObject(namespace.profile?.signingKeys) ? namespace.profile.signingKeys : {}
  return Object.keys(options.signingKeys ?? {}).some((fingerprint) => !Object.hasOwn(listed, fingerprint))
}

export type Comparison = {
  changes: Change[]
  unchanged: Payload[]
  outcomes: SkuOutcome[]
  refused: RefusedProduct[]
}

export async function compareWithPublished(
  round: Round,
  { wanted, removed, refusedSkus }: Prepared,
): Promise<Comparison> {
  const { options, run, standing } = round
  const changes: Change[] = []
  const unchanged: Payload[] = []
  const outcomes: SkuOutcome[] = []
  const refused: RefusedProduct[] = []
  const breathe = breather()

  const change = (sku: string, outcome: Change['outcome'], payload: Payload | undefined, newerThan = 0) => {
    const inHead = placeInHead(round, productLinkName(sku)) >= 0
    changes.push({ sku, outcome, payload, newerThan, inHead })
    outcomes.push({ sku, outcome, ...(payload && { cid: payload.cid }) })
  }

  for (const payload of wanted.values()) {
    assertGoing(run)
    await breathe()
    const { sku, cid, index } = payload
    const current = await standing.current(sku)
    const ahead = await linkAhead(round, sku, cid)
    if (ahead === 'stays') {
      refused.push({ index: index!, sku, ...DATED_AHEAD })
    } else if (current?.link.cid === cid && ahead === 'none') {
      unchanged.push(payload)
      outcomes.push({ sku, outcome: 'unchanged', cid })
    } else {
      change(sku, current ? 'updated' : 'created', payload, current?.signedAt)
    }
  }

  const others = options.prune ? [...standing.skus()].filter((sku) => !wanted.has(sku) && !refusedSkus.has(sku)) : []
  const takenDown = [...new Set([...removed, ...others])]
  const gone = new Set<string>()
  await forEachOf(run, PARALLEL, takenDown, async (sku) => {
    const current = await standing.current(sku)
    if (!current || (await isTombstone(round.read, current.link.cid, sku))) gone.add(sku)
  })
  for (const sku of takenDown) {
    const ahead = await linkAhead(round, sku)
    if (ahead === 'stays') refused.push({ sku, ...DATED_AHEAD })
    else if (!gone.has(sku) || ahead === 'goes')
      change(sku, 'removed', undefined, (await standing.current(sku))?.signedAt)
    else if (removed.has(sku)) outcomes.push({ sku, outcome: 'unchanged' })
  }
  // First those that take no room: once the head is full and closed, their older links would stay behind.
  changes.sort((a, b) => Number(b.inHead) - Number(a.inHead))
  return { changes, unchanged, outcomes, refused }
}

const DATED_AHEAD = {
  at: 'signedAt',
  rule: 'a published link of this sku carries a date in the future and would take over again on that day',
}

/** A link dated in the future would one day take the place of what is written now, unless that is written over it. */
async function linkAhead(round: Round, sku: string, cid?: string): Promise<'none' | 'goes' | 'stays'> {
  const ahead = (await round.standing.future(sku)).filter(({ link }) => link.cid !== cid)
  if (ahead.length === 0) return 'none'
  const place = placeInHead(round, productLinkName(sku))
  const goes = ahead.every(({ depth, indexInChunk }) => depth === 0 && indexInChunk === place)
  return goes ? 'goes' : 'stays'
}

/** Where a link of this name is replaced in the head; -1 when it isn't (catalog.md 3.3). */
function placeInHead({ namespace: { head } }: Round, name: string): number {
  const links = head?.document.links ?? []
  if (links.length >= MAX_CHUNK_LINKS) return -1
  return links.findLastIndex((link) => isJsonObject(link) && link.name === name)
}
