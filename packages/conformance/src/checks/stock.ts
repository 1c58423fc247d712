import { QuantitativeValue } from '@market/contracts/fulfillment'
import { Availability } from '@market/contracts/statuses'
import { type Check, must, objectOf, Untested } from '../check.ts'

const STOCK = 'fulfilment.md 9'

export const stockChecks: Check[] = [
  {
    id: 'inventory-shape',
    title: 'Inventory is a QuantitativeValue with a whole number of at least 0',
    section: STOCK,
    needs: ['sku'],
    units: 0,
    async run(subject) {
      const answer = await subject.inventory(subject.sku())
      const parsed = QuantitativeValue.safeParse(answer.json)
      const { unitCode } = objectOf(answer.json)
      must(
        answer.status === 200 && parsed.success && parsed.data.value >= 0 && typeof unitCode === 'string',
        'HTTP 200 {"@type":"QuantitativeValue","value":<integer ≥ 0>,"unitCode":"C62"}',
        answer,
      )
      must(isJson(answer.headers['content-type']), 'a Content-Type of JSON', String(answer.headers['content-type']))
    },
  },
  {
    id: 'inventory-unmapped',
    title: 'Inventory of a sku that is not mapped is 404',
    section: `${STOCK}; adapters.md A-11`,
    needs: [],
    units: 0,
    async run(subject) {
      const answer = await subject.inventory(subject.target.unmappedSku)
      const { error } = objectOf(answer.json)
      must(answer.status === 404 && typeof error === 'string', 'HTTP 404 {"error":"…"}', answer)
    },
  },
  {
    id: 'availability',
    title: 'Availability is absent (404) or one of the two IRIs, and agrees with inventory',
    section: STOCK,
    needs: ['sku'],
    units: 0,
    async run(subject) {
      const answer = await subject.availability(subject.sku())
      if (answer.status === 404) return
      const right = (await subject.stock()) > 0 ? Availability.inStock : Availability.outOfStock
      must(answer.status === 200 && answer.json === right, `HTTP 200 "${right}"`, answer)
      const unmapped = await subject.availability(subject.target.unmappedSku)
      must(unmapped.status === 404, 'HTTP 404 for a sku that is not mapped', unmapped)
    },
  },
  {
    id: 'depleted',
    title: 'A sku without stock is told by its status, never by ok, and nothing is taken',
    section: 'fulfilment.md 14; adapters.md 11, A-3',
    needs: ['depletedSku'],
    units: 0,
    async run(subject) {
      const sku = subject.target.depletedSku!
      const before = await subject.stock(sku)
      if (before !== 0) throw new Untested(`${sku} has a stock of ${before}`)
      const order = subject.newOrder([{ sku, quantity: 1 }])
      for (const _ of ['first', 'again']) {
        const answer = await subject.settle(order)
        const { status, codes } = objectOf(answer.json)
        must(
          (answer.status === 200 || answer.status === 409) && (status === 'depleted' || status === 'insufficientStock'),
          'HTTP 200 or 409 with status "depleted" or "insufficientStock"',
          answer,
        )
        must(codes === undefined || (Array.isArray(codes) && codes.length === 0), 'no codes', answer)
      }
      const inventory = await subject.inventory(sku)
      const { value } = objectOf(inventory.json)
      must(Number(value) === 0, 'an inventory of 0 still', inventory)
    },
  },
]

export const isJson = (contentType: string | undefined) => /^application\/(?:\S+\+)?json\b/i.test(contentType ?? '')
