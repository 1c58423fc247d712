import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { OutboundError } from '@market/kit/guardedFetch'
import { until } from '@market/testkit/until'
import { afterEach, describe, expect, it } from 'vitest'
import { type AdapterClientOptions, createAdapterClient } from './adapterClient.ts'

const servers: Server[] = []

async function adapter(answer: RequestListener) {
  const requests: IncomingMessage[] = []
  const server = createServer((request, response) => {
    requests.push(request)
    answer(request, response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  servers.push(server)
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests }
}

afterEach(() => {
  for (const server of servers.splice(0)) {
    server.close()
    server.closeAllConnections()
  }
})

const client = (origin: string, options: Partial<AdapterClientOptions> = {}) =>
  createAdapterClient({
    keys: new Map([[origin, 'sesame']]),
    inventoryTimeoutMs: 2000,
    availabilityTimeoutMs: 2000,
    fulfillmentTimeoutMs: 2000,
    maxResponseBytes: 65_536,
    maxRedirects: 3,
    ...options,
  })

const failure = async (work: Promise<unknown>) => {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(OutboundError)
  const { status, code, message, details } = error as OutboundError
  return [status, code, `${message}: ${details.detail}`]
}

describe('inventory', () => {
  const ask = async (body: string) => {
    const { origin } = await adapter((_, response) => response.end(body))
    return client(origin).inventory(origin)
  }

  it('is a count of whole units, never below 0', async () => {
    expect(await ask('{"@type":"QuantitativeValue","value":7,"unitCode":"C62"}')).toMatchObject({
      value: 7,
      unitCode: 'C62',
    })
    expect(await ask('{"@type":"QuantitativeValue","value":-3}')).toMatchObject({ value: 0 })
  })

  it.each([
    ['{"@type":"Thing","value":1}', 'upstream_error', 'Upstream error: @type must be QuantitativeValue'],
    [
      '{"@type":"QuantitativeValue","value":1.5}',
      'upstream_error',
      'Upstream error: Invalid QuantitativeValue: value must be an integer',
    ],
    [
      '{"@type":"QuantitativeValue"}',
      'upstream_error',
      'Upstream error: Invalid QuantitativeValue: value must be an integer',
    ],
    ['7', 'upstream_error', 'Upstream error: inventoryFeed must be a QuantitativeValue object'],
    ['null', 'upstream_error', 'Upstream error: inventoryFeed must be a QuantitativeValue object'],
    ['[]', 'upstream_error', 'Upstream error: inventoryFeed must be a QuantitativeValue object'],
    ['<html>', 'upstream_invalid', 'Upstream sent invalid response: The answer is not JSON'],
    ['', 'upstream_invalid', 'Upstream sent invalid response: The answer is not JSON'],
  ])('fulfilment:F-10 is not %s', async (body, code, text) => {
    expect(await failure(ask(body))).toEqual([502, code, text])
  })
})

describe('availability', () => {
  const ask = async (body: unknown) => {
    const { origin } = await adapter((_, response) => response.end(JSON.stringify(body)))
    return client(origin).availability(origin)
  }

  it('is one of two IRIs', async () => {
    for (const name of ['InStock', 'OutOfStock'])
      expect(await ask(`https://schema.org/${name}`)).toBe(`https://schema.org/${name}`)
  })

  it.each([
    [{ a: 1 }, 'upstream_error', 'Upstream error: availabilityFeed must be a single JSON string'],
    [' ', 'upstream_error', 'Upstream error: availabilityFeed string is empty'],
    ['InStock', 'upstream_error', 'Upstream error: availabilityFeed value must be an absolute URI'],
    [
      'https://schema.org/PreOrder',
      'upstream_invalid',
      'Upstream sent invalid response: Expected https://schema.org/InStock or https://schema.org/OutOfStock',
    ],
  ])('is not %j', async (body, code, text) => {
    expect(await failure(ask(body))).toEqual([502, code, text])
  })
})

describe('an outcome that may have an age', () => {
  it('is asked for once by all who ask meanwhile and until it is too old', async () => {
    let value = 0
    const { origin, requests } = await adapter((_, response) => {
      value += 1
      response.end(JSON.stringify({ '@type': 'QuantitativeValue', value }))
    })
    const { inventory, availability } = client(origin)
    const many = await Promise.all(Array.from({ length: 20 }, () => inventory(`${origin}/a`, 60_000)))
    expect([new Set(many.map((one) => one.value)), requests.length]).toEqual([new Set([1]), 1])
    expect((await inventory(`${origin}/a`, 60_000)).value).toBe(1)
    await until('it is too old', async () => (await inventory(`${origin}/a`, 5)).value > 1)
    // Another URL and another question are other outcomes.
    const asked = requests.length
    await inventory(`${origin}/b`, 60_000)
    await failure(availability(`${origin}/a`, 60_000))
    expect(requests.length).toBe(asked + 2)
  })

  it('is shared however long the call takes', async () => {
    const held: ServerResponse[] = []
    const { origin, requests } = await adapter((_, response) => held.push(response))
    const { inventory } = client(origin)
    const begun = performance.now()
    const first = inventory(origin, 1)
    await until('the call is older than the age', () => held.length > 0 && performance.now() - begun > 10)
    const second = inventory(origin, 1)
    held[0]!.end('{"@type":"QuantitativeValue","value":1}')
    expect(await Promise.all([first, second])).toHaveLength(2)
    expect(requests).toHaveLength(1)
  })

  it('may be a failure: an adapter that is down is not asked by every visitor', async () => {
    const { origin, requests } = await adapter((_, response) => response.writeHead(500).end('{}'))
    const { inventory } = client(origin)
    for (let i = 0; i < 3; i += 1) {
      expect(await failure(inventory(origin, 60_000))).toEqual([502, 'upstream_error', 'Upstream error: HTTP 500'])
    }
    expect(requests).toHaveLength(1)
  })

  it('is not what a basket gets: without an age every call asks, and tells nobody', async () => {
    let value = 0
    const { origin } = await adapter((_, response) => {
      value += 1
      response.end(JSON.stringify({ '@type': 'QuantitativeValue', value }))
    })
    const { inventory } = client(origin)
    expect((await inventory(origin, 60_000)).value).toBe(1)
    expect([(await inventory(origin)).value, (await inventory(origin)).value]).toEqual([2, 3])
    expect((await inventory(origin, 60_000)).value).toBe(1)
  })
})

describe('fulfill', () => {
  it('posts the body with key, hop and idempotency key', async () => {
    const bodies: string[] = []
    const { origin, requests } = await adapter(async (request, response) => {
      for await (const part of request) bodies.push(String(part))
      response.writeHead(202).end('{"status":"inProgress"}')
    })
    expect(await client(origin).fulfill(`${origin}/fulfill/100/0xab`, 'job-1', { orderId: 'o' })).toEqual({
      kind: 'answered',
      httpStatus: 202,
      body: { status: 'inProgress' },
    })
    expect(bodies).toEqual(['{"orderId":"o"}'])
    expect(requests[0]).toMatchObject({ method: 'POST', url: '/fulfill/100/0xab' })
    expect(requests[0]!.headers).toMatchObject({
      'x-circles-service-key': 'sesame',
      'x-circles-proxy-hop': '1',
      'idempotency-key': 'job-1',
      'content-type': 'application/json; charset=utf-8',
    })
  })

  it('fulfilment:F-12 goes to no origin that is not configured, however public', async () => {
    const { origin, requests } = await adapter((_, response) => response.end('{"status":"ok"}'))
    const { fulfill } = client(origin, { resolve: async () => ['93.184.216.34'], dial: () => '127.0.0.1' })
    const elsewhere = origin.replace('127.0.0.1', 'shop.example')
    expect(await fulfill(`${elsewhere}/fulfill/100/0xab`, 'job-1', {})).toEqual({
      kind: 'failed',
      httpStatus: null,
      error: 'Upstream blocked: Origin is not configured',
    })
    expect(requests).toEqual([])
  })

  it('fulfilment:F-14 follows no redirect', async () => {
    const target = await adapter((_, response) => response.end('{"status":"ok"}'))
    const { origin } = await adapter((_, response) => response.writeHead(307, { Location: target.origin }).end())
    expect(await client(origin).fulfill(origin, 'job-1', {})).toEqual({
      kind: 'failed',
      httpStatus: 307,
      error: 'HTTP 307 without a JSON body',
    })
    expect(target.requests).toEqual([])
  })

  it('fulfilment:F-14 sends neither body nor key on, whatever the kind of redirect', async () => {
    for (const status of [301, 302, 303, 307, 308]) {
      const target = await adapter((_, response) => response.end('{"status":"ok"}'))
      const { origin } = await adapter((_, response) =>
        response.writeHead(status, { Location: target.origin }).end('{"status":"moved"}'),
      )
      // Though it is known there as well.
      const keys = new Map([origin, target.origin].map((one) => [one, 'sesame']))
      expect(await client(origin, { keys }).fulfill(origin, 'job-1', {})).toMatchObject({ httpStatus: status })
      expect(target.requests).toEqual([])
    }
  })

  it('fulfilment:F-11 reads no more than it may, of an error either', async () => {
    for (const status of [200, 500]) {
      const { origin, requests } = await adapter((_, response) => response.writeHead(status).end('x'.repeat(65_537)))
      expect(await client(origin).fulfill(origin, 'job-1', {})).toEqual({
        kind: 'failed',
        httpStatus: null,
        error: 'Upstream HTTP error: answer exceeds 65536 bytes',
      })
      await until('the connection is closed', () => requests[0]!.socket.destroyed)
    }
  })

  it('says what went wrong instead of throwing', async () => {
    const { origin } = await adapter(() => {})
    expect(await client(origin, { fulfillmentTimeoutMs: 100 }).fulfill(origin, 'job-1', {})).toEqual({
      kind: 'failed',
      httpStatus: null,
      error: 'Upstream timeout: No answer within 100 ms',
    })
    expect(await client('http://127.0.0.1:1').fulfill('http://127.0.0.1:1/', 'job-1', {})).toEqual({
      kind: 'failed',
      httpStatus: null,
      error: 'Upstream HTTP error: ECONNREFUSED',
    })
  })
})
