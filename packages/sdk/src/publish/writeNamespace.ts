import { isJsonObject } from '@market/contracts/canonicalJson'
import { skuOfLinkName, type StoredDocument, storedDocument } from '@market/contracts/catalogDocuments'
import { cidToDigest, MAX_OBJECT_BYTES } from '@market/contracts/cid'
import { insertLinks } from '@market/contracts/insertLinks'
import type { CustomDataLink } from '@market/contracts/link'
import { forEachOf, PARALLEL } from './concurrency.ts'
import { isTombstone } from './ownNamespace.ts'
import { pinOne } from './pinAndSign.ts'
import { PublishError } from './publishError.ts'
import type { Round } from './round.ts'

const DAY_SECONDS = 86_400
/** W32. */
const TOMBSTONE_DAYS = 90
/** Old links looked at for tombstones in one run: a name too many in the index costs less than thousands of reads. */
const MAX_TOMBSTONE_READS = 500

/** Pins chunks, index and profile, other operators' namespaces and unknown members kept (catalog.md 3.3). */
export async function writeNamespace(
  round: Round,
  links: CustomDataLink[],
): Promise<{ profileCid: string; digest: string }> {
  const { options, run, operator, namespace } = round
  let profile = round.profile
  const documents: StoredDocument<unknown>[] = []
  if (links.length > 0) {
    const { chunks, index } = insertLinks(namespace, links, { forget: await namesToForget(round, links) })
    documents.push(...chunks, index)
    const namespaces = isJsonObject(profile.namespaces) ? profile.namespaces : {}
    profile = { ...profile, namespaces: { ...namespaces, [operator]: index.cid } }
  }
  const written = storedDocument(profile)
  documents.push(written)
  let done = 0
  await forEachOf(run, PARALLEL, documents, async ({ cid, bytes }) => {
    if (bytes.length > MAX_OBJECT_BYTES) {
      throw new PublishError('too_large', `the index or the profile would be larger than ${MAX_OBJECT_BYTES} bytes`)
    }
    await pinOne(round, { cid, read: async () => bytes })
    done += 1
    options.onProgress?.({ phase: 'namespace', done, total: documents.length })
  })
  return { profileCid: written.cid, digest: cidToDigest(written.cid) }
}

/** Names in the index whose product was taken down long ago (W32). The chain goes on to say so. */
async function namesToForget(round: Round, links: CustomDataLink[]): Promise<Set<string>> {
  const { run, namespace, standing, now } = round
  const touched = new Set(links.map(({ name }) => name))
  const before = now() - TOMBSTONE_DAYS * DAY_SECONDS
  const old: { name: string; sku: string; cid: string }[] = []
  for (const name of Object.keys(namespace.index?.entries ?? {})) {
    const sku = touched.has(name) ? undefined : skuOfLinkName(name)
    const candidate = sku === undefined ? undefined : standing.newest(sku)
    if (sku !== undefined && candidate && candidate.signedAt < before) old.push({ name, sku, cid: candidate.link.cid })
  }
  // Another stretch each time, or a namespace with many old products would never get to its tombstones.
  const start = old.length > MAX_TOMBSTONE_READS ? now() % old.length : 0
  const looked = [...old.slice(start), ...old.slice(0, start)].slice(0, MAX_TOMBSTONE_READS)
  const forget = new Set<string>()
  await forEachOf(run, PARALLEL, looked, async ({ name, sku, cid }) => {
    const isCurrent = (await standing.current(sku))?.link.cid === cid
    if (isCurrent && (await isTombstone(round.read, cid, sku))) forget.add(name)
  })
  return forget
}
