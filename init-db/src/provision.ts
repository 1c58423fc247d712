import { setTimeout as delay } from 'node:timers/promises'
import postgres, { type Sql } from 'postgres'
import type { Server, ServiceDatabase } from './config.ts'

export type Outcome = 'created' | 'updated' | 'unchanged'
export type Log = (line: string) => void

/** Something the operator has to put right; the message says what. */
export class ProvisioningError extends Error {}

/** Errors of a server that is not there yet, or not ready: the only ones worth waiting for. */
const NOT_YET = [
  /^(ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EAI_AGAIN)$/,
  /^(CONNECT_TIMEOUT|CONNECTION_(CLOSED|ENDED|DESTROYED))$/,
  // Starting up, too many connections, being stopped, recovering from a crash.
  /^(57P03|53300|57P01|57P02)$/,
]
const WRONG_PASSWORD = '28P01'
const INSUFFICIENT_PRIVILEGE = '42501'

/** SQLSTATE, or Node's or the driver's own code. */
export const codeOf = (error: unknown) => (error as { code?: string }).code ?? ''
const textOf = (error: unknown) => (error as Error).message || codeOf(error)

/** A connection that has answered once. */
async function connect(server: Server, database: string, log: Log, timeoutSeconds = 10): Promise<Sql> {
  const { host, port, user, password } = server
  const sql = postgres({
    host,
    port,
    user,
    password,
    database,
    max: 1,
    connect_timeout: timeoutSeconds,
    connection: { application_name: 'init-db' },
    // A REVOKE that has no effect is only a warning.
    onnotice: ({ severity, message }) => severity === 'WARNING' && log(`server: ${message}`),
  })
  const timer = new AbortController()
  try {
    // Something that accepts and hangs up, such as Docker's proxy before Postgres is there, would be redialled for ever.
    await Promise.race([sql`select 1`, noAnswer(timeoutSeconds, timer.signal)])
    return sql
  } catch (error) {
    await sql.end({ timeout: 0 })
    throw error
  } finally {
    timer.abort()
  }
}

async function noAnswer(seconds: number, signal: AbortSignal): Promise<never> {
  await delay(seconds * 1_000, undefined, { signal })
  throw Object.assign(new Error('what listens there does not answer as Postgres'), { code: 'CONNECT_TIMEOUT' })
}

/** A connection to the server, as soon as it takes one. A refusal that waiting does not cure is thrown at once. */
export async function connectWhenReady(server: Server, waitSeconds: number, log: Log): Promise<Sql> {
  const address = `${server.host}:${server.port}`
  const start = Date.now()
  const elapsed = () => Math.round((Date.now() - start) / 1000)
  let nextLine = 0
  for (;;) {
    try {
      return await connect(server, 'postgres', log, Math.max(1, Math.min(5, waitSeconds - elapsed())))
    } catch (error) {
      if (codeOf(error) === WRONG_PASSWORD)
        throw new ProvisioningError(
          `${address} refuses user '${server.user}': ${textOf(error)} (check POSTGRES_USER and POSTGRES_PASSWORD)`,
        )
      if (!NOT_YET.some((codes) => codes.test(codeOf(error))))
        throw new ProvisioningError(`${address}: ${textOf(error)}`)
      if (elapsed() + 1 > waitSeconds)
        throw new ProvisioningError(
          `${address} does not accept connections after ${waitSeconds} s: ${textOf(error)} ` +
            '(check POSTGRES_HOST and POSTGRES_PORT; INIT_DB_WAIT_SECONDS sets the limit)',
        )
      if (elapsed() >= nextLine) {
        log(`waiting for ${address}, ${elapsed()} of ${waitSeconds} s: ${textOf(error)}`)
        nextLine = elapsed() + 5
      }
    }
    await delay(1_000)
  }
}

/** Two runs at once would both find a role missing and both create it. Held until the connection ends. */
export async function waitForOtherRuns(admin: Sql): Promise<void> {
  await admin`select pg_advisory_lock(hashtext('provision-dbs'))`
}

/**
 * The server's own databases are open to every role. A service has no business there: in `template1` it could plant what
 * later databases are copied from, and its mere presence there makes CREATE DATABASE fail. Superusers are not affected.
 */
export async function closeServersOwnDatabases(admin: Sql): Promise<Outcome | 'not ours to change'> {
  let outcome: Outcome = 'unchanged'
  for (const database of ['postgres', 'template1']) {
    if (!(await readDatabase(admin, database, ''))?.publicConnects) continue
    await execute(admin, 'revoke connect on database %I from public', database).catch((error) => {
      if (codeOf(error) !== INSUFFICIENT_PRIVILEGE) throw error
    })
    // On a managed server the database may belong to the provider, whose REVOKE it would have to be.
    if ((await readDatabase(admin, database, ''))?.publicConnects) return 'not ours to change'
    outcome = 'updated'
  }
  return outcome
}

