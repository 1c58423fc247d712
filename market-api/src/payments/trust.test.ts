import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { TrustLog } from './paymentSource.ts'
import { avatarOfToken, comparePositions, trustedAt } from './trust.ts'

const A = `0x${'aa'.repeat(20)}`
const FACTORY = `0x${'fa'.repeat(20)}`
const FORGER = `0x${'bad0'.repeat(10)}`
const FOREVER = 2n ** 96n - 1n
const log = (blockNumber: number, expirySeconds: bigint, more: Partial<TrustLog> = {}): TrustLog => ({
  blockNumber,
  transactionIndex: 0,
  logIndex: 0,
  emitter: FACTORY,
  trustReceiver: A,
  expirySeconds,
  ...more,
})
const at = (blockNumber: number, transactionIndex = 1, logIndex = 0) => ({ blockNumber, transactionIndex, logIndex })

describe('trust', () => {
  it('payments:P7 takes the avatar from the low 160 bits of the token id', () => {
    expect(avatarOfToken(2n ** 160n + 0xabcn)).toBe('0x0000000000000000000000000000000000000abc')
  })

  it('payments:P9 lets the latest word win, whatever order the rows come in', () => {
    const rows = [log(5, 0n), log(3, FOREVER)]
    expect(trustedAt(rows, A, at(9), 1000n)).toBe(false)
    expect(trustedAt(rows.toReversed(), A, at(9), 1000n)).toBe(false)
    expect(trustedAt([log(5, FOREVER), log(3, 0n)], A, at(9), 1000n)).toBe(true)
  })

  it('payments:P9 knows the latest within a block by transaction, then log, as numbers', () => {
    const of = (transactionIndex: number, logIndex: number, expiry: bigint) =>
      log(5, expiry, { transactionIndex, logIndex })
    expect(trustedAt([of(10, 0, FOREVER), of(9, 99, 0n)], A, at(9), 1000n)).toBe(true)
    expect(trustedAt([of(2, 10, 0n), of(2, 9, FOREVER)], A, at(9), 1000n)).toBe(false)
  })

  it('payments:P10 does not trust at the second trust runs out', () => {
    expect(trustedAt([log(1, 1000n)], A, at(2), 1000n)).toBe(false)
    expect(trustedAt([log(1, 1001n)], A, at(2), 1000n)).toBe(true)
  })

  it('payments:P11 a forged word counts among all, and not among those of the factory', () => {
    const all = [log(10, FOREVER), log(11, 0n, { emitter: FORGER })]
    const anchored = all.filter(({ emitter }) => emitter === FACTORY)
    expect(trustedAt(all, A, at(20), 1000n)).toBe(false)
    expect(trustedAt(anchored, A, at(20), 1000n)).toBe(true)
    const granted = [log(11, FOREVER, { emitter: FORGER })]
    expect(trustedAt(granted, A, at(20), 1000n)).toBe(true)
    expect(trustedAt([], A, at(20), 1000n)).toBe(false)
  })

  it('payments:P38 judges by the chain up to the payment, not by what came after it', () => {
    expect(trustedAt([log(50, FOREVER)], A, at(51), 1000n)).toBe(true)
    expect(trustedAt([log(50, FOREVER)], A, at(49), 1000n)).toBe(false)
    expect(trustedAt([log(40, FOREVER), log(60, 0n)], A, at(51), 1000n)).toBe(true)
  })

  it('payments:P38 also within the block, and the transaction', () => {
    const granted = [log(50, FOREVER, { transactionIndex: 3, logIndex: 7 })]
    expect(trustedAt(granted, A, at(50, 2, 99), 1000n)).toBe(false)
    expect(trustedAt(granted, A, at(50, 3, 6), 1000n)).toBe(false)
    expect(trustedAt(granted, A, at(50, 3, 8), 1000n)).toBe(true)
    expect(trustedAt(granted, A, at(50, 4, 0), 1000n)).toBe(true)
  })

  it('gives no avatar the trust of another', () => {
    expect(trustedAt([log(1, FOREVER, { trustReceiver: `0x${'bb'.repeat(20)}` })], A, at(2), 1000n)).toBe(false)
    expect(trustedAt([], A, at(2), 1000n)).toBe(false)
  })

  // Small numbers, so that they collide.
  const position = fc.record({ blockNumber: fc.nat(4), transactionIndex: fc.nat(2), logIndex: fc.nat(2) })
  const aLog = fc
    .tuple(position, fc.constantFrom('0xa', '0xb'), fc.bigInt(0n, 4n))
    .map(([place, trustReceiver, expiry]) => log(0, expiry, { ...place, trustReceiver }))
  const someLogs = fc.uniqueArray(aLog, {
    maxLength: 8,
    selector: ({ blockNumber, transactionIndex, logIndex }) => `${blockNumber} ${transactionIndex} ${logIndex}`,
  })

  it('agrees with reading the chain from its beginning to the payment, one log after the other', () => {
    fc.assert(
      fc.property(someLogs, position, fc.bigInt(0n, 4n), (logs, place, now) => {
        const expiry = new Map<string, bigint>()
        for (const each of logs.toSorted(comparePositions)) {
          if (comparePositions(each, place) > 0) break
          expiry.set(each.trustReceiver, each.expirySeconds)
        }
        for (const avatar of ['0xa', '0xb']) {
          expect(trustedAt(logs, avatar, place, now)).toBe((expiry.get(avatar) ?? 0n) > now)
        }
      }),
      { numRuns: 1000 },
    )
  })
})
