import { execFile } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { access, chmod, chown, mkdir, readdir, readFile } from 'node:fs/promises'
import { readlink, realpath, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import postgres from 'postgres'
import { causeOf, DevstackError } from './errors.ts'
import { assertPortFree } from './ports.ts'
import { findPostgresBinaries, type PostgresBinaries } from './postgresBinaries.ts'
import { lookUpProcess } from './processes.ts'
import { type Exit, spawnTethered } from './tether.ts'
import { canReach, type RunAs, unprivilegedUser } from './unprivileged.ts'

export interface EmbeddedPostgresOptions {
  dataDir: string
  port: number
  password: string
  /** For tests only: gives up surviving a power cut for speed. */
  fast?: boolean
  /** The variable to name when the port is in use. */
  portVariable?: string
  onLine?: (line: string) => void
}

export interface EmbeddedPostgres {
  readonly host: '127.0.0.1'
  readonly port: number
  readonly user: 'postgres'
  readonly password: string
  readonly pid: number
  readonly exited: Promise<Exit>
  stop(): Promise<void>
  kill(): void
}

const SETTINGS = ['listen_addresses=127.0.0.1', 'unix_socket_directories=', 'max_connections=200']
const FAST = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off']
const READY = 'database system is ready to accept connections'
const START_LIMIT_MS = 120_000
const STOP_GRACE_MS = 30_000

/**
 * Starts the Postgres of the npm package on `dataDir`, which is made on first use, and resolves when it accepts the
 * superuser's password. Root's Postgres runs as the data folder's owner or `nobody`, for Postgres refuses to be root.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { port, password, portVariable = 'MARKET_POSTGRES_PORT' } = options
  const dataDir = resolve(options.dataDir)
  if (password === '' || /[\r\n\0]/.test(password))
    throw new DevstackError('the Postgres superuser needs a password of one line; set POSTGRES_PASSWORD')
  await assertOwner(dataDir)
  const state = await inspect(dataDir)
  const runAs = await chooseUser(dataDir, state)
  const binaries = await findPostgresBinaries(runAs)
  if (state === 'complete') await settlePidFile(dataDir)
  await assertPortFree(port, 'postgres', portVariable)
  if (state === 'empty') await initialise(dataDir, binaries, password, runAs)
  else await assertVersion(dataDir, binaries.major)

  const server = await startServer(dataDir, binaries, runAs, { ...options, portVariable })
  await assertPassword(server, dataDir)
  return server
}

async function startServer(
  dataDir: string,
  { folder }: PostgresBinaries,
  runAs: RunAs,
  { port, password, fast, portVariable, onLine }: EmbeddedPostgresOptions,
): Promise<EmbeddedPostgres> {
  const settings = [...SETTINGS, ...(fast ? FAST : [])]
  const log = lastWords()
  const events = new EventEmitter()
  const ready = once(events, 'ready').then(() => 'ready' as const)
  const child = await spawnTethered({
    command: join(folder, 'bin', 'postgres'),
    args: ['-D', await asSeenBy(dataDir, runAs), '-p', String(port), ...settings.flatMap((setting) => ['-c', setting])],
    env: environment(),
    cwd: dataDir,
    // Fast shutdown: disconnects clients and writes everything down.
    stopSignal: 'SIGINT',
    ...runAs,
    onLine: (line) => {
      log.add(line)
      if (line.includes(READY)) events.emit('ready')
      onLine?.(line)
    },
  })
  const limit = new AbortController()
  const outcome = await Promise.race([
    ready,
    child.exited,
    delay(START_LIMIT_MS, 'late' as const, { signal: limit.signal }),
  ])
  limit.abort()
  if (outcome === 'late') {
    child.kill()
    throw new DevstackError(`Postgres in ${dataDir} was not ready after ${START_LIMIT_MS / 1000} s: ${log.verdict()}`)
  }
  if (outcome !== 'ready') {
    // Somebody else may have taken the port since we looked.
    if (log.has('Address already in use')) await assertPortFree(port, 'postgres', portVariable)
    throw new DevstackError(
      `Postgres does not start on data folder ${dataDir}: ${log.verdict() || endedBy(outcome)}; ` +
        'restore the folder from a copy, delete it to start with empty databases, or set POSTGRES_HOST to your own server',
    )
  }
  return {
    host: '127.0.0.1',
    port,
    user: 'postgres',
    password,
    pid: child.pid,
    exited: child.exited,
    stop: () => child.stop(STOP_GRACE_MS),
    kill: child.kill,
  }
}

/** Also what finds a folder that was made with another password; without this, every service would report it instead. */
async function assertPassword(server: EmbeddedPostgres, dataDir: string): Promise<void> {
  const { host, port, user, password } = server
  const sql = postgres({ host, port, user, password, database: 'postgres', max: 1, connect_timeout: 10 })
  try {
    await sql`select 1`
  } catch (error) {
    await server.stop()
    throw new DevstackError(
      causeOf(error) === '28P01'
        ? `data folder ${dataDir} was made with another superuser password; set POSTGRES_PASSWORD to that one, ` +
            'or delete the folder to start with empty databases'
        : `Postgres in ${dataDir} started but refuses connections (${causeOf(error)}); see its log`,
      { cause: error },
    )
  } finally {
    await sql.end({ timeout: 1 })
  }
}

async function inspect(dataDir: string): Promise<'empty' | 'complete'> {
  const found = await readdir(dataDir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw notWritable(dataDir, error)
  })
  if (found.length === 0) return 'empty'
  for (const file of ['PG_VERSION', 'global/pg_control']) {
    await access(join(dataDir, file)).catch(() => {
      throw new DevstackError(
        `data folder ${dataDir} is not empty and not a complete Postgres data folder either (${file} is missing); ` +
          'restore it from a copy, or delete it to start with empty databases',
      )
    })
  }
  return 'complete'
}

