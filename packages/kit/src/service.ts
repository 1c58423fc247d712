import type { Server } from 'node:http'
import { messageOf, StartupError } from './errors.ts'
import { drain } from './http.ts'
import type { Log } from './log.ts'

const DRAIN_MS = 10_000
/** Whatever is still under way then is cut: everything here survives a kill. */
const SHUTDOWN_MS = 15_000

export type Running = {
  servers: Server[]
  /** Called when shutdown begins, before the servers drain: readiness turns red, loops finish their step. */
  quiesce?(): Promise<void> | void
  /** Called last: pools and files. */
  close(): Promise<void>
}

/**
 * The frame of every service's `main.ts`: a start that fails ends in one line and exit code 1; SIGTERM and SIGINT drain;
 * an error nobody caught ends the process, because what it left behind in memory can't be trusted.
 */
export async function runService(log: Log, start: () => Promise<Running>): Promise<void> {
  let stopping = false
  const die = (error: unknown) => {
    log.error({ err: error }, 'fatal')
    process.exit(1)
  }
  process.on('uncaughtException', die)
  process.on('unhandledRejection', die)

  let running: Running
  try {
    running = await start()
  } catch (error) {
    log.error(error instanceof StartupError ? {} : { err: error }, `cannot start: ${messageOf(error)}`)
    process.exit(1)
  }

  const stop = async (signal: NodeJS.Signals) => {
    if (stopping) return
    stopping = true
    log.info({ signal }, 'stopping')
    setTimeout(() => {
      log.warn({}, 'stopped with work under way; it is taken up again')
      process.exit(0)
    }, SHUTDOWN_MS).unref()
    try {
      await running.quiesce?.()
    } catch (error) {
      // Postgres may be gone before us; requests under way are drained all the same.
      log.warn({ err: error }, 'not quiesced')
    }
    await Promise.all(running.servers.map((server) => drain(server, DRAIN_MS)))
    await running.close().catch((error: unknown) => log.warn({ err: error }, 'not closed'))
    log.info({}, 'stopped')
    process.exit(0)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
}
