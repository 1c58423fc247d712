import { expect, it } from 'vitest'
import { createGate } from './gate.ts'

it('runs so many at a time, lets some wait in order, and refuses the rest', async () => {
  const gate = createGate(2, 3)
  const ends: (() => void)[] = []
  const started: number[] = []
  const enter = (n: number) =>
    gate(async () => {
      started.push(n)
      await new Promise<void>((resolve) => ends.push(resolve))
      return n
    })
  const inside = [1, 2, 3, 4, 5].map(enter)
  await expect(enter(6)).rejects.toMatchObject({ status: 503, code: 'busy', details: { retryAfterSeconds: 1 } })
  expect(started).toEqual([1, 2])

  ends.shift()!()
  expect(await inside[0]).toBe(1)
  // The place went to who waited first, so one more may wait again.
  const seventh = enter(7)
  await expect(enter(8)).rejects.toThrow()
  expect(started).toEqual([1, 2, 3])

  for (let n = 0; n < 5; n += 1) {
    ends.shift()!()
    await new Promise(setImmediate)
  }
  expect(await Promise.all([...inside.slice(1), seventh])).toEqual([2, 3, 4, 5, 7])
  expect(started).toEqual([1, 2, 3, 4, 5, 7])
})

it('gives the place of failed work to the next', async () => {
  const gate = createGate(1, 1)
  const failing = gate(() => Promise.reject(new Error('no')))
  const next = gate(async () => 'yes')
  await expect(failing).rejects.toThrow('no')
  expect(await next).toBe('yes')
  expect(await gate(async () => 'again')).toBe('again')
})
