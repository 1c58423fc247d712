import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

// Who may import whom. Looks at the sources, so that a forbidden import fails here and not in somebody's review.

const root = fileURLToPath(new URL('../', import.meta.url))

/** By workspace: the @market packages its sources may import, `name/subpath` = that subpath only. */
const MAY_IMPORT: Record<string, string[]> = {
  'packages/contracts': [],
  'packages/kit': ['contracts'],
  'packages/sdk': ['contracts'],
  'packages/adapter-kit': ['kit', 'contracts'],
  'packages/conformance': ['contracts'],
  'packages/devstack': ['contracts'],
  'packages/testkit': ['devstack', 'kit', 'contracts'],
  'adapters/codedispenser': ['adapter-kit', 'kit', 'contracts'],
  'market-api': ['kit', 'contracts'],
  'init-db': [],
  'tools/dev-chain': ['contracts'],
  // They start a whole market and publish as a seller does.
  'tools/chaos': ['contracts', 'devstack', 'testkit', 'dev-chain'],
  'tools/bench': ['contracts', 'devstack', 'testkit', 'dev-chain', 'market-api/ops'],
  // The composition root: of the services only what they offer to operators; the demo is a front end and takes the sdk.
  scripts: ['kit', 'contracts', 'sdk', 'devstack', 'dev-chain', 'codedispenser/ops', 'market-api/ops'],
}
/** Tests may start things. */
const TESTS_MAY_ALSO_IMPORT = ['testkit', 'devstack', 'dev-chain']
const ACCEPTANCE_MAY_IMPORT = ['sdk', 'contracts', ...TESTS_MAY_ALSO_IMPORT]

/** Inside market-api, whom a feature may import besides itself; what those may import counts as well. */
const FEATURES: Record<string, string[]> = {
  baskets: ['catalog', 'orders'],
  catalog: ['serviceRoutes', 'chain'],
  pinning: ['catalog'],
  serviceRoutes: [],
  payments: ['orders'],
  orders: ['fulfillment'],
  privacy: ['orders'],
  fulfillment: ['serviceRoutes'],
  signIn: ['chain'],
  chain: [],
  openapi: ['baskets', 'fulfillment', 'orders', 'signIn'],
}

/**
 * What breaks a rule above and stays for now, each with its reason: a file, or a folder with all in it, and what it imports.
 * An entry that is no longer needed fails.
 */
const TOLERATED: Record<string, string> = {
  'acceptance/deployment.test.ts → init-db/src/config.ts': 'compares the schema itself with the documents',
  'acceptance/deployment.test.ts → market-api/src/config.ts': 'compares the schema itself with the documents',
  'acceptance/deployment.test.ts → packages/kit/src/db.ts': 'proves that the parser reads what compose builds',
  'acceptance/docs.test.ts → market-api/src/db/migrations/index.ts':
    'runs the queries of docs/operations.md on the real tables',
  'acceptance/docs.test.ts → adapters/codedispenser/src/migrations/index.ts':
    'runs the queries of docs/operations.md on the real tables',
  'acceptance/docs.test.ts → packages/adapter-kit/src/migrations.ts':
    'runs the queries of docs/operations.md on the real tables',
  'acceptance/docs.test.ts → packages/kit/src/db.ts': 'runs the queries of docs/operations.md on the real tables',
}

const NO_NAME = /^(utils?|helpers?|managers?|commons?|miscs?|shared|lib)$/i

type Import = { file: string; specifier: string; typeOnly: boolean }

const files = listFiles('')
const workspaces = listWorkspaces()
const imports = files.filter((file) => /\.(ts|mts|mjs|js)$/.test(file)).flatMap(readImports)
const rootDevDependencies = new Set(Object.keys(readPackage('').devDependencies ?? {}))

const byTable = () =>
  imports.filter(({ file, specifier }) => {
    const wanted = /^@market\/(.+)$/.exec(specifier)?.[1]
    if (wanted === undefined) return false
    const workspace = workspaceOf(file)
    const allowed = [
      ...(workspace ? (MAY_IMPORT[workspace] ?? []) : ACCEPTANCE_MAY_IMPORT),
      ...(isTest(file) ? TESTS_MAY_ALSO_IMPORT : []),
      // Itself, by the name others use.
      ...(workspace && isTest(file) ? [workspaces.get(workspace)!.name.replace('@market/', '')] : []),
    ]
    return !allowed.some((one) => wanted === one || wanted.startsWith(`${one}/`))
  })

