import { until } from '@market/testkit/until'
import { expect, it } from 'vitest'
import { createLog } from './log.ts'
import { startLoop } from './loop.ts'

const log = createLog('test', 'silent')

it('runs again at once while there is more to do, then rests until it is woken', async () => {
  let runs = 0
  const loop = startLoop({ name: 'test', intervalMs: 60_000, log, step: async () => ++runs < 3 })
  await until('three runs', () => runs === 3)
  loop.wake()
  await until('the fourth', () => runs === 4)
  await loop.stop()
})

it('a wake during a step is not lost', async () => {
  let runs = 0
  let release = () => {}
  const loop = startLoop({
    name: 'test',
    intervalMs: 60_000,
    log,
    step: () => {
      runs += 1
      return runs === 1 ? new Promise<void>((done) => (release = done)) : Promise.resolve()
    },
  })
  await until('the first step is under way', () => runs === 1)
  loop.wake()
  release()
  await until('the second', () => runs === 2)
  await loop.stop()
})

it('goes on after a failure, says that it fails, and says when it is well again', async () => {
  let broken = true
  const loop = startLoop({
    name: 'test',
    intervalMs: 1,
    log,
    step: async () => {
      if (broken) throw new Error('boom\nand a stack')
    },
  })
  await until('it fails', () => loop.failing === 'boom')
  broken = false
  await until('it is well again', () => loop.failing === undefined)
  await loop.stop()
})

it('lets the step under way finish before it stops', async () => {
  let finished = false
  let begun = false
  const loop = startLoop({
    name: 'test',
    intervalMs: 1,
    log,
    step: async () => {
      begun = true
      await new Promise((done) => setImmediate(done))
      finished = true
    },
  })
  await until('it has begun', () => begun)
  await loop.stop()
  expect(finished).toBe(true)
})
