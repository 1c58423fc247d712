import { openDatabase } from '@market/kit/db'
import { failpointOf } from '@market/kit/failpoint'
import { createLog } from '@market/kit/log'
import { createMetrics } from '@market/kit/metrics'
import { expect, it } from 'vitest'
import { adapterApp } from './app.ts'
import { openSecretBox } from './secrets.ts'
import { runsUnderWay } from './steps.ts'

const SELLER = `0x${'ab'.repeat(20)}`
const KEY = 'a service key of some length'

/** What is refused here is refused before the database: there is none. */
const app = adapterApp({
  adapter: { resultType: 'circles:NothingResult', maxQuantity: 1 },
  delivery: {
    findMappings: async () => new Map<string, string>(),
    inventory: async () => 0,
    fulfill: async () => [],
    summarize: () => ({}),
  },
  db: openDatabase<never>('postgres://nobody@127.0.0.1:1/none', { name: 'test' }).db,
  secrets: openSecretBox(`a:${Buffer.alloc(32).toString('base64')}`),
  runs: runsUnderWay(),
  budgetMs: 1000,
  serviceKey: KEY,
  log: createLog('test', 'fatal'),
  metrics: createMetrics('test'),
  failpoint: failpointOf(undefined),
  stopping: () => false,
})

const get = (path: string, key: string | undefined = KEY) =>
  app.request(path, { headers: key === undefined ? {} : { 'X-Circles-Service-Key': key } })

async function post(
  body: unknown,
  {
    path = `/fulfill/100/${SELLER}`,
    key = KEY,
    headers = {},
  }: {
    path?: string
    key?: string
    headers?: Record<string, string>
  } = {},
) {
  const response = await app.request(path, {
    method: 'POST',
    headers: { 'X-Circles-Service-Key': key, ...headers },
    body: typeof body === 'string' || body instanceof ReadableStream ? body : JSON.stringify(body),
    ...(body instanceof ReadableStream ? { duplex: 'half' } : {}),
  } as RequestInit)
  const connection = response.headers.get('connection')
  return { status: response.status, connection, ...((await response.json()) as { error: string }) }
}

const valid = { orderId: 'ord_1', paymentReference: 'pay_1', items: [{ sku: 'a' }, { sku: 'b' }], trigger: 'finalized' }

it.each([
  ['inventory', `/inventory/100/${SELLER}/a`],
  ['availability', `/availability/100/${SELLER}/a`],
  ['a bad seller', '/inventory/100/0xZZ/a'],
])('adapters:A-12 fulfilment:F-31 asks for the service key before it looks at %s', async (_what, path) => {
  const without = await get(path, '')
  expect([without.status, await without.json()]).toMatchObject([
    401,
    { error: 'Unauthorized', reason: 'missing api key' },
  ])
  for (const wrong of ['wrong', `${KEY}x`, KEY.slice(1), KEY.toUpperCase()]) {
    const response = await get(path, wrong)
    expect([response.status, await response.json()]).toMatchObject([
      401,
      { error: 'Unauthorized', reason: 'invalid api key' },
    ])
  }
})

it('adapters:A-12 asks for the service key before it reads a body', async () => {
  expect(await post('not json', { key: 'wrong' })).toMatchObject({ status: 401 })
  expect(await post('x'.repeat(300 * 1024), { key: 'wrong' })).toMatchObject({ status: 401 })
})

it('is counted and logged under the pattern of its route, probes included', async () => {
  for (const path of ['/metrics', `/inventory/100/${SELLER}/a`, '/nowhere']) await get(path)
  const metrics = await (await get('/metrics')).text()
  const counted = metrics.split('\n').flatMap((line) => /_count\{.*route="([^"]*)"/.exec(line)?.[1] ?? [])
  expect(counted).toEqual(expect.arrayContaining(['/inventory/:chainId/:seller/:sku', '/metrics']))
  expect(counted.join()).not.toContain(SELLER)
})

it.each(['0xZZ', `0x${'g'.repeat(40)}`, `0x${'1'.repeat(39)}`, '1'.repeat(42)])(
  'adapters:A-12 refuses the seller %s',
  async (seller) => {
    expect(await (await get(`/inventory/100/${seller}/a`)).json()).toMatchObject({ error: 'Invalid seller address' })
    expect(await post(valid, { path: `/fulfill/100/${seller}` })).toMatchObject({
      status: 400,
      error: 'Invalid seller address',
    })
  },
)

it.each(['0', '-1', '1e2', '0x64', '1.0', '%20100', '99999999999999999999', 'gnosis'])(
  'refuses the chain %s',
  async (chain) => {
    expect(await post(valid, { path: `/fulfill/${chain}/${SELLER}` })).toMatchObject({
      status: 400,
      error: 'chainId must be > 0',
    })
  },
)

