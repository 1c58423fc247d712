import { Kysely, PostgresDialect, sql, type Transaction } from 'kysely'
import type { Socket } from 'node:net'
import pg from 'pg'
import { messageOf, StartupError } from './errors.ts'

export type Database<DB> = {
  db: Kysely<DB>
  /**
   * Calls back at each notification on the channel, with its payload, and once without after a lost connection, for those
   * that were missed.
   */
  listen(channel: string, onNotify: (payload?: string) => void): Promise<{ stop(): Promise<void> }>
  /**
   * From now on a statement that isn't answered within this time fails, and its connection with it: a failover or a firewall that
   * swallows a connection without a word would keep whoever waits on it for a quarter of an hour. Not for migrations.
   */
  loseSilentConnections(ms?: number): void
  close(): Promise<void>
}

/**
 * Connection options of `postgres://…` or of the older `Host=..;Port=..;Database=..;Username=..;Password=..`
 * (market-api.md 0.1). Throws `StartupError` without repeating the value, which holds a password.
 */
export function parseConnection(text: string): {
  host: string
  port: number
  database: string
  username: string
  password: string
} {
  if (/^postgres(ql)?:\/\//.test(text) && URL.canParse(text)) {
    const url = new URL(text)
    return {
      // An IPv6 address stands in brackets in a URL and nowhere else.
      host: url.hostname.replace(/^\[|\]$/g, ''),
      port: Number(url.port || 5432),
      database: decodeURIComponent(url.pathname.slice(1)),
      username: decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
    }
  }
  const parts = new Map(
    text.split(';').flatMap((part) => {
      const at = part.indexOf('=')
      return at < 0 ? [] : [[part.slice(0, at).trim().toLowerCase(), part.slice(at + 1).trim()] as const]
    }),
  )
  const host = parts.get('host') ?? parts.get('server')
  const database = parts.get('database')
  const username = parts.get('username') ?? parts.get('user id')
  if (!host || !database || !username) {
    throw new StartupError(
      'POSTGRES_CONNECTION is not understood: expected postgres://user:password@host:port/database',
    )
  }
  return { host, port: Number(parts.get('port') ?? 5432), database, username, password: parts.get('password') ?? '' }
}

/** Opens a pool. Connects on first use; `bigint` and `numeric` arrive as text. A jsonb array has to be given as JSON text. */
export function openDatabase<DB>(connection: string, options: { poolSize?: number; name: string }): Database<DB> {
  const { username, ...target } = parseConnection(connection)
  const client = {
    ...target,
    user: username,
    application_name: options.name,
    connectionTimeoutMillis: 5000,
    keepAlive: true,
  }
  const pool = new pg.Pool({ ...client, max: options.poolSize ?? 10 })
  const patience: Patience = { ms: undefined }
  // A connection that breaks is thrown away, and its statements fail; the event itself has nothing to add, and an error
  // event that nobody hears would end the process.
  pool.on('error', () => {})
  pool.on('connect', (connected) => {
    connected.on('error', () => {})
    prepareRepeated(connected)
    loseWhenSilent(connected, patience)
  })
  return {
    db: new Kysely<DB>({ dialect: new PostgresDialect({ pool }) }),
    listen: (channel, onNotify) => listen(client, channel, onNotify),
    loseSilentConnections: (ms = SILENCE_MS) => void (patience.ms = ms),
    close: () => pool.end(),
  }
}

const SILENCE_MS = 60_000

type Patience = { ms: number | undefined }

/** A client-side limit: one of the server's doesn't help when its answer gets lost. */
function loseWhenSilent(client: pg.PoolClient, patience: Patience): void {
  const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>
  const { stream } = (client as unknown as { connection: { stream: Socket } }).connection
  client.query = ((...args: unknown[]) => {
    const answer = query(...args)
    if (patience.ms === undefined) return answer
    const { ms } = patience
    const timer = setTimeout(() => stream.destroy(new Error(`Postgres did not answer within ${ms} ms`)), ms)
    const done = () => clearTimeout(timer)
    answer.then(done, done)
    return answer
  }) as typeof client.query
}

