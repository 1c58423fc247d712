import { Kysely, PostgresDialect, sql, type Transaction } from 'kysely'
import pg from 'pg'
import { messageOf, StartupError } from './errors.ts'

export type Database<DB> = {
  db: Kysely<DB>
  /**
   * Calls back at each notification on the channel, with its payload, and once without after a lost connection, for those
   * that were missed.
   */
  listen(channel: string, onNotify: (payload?: string) => void): Promise<{ stop(): Promise<void> }>
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
  // A connection that breaks is thrown away, and its statements fail; the event itself has nothing to add, and an error
  // event that nobody hears would end the process.
  pool.on('error', () => {})
  pool.on('connect', (connected) => connected.on('error', () => {}))
  return {
    db: new Kysely<DB>({ dialect: new PostgresDialect({ pool }) }),
    listen: (channel, onNotify) => listen(client, channel, onNotify),
    close: () => pool.end(),
  }
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
