import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { DevstackError } from './errors.ts'
import { lockDataDir } from './lock.ts'
import { lookUpProcess } from './processes.ts'

let dir: string
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'devstack-lock-'))
})
afterEach(() => rm(dir, { recursive: true, force: true }))

const writeLock = (text: string) => writeFile(join(dir, 'start.lock'), text)

async function deadPid(): Promise<number> {
  const child = spawn(process.execPath, ['-e', ''])
  await once(child, 'exit')
  return child.pid as number
}

it('lets one process in, and the next when that one is done', async () => {
  const lock = await lockDataDir(join(dir, 'not', 'there'))
  await expect(lockDataDir(join(dir, 'not', 'there'))).rejects.toThrow(
    `already running in ${dir}/not/there (pid ${process.pid})`,
  )
  await lock.release()
  await lock.release()
  await (await lockDataDir(join(dir, 'not', 'there'))).release()
  expect(await readdir(join(dir, 'not', 'there'))).toEqual([])
})

it('takes over the lock of a process that died', async () => {
  await writeLock(JSON.stringify({ pid: await deadPid(), startTime: '1' }))
  await (await lockDataDir(dir)).release()
})

it.runIf(process.platform === 'linux')('takes over when the number belongs to another process now', async () => {
  await writeLock(JSON.stringify({ pid: process.ppid, startTime: '1' }))
  await (await lockDataDir(dir)).release()
  await writeLock(JSON.stringify({ pid: process.ppid, startTime: lookUpProcess(process.ppid).startTime }))
  await expect(lockDataDir(dir)).rejects.toThrow(`(pid ${process.ppid})`)
})

it('takes over a lock that was never written to the end', async () => {
  await writeLock('{"pi')
  await (await lockDataDir(dir)).release()
})

it('gives a stale lock to exactly one of many', async () => {
  await writeLock(JSON.stringify({ pid: await deadPid() }))
  const results = await Promise.allSettled(Array.from({ length: 20 }, () => lockDataDir(dir)))
  expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(1)
  for (const result of results) if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(DevstackError)
})

it('says that the folder is not writable', async () => {
  await writeFile(join(dir, 'file'), '')
  await expect(lockDataDir(join(dir, 'file', 'below'))).rejects.toThrow('is not writable (ENOTDIR)')
  if (process.getuid?.() === 0) return
  await chmod(dir, 0o500)
  await expect(lockDataDir(dir)).rejects.toThrow('is not writable (EACCES)')
  await chmod(dir, 0o700)
})
