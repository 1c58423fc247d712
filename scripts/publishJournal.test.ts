import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { CustomDataLink } from '@market/contracts/link'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openFileJournal } from './publishJournal.ts'

let folder: string
beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), 'journal-'))))
afterAll(() => rm(folder, { recursive: true, force: true }))

const link = (name: string, cid: string) => ({ name, cid }) as CustomDataLink

it('remembers across runs what was pinned and signed, and begins no file before there is something', () => {
  const path = join(folder, 'a.jsonl')
  const first = openFileJournal(path, 'here')
  expect(existsSync(path)).toBe(false)
  first.pinned('Qm1')
  first.signed(link('product/a', 'Qm1'))
  first.signed(link('product/a', 'Qm2'))
  expect(first.firstTime(100)).toBe(100)

  const second = openFileJournal(path, 'here')
  expect(second.resumed).toEqual({ pinned: 1, links: 2 })
  expect([second.isPinned('Qm1'), second.isPinned('Qm2')]).toEqual([true, false])
  expect(second.linksOf('product/a').map(({ cid }) => cid)).toEqual(['Qm1', 'Qm2'])
  expect(second.linksOf('product/b')).toEqual([])
  expect(second.firstTime(200)).toBe(100)
  second.remove()
  second.remove()
  expect(existsSync(path)).toBe(false)
})

it('passes over half a line, and what comes after it is whole', () => {
  const path = join(folder, 'b.jsonl')
  openFileJournal(path, 'here').pinned('Qm1')
  writeFileSync(path, `${readFileSync(path, 'utf8')}{"pinned":"Q`)
  openFileJournal(path, 'here').pinned('Qm2')
  const third = openFileJournal(path, 'here')
  expect([third.isPinned('Qm1'), third.isPinned('Qm2')]).toEqual([true, true])
})

it('knows nothing of another storage, and forgets it when it begins', () => {
  const path = join(folder, 'c.jsonl')
  openFileJournal(path, 'here').pinned('Qm1')
  const elsewhere = openFileJournal(path, 'there')
  expect(elsewhere.isPinned('Qm1')).toBe(false)
  elsewhere.pinned('Qm2')
  expect(openFileJournal(path, 'here').resumed.pinned).toBe(0)
})
