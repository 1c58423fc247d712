import { expect, it, vi } from 'vitest'
import { refuse, startServer } from '../test/httpServer.ts'
import { codesOf } from './delivered.ts'
import { gateway } from './gateway.ts'
import { Market, type MarketError, NetworkError } from './market.ts'

const ORDER = `ord_${'0A'.repeat(16)}`
const BASKET = `bkt_${'0a'.repeat(16)}`
const ADDRESS = `0x${'Ab'.repeat(20)}`
const OTHER = `0x${'cd'.repeat(20)}`

const caught = async (work: Promise<unknown>) => work.then(() => undefined).catch((error: unknown) => error as Error)

const messageFor = (address: string) =>
  `market.example wants you to sign in with your Ethereum account:\n${address}\n\nHello`
/** Gives a token of its own at each sign-in: token-1, token-2, … */
const signsIn = (expiresIn = 900) => {
  let issued = 0
  return ({ path, body }: { path: string; body: string }) => {
    if (path === '/api/auth/challenge') return { challengeId: 'c1', message: messageFor(JSON.parse(body).address) }
    if (path !== '/api/auth/verify') return undefined
    issued += 1
    return { token: `token-${issued}`, address: ADDRESS.toLowerCase(), chainId: 100, expiresIn }
  }
}
const wallet = { address: ADDRESS, signMessage: async (message: string) => `0x${Buffer.from(message).toString('hex')}` }

// ---- Trying again ----

it('tries again what does no harm twice: a lost connection, a market that restarts, one that is busy', async () => {
  const { url, calls } = await startServer((_, response, count) => {
    if (count === 1) return response.destroy()
    if (count === 2) return refuse(response, 503)
    if (count === 3) return refuse(response, 429, {}, { 'retry-after': '0' })
    if (count === 4) return response.writeHead(200).write('{"half": ', () => response.destroy())
    return { orderNumber: ORDER }
  })
  expect(await new Market(url).order(ORDER)).toEqual({ orderNumber: ORDER })
  expect(calls).toHaveLength(5)
})

it('says what the market says, the first time it is a no', async () => {
  const body = {
    error: 'The basket is not complete',
    details: { path: '/items/0' },
    code: 'invalid_basket',
    requestId: 'r-1',
    validation: { valid: false },
    basket: { basketId: BASKET },
  }
  const { url, calls } = await startServer((_, response) => refuse(response, 400, body))
  const { error: message, ...said } = body
  expect(await caught(new Market(url).basket(BASKET).checkout())).toMatchObject({
    name: 'MarketError',
    status: 400,
    message,
    ...said,
  })
  expect(calls).toHaveLength(1)
})

it('reads problem documents, and finds the request id of what is neither', async () => {
  const { url } = await startServer((_, response, count) => {
    if (count > 1) return response.writeHead(500, { 'x-request-id': 'r-2' }).end('<h1>Oops</h1>')
    return refuse(response, 400, {
      title: 'Invalid request',
      status: 400,
      detail: 'Not a CID',
      code: 'invalid_cid',
      path: '/cid',
    })
  })
  const market = new Market(url)
  expect(await caught(market.raw('Qm'))).toMatchObject({
    message: 'Invalid request: Not a CID',
    code: 'invalid_cid',
    details: { path: '/cid' },
  })
  expect(await caught(market.raw('Qm'))).toMatchObject({
    status: 500,
    message: 'HTTP 500',
    code: undefined,
    requestId: 'r-2',
  })
})

it('does not repeat a change by version, whose first try may have made another one', async () => {
  const { url, calls } = await startServer((_, response) => refuse(response, 503))
  const basket = new Market(url).basket(BASKET)
  await expect(basket.setItems([], { ifMatch: '"3"' })).rejects.toMatchObject({ status: 503 })
  expect(calls).toHaveLength(1)
  expect(calls[0]!.headers['if-match']).toBe('"3"')
})

