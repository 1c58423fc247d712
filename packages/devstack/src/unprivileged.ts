import { execFileSync } from 'node:child_process'
import { constants } from 'node:fs'
import { access, realpath, stat } from 'node:fs/promises'
import { dirname } from 'node:path'

/** Whom a program runs as when we are root and it refuses to be. Undefined: as ourselves. */
export type RunAs = { uid: number; gid: number } | undefined

/** `nobody` when we are root. */
export function unprivilegedUser(): RunAs {
  if (process.getuid?.() !== 0) return undefined
  return { uid: idOfNobody('-u'), gid: idOfNobody('-g') }
}

// 65534 on Linux, 4294967294 on macOS.
function idOfNobody(which: '-u' | '-g'): number {
  try {
    return Number(execFileSync('id', [which, 'nobody'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }))
  } catch {
    return 65534
  }
}

/** Whether that user can read (a file) or enter (a folder) this path, every folder above it included. */
export async function canReach(path: string, runAs: RunAs): Promise<boolean> {
  try {
    if (!runAs) {
      await access(path, constants.R_OK)
      return true
    }
    let current = await realpath(path)
    const isFolder = (await stat(current)).isDirectory()
    if (!(await allows(current, runAs, isFolder ? 0o1 : 0o4))) return false
    while (current !== dirname(current)) {
      current = dirname(current)
      if (!(await allows(current, runAs, 0o1))) return false
    }
    return true
  } catch {
    return false
  }
}

async function allows(path: string, { uid, gid }: NonNullable<RunAs>, bit: number): Promise<boolean> {
  const found = await stat(path)
  const shift = found.uid === uid ? 6 : found.gid === gid ? 3 : 0
  return (found.mode & (bit << shift)) !== 0
}