/** Postgres wants to own its data folder, and only root may start one for somebody else. */
async function assertOwner(dataDir: string): Promise<void> {
  const ourselves = process.getuid?.()
  const owner = await stat(dataDir).catch(() => undefined)
  if (owner && ourselves !== 0 && owner.uid !== ourselves)
    throw new DevstackError(
      `data folder ${dataDir} belongs to user ${owner.uid} (an earlier start as root?); ` +
        'start as that user or as root, or choose another data folder',
    )
}

/** A folder that an ordinary user made stays theirs when root starts it. */
async function chooseUser(dataDir: string, state: 'empty' | 'complete'): Promise<RunAs> {
  const nobody = unprivilegedUser()
  if (state === 'empty') return nobody
  try {
    // Postgres refuses a folder that others may enter.
    await chmod(dataDir, 0o700)
    if (!nobody) return undefined
    const { uid, gid } = await stat(dataDir)
    if (uid !== 0) return { uid, gid }
    await promisify(execFile)('chown', ['-R', `${nobody.uid}:${nobody.gid}`, dataDir])
    return nobody
  } catch (error) {
    throw notWritable(dataDir, error)
  }
}

/** Beside the folder first, then renamed: an interrupted initdb must not leave a folder that looks finished. */
async function initialise(
  dataDir: string,
  { folder }: PostgresBinaries,
  password: string,
  runAs: RunAs,
): Promise<void> {
  const draft = `${dataDir}.init`
  const draftData = join(draft, 'data')
  const passwordFile = join(draft, 'password')
  const log = lastWords()
  try {
    await rm(draft, { recursive: true, force: true })
    await mkdir(draftData, { recursive: true, mode: 0o700 })
    await writeFile(passwordFile, `${password}\n`, { mode: 0o600 })
    for (const path of [draft, draftData, passwordFile]) if (runAs) await chown(path, runAs.uid, runAs.gid)
  } catch (error) {
    throw notWritable(dataDir, error)
  }
  try {
    const child = await spawnTethered({
      command: join(folder, 'bin', 'initdb'),
      args: [
        `--pgdata=${await asSeenBy(draftData, runAs)}`,
        '--username=postgres',
        '--auth=scram-sha-256',
        '--pwfile=../password',
        '--encoding=UTF8',
        '--locale=C',
        // The builtin provider, because macOS has no C.UTF-8 locale of its own.
        '--locale-provider=builtin',
        '--builtin-locale=C.UTF-8',
        '--no-sync',
        '--no-instructions',
      ],
      env: environment(),
      cwd: draftData,
      stopSignal: 'SIGTERM',
      ...runAs,
      onLine: log.add,
    })
    const exit = await child.exited
    if (exit.code !== 0)
      throw new DevstackError(
        `cannot make the Postgres data folder ${dataDir}: ${log.verdict() || endedBy(exit)}; ` +
          'put that right, or set POSTGRES_HOST to a PostgreSQL server of your own',
      )
    await rename(draftData, dataDir).catch((error) => {
      throw notWritable(dataDir, error)
    })
  } finally {
    await rm(draft, { recursive: true, force: true })
  }
}

