import { expect, it } from 'vitest'
import { progressBar } from './progressBar.ts'

function stage(isTTY: boolean, columns = 90) {
  const written: string[] = []
  let now = 0
  const bar = progressBar({ isTTY, columns, write: (text) => written.push(text) }, 'publish', () => now)
  return { bar, written, pass: (ms: number) => (now += ms) }
}

it('draws over itself on a terminal, ten times a second, and shows the end', () => {
  const { bar, written, pass } = stage(true)
  for (let done = 0; done <= 100; done += 1) {
    bar.show('pinning', done, 100)
    pass(20)
  }
  expect(written.length).toBeGreaterThan(15)
  expect(written.length).toBeLessThan(30)
  expect(written.every((text) => text.startsWith('\r') && !text.includes('\n'))).toBe(true)
  expect(written.at(-1)).toContain('100 of 100 (100 %)')
  bar.end()
  expect(written.at(-1)).toBe('\r\u001b[2K')
})

it('never runs into a second line, which could not be drawn over', () => {
  const { bar, written } = stage(true, 30)
  bar.show('pinning and signing', 100, 100)
  expect(written[0]!.replace('\r\u001b[2K', '')).toHaveLength(29)
})

it('writes a line every two seconds elsewhere, and none for what is quick', () => {
  const { bar, written, pass } = stage(false)
  for (let done = 1; done <= 50; done += 1) {
    bar.show('reading', done, 0)
    pass(10)
  }
  expect(written).toEqual([])
  for (let done = 1; done <= 50; done += 1) {
    bar.show('pinning', done, 50)
    pass(100)
  }
  expect(written).toEqual(['[publish] pinning 21 of 50 (42 %)  11/s\n', '[publish] pinning 41 of 50 (82 %)  10/s\n'])
  bar.end()
  expect(written).toHaveLength(2)
})
