import { type Check, Deviation, must, objectOf } from '../check.ts'
import { linesOf, type Order, type Subject } from '../subject.ts'

const REQUEST = 'fulfilment.md 7'

/** Refused with that message, as 400. */
async function mustRefuse(subject: Subject, order: object | string, message: string): Promise<void> {
  const answer = await subject.fulfil(typeof order === 'string' ? order : (order as Order))
  const { error } = objectOf(answer.json)
  must(answer.status === 400 && error === message, `HTTP 400 {"error":${JSON.stringify(message)}}`, answer)
}

/** The sku, or one that nobody mapped: what is refused doesn't get as far as looking it up. */
const anySku = ({ target }: Subject) => target.sku ?? target.unmappedSku

export const requestChecks: Check[] = [
  {
    id: 'seller-invalid',
    title: 'A seller that is no address is 400',
    section: `${REQUEST}; adapters.md A-12`,
    needs: [],
    units: 0,
    async run(subject) {
      const { seller } = subject.target
      for (const bad of ['0x12', `0xZZ${seller.slice(4)}`, seller.slice(2), `${seller}00`]) {
        for (const answer of [
          await subject.inventory(anySku(subject), { seller: bad }),
          await subject.fulfil(subject.newOrder(), { seller: bad }),
        ]) {
          const { error } = objectOf(answer.json)
          const said = typeof error === 'string' && /seller/i.test(error)
          must(answer.status === 400 && said, `HTTP 400 {"error":"Invalid seller address"} for ${bad}`, answer)
        }
      }
    },
  },
  {
    id: 'seller-spelling',
    title: 'The seller may be in capitals',
    section: REQUEST,
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const seller = `0x${subject.target.seller.slice(2).toUpperCase()}`
      const answer = await subject.inventory(subject.sku(), { seller })
      must(Number(objectOf(answer.json).value) === before, `the inventory of ${before}, as for lower case`, answer)
      const order = subject.newOrder()
      await subject.deliver(order, { seller })
      await subject.deliver(order)
      await subject.stockBecomes(before - 1, 'one key, one seller, one delivery')
    },
  },
  {
    id: 'body-not-json',
    title: 'A body that is no JSON object is 400 "Invalid JSON body"',
    section: `${REQUEST}; F-24`,
    needs: [],
    units: 0,
    async run(subject) {
      for (const body of ['', 'orderId=1', '{"orderId":', '[]', '"text"', 'null', '17']) {
        await mustRefuse(subject, body, 'Invalid JSON body')
      }
    },
  },
  {
    id: 'body-incomplete',
    title: 'Missing or blank orderId, paymentReference, items, sku or trigger is 400 and named',
    section: `${REQUEST}; F-24`,
    needs: [],
    units: 0,
    async run(subject) {
      const cases: [string, object][] = [
        ...['orderId', 'paymentReference', 'trigger'].flatMap((name): [string, object][] => [
          [`${name} is required`, { [name]: undefined }],
          [`${name} is required`, { [name]: null }],
          [`${name} is required`, { [name]: ' \t' }],
        ]),
        ['items must contain at least one element', { items: undefined }],
        ['items must contain at least one element', { items: [] }],
        ['item.sku is required', { items: [{ quantity: 1 }] }],
        ['item.sku is required', { items: [{ sku: '  ', quantity: 1 }] }],
      ]
      for (const [message, members] of cases) await mustRefuse(subject, { ...subject.newOrder(), ...members }, message)
    },
  },
  {
    id: 'trigger-unknown',
    title: 'A trigger that nobody knows is 400',
    section: `${REQUEST}; F-24`,
    needs: [],
    units: 0,
    async run(subject) {
      for (const trigger of ['paid', 'finalised', 'confirmed,finalized']) {
        await mustRefuse(subject, { ...subject.newOrder(), trigger }, "trigger must be 'confirmed' or 'finalized'")
      }
    },
  },
  {
    id: 'names-any-case',
    title: 'Member names are read in any case',
    section: REQUEST,
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const { orderId, paymentReference, items, trigger, idempotencyKey, lineIndexes, ...others } = subject.newOrder()
      await subject.deliver({
        ...others,
        ORDERID: orderId,
        PaymentReference: paymentReference,
        Items: items.map(({ sku, quantity }) => ({ SKU: sku, Quantity: quantity })),
        TRIGGER: trigger,
        LineIndexes: lineIndexes,
        IdempotencyKey: idempotencyKey,
      } as unknown as Order)
      await subject.stockBecomes(before - 1, 'one unit delivered')
    },
  },
  {
    id: 'quantity-spelling',
    title: 'A quantity may be a number in a string, and is 1 when absent',
    section: `${REQUEST}; F-25`,
    needs: ['sku'],
    units: 3,
    async run(subject) {
      const before = await subject.stock()
      const two = await subject.deliver(subject.newOrder([{ sku: subject.sku(), quantity: '2' }]))
      must(linesOf(two)[0]?.quantity === 2, 'a line with quantity 2', two)
      await subject.stockBecomes(before - 2, 'two units delivered')
      const one = await subject.deliver(subject.newOrder([{ sku: subject.sku() }]))
      must(linesOf(one)[0]?.quantity === 1, 'a line with quantity 1', one)
      await subject.stockBecomes(before - 3, 'one unit delivered')
    },
  },
  {
    id: 'sku-spelling',
    title: 'Spaces around a sku or a trigger and capitals in them do not matter',
    section: `${REQUEST}; F-25`,
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const sku = subject.sku()
      const order = subject.newOrder([{ sku: `  ${sku.toUpperCase()} `, quantity: 1 }])
      const answer = await subject.deliver({ ...order, trigger: ' Finalized ' })
      const told = linesOf(answer)[0]?.sku
      must(told === sku.toLowerCase(), `a line with the sku ${sku.toLowerCase()}`, answer)
      await subject.stockBecomes(before - 1, 'one unit delivered')
    },
  },
  {
    id: 'unknown-members',
    title: 'Members that are not in the contract yet are ignored',
    section: 'fulfilment.md 14',
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const later = { conformance: { deep: [1, null, 'x'] }, '': 0, $schema: 'https://example.org/later' }
      const order = subject.newOrder([{ sku: subject.sku(), quantity: 1, ...later }])
      await subject.deliver({ ...order, ...later })
      await subject.stockBecomes(before - 1, 'one unit delivered')
    },
  },
  {
    id: 'odd-text',
    title: 'NUL and half a surrogate pair are 4xx where they would be kept, and 5xx nowhere',
    section: 'fulfilment.md 14 (5xx is tried again for a day); adapters.md 11',
    needs: [],
    units: 1,
    async run(subject) {
      const { sku, chain, seller } = subject.target
      const before = sku === undefined ? 0 : await subject.stock()
      for (const odd of ['\0', '\ud800', '\udc00x']) {
        const order = subject.newOrder()
        const spoilt: [member: string, order: Order][] = [
          ['orderId', { ...order, orderId: order.orderId + odd }],
          ['paymentReference', { ...order, paymentReference: order.paymentReference + odd }],
          ['idempotencyKey', { ...order, idempotencyKey: order.idempotencyKey + odd }],
          ['a sku', { ...order, items: [{ sku: anySku(subject) + odd, quantity: 1 }] }],
        ]
        for (const [member, body] of spoilt) {
          // JSON escapes both, so they arrive; the header can't carry them.
          const answer = await subject.fulfil(body, { key: null })
          must(isRefusal(answer.status), `HTTP 4xx for ${JSON.stringify(odd)} in ${member}`, answer)
        }
      }
      for (const path of ['%00', '%ED%A0%80', '%FF', '%']) {
        const answer = await subject.ask({ method: 'GET', path: `/inventory/${chain}/${seller}/${path}` })
        must(isRefusal(answer.status), `HTTP 4xx for inventory of ${path}`, answer)
      }
      // An adapter that has no use for the buyer's name need not look at it.
      const answer = await subject.fulfil({ ...subject.newOrder(), customer: { name: 'A\0da', givenName: '\ud800' } })
      must(answer.status < 500, 'HTTP below 500 for NUL in the name of the customer', answer)
      if (sku !== undefined)
        await subject.stockBecomes(before - (answer.status < 300 ? 1 : 0), 'nothing else delivered')
    },
  },
  {
    id: 'line-indexes',
    title: 'lineIndexes that name a line twice, or not each item, are 400 and deliver nothing',
    section: 'fulfilment.md 14; adapters.md 11',
    needs: [],
    units: 0,
    async run(subject) {
      const before = subject.target.sku === undefined ? 0 : await subject.stock()
      const sku = anySku(subject)
      const items = [
        { sku, quantity: 1 },
        { sku, quantity: 1 },
      ]
      for (const lineIndexes of [[3, 3], [3], [1, 2, 3], [-1, 0], [0, 0.5]]) {
        const answer = await subject.fulfil({ ...subject.newOrder(items), lineIndexes })
        must(answer.status === 400, `HTTP 400 for lineIndexes ${JSON.stringify(lineIndexes)} of two items`, answer)
      }
      if (subject.target.sku === undefined) return
      const after = await subject.stock()
      if (after !== before) throw new Deviation(`an inventory of ${before} still`, `${after}`)
    },
  },
]

const isRefusal = (status: number) => status >= 400 && status < 500
