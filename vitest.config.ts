import { defineConfig } from 'vitest/config'

export default defineConfig({
  resolve: { conditions: ['@market/source'] },
  ssr: { resolve: { conditions: ['@market/source'] } },
  test: {
    include: ['**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
