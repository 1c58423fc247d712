import { type ChildProcess, spawn } from 'node:child_process'
import { constants } from 'node:os'
import { createInterface } from 'node:readline'
import type { Duplex, Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { causeOf, DevstackError } from './errors.ts'

/** How a program ended. Code and signal exclude each other. */
export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

export interface TetherOptions {
  command: string
  args: readonly string[]
  env?: NodeJS.ProcessEnv
  cwd?: string
  stopSignal: NodeJS.Signals
  uid?: number
  gid?: number
  onLine?: (line: string, stream: 'stdout' | 'stderr') => void
}

export interface Child {
  /** Of the program itself, not of the shell around it. */
  readonly pid: number
  /** Never rejects. */
  readonly exited: Promise<Exit>
  /** Sends the stop signal, after `graceMs` SIGKILL, and resolves when the program is gone. May be called again. */
  stop(graceMs: number): Promise<void>
  /** SIGKILL, now. */
  kill(): void
}

/**
 * $1 is the stop signal, the rest is the program. Descriptor 3 is the tether: nobody writes to it, and the kernel closes
 * our end whatever kills us. Descriptor 4 takes the program's pid. The shell's own output is closed after the start, so
 * that only the program holds our pipes and a bash that reports "Killed" reports it to nobody.
 */
const TETHER = `
signal=$1
shift
"$@" </dev/null 3<&- 4>&- &
program=$!
echo "$program" >&4
exec 4>&- >/dev/null 2>&1
{
  read -r _ <&3
  kill -s "$signal" "$program"
  seconds=0
  while [ "$seconds" -lt 30 ] && kill -0 "$program"; do
    sleep 1
    seconds=$((seconds + 1))
  done
  kill -s KILL "$program"
} &
watcher=$!
exec 3<&-
wait "$program"
code=$?
kill "$watcher"
exit "$code"
`

/**
 * Starts a program that stops when this process ends, however it ends: SIGKILL included. It runs in a session of its own,
 * so a terminal's Ctrl-C reaches this process alone and we decide the order of stopping.
 */
export async function spawnTethered(options: TetherOptions): Promise<Child> {
  const { command, args, stopSignal, onLine } = options
  const output = onLine ? 'pipe' : 'ignore'
  const refusal = (error: unknown) => {
    const why =
      options.uid !== undefined && causeOf(error) === 'EPERM'
        ? `root may not become user ${options.uid} here; start as an ordinary user`
        : causeOf(error)
    return new DevstackError(`cannot start ${command}: ${why}`)
  }
  let shell: ChildProcess
  try {
    shell = spawn('/bin/sh', ['-c', TETHER, 'tether', stopSignal.replace(/^SIG/, ''), command, ...args], {
      ...(options.env && { env: options.env }),
      ...(options.cwd !== undefined && { cwd: options.cwd }),
      ...(options.uid !== undefined && { uid: options.uid }),
      ...(options.gid !== undefined && { gid: options.gid }),
      detached: true,
      stdio: ['ignore', output, output, 'pipe', 'pipe'],
    })
  } catch (error) {
    // Some failures are emitted, others, a change of user among them, are thrown.
    throw refusal(error)
  }
  const tether = shell.stdio[3] as Duplex
  const pidPipe = shell.stdio[4] as Readable

  let gone = false
  const closed = new Promise((resolve) => shell.once('close', resolve))
  const exited = new Promise<Exit>((resolve) => {
    shell.once('exit', async (code, signal) => {
      gone = true
      // If it was the shell that somebody killed, this tells the watcher to stop the program.
      tether.destroy()
      // The last lines say why. A grandchild may hold the pipe open, so no longer than this.
      await Promise.race([closed, delay(500, undefined, { ref: false })])
      resolve(asExit(code, signal))
    })
  })
  if (onLine) {
    for (const name of ['stdout', 'stderr'] as const)
      createInterface({ input: shell[name] as Readable }).on('line', (line) => onLine(line, name))
  }

  const pid = await new Promise<number>((resolve, reject) => {
    tether.on('error', () => {})
    pidPipe.on('error', () => {})
    shell.once('error', (error) => reject(refusal(error)))
    let text = ''
    pidPipe.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
      if (text.endsWith('\n')) resolve(Number(text))
    })
    pidPipe.once('end', () => reject(refusal('the shell could not run it')))
  })

  const signal = (name: NodeJS.Signals) => {
    if (gone) return
    try {
      process.kill(pid, name)
    } catch {
      // It ended between the check and the call.
    }
  }
  return {
    pid,
    exited,
    async stop(graceMs) {
      signal(stopSignal)
      const timer = setTimeout(() => signal('SIGKILL'), graceMs)
      await exited
      clearTimeout(timer)
    },
    kill: () => signal('SIGKILL'),
  }
}

/** A shell reports a program killed by signal n as exit code 128 + n. */
function asExit(code: number | null, signal: NodeJS.Signals | null): Exit {
  const names = Object.entries(constants.signals) as [NodeJS.Signals, number][]
  const killedBy = names.find(([, number]) => number + 128 === code)?.[0]
  return killedBy ? { code: null, signal: killedBy } : { code, signal }
}
