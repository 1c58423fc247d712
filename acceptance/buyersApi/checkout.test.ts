import { randomUUID } from 'node:crypto'
import { Availability, OrderStatus } from '@market/contracts/statuses'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { basketAt, JSONLD, type Market, openFixture, openMarket, ORDERS, type Person, type Seller } from './market.ts'

// market-api.md 10.3 over HTTP, A-112 and A-113 of 10.5, and what the decisions add.

const ORDER_ID = /^ord_[0-9A-F]{32}$/
const REFERENCE = /^pay_[0-9A-F]{32}$/

const oddPrices = [-5, 0, undefined, '5']
const oddSku = (price: unknown) => `odd-${String(price).replace('-', 'minus-')}`

let market: Market
let fixture: Awaited<ReturnType<typeof openFixture>>
let buyer: Person
let stranger: Person
const book = (quantity?: number) => fixture.book(quantity)
/** Asks everybody to sign in, leaves little time to pay, and lets nobody have more than two orders to pay. */
let strict: Awaited<ReturnType<Market['replica']>>
/** Of a seller whose offers name no place to pay. */
let unpaid: Seller

beforeAll(async () => {
  market = await openMarket()
  const [made, ...others] = await Promise.all([
    openFixture(market, {
      'print-2': { offer: { price: 40 }, isOneOff: true },
      repriced: { offer: { price: 19 }, stock: 1000 },
      scarce: { offer: { price: 3 }, stock: 2 },
      rare: { offer: { price: 3 }, stock: 3 },
      ...Object.fromEntries(oddPrices.map((price) => [oddSku(price), { offer: { price }, stock: 10 }])),
      imported: { offer: { price: 9, priceCurrency: 'EUR' }, stock: 10 },
      display: { offer: { price: 3 }, stock: 10 },
      someday: { offer: { price: 3, fulfillmentTrigger: 'shipped' }, stock: 10 },
      soon: { offer: { price: 3, fulfillmentTrigger: 'confirmed' }, stock: 10 },
      sized: { offer: [{ price: 4 }, { price: 6 }], stock: 10 },
      lapsing: { offer: { price: 3 }, stock: 2 },
      regretted: { offer: { price: 3 }, stock: 1 },
    }),
    market.signIn(),
    market.signIn(),
  ])
  fixture = made
  ;[buyer, stranger] = others
  ;[unpaid, strict] = await Promise.all([
    market.seller(),
    market.replica({
      MARKET_ANONYMOUS_CHECKOUT: 'deny',
      MARKET_PAYMENT_WINDOW_SECONDS: '4',
      RATE_LIMIT_ENABLED: 'true',
      MARKET_OPEN_ORDERS_PER_BUYER: '2',
    }),
  ])
  await unpaid.shelve({ unpaid: { offer: { price: 3, potentialAction: null }, stock: 10 } })
})
afterAll(() => market?.close())

const ordersOf = (basketId: string) => market.sql`select * from orders where basket_id = ${basketId}`
const orderOf = async (person: Person, orderId: string) =>
  (await market.call('GET', `${ORDERS}/${orderId}`, { token: person.token })).body

