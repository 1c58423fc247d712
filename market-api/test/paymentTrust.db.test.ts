import { describe, expect, it } from 'vitest'
import { createPaymentMemory } from '../src/payments/paymentMemory.ts'
import { pollPayments } from '../src/payments/pollPayments.ts'
import { E18, freeLease, paymentMarkets, type PaymentWorld, type Placed } from './paymentWorld.ts'
import {
  type Answer,
  AVATAR,
  FACTORY,
  type Fault,
  FOREVER,
  GATEWAY,
  payment,
  secondsOf,
  transaction,
  trust,
} from './scriptedChain.ts'

// Which transfer is money (payments.md 6), on a real database and over HTTP to a chain by script.

const start = paymentMarkets()

const FORGER = `0x${'bad0'.repeat(10)}`
const OTHER_FACTORY = `0x${'fb'.repeat(20)}`
const OTHER_GATEWAY = `0x${'6b'.repeat(20)}`
/** Avatars that the gateway has said nothing about at first. */
const [B, C] = [`0x${'bb'.repeat(20)}`, `0x${'cc'.repeat(20)}`]

const SHADOW = { PAYMENT_GATEWAY_FACTORY: FACTORY, PAYMENT_GATEWAY_FACTORY_ENFORCED: 'false' }
const ENFORCED = { PAYMENT_GATEWAY_FACTORY: FACTORY, PAYMENT_GATEWAY_FACTORY_ENFORCED: 'true' }

const failTrust = (world: PaymentWorld, fault: Fault) => world.chain.faults.set('TrustUpdated', fault)
const mend = (world: PaymentWorld) => world.chain.faults.clear()
const without = (column: string) => (honest: Answer) => {
  const at = honest.columns.indexOf(column)
  return { columns: honest.columns.toSpliced(at, 1), rows: honest.rows.map((row) => row.toSpliced(at, 1)) }
}

/** An order that this token paid in this block. */
async function paidIn(world: PaymentWorld, block: number, token: string) {
  const order = await world.place()
  const sent = world.paying(order, 10n * E18, { token })
  world.chain.mineAt(block, sent)
  return { order, sent, verdict: async () => (await world.transferOf(sent))?.eligible }
}

