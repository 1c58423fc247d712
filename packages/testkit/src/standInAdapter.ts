import type { IncomingMessage, ServerResponse } from 'node:http'
import { startLocalServer } from './localServer.ts'

/** What the stand-in does about one seller's sku. What is absent stays as it was. */
export type AdapterBehaviour = {
  /** Pieces in stock; a delivery takes its quantity off. */
  stock?: number
  /** HTTP status of every answer about this sku, without a body of any use; 0 lifts it. */
  httpStatus?: number
  /** Which questions it leaves open until this is lifted. */
  hang?: 'all' | 'fulfill' | null
  /** The answer to `fulfill`, instead of one code a piece. */
  delivery?: { httpStatus: number; body: object } | null
}

export type AdapterCall = {
  kind: 'inventory' | 'availability' | 'fulfill'
  seller: string
  /** Of the first item, for `fulfill`. */
  sku: string
  idempotencyKey: string | null
  /** Whether a service key came along. */
  hasKey: boolean
  body: { orderId?: string; items?: { sku: string; quantity: number }[]; [member: string]: unknown } | null
}

export type StandInAdapter = { url: string; stop(): Promise<void> }

const CONTROL = '/control'

/**
 * The adapter contract (fulfilment.md 5, 7) with answers that a test decides, from whatever process it runs in: see
 * `connectStandInAdapter`. A sku nobody said anything about has no stock.
 */
export async function startStandInAdapter(): Promise<StandInAdapter> {
  const behaviours = new Map<string, AdapterBehaviour>()
  const calls: AdapterCall[] = []
  const delivered = new Map<string, object>()
  let lift: (() => void)[] = []

  const behaviourOf = (seller: string, sku: string) => behaviours.get(`${seller}/${sku}`) ?? {}
  const untilLifted = () => new Promise<void>((go) => lift.push(go))

  const control = async (request: IncomingMessage, response: ServerResponse, path: string) => {
    if (request.method === 'PUT') {
      behaviours.set(path, { ...behaviours.get(path), ...(JSON.parse(await textOf(request)) as AdapterBehaviour) })
      for (const go of lift) go()
      lift = []
    }
    send(response, 200, request.method === 'GET' ? calls.filter(({ seller }) => seller === path) : {})
  }

  const fulfill = async (request: IncomingMessage, response: ServerResponse, seller: string) => {
    const body = JSON.parse(await textOf(request)) as NonNullable<AdapterCall['body']>
    const items = body.items ?? []
    const key = request.headers['idempotency-key']
    const idempotencyKey = typeof key === 'string' ? key : null
    const sku = items[0]?.sku ?? ''
    calls.push({ kind: 'fulfill', seller, sku, idempotencyKey, hasKey: hasKey(request), body })
    while (items.some((item) => behaviourOf(seller, item.sku).hang)) await untilLifted()
    const odd = items.map((item) => behaviourOf(seller, item.sku)).find((one) => one.delivery || one.httpStatus)
    if (odd?.delivery) return send(response, odd.delivery.httpStatus, odd.delivery.body)
    if (odd?.httpStatus) return send(response, odd.httpStatus, {})
    const known = delivered.get(idempotencyKey ?? '')
    if (known) return send(response, 200, known)
    for (const item of items) {
      const one = behaviourOf(seller, item.sku)
      behaviours.set(`${seller}/${item.sku}`, { ...one, stock: (one.stock ?? 0) - item.quantity })
    }
    const codes = items.flatMap(({ sku: of, quantity }) =>
      Array.from({ length: quantity }, (_, i) => `${of}-${i + 1}-${String(body.orderId).slice(-6)}`),
    )
    const answer = { '@type': 'CodeDispenserResult', status: 'ok', codes }
    delivered.set(idempotencyKey ?? '', answer)
    send(response, 200, answer)
  }

  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const path = decodeURIComponent(new URL(request.url!, 'http://adapter').pathname)
    if (path.startsWith(CONTROL)) return control(request, response, path.slice(CONTROL.length + 1))
    const [, kind, , seller = '', sku = ''] = path.split('/')
    if (kind === 'fulfill' && request.method === 'POST') return fulfill(request, response, seller)
    if (kind !== 'inventory' && kind !== 'availability') return send(response, 404, {})
    calls.push({ kind, seller, sku, idempotencyKey: null, hasKey: hasKey(request), body: null })
    while (behaviourOf(seller, sku).hang === 'all') await untilLifted()
    const { stock = 0, httpStatus } = behaviourOf(seller, sku)
    if (httpStatus) return send(response, httpStatus, {})
    if (kind === 'inventory') return send(response, 200, { '@type': 'QuantitativeValue', value: stock })
    send(response, 200, `https://schema.org/${stock > 0 ? 'InStock' : 'OutOfStock'}`)
  }

  return startLocalServer((request, response) => {
    // Who hangs up in the middle of a request gets no answer.
    answer(request, response).catch(() => request.socket.destroy())
  })
}

/** A stand-in that may run in another process. */
export function connectStandInAdapter(url: string) {
  const ask = async (path: string, behaviour?: AdapterBehaviour) => {
    const response = await fetch(`${url}${CONTROL}/${path}`, {
      method: behaviour ? 'PUT' : 'GET',
      ...(behaviour ? { body: JSON.stringify(behaviour) } : {}),
    })
    return response.json()
  }
  return {
    set: (seller: string, sku: string, behaviour: AdapterBehaviour): Promise<unknown> =>
      ask(`${seller}/${sku}`, behaviour),
    /** What it was asked about this seller, in order. */
    calls: (seller: string) => ask(seller) as Promise<AdapterCall[]>,
  }
}

const hasKey = (request: IncomingMessage) => request.headers['x-circles-service-key'] !== undefined

async function textOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}

function send(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}
