import { readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { messageOf, StartupError } from '@market/kit/errors'
import type { Log } from '@market/kit/log'
import type { Kysely } from 'kysely'
import type { CodeKeys } from './codeKeys.ts'
import type { CodesDatabase } from './database.ts'
import { readCodeFile } from './readCodeFile.ts'
import { seedPool } from './seedPool.ts'

/**
 * `CODE_POOLS_DIR` (adapters.md 2.1): each `*.txt` is a pool named after the file, with a code on each line. What the pools had
 * before stays as it is.
 *
 * @throws StartupError a file can't be read or stored
 */
export async function seedFolder(db: Kysely<CodesDatabase>, keys: CodeKeys, folder: string, log: Log): Promise<void> {
  let names: string[]
  try {
    names = (await readdir(folder)).filter((name) => name.endsWith('.txt')).toSorted()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      throw new StartupError(`CODE_POOLS_DIR ${folder} can't be read: ${messageOf(error)}`)
    }
    log.warn({ folder }, 'CODE_POOLS_DIR does not exist')
    return
  }
  for (const name of names) {
    try {
      const result = await seedPool(db, keys, basename(name, '.txt'), readCodeFile(join(folder, name)))
      log.info(result, 'pool seeded from its file')
    } catch (error) {
      throw new StartupError(`CODE_POOLS_DIR: ${name} was not seeded: ${messageOf(error)}`)
    }
  }
}
