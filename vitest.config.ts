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
    // Suites start processes of their own; more at once than cores only makes them wait for each other.
    maxWorkers: 2,
  },
})
