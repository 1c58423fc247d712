import { openDatabase } from '@market/kit/db'
import { createLog } from '@market/kit/log'
import { migrateToLatest } from '@market/kit/migrate'
import { createTestDatabase } from '@market/testkit/testDatabase'
import { sql } from 'kysely'
import { expect, it, onTestFinished } from 'vitest'
import { kitMigrations } from './migrations.ts'
import { openFingerprint, openSecretBox, resealAdapterSecrets } from './secrets.ts'

const key = (id: string, byte: number) => `${id}:${Buffer.alloc(32, byte).toString('base64')}`

it('finds equal texts by the same digest in each process and after the key changed, and lies sealed', async () => {
  const home = await createTestDatabase()
  const { db, close } = openDatabase<any>(home.url, { name: 'test' })
  onTestFinished(async () => {
    await close()
    await home.drop()
  })
  await migrateToLatest(db, kitMigrations, createLog('test', 'fatal'))
  const before = openSecretBox(key('k1', 1))
  // Both make a key: one of the two is kept.
  const [one, two] = await Promise.all([openFingerprint(db, before), openFingerprint(db, before)])
  expect(one('ABC').toString('hex')).toBe(two('ABC').toString('hex'))
  expect(one('ABC').toString('hex')).not.toBe(one('ABD').toString('hex'))

  await expect(openFingerprint(db, openSecretBox(key('k2', 2)))).rejects.toThrow('not in ADAPTER_SECRETS_KEY')
  await resealAdapterSecrets(db, openSecretBox(`${key('k2', 2)},${key('k1', 1)}`))
  const after = await openFingerprint(db, openSecretBox(key('k2', 2)))
  expect(after('ABC').toString('hex')).toBe(one('ABC').toString('hex'))
  const { rows } = await sql<{ sealed: string }>`select sealed from adapter_secrets`.execute(db)
  expect(rows).toEqual([{ sealed: expect.stringMatching(/^v1:k2:/) }])
})
