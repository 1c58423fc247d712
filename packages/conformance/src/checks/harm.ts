import { setTimeout as delay } from 'node:timers/promises'
import { SERVICE_KEY_HEADER } from '@market/contracts/fulfillment'
import { type Check, Deviation, must } from '../check.ts'
import { call, NoAnswerError } from '../httpCall.ts'
import type { Subject } from '../subject.ts'
import { openFulfil } from './repeats.ts'

const OVERSIZE_BYTES = 300 * 1024
const MAX_ANSWER_BYTES = 64 * 1024
const SLOW_CALLERS = 20
/** For a request that has nothing to wait for. */
const PROMPT_MS = 3000

export const harmChecks: Check[] = [
  {
    id: 'oversize-body',
    title: 'A body of 300 KB is 413 or cut off, delivers nothing, and the next request is served',
    section: 'adapters.md 12 A30',
    needs: [],
    units: 0,
    async run(subject) {
      const before = subject.target.sku === undefined ? 0 : await subject.stock()
      const order = { ...subject.newOrder(), padding: 'x'.repeat(OVERSIZE_BYTES) }
      const answer = await subject.fulfil(order).catch(cutOff)
      if (answer) must(answer.status === 413, 'HTTP 413, or the connection closed', answer)
      await mustBeThere(subject)
      if (subject.target.sku === undefined) return
      const after = await subject.stock()
      must(after === before, `an inventory of ${before} still`, `${after}`)
    },
  },
  {
    id: 'slow-body',
    title: `${SLOW_CALLERS} callers who never finish their body keep nobody else waiting`,
    section: 'adapters.md 11',
    needs: [],
    units: 0,
    async run(subject) {
      const slow = Array.from({ length: SLOW_CALLERS }, () => openFulfil(subject, subject.newOrder(), 1000))
      try {
        await Promise.all(slow.map((request) => new Promise((sent) => request.write('{"orderId":"', sent))))
        await delay(100)
        for (const request of slow) request.write('x')
        await mustBeThere(subject)
      } finally {
        for (const request of slow) request.destroy()
      }
      await mustBeThere(subject)
    },
  },
  {
    id: 'malformed',
    title: 'Wrong types, deep nesting, absurd numbers and broken UTF-8 are never 5xx',
    section: 'fulfilment.md 14 (5xx is tried again for a day); adapters.md 11',
    needs: [],
    units: 0,
    async run(subject) {
      for (const [what, body] of malformedBodies(subject)) {
        const answer = await subject.fulfil(body, { key: null })
        must(answer.status < 500, `HTTP below 500 for ${what}`, answer)
      }
    },
  },
  {
    id: 'errors-quiet',
    title: 'Error answers tell nothing of the inside: no stack, no SQL, no path, no key',
    section: 'adapters.md 12 A19',
    needs: [],
    units: 0,
    async run(subject) {
      for (const body of ['{', ...malformedBodies(subject).map((one) => one[1])]) await subject.fulfil(body)
      await subject.ask({ method: 'GET', path: `/inventory/x'y/${subject.target.seller}/z` })
      await subject.ask({ method: 'GET', path: '/no/such/route' })
      await subject.ask({ method: 'POST', path: `/inventory/100/${subject.target.seller}/x` })
      await subject.inventory('x'.repeat(3000))
      const [leak] = subject.seen.leaks
      if (leak !== undefined) throw new Deviation('a message for strangers', leak)
    },
  },
  {
    id: 'answer-size',
    title: 'No answer is larger than the 64 KiB that the market reads',
    section: 'fulfilment.md 5, F-11',
    needs: [],
    units: 1,
    async run(subject) {
      const { sku, unmappedSku } = subject.target
      if (sku !== undefined) {
        const before = await subject.stock()
        await subject.deliver(subject.newOrder())
        await subject.stockBecomes(before - 1, 'one unit delivered')
      }
      const many = Array.from({ length: 100 }, () => ({ sku: unmappedSku, quantity: 1 }))
      await subject.settle(subject.newOrder(many))
      const { largest } = subject.seen
      must(
        largest === undefined || largest.bytes <= MAX_ANSWER_BYTES,
        `at most ${MAX_ANSWER_BYTES} bytes`,
        `${largest?.bytes} bytes from ${largest?.path}`,
      )
    },
  },
]

/** Whatever an adapter takes of these must cost it nothing: the sku is one that it doesn't have. */
function malformedBodies(subject: Subject): [what: string, body: string | Buffer][] {
  const order = subject.newOrder([{ sku: subject.target.unmappedSku, quantity: 1 }])
  const deep = `${'['.repeat(20_000)}${']'.repeat(20_000)}`
  const changed: [string, object][] = [
    ['items that are an object', { items: { sku: 'x' } }],
    ['items that are no objects', { items: ['x', 1, null] }],
    ['an orderId that is an object', { orderId: { id: 1 } }],
    ['an orderId of 5000 characters', { orderId: 'x'.repeat(5000) }],
    ['an idempotencyKey of 5000 characters', { idempotencyKey: 'x'.repeat(5000) }],
    ['lineIndexes that are a text', { lineIndexes: 'all' }],
    ['a lineIndex of 2^53', { lineIndexes: [2 ** 53] }],
    ['a quantity of 1e308', { items: [{ sku: "' or 1=1; --", quantity: 1e308 }] }],
    ['a quantity of "many"', { items: [{ sku: 'x', quantity: 'many' }] }],
    ['a buyer that is an object', { buyer: { id: 1 } }],
  ]
  return [
    ...changed.map(([what, members]): [string, string] => [what, JSON.stringify({ ...order, ...members })]),
    ['items 20,000 arrays deep', JSON.stringify(order).replace('"items":', `"items":${deep},"others":`)],
    ['a body that is not UTF-8', Buffer.from(JSON.stringify(order).replace('ord_', 'ord_\u00ff'), 'latin1')],
  ]
}

/** Answers a request that has nothing to wait for, promptly. */
async function mustBeThere(subject: Subject): Promise<void> {
  const { target } = subject
  const path = `/inventory/${target.chain}/${target.seller}/${encodeURIComponent(target.sku ?? target.unmappedSku)}`
  const headers = { [SERVICE_KEY_HEADER]: target.serviceKey }
  try {
    const answer = await call(target.url, { method: 'GET', path, headers }, PROMPT_MS)
    must(answer.status === 200 || answer.status === 404, 'an answer to the next request', answer)
  } catch (error) {
    if (!(error instanceof NoAnswerError)) throw error
    throw new Deviation(`an answer to the next request within ${PROMPT_MS} ms`, error.message)
  }
  const order = await subject.fulfil(subject.newOrder([{ sku: target.unmappedSku, quantity: 1 }]))
  must(order.status < 500, 'an answer to the next request for delivery', order)
}

function cutOff(error: unknown): undefined {
  if (error instanceof NoAnswerError && error.how !== 'late') return undefined
  throw error
}
