import { existsSync, readFileSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { readConfig as readInitDbConfig, SERVICES } from '../init-db/src/config.ts'
import { Variables as MarketVariables } from '../market-api/src/config.ts'
import { parseConnection } from '../packages/kit/src/db.ts'

// Looks at the repository, not at a running market: what is documented, what compose passes and what the code reads are one.

const root = fileURLToPath(new URL('../', import.meta.url))
const text = (path: string) => readFileSync(root + path, 'utf8')

/** Names of variables with their defaults as written in `.env.example`; '' = none. */
type Variables = Map<string, string>

const market: Variables = new Map(
  Object.entries(MarketVariables.shape).map(([name, field]) => {
    const unset = field.safeParse(undefined)
    return [name, unset.success ? String(unset.data ?? '') : '']
  }),
)
const adapter = new Map([...schemaIn('packages/adapter-kit/src/serveAdapter.ts'), ...dispenserVariables()])
const initDb = initDbVariables()
const start = schemaIn('scripts/start.ts')
const devChain: Variables = new Map(
  [...text('tools/dev-chain/src/main.ts').matchAll(/integer\('(DEV_CHAIN_\w+)', (\d+)/g)].map(([, name, value]) => [
    name!,
    value!,
  ]),
)
const ops = namesIn('scripts/ops.ts', /env\.([A-Z][A-Z_]+)/g, ['OPS_MARKET_URL', 'OPS_CODEDISP_URL'])
/** What the catalog commands read besides; RPC, NAME_REGISTRY_ADDRESS and IPFS_* are market-api's as well. */
const catalog = namesIn('scripts/catalogConnections.ts', /\benv\.([A-Z][A-Z_]+)/g, ['CATALOG_PRIVATE_KEY'])
/** What the payments commands read besides, as market-api has them. */
const payments = namesIn('scripts/payments.ts', /'((?:CONFIRM|FINALIZE)_CONFIRMATIONS)'/g)
const demo = namesIn('scripts/demo.ts', /process\.env\.([A-Z][A-Z_]+)/g)
const devstack = namesIn('packages/devstack/src/stack.ts', /env\.([A-Z][A-Z_]+)/g)
const readers = { market, adapter, initDb, start, devChain, ops, catalog, demo, devstack }

const isSecret = (name: string) => /(?<!_PER)_(PASSWORD|KEY|TOKEN|BEARER|SECRET)$/.test(name)

describe('.env.example', () => {
  const example = exampleVariables()

  it('names each variable once', () => {
    const names = example.map(({ name }) => name)
    expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([])
  })

  it('names every variable that a process reads, with the default that the code has', () => {
    // Where two readers differ, or neither default would be of use in this file.
    const chosen: Record<string, string> = {
      // Every process has another; whoever starts it sets it.
      PORT: '',
      // market-api alone would say 5680, where the dispenser listens by itself; npm start and compose have it here.
      MARKET_CODE_DISPENSER_PORT: '65003',
    }
    const shown = new Map(example.map(({ name, value }) => [name, value]))
    const wrong: string[] = []
    for (const [reader, variables] of Object.entries(readers)) {
      for (const [name, value] of variables) {
        const wanted = chosen[name] ?? (value === '' ? (shown.get(name) ?? value) : value)
        if (!shown.has(name)) wrong.push(`${name} (${reader}) is missing`)
        else if (shown.get(name) !== wanted) wrong.push(`${name} is ${value} in ${reader}, ${shown.get(name)} here`)
      }
    }
    expect(wrong).toEqual([])
  })

  it('shows no default that no code has', () => {
    const known = new Map<string, Set<string>>()
    for (const variables of Object.values(readers)) {
      for (const [name, value] of variables) known.set(name, (known.get(name) ?? new Set()).add(value))
    }
    expect(example.filter(({ name, value }) => value !== '' && !known.get(name)?.has(value))).toEqual([])
  })

  it('names nothing that nothing reads', () => {
    const read = new Set(Object.values(readers).flatMap((variables) => [...variables.keys()]))
    expect(example.map(({ name }) => name).filter((name) => !read.has(name))).toEqual([])
  })

  it('changes nothing when it is copied unchanged: only the ports have a value, and that is the default', () => {
    expect(
      example.filter(({ active, value }) => active && value !== '').map(({ name, value }) => `${name}=${value}`),
    ).toEqual([
      'MARKET_API_PORT=65001',
      'MARKET_CODE_DISPENSER_PORT=65003',
      'MARKET_POSTGRES_PORT=65004',
      'DEV_CHAIN_PORT=65020',
    ])
  })

  it('has a line for each secret, and it is empty', () => {
    const secrets = example.filter(({ name }) => isSecret(name))
    expect(secrets.length).toBeGreaterThan(8)
    expect(secrets.filter(({ active, value }) => !active || value !== '')).toEqual([])
  })
})

describe('docker-compose.yml', () => {
  const file = text('docker-compose.yml')
  const compose = readYaml(file)
  const services = new Map(Object.entries(compose.services as Yaml).map(([name, service]) => [name, service as Yaml]))
  const environmentOf = (name: string) => (services.get(name)?.environment ?? {}) as Record<string, string>

  /** What each service may read, and which secrets of the installation reach it. */
  const expected: Record<string, { reads: Iterable<string>; secrets: string[] }> = {
    postgres: { reads: ['POSTGRES_USER', 'POSTGRES_PASSWORD'], secrets: ['POSTGRES_PASSWORD'] },
    ipfs: { reads: ['IPFS_PROFILE'], secrets: [] },
    'init-db': {
      reads: initDb.keys(),
      secrets: ['POSTGRES_PASSWORD', ...SERVICES.map(({ variable }) => `${variable}_PASSWORD`)],
    },
    'market-api': {
      reads: market.keys(),
      secrets: [
        'DB_MARKET_API_PASSWORD',
        'MARKET_JWT_PRIVATE_KEY',
        'CIRCLES_SERVICE_KEY',
        'MARKET_CODE_DISPENSER_TOKEN',
        'MARKET_ODOO_ADAPTER_TOKEN',
        'MARKET_UNLOCK_ADAPTER_TOKEN',
        'MARKET_WOOCOMMERCE_ADAPTER_TOKEN',
      ],
    },
    'market-adapter-codedispenser': {
      reads: adapter.keys(),
      secrets: ['DB_CODEDISP_PASSWORD', 'CIRCLES_SERVICE_KEY', 'MARKET_CODE_DISPENSER_TOKEN', 'ADAPTER_SECRETS_KEY'],
    },
    // A person's tool: it works on both databases, while it runs.
    ops: {
      reads: [...ops.keys(), ...payments.keys()],
      secrets: ['DB_MARKET_API_PASSWORD', 'DB_CODEDISP_PASSWORD', 'ADAPTER_SECRETS_KEY'],
    },
  }

  it('knows the services this test knows', () => {
    expect([...services.keys()].toSorted()).toEqual(Object.keys(expected).toSorted())
  })

  it.each(Object.entries(expected))(
    'gives %s only variables it reads and only its own secrets',
    (name, { reads, secrets }) => {
      const readable = new Set(reads)
      const environment = environmentOf(name)
      expect(Object.keys(environment).filter((variable) => !readable.has(variable))).toEqual([])
      const named = new Set(Object.values(environment).flatMap((value) => interpolated(value).map((one) => one.name)))
      expect([...named].filter(isSecret).toSorted()).toEqual([...secrets].toSorted())
      expect(services.get(name)).not.toHaveProperty('env_file')
    },
  )

  it('passes no password of another owner anywhere near market-api or the dispenser', () => {
    const all = (name: string) => JSON.stringify(services.get(name))
    expect(all('market-api')).not.toMatch(/DB_CODEDISP_PASSWORD|POSTGRES_PASSWORD/)
    expect(all('market-adapter-codedispenser')).not.toMatch(/DB_MARKET_API_PASSWORD|POSTGRES_PASSWORD|MARKET_JWT/)
  })

  it.each([
    // Its Kubo is its own: no folder, no bearer. A container listens on all its addresses. Faults are injected by tests only.
    ['market-api', market, ['HOST', 'IPFS_RPC_BEARER', 'IPFS_STORE_DIR', 'FAILPOINT']],
    ['market-adapter-codedispenser', adapter, ['HOST', 'FAILPOINT']],
    ['init-db', initDb, []],
  ])('lets every variable of %s be set', (name, variables, without) => {
    const environment = environmentOf(name)
    expect([...variables.keys()].filter((variable) => !(variable in environment))).toEqual(without)
  })

  it('takes from .env only what .env.example names, and states no other default', () => {
    const example = new Map(exampleVariables().map(({ name, value }) => [name, value]))
    const wrong = interpolated(file.replaceAll(/^ *#.*$/gm, '')).filter(({ name, otherwise }) => {
      const isPlain = otherwise !== undefined && !otherwise.includes('${')
      const here = example.get(name)
      return here === undefined || (isPlain && otherwise !== '' && here !== '' && otherwise !== here)
    })
    expect(wrong.map(({ name }) => name)).toEqual([])
  })

  it('refuses to start without the secrets that have to be there', () => {
    const names = interpolated(file).flatMap(({ name, required }) => (required ? [name] : []))
    expect([...new Set(names)].toSorted()).toEqual([
      'ADAPTER_SECRETS_KEY',
      'CIRCLES_SERVICE_KEY',
      'DB_CODEDISP_PASSWORD',
      'DB_MARKET_API_PASSWORD',
      'POSTGRES_PASSWORD',
      'RPC',
    ])
  })

  it('carries any password into POSTGRES_CONNECTION that holds no semicolon', () => {
    const forms = [
      environmentOf('market-api').POSTGRES_CONNECTION!,
      environmentOf('market-adapter-codedispenser').POSTGRES_CONNECTION!,
      environmentOf('ops').OPS_MARKET_URL!,
      environmentOf('ops').OPS_CODEDISP_URL!,
    ]
    const password = fc.string({ minLength: 1, unit: 'grapheme' }).filter((p) => !p.includes(';') && p.trim() === p)
    fc.assert(
      fc.property(fc.constantFrom(...forms), password, (form, secret) => {
        const connection = interpolated(form).reduce(
          (sofar, { all, otherwise }) => sofar.replace(all, () => otherwise ?? secret),
          form,
        )
        const parsed = parseConnection(connection)
        expect(parsed.password).toBe(secret)
        expect(parsed).toMatchObject({ host: 'postgres', port: 5432 })
      }),
      { examples: forms.map((form) => [form, "p@ss:w/o?r#d%1$x='y"] as [string, string]) },
    )
  })

  it('watches the health of everything that stays up', () => {
    const stays = [...services].filter(([, service]) => service.restart !== 'no')
    expect(stays.map(([name]) => name)).toEqual(['postgres', 'ipfs', 'market-api', 'market-adapter-codedispenser'])
    for (const [name, service] of stays) {
      expect(service.restart, name).toBe('unless-stopped')
      expect((service.healthcheck as Yaml | undefined)?.test, name).toBeDefined()
    }
  })

  it('starts the services when the databases are ready', () => {
    expect(services.get('init-db')?.depends_on).toEqual({ postgres: { condition: 'service_healthy' } })
    for (const name of ['market-api', 'market-adapter-codedispenser']) {
      expect(services.get(name)?.depends_on).toMatchObject({
        'init-db': { condition: 'service_completed_successfully' },
      })
    }
  })

  it('publishes the market, and beyond this machine nothing else', () => {
    const published = [...services].flatMap(([name, { ports = [] }]) =>
      (ports as string[]).map((port) => [name, port] as const),
    )
    expect(published.filter(([, port]) => !port.startsWith('127.0.0.1:')).map(([name]) => name)).toEqual(['market-api'])
    expect(published.map(([name]) => name)).toContain('postgres')
    expect(services.get('ipfs')).not.toHaveProperty('ports')
  })

  it('keeps every container within bounds', () => {
    for (const [name, service] of services) {
      expect(service.mem_limit, name).toBeDefined()
      expect(service.security_opt, name).toEqual(['no-new-privileges:true'])
      expect(String(service.image), name).toMatch(/:[\w.-]+$/)
      expect(String(service.image), name).not.toMatch(/:latest$/)
      if (service.image === 'circles-market:local')
        expect(service, name).toMatchObject({ read_only: true, cap_drop: ['ALL'] })
    }
  })
})

describe('Dockerfile', () => {
  const file = text('Dockerfile')

  it('builds on exact versions and runs as nobody in particular', () => {
    const images = [...file.matchAll(/^FROM (\S+)/gm)].map(([, image]) => image)
    for (const image of images) expect(image).toMatch(/^node:24\.\d+\.\d+-[\w.-]+(@sha256:[0-9a-f]{64})?$/)
    expect(file).toMatch(/^USER 10000:10000$/m)
    expect(file).not.toMatch(/^(ARG|ENV) .*(PASSWORD|KEY|TOKEN|SECRET)/m)
  })

  it('copies every workspace that its programs load', () => {
    const copied = /for workspace in (.*?); do/.exec(file)?.[1]?.split(' ') ?? []
    const byName = new Map(
      copied.map((path) => [(JSON.parse(text(`${path}/package.json`)) as { name: string }).name, path]),
    )
    const needed = new Set<string>()
    const need = (name: string) => {
      if (needed.has(name)) return
      needed.add(name)
      const path = byName.get(name)
      // One that is not copied is reported below.
      if (path === undefined || path === 'scripts') return
      const { dependencies = {} } = JSON.parse(text(`${path}/package.json`)) as {
        dependencies?: Record<string, string>
      }
      for (const dependency of Object.keys(dependencies)) if (dependency.startsWith('@market/')) need(dependency)
    }
    for (const program of ['init-db', 'market-api', 'codedispenser', 'scripts']) need(`@market/${program}`)
    // Of scripts only the operator's commands are in the image.
    for (const command of ['ops', 'publishFile', 'verifyTarget', 'catalogConnections']) {
      for (const [, name] of text(`scripts/${command}.ts`).matchAll(/from '(@market\/[\w-]+)/g)) need(name!)
    }
    expect([...byName.keys()].toSorted()).toEqual([...needed].toSorted())
  })

  it('is asked by compose for programs that exist', () => {
    const programs = [...text('docker-compose.yml').matchAll(/"([\w/-]+\/dist\/\w+\.js)"/g)].map(([, path]) => path!)
    expect(programs).toHaveLength(4)
    for (const path of programs) {
      const folder = dirname(dirname(path))
      const name = basename(path, '.js')
      expect(
        [`${folder}/src/${name}.ts`, `${folder}/${name}.ts`].some((source) => existsSync(root + source)),
        path,
      ).toBe(true)
    }
  })

  it('is built without the secrets and the data of this machine', () => {
    expect(text('.dockerignore').split('\n')).toEqual(
      expect.arrayContaining(['.env', '.env.*', '.market', '.git', '**/node_modules', '**/dist']),
    )
  })
})

/** `NAME=value` lines are active; `# NAME=value` lines show a default. */
function exampleVariables() {
  return [...text('.env.example').matchAll(/^(# )?([A-Z][A-Z0-9_]*)=(.*)$/gm)].map(([, comment, name, value]) => ({
    name: name!,
    value: value!,
    active: comment === undefined,
  }))
}

/** The variables of a zod schema in a file that can't be imported: its last argument of `env.int`, or its `.default(…)`. */
function schemaIn(path: string): Variables {
  const fields = [...text(path).matchAll(/^ {4}([A-Z][A-Z_]+): (.*?),?$/gm)]
  if (fields.length === 0) throw new Error(`${path} has no schema that this test can read`)
  return new Map(
    fields.map(([, name, field]) => {
      const value =
        /\.default\('(.*)'\)/.exec(field!)?.[1] ?? /^env\.int\(.*, ([\d_]+)\)/.exec(field!)?.[1]?.replaceAll('_', '')
      return [name!, value ?? '']
    }),
  )
}

function dispenserVariables(): Variables {
  const source = text('adapters/codedispenser/src/adapter.ts')
  const [, port, value] = /variable: '([A-Z_]+)', default: (\d+)/.exec(source)!
  const own = [...source.matchAll(/^ {2}([A-Z][A-Z_]+): env\./gm)].map(([, name]) => [name!, ''] as const)
  return new Map([[port!, value!], ...own])
}

function namesIn(path: string, pattern: RegExp, more: string[] = []): Variables {
  return new Map([...[...text(path).matchAll(pattern)].map(([, name]) => name!), ...more].map((name) => [name, '']))
}

function initDbVariables(): Variables {
  const required = SERVICES.filter((service) => service.required).map(({ variable }) => [`${variable}_PASSWORD`, 'x'])
  const { server, waitSeconds } = readInitDbConfig(Object.fromEntries(required))
  const variables: Variables = new Map([
    ['POSTGRES_HOST', server.host],
    ['POSTGRES_PORT', String(server.port)],
    ['POSTGRES_USER', server.user],
    ['POSTGRES_PASSWORD', server.password],
    ['INIT_DB_WAIT_SECONDS', String(waitSeconds)],
  ])
  for (const { variable, database, user } of SERVICES) {
    variables.set(variable, database).set(`${variable}_USER`, user).set(`${variable}_PASSWORD`, '')
  }
  const named = [...text('init-db/src/config.ts').matchAll(/(?:text|secret|wholeNumber)\('([A-Z_]+)'/g)].map(
    ([, name]) => name!,
  )
  for (const name of named)
    if (!variables.has(name)) throw new Error(`init-db reads ${name}, which this test does not know`)
  return variables
}

type Interpolation = { all: string; name: string; required: boolean; otherwise: string | undefined }

/** Every `${NAME…}`, also those inside another's default. */
function interpolated(value: string): Interpolation[] {
  const found: Interpolation[] = []
  for (const { index } of String(value).matchAll(/\$\{/g)) {
    let depth = 0
    let end = index
    do {
      if (value.startsWith('${', end)) depth += 1
      else if (value[end] === '}') depth -= 1
      end += 1
    } while (depth > 0)
    const all = value.slice(index, end)
    const [, name, how, rest] = /^\$\{([A-Z_]+)(?:(:[?-])(.*))?\}$/s.exec(all) ?? []
    if (name === undefined) throw new Error(`${all} is not understood`)
    found.push({ all, name, required: how === ':?', otherwise: how === ':-' ? rest : undefined })
  }
  return found
}

type Yaml = { [key: string]: unknown }

/** As much YAML as the compose file uses: maps by indentation, flow lists and maps, anchors and merges. Anything else throws. */
function readYaml(source: string): Yaml {
  const lines = source.split('\n').filter((line) => !/^\s*(#|$)/.test(line))
  const anchors = new Map<string, Yaml>()

  function readMap(indent: number): Yaml {
    const map: Yaml = {}
    while (lines.length > 0) {
      const [, spaces, key, rest = ''] = /^( *)([\w<.-]+):(?: +(.*))?$/.exec(lines[0]!) ?? []
      if (spaces === undefined || key === undefined || spaces.length > indent)
        throw new Error(`not understood: ${lines[0]}`)
      if (spaces.length < indent) return map
      lines.shift()
      const [, anchor, value] = /^(?:&(\w+) *)?(.*)$/s.exec(rest)!
      if (key === '<<') {
        for (const [name, inherited] of Object.entries(anchors.get(value!.slice(1)) ?? {})) map[name] ??= inherited
      } else {
        map[key] = value === '' ? readBlock(indent) : readScalar(value!)
        if (anchor) anchors.set(anchor, map[key] as Yaml)
      }
    }
    return map
  }

  function readBlock(indent: number): Yaml | null {
    const deeper = /^ */.exec(lines[0] ?? '')![0].length
    return deeper > indent ? readMap(deeper) : null
  }

  function readScalar(value: string): unknown {
    if (value.startsWith('"')) return JSON.parse(value)
    if (/^[[{]/.test(value)) {
      return JSON.parse(
        value.replaceAll(/"(?:[^"\\]|\\.)*"|[^\s,:[\]{}"]+/g, (token) =>
          token.startsWith('"') ? token : JSON.stringify(token),
        ),
      )
    }
    if (/^['|>*!%@`-]|: | #/.test(value)) throw new Error(`not understood: ${value}`)
    return value === 'true' ? true : value === 'false' ? false : value
  }

  return readMap(0)
}