describe('POST …/checkout', () => {
  it('market-api:A-060 makes an order of a valid basket', async () => {
    const basket = await market.basket([book(3)], { token: buyer.token })
    const { status, headers, body } = await basket.checkout()
    expect([status, headers.get('content-type')]).toEqual([201, JSONLD])
    expect(body).toMatchObject({
      orderId: expect.stringMatching(ORDER_ID),
      basketId: basket.id,
      paymentReference: expect.stringMatching(REFERENCE),
      orderCid: null,
    })
    expect(body.paymentReference.slice(4)).not.toBe(body.orderId.slice(4))
    expect((await basket.get()).body).toMatchObject({ status: 'CheckedOut' })
    expect(await orderOf(buyer, body.orderId)).toMatchObject({
      orderNumber: body.orderId,
      orderStatus: OrderStatus.paymentDue,
      paymentReference: body.paymentReference,
      totalPaymentDue: { price: 15, priceCurrency: 'CRC' },
      customer: { '@id': `eip155:100:${buyer.address}` },
    })
  })

  it('market-api:A-061 W-14 answers the second press of the button with the first order', async () => {
    const basket = await market.basket([book()], { token: buyer.token })
    const first = await basket.checkout()
    const second = await basket.checkout()
    expect([first.status, second.status]).toEqual([201, 200])
    expect(second.body).toEqual(first.body)
    expect(await ordersOf(basket.id)).toHaveLength(1)
  })

  it('market-api:A-062 W-14 makes one order of two checkouts at once', async () => {
    await Promise.all(
      Array.from({ length: 5 }, async () => {
        const basket = await market.basket([book()], { token: buyer.token })
        const answers = await Promise.all([basket.checkout(), basket.checkout()])
        const rows = await ordersOf(basket.id)
        expect(rows).toHaveLength(1)
        expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 201])
        for (const { body } of answers) expect(body.orderId).toBe(rows[0]!.order_id)
      }),
    )
  })

  it('market-api:A-064 refuses an invalid basket and leaves it as it was', async () => {
    const basket = await market.basket([fixture.mug()], { token: buyer.token })
    const before = await basket.get()
    const answer = await basket.checkout()
    expect([answer.status, answer.headers.get('content-type')]).toEqual([400, JSONLD])
    expect(answer.body).toMatchObject({
      error: 'invalid basket',
      validation: { '@type': 'Thing', valid: false, missing: [{ slot: 'contactPoint.email' }] },
    })
    expect((await basket.get()).body).toEqual(before.body)
    expect(await ordersOf(basket.id)).toHaveLength(0)
  })

  it('market-api:A-065 A-066 A-069 sells a one-off to the first and tells the second, who may buy something else', async () => {
    const { s1 } = fixture
    const print = s1.line('print-1')
    const [winner, loser] = await Promise.all([
      market.basket([print], { token: buyer.token }),
      market.basket([print, book()], { token: stranger.token }),
    ])
    expect((await winner.checkout()).status).toBe(201)
    const before = await loser.get()
    const lost = await loser.checkout()
    expect([lost.status, lost.headers.get('content-type')]).toEqual([409, JSONLD])
    expect(lost.body).toMatchObject({
      error: 'One-off item already sold',
      details: { chainId: 100, seller: s1.address, sku: 'print-1' },
      code: 'one_off_sold',
    })
    expect((await loser.get()).body, 'A-066 W-04').toEqual(before.body)
    expect(await ordersOf(loser.id)).toHaveLength(0)

    const again = await (await market.basket()).put([print])
    expect([409, 422], 'A-069 W-05').toContain(again.status)
    expect(again.body.code).toBe('one_off_sold')

    expect((await loser.put([book()])).status).toBe(200)
    expect((await loser.checkout()).status).toBe(201)
  })

  it('market-api:A-068 W-05 sells a one-off again when its order was not paid in time', async () => {
    const print = fixture.s1.line('print-2')
    const availability = async () =>
      (await market.call('GET', `/inventory/availability/100/${print.seller}/print-2`)).body as string
    expect(await availability()).toBe(Availability.inStock)
    const first = await (await market.basket([print], { token: buyer.token })).checkout()
    expect(await availability()).toBe(Availability.outOfStock)
    await market.sql`update orders set payment_due_by = now() where order_id = ${first.body.orderId}`
    await until('it is for sale again', async () => (await availability()) === Availability.inStock, 40)
    const second = await (await market.basket([print], { token: stranger.token })).checkout()
    expect(second.status).toBe(201)
    expect((await orderOf(buyer, first.body.orderId)).orderStatus).toBe(OrderStatus.cancelled)
  })

  it('market-api:A-070 W-12 never sells for another price than the buyer saw', async () => {
    const repriced = fixture.s1.line('repriced')
    const [careful, careless] = await Promise.all([
      market.basket([repriced, book()], { token: buyer.token }),
      market.basket([repriced], { token: buyer.token }),
    ])
    const seen = await careful.get()
    expect(seen.body.items[0].offerSnapshot.price).toBe(19)
    await fixture.s1.publish({ repriced: { price: 21 } })

    const withVersion = await careful.checkout({ headers: { 'If-Match': seen.headers.get('etag')! } })
    expect([withVersion.status, withVersion.body.code]).toEqual([409, 'offer_changed'])
    // Decision: who sends no version gets the code that catalog.md 6.6 has.
    const without = await careless.checkout()
    expect([without.status, without.body.code]).toEqual([409, 'product_changed'])
    for (const { body } of [withVersion, without]) {
      expect(body.details.changes).toMatchObject([
        { path: '/items/0', before: { price: 19 }, now: { price: 21, priceCurrency: 'CRC' } },
      ])
      expect(body.basket.items[0].offerSnapshot.price).toBe(21)
      expect(body.basket['@type']).toBe('circles:Basket')
    }
    expect(await ordersOf(careful.id)).toHaveLength(0)
    expect((await careful.get()).body.status).toBe('Draft')

    expect((await careless.put([repriced])).status).toBe(200)
    const agreed = await careless.checkout()
    expect(agreed.status).toBe(201)
    expect((await orderOf(buyer, agreed.body.orderId)).totalPaymentDue.price).toBe(21)
  })

  it('W-15 takes no checkout for a version that is no more', async () => {
    const basket = await market.basket([book()], { token: buyer.token })
    const { headers } = await basket.get()
    await basket.patch({ customer: { givenName: 'Ada' } })
    const late = await basket.checkout({ headers: { 'If-Match': headers.get('etag')! } })
    expect([late.status, late.body.code]).toEqual([412, 'basket_version_conflict'])
    expect((await basket.preview({ headers: { 'If-Match': headers.get('etag')! } })).status).toBe(412)
    expect(await ordersOf(basket.id)).toHaveLength(0)
    expect((await basket.checkout({ headers: { 'If-Match': '*' } })).status).toBe(201)
  })

  it('market-api:A-071 W-12 asks for the stock anew', async () => {
    const scarce = fixture.s1.line('scarce')
    const basket = await market.basket([{ ...scarce, quantity: 2 }], { token: buyer.token })
    await fixture.s1.adapter('scarce', { stock: 0 })
    const answer = await basket.checkout()
    expect(answer.status).toBe(422)
    expect(answer.body).toMatchObject({
      error: expect.stringMatching(/^Requested quantity 2 .*exceeds inventory 0/),
      details: { path: '/items/0' },
    })
    expect(await ordersOf(basket.id)).toHaveLength(0)
    expect((await basket.get()).body.status).toBe('Draft')
  })

  it('W-12 holds what is ordered for whoever ordered it', async () => {
    const rare = fixture.s1.line('rare')
    const inventory = async () => (await market.call('GET', `/inventory/inventory/100/${rare.seller}/rare`)).body.value
    const [first, second] = await Promise.all([
      market.basket([{ ...rare, quantity: 2 }], { token: buyer.token }),
      market.basket([{ ...rare, quantity: 2 }], { token: stranger.token }),
    ])
    expect((await first.checkout()).status).toBe(201)
    const refused = await second.checkout()
    expect([refused.status, refused.body.error]).toEqual([422, expect.stringContaining('exceeds inventory 1')])
    await until('the shop shows one', async () => (await inventory()) === 1)
    expect((await second.put([rare])).status).toBe(200)
    expect((await second.checkout()).status).toBe(201)
    await until('the shop shows none', async () => (await inventory()) === 0)
  })

  it('market-api:A-073 W-10 stores no buyer that is none', async () => {
    const signedIn = await market.basket([book()])
    const token = buyer.token
    const answer = await signedIn.checkout({ token }, '?buyer=hello')
    expect([201, 400]).toContain(answer.status)
    if (answer.status === 201) expect((await ordersOf(signedIn.id))[0]!.buyer_address).toBe(buyer.address)

    const anonymous = await market.basket([book()])
    const refused = await anonymous.checkout({}, '?buyer=hello')
    expect(refused.status).toBe(400)
    expect(refused.body.error).toMatch(/^Address must be 42 chars/)
    const nobody = await anonymous.checkout()
    expect([nobody.status, nobody.body.code]).toEqual([400, expect.any(String)])
    const named = await anonymous.checkout({}, `?buyer=${buyer.account.address}`)
    expect(named.status).toBe(201)
    expect((await ordersOf(anonymous.id))[0]!.buyer_address).toBe(buyer.address)
  })

  it("W-10 decision: the buyer of a basket without one is the token's", async () => {
    const basket = await market.basket([book()])
    const answer = await basket.checkout({ token: buyer.token })
    expect(answer.status).toBe(201)
    expect((await ordersOf(basket.id))[0]!.buyer_address).toBe(buyer.address)
  })

  it.each(oddPrices)('market-api:A-074 W-19 sells nothing for the price %j', async (price) => {
    const line = fixture.s1.line(oddSku(price))
    const answer = await (await market.basket()).put([book(), line])
    expect([answer.status, answer.body.code]).toEqual([422, 'invalid_offer'])
    expect(answer.body.details).toMatchObject({ path: '/items/1' })
  })

  it('market-api:A-075 W-02 adds up one currency only; decision: 400 mixed_currencies', async () => {
    const imported = fixture.s1.line('imported')
    const answer = await (await market.basket()).put([book(), imported])
    expect([answer.status, answer.body.code]).toEqual([400, 'mixed_currencies'])
    // CRC first or last: the basket is the same.
    expect((await (await market.basket()).put([imported, book()])).body.code).toBe('mixed_currencies')

    const basket = await market.basket([imported], { token: buyer.token })
    expect((await basket.validate()).status).toBe(200)
    for (const refused of [await basket.preview(), await basket.checkout()]) {
      expect([refused.status, refused.body.code]).toEqual([422, 'unsupported_currency'])
      expect(refused.body.details).toMatchObject({ path: '/items/0' })
    }
    expect(await ordersOf(basket.id)).toHaveLength(0)
  })

  it('market-api:A-076 W-04 keeps the basket when the order can not be written', async () => {
    const basket = await market.basket([book()], { token: buyer.token })
    const before = await basket.get()
    const name = `refuse_${basket.id.slice(-8)}`
    await market.sql.unsafe(`
      create function ${name}() returns trigger language plpgsql as $$ begin
        if new.basket_id = '${basket.id}' then raise exception 'no more room'; end if; return new; end $$;
      create trigger ${name} before insert on orders for each row execute function ${name}()`)
    const failed = await basket.checkout()
    await market.sql.unsafe(`drop trigger ${name} on orders; drop function ${name}()`)
    expect(failed.status).toBe(500)
    expect(failed.text).not.toMatch(/no more room|trigger|plpgsql|insert into|at .*\.js/i)
    expect((await basket.get()).body).toEqual(before.body)
    const retried = await basket.checkout()
    expect(retried.status).toBe(201)
    expect(await ordersOf(basket.id)).toHaveLength(1)
  })

  it('market-api:A-077 W-08 sells nothing that nobody could deliver', async () => {
    const offerType = `display-${randomUUID()}`
    await market.sql`
      insert into offer_types (offer_type, inventory_url_template)
        select ${offerType}, inventory_url_template from offer_types where offer_type = 'codedispenser'`
    await fixture.s1.route('display', { offerType })
    const line = fixture.s1.line('display')
    const basket = await market.basket([book(), line], { token: buyer.token })
    const answer = await basket.checkout()
    expect([answer.status, answer.body.code]).toEqual([422, 'not_fulfillable'])
    expect(answer.body.details).toMatchObject({ path: '/items/1' })
    expect(await ordersOf(basket.id)).toHaveLength(0)
  })

  it('architecture 3: sells nothing that names no place to pay, unless the operator knows one', async () => {
    const basket = await market.basket([unpaid.line('unpaid')], { token: buyer.token })
    const answer = await basket.checkout()
    expect([answer.status, answer.body.code]).toEqual([422, 'no_pay_to'])
    await unpaid.recordGateway(fixture.gateway)
    const known = await basket.checkout()
    expect(known.status).toBe(201)
    expect((await ordersOf(basket.id))[0]!.expected_gateways).toEqual([fixture.gateway])
  })

  it('market-api:A-078 takes no basket whose time is over', async () => {
    const basket = await market.basket([book()], { token: buyer.token })
    await basket.patch({ ttlSeconds: 1 })
    const gone = await until('it expires', async () => {
      const answer = await basket.preview()
      return answer.status !== 200 && answer
    })
    expect(gone.status).toBe(410)
    expect((await basket.checkout()).status).toBe(410)
    expect(await ordersOf(basket.id)).toHaveLength(0)
  })

  it('market-api:A-112 W-08 sells nothing whose time of delivery nobody understands', async () => {
    const answer = await (await market.basket()).put([fixture.s1.line('someday')])
    expect([answer.status, answer.body.code]).toEqual([422, 'invalid_offer'])
    expect((await (await market.basket()).put([fixture.s1.line('soon')])).status).toBe(200)
  })

  it('W-25 decision: buys the offer the line names', async () => {
    const line = fixture.s1.line('sized')
    const basket = await market.basket([{ ...line, offerIndex: 1 }], { token: buyer.token })
    expect((await basket.get()).body.items[0].offerSnapshot.price).toBe(6)
    const { body } = await basket.checkout()
    expect((await orderOf(buyer, body.orderId)).totalPaymentDue.price).toBe(6)
    const first = await market.basket([line])
    expect((await first.get()).body.items[0].offerSnapshot.price).toBe(4)
    expect((await first.put([{ ...line, offerIndex: 2 }])).status).toBe(422)
    expect((await first.put([{ ...line, offerIndex: -1 }])).status).toBe(400)
  })
})

