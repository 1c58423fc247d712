import { OrderStatus } from '@market/contracts/statuses'
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { BUYER, GATEWAY, type Orders, S1, S2, startOrders, STRANGER, type TestLine } from './orderWorld.ts'

let orders: Orders
beforeAll(async () => {
  orders = await startOrders()
})
afterAll(() => orders?.close())

const PERSONAL_MEMBERS = [
  'customer',
  'shippingAddress',
  'billingAddress',
  'sellerContact',
  'customerContact',
  'customerAge',
  'paymentDueBy',
]

describe("the seller's view", () => {
  it('market-api:A-084 has only the lines of who asks, and nothing about the buyer', async () => {
    const createdAt = new Date('2026-01-02T03:04:05.678Z')
    const orderId = await orders.place({ createdAt })
    const { status, body } = await orders.get(`/${orderId}/as-seller`, S2)
    expect(status).toBe(200)
    expect(body).toEqual({
      '@context': 'https://schema.org/',
      '@type': 'Order',
      orderNumber: orderId,
      orderId,
      orderStatus: OrderStatus.paymentDue,
      status: OrderStatus.paymentDue,
      orderDate: '2026-01-02T03:04:05.6780000+00:00',
      createdAt: createdAt.toISOString(),
      updatedAt: createdAt.toISOString(),
      paymentReference: expect.stringMatching(/^pay_/),
      broker: { '@type': 'Organization', '@id': expect.stringMatching(/^eip155:100:/) },
      acceptedOffer: [
        expect.objectContaining({ price: 7.5, seller: expect.objectContaining({ '@id': `eip155:100:${S2}` }) }),
      ],
      orderedItem: [
        expect.objectContaining({ orderQuantity: 3, orderedItem: expect.objectContaining({ sku: 'mug' }) }),
      ],
      totalPaymentDue: { '@type': 'PriceSpecification', price: 22.5, priceCurrency: 'CRC' },
      items: [{ name: 'Mug', sku: 'mug', quantity: 3, price: 7.5 }],
      outbox: [],
    })
    for (const member of PERSONAL_MEMBERS) expect(body).not.toHaveProperty(member)
  })

  it('market-api:A-085 is a 404 for whoever sells nothing in it, its buyer included', async () => {
    const orderId = await orders.place({ lines: [{ seller: S1, sku: 'a', price: 1 }] })
    for (const [path, who, chainId] of [
      [orderId, BUYER, 100],
      [orderId, S2, 100],
      [orderId, S1, 1],
      [orderId.toLowerCase(), S1, 100],
      [`ord_${'0'.repeat(32)}`, S1, 100],
    ] as const) {
      expect(await orders.get(`/${path}/as-seller`, who, { chainId })).toMatchObject({
        status: 404,
        body: { code: 'order_not_found' },
      })
    }
    expect((await orders.get(`/${orderId}/as-seller`, S1)).status).toBe(200)
    expect((await orders.get(`/${orderId}/as-seller`, undefined)).status).toBe(401)
  })

  it('clients:8 lists what was sold like this, newest first; who sells nothing has an empty list', async () => {
    const seller = `0x${'5'.repeat(40)}`
    const ids: string[] = []
    for (let i = 0; i < 3; i += 1) {
      const lines = [
        { seller: S1, sku: 'x', price: 1 },
        { seller, sku: `mine-${i}`, price: 2 },
      ]
      ids.unshift(await orders.place({ lines, createdAt: new Date(Date.UTC(2026, 0, 1, 0, i)), listed: i > 0 }))
    }
    const { status, body } = await orders.get('/by-seller?page=1&pageSize=2', seller)
    expect(status).toBe(200)
    expect(body.items.map((order: any) => order.orderId)).toEqual(ids.slice(0, 2))
    expect(body.items[0]).toEqual((await orders.get(`/${ids[0]}/as-seller`, seller)).body)
    expect((await orders.get('/by-seller?page=2&pageSize=2', seller)).body.items).toHaveLength(1)
    expect((await orders.get('/by-seller?page=3&pageSize=2', seller)).body).toEqual({ items: [] })
    expect(await orders.get('/by-seller', STRANGER)).toMatchObject({ status: 200, body: { items: [] } })
    expect((await orders.get('/by-seller', seller, { chainId: 1 })).body).toEqual({ items: [] })
  })

  it('adds amounts exactly, and has no total for nothing', async () => {
    const lines = [
      { seller: S1, sku: 'a', price: 0.1 },
      { seller: S1, sku: 'b', price: 0.2 },
      { seller: S2, sku: 'c', price: 0.7, quantity: 3 },
    ]
    const orderId = await orders.place({ lines })
    const total = async (who: string) => (await orders.get(`/${orderId}/as-seller`, who)).body.totalPaymentDue?.price
    expect([await total(S1), await total(S2)]).toEqual([0.3, 2.1])
    await sql`update orders set order_json = jsonb_set(order_json, '{acceptedOffer,2,price}', '0') where order_id = ${orderId}`.execute(
      orders.db,
    )
    expect(await total(S2)).toBeUndefined()
    expect((await orders.get(`/${orderId}/as-seller`, S2)).body.totalPaymentDue).toBeNull()
  })

  it('is an error, not another line, when offers and lines do not belong together', async () => {
    const seller = `0x${'6'.repeat(40)}`
    const orderId = await orders.place({
      lines: [
        { seller: `0x${'7'.repeat(40)}`, sku: 'a', price: 1 },
        { seller, sku: 'b', price: 1 },
      ],
    })
    for (const path of ['{acceptedOffer,0}', '{orderedItem,1}']) {
      await sql`update orders set order_json = order_json #- ${path}::text[] where order_id = ${orderId}`.execute(
        orders.db,
      )
      expect(await orders.get(`/${orderId}/as-seller`, seller)).toMatchObject({
        status: 500,
        body: { code: 'internal_error' },
      })
    }
  })
})