it('tries no longer than it is told to, nor when the market names a later time', async () => {
  const { url, calls } = await startServer((_, response, count) =>
    refuse(response, 503, {}, count === 1 ? { 'retry-after': '30' } : {}),
  )
  const market = new Market(url, { retryForMs: 1000 })
  await expect(market.sellers()).rejects.toMatchObject({ status: 503, retryAfterSeconds: 30 })
  expect(calls).toHaveLength(1)
  const began = performance.now()
  await expect(market.sellers()).rejects.toMatchObject({ status: 503 })
  expect(performance.now() - began).toBeLessThan(1500)
  expect(calls.length).toBeGreaterThan(2)
})

it('tells a market that is not there, one that does not answer and one that is none from one that says no', async () => {
  const impatient = { retryForMs: 0, timeoutMs: 100 }
  const { url } = await startServer(({ path }, response) => {
    if (path === '/api/sellers') return new Promise(() => {})
    if (path === '/raw/slow') return response.writeHead(200).write('half')
    return response.writeHead(200).end('<html>')
  })
  const market = new Market(url, impatient)
  const reason = async (work: Promise<unknown>) => ((await caught(work)) as NetworkError).reason
  expect(await reason(market.sellers())).toBe('timeout')
  expect(await reason(market.raw('slow'))).toBe('timeout')
  expect(await reason(market.order(ORDER))).toBe('broken')
  const nobody = await caught(new Market('http://127.0.0.1:9', impatient).sellers())
  expect(nobody).toBeInstanceOf(NetworkError)
  expect(nobody).toMatchObject({ reason: 'unreachable', message: expect.stringContaining('http://127.0.0.1:9') })
})

it('ends at once when the caller says so: while it waits for an answer, and while it waits for another try', async () => {
  const { url, calls } = await startServer(({ path }, response) =>
    path === '/api/sellers' ? new Promise(() => {}) : refuse(response, 503, {}, { 'retry-after': '5' }),
  )
  let refused = false
  const market = new Market(url, {
    fetch: async (...request) => {
      const answer = await fetch(...request)
      refused = !answer.ok
      return answer
    },
  })
  const enough = new Error('enough')
  const endsWhen = async (call: (options: { signal: AbortSignal }) => Promise<unknown>, look: () => boolean) => {
    const ending = new AbortController()
    const answer = caught(call(ending))
    await vi.waitUntil(look)
    ending.abort(enough)
    expect(await answer).toBe(enough)
  }
  await endsWhen(
    (options) => market.sellers(options),
    () => calls.length === 1,
  )
  await endsWhen(
    (options) => market.order(ORDER, options),
    () => refused,
  )
  expect(await caught(market.sellers({ signal: AbortSignal.abort('too late') }))).toBe('too late')
  expect(calls).toHaveLength(2)
})

// ---- Signing in ----

it('has the wallet sign the text of the market, and sends the token where somebody is asked for and nowhere else', async () => {
  const answer = signsIn()
  const { url, calls } = await startServer((call) => answer(call) ?? [])
  const market = new Market(`${url}/`)
  const session = await market.signIn(wallet)
  expect(session).toMatchObject({ token: 'token-1', address: ADDRESS.toLowerCase(), chainId: 100 })
  expect(session.expiresAtMs - Date.now()).toBeGreaterThan(890_000)
  expect(JSON.parse(calls[1]!.body)).toEqual({
    challengeId: 'c1',
    signature: await wallet.signMessage(messageFor(ADDRESS)),
  })

  await market.sellers()
  await market.order(ORDER)
  await market.basket(BASKET).read()
  expect(calls.slice(2).map(({ headers }) => headers.authorization)).toEqual([
    undefined,
    'Bearer token-1',
    'Bearer token-1',
  ])
  market.signOut()
  expect(market.session).toBeUndefined()
  await market.order(ORDER)
  expect(calls.at(-1)!.headers.authorization).toBeUndefined()
})

