import { defineConfig } from 'vitest/config'

export default defineConfig({
  resolve: { conditions: ['@market/source'] },
  ssr: { resolve: { conditions: ['@market/source'] } },
  test: {
    include: ['**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    globalSetup: ['packages/testkit/src/globalSetup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // The long suites mostly wait for processes of their own; a third worker uses what two leave of two cores.
    maxWorkers: 3,
    // Every file loading viem, zod and kysely anew costs as much as its tests. No module here keeps state between files.
    isolate: false,
  },
})
