import { Kysely, type Transaction } from 'kysely'
import { PostgresJSDialect } from 'kysely-postgres-js'
import postgres from 'postgres'
import { messageOf, StartupError } from './errors.ts'
import { withTimeout } from './timeout.ts'

export type Database<DB> = {
  db: Kysely<DB>
  /** The driver's own tag, for LISTEN and for the few queries where Kysely's cost shows. */
  sql: postgres.Sql
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
      host: url.hostname,
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
    throw new StartupError('POSTGRES_CONNECTION is not understood: expected postgres://user:password@host:port/database')
  }
  return { host, port: Number(parts.get('port') ?? 5432), database, username, password: parts.get('password') ?? '' }
}

/** Opens a pool. Connects on first use; `bigint` and `numeric` arrive as strings. */
export function openDatabase<DB>(connection: string, options: { poolSize?: number; name: string }): Database<DB> {
  const sql = postgres({
    ...parseConnection(connection),
    max: options.poolSize ?? 10,
    connection: { application_name: options.name },
    connect_timeout: 5,
    onnotice: () => {},
  })
  const db = new Kysely<DB>({ dialect: new PostgresJSDialect({ postgres: sql }) })
  return { db, sql, close: () => sql.end({ timeout: 5 }) }
}

const ATTEMPT_MS = 6000

/** Waits until the database answers, at most `seconds`. A refused password or a missing database is final at once. */
export async function waitForDatabase(connection: string, { sql }: { sql: postgres.Sql }, seconds: number) {
  const { host, port, database, username } = parseConnection(connection)
  const deadline = Date.now() + seconds * 1000
  for (;;) {
    try {
      // The driver redials without end when something accepts the connection and hangs up; the race ends that.
      await withTimeout(sql`select 1`, ATTEMPT_MS)
      return
    } catch (error) {
      const where = `database ${database} on ${host}:${port} as ${username}`
      const code = (error as { code?: string }).code
      // Class 28 = wrong credentials, 3D = no such database, 42 = not allowed: waiting mends none of them.
      if (code && /^(28|3D|42)/.test(code)) {
        throw new StartupError(`${where} refused the connection: ${messageOf(error)}. Check POSTGRES_CONNECTION or run init-db`)
      }
      if (Date.now() > deadline) {
        throw new StartupError(`${where} does not answer (${messageOf(error)}). Start Postgres or correct POSTGRES_CONNECTION`)
      }
      await new Promise((resolve) => setTimeout(resolve, 250))
    }
  }
}

/** Runs `work` in one transaction. Stores that write take the `Transaction`, so writing outside one does not compile. */
export function inTransaction<DB, T>(db: Kysely<DB>, work: (tx: Transaction<DB>) => Promise<T>): Promise<T> {
  return db.transaction().execute(work)
}
