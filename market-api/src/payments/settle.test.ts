import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Payable, type RecordedTransfer, settle } from './settle.ts'

const E18 = 10n ** 18n
const GATEWAY = `0x${'6a'.repeat(20)}`
const OTHER_GATEWAY = `0x${'6b'.repeat(20)}`
const order: Payable = { priceWei: 10n * E18, expectedGateways: [GATEWAY] }
const at = (head: number, confirm = 3, finalize = 12) => ({ head, confirm, finalize })

let serial = 0
/** Money for the order, but for what `otherwise` says. */
function transfer(blockNumber: number, amountWei: bigint | null, otherwise: Partial<RecordedTransfer> = {}) {
  serial += 1
  return {
    blockNumber,
    transactionIndex: 0,
    logIndex: serial,
    txHash: `0x${serial}`,
    gateway: GATEWAY,
    amountWei,
    eligible: true,
    ignoredReason: null,
    orphaned: false,
    inDoubt: false,
    ...otherwise,
  } satisfies RecordedTransfer
}

const UNPAID = { paidBy: undefined, confirmed: false, complete: false, settleAt: undefined }

describe('settle', () => {
  it('has nothing to do for an order that nothing came for', () => {
    expect(settle(order, [], at(1000))).toEqual({ ...UNPAID, seenWei: 0n })
    expect(settle(order, [], at(1000, 0, 0))).toEqual({ ...UNPAID, seenWei: 0n })
  })

  it('payments:P16 adds a split payment up and names the transfer that reached the price', () => {
    const [first, second, third] = [transfer(100, 4n * E18), transfer(101, 6n * E18), transfer(102, E18)]
    expect(settle(order, [first], at(101))).toEqual({ ...UNPAID, seenWei: 4n * E18 })
    expect(settle(order, [second, first], at(101))).toMatchObject({ paidBy: second, seenWei: 10n * E18 })
    expect(settle(order, [third, second, first], at(102))).toMatchObject({ paidBy: second, seenWei: 11n * E18 })
  })

  it('is not paid one wei short of the price, and is at it', () => {
    expect(settle(order, [transfer(100, 10n * E18 - 1n)], at(1000))).toEqual({ ...UNPAID, seenWei: 10n * E18 - 1n })
    expect(settle(order, [transfer(100, 10n * E18)], at(1000))).toMatchObject({ complete: true, seenWei: 10n * E18 })
  })

  it('payments:P17 takes an overpaid order for paid and shows the surplus', () => {
    const paid = transfer(100, 12n * E18)
    expect(settle(order, [paid], at(100))).toMatchObject({ paidBy: paid, seenWei: 12n * E18 })
  })

  it('payments:P20 needs three blocks on top to be confirmed and twelve to be complete', () => {
    const paid = [transfer(100, 10n * E18)]
    expect(settle(order, paid, at(102))).toMatchObject({ confirmed: false, complete: false, settleAt: 103 })
    expect(settle(order, paid, at(103))).toMatchObject({ confirmed: true, complete: false, settleAt: 112 })
    expect(settle(order, paid, at(111))).toMatchObject({ confirmed: true, complete: false, settleAt: 112 })
    expect(settle(order, paid, at(112))).toMatchObject({ confirmed: true, complete: true, settleAt: undefined })
  })

  it('payments:P21 lends the age of early dust to no later payment', () => {
    const history = [transfer(100, 1n), transfer(200, 10n * E18)]
    expect(settle(order, history, at(199))).toMatchObject({ confirmed: false, complete: false })
    expect(settle(order, history, at(203))).toMatchObject({ confirmed: true, complete: false, settleAt: 212 })
    expect(settle(order, history, at(211))).toMatchObject({ complete: false })
    expect(settle(order, history, at(212))).toMatchObject({ complete: true })
  })

  it('lends the age of an early payment to no later top-up that the price needs', () => {
    const history = [transfer(100, 10n * E18 - 1n), transfer(200, 1n)]
    expect(settle(order, history, at(202))).toMatchObject({ paidBy: history[1], confirmed: false, complete: false })
    expect(settle(order, history, at(203))).toMatchObject({ confirmed: true, complete: false })
  })

  it('is as deep as the price, whatever comes on top of it later', () => {
    const history = [transfer(100, 10n * E18), transfer(112, 10n * E18)]
    expect(settle(order, history, at(112))).toMatchObject({ complete: true, seenWei: 20n * E18 })
  })

  it('payments:P22 completes an order that was topped up long after its first payment', () => {
    const [first, topUp] = [transfer(100, 4n * E18), transfer(501, 6n * E18)]
    expect(settle(order, [first], at(500))).toEqual({ ...UNPAID, seenWei: 4n * E18 })
    expect(settle(order, [first, topUp], at(501))).toMatchObject({ paidBy: topUp, confirmed: false, settleAt: 504 })
    expect(settle(order, [first, topUp], at(513))).toMatchObject({ confirmed: true, complete: true })
  })

  it('payments:P23 pays an order by what came before it, as deep as it has become', () => {
    expect(settle(order, [transfer(100, 10n * E18)], at(107))).toMatchObject({ confirmed: true, settleAt: 112 })
  })

  it('payments:P24 credits nothing that went to another gateway', () => {
    const elsewhere = transfer(100, 10n * E18, { gateway: OTHER_GATEWAY })
    expect(settle(order, [elsewhere], at(1000))).toEqual({ ...UNPAID, seenWei: 0n })
    expect(settle({ ...order, expectedGateways: [] }, [transfer(100, 10n * E18)], at(1000))).toMatchObject(UNPAID)
    const both = { ...order, expectedGateways: [GATEWAY, OTHER_GATEWAY] }
    expect(settle(both, [elsewhere], at(1000))).toMatchObject({ complete: true, seenWei: 10n * E18 })
  })

  it('payments:P18 credits no token that its gateway does not trust', () => {
    const distrusted = transfer(100, 10n * E18, { eligible: false, ignoredReason: 'untrusted_token' })
    expect(settle(order, [distrusted], at(1000))).toEqual({ ...UNPAID, seenWei: 0n })
  })

  it('payments:P14 payments:P15 waits for the verdict on a token, then counts the transfer from its own block on', () => {
    const undecided = transfer(100, 10n * E18, { eligible: null })
    expect(settle(order, [undecided], at(1000))).toEqual({ ...UNPAID, seenWei: 0n })
    expect(settle(order, [{ ...undecided, eligible: true }], at(107))).toMatchObject({
      confirmed: true,
      complete: false,
      settleAt: 112,
    })
  })

  it('credits no transfer with a reason against it, whatever the verdict', () => {
    for (const ignoredReason of ['unknown_gateway', 'unknown_emitter', 'bad_token', 'bad_time', 'no_order']) {
      expect(settle(order, [transfer(100, 10n * E18, { ignoredReason })], at(1000))).toMatchObject(UNPAID)
    }
  })

  it('credits no amount that nobody could read, and goes on with the others', () => {
    const unread = transfer(90, null)
    expect(settle(order, [unread], at(1000))).toEqual({ ...UNPAID, seenWei: 0n })
    const paid = transfer(100, 10n * E18)
    expect(settle(order, [unread, paid], at(1000))).toMatchObject({ paidBy: paid, seenWei: 10n * E18, complete: true })
  })

  it('payments:P25 takes back what the chain does not have any more', () => {
    const [kept, gone] = [transfer(100, 4n * E18), transfer(101, 6n * E18)]
    expect(settle(order, [kept, gone], at(112))).toMatchObject({ paidBy: gone, confirmed: true })
    expect(settle(order, [kept, { ...gone, orphaned: true }], at(1000))).toEqual({ ...UNPAID, seenWei: 4n * E18 })
  })

  it('payments:P26 counts a transaction once that was mined again at another log index', () => {
    const before = transfer(100, 6n * E18, { txHash: '0xsame', logIndex: 7, orphaned: true })
    const after = transfer(100, 6n * E18, { txHash: '0xsame', logIndex: 9 })
    expect(settle(order, [before, after], at(1000))).toEqual({ ...UNPAID, seenWei: 6n * E18 })
  })

  it('takes a transfer in doubt for seen, but not for deep', () => {
    const doubted = transfer(100, 10n * E18, { inDoubt: true })
    expect(settle(order, [doubted], at(1000))).toEqual({
      seenWei: 10n * E18,
      paidBy: doubted,
      confirmed: false,
      complete: false,
      settleAt: undefined,
    })
    expect(settle(order, [{ ...doubted, inDoubt: false }], at(1000))).toMatchObject({ complete: true })
  })

  it('is as deep as what is not in doubt reaches the price', () => {
    const history = [transfer(100, 10n * E18, { inDoubt: true }), transfer(200, 10n * E18)]
    expect(settle(order, history, at(200))).toMatchObject({ paidBy: history[0], confirmed: false, settleAt: 203 })
    expect(settle(order, history, at(212))).toMatchObject({ paidBy: history[0], complete: true, seenWei: 20n * E18 })
    const short = [transfer(100, 4n * E18, { inDoubt: true }), transfer(200, 6n * E18)]
    expect(settle(order, short, at(1000))).toMatchObject({ paidBy: short[1], confirmed: false, settleAt: undefined })
  })

  it('payments:P40 takes 0 confirmations as: as soon as seen', () => {
    const seen = [transfer(100, 10n * E18)]
    expect(settle(order, seen, at(100, 0, 0))).toMatchObject({ confirmed: true, complete: true, settleAt: undefined })
    expect(settle(order, seen, at(100, 0, 12))).toMatchObject({ confirmed: true, complete: false, settleAt: 112 })
    // A source may know of a block before its head says so.
    expect(settle(order, seen, at(99, 0, 0))).toMatchObject({ complete: true })
    expect(settle(order, [transfer(100, E18)], at(1000, 0, 0))).toMatchObject({ confirmed: false, complete: false })
  })

  it('takes what is final for confirmed, however many confirmations were asked for', () => {
    const paid = [transfer(100, 10n * E18)]
    expect(settle(order, paid, at(101, 5, 2))).toMatchObject({ confirmed: false, complete: false, settleAt: 102 })
    expect(settle(order, paid, at(102, 5, 2))).toMatchObject({ confirmed: true, complete: true, settleAt: undefined })
    expect(settle(order, paid, at(100, 5, 0))).toMatchObject({ confirmed: true, complete: true, settleAt: undefined })
  })

  it('counts in the order of the chain: block, transaction, log', () => {
    const place = (blockNumber: number, transactionIndex: number, logIndex: number) =>
      transfer(blockNumber, 5n * E18, { transactionIndex, logIndex })
    const chain = [place(9, 30, 400), place(100, 2, 9), place(100, 2, 10), place(100, 10, 1), place(101, 0, 0)]
    for (const [reaching, price] of [5n, 10n, 15n, 20n, 25n].entries()) {
      const paidBy = chain[reaching]
      expect(settle({ ...order, priceWei: price * E18 }, chain.toReversed(), at(101))).toMatchObject({ paidBy })
    }
  })

  it('needs a transfer even where there is nothing to pay', () => {
    const free = { ...order, priceWei: 0n }
    expect(settle(free, [], at(1000))).toEqual({ ...UNPAID, seenWei: 0n })
    expect(settle(free, [transfer(100, 0n)], at(103))).toMatchObject({ confirmed: true, settleAt: 112 })
  })

  it('changes nothing of what it was given', () => {
    const given = Object.freeze([transfer(101, E18), transfer(100, E18)])
    settle(order, given, at(1000))
    expect(given.map(({ blockNumber }) => blockNumber)).toEqual([101, 100])
  })
})

