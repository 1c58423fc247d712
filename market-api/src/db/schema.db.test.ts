import { readFileSync } from 'node:fs'
import { openDatabase } from '@market/kit/db'
import { createLog } from '@market/kit/log'
import { migrateToLatest } from '@market/kit/migrate'
import { createTestDatabase } from '@market/testkit/testDatabase'
import { sql } from 'kysely'
import { expect, it } from 'vitest'
import { migrations } from './migrations/index.ts'

it('types.ts names every table and column that the migrations make, with its nullability, and no other', async () => {
  const database = await createTestDatabase()
  const { db, close } = openDatabase(database.url, { name: 'schema' })
  try {
    await migrateToLatest(db, migrations, createLog('test', 'error'))
    const { rows } = await sql<{ table_name: string; columns: string[] }>`
      select table_name, array_agg(column_name || case is_nullable when 'YES' then '?' else '' end order by ordinal_position) as columns
      from information_schema.columns
      where table_schema = 'public' and table_name not like 'kysely%' and table_name <> 'leases'
      group by table_name`.execute(db)
    const real = Object.fromEntries(rows.map(({ table_name, columns }) => [table_name, columns.toSorted()]))

    const source = readFileSync(new URL('types.ts', import.meta.url), 'utf8')
    const tables = source.slice(source.indexOf('export type MarketDatabase'), source.indexOf('/** What the indexer'))
    const typed = Object.fromEntries(
      [...tables.matchAll(/^ {2}(\w+): \{\n([\s\S]*?)^ {2}\}/gm)].map(([, table, body]) => [
        table,
        [...body!.matchAll(/^ {4}(\w+): (.*)$/gm)]
          .map(([, column, type]) => `${column}${type!.includes('| null') ? '?' : ''}`)
          .toSorted(),
      ]),
    )
    expect(typed).toEqual(real)
  } finally {
    await close()
    await database.drop()
  }
})

it('every foreign key has an index, so that no delete or join has to read a whole table', async () => {
  const database = await createTestDatabase()
  const { db, close } = openDatabase(database.url, { name: 'schema' })
  try {
    await migrateToLatest(db, migrations, createLog('test', 'error'))
    const { rows } = await sql`
      select c.conrelid::regclass::text as table, c.conname as key from pg_constraint c
      where c.contype = 'f' and not exists (
        select 1 from pg_index i where i.indrelid = c.conrelid
          and (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey)`.execute(db)
    expect(rows).toEqual([])
  } finally {
    await close()
    await database.drop()
  }
})
