import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readPrivateKey } from './catalogConnections.ts'
import { UsageError } from './usageError.ts'

const KEY = `0x${'1a'.repeat(32)}`
const ORDER = 'fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'key-'))
  process.env.TEST_SELLER_KEY = KEY.toUpperCase().replace('0X', '')
  process.env.TEST_SELLER_ZERO = '0'.repeat(64)
  process.env.TEST_SELLER_ORDER = ORDER
  process.env.TEST_SELLER_SHORT = '0x1234'
  await writeFile(join(folder, 'key'), `${KEY}\n`)
})
afterAll(async () => {
  for (const name of ['KEY', 'ZERO', 'ORDER', 'SHORT']) delete process.env[`TEST_SELLER_${name}`]
  await rm(folder, { recursive: true, force: true })
})

describe('--key', () => {
  it('is read from a variable or a file, with 0x or without', () => {
    expect(readPrivateKey('env:TEST_SELLER_KEY')).toBe(KEY)
    expect(readPrivateKey(`file:${join(folder, 'key')}`)).toBe(KEY)
  })

  it.each([
    [KEY, 'must not be the key itself'],
    [KEY.slice(2), 'must not be the key itself'],
    ['secret', 'must be env:NAME, file:PATH or -'],
    ['env:', 'must be env:NAME, file:PATH or -'],
    ['env:TEST_SELLER_NOBODY', 'the variable TEST_SELLER_NOBODY is empty'],
    ['env:TEST_SELLER_SHORT', 'the variable TEST_SELLER_SHORT holds no private key of 32 bytes in hex'],
    ['env:TEST_SELLER_ZERO', 'holds no private key of the curve'],
    ['env:TEST_SELLER_ORDER', 'holds no private key of the curve'],
    ['file:/no/such/key', "can't be read"],
  ])('%s is refused, and what was found is not repeated', (source, message) => {
    let said: unknown
    try {
      readPrivateKey(source)
    } catch (error) {
      said = error
    }
    expect(said).toBeInstanceOf(UsageError)
    expect((said as Error).message).toContain(message)
    for (const secret of [KEY.slice(2), ORDER, '1234']) expect((said as Error).message).not.toContain(secret)
  })
})