it('has nothing signed that is no sign-in of this address', async () => {
  const { url } = await startServer((_, _response, count) => ({
    challengeId: 'c1',
    message: count === 1 ? messageFor(OTHER) : `I owe you everything\n${ADDRESS}\n`,
  }))
  const signMessage = vi.fn()
  const market = new Market(url)
  await expect(market.signIn({ address: ADDRESS, signMessage })).rejects.toThrow('no sign-in of this address')
  await expect(market.signIn({ address: ADDRESS, signMessage })).rejects.toThrow('no sign-in of this address')
  expect(signMessage).not.toHaveBeenCalled()
})

it('goes on with the session of an earlier page, without it once it has run out', async () => {
  const { url, calls } = await startServer(() => ({}))
  const session = { token: 'kept', address: ADDRESS.toLowerCase(), chainId: 100, expiresAtMs: Date.now() + 60_000 }
  await new Market(url, { session }).basket(BASKET).read()
  await new Market(url, { session: { ...session, expiresAtMs: Date.now() - 1 } }).basket(BASKET).read()
  expect(calls.map(({ headers }) => headers.authorization)).toEqual(['Bearer kept', undefined])
})

it('signs in again once for all whose token was refused, and then asks again', async () => {
  const answer = signsIn()
  const { url, calls } = await startServer((call, response) => {
    const signedIn = answer(call)
    if (signedIn) return signedIn
    return call.headers.authorization === 'Bearer token-2' ? { orderNumber: ORDER } : refuse(response, 401)
  })
  const market = new Market(url, { renew: (self) => self.signIn(wallet) })
  await expect(market.order(ORDER), 'nobody had signed in').rejects.toMatchObject({ status: 401 })
  await market.signIn(wallet)
  calls.length = 0
  const orders = await Promise.all([1, 2, 3].map(() => market.order(ORDER)))
  expect(orders).toEqual([1, 2, 3].map(() => ({ orderNumber: ORDER })))
  expect(calls.filter(({ path }) => path === '/api/auth/verify')).toHaveLength(1)

  market.signOut()
  await expect(market.order(ORDER)).rejects.toMatchObject({ status: 401 })
  expect(market.session).toBeUndefined()
})

it('signs in again before the token runs out, and leaves it at one try when the new one is refused too', async () => {
  const answer = signsIn(20)
  const { url, calls } = await startServer((call, response) => answer(call) ?? refuse(response, 401))
  const market = new Market(url, { renew: (self) => self.signIn(wallet) })
  await market.signIn(wallet)
  calls.length = 0
  await expect(market.order(ORDER)).rejects.toMatchObject({ status: 401 })
  const signIn = 'challenge verify'
  expect(calls.map(({ path }) => path.split('/').at(-1)).join(' ')).toBe(
    `${signIn} ${ORDER} ${signIn} ${signIn} ${ORDER}`,
  )
})

it('does not sign in again for a refusal that comes after it has', async () => {
  let renewed: (() => void) | undefined
  const afterRenewal = new Promise<void>((resolve) => (renewed = resolve))
  const { url } = await startServer(async ({ path, headers }, response) => {
    if (headers.authorization === 'Bearer new') {
      renewed!()
      return { orderNumber: ORDER }
    }
    if (path.endsWith('/timeline')) await afterRenewal
    return refuse(response, 401)
  })
  const session = (token: string) => ({ token, address: ADDRESS, chainId: 100, expiresAtMs: Date.now() + 60_000 })
  const renew = vi.fn(async (market: Market) => void Object.assign(market.session!, session('new')))
  const market = new Market(url, { session: session('old'), renew })
  await Promise.all([market.order(ORDER), market.timeline(ORDER)])
  expect(renew).toHaveBeenCalledTimes(1)
})

