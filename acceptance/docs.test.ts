import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createTestDatabase } from '@market/testkit/testDatabase'
import { type Kysely, type Migration, sql } from 'kysely'
import { describe, expect, it } from 'vitest'
import { migrations as codeMigrations } from '../adapters/codedispenser/src/migrations/index.ts'
import { migrations as marketMigrations } from '../market-api/src/db/migrations/index.ts'
import { kitMigrations } from '../packages/adapter-kit/src/migrations.ts'
import { openDatabase } from '../packages/kit/src/db.ts'

// A guide that names what is no longer there teaches distrust.

const root = fileURLToPath(new URL('../', import.meta.url))
const documents = listDocuments('').map((path) => ({ path, text: readFileSync(root + path, 'utf8') }))

describe('documents', () => {
  it('link to files and headings that exist', () => {
    const wrong = documents.flatMap(({ path, text }) =>
      [...withoutCode(text).matchAll(/\]\(([^)\s]+)(?: "[^"]*")?\)/g)]
        .map(([, target]) => target!)
        .filter((target) => !/^[a-z]+:/i.test(target) && !linkHolds(path, target))
        .map((target) => `${path}: ${target}`),
    )
    expect(wrong).toEqual([])
  })

  it('name source files that exist', () => {
    const wrong = documents.flatMap(({ path, text }) =>
      [
        ...text.matchAll(
          /`((?:\.{0,2}\/)?[\w@.-]+(?:\/[\w@.-]+)+\.(?:ts|mts|mjs|js|json|md|ya?ml|sql|sol|sh))(?::\d+)?`/g,
        ),
      ]
        .map(([, name]) => name!)
        .filter((name) => !fileIsThere(path, name))
        .map((name) => `${path}: ${name}`),
    )
    expect(wrong).toEqual([])
  })

  it('name npm commands that package.json has', () => {
    const wrong = documents.flatMap(({ path, text }) =>
      [...text.matchAll(/\bnpm (?:run ([\w:-]+)|(start|test))\b/g)]
        .map(([, script, short]) => script ?? short!)
        .filter((script) => !scriptsFor(path).has(script))
        .map((script) => `${path}: npm run ${script}`),
    )
    expect(wrong).toEqual([])
  })
})

describe('docs/operations.md', () => {
  const blocks = [...readFileSync(`${root}docs/operations.md`, 'utf8').matchAll(/^```sql\n([\s\S]*?)^```/gm)].map(
    ([, block]) => block!,
  )
  const queries = blocks.map((block) => ({
    ofCodes: block.startsWith('-- circles_codedisp'),
    // psql's ways of ending a query, and its variables.
    sql: block.replaceAll(/:'\w+'/g, "'x'").replace(/\\gx|;\s*$/, ''),
  }))

  it.each([
    ['market-api', false, marketMigrations],
    ['the code dispenser', true, { ...kitMigrations, ...codeMigrations }],
  ] as [string, boolean, Record<string, Migration>][])(
    'asks for tables and columns of %s that exist',
    async (_, ofCodes, migrations) => {
      const mine = queries.filter((query) => query.ofCodes === ofCodes)
      expect(mine.length).toBeGreaterThan(1)
      const database = await createTestDatabase()
      const { db, close } = openDatabase<unknown>(database.url, { name: 'docs', poolSize: 1 })
      try {
        for (const name of Object.keys(migrations).toSorted()) await migrations[name]!.up(db as Kysely<any>)
        for (const query of mine) await sql.raw(query.sql).execute(db)
      } finally {
        await close()
        await database.drop()
      }
    },
  )
})

function listDocuments(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`
    if (entry.isDirectory())
      return /^(node_modules|dist|coverage|\.git|\.market.*)$/.test(entry.name) ? [] : listDocuments(path)
    return entry.name.endsWith('.md') ? [path] : []
  })
}

function withoutCode(text: string): string {
  return text.replaceAll(/^```[\s\S]*?^```|^ {4}.*$|`[^`\n]*`/gm, '')
}

function linkHolds(document: string, link: string): boolean {
  const [path = '', heading] = decodeURIComponent(link).split('#')
  const target = path === '' ? document : join(dirname(document), path)
  if (!existsSync(root + target)) return false
  if (heading === undefined || !target.endsWith('.md')) return true
  const headings = [...readFileSync(root + target, 'utf8').matchAll(/^#+ (.*)$/gm)].map(([, title]) => anchor(title!))
  return headings.includes(heading)
}

/** As GitHub makes them. */
function anchor(title: string): string {
  return title
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-')
}

/** From the document's folder or from any above it. What is built counts when its source is there. */
function fileIsThere(document: string, name: string): boolean {
  const candidates = [name]
  if (/(^|\/)dist\/.*\.js$/.test(name)) {
    const source = name.replace(/\.js$/, '.ts')
    candidates.push(source.replace(/(^|\/)dist\//, '$1src/'), source.replace(/(^|\/)dist\//, '$1'))
  }
  return foldersAbove(document).some((folder) =>
    candidates.some((candidate) => {
      const path = join(root, folder, candidate)
      return existsSync(path) && statSync(path).isFile()
    }),
  )
}

/** Scripts of the nearest package and of the root: both are a reader's place. */
function scriptsFor(document: string): Set<string> {
  return new Set(
    foldersAbove(document).flatMap((folder) => {
      const path = join(root, folder, 'package.json')
      return existsSync(path)
        ? Object.keys((JSON.parse(readFileSync(path, 'utf8')) as { scripts?: object }).scripts ?? {})
        : []
    }),
  )
}

function foldersAbove(document: string): string[] {
  const folders: string[] = []
  for (let folder = dirname(document); folder !== '.'; folder = dirname(folder)) folders.push(folder)
  return [...folders, '.']
}