describe('factories', () => {
  /** P11: the factory says that B is trusted, somebody else that it is not. */
  const speak = (world: PaymentWorld) => {
    world.chain.mineAt(10, transaction(trust(B)))
    world.chain.mineAt(11, transaction(trust(B, { expiry: 0n, emitter: FORGER })))
  }
  const divergences = async (world: PaymentWorld) => ({
    shadow: await world.metric('payments_factory_divergence_total', { mode: 'shadow' }),
    enforced: await world.metric('payments_factory_divergence_total', { mode: 'enforced' }),
  })

  it('payments:P12 compared only: everybody counts, and it is told that the factory says otherwise', async () => {
    const world = await start(SHADOW)
    speak(world)
    const { order, verdict } = await paidIn(world, 20, B)
    await world.poll()
    expect(await verdict()).toBe(false)
    expect(await world.standing(order)).toBe('due')
    expect(await divergences(world)).toEqual({ shadow: 1, enforced: 0 })
    expect(world.said('warn', /somebody|something else/)).toMatchObject([
      { fields: { event: 'payment_factory_divergence', mode: 'shadow', byAll: false, byFactory: true } },
    ])
  })

  it('payments:P11 enforced: only the factory counts, and it is told that others say otherwise', async () => {
    const world = await start(ENFORCED)
    speak(world)
    const { order, verdict } = await paidIn(world, 20, B)
    await world.poll()
    expect(await verdict()).toBe(true)
    expect(await world.standing(order)).toBe('paid')
    expect(await divergences(world)).toEqual({ shadow: 0, enforced: 1 })
    // The host is asked for the factory's word alone, so that no flood of others' hides it.
    const asked = world.chain.asked.filter(({ what }) => what === 'TrustUpdated').map(({ params }) => params[0].filter)
    const gateway = { type: 'FilterPredicate', filterType: 'Equals', column: 'gateway', value: GATEWAY }
    const factory = { type: 'FilterPredicate', filterType: 'Equals', column: 'emitter', value: FACTORY }
    expect(asked).toContainEqual([gateway, factory])
    expect(asked).toContainEqual([gateway])
  })

  it('payments:P11 enforced: nobody else can have a token trusted', async () => {
    const world = await start(ENFORCED)
    world.chain.mineAt(10, transaction(trust(B, { emitter: FORGER })))
    const { order, verdict } = await paidIn(world, 20, B)
    await world.poll()
    expect(await verdict()).toBe(false)
    expect(await world.standing(order)).toBe('due')
  })

  it('is quiet where all say the same', async () => {
    for (const setting of [SHADOW, ENFORCED]) {
      const world = await start(setting)
      const { order } = await paidIn(world, 20, AVATAR)
      await world.poll()
      expect(await world.standing(order)).toBe('paid')
      expect(await divergences(world)).toEqual({ shadow: 0, enforced: 0 })
    }
  })

  it('of several factories takes the word of each', async () => {
    const world = await start({ ...ENFORCED, PAYMENT_GATEWAY_FACTORY: `${FACTORY},${OTHER_FACTORY}` })
    world.chain.mineAt(10, transaction(trust(B, { emitter: OTHER_FACTORY })))
    world.chain.mineAt(11, transaction(trust(B, { expiry: 0n, emitter: FORGER })))
    const { order } = await paidIn(world, 20, B)
    await world.poll()
    expect(await world.standing(order)).toBe('paid')
  })

  it('payments:P13 enforced, without emitters in the answer: undecided, tried again, and never by the word of everybody', async () => {
    const world = await start(ENFORCED)
    const { order, verdict } = await paidIn(world, 20, AVATAR)
    failTrust(world, without('emitter'))
    await world.poll()
    await world.poll()
    expect(await verdict()).toBeNull()
    expect(await world.standing(order)).toBe('due')
    expect(await world.metric('gateway_trust_fetch_failures_total')).toBeGreaterThan(0)
    mend(world)
    await world.poll()
    expect(await verdict()).toBe(true)
    expect(await world.standing(order)).toBe('paid')
  })

  it('compared only, without emitters in the answer: by the word of everybody, and nothing to compare', async () => {
    const world = await start(SHADOW)
    const { order, verdict } = await paidIn(world, 20, AVATAR)
    failTrust(world, without('emitter'))
    await world.poll()
    expect(await verdict()).toBe(true)
    expect(await world.standing(order)).toBe('paid')
    expect(await divergences(world)).toEqual({ shadow: 0, enforced: 0 })
  })

  it('enforced, while what everybody says can not be read: by the factory alone', async () => {
    const world = await start(ENFORCED)
    const { order } = await paidIn(world, 20, AVATAR)
    // The host refuses the one that does not name an emitter.
    world.chain.faults.set('TrustUpdated', (honest: Answer) => {
      const asked = world.chain.asked.findLast(({ what }) => what === 'TrustUpdated')!
      if (!JSON.stringify(asked.params).includes('emitter')) throw new Error('too much')
      return honest
    })
    await world.poll()
    expect(await world.standing(order)).toBe('paid')
    expect(await divergences(world)).toEqual({ shadow: 0, enforced: 0 })
  })

  it('payments:W1 enforced: a payment that somebody else reports is nobody’s money', async () => {
    const world = await start(ENFORCED)
    const order = await world.place()
    const forged = world.paying(order, 10n * E18, { emitter: FORGER })
    world.chain.mineAt(20, forged)
    await world.pollAt(100)
    expect(await world.transferOf(forged)).toMatchObject({ ignored_reason: 'unknown_emitter', eligible: null })
    expect(await world.standing(order)).toBe('due')
  })

  it('payments:W8 enforced: payments without an emitter are not read past', async () => {
    const world = await start(ENFORCED)
    const { order } = await paidIn(world, 20, AVATAR)
    world.chain.faults.set('PaymentReceived', without('emitter'))
    await expect(world.poll()).rejects.toThrow('emitter')
    expect([await world.cursor(), await world.transfers()]).toEqual([undefined, []])
    mend(world)
    await world.poll()
    expect(await world.standing(order)).toBe('paid')
  })
})

