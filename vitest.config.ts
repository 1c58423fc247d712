import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** The suites that wait longest begin first; begun last, one of them alone would keep the run going for a minute. */
const LONGEST = [
  'acceptance/crash',
  'acceptance/start',
  'acceptance/payments',
  'acceptance/scenarios',
  'acceptance/catalogCommands',
  'packages/conformance',
  'acceptance/chaos',
  'acceptance/buyersApi/checkoutRaces',
  'acceptance/buyersApi',
  'acceptance/purchase',
  'acceptance/embedded',
  'market-api/test',
]

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]) {
    const rank = ({ moduleId }: TestSpecification) => {
      const place = LONGEST.findIndex((path) => moduleId.includes(`/${path}`))
      return place < 0 ? LONGEST.length : place
    }
    return files.toSorted((a, b) => rank(a) - rank(b) || a.moduleId.localeCompare(b.moduleId))
  }
}

export default defineConfig({
  resolve: { conditions: ['@market/source'] },
  ssr: { resolve: { conditions: ['@market/source'] } },
  test: {
    include: ['**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    globalSetup: ['packages/testkit/src/globalSetup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    sequence: { sequencer: LongestFirst },
    // The long suites mostly wait for processes of their own; a third worker uses what two leave of two cores. A fourth loads all
    // modules once more, and takes longer.
    maxWorkers: 3,
    // Every file loading viem, zod and kysely anew costs as much as its tests. No module here keeps state between files.
    isolate: false,
  },
})
