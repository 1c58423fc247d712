import { afterAll, beforeAll, expect, it } from 'vitest'
import { freePort } from '@market/devstack/ports'
import { type Chain, startChain } from '../test/chain.ts'
import { deployDevContracts, devContracts, devCurrencyAvatar } from './deployment.ts'
import { type Facade, startFacade } from './facade.ts'

let chain: Chain
let facade: Facade
beforeAll(async () => {
  chain = await startChain()
  await deployDevContracts(chain.url)
  facade = await startFacade({ nodeUrl: chain.url, port: 0 })
})
afterAll(async () => {
  await facade.stop()
  await chain.stop()
})

async function post(body: unknown, url = facade.url) {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  const response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: text })
  return { status: response.status, body: (await response.json()) as unknown }
}

const call = (id: number | string, method: string, ...params: unknown[]) => ({ jsonrpc: '2.0', id, method, params })
const down = (id: unknown) => ({ status: 502, body: { jsonrpc: '2.0', id, error: { code: -32000 } } })
const payments = { namespace: 'CrcV2_PaymentGateway', table: 'PaymentReceived' }

it('passes everything but circles_query to the node', async () => {
  expect(await post(call(7, 'eth_blockNumber'))).toEqual({
    status: 200,
    body: { jsonrpc: '2.0', id: 7, result: '0x3' },
  })
  expect(await post(call(8, 'eth_nonsense'))).toMatchObject({ body: { id: 8, error: { code: -32601 } } })
  expect(await post('{')).toEqual(await post('{', chain.url))
  expect(await post(7)).toEqual(await post(7, chain.url))
})

it('answers circles_query itself', async () => {
  expect(await post(call('a', 'circles_query', payments))).toMatchObject({
    status: 200,
    body: { jsonrpc: '2.0', id: 'a', result: { columns: expect.arrayContaining(['payer']), rows: [] } },
  })
  expect(await post(call(1, 'circles_query', { ...payments, table: 'Nothing' }))).toEqual({
    status: 200,
    body: { jsonrpc: '2.0', id: 1, error: { code: -32602, message: 'unknown table CrcV2_PaymentGateway.Nothing' } },
  })
  expect(await post(call(1, 'circles_query'))).toMatchObject({ body: { id: 1, error: { code: -32602 } } })
})

it('answers a batch in its order', async () => {
  const batch = [call(1, 'eth_chainId'), call(2, 'circles_query', payments), call(3, 'eth_blockNumber')]
  expect(await post(batch)).toMatchObject({
    status: 200,
    body: [
      { id: 1, result: '0x64' },
      { id: 2, result: { rows: [] } },
      { id: 3, result: '0x3' },
    ],
  })
  expect(await post([batch[0], batch[2]])).toMatchObject({ body: [{ id: 1 }, { id: 3 }] })
})

it('shows a developer what is where', async () => {
  const response = await fetch(facade.url)
  expect(await response.json()).toEqual({
    chainId: 100,
    head: 3,
    contracts: devContracts,
    currencyAvatar: devCurrencyAvatar,
  })
  expect((await fetch(`${facade.url}/ready`)).status).toBe(200)
})

it('refuses a body over 1 MiB', async () => {
  expect(await post('x'.repeat(1024 * 1024 + 1))).toMatchObject({ status: 413, body: { error: { code: -32600 } } })
})

it('says so when the node is down', async () => {
  const alone = await startFacade({ nodeUrl: `http://127.0.0.1:${await freePort()}`, port: 0 })
  try {
    expect(await post(call(5, 'eth_blockNumber'), alone.url)).toMatchObject(down(5))
    expect(await post(call(6, 'circles_query', payments), alone.url)).toMatchObject(down(6))
    expect(await post([call(6, 'circles_query', payments)], alone.url)).toMatchObject({ status: 502 })
    expect((await fetch(`${alone.url}/ready`)).status).toBe(502)
  } finally {
    await alone.stop()
  }
})