/** Tests take vitest and what starts things from the root, where npm puts them. */
const byPackageJson = () =>
  imports.filter(({ file, specifier }) => {
    const workspace = workspaceOf(file)
    if (workspace === undefined || /^(\.|node:)/.test(specifier)) return false
    const name = specifier
      .split('/')
      .slice(0, specifier.startsWith('@') ? 2 : 1)
      .join('/')
    const { name: own, listed } = workspaces.get(workspace)!
    const forTests = rootDevDependencies.has(name) || TESTS_MAY_ALSO_IMPORT.includes(name.replace('@market/', ''))
    return name !== own && !listed.has(name) && !(isTest(file) && forTests)
  })

const byPath = () =>
  imports.filter(
    ({ file, specifier }) => specifier.startsWith('.') && workspaceOf(file) !== workspaceOf(target(file, specifier)),
  )

const byArrow = () =>
  imports.filter(({ file, specifier, typeOnly }) => {
    const from = featureOf(file)
    if (from === undefined || typeOnly || isTest(file) || !specifier.startsWith('.')) return false
    const to = featureOf(target(file, specifier))
    return to !== undefined && to !== from && !reachable(from).has(to)
  })

const rules = { byTable, byPackageJson, byPath, byArrow }

describe('imports between workspaces', () => {
  it('has a rule for every workspace and no rule for any other', () => {
    expect(Object.keys(MAY_IMPORT).toSorted()).toEqual([...workspaces.keys()].toSorted())
  })

  it('names @market packages as the table allows', () => {
    expect(intolerable(byTable())).toEqual([])
  })

  it("names only packages that the workspace's package.json lists", () => {
    expect(intolerable(byPackageJson())).toEqual([])
  })

  it('reaches another workspace by its name, never by a path', () => {
    expect(intolerable(byPath())).toEqual([])
  })

  it('never joins two services', () => {
    const services = [...workspaces.keys()].filter((workspace) => /^(market-api|init-db|adapters\/)/.test(workspace))
    const wrong = imports.filter(({ file, specifier }) => {
      const workspace = workspaceOf(file)
      if (workspace === undefined || !services.includes(workspace)) return false
      return services.some(
        (other) => other !== workspace && `${specifier}/`.startsWith(`${workspaces.get(other)!.name}/`),
      )
    })
    expect(wrong).toEqual([])
  })
})

describe('packages/contracts', () => {
  it('only computes: no module of Node', () => {
    const wrong = imports.filter(
      ({ file, specifier }) =>
        file.startsWith('packages/contracts/src/') && !isTest(file) && specifier.startsWith('node:'),
    )
    expect(wrong).toEqual([])
  })
})

