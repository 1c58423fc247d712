import { type Check, must, objectOf } from '../check.ts'
import { isJson } from './stock.ts'
import { linesOf, type Order } from '../subject.ts'

const ANSWER = 'fulfilment.md 8; adapters.md 11'

export const deliveryChecks: Check[] = [
  {
    id: 'answer-shape',
    title: 'A delivery answers with @type, status, message, what was asked, and a line for each item',
    section: ANSWER,
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const sku = subject.sku()
      const order: Order = { ...subject.newOrder(), lineIndexes: [7] }
      const answer = await subject.deliver(order)
      await subject.stockBecomes(before - 1, 'one unit delivered')
      const told = objectOf(answer.json)
      must(isJson(answer.headers['content-type']), 'a Content-Type of JSON', String(answer.headers['content-type']))
      must(typeof told['@type'] === 'string' && told['@type'] !== '', 'a text as "@type"', answer)
      must(told.message === null || typeof told.message === 'string', 'a text or null as "message"', answer)
      for (const [name, value] of [
        ['orderId', order.orderId],
        ['paymentReference', order.paymentReference],
        ['seller', subject.target.seller],
      ] as const) {
        must(told[name] === value, `${JSON.stringify(name)} ${JSON.stringify(value)}`, answer)
      }
      must(told.codes === undefined || isTexts(told.codes), 'texts as "codes", if any', answer)
      const lines = linesOf(answer)
      must(lines.length === 1, 'one line for one item', answer)
      const { lineIndex, sku: lineSku, quantity, status, message } = lines[0]!
      must(
        lineIndex === 7 && lineSku === sku.toLowerCase() && quantity === 1 && status === 'ok',
        `a line {"lineIndex":7,"sku":"${sku.toLowerCase()}","quantity":1,"status":"ok",…}`,
        answer,
      )
      must(message === null || typeof message === 'string', 'a text or null as "message" of the line', answer)
    },
  },
  {
    id: 'in-time',
    title: 'A delivery is answered within the budget, if only with 202',
    section: 'fulfilment.md 14, F9; adapters.md 11',
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const { budgetMs } = subject.target
      const before = await subject.stock()
      const order = subject.newOrder()
      const answer = await subject.fulfil(order)
      must(answer.ms <= budgetMs, `an answer within ${budgetMs} ms`, `one after ${Math.round(answer.ms)} ms`)
      if (answer.status === 202) await subject.deliver(order)
      await subject.stockBecomes(before - 1, 'one unit delivered')
    },
  },
  {
    id: 'unmapped',
    title: 'A sku that is not mapped is notApplicable, never ok',
    section: `${ANSWER}, A-11`,
    needs: [],
    units: 0,
    async run(subject) {
      const order = subject.newOrder([{ sku: subject.target.unmappedSku, quantity: 1 }])
      for (const _ of ['first', 'again']) {
        const answer = await subject.settle(order)
        must(
          answer.status === 200 && objectOf(answer.json).status === 'notApplicable',
          'HTTP 200 with status "notApplicable"',
          answer,
        )
        must(linesOf(answer)[0]?.status === 'notMapped', 'a line with status "notMapped"', answer)
      }
    },
  },
  {
    id: 'partial',
    title: 'With one of two lines not mapped the status is partial and each line says its own',
    section: `${ANSWER}, A-22`,
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const order: Order = {
        ...subject.newOrder([
          { sku: subject.target.unmappedSku, quantity: 1 },
          { sku: subject.sku(), quantity: 1 },
        ]),
        lineIndexes: [2, 5],
      }
      for (const _ of ['first', 'again']) {
        const answer = await subject.settle(order)
        must(
          answer.status === 200 && objectOf(answer.json).status === 'partial',
          'HTTP 200 with status "partial"',
          answer,
        )
        const statusOf = (index: number) => linesOf(answer).find((line) => line.lineIndex === index)?.status
        must(statusOf(2) === 'notMapped' && statusOf(5) === 'ok', 'line 2 "notMapped" and line 5 "ok"', answer)
      }
      await subject.stockBecomes(before - 1, 'the mapped line was delivered, once')
    },
  },
  {
    id: 'several-lines',
    title: 'Several lines in one request are delivered each',
    section: `${ANSWER}, A-7`,
    needs: ['sku'],
    units: 3,
    async run(subject) {
      const before = await subject.stock()
      const sku = subject.sku()
      const items = [
        { sku, quantity: 1 },
        { sku, quantity: 2 },
      ]
      const answer = await subject.deliver({ ...subject.newOrder(items), lineIndexes: [4, 1] })
      const lines = linesOf(answer).toSorted((a, b) => Number(a.lineIndex) - Number(b.lineIndex))
      const told = lines.map(({ lineIndex, quantity, status }) => `${lineIndex}: ${quantity} ${status}`).join(', ')
      must(told === '1: 2 ok, 4: 1 ok', 'line 1 with 2 units and line 4 with 1, both "ok"', answer)
      await subject.stockBecomes(before - 3, 'three units delivered')
    },
  },
]

const isTexts = (value: unknown) => Array.isArray(value) && value.every((one) => typeof one === 'string')