describe('who may check out', () => {
  it("market-api:A-072 W-10 decision: a stranger's token is refused where the buyer's own was used; none is not", async () => {
    const owned = await market.basket([book()], { token: buyer.token })
    const refused = await owned.checkout({ token: stranger.token })
    expect([refused.status, refused.body.code]).toEqual([403, 'not_your_basket'])
    expect((await owned.get()).body.status).toBe('Draft')
    // MARKET_ANONYMOUS_CHECKOUT=allow is the default: the id is the key.
    expect((await basketAt(market.call, owned.id).checkout()).status).toBe(201)
  })

  it('market-api:A-072 W-10 with MARKET_ANONYMOUS_CHECKOUT=deny, 401 without a token and 403 with another', async () => {
    const newcomer = await market.signIn()
    const basket = await market.basket([book()], { buyer: newcomer.address })
    const there = basketAt(strict.call, basket.id)
    const anonymous = await there.checkout()
    expect([anonymous.status, anonymous.headers.get('www-authenticate')]).toEqual([401, 'Bearer'])
    expect((await there.checkout({ token: 'rubbish' })).status).toBe(401)
    expect((await there.checkout({ token: stranger.token })).status).toBe(403)
    expect(await ordersOf(basket.id)).toHaveLength(0)
    expect((await there.checkout({ token: newcomer.token })).status).toBe(201)
  })
})

