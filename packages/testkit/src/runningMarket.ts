import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '@market/devstack/ports'
import { type Stack, type StackOptions, startStack } from '@market/devstack/stack'

export type RunningMarket = Stack & {
  /** What the services logged, as they logged it. */
  log: { source: string; line: string }[]
  /** Stops everything and forgets the data. */
  remove(): Promise<void>
}

/** The whole market as real processes on free ports, with a data folder of its own. */
export async function startRunningMarket(options: Partial<StackOptions> = {}): Promise<RunningMarket> {
  const dataDir = options.dataDir ?? (await mkdtemp(join(tmpdir(), 'market-stack-')))
  const [market, codeDispenser, postgres, devChain] = await Promise.all([
    freePort(),
    freePort(),
    freePort(),
    freePort(),
  ])
  const log: RunningMarket['log'] = []
  const stack = await startStack({
    dataDir,
    ports: { market: market!, codeDispenser: codeDispenser!, postgres: postgres!, devChain: devChain! },
    fast: true,
    onLine: (source, line) => log.push({ source, line }),
    ...options,
    env: {
      ...process.env,
      POLL_SECONDS: '1',
      CATALOG_POLL_SECONDS: '1',
      LEASE_SECONDS: '2',
      PAYMENTS_LEASE_SECONDS: '2',
      ...options.env,
    },
  }).catch(async (error) => {
    await rm(dataDir, { recursive: true, force: true })
    throw error
  })
  return {
    ...stack,
    log,
    async remove() {
      await stack.stop()
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}