describe('whatever a seller asks for', () => {
  const word = fc.stringMatching(/^[a-z]{6,10}$/)
  const line = fc.record({ who: fc.integer({ min: 0, max: 2 }), name: word, price: fc.integer({ min: 1, max: 9 }) })

  it('holds no text of the buyer and none of other sellers', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(line, { minLength: 1, maxLength: 6 }),
        fc.uniqueArray(word, { minLength: 12, maxLength: 12 }),
        async (drawn, words) => {
          // Marked, so that a text of one is never by chance that of another.
          const secret = (i: number) => `secret-${words[i]}`
          const sellers = [S1, S2, STRANGER]
          const lines = drawn.map(({ who, name, price }, i): TestLine => ({
            seller: sellers[who]!,
            sku: `sku-${who}-${i}-${name}`,
            name: `name-${who}-${i}-${name}`,
            price,
            isOneOff: true,
            trigger: price > 5 ? 'confirmed' : 'finalized',
          }))
          const address = {
            '@type': 'PostalAddress',
            streetAddress: secret(0),
            addressLocality: secret(1),
            postalCode: secret(2),
            addressCountry: secret(3),
          }
          const contact = { '@type': 'ContactPoint', email: secret(4), telephone: secret(5) }
          const buyer = `0x${'d'.repeat(39)}0`
          const orderId = await orders.place({
            buyer,
            lines,
            snapshot: {
              customer: {
                '@type': 'Person',
                '@id': `eip155:100:${buyer}`,
                givenName: secret(6),
                familyName: secret(7),
              },
              billingAddress: address,
              shippingAddress: { ...address, streetAddress: secret(8) },
              sellerContact: contact,
              customerContact: { ...contact, email: secret(9) },
              customerAge: { text: secret(10) },
            },
          })
          const { payment_reference } = await orders.db
            .selectFrom('orders')
            .select('payment_reference')
            .where('order_id', '=', orderId)
            .executeTakeFirstOrThrow()
          await orders.db
            .insertInto('payment_transfers')
            .values({
              chain_id: 100,
              tx_hash: `0xsecret${orderId}`,
              log_index: 0,
              block_number: 1,
              transaction_index: 0,
              block_hash: null,
              block_time: null,
              payment_reference,
              gateway_address: GATEWAY,
              payer_address: buyer,
              payee_address: null,
              token_id: null,
              token_avatar: null,
              amount_wei: '1',
              eligible: true,
              ignored_reason: null,
              orphaned_at: null,
            })
            .execute()
          await orders.complete(orderId)
          for (const job of await orders.jobs(orderId)) {
            await orders.post(`/${orderId}/fulfillments/${job.job_id}/complete`, job.seller_address, {
              message: `secret-${job.seller_address}`,
            })
          }
          for (const [i, seller] of sellers.entries()) {
            const isSeller = lines.some((one) => one.seller === seller)
            const answers = [
              ...(await Promise.all(
                ['as-seller', 'fulfillments', 'timeline'].map((path) => orders.get(`/${orderId}/${path}`, seller)),
              )),
              await orders.get('/by-seller?pageSize=1', seller),
            ]
            expect(answers[3]!.status).toBe(200)
            for (const { status, text } of answers.slice(0, 3))
              expect([status, text]).toEqual([isSeller ? 200 : 404, text])
            const text = answers.map((answer) => answer.text).join('\n')
            expect(text).not.toContain('secret')
            expect(text).not.toContain(buyer)
            for (const [other, theirs] of sellers.entries()) {
              if (other === i) continue
              expect(text).not.toContain(`sku-${other}-`)
              expect(text).not.toContain(`name-${other}-`)
              expect(text).not.toContain(theirs)
            }
            for (const [n, own] of lines.entries()) {
              if (own.seller === seller) expect(text).toContain(`name-${i}-${n}-`)
            }
          }
        },
      ),
      // Shrinking would place orders for minutes.
      { numRuns: 12, endOnFailure: true },
    )
  }, 120_000)
})