async function assertVersion(dataDir: string, major: string): Promise<void> {
  const found = (await readFile(join(dataDir, 'PG_VERSION'), 'utf8')).trim()
  if (found === major) return
  throw new DevstackError(
    `data folder ${dataDir} was made by PostgreSQL ${found}, this is PostgreSQL ${major}; ` +
      'choose another data folder, or delete this one to start with empty databases',
  )
}

/**
 * A Postgres whose launcher was killed a moment ago is still writing: wait for it. A pid file whose number now belongs to
 * another program is removed, because Postgres itself would only see that the number is taken.
 */
async function settlePidFile(dataDir: string): Promise<void> {
  const path = join(dataDir, 'postmaster.pid')
  const start = Date.now()
  for (;;) {
    const text = await readFile(path, 'utf8').catch(() => '')
    const pid = Number.parseInt(text, 10)
    if (!(pid > 0)) return
    if (!(await isPostgresOn(pid, dataDir))) return rm(path, { force: true })
    // Its last line tells one that was asked to stop from one that goes on working for somebody.
    const patienceMs = /^stopping/m.test(text) ? 30_000 : 2_000
    if (Date.now() - start > patienceMs)
      throw new DevstackError(`Postgres is already running on ${dataDir} (pid ${pid}); stop it with: kill -INT ${pid}`)
    await delay(50)
  }
}

async function isPostgresOn(pid: number, dataDir: string): Promise<boolean> {
  if (!lookUpProcess(pid).alive) return false
  if (process.platform === 'linux')
    return (await readlink(`/proc/${pid}/cwd`).catch(() => '')) === (await realpath(dataDir))
  const { stdout } = await promisify(execFile)('ps', ['-o', 'comm=', '-p', String(pid)]).catch(() => ({ stdout: '' }))
  return /postgres\s*$/.test(stdout)
}

/**
 * How Postgres may name its data folder. Below a closed folder such as /root, `nobody` cannot follow the path; but every
 * process may name the folder it stands in, and we put it there while still root.
 */
async function asSeenBy(dataDir: string, runAs: RunAs): Promise<string> {
  if (await canReach(dirname(dataDir), runAs)) return dataDir
  if (process.platform === 'linux') return '/proc/self/cwd'
  throw new DevstackError(
    `data folder ${dataDir} cannot be reached by the user nobody, as whom root runs Postgres; start as an ordinary user`,
  )
}

/** Nothing of ours: PG* variables would change what initdb and Postgres do, and logs must be English to be read here. */
const environment = () => ({ PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' })

const notWritable = (dataDir: string, error: unknown) =>
  new DevstackError(
    `data folder ${dataDir} is not writable (${causeOf(error)}); make it writable or choose another data folder`,
    { cause: error },
  )

/** 126 and 127: the shell could not run it, as on Alpine, whose C library is not the one the package was built for. */
const endedBy = ({ code, signal }: Exit) =>
  code === 126 || code === 127
    ? 'the program does not run on this system (Alpine?)'
    : `it ended with ${signal ?? `code ${code}`}`

/** Remembers the last lines of a log, to quote the one that says why. */
function lastWords() {
  const lines: string[] = []
  return {
    add(line: string) {
      lines.push(line)
      if (lines.length > 50) lines.shift()
    },
    has: (text: string) => lines.some((line) => line.includes(text)),
    verdict() {
      const line = lines.findLast((text) => /\b(FATAL|PANIC|error|could not)\b/.test(text)) ?? ''
      return line.replace(/^.*?(?=FATAL|PANIC)/, '')
    },
  }
}
