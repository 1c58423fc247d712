import { StatusEvent } from '@market/contracts/marketApi/orders'
import { privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { runFulfillmentJob } from './runFulfillmentJob.ts'
import { publicApp } from '../src/http/publicApp.ts'
import { operations } from '../src/openapi/document.ts'
import { pollPayments } from '../src/payments/pollPayments.ts'
import { OPERATOR } from './catalogWorld.ts'
import { departure, findOperation, watchAnswers } from './documented.ts'
import { GATEWAY, NOW, paidInFull, startShop } from './shop.ts'
import { startMarketApi } from './startMarketApi.ts'

const ALICE = privateKeyToAccount(`0x${'a1'.repeat(32)}`)
const BUYER = ALICE.address.toLowerCase()
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

let shop: Awaited<ReturnType<typeof startShop>>
let watch: ReturnType<typeof watchAnswers>
beforeAll(async () => {
  shop = await startShop()
  watch = watchAnswers(shop.url)
})
afterAll(async () => {
  await watch?.stop()
  await shop?.close()
})

type Sent = { body?: unknown; raw?: string | Uint8Array; headers?: Record<string, string> }
/** The tests know what they asked for. */
const ask = async (method: string, path: string, { body, raw, headers = {} }: Sent = {}) => {
  const response = await fetch(`${shop.url}${path}`, {
    method,
    headers: { ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
    ...(method === 'GET' ? {} : { body: (raw as string) ?? (body === undefined ? null : JSON.stringify(body)) }),
  })
  const text = await response.text()
  const isJson = response.status !== 206 && /json/.test(response.headers.get('content-type') ?? '')
  return { status: response.status, headers: response.headers, text, body: isJson ? (JSON.parse(text) as any) : text }
}
const outcomes = async (...asked: Promise<{ status: number; body: any }>[]) =>
  (await Promise.all(asked)).map(({ status, body }) => `${status} ${body.code}`)

const CART = '/api/cart/v1/baskets'
const ORDERS = '/api/cart/v1/orders'

describe('the document and the public port', () => {
  it('have the same routes', () => {
    const routes = publicApp(shop.ctx, async () => []).routes.filter(({ method }) => method !== 'ALL')
    const served = new Set(
      routes.map(({ method, path }) => `${method.toLowerCase()} ${path.replaceAll(/:(\w+)/g, '{$1}')}`),
    )
    const described = operations.flatMap(({ method, path, aliases = [] }) =>
      [path, ...aliases].map((one) => `${method} ${one}`),
    )
    expect([...served].toSorted()).toEqual(described.toSorted())
  })

  it('agree about a purchase, from the catalog to the delivery', async () => {
    const seller = shop.seller(401)
    const ofSeller = await shop.tokenOf(seller.address)
    const tee = await shop.made(seller, 'tee', 5, 'CRC', { requiredSlots: ['contactPoint.email'] })
    await shop.sell(seller, [tee])
    const table = await shop.made(seller, 'table', 7)
    await shop.sell(seller, [tee, table], null)

    const challenge = await ask('POST', '/api/auth/challenge', { body: { address: BUYER, chainId: 100 } })
    const signature = await ALICE.signMessage({ message: challenge.body.message })
    const { challengeId } = challenge.body
    const signedIn = await ask('POST', '/api/auth/verify', { body: { challengeId, signature } })
    const headers = { Authorization: `Bearer ${signedIn.body.token}` }
    await ask('GET', '/.well-known/jwks.json')
    await ask('GET', '/api/auth/jwks.json')

    const sellers = await ask('GET', '/api/sellers')
    expect(sellers.body).toEqual([{ chainId: 100, seller: seller.address }])
    await ask('GET', '/api/sellers', { headers: { 'If-None-Match': sellers.headers.get('etag')! } })
    const catalog = `/api/operator/${OPERATOR}/catalog`
    const all = `avatars=${seller.address}&avatars=nobody&chainId=100`
    const page = await ask(
      'GET',
      `${catalog}?${all}&pageSize=1&start=0&end=${NOW}&offset=0&q=the&minPrice=1&maxPrice=9`,
    )
    expect([page.body.products.length, page.body.errors.length]).toEqual([1, 1])
    const cursor = encodeURIComponent(page.body.nextCursor)
    await ask(
      'GET',
      `${catalog}?${all}&cursor=${cursor}&diagnostics=1&compat=0&inStock=true&priceCurrency=CRC&category=x`,
    )
    await ask('GET', `${catalog}?avatars=${seller.address}&start=${NOW - 9999}&diagnostics=1`)
    const product = await ask('GET', `${catalog}/${seller.address}/tee?compat=0&chainId=100`)
    await ask('GET', `${catalog}/${seller.address}/tee`)
    const known = { 'If-None-Match': product.headers.get('etag')! }
    await ask('GET', `${catalog}/${seller.address}/tee?compat=0`, { headers: known })
    const fresh = await ask('GET', `${catalog}?avatars=${seller.address}`)
    await ask('GET', `${catalog}?avatars=${seller.address}`, {
      headers: { 'If-None-Match': fresh.headers.get('etag')! },
    })
    await ask('GET', `/inventory/availability/100/${seller.address}/tee`)
    await ask('GET', `/inventory/inventory/100/${seller.address}/tee`)
    await ask('GET', `/inventory/inventory/100/${seller.address}/table`)

    const sale = async (sku: string, offerIndex?: number) => {
      const made = await ask('POST', CART, { body: { operator: OPERATOR }, headers })
      const basket = `${CART}/${made.body.basketId}`
      const line = { seller: seller.address, orderedItem: { sku }, orderQuantity: 1, imageUrl: 'https://x/y.png' }
      const items = [offerIndex === undefined ? line : { ...line, offerIndex }]
      await ask('PATCH', basket, { body: { items }, headers })
      await ask('POST', `${basket}/validate`, { headers })
      const address = { streetAddress: 'Kai 1', addressCountry: 'DE' }
      const contact = { contactPoint: { '@type': 'Person', email: 'ada@example.org' } }
      await ask('PATCH', basket, {
        body: { ...contact, customer: { givenName: 'Ada' }, shippingAddress: address },
        headers,
      })
      await ask('POST', `${basket}/validate`, { headers })
      const patch = { ...headers, 'Content-Type': 'application/merge-patch+json' }
      const rest = {
        contactPoint: { '@type': 'ContactPoint', telephone: '+49 431 1' },
        ageProof: { birthDate: '1990-12-10' },
      }
      await ask('PATCH', basket, { raw: JSON.stringify({ ...rest, ttlSeconds: 999 }), headers: patch })
      await ask('GET', basket, { headers })
      await ask('POST', `${basket}/preview?buyer=${BUYER}`, { headers })
      const order = await ask('POST', `${basket}/checkout?buyer=${BUYER}`, { headers })
      expect(order.status).toBe(201)
      await ask('POST', `${basket}/checkout`, { headers })
      await ask('GET', basket, { headers })
      return order.body as { orderId: string; paymentReference: string }
    }
    const [delivered, byHand, cancelled] = [await sale('tee', 0), await sale('table'), await sale('tee')]
    const everything = async ({ orderId }: { orderId: string }) => {
      await ask('GET', `${ORDERS}/${orderId}`, { headers })
      await ask('GET', `${ORDERS}/${orderId}/as-seller`, { headers: ofSeller })
      await ask('GET', `${ORDERS}/${orderId}/status-history`, { headers })
      for (const view of ['fulfillments', 'timeline']) {
        await ask('GET', `${ORDERS}/${orderId}/${view}`, { headers })
        await ask('GET', `${ORDERS}/${orderId}/${view}`, { headers: ofSeller })
      }
    }
    await everything(delivered)
    expect((await ask('POST', `${ORDERS}/${cancelled.orderId}/cancel`, { headers })).status).toBe(200)
    await everything(cancelled)

    const stream = await fetch(`${shop.url}${ORDERS}/events`, { headers })
    const streamOfSales = await fetch(`${shop.url}${ORDERS}/sales/events`, { headers: ofSeller })
    shop.ctx.paymentSource = paidInFull([
      { reference: delivered.paymentReference, crc: 5n },
      { reference: byHand.paymentReference, crc: 7n },
    ])
    await pollPayments(shop.ctx)
    while (await runFulfillmentJob(shop.ctx));
    for (const one of [stream, streamOfSales]) {
      const data = await nextData(one)
      expect(departure(StatusEvent, JSON.parse(data))).toBeUndefined()
    }

    await everything(delivered)
    await everything(byHand)
    const jobs = await ask('GET', `${ORDERS}/${byHand.orderId}/fulfillments`, { headers: ofSeller })
    const job = `${ORDERS}/${byHand.orderId}/fulfillments/${jobs.body.items[0].id}/complete`
    expect((await ask('POST', job, { body: { message: 'There you are' }, headers: ofSeller })).status).toBe(200)
    await everything(byHand)
    expect((await ask('GET', `${ORDERS}/${byHand.orderId}`, { headers })).body.outbox).toHaveLength(1)
    for (const [list, token] of [['by-buyer', headers] as const, ['by-seller', ofSeller] as const]) {
      const first = await ask('GET', `${ORDERS}/${list}?pageSize=2&page=1`, { headers: token })
      expect(first.body.items).toHaveLength(2)
      await ask('GET', `${ORDERS}/${list}?cursor=${first.body.nextCursor}`, { headers: token })
    }
    await ask('POST', `${ORDERS}/batch`, { body: { orderIds: [byHand.orderId, 'ord_0'] }, headers })
    const automatic = await ask('GET', `${ORDERS}/${delivered.orderId}/fulfillments`, { headers: ofSeller })
    const other = `${ORDERS}/${delivered.orderId}/fulfillments/${automatic.body.items[0].id}/complete`
    expect(
      await outcomes(
        ask('POST', other, { headers: ofSeller }),
        ask('POST', other, { headers }),
        ask('POST', `${ORDERS}/${delivered.orderId}/cancel`, { headers }),
      ),
    ).toEqual(['409 not_manual', '404 fulfillment_not_found', '409 order_paid'])
  })

  it('agree about documents', async () => {
    const document = { '@context': ['https://schema.org/', 'https://aboutcircles.com/contexts/circles-market/'] }
    const product = {
      ...document,
      '@type': 'Product',
      name: 'Tee',
      sku: 'tee',
      offers: [{ price: 1, priceCurrency: 'CRC' }],
    }
    const { cid } = (await ask('POST', '/api/pin', { body: product })).body
    await ask('POST', '/pin', { body: product })
    const image = { raw: Buffer.from(PNG, 'base64'), headers: { 'Content-Type': 'image/png' } }
    await ask('POST', '/pin-media', image)
    const picture = (await ask('POST', '/api/pin-media?strip=exif', image)).body.cid
    for (const path of [`/raw/${cid}`, `/raw/${picture}`, `/ipfs/${picture}`]) {
      expect((await ask('GET', path)).status).toBe(200)
      expect((await ask('GET', path, { headers: { Range: 'bytes=0-3' } })).status).toBe(206)
      const named = `"${path.split('/').at(-1)}"`
      expect((await ask('GET', path, { headers: { 'If-None-Match': named } })).status).toBe(304)
    }
    const link = await shop.seller(402).productLink('tee', cid, NOW)
    const canonical = await ask('POST', `/api/canonicalize?safe=${GATEWAY}&chainId=100`, { body: link })
    expect(canonical.headers.get('x-safe-hash')).toMatch(/^0x/)
    const media = { 'Content-Type': 'image/png' }
    expect(
      await outcomes(
        ask('POST', '/api/pin', { body: { ...product, sku: '?' } }),
        ask('POST', '/api/pin', { raw: '{}', headers: { 'Content-Type': 'text/plain' } }),
        ask('POST', '/api/pin-media', { raw: '', headers: media }),
        ask('POST', '/api/pin-media', { raw: 'GIF', headers: media }),
        ask('POST', '/api/pin-media?strip=all', { raw: 'GIF', headers: media }),
        ask('POST', '/api/canonicalize', { body: [1] }),
        ask('POST', '/api/canonicalize', { body: { ...link, nonce: 1 } }),
        ask('POST', '/api/canonicalize?safe=me', { body: {} }),
        ask('GET', '/raw/none'),
        ask('GET', '/raw/QmPGULpvvyrXxZVzaub4v3TaMQoKg4LsuXeCdYtXQFqD7u'),
        ask('GET', `/ipfs/${cid}`),
        ask('GET', `/raw/${cid}`, { headers: { Range: 'bytes=999999-' } }),
      ),
    ).toEqual([
      '400 unsupported_shape',
      '415 unsupported_media_type',
      '400 empty_media',
      '400 unsupported_media',
      '400 invalid_query',
      '400 invalid_json',
      '400 unsupported_shape',
      '400 invalid_address',
      '400 invalid_cid',
      '404 not_available',
      '404 not_an_image',
      '416 range_not_satisfiable',
    ])
  })

  it('agree about refusals', async () => {
    const seller = shop.seller(403)
    const mug = await shop.made(seller, 'mug', 5)
    await shop.sell(seller, [mug, await shop.made(seller, 'euro', 5, 'EUR'), await shop.made(seller, 'card', 5)])
    const headers = await shop.tokenOf(BUYER)
    const lines = (...skus: string[]) => ({
      items: skus.map((sku) => ({ seller: seller.address, orderedItem: { sku }, orderQuantity: 1 })),
    })
    const basket = async () =>
      `${CART}/${(await ask('POST', CART, { body: { operator: OPERATOR }, headers })).body.basketId}`
    const draft = await basket()
    await ask('PATCH', draft, { body: lines('mug'), headers })
    await shop.sell(seller, [await shop.made(seller, 'mug', 6), await shop.made(seller, 'card', 5)])
    const changed = await ask('POST', `${draft}/checkout`, { headers })
    expect([changed.body.code, changed.body.basket.items.length]).toEqual(['product_changed', 1])
    const empty = await basket()
    const bought = await basket()
    await ask('PATCH', bought, { body: lines('card'), headers })
    const { orderId } = (await ask('POST', `${bought}/checkout`, { headers: { ...headers, 'Idempotency-Key': 'k' } }))
      .body
    const byVersion = { ...headers, 'If-Match': '"99"' }
    const stranger = await shop.tokenOf(GATEWAY)
    const inventory = `/inventory/inventory/100/${seller.address}`
    expect(
      await outcomes(
        ask('POST', CART, { raw: '{', headers: { 'Content-Type': 'application/json' } }),
        ask('POST', CART, { raw: '{}', headers: { 'Content-Type': 'text/plain' } }),
        ask('POST', CART, { body: { buyer: 'me' } }),
        ask('POST', CART, { body: { chainId: 1 } }),
        ask('GET', `${CART}/bkt_1`),
        ask('GET', draft, { headers: stranger }),
        ask('PATCH', draft, { body: { price: 1 }, headers }),
        ask('PATCH', draft, { body: { ttlSeconds: 0 }, headers }),
        ask('PATCH', draft, { body: { items: [{ orderQuantity: 1 }] }, headers }),
        ask('PATCH', draft, { body: lines('none'), headers }),
        ask('PATCH', draft, { body: { ttlSeconds: 99 }, headers: byVersion }),
        ask('PATCH', draft, { raw: `{"customer":"${'x'.repeat(300_000)}"}`, headers }),
        ask('PATCH', bought, { body: { ttlSeconds: 99 }, headers }),
        ask('POST', `${empty}/checkout`, { headers }),
        ask('POST', `${empty}/preview`, { headers }),
        ask('POST', `${draft}/checkout`, { headers: byVersion }),
        ask('POST', `${draft}/checkout`, { headers: stranger }),
        ask('POST', `${draft}/checkout?buyer=${GATEWAY}`, { headers }),
        ask('POST', `${draft}/checkout`, { headers: { ...headers, 'Idempotency-Key': 'k' } }),
        ask('GET', `${ORDERS}/by-buyer`),
        ask('GET', `${ORDERS}/by-buyer?cursor=1`, { headers }),
        ask('GET', `${ORDERS}/${orderId}`, { headers: stranger }),
        ask('GET', `${ORDERS}/${orderId}/timeline`, { headers: stranger }),
        ask('POST', `${ORDERS}/batch`, { body: { orderIds: [] }, headers }),
        ask('POST', '/api/auth/challenge', { body: { address: BUYER, chainId: 1 } }),
        ask('POST', '/api/auth/challenge', { body: { address: BUYER, chainId: 100, statement: 'a\nb' } }),
        ask('POST', '/api/auth/verify', { body: { challengeId: crypto.randomUUID(), signature: '0x' } }),
        ask('GET', `/api/operator/${OPERATOR}/catalog`),
        ask('GET', `/api/operator/me/catalog?avatars=${seller.address}`),
        ask('GET', `/api/operator/${OPERATOR}/catalog?avatars=${seller.address}&offset=9`),
        ask('GET', `/api/operator/${OPERATOR}/catalog/${seller.address}/none`),
        ask('GET', `${inventory}/none`),
        ask('GET', `${inventory}/mug`, { headers: { 'X-Circles-Proxy-Hop': '1' } }),
        ask('GET', `/inventory/availability/x/${seller.address}/mug`),
      ),
    ).toEqual([
      '400 invalid_json',
      '415 unsupported_media_type',
      '400 invalid_request',
      '400 invalid_chain',
      '404 basket_not_found',
      '404 basket_not_found',
      '400 unknown_field',
      '400 invalid_basket_json',
      '400 invalid_line',
      '422 product_not_found',
      '412 basket_version_conflict',
      '413 body_too_large',
      '409 basket_checked_out',
      '400 invalid_basket',
      '400 invalid_basket',
      '412 basket_version_conflict',
      '403 not_your_basket',
      '400 buyer_mismatch',
      '422 idempotency_key_reused',
      '401 unauthorized',
      '400 invalid_cursor',
      '404 order_not_found',
      '404 order_not_found',
      '400 invalid_request',
      '400 invalid_chain',
      '400 invalid_statement',
      '401 sign_in_refused',
      '400 invalid_query',
      '400 invalid_address',
      '416 past_the_end',
      '404 product_not_found',
      '404 not_configured',
      '508 loop_detected',
      '400 invalid_chain',
    ])
    expect((await ask('GET', '/nowhere')).body.code).toBe('not_found')
    expect((await ask('POST', '/api/sellers')).body.code).toBe('method_not_allowed')
  })

  it('agree about health and about the document', async () => {
    for (const path of ['/health', '/health/ready', '/metrics']) expect((await ask('GET', path)).status).toBe(200)
    const document = await ask('GET', '/openapi.json')
    expect(document.body).toMatchObject({ openapi: '3.1.1', servers: [{ url: shop.url }] })
    for (const path of ['/openapi/v1.json', '/docs/v1/swagger.json']) {
      expect((await ask('GET', path)).text).toBe(document.text)
    }
    const page = await ask('GET', '/docs')
    for (const { path, headers } of [
      { path: '/openapi.json', ...document },
      { path: '/docs', ...page },
    ]) {
      const known = { 'If-None-Match': headers.get('etag')! }
      expect((await ask('GET', path, { headers: known })).status).toBe(304)
    }
    expect(page.headers.get('content-security-policy')).toMatch(/^default-src 'none'; style-src 'sha256-/)
  })

  /** What the tests above don't bring about: a database that is down. */
  const NOT_SEEN = ['getHealth 503', 'getReadiness 503']

  it('disagreed about none of these answers, and every operation had all of its successes', async () => {
    expect(await watch.stop()).toEqual([])
    const successes = operations.flatMap(({ id, answers }) => Object.keys(answers).map((status) => `${id} ${status}`))
    expect(successes.filter((one) => !watch.seen.has(one))).toEqual(NOT_SEEN)
  })
})

describe('a market whose operator wants no documentation', () => {
  it('market-api:W-35 serves neither document nor page', async () => {
    const api = await startMarketApi({ env: { MARKET_API_DOCS: 'false' } })
    try {
      for (const path of ['/openapi.json', '/openapi/v1.json', '/docs/v1/swagger.json', '/docs']) {
        expect(findOperation('GET', path)).toBeDefined()
        const response = await fetch(`${api.url}${path}`)
        expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([404, 'not_found'])
      }
    } finally {
      await api.close()
    }
  })
})

/** The first `data` of a stream, which ends with it. */
async function nextData(stream: Response): Promise<string> {
  let text = ''
  const reader = stream.body!.pipeThrough(new TextDecoderStream()).getReader()
  for (;;) {
    const { value, done } = await reader.read()
    if (done) throw new Error(`the stream ended: ${text}`)
    text += value
    const [, data] = /^data: (.*)$/m.exec(text) ?? []
    if (data === undefined) continue
    await reader.cancel()
    return data
  }
}