it('answers 404 with what it looked for, also for a sku that no database can hold', async () => {
  const response = await get(`/inventory/100/${SELLER.toUpperCase().replace('0X', '0x')}/%20Tea%2FBag%20`)
  expect(response.status).toBe(404)
  expect(await response.json()).toMatchObject({
    error: 'No mapping for seller/sku',
    chainId: 100,
    seller: SELLER,
    sku: 'tea/bag',
  })
  expect((await get(`/inventory/100/${SELLER}/%00`)).status).toBe(404)
  expect((await get(`/inventory/100/${SELLER}/%20`)).status).toBe(400)
})

it.each<[string, unknown, string]>([
  ['no JSON', '{"orderId"', 'Invalid JSON body'],
  ['an empty body', '', 'Invalid JSON body'],
  ['no object', [valid], 'Invalid JSON body'],
  ['null', null, 'Invalid JSON body'],
  ['no orderId', { ...valid, orderId: undefined }, 'orderId is required'],
  ['a blank orderId', { ...valid, orderId: ' ' }, 'orderId is required'],
  ['no paymentReference', { ...valid, paymentReference: null }, 'paymentReference is required'],
  ['no items', { ...valid, items: undefined }, 'items must contain at least one element'],
  ['empty items', { ...valid, items: [], trigger: 'paid' }, 'items must contain at least one element'],
  ['an item without sku', { ...valid, items: [{ quantity: 1 }] }, 'item.sku is required'],
  ['no trigger', { ...valid, trigger: '' }, 'trigger is required'],
  ['another trigger', { ...valid, trigger: 'paid' }, "trigger must be 'confirmed' or 'finalized'"],
  ['too few line indexes', { ...valid, lineIndexes: [1] }, 'lineIndexes must name each item once'],
  ['a line index twice', { ...valid, lineIndexes: [1, 1] }, 'lineIndexes must name each item once'],
  ['a line index out of range', { ...valid, lineIndexes: [1, 2 ** 31] }, 'lineIndexes are too large'],
  ['a customer that is text', { ...valid, customer: 'Ada' }, 'customer must be an object'],
  ['a list of addresses', { ...valid, shippingAddress: [{}] }, 'shippingAddress must be an object'],
  [
    'a postal code that is no text',
    { ...valid, billingAddress: { postalCode: 1 } },
    'billingAddress.postalCode must be text',
  ],
  ['an e-mail that is no text', { ...valid, contactPoint: { email: ['a'] } }, 'contactPoint.email must be text'],
  ['no trigger before a bad customer', { ...valid, trigger: ' ', customer: 1 }, 'trigger is required'],
  [
    'NUL in an address',
    { ...valid, billingAddress: { streetAddress: '\0' } },
    'Text must not hold NUL or half a surrogate pair',
  ],
  ['NUL in a sku', { ...valid, items: [{ sku: 'a\0b' }] }, 'Text must not hold NUL or half a surrogate pair'],
  ['half a character', { ...valid, orderId: 'ord_\ud83d' }, 'Text must not hold NUL or half a surrogate pair'],
])('fulfilment:F-24 refuses %s', async (_what, body, error) => {
  expect(await post(body)).toMatchObject({ status: 400, error })
})

it('refuses a body deeper than its stack', async () => {
  const deep = `{"items":${'['.repeat(100_000)}${']'.repeat(100_000)}}`
  expect(await post(deep)).toMatchObject({ status: 400, error: 'orderId is required' })
})

it('refuses a key longer than an index can hold', async () => {
  expect(await post(valid, { headers: { 'Idempotency-Key': 'k'.repeat(256) } })).toMatchObject({ status: 400 })
})

it('refuses a body over 256 KiB by its declared length and by counting', async () => {
  // Whoever answers before the body ends will cut the connection: a caller must not send its next request on it.
  const tooLong = { status: 413, connection: 'close', error: 'Body exceeds 262144 bytes' }
  const padding = 'x'.repeat(256 * 1024)
  const declared = JSON.stringify({ ...valid, padding })
  expect(await post(declared, { headers: { 'Content-Length': String(declared.length) } })).toMatchObject(tooLong)
  let pulled = 0
  const endless = new ReadableStream({
    pull(controller) {
      pulled += 1
      controller.enqueue(new Uint8Array(64 * 1024).fill(32))
    },
  })
  expect(await post(endless)).toMatchObject(tooLong)
  expect(pulled).toBeLessThan(10)
})
