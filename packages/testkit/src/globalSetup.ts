import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startEmbeddedPostgres } from '@market/devstack/embeddedPostgres'
import { freePort } from '@market/devstack/ports'
import type { TestProject } from 'vitest/node'
import './providedContext.ts'
import { offerSharedMarket } from './standInMarket.ts'

/**
 * One Postgres for the whole run, gone afterwards; every suite makes databases of its own on it. And one market, for the suites
 * that ask for it.
 */
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
  const shared = await offerSharedMarket()
  project.provide('sharedMarketUrl', shared.url)
  return async () => {
    await shared.stop()
    await postgres.stop()
    await rm(folder, { recursive: true, force: true })
  }
}