it('signs in again for nothing else than a refused token', async () => {
  const { url } = await startServer((_, response) => refuse(response, 403, { code: 'not_your_basket' }))
  const session = { token: 'good', address: ADDRESS, chainId: 100, expiresAtMs: Date.now() + 60_000 }
  const renew = vi.fn()
  await expect(new Market(url, { session, renew }).order(ORDER)).rejects.toMatchObject({ code: 'not_your_basket' })
  expect(renew).not.toHaveBeenCalled()
})

it('throws what the wallet throws when it does not want to sign again', async () => {
  const { url } = await startServer((_, response) => refuse(response, 401))
  const session = { token: 'old', address: ADDRESS, chainId: 100, expiresAtMs: Date.now() + 60_000 }
  const renew = async () => {
    throw new Error('the owner said no')
  }
  await expect(new Market(url, { session, renew }).order(ORDER)).rejects.toThrow('the owner said no')
})

// ---- Catalog ----

it('asks for what is looked for, and reads a catalog to its end', async () => {
  const { url, calls } = await startServer(({ path }) => {
    const cursor = new URL(path, 'http://x').searchParams.get('cursor')
    return {
      products: [{ sku: `sku-${cursor ?? 1}` }],
      ...(cursor === '3' ? {} : { nextCursor: cursor === '2' ? '3' : '2' }),
    }
  })
  const market = new Market(url)
  const query = { q: 'blue tote', minPrice: '1.5', inStock: true, pageSize: 2 }
  const skus: unknown[] = []
  for await (const item of market.catalogItems(OTHER, [ADDRESS, OTHER], query))
    skus.push((item as unknown as { sku: string }).sku)
  expect(skus).toEqual(['sku-1', 'sku-2', 'sku-3'])
  const [first, second] = calls.map(({ path }) => new URL(path, 'http://x'))
  expect(first!.pathname).toBe(`/api/operator/${OTHER}/catalog`)
  expect([...first!.searchParams]).toEqual([
    ['pageSize', '2'],
    ['q', 'blue tote'],
    ['minPrice', '1.5'],
    ['inStock', 'true'],
    ['avatars', ADDRESS],
    ['avatars', OTHER],
  ])
  expect(second!.searchParams.get('cursor')).toBe('2')
})

it('reads one product, and documents from whomever', async () => {
  const { url, calls } = await startServer(() => 'x')
  const market = new Market(url)
  await market.product(OTHER, ADDRESS, 'to/te')
  expect(new TextDecoder().decode(await market.raw('Qm1'))).toBe('"x"')
  expect(new TextDecoder().decode(await gateway(`${url}/`)('Qm1'))).toBe('"x"')
  expect(calls.map(({ path }) => path)).toEqual([
    `/api/operator/${OTHER}/catalog/${ADDRESS}/to%2Fte`,
    '/raw/Qm1',
    '/ipfs/Qm1',
  ])
  expect(calls[2]!.headers.accept).toBe('*/*')
})

it('tells stock from no stock from nobody who knows', async () => {
  const { url } = await startServer(({ path }, response) => {
    if (path.endsWith('/none')) return refuse(response, 404, { code: 'not_configured' })
    if (path.endsWith('/one-off'))
      return path.includes('/inventory/inventory/') ? refuse(response, 404) : 'https://schema.org/OutOfStock'
    return path.includes('/availability/') ? 'https://schema.org/InStock' : { '@type': 'QuantitativeValue', value: 7 }
  })
  const market = new Market(url)
  expect(await market.stock(OTHER, 'tote')).toEqual({ available: true, quantity: 7 })
  expect(await market.stock(OTHER, 'one-off')).toEqual({ available: false, quantity: undefined })
  expect(await market.stock(OTHER, 'none')).toEqual({ available: undefined, quantity: undefined })
})

// ---- Baskets ----