// Small numbers, so that they collide.

const aTransfer = fc.record({
  blockNumber: fc.nat(12),
  transactionIndex: fc.nat(2),
  logIndex: fc.nat(2),
  amountWei: fc.option(fc.bigInt(0n, 4n), { freq: 12 }),
  gateway: fc.constantFrom('g', 'g', 'g', 'h', 'x'),
  eligible: fc.constantFrom(true, true, true, true, false, null),
  ignoredReason: fc.constantFrom(null, null, null, null, null, 'bad_time'),
  orphaned: fc.constantFrom(false, false, false, false, true),
  inDoubt: fc.constantFrom(false, false, false, true),
})
const history = fc
  .uniqueArray(aTransfer, {
    maxLength: 8,
    selector: ({ blockNumber, transactionIndex, logIndex }) => `${blockNumber} ${transactionIndex} ${logIndex}`,
  })
  .map((transfers) => transfers.map((t, n) => ({ ...t, txHash: `0x${n}` })))
const anOrder = fc.record({
  priceWei: fc.bigInt(0n, 9n),
  expectedGateways: fc.constantFrom(['g'], ['g', 'h'], ['h', 'g'], []),
})
const depths = fc.record({ head: fc.nat(30), confirm: fc.nat(4), finalize: fc.nat(8) })

