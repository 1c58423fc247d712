import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startEmbeddedPostgres } from '@market/devstack/embeddedPostgres'
import { freePort } from '@market/devstack/ports'
import type { TestProject } from 'vitest/node'
import './providedContext.ts'

/** One Postgres for the whole run, gone afterwards. Every suite makes databases of its own on it. */
export default async function setup(project: TestProject) {
  const folder = await mkdtemp(join(tmpdir(), 'market-tests-'))
  const password = randomBytes(12).toString('hex')
  const postgres = await startEmbeddedPostgres({
    dataDir: join(folder, 'postgres'),
    port: await freePort(),
    password,
    fast: true,
  })
  project.provide('postgresUrl', `postgres://postgres:${password}@127.0.0.1:${postgres.port}`)
  return async () => {
    await postgres.stop()
    await rm(folder, { recursive: true, force: true })
  }
}
