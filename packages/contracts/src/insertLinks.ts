import type { JsonValue } from './canonicalJson.ts'
import {
  MAX_CHUNK_LINKS,
  NAMESPACE_CONTEXT,
  type NameIndexDoc,
  type NamespaceChunk,
  type StoredDocument,
  storedDocument,
} from './catalogDocuments.ts'
import type { CustomDataLink } from './link.ts'

/** A namespace as far as writing goes: its newest chunk and its index, neither of them when nothing was published yet. */
export type NamespaceTip = { head?: StoredDocument<NamespaceChunk>; index?: NameIndexDoc }

/** What inserting changed. All of it must be pinned before the profile names the index. */
export type InsertedLinks = {
  /** Oldest first: the chunks that are full and closed now, at last the head. */
  chunks: StoredDocument<NamespaceChunk>[]
  index: StoredDocument<NameIndexDoc>
}

type OpenChunk = {
  document: Omit<NamespaceChunk, 'links'>
  links: JsonValue[]
  /** Where a name stands in `links`, the last of its kind. */
  places: Map<string, number>
  /** The bytes it was read from, as long as nothing is changed. */
  stored?: StoredDocument<NamespaceChunk>
}

/**
 * Inserts signed links one after another (catalog.md 3.3). It comes to the same documents as `appendLink` and
 * `appendToIndex` once for each link, but makes each chunk once: of a hundred heads in between nobody needs any.
 * Names to `forget` are left out of the index; their links stay where they are.
 */
export function insertLinks(
  { head, index }: NamespaceTip,
  links: readonly CustomDataLink[],
  { forget = new Set() }: { forget?: ReadonlySet<string> } = {},
): InsertedLinks {
  let open = head ? reopen(head) : newChunk(null)
  const chunks: StoredDocument<NamespaceChunk>[] = []
  for (const link of links) {
    if (open.links.length >= MAX_CHUNK_LINKS) {
      const closed = store(open)
      chunks.push(closed)
      open = newChunk(closed.cid)
    }
    const place = open.places.get(link.name) ?? open.links.length
    open.links[place] = link as JsonValue
    open.places.set(link.name, place)
    delete open.stored
  }
  const newest = store(open)
  chunks.push(newest)
  // Not by assignment: a link may be called __proto__.
  const entries = [
    ...Object.entries(index?.entries ?? {}),
    ...chunks.flatMap(({ cid, document }) =>
      document.links.flatMap((link): [string, string][] => {
        const name = nameOf(link)
        return name === undefined ? [] : [[name, cid]]
      }),
    ),
  ]
  return {
    chunks,
    index: storedDocument<NameIndexDoc>({
      ...(index ?? { '@context': NAMESPACE_CONTEXT, '@type': 'NameIndexDoc' }),
      head: newest.cid,
      entries: Object.fromEntries(entries.filter(([name]) => !forget.has(name))),
    }),
  }
}

function newChunk(prev: string | null): OpenChunk {
  return {
    document: { '@context': NAMESPACE_CONTEXT, '@type': 'NamespaceChunk', prev },
    links: [],
    places: new Map(),
  }
}

function reopen(stored: StoredDocument<NamespaceChunk>): OpenChunk {
  const { document } = stored
  const places = new Map<string, number>()
  for (const [place, link] of document.links.entries()) {
    const name = nameOf(link)
    if (name !== undefined) places.set(name, place)
  }
  return { document, links: [...document.links], places, stored }
}

function store({ document, links, stored }: OpenChunk): StoredDocument<NamespaceChunk> {
  return stored ?? storedDocument<NamespaceChunk>({ ...document, links } as NamespaceChunk)
}

function nameOf(link: JsonValue): string | undefined {
  const name = typeof link === 'object' && link !== null && !Array.isArray(link) ? link.name : undefined
  return typeof name === 'string' ? name : undefined
}