/** The rule as the specification says it, sum by sum (payments.md 18); for every question from the beginning. */
function model(payable: Payable, transfers: RecordedTransfer[], { head, confirm, finalize }: ReturnType<typeof at>) {
  const money: (RecordedTransfer & { amountWei: bigint })[] = []
  for (const t of transfers) {
    if (t.amountWei === null || t.eligible !== true || t.ignoredReason !== null || t.orphaned) continue
    if (payable.expectedGateways.some((expected) => expected === t.gateway))
      money.push({ ...t, amountWei: t.amountWei })
  }
  const worth = (some: typeof money) => {
    let sum = 0n
    for (const { amountWei } of some) sum += amountWei
    return sum
  }
  const pays = (some: typeof money) => some.length > 0 && worth(some) >= payable.priceWei
  const isReached = (confirmations: number) =>
    pays(confirmations === 0 ? money : money.filter((t) => !t.inDoubt && t.blockNumber <= head - confirmations))
  // Of no number that is generated here is the place as long.
  const place = (t: RecordedTransfer) => t.blockNumber * 10_000 + t.transactionIndex * 100 + t.logIndex
  const paying = money.filter((t) => pays(money.filter((u) => place(u) <= place(t))))
  const complete = isReached(finalize)
  return {
    seenWei: worth(money),
    paidBy: paying.find((t) => paying.every((u) => place(t) <= place(u)))?.txHash,
    confirmed: complete || isReached(confirm),
    complete,
  }
}

