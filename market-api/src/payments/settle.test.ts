import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type CreditedTransfer, settle } from './settle.ts'

const E18 = 10n ** 18n
const depths = (head: number, confirm = 3, finalize = 12) => ({ head, confirm, finalize })
let serial = 0
const transfer = (blockNumber: number, amountWei: bigint): CreditedTransfer => {
  serial += 1
  return { blockNumber, transactionIndex: 0, logIndex: serial, txHash: `0x${serial}`, amountWei }
}

describe('settle', () => {
  it('payments:P16 adds transfers up and names the one that reached the price', () => {
    const [first, second] = [transfer(100, 4n * E18), transfer(101, 6n * E18)]
    expect(settle(10n * E18, [first], depths(101)).paidBy).toBeUndefined()
    expect(settle(10n * E18, [second, first], depths(101))).toMatchObject({ paidBy: second, seenWei: 10n * E18 })
  })

  it('payments:P17 shows a surplus', () => {
    expect(settle(10n * E18, [transfer(100, 12n * E18)], depths(100)).seenWei).toBe(12n * E18)
  })

  it('payments:P20 needs three blocks on top to be confirmed and twelve to be complete', () => {
    const paid = [transfer(100, 10n * E18)]
    expect(settle(10n * E18, paid, depths(102))).toMatchObject({ confirmed: false, complete: false })
    expect(settle(10n * E18, paid, depths(103))).toMatchObject({ confirmed: true, complete: false })
    expect(settle(10n * E18, paid, depths(111))).toMatchObject({ confirmed: true, complete: false })
    expect(settle(10n * E18, paid, depths(112))).toMatchObject({ confirmed: true, complete: true })
  })

  it('payments:P21 lends the age of early dust to no later payment', () => {
    const history = [transfer(100, 1n), transfer(200, 10n * E18)]
    expect(settle(10n * E18, history, depths(203))).toMatchObject({ confirmed: true, complete: false })
    expect(settle(10n * E18, history, depths(212))).toMatchObject({ complete: true })
  })

  it('payments:P22 completes an order that was topped up long after its first payment', () => {
    const history = [transfer(100, 4n * E18), transfer(501, 6n * E18)]
    expect(settle(10n * E18, history, depths(500)).paidBy).toBeDefined()
    expect(settle(10n * E18, history.slice(0, 1), depths(500))).toMatchObject({ paidBy: undefined, complete: false })
    expect(settle(10n * E18, history, depths(513))).toMatchObject({ confirmed: true, complete: true })
  })

  it('payments:P40 takes 0 confirmations as: as soon as seen', () => {
    expect(settle(E18, [transfer(100, E18)], depths(100, 0, 0))).toMatchObject({ confirmed: true, complete: true })
  })

  it('agrees with an obvious model over any history, in any order of arrival', () => {
    const histories = fc.array(
      fc.record({ block: fc.integer({ min: 0, max: 30 }), amount: fc.bigInt({ min: 0n, max: 5n }) }),
      { maxLength: 8 },
    )
    const settings = fc.record({ head: fc.integer({ min: 0, max: 40 }), confirm: fc.nat(4), finalize: fc.nat(8) })
    fc.assert(
      fc.property(
        fc.bigInt({ min: 1n, max: 12n }),
        histories,
        settings,
        fc.infiniteStream(fc.nat()),
        (price, history, depth, order) => {
          const transfers = history.map(({ block, amount }) => transfer(block, amount))
          const shuffled = transfers
            .map((t) => ({ t, key: order.next().value }))
            .toSorted((a, b) => a.key - b.key)
            .map(({ t }) => t)
          const result = settle(price, shuffled, depth)

          const sumOf = (list: CreditedTransfer[]) => list.reduce((total, t) => total + t.amountWei, 0n)
          const atDepth = (n: number) => sumOf(transfers.filter((t) => n === 0 || depth.head - t.blockNumber >= n))
          expect(result.seenWei).toBe(sumOf(transfers))
          expect(result.paidBy !== undefined).toBe(sumOf(transfers) >= price)
          expect(result.confirmed).toBe(atDepth(depth.confirm) >= price)
          expect(result.complete).toBe(atDepth(depth.finalize) >= price)
          if (result.paidBy) {
            const before = transfers.filter((t) => t.blockNumber < result.paidBy!.blockNumber)
            expect(sumOf(before)).toBeLessThan(price)
          }
        },
      ),
    )
  })
})
