import { randomBytes } from 'node:crypto'
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { cidV0, MAX_OBJECT_BYTES } from '@market/contracts/cid'
import { messageOf, StartupError } from '@market/kit/errors'
import { type Ipfs, IpfsUnavailableError, verified } from './ipfs.ts'

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
  return verified({
    kind: 'embedded',
    check: async () => {},
    async put(bytes) {
      if (bytes.length > MAX_OBJECT_BYTES) throw new RangeError(`object exceeds ${MAX_OBJECT_BYTES} bytes`)
      const cid = cidV0(bytes)
      await mkdir(folderOf(cid), { recursive: true })
      await write(folderOf(cid), cid, bytes)
      return cid
    },
    async read(cid) {
      try {
        return await readFile(join(folderOf(cid), cid))
      } catch (error) {
        throw new IpfsUnavailableError(`${cid} is not in the store`, { cause: error })
      }
    },
  })
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
