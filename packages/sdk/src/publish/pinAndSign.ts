import { productLinkName } from '@market/contracts/catalogDocuments'
import { checkLinkShape, checkSignedLink, type CustomDataLink, FUTURE_SKEW_SECONDS } from '@market/contracts/link'
import { assertGoing, breather, forEachOf, PARALLEL, together } from './concurrency.ts'
import { type Payload, tombstoneOf } from './payloads.ts'
import { PublishError } from './publishError.ts'
import type { Change, Comparison, Round } from './round.ts'

/** What a change comes to: its payload, and its link if one was signed in an earlier run. */
type Step = { change: Change; payload: Payload; signAt: number; link?: CustomDataLink }

type Pin = { cid: string; mediaType?: string; read(): Promise<Uint8Array> }

/** Gives the signed links in the order in which they are to be inserted; by then every payload is pinned. */
export async function pinAndSign(round: Round, { changes, unchanged }: Comparison): Promise<CustomDataLink[]> {
  const { options, run, journal } = round
  const steps = await planSteps(round, changes)
  const pins = new Map<string, Pin>()
  const plan = ({ cid, bytes, media }: Payload) => {
    pins.set(cid, { cid, read: async () => bytes })
    for (const one of media) {
      const found = options.media?.get(one)
      if (found) pins.set(one, { cid: one, ...found })
    }
  }
  for (const { payload } of steps) plan(payload)
  if (options.storage.has || options.repin) unchanged.forEach(plan)
  const missing = [...pins.values()].filter(({ cid }) => !journal.isPinned(cid))

  let done = 0
  const total = missing.length + steps.length
  const step = () => {
    done += 1
    options.onProgress?.({ phase: 'products', done, total })
  }
  const links: CustomDataLink[] = []
  // Side by side: the storage is waited for, a signature is computed.
  const sign = async () => {
    const breathe = breather()
    for (const { change, payload, signAt, link } of steps) {
      assertGoing(run)
      links.push(link ?? (await signOne(round, change, payload.cid, signAt)))
      step()
      await breathe()
    }
  }
  const pin = forEachOf(run, PARALLEL, missing, async (one) => {
    await pinOne(round, one)
    step()
  })
  await together(run, pin, sign())
  return links
}

async function planSteps(round: Round, changes: Change[]): Promise<Step[]> {
  const known = new Map<Change, Step>()
  const breathe = breather()
  for (const change of changes) {
    assertGoing(round.run)
    await breathe()
    const step = await fromJournal(round, change)
    if (step) known.set(change, step)
  }
  const replaced = changes.filter((change) => !known.has(change)).map(({ newerThan }) => newerThan)
  const signAt = replaced.length > 0 ? await timeAfter(round, replaced) : 0
  return changes.map((change) => {
    const payload = change.payload ?? tombstoneOf(change.sku, signAt)
    return known.get(change) ?? { change, payload, signAt }
  })
}

/** A link signed before is as good as a new one while it is newer than what it replaces. */
async function fromJournal(round: Round, change: Change): Promise<Step | undefined> {
  for (const link of round.journal.linksOf(productLinkName(change.sku))) {
    const payload = change.payload ?? tombstoneOf(change.sku, link.signedAt)
    if (!(await faultOf(round, change, payload.cid, link))) return { change, payload, signAt: link.signedAt, link }
  }
  return undefined
}

/** A time that is newer than all of these and not in the future. For links of this very second, that is waited for. */
async function timeAfter({ options, now }: Round, times: number[]): Promise<number> {
  const newest = times.reduce((a, b) => Math.max(a, b), 0)
  const ahead = newest + 1 - now()
  // What lies beyond the skew that readers allow was not taken for published.
  if (ahead > FUTURE_SKEW_SECONDS + 1) throw new PublishError('clock', 'the clock was set back during the run')
  if (ahead > 0) await (options.sleep ?? sleep)(ahead * 1000)
  if (now() <= newest) throw new PublishError('clock', 'the clock stands still, and a link must be newer than the last')
  return now()
}

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

async function signOne(round: Round, change: Change, cid: string, signedAt: number): Promise<CustomDataLink> {
  const { chainId, signer, nonce = randomNonce } = round.options
  const link = await signer.sign({ name: productLinkName(change.sku), cid, chainId, signedAt, nonce: nonce() })
  const fault = await faultOf(round, change, cid, link)
  if (fault) throw new PublishError('signer', `the link signed for ${change.sku} would not count: ${fault}`)
  round.journal.signed(link)
  return link
}

function randomNonce(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  return `0x${Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')}`
}

/** Why a link would not do for a change; undefined when every reader will take it. */
async function faultOf(round: Round, change: Change, cid: string, link: CustomDataLink): Promise<string | undefined> {
  const { chainId, signer } = round.options
  const now = round.now()
  const shaped = checkLinkShape(link, { chainId, window: { start: change.newerThan + 1, end: now } })
  if (!shaped.ok) return shaped.reason
  if (link.signedAt > now) return 'it carries a date in the future'
  if (link.name !== productLinkName(change.sku) || link.cid !== cid) return 'it is for something else'
  if (link.signerAddress.toLowerCase() !== signer.address.toLowerCase()) return 'it names another signer'
  const notEntitled = checkSignedLink(link, round.authority)
  if (notEntitled) return notEntitled.reason
  const signed = await round.checkSignature(link, shaped.digest)
  return signed.ok ? undefined : signed.reason
}

export async function pinOne({ options: { storage }, journal }: Round, { cid, mediaType, read }: Pin): Promise<void> {
  if (!(await storage.has?.(cid))) {
    const stored = await storage.put(await read(), mediaType)
    if (stored !== cid) throw new PublishError('storage', `the storage named ${stored} what is ${cid}`)
  }
  journal.pinned(cid)
}
