import 'vitest'

declare module 'vitest' {
  interface ProvidedContext {
    /** Superuser URL of the run's own Postgres, without a database name. */
    postgresUrl: string
  }
}
