import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { IDEMPOTENCY_KEY_HEADER, PROXY_HOP_HEADER, SERVICE_KEY_HEADER } from '@market/contracts/fulfillment'
import { Deviation, must, objectOf, shown } from './check.ts'
import { type Answer, type Call, call } from './httpCall.ts'
import { insideOf } from './insideOf.ts'

/** The adapter that is held against the contract, and what its owner says of it. */
export type Target = {
  url: string
  serviceKey: string
  chain: number
  seller: string
  /** Mapped, with stock. */
  sku: string | undefined
  unmappedSku: string
  /** Mapped, without stock. */
  depletedSku: string | undefined
  killCommand: string | undefined
  restartCommand: string | undefined
  /** Within this it answers, if only with 202. */
  budgetMs: number
  /** How long a delivery that was answered with 202 may take to end. */
  patienceMs: number
  /** How far inventory may lag behind a delivery: adapters may cache it. */
  inventoryLagMs: number
}

export type Item = { sku: string; quantity?: number | string; [member: string]: unknown }

/** The body of a request for delivery. */
export type Order = {
  orderId: string
  paymentReference: string
  items: Item[]
  lineIndexes?: number[]
  idempotencyKey?: string
  [member: string]: unknown
}

/** Where a request differs from what market-api would send. */
export type How = {
  serviceKey?: string | null
  /** Of the header; null sends none. Without it, the body's. */
  key?: string | null
  seller?: string
}

export type Subject = ReturnType<typeof openSubject>

const POLL_MS = 100

/** Talks to the adapter as market-api does, and keeps an eye on whatever it answers. */
export function openSubject(target: Target) {
  const seen = { leaks: [] as string[], largest: undefined as { bytes: number; path: string } | undefined }

  const ask = async (asked: Omit<Call, 'headers'>, how: How = {}, headers: Record<string, string> = {}) => {
    const { serviceKey = target.serviceKey } = how
    const all = {
      [PROXY_HOP_HEADER]: '1',
      ...(serviceKey === null ? {} : { [SERVICE_KEY_HEADER]: serviceKey }),
      ...headers,
    }
    // Longer than the budget: only one check is about time.
    const answer = await call(target.url, { ...asked, headers: all }, target.budgetMs * 1.5 + 5000)
    if (answer.status >= 400 || answer.json === undefined) {
      const leak = insideOf(answer.text, target.serviceKey)
      if (leak) seen.leaks.push(`${leak} in the answer to ${asked.method} ${asked.path}: ${shown(answer)}`)
    }
    if (answer.bytes > (seen.largest?.bytes ?? 0)) seen.largest = { bytes: answer.bytes, path: asked.path }
    return answer
  }

  const pathOf = (kind: string, seller: string) => `/${kind}/${target.chain}/${seller}`

  const inventory = (sku: string, how: How = {}) =>
    ask({ method: 'GET', path: `${pathOf('inventory', how.seller ?? target.seller)}/${encodeURIComponent(sku)}` }, how)

  const availability = (sku: string, how: How = {}) =>
    ask(
      { method: 'GET', path: `${pathOf('availability', how.seller ?? target.seller)}/${encodeURIComponent(sku)}` },
      how,
    )

  /** The text of a body as it is, or an order. */
  const fulfil = (order: Order | string | Buffer, how: How = {}) => {
    const plain = typeof order === 'string' || Buffer.isBuffer(order)
    const key = how.key === undefined && !plain ? order.idempotencyKey : how.key
    return ask(
      {
        method: 'POST',
        path: pathOf('fulfill', how.seller ?? target.seller),
        body: plain ? order : JSON.stringify(order),
      },
      how,
      {
        'Content-Type': 'application/json; charset=utf-8',
        ...(typeof key === 'string' ? { [IDEMPOTENCY_KEY_HEADER]: key } : {}),
      },
    )
  }

  /** Asks until the answer is something else than that the work is under way. */
  const settle = async (order: Order, how?: How): Promise<Answer> => {
    const deadline = Date.now() + target.patienceMs
    for (;;) {
      const answer = await fulfil(order, how)
      if (answer.status !== 202) return answer
      if (Date.now() > deadline) {
        throw new Deviation(`the delivery to end within ${target.patienceMs / 1000} s`, shown(answer))
      }
      await delay(POLL_MS)
    }
  }

  /** As `settle`, of a delivery that has to be one. */
  const deliver = async (order: Order, how?: How): Promise<Answer> => {
    const answer = await settle(order, how)
    must(answer.status === 200 && objectOf(answer.json).status === 'ok', 'HTTP 200 with status "ok"', answer)
    return answer
  }

  /** What inventory says. Lenient about the shape, which has a check of its own. */
  const stock = async (sku = wantedSku()): Promise<number> => {
    const answer = await inventory(sku)
    const value = Number(objectOf(answer.json).value ?? NaN)
    must(answer.status === 200 && Number.isFinite(value), `HTTP 200 with the stock of ${sku}`, answer)
    return value
  }

  /** Waits for it no longer than inventory may lag. */
  const stockBecomes = async (expected: number, why: string, sku = wantedSku()): Promise<void> => {
    const deadline = Date.now() + target.inventoryLagMs
    for (;;) {
      const value = await stock(sku)
      if (value === expected) return
      must(Date.now() <= deadline, `an inventory of ${expected} (${why})`, `${value}`)
      await delay(POLL_MS)
    }
  }

  const wantedSku = () => {
    if (target.sku === undefined) throw new Error('a check that does not say that it needs the sku')
    return target.sku
  }

  return {
    target,
    seen,
    ask,
    inventory,
    availability,
    fulfil,
    settle,
    deliver,
    stock,
    stockBecomes,
    sku: wantedSku,
    /** A request nobody made before, of one unit unless items are given. */
    newOrder: (items: Item[] = [{ sku: target.sku ?? target.unmappedSku, quantity: 1 }]) => newOrder(items),
  }
}

