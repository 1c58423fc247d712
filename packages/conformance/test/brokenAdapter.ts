import { createHash, randomUUID } from 'node:crypto'
import { existsSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

export const SERVICE_KEY = 'the key of these tests, long enough'
export const SELLER = `0x${'ab'.repeat(20)}`
export const SKU = 'voucher'
export const DEPLETED_SKU = 'sold-out'
const CHAIN = '100'
const MAX_BODY_BYTES = 256 * 1024
/** A delivery takes this long, so that duplicates and kills find it under way. */
const WORK_MS = 15
/** Longer for what shows only when they do, on however busy a machine. */
const LONG_WORK_MS = 60
const NEEDS_LONG_WORK: (Break | Manner)[] = [
  'is slow',
  'says ok while it is under way',
  'says nothing of when to come again',
  'answers a duplicate with 409',
  'gives one code to two',
  'stops when the caller goes',
  'takes again when the caller goes',
  'forgets what it gave when it dies',
  'never ends what it began when it dies',
]

/** A way of being wrong; each is one that somebody's adapter has had or may have. */
export type Break =
  | 'health says only a word'
  | 'inventory is open to anybody'
  | 'fulfil is open to those without a key'
  | 'reads the body before the key'
  | 'takes any key of the right length'
  | 'runs first and looks at the key then'
  | 'compares the key as far as it was sent'
  | 'dies of an odd key'
  | 'takes anything for a seller'
  | 'knows sellers in lower case only'
  | 'dies of what is no JSON'
  | 'takes an array for a body'
  | 'says it in other words'
  | 'takes a blank order id'
  | 'takes an order of nothing'
  | 'takes any trigger'
  | 'knows member names in one case only'
  | 'takes numbers only'
  | 'ignores quantities'
  | 'knows skus in lower case only'
  | 'refuses members it does not know'
  | 'dies of NUL'
  | 'dies of NUL in a name'
  | 'dies of a wrong type'
  | 'keeps half a surrogate pair'
  | 'takes a line twice'
  | 'tells the stock as text'
  | 'tells the stock without a type'
  | 'has nothing of what it does not know'
  | 'tells availability in a word'
  | 'is always out of stock'
  | 'answers without a type'
  | 'answers without lines'
  | 'sends it as text'
  | 'is slow'
  | 'calls it ok what it does not have'
  | 'calls it an error what it does not have'
  | 'calls it ok when it has none left'
  | 'calls it ok when a line is missing'
  | 'delivers a part twice'
  | 'delivers the first line only'
  | 'does not say that it was processed'
  | 'replays without the goods'
  | 'has no gate'
  | 'does not read the header'
  | 'does not read the key in the body'
  | 'makes up a key'
  | 'locks on the payment'
  | 'replays whatever was asked'
  | 'says ok while it is under way'
  | 'says nothing of when to come again'
  | 'answers a duplicate with 409'
  | 'gives one code to two'
  | 'stops when the caller goes'
  | 'takes again when the caller goes'
  | 'starts with the header'
  | 'takes bodies of any size'
  | 'falls over a large body'
  | 'waits for ever over a large body'
  | 'serves one after another'
  | 'shows its stack'
  | 'shows its SQL'
  | 'talks without end'
  | 'forgets what it gave when it dies'
  | 'never ends what it began when it dies'

/** Other ways of keeping the contract. */
export type Manner =
  | 'answers at once and works then'
  | 'has no availability'
  | 'caches inventory'
  | 'cuts large bodies off'
  | 'refuses with 409 what it does not have in stock'

type Item = { sku: string; quantity: number; lineIndex: number }
type Run = {
  hash: string
  /** Of one that is through. */
  answer: object | undefined
  /** Of one that is not, and whose caller was told to come again. */
  untold?: Reply | undefined
  delivered: Map<number, string[]>
}
type Reply = { status: number; body: unknown; headers?: Record<string, string> }

class Refusal extends Error {
  readonly status: number
  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

/**
 * A small adapter of codes that keeps the contract, apart from what it is told to break. Its memory stands for a database: it
 * outlives a kill, which happens when the file `killFile` appears; what was not stored by then is undone.
 */
export async function startBrokenAdapter(stock: number, killFile: string, broken?: Break | Manner) {
  const is = (way: Break | Manner) => broken === way
  const pools = new Map([
    [SKU, Array.from({ length: stock }, (_, i) => `code-${i}`)],
    [DEPLETED_SKU, [] as string[]],
  ])
  const runs = new Map<string, Run>()
  /** Keys under way in this life of the process. */
  let underWay = new Set<string>()
  let life = 0
  const workMs = broken && NEEDS_LONG_WORK.includes(broken) ? LONG_WORK_MS : WORK_MS
  let queue = Promise.resolve()

  // ── the key, the path, the body ──

  const mustKnowKey = (request: IncomingMessage) => {
    const header = request.headers['x-circles-service-key']
    const sent = String(header ?? '').trim()
    if (is('dies of an odd key') && /[^ -~]/.test(sent)) throw new Error('odd key')
    if (sent === '' && is('fulfil is open to those without a key') && request.method === 'POST') return
    if (is('inventory is open to anybody') && request.url!.startsWith('/inventory')) return
    if (is('takes any key of the right length') && sent.length === SERVICE_KEY.length) return
    if (is('compares the key as far as it was sent') && sent !== '' && SERVICE_KEY.startsWith(sent)) return
    if (sent !== SERVICE_KEY) throw new Refusal(401, 'Unauthorized')
  }

  const readSeller = (text: string) => {
    const seller = is('knows sellers in lower case only') ? text : text.trim().toLowerCase()
    if (!is('takes anything for a seller') && !/^0x[0-9a-f]{40}$/i.test(seller)) {
      throw new Refusal(400, 'Invalid seller address')
    }
    return seller
  }

  const poolOf = (chain: string, seller: string, sku: string) =>
    chain === CHAIN && seller === SELLER ? pools.get(sku) : undefined

  const words = (message: string) => (is('says it in other words') ? 'bad request' : message)

  const readBody = async (request: IncomingMessage): Promise<string> => {
    const chunks: Buffer[] = []
    let bytes = 0
    for await (const chunk of request) {
      bytes += (chunk as Buffer).length
      if (bytes > MAX_BODY_BYTES && is('falls over a large body')) stopListening()
      if (bytes > MAX_BODY_BYTES && is('cuts large bodies off')) request.socket.destroy()
      if (bytes > MAX_BODY_BYTES && is('waits for ever over a large body')) await new Promise(() => {})
      if (bytes > MAX_BODY_BYTES && !is('takes bodies of any size')) throw new Refusal(413, 'Body too large')
      chunks.push(chunk as Buffer)
    }
    return Buffer.concat(chunks).toString()
  }

  const parse = (text: string): Record<string, unknown> => {
    let json: unknown
    try {
      json = JSON.parse(text)
    } catch (error) {
      if (is('dies of what is no JSON')) throw error
      throw new Refusal(400, words('Invalid JSON body'))
    }
    if (is('takes an array for a body') && Array.isArray(json))
      json = { orderId: 'o', paymentReference: 'p', items: [{ sku: 'x' }], trigger: 'confirmed' }
    if (json === null || typeof json !== 'object' || Array.isArray(json))
      throw new Refusal(400, words('Invalid JSON body'))
    return withNames(json as Record<string, unknown>)
  }

  const withNames = (value: Record<string, unknown>) => {
    const names = [
      'orderId',
      'paymentReference',
      'items',
      'trigger',
      'lineIndexes',
      'idempotencyKey',
      'sku',
      'quantity',
    ]
    const rest = [...names, 'buyer', 'customer', 'shippingAddress', 'billingAddress', 'contactPoint', 'padding']
    return Object.fromEntries(
      Object.entries(value).map(([sent, member]) => {
        const known = names.find((name) => name.toLowerCase() === sent.toLowerCase())
        if (is('refuses members it does not know') && !known && !rest.includes(sent)) throw new Refusal(400, 'Unknown')
        return [is('knows member names in one case only') ? sent : (known ?? sent), member]
      }),
    )
  }

  const readRequest = (json: Record<string, unknown>) => {
    const text = (name: string) => {
      const value = json[name]
      const blankAllowed = is('takes a blank order id') && name === 'orderId' && value !== undefined
      if ((typeof value !== 'string' || value.trim() === '') && !blankAllowed) {
        throw new Refusal(400, words(`${name} is required`))
      }
      return String(value).trim()
    }
    const orderId = text('orderId')
    const paymentReference = text('paymentReference')
    const { items: sent, lineIndexes = null } = json
    const list = is('takes an order of nothing') && !sent ? [{ sku: 'x' }] : sent
    if (is('dies of a wrong type') && list && !Array.isArray(list)) throw new TypeError('list.map')
    if (!Array.isArray(list) || (list.length === 0 && !is('takes an order of nothing'))) {
      throw new Refusal(400, words('items must contain at least one element'))
    }
    if (lineIndexes !== null && !Array.isArray(lineIndexes)) throw new Refusal(400, 'lineIndexes must be a list')
    const indexes = (lineIndexes ?? list.map((_, i) => i)) as number[]
    const wrong = indexes.length !== list.length || new Set(indexes).size !== list.length
    const sound = indexes.every((index) => Number.isInteger(index) && index >= 0)
    if ((wrong || !sound) && !is('takes a line twice')) throw new Refusal(400, 'lineIndexes must name each item once')
    const items = list.map((item, i): Item => {
      const { sku, quantity = 1 } = withNames(Object(item) as Record<string, unknown>)
      if (typeof sku !== 'string' || sku.trim() === '') throw new Refusal(400, words('item.sku is required'))
      if (is('takes numbers only') && typeof quantity !== 'number') throw new Refusal(400, 'quantity must be a number')
      const number = Math.max(1, Math.floor(Number(quantity)))
      if (Number.isNaN(number)) throw new Refusal(400, 'quantity must be a number')
      return {
        sku: is('knows skus in lower case only') ? sku : sku.trim().toLowerCase(),
        quantity: is('ignores quantities') ? 1 : number,
        lineIndex: indexes[i] ?? i,
      }
    })
    const trigger = text('trigger').toLowerCase()
    if (!['confirmed', 'finalized'].includes(trigger) && !is('takes any trigger')) {
      throw new Refusal(400, words("trigger must be 'confirmed' or 'finalized'"))
    }
    const texts = [orderId, paymentReference, json.buyer, json.idempotencyKey, ...items.map(({ sku }) => sku)]
    for (const one of texts.map((value) => String(value ?? ''))) {
      if (one.includes('\0') && is('dies of NUL')) throw new Error('NUL')
      const odd = is('keeps half a surrogate pair') ? /\0/ : /[\0\p{Cs}]/u
      if (odd.test(one)) throw new Refusal(400, 'Text must not hold NUL or half a surrogate pair')
    }
    return { orderId, paymentReference, items, key: json.idempotencyKey as string | undefined }
  }

  // ── the gate and the delivery ──

  const fulfil = async (request: IncomingMessage, response: ServerResponse, chain: string, seller: string) => {
    const early = String(request.headers['idempotency-key'])
    const reserved = is('starts with the header') && !underWay.has(early) && !runs.get(early)?.answer
    if (reserved) underWay.add(early)
    const text = await readBody(request)
    if (reserved) underWay.delete(early)
    const { orderId, paymentReference, items, key: bodyKey } = readRequest(parse(text))
    const header = is('does not read the header')
      ? undefined
      : (request.headers['idempotency-key'] as string | undefined)
    const inBody = is('does not read the key in the body') ? undefined : bodyKey
    const payment = is('makes up a key') ? randomUUID() : `${chain}:${seller}:${paymentReference}`
    const key = is('locks on the payment') ? payment : is('has no gate') ? randomUUID() : header || inBody || payment
    const hash = createHash('sha256')
      .update(JSON.stringify([chain, seller, orderId, paymentReference, is('locks on the payment') ? [] : items]))
      .digest('hex')

    if (is('dies of NUL in a name') && text.includes(String.raw`A\u0000da`)) throw new Error('NUL')

    const run: Run = runs.get(key) ?? { hash, answer: undefined, delivered: new Map() }
    if (run.hash !== hash && !is('replays whatever was asked') && !is('locks on the payment')) {
      throw new Refusal(409, 'This key was used for another request')
    }
    const common = {
      ...(is('answers without a type') ? {} : { '@type': 'circles:TestResult' }),
      orderId,
      paymentReference,
      seller,
    }
    if (run.answer) return { status: 200, body: replayed(run.answer) }
    if (underWay.has(key)) {
      if (is('answers a duplicate with 409')) throw new Refusal(409, 'In progress')
      if (is('says ok while it is under way'))
        return { status: 200, body: { ...common, status: 'ok', message: null, codes: [], lines: [] } }
      return comeAgain(common)
    }
    if (run.untold) {
      runs.set(key, { ...run, untold: undefined })
      return run.untold
    }
    underWay.add(key)
    const work = deliver(run, key, response, common, chain, seller, items)
    if (!is('answers at once and works then')) return work
    void work.then(
      (reply) => runs.set(key, { ...runs.get(key)!, untold: reply }),
      () => {},
    )
    return comeAgain(common)
  }

  const comeAgain = (common: object): Reply => ({
    status: 202,
    headers: is('says nothing of when to come again') ? {} : { 'Retry-After': '1' },
    body: { ...common, status: 'inProgress', message: 'Already in progress', codes: [], lines: [] },
  })

  const deliver = async (
    run: Run,
    key: string,
    response: ServerResponse,
    common: object,
    chain: string,
    seller: string,
    items: Item[],
  ): Promise<Reply> => {
    const mine = life
    const caller = { gone: false }
    response.once('close', () => (caller.gone = !response.writableFinished))
    let taken: { lines: Record<string, unknown>[]; give: () => void } | undefined
    if (is('gives one code to two')) taken = take(run, chain, seller, items)
    if (is('forgets what it gave when it dies')) (taken = take(run, chain, seller, items)).give()
    await delay(workMs)
    // Killed meanwhile: what follows never happened.
    if (mine !== life) throw new Error('dead')
    if (is('stops when the caller goes') && caller.gone) throw new Error('aborted')
    taken ??= take(run, chain, seller, items)
    const { lines, give } = taken
    if (!is('forgets what it gave when it dies')) give()
    underWay.delete(key)
    const all = (status: string) => lines.every((line) => line.status === status)
    const any = (status: string) => lines.some((line) => line.status === status)
    const okAnyway =
      (is('calls it ok what it does not have') && all('notMapped')) ||
      (is('calls it ok when it has none left') && any('depleted')) ||
      (is('calls it ok when a line is missing') && any('ok'))
    const none = is('calls it an error what it does not have') ? 'error' : 'notApplicable'
    const status = okAnyway || all('ok') ? 'ok' : all('notMapped') ? none : any('ok') ? 'partial' : 'depleted'
    const answer = {
      ...common,
      status,
      sku: items[0]!.sku,
      message: null,
      codes: lines.flatMap((line) => line.codes as string[]),
      lines: is('answers without lines') ? undefined : lines,
      ...(is('talks without end') && status === 'ok' ? { notes: 'x'.repeat(70_000) } : {}),
    }
    if (is('takes again when the caller goes') && caller.gone) return { status: 200, body: answer }
    runs.set(key, { ...run, answer: status === 'ok' ? answer : undefined })
    if (is('refuses with 409 what it does not have in stock') && status === 'depleted') {
      return { status: 409, body: { ...answer, status: 'insufficientStock' } }
    }
    return { status: 200, body: answer }
  }

  const replayed = (answer: object) => ({
    ...answer,
    ...(is('replays without the goods') ? { codes: [] } : {}),
    message: is('does not say that it was processed') ? null : 'Already processed',
  })

  /** What each line gets, without and then with consequences. */
  const take = (run: Run, chain: string, seller: string, items: Item[]) => {
    const wanted = is('delivers the first line only') ? items.slice(0, 1) : items
    const given = new Map<string, number>()
    const gifts: (() => void)[] = []
    const lines = wanted.map(({ sku, quantity, lineIndex }) => {
      const line = { lineIndex, sku, quantity, message: null as string | null }
      const pool = poolOf(chain, seller, sku)
      if (!pool) return { ...line, status: 'notMapped', message: 'No mapping', codes: [] as string[] }
      const earlier = is('delivers a part twice') ? undefined : run.delivered.get(lineIndex)
      if (earlier) return { ...line, status: 'ok', codes: earlier }
      const from = given.get(sku) ?? 0
      const codes = pool.slice(from, from + quantity)
      if (codes.length < quantity) return { ...line, status: 'depleted', message: 'Too few', codes: [] as string[] }
      given.set(sku, from + quantity)
      gifts.push(() => {
        run.delivered.set(lineIndex, codes)
        pools.set(
          sku,
          pools.get(sku)!.filter((code) => !codes.includes(code)),
        )
      })
      return { ...line, status: 'ok', codes }
    })
    return { lines: lines as Record<string, unknown>[], give: () => gifts.forEach((gift) => gift()) }
  }

  // ── HTTP ──

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<Reply> => {
    const [, kind = '', chain = '', sellerText = '', skuText = ''] = new URL(request.url!, 'http://x').pathname.split(
      '/',
    )
    if (kind === 'health') return { status: 200, body: is('health says only a word') ? 'OK' : { ok: true, checks: {} } }
    const fulfils = kind === 'fulfill' && request.method === 'POST'
    if (!fulfils && (!['inventory', 'availability'].includes(kind) || request.method !== 'GET')) {
      throw new Refusal(404, 'Not found')
    }
    if (is('runs first and looks at the key then') && fulfils) {
      const done = await fulfil(request, response, chain, readSeller(sellerText))
      mustKnowKey(request)
      return done
    }
    if (is('reads the body before the key') && fulfils) parse(await copyOf(request))
    mustKnowKey(request)
    const seller = readSeller(sellerText)
    if (fulfils) return fulfil(request, response, chain, seller)
    let sku: string
    try {
      sku = decodeURIComponent(skuText)
    } catch {
      throw new Refusal(400, 'Invalid sku')
    }
    const pool = poolOf(chain, seller, sku)
    if (!pool && is('has nothing of what it does not know') && kind === 'inventory' && !/[\0]/.test(sku)) {
      return { status: 200, body: { '@type': 'QuantitativeValue', value: 0, unitCode: 'C62' } }
    }
    if (!pool) throw new Refusal(404, 'No mapping for seller/sku')
    if (kind === 'availability' && is('has no availability')) throw new Refusal(404, 'Not found')
    if (kind === 'availability') {
      const full = pool.length > 0 && !is('is always out of stock')
      const word = full ? 'InStock' : 'OutOfStock'
      return { status: 200, body: is('tells availability in a word') ? word : `https://schema.org/${word}` }
    }
    return {
      status: 200,
      body: {
        ...(is('tells the stock without a type') ? {} : { '@type': 'QuantitativeValue' }),
        value: is('tells the stock as text') ? String(pool.length) : counted(sku, pool.length),
        unitCode: 'C62',
      },
    }
  }

  const cache = new Map<string, { count: number; at: number }>()
  const counted = (sku: string, count: number) => {
    if (!is('caches inventory')) return count
    const known = cache.get(sku)
    if (known && Date.now() - known.at < 100) return known.count
    cache.set(sku, { count, at: Date.now() })
    return count
  }

  const onRequest = (request: IncomingMessage, response: ServerResponse) => {
    const serve = async () => {
      const mine = life
      let reply: Reply
      try {
        reply = await answer(request, response)
      } catch (error) {
        const inside = is('shows its stack') ? (error as Error).stack : 'select code from codes where id = 1'
        const more = is('shows its stack') || is('shows its SQL') ? { detail: inside } : {}
        if (error instanceof Refusal) reply = { status: error.status, body: { error: error.message, ...more } }
        else reply = { status: 500, body: { error: 'Internal error', ...more } }
      }
      if (mine !== life) return
      const type = is('sends it as text') ? 'text/plain' : 'application/json'
      const text = JSON.stringify(reply.body)
      // The rest of a body that was refused is not read.
      if (reply.status === 413) response.setHeader('Connection', 'close')
      response.writeHead(reply.status, { 'Content-Type': type, ...reply.headers }).end(text)
    }
    if (is('serves one after another')) {
      queue = queue.then(serve).catch(() => {})
      return
    }
    void serve()
  }

  let server: Server
  let port = 0
  const listen = () =>
    new Promise<void>((resolve) => {
      server = createServer(onRequest).listen(port, '127.0.0.1', () => {
        port = (server.address() as AddressInfo).port
        resolve()
      })
    })
  const stopListening = () => {
    server.close()
    server.closeAllConnections()
  }
  await listen()

  const watch = setInterval(() => {
    const killed = existsSync(killFile)
    if (killed && server.listening) {
      life += 1
      if (!is('never ends what it began when it dies')) underWay = new Set()
      stopListening()
    } else if (!killed && !server.listening && life > 0) void listen()
  }, 2)

  return {
    url: `http://127.0.0.1:${port}`,
    /** Units of the sku that are left. */
    left: () => pools.get(SKU)!.length,
    stop() {
      clearInterval(watch)
      stopListening()
      rmSync(killFile, { force: true })
    },
  }
}

/** Reads the body and leaves it to be read again. */
async function copyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const whole = Buffer.concat(chunks)
  Object.assign(request, {
    [Symbol.asyncIterator]: async function* () {
      yield whole
    },
  })
  return whole.toString()
}
