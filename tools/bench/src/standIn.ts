import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

/** Starts a program beside this one and waits until it says something. */
export async function startStandIn(file: string, args: string[]): Promise<ChildProcess> {
  const child = fork(fileURLToPath(new URL(file, import.meta.url)), args, { silent: true })
  child.stderr!.pipe(process.stderr)
  await once(child.stdout!, 'data')
  return child
}