it('sends the lines as wallets do, remembers the version, and merges when it is asked to', async () => {
  const { url, calls } = await startServer(({ method, path }, response) => {
    if (method === 'POST' && path.endsWith('/baskets')) return { basketId: BASKET, basketToken: 'secret' }
    response.setHeader('etag', `"${calls.length}"`)
    return { basketId: BASKET }
  })
  const basket = await new Market(url).createBasket({ buyer: ADDRESS, operator: OTHER })
  expect(JSON.parse(calls[0]!.body)).toEqual({ buyer: ADDRESS, operator: OTHER, chainId: 100 })
  expect([basket.id, basket.basketToken, basket.etag]).toEqual([BASKET, undefined, undefined])

  await basket.setItems([{ seller: OTHER, sku: 'tote', quantity: 2, imageUrl: 'https://x/y.png' }])
  expect(JSON.parse(calls[1]!.body)).toEqual({
    items: [
      {
        seller: OTHER,
        orderedItem: { '@type': 'Product', sku: 'tote' },
        orderQuantity: 2,
        imageUrl: 'https://x/y.png',
      },
    ],
  })
  expect(basket.etag).toBe('"2"')
  await basket.patch({ contactPoint: { email: 'a@b.example' }, customer: null }, { merge: true })
  expect(JSON.parse(calls[2]!.body)).toEqual({ contactPoint: { email: 'a@b.example' }, customer: null })
  await basket.validate()
  expect(calls.slice(1).map(({ method, path, headers }) => [method, path, headers['content-type']])).toEqual([
    ['PATCH', `/api/cart/v1/baskets/${BASKET}`, 'application/json'],
    ['PATCH', `/api/cart/v1/baskets/${BASKET}`, 'application/merge-patch+json'],
    ['POST', `/api/cart/v1/baskets/${BASKET}/validate`, undefined],
  ])
  expect(calls[3]!.body).toBe('')
  expect(calls.map(({ headers }) => headers['x-basket-token'])).toEqual([undefined, undefined, undefined, undefined])
})

it('protects a basket from its first use on, and opens it again with its token', async () => {
  const { url, calls } = await startServer(() => ({ basketId: BASKET, basketToken: 'secret' }))
  const market = new Market(url)
  const basket = await market.createBasket({ protectBasket: true })
  await basket.setItems([])
  await market.basket(basket.id, basket.basketToken).read()
  expect(calls.map(({ headers }) => headers['x-basket-token'])).toEqual([undefined, 'secret', 'secret'])
  expect(JSON.parse(calls[0]!.body)).toEqual({ chainId: 100 })
})

it('checks out once: a lost answer is asked for again by the same key, which no other basket has', async () => {
  const answer = { orderId: ORDER, basketId: BASKET, paymentReference: 'pay_1', orderCid: null }
  const { url, calls } = await startServer((_, response, count) => (count === 1 ? response.destroy() : answer))
  const market = new Market(url)
  const basket = market.basket(BASKET)
  expect(await basket.checkout({ ifMatch: '"4"', buyer: ADDRESS })).toEqual(answer)
  await basket.checkout()
  await market.basket(BASKET).checkout()
  await basket.checkout({ idempotencyKey: 'mine' })
  expect(calls.map(({ path }) => path)).toEqual([
    `/api/cart/v1/baskets/${BASKET}/checkout?buyer=${ADDRESS}`,
    `/api/cart/v1/baskets/${BASKET}/checkout?buyer=${ADDRESS}`,
    ...Array.from({ length: 3 }, () => `/api/cart/v1/baskets/${BASKET}/checkout`),
  ])
  const [first, again, pressedTwice, other, mine] = calls.map(({ headers }) => headers['idempotency-key'])
  expect(first).toMatch(/^[0-9a-f]{32}$/)
  expect([again, pressedTwice, mine]).toEqual([first, first, 'mine'])
  expect(other).not.toBe(first)
  expect(calls[1]!.headers['if-match']).toBe('"4"')
})

// ---- Orders ----