describe('Idempotency-Key', () => {
  const keyed = (key: string, token: string | undefined = buyer.token) => ({
    token,
    headers: { 'Idempotency-Key': key },
  })

  it('W-14 gives the same answer again, its status included', async () => {
    const basket = await market.basket([book()], { token: buyer.token })
    const own = keyed(randomUUID())
    const first = await basket.checkout(own)
    const second = await basket.checkout(own)
    expect([first.status, second.status]).toEqual([201, 201])
    expect(second.text).toBe(first.text)
    expect(second.headers.get('content-type')).toBe(JSONLD)
    expect((await basket.checkout()).status, 'without the key').toBe(200)
    expect(await ordersOf(basket.id)).toHaveLength(1)
  })

  it('market-api:A-063 W-14 refuses the key of another basket', async () => {
    const own = keyed(randomUUID())
    const [one, other] = await Promise.all([1, 2].map(() => market.basket([book()], { token: buyer.token })))
    expect((await one!.checkout(own)).status).toBe(201)
    const refused = await other!.checkout(own)
    expect([refused.status, refused.body.code]).toEqual([422, 'idempotency_key_reused'])
    expect((await other!.get()).body.status).toBe('Draft')
    expect(await ordersOf(other!.id)).toHaveLength(0)
  })

  it("keeps callers' keys apart", async () => {
    const key = randomUUID()
    const mine = await market.basket([book()], { token: buyer.token })
    const theirs = await market.basket([book()], { token: stranger.token })
    expect((await mine.checkout(keyed(key))).status).toBe(201)
    expect((await theirs.checkout(keyed(key, stranger.token))).status).toBe(201)
    const nobodys = await market.basket([book()], { buyer: buyer.address })
    const anonymous = await nobodys.checkout({ headers: { 'Idempotency-Key': key } })
    expect(anonymous.status).toBe(201)
    const again = await nobodys.checkout({ headers: { 'Idempotency-Key': key } })
    expect([again.status, again.text]).toEqual([201, anonymous.text])
  })

  it('decision: remembers no refusal', async () => {
    const basket = await market.basket([fixture.mug()], { token: buyer.token })
    const own = keyed(randomUUID())
    expect((await basket.checkout(own)).status).toBe(400)
    await basket.patch({ contactPoint: { '@type': 'ContactPoint', email: 'ada@example.com' } })
    expect((await basket.checkout(own)).status).toBe(201)
  })

  it.each(['', ' ', 'x'.repeat(256), 'käse', 'a b'])('takes %j for no key', async (key) => {
    const basket = await market.basket([book()], { token: buyer.token })
    const header = Buffer.from(key).toString('latin1')
    const answer = await basket.checkout({ headers: { 'Idempotency-Key': header } })
    expect(answer.status).toBe(400)
    expect(await ordersOf(basket.id)).toHaveLength(0)
  })
})

