import { describe, expect, it } from 'vitest'
import type { TrustLog } from './paymentSource.ts'
import { avatarOfToken, trustedAt } from './trust.ts'

const A = `0x${'aa'.repeat(20)}`
const FOREVER = 2n ** 96n - 1n
const log = (blockNumber: number, expirySeconds: bigint, trustReceiver = A): TrustLog => ({
  blockNumber,
  transactionIndex: 0,
  logIndex: 0,
  trustReceiver,
  expirySeconds,
})
const at = (blockNumber: number) => ({ blockNumber, transactionIndex: 1, logIndex: 0 })

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

  it('payments:P10 does not trust at the second trust runs out', () => {
    expect(trustedAt([log(1, 1000n)], A, at(2), 1000n)).toBe(false)
    expect(trustedAt([log(1, 1001n)], A, at(2), 1000n)).toBe(true)
  })

  it('payments:P38 judges by the chain up to the payment, not by what came after it', () => {
    expect(trustedAt([log(50, FOREVER)], A, at(51), 1000n)).toBe(true)
    expect(trustedAt([log(50, FOREVER)], A, at(49), 1000n)).toBe(false)
    expect(trustedAt([log(40, FOREVER), log(60, 0n)], A, at(51), 1000n)).toBe(true)
  })

  it('gives no avatar the trust of another', () => {
    expect(trustedAt([log(1, FOREVER, `0x${'bb'.repeat(20)}`)], A, at(2), 1000n)).toBe(false)
    expect(trustedAt([], A, at(2), 1000n)).toBe(false)
  })
})