describe('settle, over any history', () => {
  it('agrees with an obvious model', () => {
    fc.assert(
      fc.property(anOrder, history, depths, (payable, transfers, depth) => {
        const { settleAt: _, ...settled } = settle(payable, transfers, depth)
        expect({ ...settled, paidBy: settled.paidBy?.txHash }).toEqual(model(payable, transfers, depth))
      }),
      { numRuns: 1000 },
    )
  })

  it('does not ask in which order transfers were stored', () => {
    const shuffled = history.chain((transfers) =>
      fc.record({
        transfers: fc.constant(transfers),
        stored: fc.shuffledSubarray(transfers, { minLength: transfers.length, maxLength: transfers.length }),
      }),
    )
    fc.assert(
      fc.property(anOrder, shuffled, depths, (payable, { transfers, stored }, depth) => {
        expect(settle(payable, stored, depth)).toEqual(settle(payable, transfers, depth))
      }),
    )
  })

  it('changes with the head exactly where it says it will, and never back', () => {
    fc.assert(
      fc.property(anOrder, history, depths, (payable, transfers, depth) => {
        let last = settle(payable, transfers, depth)
        // Every transfer is final long before.
        for (let head = depth.head + 1; head <= depth.head + 60; head += 1) {
          const next = settle(payable, transfers, { ...depth, head })
          const isChanged = next.confirmed !== last.confirmed || next.complete !== last.complete
          expect(isChanged, `a change at ${head}, named ${last.settleAt}`).toBe(last.settleAt === head)
          if (!isChanged) expect(next).toEqual(last)
          expect([next.seenWei, next.paidBy]).toEqual([last.seenWei, last.paidBy])
          if (last.confirmed) expect(next.confirmed).toBe(true)
          if (last.complete) expect(next.complete).toBe(true)
          last = next
        }
        expect(last.settleAt).toBeUndefined()
      }),
      { numRuns: 300 },
    )
  })

  it('names the next head at once, however far it is away', () => {
    fc.assert(
      fc.property(anOrder, history, depths, (payable, transfers, depth) => {
        const now = settle(payable, transfers, depth)
        let next: number | undefined
        for (let head = depth.head + 60; head > depth.head; head -= 1) {
          const then = settle(payable, transfers, { ...depth, head })
          if (then.confirmed !== now.confirmed || then.complete !== now.complete) next = head
        }
        expect(now.settleAt).toBe(next)
      }),
    )
  })

  it('is never worse for more money, nor for a doubt that is gone', () => {
    fc.assert(
      fc.property(anOrder, history, aTransfer, depths, (payable, transfers, another, depth) => {
        const before = settle(payable, transfers, depth)
        const more = settle(payable, [...transfers, { ...another, txHash: '0xmore' }], depth)
        const sure = settle(
          payable,
          transfers.map((t) => ({ ...t, inDoubt: false })),
          depth,
        )
        for (const after of [more, sure]) {
          expect(after.seenWei >= before.seenWei).toBe(true)
          if (before.paidBy) expect(after.paidBy).toBeDefined()
          if (before.confirmed) expect(after.confirmed).toBe(true)
          if (before.complete) expect(after.complete).toBe(true)
        }
      }),
    )
  })
})