describe('trust that can not be read', () => {
  it('payments:P14 payments:P15 the transfer is kept undecided, and decided when it can be, without a new log', async () => {
    const world = await start()
    const { order, verdict } = await paidIn(world, 20, AVATAR)
    failTrust(world, 'error')
    await world.poll()
    expect(await verdict()).toBeNull()
    expect(await world.standing(order)).toBe('due')
    expect(await world.order(order)).toMatchObject({ payment_seen_at: expect.any(Date), paid_amount_wei: '0' })
    expect(await world.metric('payments_undetermined_token_total')).toBe(1)
    // Every failed read counts.
    expect(await world.metric('gateway_trust_fetch_failures_total')).toBe(world.chain.countAsked('TrustUpdated'))
    const cursor = await world.cursor()
    await world.pollAt(100)
    expect(await verdict()).toBeNull()

    mend(world)
    await world.poll()
    expect(await verdict()).toBe(true)
    // As deep as it has become meanwhile.
    expect(await world.standing(order)).toBe('complete')
    expect(await world.transfers()).toHaveLength(1)
    expect(await world.cursor()).toEqual(cursor)
    expect(await world.metric('payments_undetermined_token_total')).toBe(1)
  })

  it.each([
    ['an error', 'error'],
    ['HTTP 500', 'http'],
    ['a cut connection', 'cut'],
    ['no result', () => undefined],
    ['no trustReceiver', without('trustReceiver')],
    ['no expiry', without('expiry')],
    [
      'rows of another gateway',
      ({ columns, rows }: Answer) => ({
        columns,
        rows: rows.map((row) => row.with(columns.indexOf('gateway'), OTHER_GATEWAY)),
      }),
    ],
  ] as [string, Fault][])('payments:P14 undecided for %s', async (_, fault) => {
    const world = await start()
    const { order, verdict } = await paidIn(world, 20, AVATAR)
    failTrust(world, fault)
    await world.poll()
    expect(await verdict()).toBeNull()
    expect(await world.standing(order)).toBe('due')
    expect(await world.metric('gateway_trust_fetch_failures_total')).toBeGreaterThan(0)
  })

  it('holds up no other gateway', async () => {
    const world = await start()
    world.chain.mine(transaction(trust(AVATAR, { gateway: OTHER_GATEWAY })))
    const [stuck, fine] = [await world.place(), await world.place({ gateways: [OTHER_GATEWAY] })]
    world.chain.mineAt(20, world.paying(stuck, 10n * E18), world.paying(fine, 10n * E18, { gateway: OTHER_GATEWAY }))
    failTrust(world, (honest: Answer) => {
      const asked = world.chain.asked.findLast(({ what }) => what === 'TrustUpdated')!
      if (JSON.stringify(asked.params).includes(GATEWAY)) throw new Error('out of order')
      return honest
    })
    await world.pollAt(23)
    expect([await world.standing(stuck), await world.standing(fine)]).toEqual(['due', 'confirmed'])
  })

  it('payments:P39 payments:W12 1,500 words of one gateway are read page by page', async () => {
    const world = await start()
    const others = Array.from({ length: 1499 }, (_, n) => trust(`0x${(n + 1).toString(16).padStart(40, '0')}`))
    world.chain.mineAt(10, transaction(...others, trust(B)))
    const { order, verdict } = await paidIn(world, 20, B)
    await world.poll()
    expect(await verdict()).toBe(true)
    expect(await world.standing(order)).toBe('paid')
    expect(world.chain.countAsked('TrustUpdated')).toBe(2)
  })

  it('payments:W13 what was read last is believed for ten times its age limit, and not beyond', async () => {
    const world = await start({ PAYMENT_TRUST_CACHE_TTL_SECONDS: '60' })
    let nowMs = Date.now()
    world.ctx.now = () => new Date(nowMs)
    // All of one block whose trust is known; their orders come one by one.
    const references = ['A', 'B', 'C'].map((last) => `pay_${'7'.repeat(27)}${world.chainId}${last}`)
    const sent = references.map((reference) => transaction(payment(reference, 10n * E18)))
    world.chain.mineAt(20, ...sent)
    await world.pollAt(100)
    const orders: Placed[] = []
    const place = async (n: number) => orders.push(await world.place({ reference: references[n]! }))
    const standings = async () => Promise.all(orders.map((order) => world.standing(order)))
    await place(0)
    await world.poll()
    expect(await standings()).toEqual(['complete'])
    failTrust(world, 'error')

    nowMs += 599_000
    await place(1)
    await world.poll()
    expect(await standings()).toEqual(['complete', 'complete'])

    nowMs += 2_000
    await place(2)
    await world.poll()
    expect(await standings()).toEqual(['complete', 'complete', 'due'])
    expect(await world.transferOf(sent[2]!)).toMatchObject({ eligible: null, verdict_due: true })

    mend(world)
    await world.poll()
    // Of what came after it was read it says nothing, however new it is.
    failTrust(world, 'error')
    const last = await world.place()
    orders.push(last)
    world.chain.mine(world.paying(last, 10n * E18))
    await world.poll()
    expect(await standings()).toEqual(['complete', 'complete', 'complete', 'due'])
    mend(world)
    await world.poll()
    expect(await standings()).toEqual(['complete', 'complete', 'complete', 'paid'])
  })
})

