import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { cidV0 } from '@market/contracts/cid'
import { afterEach, expect, it, vi } from 'vitest'
import { Market } from './market.ts'
import { marketStorage } from './marketStorage.ts'

const undo: (() => void)[] = []
afterEach(() => {
  vi.useRealTimers()
  for (const step of undo.splice(0)) step()
})

type Call = { method: string; path: string; type: string | undefined; body: Buffer }

async function startMarket(answer: (call: Call, n: number, response: ServerResponse) => unknown) {
  const calls: Call[] = []
  const server = createServer(async (request: IncomingMessage, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const call = {
      method: request.method!,
      path: request.url!,
      type: request.headers['content-type'],
      body: Buffer.concat(chunks),
    }
    calls.push(call)
    const said = answer(call, calls.length, response)
    response.end(said instanceof Uint8Array ? said : JSON.stringify(said))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  undo.push(() => void server.close())
  return { market: new Market(`http://127.0.0.1:${(server.address() as AddressInfo).port}`), calls }
}

const document = new TextEncoder().encode('{"@type":"Tombstone"}')
const refuse = (response: ServerResponse, status: number, body: object, headers = {}) => {
  response.writeHead(status, { 'content-type': 'application/problem+json', ...headers })
  return body
}

it('pins documents and pictures as the bytes they are, each under its own path', async () => {
  const { market, calls } = await startMarket((call) => ({ cid: cidV0(call.body) }))
  const storage = marketStorage(market)
  expect(await storage.put(document)).toBe(cidV0(document))
  const picture = Uint8Array.of(0x89, 0x50, 0, 0xff)
  expect(await storage.put(picture, 'image/png')).toBe(cidV0(picture))
  expect(calls).toEqual([
    { method: 'POST', path: '/api/pin', type: 'application/ld+json; charset=utf-8', body: Buffer.from(document) },
    { method: 'POST', path: '/api/pin-media', type: 'image/png', body: Buffer.from(picture) },
  ])
})

it('believes no bytes that are not what the CID names', async () => {
  const { market, calls } = await startMarket((_, n) => (n === 1 ? document : Uint8Array.of(1)))
  const cid = cidV0(document)
  expect(await marketStorage(market).get(cid)).toEqual(document)
  expect(calls[0]).toMatchObject({ method: 'GET', path: `/raw/${cid}` })
  await expect(marketStorage(market).get(cid)).rejects.toThrow(`is not ${cid}`)
})

it('tries again what may be different in a moment, and says what the market said when it is not', async () => {
  const { market, calls } = await startMarket((call, n, response) => {
    if (n === 1) return refuse(response, 503, { code: 'busy', title: 'Too many requests' }, { 'retry-after': '0' })
    if (n === 2) return refuse(response, 429, { code: 'rate_limited', title: 'Slow down' }, { 'retry-after': '0' })
    if (n === 3) return { cid: cidV0(call.body) }
    const problem = {
      code: 'unsupported_shape',
      title: 'Unsupported JSON-LD shape',
      detail: 'The member sku breaks a rule',
    }
    return refuse(response, 400, problem)
  })
  const storage = marketStorage(market)
  expect(await storage.put(document)).toBe(cidV0(document))
  expect(calls).toHaveLength(3)
  await expect(storage.put(document)).rejects.toMatchObject({
    status: 400,
    code: 'unsupported_shape',
    message: 'Unsupported JSON-LD shape: The member sku breaks a rule',
  })
  expect(calls).toHaveLength(4)
})

it('does not wait for the quota of another day', async () => {
  const { market, calls } = await startMarket((_, _n, response) =>
    refuse(response, 429, { code: 'pin_quota_exceeded', title: 'Quota exceeded' }, { 'retry-after': '40000' }),
  )
  await expect(marketStorage(market).put(document)).rejects.toMatchObject({ retryAfterSeconds: 40_000 })
  expect(calls).toHaveLength(1)
})

it('signs in once for all who pin at the same time, and again before the token runs out', async () => {
  vi.useFakeTimers({ toFake: ['performance'] })
  const { market } = await startMarket((call) => ({ cid: cidV0(call.body) }))
  let signedIn = 0
  const storage = marketStorage(market, { signIn: async () => void (signedIn += 1) })
  await Promise.all(Array.from({ length: 5 }, () => storage.put(document)))
  expect(signedIn).toBe(1)
  vi.advanceTimersByTime(11 * 60_000)
  await storage.put(document)
  expect(signedIn).toBe(1)
  vi.advanceTimersByTime(2 * 60_000)
  await storage.put(document)
  expect(signedIn).toBe(2)
})

it('tries to sign in again after it could not', async () => {
  const { market } = await startMarket((call) => ({ cid: cidV0(call.body) }))
  let tried = 0
  const signIn = async () => {
    tried += 1
    if (tried === 1) throw new Error('the wallet is locked')
  }
  const storage = marketStorage(market, { signIn })
  await expect(storage.put(document)).rejects.toThrow('the wallet is locked')
  expect(await storage.put(document)).toBe(cidV0(document))
})
