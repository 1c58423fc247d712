import 'vitest'

declare module 'vitest' {
  interface ProvidedContext {
    /** Superuser URL of the run's own Postgres, without a database name. */
    postgresUrl: string
    /** Answers where the run's own market is, and starts it for the first who asks (standInMarket.ts). */
    sharedMarketUrl: string
  }
}
