import type { Log } from '@market/kit/log'

export type Logged = { level: string; fields: Record<string, unknown>; message: string }

/** A log that keeps in `logged` what it is told. */
export function recordingLog(logged: Logged[]): Log {
  const note = (level: string) => (fields: object, message: string) =>
    void logged.push({ level, fields: { ...fields }, message })
  const log: Log = {
    debug: note('debug'),
    info: note('info'),
    warn: note('warn'),
    error: note('error'),
    child: () => log,
  }
  return log
}