function newOrder(items: Item[]): Order {
  const id = `conformance${randomBytes(10).toString('hex')}`
  const address = {
    streetAddress: '1 Example Street',
    addressLocality: 'Berlin',
    postalCode: '10115',
    addressCountry: 'DE',
  }
  return {
    orderId: `ord_${id}`,
    paymentReference: `pay_${id}`,
    buyer: `0x${randomBytes(20).toString('hex')}`,
    customer: { name: 'Ada Lovelace', givenName: 'Ada', familyName: 'Lovelace' },
    shippingAddress: address,
    billingAddress: null,
    contactPoint: { email: 'conformance@example.org', telephone: null },
    items,
    trigger: 'finalized',
    lineIndexes: items.map((_, i) => i),
    idempotencyKey: `ord_${id}:conformance`,
  }
}

/** Everything of an answer but the word on how it came about (fulfilment.md 14). */
export function goodsOf(answer: Answer): Record<string, unknown> {
  const { message: _, ...goods } = objectOf(answer.json)
  return goods
}

/** @throws Deviation naming the first member that differs */
export function mustBeSameGoods(first: Answer, again: Answer): void {
  const [a, b] = [goodsOf(first), goodsOf(again)]
  for (const name of new Set([...Object.keys(a), ...Object.keys(b)])) {
    must(
      isDeepStrictEqual(a[name], b[name]),
      `the goods of the first answer, with ${JSON.stringify(name)} ${JSON.stringify(a[name])}`,
      `${JSON.stringify(b[name])} in ${shown(again)}`,
    )
  }
}

/** The lines of an answer; members that are missing are undefined. */
export function linesOf(answer: Answer): Record<string, unknown>[] {
  const { lines } = objectOf(answer.json)
  return Array.isArray(lines) ? lines.map(objectOf) : []
}
