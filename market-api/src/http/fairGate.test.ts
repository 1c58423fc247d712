import { expect, it } from 'vitest'
import { createFairGate } from './fairGate.ts'

/** Work that goes on until the test ends it. */
function worker(gate: ReturnType<typeof createFairGate>) {
  const inside: string[] = []
  const ends: (() => void)[] = []
  const enter = (client: string) =>
    gate(client, async () => {
      inside.push(client)
      await new Promise<void>((resolve) => ends.push(resolve))
    })
  const end = async () => {
    ends.shift()!()
    for (let i = 0; i < 10; i += 1) await Promise.resolve()
  }
  return { inside, enter, end }
}

it('keeps a client to its share, and gives the rest to others', async () => {
  const { inside, enter, end } = worker(createFairGate({ places: 3, placesEach: 2, maxWaiting: 10 }))
  const all = [enter('slow'), enter('slow'), enter('slow'), enter('quick')]
  await Promise.resolve()
  expect(inside).toEqual(['slow', 'slow', 'quick'])
  all.push(enter('third'))
  await end()
  // Of the two that wait, whoever waits for a place of all stands first.
  expect(inside).toEqual(['slow', 'slow', 'quick', 'third'])
  while (inside.length < 5) await end()
  for (let i = 0; i < 5; i += 1) await end().catch(() => {})
  await Promise.all(all)
  expect(inside).toEqual(['slow', 'slow', 'quick', 'third', 'slow'])
})

it('sends away with 503 whoever comes when too many of the client wait, and nobody else', async () => {
  const { inside, enter } = worker(createFairGate({ places: 3, placesEach: 1, maxWaiting: 2 }))
  for (let i = 0; i < 3; i += 1) void enter('slow')
  await expect(enter('slow')).rejects.toMatchObject({ status: 503, code: 'busy', details: { retryAfterSeconds: 1 } })
  void enter('quick')
  await Promise.resolve()
  expect(inside).toEqual(['slow', 'quick'])
})

it('gives places back when work fails, and keeps nothing of a client that has gone', async () => {
  const gate = createFairGate({ places: 1, placesEach: 1, maxWaiting: 0 })
  for (let i = 0; i < 3; i += 1) {
    await expect(
      gate('a', async () => {
        throw new Error('gone')
      }),
    ).rejects.toThrow('gone')
  }
  expect(await gate('b', async () => 'done')).toBe('done')
})
