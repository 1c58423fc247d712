import { type LoggerOptions, pino } from 'pino'

export type Log = {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  child(fields: object): Log
}

/** One JSON object a line on stdout; a pipe takes it at once, so a dying process has said its last word. */
export function createLog(service: string, level: string | undefined): Log {
  // Whoever reads our log may be gone; that is no reason to hang or to die.
  process.stdout.on('error', () => {})
  const options: LoggerOptions = {
    // An unknown level is reported with the rest of the configuration, by a log that works.
    level: level !== undefined && level in pino.levels.values ? level : 'info',
    base: { service },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { err: describeError },
  }
  return pino(options, process.stdout) as unknown as Log
}

/** Enough of an error to find it: its chain of causes, never a query's parameters (postgres puts them on the error). */
function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return String(error)
  const { name, message, stack, cause } = error
  const code = (error as { code?: unknown }).code
  return {
    name,
    message,
    ...(code === undefined ? {} : { code }),
    stack,
    ...(cause === undefined ? {} : { cause: describeError(cause) }),
  }
}