describe('trust at the time of the payment', () => {
  it('payments:P38 is read anew for a payment after it was read', async () => {
    const world = await start()
    const early = await paidIn(world, 49, B)
    await world.poll()
    expect(await early.verdict()).toBe(false)
    const asked = world.chain.countAsked('TrustUpdated')

    world.chain.mineAt(50, transaction(trust(B)))
    const late = await paidIn(world, 51, B)
    await world.poll()
    expect(await late.verdict()).toBe(true)
    expect(await world.standing(late.order)).toBe('paid')
    expect(world.chain.countAsked('TrustUpdated')).toBe(asked + 1)
    // What was not money then is none now.
    expect(await early.verdict()).toBe(false)
  })

  it('payments:W13 is not read anew for every payment', async () => {
    const world = await start()
    const orders = await Promise.all(Array.from({ length: 20 }, () => world.place()))
    world.chain.mineAt(20, ...orders.map((order) => world.paying(order, 10n * E18)))
    await world.poll()
    await world.pollAt(40)
    expect(world.chain.countAsked('TrustUpdated')).toBe(1)
  })

  it('payments:W13 what is said later changes nothing, in either direction', async () => {
    const world = await start()
    world.chain.mineAt(30, transaction(trust(B)))
    const [before, after] = [await world.place(), await world.place()]
    world.chain.mineAt(40, world.paying(before, 10n * E18, { token: B }), world.paying(after, 10n * E18, { token: C }))
    world.chain.mineAt(41, transaction(trust(B, { expiry: 0n }), trust(C)))
    await world.pollAt(100)
    expect([await world.standing(before), await world.standing(after)]).toEqual(['complete', 'due'])
  })

  it('payments:W13 within one block the place decides', async () => {
    const world = await start()
    const orders = [await world.place(), await world.place(), await world.place()]
    const pay = (n: number) => payment(orders[n]!.reference, 10n * E18, { token: B })
    world.chain.mineAt(
      40,
      transaction(pay(0)),
      transaction(trust(B), pay(1)),
      transaction(trust(B, { expiry: 0n }), pay(2)),
    )
    await world.poll()
    expect(await Promise.all(orders.map((order) => world.standing(order)))).toEqual(['due', 'paid', 'due'])
  })

  it('payments:P10 payments:W13 runs out by the time of the block, not by the clock', async () => {
    const world = await start()
    const seconds = BigInt(secondsOf(40))
    world.chain.mineAt(30, transaction(trust(B, { expiry: seconds }), trust(C, { expiry: seconds + 1n })))
    const [atTheSecond, before] = [await world.place(), await world.place()]
    world.chain.mineAt(
      40,
      world.paying(atTheSecond, 10n * E18, { token: B }),
      world.paying(before, 10n * E18, { token: C }),
    )
    await world.pollAt(100)
    expect([await world.standing(atTheSecond), await world.standing(before)]).toEqual(['due', 'complete'])
  })

  it('payments:P9 an expiry that can not be read is one that has passed', async () => {
    const world = await start()
    world.chain.mineAt(30, transaction(trust(AVATAR, { expiry: FOREVER }), trust(B)))
    world.chain.mineAt(31, transaction({ ...trust(B), cells: { ...trust(B).cells, expiry: 'soon' } }))
    const { order, verdict } = await paidIn(world, 40, B)
    await world.poll()
    expect(await verdict()).toBe(false)
    expect(await world.standing(order)).toBe('due')
  })

  it('payments:W13 an operator may have it judged again', async () => {
    const world = await start()
    const { order, sent, verdict } = await paidIn(world, 40, B)
    // The indexer had left out what the gateway said.
    const left = transaction(trust(B))
    world.chain.reorg(30)
    world.chain.mineAt(30, left)
    world.chain.mineAt(40, sent)
    world.chain.hidden.add(left.hash)
    await world.poll()
    expect(await verdict()).toBe(false)
    world.chain.hidden.clear()
    await world.db
      .updateTable('payment_transfers')
      .set({ verdict_due: true, ignored_reason: null })
      .where('chain_id', '=', world.chainId)
      .execute()
    world.ctx.paymentMemory = createPaymentMemory()
    await world.poll()
    expect(await verdict()).toBe(true)
    expect(await world.standing(order)).toBe('paid')
  })
})

