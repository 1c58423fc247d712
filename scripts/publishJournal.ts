import { appendFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { isJsonObject, type JsonValue } from '@market/contracts/canonicalJson'
import type { CustomDataLink } from '@market/contracts/link'
import type { PublishJournal } from '@market/sdk/publishCatalog'

export type FileJournal = PublishJournal & {
  /** What an earlier run left. */
  resumed: { pinned: number; links: number }
  /** A time that stays the same until the catalog is published: what it was in the first run, else `now`. */
  firstTime(now: number): number
  remove(): void
}

/**
 * Keeps what is pinned and signed in a file, one JSON line each, until the catalog is published. A line is written with one
 * call, so a process that is killed leaves at most half a line, which is passed over.
 * @param storage where the pins are: those of another storage are of no use here
 */
export function openFileJournal(path: string, storage: string): FileJournal {
  const pinned = new Set<string>()
  const links = new Map<string, CustomDataLink[]>()
  const remember = (link: CustomDataLink) => links.set(link.name, [...(links.get(link.name) ?? []), link])

  let firstTime: number | undefined
  const lines = existsSync(path) ? readLines(path) : []
  const isOurs = isJsonObject(lines[0]) && lines[0].storage === storage
  for (const line of isOurs ? lines : []) {
    if (!isJsonObject(line)) continue
    if (typeof line.pinned === 'string') pinned.add(line.pinned)
    if (typeof line.firstTime === 'number') firstTime ??= line.firstTime
    // Whether it is still of use is for the publisher to say, who looks at every link again.
    if (isJsonObject(line.link) && typeof line.link.name === 'string') remember(line.link as unknown as CustomDataLink)
  }
  const resumed = { pinned: pinned.size, links: [...links.values()].flat().length }
  let isBegun = false
  // Nothing is written before there is something to keep; half a line at the end is ended first.
  const append = (line: object) => {
    if (!isBegun && isOurs) appendFileSync(path, '\n')
    else if (!isBegun) writeFileSync(path, `${JSON.stringify({ storage })}\n`)
    isBegun = true
    appendFileSync(path, `${JSON.stringify(line)}\n`)
  }

  return {
    resumed,
    isPinned: (cid) => pinned.has(cid),
    pinned(cid) {
      pinned.add(cid)
      append({ pinned: cid })
    },
    linksOf: (name) => links.get(name) ?? [],
    signed(link) {
      remember(link)
      append({ link })
    },
    firstTime(now) {
      if (firstTime === undefined) append({ firstTime: now })
      firstTime ??= now
      return firstTime
    },
    remove: () => rmSync(path, { force: true }),
  }
}

function readLines(path: string): JsonValue[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .flatMap((line) => {
      try {
        return [JSON.parse(line) as JsonValue]
      } catch {
        return []
      }
    })
}