describe('time to pay', () => {
  it('market-api:A-113 W-21 cancels what is not paid in time, and lets go of what it held', async () => {
    const newcomer = await market.signIn()
    const { token } = newcomer
    const line = fixture.s1.line('lapsing')
    const made = await market.basket([{ ...line, quantity: 2 }], { token })
    const placed = await basketAt(strict.call, made.id, { token }).checkout()
    expect(placed.status).toBe(201)
    const { orderId } = placed.body
    expect((await orderOf(newcomer, orderId)).orderStatus).toBe(OrderStatus.paymentDue)
    expect((await (await market.basket()).put([line])).status, 'held').toBe(422)

    await until(
      'it is cancelled',
      async () => (await orderOf(newcomer, orderId)).orderStatus === OrderStatus.cancelled,
      40,
    )
    const { body } = await market.call('GET', `${ORDERS}/${orderId}/status-history`, { token })
    expect(body.events.map(({ oldStatus, newStatus }: Record<string, string>) => [oldStatus, newStatus])).toEqual([
      [null, OrderStatus.paymentDue],
      [OrderStatus.paymentDue, OrderStatus.cancelled],
    ])
    expect((await (await market.basket()).put([{ ...line, quantity: 2 }])).status, 'released').toBe(200)
    const asSeller = await market.call('GET', `${ORDERS}/${orderId}/as-seller`, { token: fixture.s1.token })
    expect(asSeller.body.orderStatus).toBe(OrderStatus.cancelled)
  })

  it('W-05 a buyer may have so many orders to pay and no more', async () => {
    const hoarder = await market.signIn()
    const { token } = hoarder
    const checkOut = async () => {
      const { id } = await market.basket([book()], { token })
      return basketAt(strict.call, id, { token }).checkout()
    }
    const [first, second, third] = [await checkOut(), await checkOut(), await checkOut()]
    expect([first.status, second.status, third.status]).toEqual([201, 201, 429])
    expect(Number(third.headers.get('retry-after'))).toBeGreaterThan(0)
    const cancel = `${ORDERS}/${first.body.orderId}/cancel`
    expect((await market.call('POST', cancel, { token })).status).toBe(200)
    expect((await checkOut()).status).toBe(201)
  })

  it('9.7 lets the buyer cancel, once, and nobody else', async () => {
    const line = fixture.s1.line('regretted')
    const basket = await market.basket([line], { token: buyer.token })
    const { orderId } = (await basket.checkout()).body
    const cancel = (token?: string) => market.call('POST', `${ORDERS}/${orderId}/cancel`, { token })
    expect((await cancel()).status).toBe(401)
    expect((await cancel(stranger.token)).status).toBe(404)
    expect((await cancel(fixture.s1.token)).status).toBe(404)
    expect((await orderOf(buyer, orderId)).orderStatus).toBe(OrderStatus.paymentDue)
    expect((await cancel(buyer.token)).status).toBe(200)
    expect((await orderOf(buyer, orderId)).orderStatus).toBe(OrderStatus.cancelled)
    expect((await (await market.basket()).put([line])).status).toBe(200)
    await cancel(buyer.token)
    const { body } = await market.call('GET', `${ORDERS}/${orderId}/status-history`, { token: buyer.token })
    expect(body.events).toHaveLength(2)
  })
})