describe('what can not count whatever is trusted', () => {
  /** The market starts again, configured otherwise. */
  const restart = async (world: PaymentWorld, env: Record<string, string>) => {
    const next = await world.replica(env)
    await freeLease(world.ctx)
    return () => pollPayments(next.ctx)
  }

  it('payments:W10 a gateway that is allowed later is paid with what came before', async () => {
    const world = await start({ PAYMENT_GATEWAYS: OTHER_GATEWAY })
    const { order, sent, verdict } = await paidIn(world, 20, AVATAR)
    await world.pollAt(100)
    expect(await world.transferOf(sent)).toMatchObject({ ignored_reason: 'unknown_gateway' })
    expect(await world.standing(order)).toBe('due')
    expect(await world.order(order)).toMatchObject({ paid_amount_wei: '0' })
    // It is behind the cursor and the last blocks.
    world.chain.mineTo(300)
    const poll = await restart(world, {
      PAYMENT_GATEWAYS: `${OTHER_GATEWAY},${GATEWAY.toUpperCase().replace('X', 'x')}`,
    })
    await poll()
    expect(await verdict()).toBe(true)
    expect(await world.standing(order)).toBe('complete')
    expect(await world.transferOf(sent)).toMatchObject({ ignored_reason: null })
  })

  it('payments:W10 so it is with a factory, and a token that is not trusted stays that', async () => {
    const world = await start(ENFORCED)
    const [order, distrusted] = [await world.place(), await world.place()]
    world.chain.mineAt(
      20,
      world.paying(order, 10n * E18, { emitter: OTHER_FACTORY }),
      world.paying(distrusted, 10n * E18, { emitter: OTHER_FACTORY, token: B }),
    )
    await world.pollAt(300)
    const reasons = async () => (await world.transfers()).map(({ ignored_reason }) => ignored_reason)
    expect(await reasons()).toEqual(['unknown_emitter', 'unknown_emitter'])
    const poll = await restart(world, { PAYMENT_GATEWAY_FACTORY: `${FACTORY},${OTHER_FACTORY}` })
    await poll()
    expect(await reasons()).toEqual([null, 'untrusted_token'])
    expect([await world.standing(order), await world.standing(distrusted)]).toEqual(['complete', 'due'])
  })

  it('payments:W10 a gateway that no order names stays ignored, whoever is allowed', async () => {
    const world = await start()
    const order = await world.place()
    world.chain.mine(transaction(trust(AVATAR, { gateway: OTHER_GATEWAY })))
    world.chain.mineAt(20, world.paying(order, 10n * E18, { gateway: OTHER_GATEWAY }))
    await world.poll()
    const poll = await restart(world, { PAYMENT_GATEWAYS: `${OTHER_GATEWAY},${GATEWAY}` })
    await poll()
    expect(await world.transfers()).toMatchObject([{ ignored_reason: 'unknown_gateway' }])
    expect(await world.standing(order)).toBe('due')
  })

  it.each([
    ['bad_token', { tokenId: null }],
    ['bad_token', { tokenId: 'a lot' }],
    ['bad_amount', { amount: null }],
    ['bad_amount', { amount: '12.5' }],
    ['bad_time', { timestamp: null }],
  ])('payments:W11 %s: kept with the reason, told, and credited to nobody (%j)', async (reason, cells) => {
    const world = await start()
    const order = await world.place()
    const sent = world.paying(order, 10n * E18, cells)
    world.chain.mineAt(20, sent, world.paying(order, 4n * E18))
    await world.pollAt(100)
    expect(await world.transferOf(sent)).toMatchObject({ ignored_reason: reason, eligible: null })
    expect(world.said('warn', /not credited/)).toMatchObject([{ fields: { orderId: order.orderId, reason } }])
    expect(await world.standing(order)).toBe('due')
    expect(await world.order(order)).toMatchObject({ paid_amount_wei: String(4n * E18) })
  })

  it('a token that is refused is no news in the next round, nor after a restart', async () => {
    const world = await start()
    const placed: Placed = await world.place()
    world.chain.mineAt(20, world.paying(placed, 10n * E18, { token: B }), world.paying(placed, E18, { tokenId: null }))
    await world.poll()
    const before = await world.transfers()
    world.ctx.paymentMemory = createPaymentMemory()
    await world.poll()
    await world.poll()
    expect(await world.transfers()).toEqual(before)
    expect(await world.metric('payments_ineligible_token_total')).toBe(1)
  })
})