/** Makes one service's role, database and grants what they should be. A second time it changes nothing. */
export async function provision(
  admin: Sql,
  server: Server,
  wanted: ServiceDatabase,
  log: Log,
): Promise<{ role: Outcome; database: Outcome; grants: Outcome }> {
  const role = await ensureRole(admin, wanted)
  const database = await ensureDatabase(admin, wanted)
  const grants = [await ensureDatabaseGrants(admin, wanted), await ensureSchemaGrants(server, wanted, log)]
  const password = await ensurePassword(admin, server, wanted, log)
  return {
    role: role === 'unchanged' ? password : role,
    database,
    grants: grants.includes('updated') ? 'updated' : 'unchanged',
  }
}

async function ensureRole(admin: Sql, { user, password, service }: ServiceDatabase): Promise<Outcome> {
  const [role] = await admin<{ rolcanlogin: boolean; rolsuper: boolean }[]>`
    select rolcanlogin, rolsuper from pg_roles where rolname = ${user}`
  if (!role) {
    await execute(admin, 'create role %I login password %L', user, password)
    return 'created'
  }
  // Nothing would keep it out of the others' databases.
  if (role.rolsuper) throw new ProvisioningError(`${service}: user '${user}' is a superuser; choose another name`)
  if (role.rolcanlogin) return 'unchanged'
  await execute(admin, 'alter role %I login', user)
  return 'updated'
}

async function ensureDatabase(admin: Sql, { database, user }: ServiceDatabase): Promise<Outcome> {
  const found = await readDatabase(admin, database, user)
  if (!found) {
    await execute(admin, 'create database %I owner %I', database, user)
    return 'created'
  }
  if (found.owner === user) return 'unchanged'
  await execute(admin, 'alter database %I owner to %I', database, user)
  return 'updated'
}

async function ensureDatabaseGrants(admin: Sql, { database, user }: ServiceDatabase): Promise<Outcome> {
  const found = await readDatabase(admin, database, user)
  if (found && !found.publicConnects && found.roleConnects) return 'unchanged'
  await execute(admin, 'revoke connect on database %I from public', database)
  await execute(admin, 'grant connect on database %I to %I', database, user)
  return 'updated'
}

async function ensureSchemaGrants(server: Server, { database, user }: ServiceDatabase, log: Log): Promise<Outcome> {
  const sql = await connect(server, database, log)
  try {
    const [found] = await sql<{ open_to_public: boolean; granted: boolean }[]>`
      select coalesce(bool_or(acl.grantee = 0), false) as open_to_public,
             count(*) filter (where acl.grantee = role.oid and acl.privilege_type in ('USAGE', 'CREATE')) = 2 as granted
      from pg_namespace n
      cross join pg_roles role
      cross join lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) acl
      where n.nspname = 'public' and role.rolname = ${user}`
    if (found && !found.open_to_public && found.granted) return 'unchanged'
    await execute(sql, 'revoke all on schema public from public')
    await execute(sql, 'grant all on schema public to %I', user)
    return 'updated'
  } finally {
    await sql.end({ timeout: 5 })
  }
}

/** The server does not tell a password, so we try it: a role that can log in with it is left alone. */
async function ensurePassword(admin: Sql, server: Server, wanted: ServiceDatabase, log: Log): Promise<Outcome> {
  if (await canLogIn(server, wanted, log)) return 'unchanged'
  await execute(admin, 'alter role %I password %L', wanted.user, wanted.password)
  if (await canLogIn(server, wanted, log)) return 'updated'
  throw new ProvisioningError(
    `${wanted.service}: the server does not accept the password that was just set for '${wanted.user}'; ` +
      `use plain letters, digits and signs in ${wanted.passwordVariable} (others, such as a no-break space, get replaced)`,
  )
}

async function canLogIn(server: Server, { user, password, database }: ServiceDatabase, log: Log): Promise<boolean> {
  try {
    const sql = await connect({ ...server, user, password }, database, log)
    await sql.end({ timeout: 5 })
    return true
  } catch (error) {
    if (codeOf(error) === WRONG_PASSWORD) return false
    throw error
  }
}

async function readDatabase(admin: Sql, database: string, user: string) {
  const [found] = await admin<{ owner: string; publicConnects: boolean; roleConnects: boolean }[]>`
    select pg_get_userbyid(d.datdba) as owner,
           coalesce(bool_or(acl.grantee = 0), false) as "publicConnects",
           coalesce(bool_or(pg_get_userbyid(acl.grantee) = ${user}), false) as "roleConnects"
    from pg_database d
    left join lateral aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) acl on acl.privilege_type = 'CONNECT'
    where d.datname = ${database}
    group by d.datdba`
  return found
}

/** These statements take no parameters, so the server itself quotes: %I an identifier, %L a literal. */
async function execute(sql: Sql, template: string, ...values: string[]): Promise<void> {
  const [row] = await sql<{ statement: string }[]>`select format(${template}, variadic ${values}::text[]) as statement`
  await sql.unsafe(row?.statement ?? '')
}