it('lists orders and sales to their ends, and batches as many as it is given', async () => {
  const { url, calls } = await startServer(({ path, body }) => {
    if (path.endsWith('/batch')) return { items: (JSON.parse(body) as { orderIds: string[] }).orderIds }
    return path.includes('cursor=') ? { items: ['b'] } : { items: ['a'], nextCursor: 'after-a' }
  })
  const market = new Market(url)
  const collect = async (source: AsyncIterable<unknown>) => {
    const all: unknown[] = []
    for await (const one of source) all.push(one)
    return all
  }
  expect(await collect(market.orders())).toEqual(['a', 'b'])
  expect(await collect(market.sales({ pageSize: 5 }))).toEqual(['a', 'b'])
  expect(calls.map(({ path }) => path)).toEqual([
    '/api/cart/v1/orders/by-buyer?pageSize=50',
    '/api/cart/v1/orders/by-buyer?cursor=after-a&pageSize=50',
    '/api/cart/v1/orders/by-seller?pageSize=5',
    '/api/cart/v1/orders/by-seller?cursor=after-a&pageSize=5',
  ])
  const ids = Array.from({ length: 230 }, (_, i) => `ord_${i}`)
  expect(await market.ordersById(ids)).toEqual(ids)
  expect(await market.ordersById([])).toEqual([])
  expect(calls).toHaveLength(7)
})

it('finds the codes among what was delivered', () => {
  const outbox = [{ codes: ['A', 'B'] }, { text: 'On its way' }, { code: 'C', codes: 'none' }, { codes: [1, 'D'] }]
  const entries = outbox.map((payload, id) => ({ id, createdAt: '', source: 'fulfillment' as const, payload }))
  expect(codesOf({ outbox: entries })).toEqual(['A', 'B', 'C', 'D'])
})

it('waits until every line has come to something', async () => {
  const states = [
    ['awaitingPayment'],
    ['pending', 'succeeded'],
    ['running', 'waiting'],
    ['manual', 'succeeded', 'cancelled'],
  ]
  const { url, calls } = await startServer(({ path }, _, count) =>
    path.endsWith('/fulfillments')
      ? { items: [], lines: states[count - 1]!.map((state) => ({ state })) }
      : { orderNumber: ORDER },
  )
  const market = new Market(url)
  expect(await market.awaitDelivery(ORDER, { pollMs: 10 })).toEqual({ orderNumber: ORDER })
  expect(calls).toHaveLength(states.length + 1)
  states.unshift(...Array.from({ length: 100 }, () => ['pending']))
  const ending = new AbortController()
  const enough = new Error('enough')
  const order = caught(market.awaitDelivery(ORDER, { signal: ending.signal }))
  await vi.waitUntil(() => calls.length > states.length - 100 + 1)
  ending.abort(enough)
  expect(await order).toBe(enough)
})

it('asks for one order in every way there is', async () => {
  const { url, calls } = await startServer(() => ({ events: [], items: [] }))
  const market = new Market(url)
  await market.statusHistory(ORDER)
  await market.timeline(ORDER)
  await market.fulfillments(ORDER)
  await market.cancel(ORDER)
  await market.sale(ORDER)
  await market.completeFulfillment(ORDER, 'job', 'handed over')
  expect(
    calls.map(({ method, path, body }) => [method, path.replace(`/api/cart/v1/orders/${ORDER}`, ''), body]),
  ).toEqual([
    ['GET', '/status-history', ''],
    ['GET', '/timeline', ''],
    ['GET', '/fulfillments', ''],
    ['POST', '/cancel', ''],
    ['GET', '/as-seller', ''],
    ['POST', '/fulfillments/job/complete', '{"message":"handed over"}'],
  ])
})

it('does not read an answer without end', async () => {
  const { url } = await startServer((_, response) => {
    response.writeHead(200)
    const more = () => {
      while (!response.destroyed && response.write(Buffer.alloc(1024 * 1024))) continue
      response.once('drain', more)
    }
    more()
  })
  const error = (await caught(new Market(url, { retryForMs: 0 }).raw('Qm'))) as MarketError
  expect(error).toMatchObject({ name: 'NetworkError', reason: 'broken', message: expect.stringContaining('more than') })
})
