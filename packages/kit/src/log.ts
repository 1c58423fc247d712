import { type LoggerOptions, pino, symbols } from 'pino'

export type Log = {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  child(fields: object): Log
}

/** One JSON object a line on stdout. */
export function createLog(service: string, level: string | undefined): Log {
  const options: LoggerOptions = {
    // An unknown level is reported with the rest of the configuration, by a log that works.
    level: level !== undefined && level in pino.levels.values ? level : 'info',
    base: { service },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { err: describeError },
  }
  stdout ??= stdoutInBatches()
  return pino(options, stdout) as unknown as Log
}

/** One for the process, however many logs. */
let stdout: ReturnType<typeof stdoutInBatches> | undefined

/** What a process that is killed may have left unsaid, in ms. */
const BATCH_MS = 20
const WARN = 40

/**
 * Lines go out together, because one write each costs a busy service more than the rest of a short request. A warning or an error
 * goes out at once, with all before it: a dying process has said its last word.
 */
function stdoutInBatches() {
  // Whoever reads our log may be gone; that is no reason to hang or to die.
  process.stdout.on('error', () => {})
  let waiting = ''
  let timer: NodeJS.Timeout | undefined
  const flush = () => {
    clearTimeout(timer)
    timer = undefined
    if (waiting === '') return
    const lines = waiting
    waiting = ''
    process.stdout.write(lines)
  }
  process.on('exit', flush)
  return {
    // Asks pino for `lastLevel`.
    [symbols.needsMetadataGsym]: true,
    lastLevel: 0,
    write(line: string) {
      waiting += line
      if (this.lastLevel >= WARN) flush()
      else timer ??= setTimeout(flush, BATCH_MS)
    },
  }
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
