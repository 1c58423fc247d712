import { mkdir, open, readFile, rm, rmdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { causeOf, DevstackError } from './errors.ts'
import { lookUpProcess } from './processes.ts'

export interface DataDirLock {
  /** Gives the folder free. May be called again. */
  release(): Promise<void>
}

interface Holder {
  pid: number
  startTime?: string
}

/**
 * Makes this process the only one that starts the market in `dir` (created when absent). Throws `DevstackError` while
 * another one lives; the lock of a dead one is taken over.
 */
export async function lockDataDir(dir: string): Promise<DataDirLock> {
  const path = join(dir, 'start.lock')
  const mine = JSON.stringify({ pid: process.pid, startTime: lookUpProcess(process.pid).startTime } satisfies Holder)
  try {
    await mkdir(dir, { recursive: true })
    const deadline = Date.now() + 5_000
    while (!(await createFile(path, mine))) {
      const holder = await readHolder(path)
      if (holder && isLive(holder)) throw alreadyRunning(dir, holder.pid)
      if (Date.now() > deadline)
        throw new DevstackError(`cannot lock data folder ${dir}: delete ${path} and start again`)
      if (!(await removeStale(path))) await delay(50)
    }
  } catch (error) {
    if (error instanceof DevstackError) throw error
    throw new DevstackError(
      `data folder ${dir} is not writable (${causeOf(error)}); make it writable or set MARKET_DATA_DIR to another`,
      { cause: error },
    )
  }
  return {
    async release() {
      if ((await readFile(path, 'utf8').catch(() => '')) === mine) await rm(path, { force: true })
    },
  }
}

const alreadyRunning = (dir: string, pid: number) =>
  new DevstackError(
    `the market is already running in ${dir} (pid ${pid}); stop it or set MARKET_DATA_DIR to another folder`,
  )

/** False when the file exists. */
async function createFile(path: string, text: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx')
    await file.writeFile(text)
    await file.close()
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

/** Undefined when there is no lock, or none that names its holder. */
async function readHolder(path: string): Promise<Holder | undefined> {
  try {
    const holder: unknown = JSON.parse(await readFile(path, 'utf8'))
    return Number.isInteger((holder as Holder | null)?.pid) ? (holder as Holder) : undefined
  } catch {
    return undefined
  }
}

function isLive({ pid, startTime }: Holder): boolean {
  const found = lookUpProcess(pid)
  return found.alive && (found.startTime === undefined || startTime === undefined || found.startTime === startTime)
}

/**
 * Two starts may find the same stale lock, and the slower must not delete what the faster has just put in its place:
 * whoever makes the folder beside it looks again and deletes alone. False = not our turn, or not stale yet.
 */
async function removeStale(path: string): Promise<boolean> {
  const turn = `${path}.takeover`
  try {
    await mkdir(turn)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    if ((await ageMs(turn)) > 3_000) await rmdir(turn).catch(() => {})
    return false
  }
  try {
    const holder = await readHolder(path)
    // Without a readable holder it may be a lock whose owner has not finished writing it.
    const stale = holder ? !isLive(holder) : (await ageMs(path)) > 2_000
    if (stale) await rm(path, { force: true })
    return stale
  } finally {
    await rmdir(turn).catch(() => {})
  }
}

async function ageMs(path: string): Promise<number> {
  return Date.now() - (await stat(path).catch(() => ({ mtimeMs: Date.now() }))).mtimeMs
}
