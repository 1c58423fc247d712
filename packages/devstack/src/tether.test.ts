import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { expect, it } from 'vitest'
import { DevstackError } from './errors.ts'
import { lookUpProcess } from './processes.ts'
import { spawnTethered, type TetherOptions } from './tether.ts'

const node = (script: string, more: Partial<TetherOptions> = {}) =>
  spawnTethered({ command: process.execPath, args: ['-e', script], stopSignal: 'SIGTERM', ...more })

const isAlive = (pid: number) => lookUpProcess(pid).alive
const goneSoon = (pid: number) => expect.poll(() => isAlive(pid), { timeout: 10_000 }).toBe(false)

const IDLE = 'setInterval(() => {}, 1000)'

/** A process that starts a tethered program, prints its pid, and waits to be killed. */
async function startLauncher(script: string) {
  const source = `
    import { spawnTethered } from ${JSON.stringify(new URL('../dist/tether.js', import.meta.url).href)}
    const onLine = (line) => line === 'up' && console.log(child.pid)
    const child = await spawnTethered(
      { command: process.execPath, args: ['-e', ${JSON.stringify(script)}], stopSignal: 'SIGTERM', onLine })
    setInterval(() => {}, 1000)`
  const launcher = spawn(process.execPath, ['--input-type=module', '-e', source], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [line] = await once(createInterface({ input: launcher.stdout }), 'line')
  return { launcher, pid: Number(line) }
}

it('stops the program when its launcher is killed without warning', async () => {
  const { launcher, pid } = await startLauncher(`console.log('up'); ${IDLE}`)
  expect(isAlive(pid)).toBe(true)
  launcher.kill('SIGKILL')
  await goneSoon(pid)
})

it('gives the program of a killed launcher the time to end in order', async () => {
  const { launcher, pid } = await startLauncher(`
    process.on('SIGTERM', () => setTimeout(() => process.exit(0), 300)); console.log('up'); ${IDLE}`)
  launcher.kill('SIGKILL')
  await once(launcher, 'exit')
  await expect.poll(() => isAlive(pid)).toBe(true)
  await goneSoon(pid)
})

it('says so when the program itself is killed', async () => {
  const child = await node(IDLE)
  process.kill(child.pid, 'SIGKILL')
  expect(await child.exited).toEqual({ code: null, signal: 'SIGKILL' })
})

it('stops the program when the shell around it is killed', async () => {
  const child = await node(`console.log(process.ppid); ${IDLE}`, {
    onLine: (line) => process.kill(Number(line), 'SIGKILL'),
  })
  expect(await child.exited).toEqual({ code: null, signal: 'SIGKILL' })
  await goneSoon(child.pid)
})

it('passes the exit code, and the last line before it', async () => {
  const lines: string[] = []
  const child = await node(
    `console.log('one'); console.error('two'); process.stdout.write('three'); process.exitCode = 7`,
    {
      onLine: (line, stream) => lines.push(`${stream} ${line}`),
    },
  )
  expect(await child.exited).toEqual({ code: 7, signal: null })
  expect(lines.toSorted()).toEqual(['stderr two', 'stdout one', 'stdout three'])
})

it('stops with the signal asked for, and can be asked again', async () => {
  const up: string[] = []
  const child = await node(`process.on('SIGINT', () => process.exit(3)); console.log('up'); ${IDLE}`, {
    stopSignal: 'SIGINT',
    onLine: (line) => up.push(line),
  })
  await expect.poll(() => up).toEqual(['up'])
  await Promise.all([child.stop(10_000), child.stop(10_000)])
  expect(await child.exited).toEqual({ code: 3, signal: null })
  await child.stop(10_000)
})

it('kills a program that does not listen', async () => {
  const up: string[] = []
  const child = await node(`process.on('SIGTERM', () => {}); console.log('up'); ${IDLE}`, {
    onLine: (line) => up.push(line),
  })
  await expect.poll(() => up).toEqual(['up'])
  await child.stop(100)
  expect(await child.exited).toEqual({ code: null, signal: 'SIGKILL' })
})

it('reports a program that is not there', async () => {
  const child = await spawnTethered({ command: '/nowhere/at-all', args: [], stopSignal: 'SIGTERM' })
  expect(await child.exited).toEqual({ code: 127, signal: null })
  await expect(node('', { cwd: '/nowhere' })).rejects.toThrow(DevstackError)
})

it('hands the program neither our pipes nor our input', async () => {
  const lines: string[] = []
  const child = await node(
    `const fs = require('fs'); console.log([3, 4].filter((fd) => { try { return fs.fstatSync(fd).isSocket() } catch {} }).length,
      fs.readFileSync(0).length)`,
    { onLine: (line) => lines.push(line) },
  )
  await child.exited
  expect(lines).toEqual(['0 0'])
})
