import { setTimeout as delay } from 'node:timers/promises'
import { IDEMPOTENCY_KEY_HEADER, SERVICE_KEY_HEADER } from '@market/contracts/fulfillment'
import { type Check, must, objectOf } from '../check.ts'
import { type Answer, openCall } from '../httpCall.ts'
import { goodsOf, mustBeSameGoods, type Order, type Subject } from '../subject.ts'

const GATE = 'fulfilment.md 10, 14'
const AT_ONCE = 20
const KEYS_AT_ONCE = 5

export const repeatChecks: Check[] = [
  {
    id: 'replay',
    title: 'A repeated request gets the same goods, told as "Already processed", and takes nothing more',
    section: `${GATE}, F7, F-26; adapters.md A-2`,
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const order = subject.newOrder()
      const first = await subject.deliver(order)
      for (const _ of ['second', 'third']) {
        const again = await subject.deliver(order)
        mustBeSameGoods(first, again)
        const { message } = objectOf(again.json)
        must(message === 'Already processed', '"message" "Already processed"', again)
      }
      await subject.stockBecomes(before - 1, 'one key, one delivery')
    },
  },
  {
    id: 'key-place',
    title: 'The idempotency key counts the same in the header and in the body',
    section: GATE,
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const order = subject.newOrder()
      const { idempotencyKey, ...keyless } = order
      const byHeader = await subject.deliver(keyless, { key: idempotencyKey! })
      mustBeSameGoods(byHeader, await subject.deliver(order, { key: null }))
      mustBeSameGoods(byHeader, await subject.deliver(order))
      await subject.stockBecomes(before - 1, 'one key, one delivery')
    },
  },
  {
    id: 'key-absent',
    title: 'Without a key, chain, seller and payment reference are it',
    section: GATE,
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const { idempotencyKey: _, lineIndexes: __, ...old } = subject.newOrder()
      mustBeSameGoods(await subject.deliver(old), await subject.deliver(old))
      await subject.stockBecomes(before - 1, 'one payment reference, one delivery')
    },
  },
  {
    id: 'key-per-job',
    title: 'Two keys of one order and payment are two deliveries',
    section: `${GATE}, F2`,
    needs: ['sku'],
    units: 2,
    async run(subject) {
      const before = await subject.stock()
      const order = subject.newOrder()
      await subject.deliver(order)
      await subject.deliver({ ...order, idempotencyKey: `${order.idempotencyKey}:second`, lineIndexes: [1] })
      await subject.stockBecomes(before - 2, 'two jobs of one order')
    },
  },
  {
    id: 'key-reused',
    title: 'A key that was used for another request is 409 and takes nothing',
    section: `${GATE}; adapters.md 11`,
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const order = subject.newOrder()
      const first = await subject.deliver(order)
      const others: object[] = [
        { items: [{ sku: subject.sku(), quantity: 2 }] },
        { items: [{ sku: subject.target.unmappedSku, quantity: 1 }] },
        { orderId: `${order.orderId}x` },
      ]
      for (const other of others) {
        const answer = await subject.fulfil({ ...order, ...other })
        must(answer.status === 409, `HTTP 409 for the same key with other ${Object.keys(other)[0]}`, answer)
      }
      mustBeSameGoods(first, await subject.deliver(order))
      await subject.stockBecomes(before - 1, 'only the first request delivered')
    },
  },
  {
    id: 'duplicates-at-once',
    title: `${AT_ONCE} duplicates at once are one delivery; who comes meanwhile gets 202 with Retry-After`,
    section: `${GATE}, F8, F-27; adapters.md A-42`,
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const order = subject.newOrder()
      const answers = await Promise.all(Array.from({ length: AT_ONCE }, () => subject.fulfil(order)))
      const final = await subject.deliver(order)
      for (const answer of answers) {
        const { status } = objectOf(answer.json)
        if (answer.status === 202) {
          must(status === 'inProgress', 'HTTP 202 with status "inProgress"', answer)
          const wait = answer.headers['retry-after']
          must(/^[0-9]+$/.test(wait ?? ''), 'HTTP 202 with Retry-After in seconds', `Retry-After: ${String(wait)}`)
          continue
        }
        must(answer.status === 200 && status === 'ok', 'HTTP 200 with status "ok", or 202', answer)
        mustBeSameGoods(final, answer)
      }
      await subject.stockBecomes(before - 1, 'one key, one delivery')
    },
  },
  {
    id: 'keys-at-once',
    title: `${KEYS_AT_ONCE} requests at once are ${KEYS_AT_ONCE} deliveries, and no code goes to two of them`,
    section: 'adapters.md 11, A-6',
    needs: ['sku'],
    units: KEYS_AT_ONCE,
    async run(subject) {
      const before = await subject.stock()
      const orders = Array.from({ length: KEYS_AT_ONCE }, () => subject.newOrder())
      const answers = await Promise.all(orders.map((order) => subject.deliver(order)))
      const codes = answers.flatMap(codesOf)
      must(new Set(codes).size === codes.length, 'different codes for each', codes.join(', '))
      await subject.stockBecomes(before - KEYS_AT_ONCE, 'each took its unit')
    },
  },
  {
    id: 'caller-gone',
    title: 'A caller who hangs up right after asking finds the goods there when he asks again, once',
    section: 'fulfilment.md 14, F9, F-30; adapters.md 11',
    needs: ['sku'],
    units: 3,
    async run(subject) {
      const before = await subject.stock()
      const instants = [0, 5, 25]
      for (const afterMs of instants) {
        const order = subject.newOrder()
        await hangUp(subject, order, afterMs)
        // A duplicate under way has a check of its own; this one is about what is left when nobody waits any more.
        await delay(150)
        mustBeSameGoods(await subject.deliver(order), await subject.deliver(order))
      }
      await subject.stockBecomes(before - instants.length, 'each key delivered once')
    },
  },
  {
    id: 'caller-gone-early',
    title: 'A caller who hangs up in the middle of his request leaves nothing behind',
    section: 'fulfilment.md 14, F-30; adapters.md 11',
    needs: ['sku'],
    units: 1,
    async run(subject) {
      const before = await subject.stock()
      const order = subject.newOrder()
      const body = JSON.stringify(order)
      const request = openFulfil(subject, order, Buffer.byteLength(body))
      await new Promise((sent) => request.write(body.slice(0, body.length / 2), sent))
      await delay(50)
      request.destroy()
      await delay(50)
      const after = await subject.stock()
      must(after === before, `an inventory of ${before} still`, `${after}`)
      await subject.deliver(order)
      await subject.stockBecomes(before - 1, 'the whole request delivered')
    },
  },
]

/** Sends the whole request and cuts the connection without having read an answer. */
async function hangUp(subject: Subject, order: Order, afterMs: number): Promise<void> {
  const body = JSON.stringify(order)
  const request = openFulfil(subject, order, Buffer.byteLength(body))
  await new Promise<void>((sent) => {
    request.once('close', sent)
    request.end(body, sent)
  })
  await delay(afterMs)
  request.destroy()
}

/** As market-api asks for it; the body is the caller's to write. */
export function openFulfil({ target }: Subject, order: Order, bytes: number) {
  return openCall(target.url, {
    method: 'POST',
    path: `/fulfill/${target.chain}/${target.seller}`,
    headers: {
      'Content-Type': 'application/json; charset=utf-8',
      'Content-Length': String(bytes),
      [SERVICE_KEY_HEADER]: target.serviceKey,
      [IDEMPOTENCY_KEY_HEADER]: order.idempotencyKey ?? '',
    },
  })
}

export function codesOf(answer: Answer): string[] {
  const { codes } = goodsOf(answer)
  return Array.isArray(codes) ? codes.map(String) : []
}