describe('features of market-api', () => {
  it('are all known', () => {
    // Not features: what assembles them, and what stores rows.
    const others = ['http', 'db']
    const folders = new Set(files.flatMap((file) => /^market-api\/src\/(\w+)\//.exec(file)?.[1] ?? []))
    expect([...folders].filter((folder) => !others.includes(folder)).toSorted()).toEqual(
      Object.keys(FEATURES).toSorted(),
    )
  })

  it('run code of each other only along the arrows', () => {
    expect(intolerable(byArrow())).toEqual([])
  })

  it('form no circle', () => {
    for (const feature of Object.keys(FEATURES)) expect(reachable(feature), feature).not.toContain(feature)
  })
})

describe('names', () => {
  it('say what a thing is: no utils, helpers, managers, commons or miscellanies', () => {
    const named = files.flatMap((file) =>
      file.split('/').map((segment) => [file, segment.replace(/\..*$/, '')] as const),
    )
    expect(named.filter(([, name]) => NO_NAME.test(name)).map(([file]) => file)).toEqual([])
  })
})

describe('what is tolerated', () => {
  it('is still there', () => {
    const found = Object.values(rules).flatMap((rule) => rule())
    expect(Object.keys(TOLERATED).filter((entry) => !found.some((one) => entriesFor(one).includes(entry)))).toEqual([])
  })
})

function intolerable(found: Import[]): string[] {
  return found.filter((one) => !entriesFor(one).some((entry) => entry in TOLERATED)).map((one) => entriesFor(one)[0]!)
}

/** How the list may name an import: by its file, or by any folder above that. */
function entriesFor({ file, specifier }: Import): string[] {
  const to = specifier.startsWith('.') ? target(file, specifier) : specifier
  const folders = file.split('/').map((_, depth, segments) => `${segments.slice(0, depth).join('/')}/`)
  return [file, ...folders].map((from) => `${from} → ${to}`)
}

/** What a relative import names, from the root. */
function target(file: string, specifier: string): string {
  return relative(root, resolve(root, dirname(file), specifier))
    .split(sep)
    .join('/')
}

function reachable(feature: string): Set<string> {
  const found = new Set<string>()
  const walk = (from: string) => {
    for (const to of FEATURES[from] ?? []) {
      if (found.has(to)) continue
      found.add(to)
      walk(to)
    }
  }
  walk(feature)
  return found
}

function featureOf(file: string): string | undefined {
  const folder = /^market-api\/src\/(\w+)\//.exec(file)?.[1]
  return folder !== undefined && folder in FEATURES ? folder : undefined
}

function isTest(file: string): boolean {
  return file.endsWith('.test.ts') || /(^|\/)(test|acceptance)\//.test(file)
}

/** Undefined: the root, where acceptance/ and configuration live. */
function workspaceOf(file: string): string | undefined {
  const path = `${file}/`
  return [...workspaces.keys()].find((workspace) => path.startsWith(`${workspace}/`))
}

function readImports(file: string): Import[] {
  // Comments may quote code.
  const source = readFileSync(join(root, file), 'utf8').replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '')
  const statements = source.matchAll(/^\s*(?:import|export)\s+(type\s+)?([^'"();]*?\s*from\s*)?['"]([^'"\n]+)['"]/gm)
  const dynamic = source.matchAll(/\bimport\(\s*['"]([^'"\n]+)['"]/g)
  return [
    ...[...statements].map(([, type, names = '', specifier]) => ({
      file,
      specifier: specifier!,
      typeOnly: type !== undefined || onlyTypes(names),
    })),
    ...[...dynamic].map(([, specifier]) => ({ file, specifier: specifier!, typeOnly: false })),
  ]
}

/** `{ type A, type B } from`: nothing is left of it at run time. */
function onlyTypes(names: string): boolean {
  const inside = /^\{([^}]*)\}/.exec(names.trim())?.[1]
  if (inside === undefined) return false
  const each = inside
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '')
  return each.length > 0 && each.every((name) => name.startsWith('type '))
}

function listFiles(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`
    if (entry.isDirectory())
      return /^(node_modules|dist|coverage|\.git|\.market.*|\.cache)$/.test(entry.name) ? [] : listFiles(path)
    return entry.isFile() ? [path] : []
  })
}

function listWorkspaces() {
  const { workspaces: patterns = [] } = readPackage('')
  const folders = patterns.flatMap((pattern) => {
    if (!pattern.endsWith('/*')) return [pattern]
    const parent = pattern.slice(0, -2)
    return readdirSync(join(root, parent)).map((name) => `${parent}/${name}`)
  })
  return new Map(
    folders
      .filter((folder) => existsSync(join(root, folder, 'package.json')))
      .map((folder) => {
        const { name, dependencies, devDependencies, optionalDependencies } = readPackage(folder)
        return [
          folder,
          { name, listed: new Set(Object.keys({ ...dependencies, ...devDependencies, ...optionalDependencies })) },
        ]
      }),
  )
}

type Package = { name: string; workspaces?: string[] } & Partial<
  Record<'dependencies' | 'devDependencies' | 'optionalDependencies', Record<string, string>>
>

function readPackage(folder: string): Package {
  return JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8')) as Package
}
