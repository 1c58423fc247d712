import { randomBytes } from 'node:crypto'
import { access, constants, mkdir, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { MAX_OBJECT_BYTES } from '@market/contracts/cid'
import { messageOf, StartupError } from '@market/kit/errors'
import { type Ipfs, IpfsMismatchError, IpfsUnavailableError } from './ipfs.ts'
import { verifiedIpfs } from './verifiedIpfs.ts'

/**
 * Content on disk under its CID, one file each. Offline: what isn't here is not available. Several processes may share the
 * folder, since a file's name fixes its content. A name appears only after its bytes are on the disk, so a crash or a power
 * cut leaves nothing half-written behind.
 *
 * Throws `StartupError` when the folder can't be written.
 */
export async function openEmbeddedIpfs(dir: string): Promise<Ipfs> {
  try {
    await mkdir(dir, { recursive: true })
    await write(dir, 'writable', new Uint8Array())
  } catch (error) {
    throw new StartupError(
      `IPFS_STORE_DIR ${dir} can't be written (${messageOf(error)}); correct its owner or set another folder`,
    )
  }
  // Many small files in one folder are slow to list; the last characters of a CID are evenly spread.
  const folderOf = (cid: string) => join(dir, cid.slice(-2))
  const fileOf = (cid: string) => join(folderOf(cid), cid)

  return verifiedIpfs({
    kind: 'embedded',
    check: () => typed('the store', () => access(dir, constants.W_OK)),
    put: (cid, bytes) =>
      typed(cid, async () => {
        const folder = folderOf(cid)
        if (!(await holds(fileOf(cid), bytes))) {
          const isNew = await mkdir(folder, { recursive: true })
          await write(folder, cid, bytes)
          if (isNew !== undefined) await sync(dir)
        }
        // Also of a file that was there: whoever wrote it may not have come this far yet.
        await sync(folder)
      }),
    readFile: (cid) =>
      typed(cid, async () => {
        const bytes = await readSmall(fileOf(cid))
        if (!bytes) throw new IpfsMismatchError(`the file of ${cid} is larger than any that was stored`)
        return bytes
      }),
    unpin: (cid) => typed(cid, () => rm(fileOf(cid), { force: true })),
  })
}

/** The same bytes, not just a file of that name: a damaged one is to be replaced. */
async function holds(path: string, bytes: Uint8Array): Promise<boolean> {
  try {
    return (await readSmall(path))?.equals(bytes) ?? false
  } catch (error) {
    if (isAbsent(error)) return false
    throw error
  }
}

/** Undefined when it's larger than an object may be. */
async function readSmall(path: string): Promise<Buffer | undefined> {
  const file = await open(path, 'r')
  try {
    const { size } = await file.stat()
    return size > MAX_OBJECT_BYTES ? undefined : await file.readFile()
  } finally {
    await file.close()
  }
}

async function write(folder: string, name: string, bytes: Uint8Array) {
  const temporary = join(folder, `.${name}.${randomBytes(6).toString('hex')}`)
  const file = await open(temporary, 'wx')
  try {
    await file.writeFile(bytes)
    await file.sync()
    await file.close()
    await rename(temporary, join(folder, name))
  } catch (error) {
    await file.close().catch(() => {})
    await rm(temporary, { force: true })
    throw error
  }
}

/** Puts the names in a folder on the disk. Windows has no such thing: it refuses to open a folder. */
async function sync(folder: string) {
  if (process.platform === 'win32') return
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

const isAbsent = (error: unknown) => (error as NodeJS.ErrnoException).code === 'ENOENT'

/** What goes wrong with the disk, in the port's words: a file that isn't there is missing, all else is not reachable. */
async function typed<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof IpfsMismatchError) throw error
    if (isAbsent(error)) throw new IpfsUnavailableError('missing', `${what} is not there`, { cause: error })
    throw new IpfsUnavailableError('unreachable', `${what} can't be read or written`, { cause: error })
  }
}