const MAX_PREPARED = 500
/** By their text; those that came once have no name yet. One table for all connections: a name means the same on each. */
const statements = new Map<string, string | undefined>()
let names = 0
let changes = 0

/**
 * Has statements that come again planned once a connection: planning a small join costs Postgres several times what running it
 * does. Behind pgbouncer in transaction mode that needs its version 1.21 or later, with `max_prepared_statements` above 0.
 */
function prepareRepeated(client: pg.PoolClient): void {
  const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>
  const named = (text: string, values: unknown[]) => query({ name: nameOf(text), text, values })
  client.query = ((...args: unknown[]) => {
    const [text, values] = args
    if (typeof text !== 'string' || !Array.isArray(values) || args.length > 2 || values.length === 0)
      return query(...args)
    return named(text, values).catch((error: unknown) => {
      // A migration of a newer replica changed what this statement gives: it is prepared anew under another name. Inside a
      // transaction, which is lost, the next try will.
      if ((error as { code?: string }).code !== '0A000') throw error
      changes += 1
      if (client.getTransactionStatus() !== 'I') throw error
      return named(text, values)
    })
  }) as typeof client.query
}

function nameOf(text: string): string | undefined {
  const known = statements.get(text)
  if (known !== undefined) return `${known}.${changes}`
  const isRepeated = statements.has(text)
  // Lists of all lengths make texts without end; the table holds those that came first.
  if (statements.size >= MAX_PREPARED && !isRepeated) return undefined
  statements.set(text, isRepeated ? `s${(names += 1)}` : undefined)
  return undefined
}

const RELISTEN_MS = 1000

async function listen(config: pg.ClientConfig, channel: string, onNotify: (payload?: string) => void) {
  let stopped = false
  let current: pg.Client | undefined
  let retry: NodeJS.Timeout | undefined

  const connect = async () => {
    const client = new pg.Client(config)
    client.on('notification', ({ payload }) => onNotify(payload))
    client.on('error', () => {})
    await client.connect()
    await client.query(`listen ${pg.escapeIdentifier(channel)}`)
    client.on('end', reconnect)
    current = client
    if (stopped) await client.end()
  }
  const reconnect = () => {
    if (!stopped) retry = setTimeout(() => connect().then(() => onNotify(), reconnect), RELISTEN_MS)
  }
  await connect()
  return {
    async stop() {
      stopped = true
      clearTimeout(retry)
      // Gone already, with Postgres: nothing left to end.
      await current?.end().catch(() => {})
    },
  }
}

/** Waits until the database answers, at most `seconds`. A refused password or a missing database is final at once. */
export async function waitForDatabase<DB>(connection: string, { db }: Database<DB>, seconds: number) {
  const { host, port, database, username } = parseConnection(connection)
  const deadline = Date.now() + seconds * 1000
  for (;;) {
    try {
      await sql`select 1`.execute(db)
      return
    } catch (error) {
      const where = `database ${database} on ${host}:${port} as ${username}`
      const code = (error as { code?: string }).code
      // Class 28 = wrong credentials, 3D = no such database, 42 = not allowed: waiting mends none of them.
      if (code && /^(28|3D|42)/.test(code)) {
        throw new StartupError(
          `${where} refused the connection: ${messageOf(error)}. Check POSTGRES_CONNECTION or run init-db`,
        )
      }
      if (Date.now() > deadline) {
        throw new StartupError(
          `${where} does not answer (${messageOf(error)}). Start Postgres or correct POSTGRES_CONNECTION`,
        )
      }
      await new Promise((resolve) => setTimeout(resolve, 250))
    }
  }
}

/** Runs `work` in one transaction. Stores that write take the `Transaction`, so writing outside one does not compile. */
export function inTransaction<DB, T>(db: Kysely<DB>, work: (tx: Transaction<DB>) => Promise<T>): Promise<T> {
  return db.transaction().execute(work)
}
