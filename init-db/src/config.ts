/** A service's database, the role that owns it, and the variables (`X`, `X_USER`, `X_PASSWORD`) that rename them. */
export interface ServiceSpec {
  service: string
  variable: string
  database: string
  user: string
  /** Whether an empty password is an error, or means that this service is not installed. */
  required: boolean
}

/**
 * Odoo and Unlock become required when their adapters come to this repository (adapters.md 8 has them so): until then
 * nobody would use the password that their operator would be made to invent.
 */
export const SERVICES: readonly ServiceSpec[] = [
  { service: 'market', variable: 'DB_MARKET_API', database: 'circles_market_api', user: 'market_api', required: true },
  { service: 'codedispenser', variable: 'DB_CODEDISP', database: 'circles_codedisp', user: 'codedisp', required: true },
  { service: 'odoo', variable: 'DB_ODOO', database: 'circles_odoo', user: 'odoo', required: false },
  { service: 'unlock', variable: 'DB_UNLOCK', database: 'circles_unlock', user: 'unlock', required: false },
  {
    service: 'woocommerce',
    variable: 'DB_WOOCOMMERCE',
    database: 'circles_woocommerce',
    user: 'woocommerce',
    required: false,
  },
  {
    service: 'ordertrace',
    variable: 'DB_ORDERTRACE',
    database: 'circles_ordertrace',
    user: 'ordertrace',
    required: false,
  },
]

/** A role, the database it owns, and which variable the password came from. */
export interface ServiceDatabase {
  service: string
  database: string
  user: string
  password: string
  passwordVariable: string
}

export interface Server {
  host: string
  port: number
  user: string
  password: string
}

export interface Config {
  server: Server
  waitSeconds: number
  databases: ServiceDatabase[]
  skipped: { service: string; passwordVariable: string }[]
}

/** Everything that is wrong with the environment, one line each. */
export class ConfigError extends Error {
  readonly problems: readonly string[]
  constructor(problems: readonly string[]) {
    super(problems.join('\n'))
    this.problems = problems
  }
}

const SERVERS_OWN = ['postgres', 'template0', 'template1']
/** Postgres cuts longer names, and two that begin alike would become one. */
const MAX_NAME_BYTES = 63
const tooLong = (name: string) => Buffer.byteLength(name) > MAX_NAME_BYTES

/** Reads the environment; a blank variable counts as unset. Throws `ConfigError` with every problem at once. */
export function readConfig(environment: NodeJS.ProcessEnv, services = SERVICES): Config {
  const problems: string[] = []
  const text = (variable: string) => environment[variable]?.trim() ?? ''
  const secret = (variable: string) => {
    if (text(variable).startsWith(';;;;'))
      problems.push(`${variable} still holds the placeholder of a template; set a real value`)
    return text(variable)
  }
  const wholeNumber = (variable: string, fallback: number, min: number, max: number) => {
    const value = text(variable) === '' ? fallback : Number(text(variable))
    if (!Number.isInteger(value) || value < min || value > max)
      problems.push(`${variable} must be a whole number from ${min} to ${max}`)
    return value
  }

  const config: Config = {
    server: {
      host: text('POSTGRES_HOST') || 'postgres',
      port: wholeNumber('POSTGRES_PORT', 5432, 1, 65535),
      user: text('POSTGRES_USER') || 'postgres',
      password: secret('POSTGRES_PASSWORD'),
    },
    waitSeconds: wholeNumber('INIT_DB_WAIT_SECONDS', 120, 0, 86_400),
    databases: [],
    skipped: [],
  }
  for (const { service, variable, required, ...defaults } of services) {
    const database = text(variable) || defaults.database
    const user = text(`${variable}_USER`) || defaults.user
    const passwordVariable = `${variable}_PASSWORD`
    const password = secret(passwordVariable)
    if (password !== '') config.databases.push({ service, database, user, password, passwordVariable })
    else if (required) problems.push(`No password provided for user '${user}' (set ${passwordVariable})`)
    else config.skipped.push({ service, passwordVariable })
    if (tooLong(database)) problems.push(`${variable} is longer than ${MAX_NAME_BYTES} bytes`)
    if (tooLong(user)) problems.push(`${variable}_USER is longer than ${MAX_NAME_BYTES} bytes`)
    if (SERVERS_OWN.includes(database))
      problems.push(`${variable} must not be '${database}', a database of the server itself`)
    if (user === config.server.user)
      problems.push(`${variable}_USER must not be '${user}', the superuser (POSTGRES_USER)`)
  }
  problems.push(...shared('database', config.databases), ...shared('user', config.databases))
  if (problems.length > 0) throw new ConfigError(problems)
  return config
}

/** Two services in one database, or under one role, would read each other's tables. */
function shared(what: 'database' | 'user', databases: ServiceDatabase[]): string[] {
  const names = new Set(databases.map((one) => one[what]))
  return [...names].flatMap((name) => {
    const services = databases.filter((one) => one[what] === name).map((one) => one.service)
    return services.length > 1 ? [`${services.join(' and ')} must not share the ${what} '${name}'`] : []
  })
}
