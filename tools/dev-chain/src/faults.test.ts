import type { Hex } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { type Chain, eventually, startChain } from '../test/chain.ts'
import { deployDevContracts } from './deployment.ts'
import { type Facade, startFacade } from './facade.ts'
import { clearFaults, directUrl, failedCalls, type FaultKind, payInParts, setFault } from './scenarios.ts'

let chain: Chain
let facade: Facade
beforeAll(async () => {
  chain = await startChain()
  await deployDevContracts(chain.url)
  facade = await startFacade({ nodeUrl: chain.url, port: 0 })
  const gateway = await chain.openGateway(chain.newWallet())
  const amounts = [1n, 2n, 3n, 4n]
  await payInParts(facade.url, privateKeyToAccount(generatePrivateKey()), { gateway, reference: 'faults', amounts })
})
afterEach(() => clearFaults(facade.url))
afterAll(async () => {
  await facade.stop()
  await chain.stop()
})

const call = (method: string, ...params: unknown[]) => ({ jsonrpc: '2.0', id: 1, method, params })
const payments = call('circles_query', { namespace: 'CrcV2_PaymentGateway', table: 'PaymentReceived' })
const logs = call('eth_getLogs', { fromBlock: '0x0', topics: [null, null, null] })
const head = call('eth_blockNumber')

async function post(body: unknown, { url = facade.url, signal }: { url?: string; signal?: AbortSignal } = {}) {
  const response = await fetch(url, { method: 'POST', body: JSON.stringify(body), ...(signal && { signal }) })
  return { status: response.status, text: await response.text() }
}
const answer = async (body: unknown, url?: string) => JSON.parse((await post(body, { ...(url && { url }) })).text)
const amounts = async (url?: string) => {
  const { columns, rows } = (await answer(payments, url)).result as { columns: string[]; rows: unknown[][] }
  expect(columns).toContain('amount')
  return rows.map((row) => row[columns.indexOf('amount')])
}

it('http503, cut and garbage befall the whole answer, batches too', async () => {
  for (const body of [head, [call('eth_chainId'), head]]) {
    await setFault(facade.url, { methods: ['eth_blockNumber'], fault: 'http503' })
    expect((await post(body)).status).toBe(503)
    await setFault(facade.url, { methods: ['eth_blockNumber'], fault: 'cut' })
    await expect(post(body)).rejects.toThrow('fetch failed')
    await setFault(facade.url, { methods: ['eth_blockNumber'], fault: 'garbage' })
    const { status, text } = await post(body)
    expect(status).toBe(200)
    expect(() => JSON.parse(text) as unknown).toThrow(SyntaxError)
  }
  expect(await failedCalls(facade.url)).toEqual({ eth_blockNumber: 6 })
})

it('error befalls the call it is meant for', async () => {
  await setFault(facade.url, { methods: ['circles_query', 'eth_blockNumber'], fault: 'error' })
  expect(await answer([call('eth_chainId'), head, payments])).toEqual([
    { jsonrpc: '2.0', id: 1, result: '0x64' },
    { jsonrpc: '2.0', id: 1, error: { code: -32000, message: 'fails on purpose' } },
    { jsonrpc: '2.0', id: 1, error: { code: -32000, message: 'fails on purpose' } },
  ])
  expect(await answer(head)).toMatchObject({ error: { code: -32000 } })
})

it('empty leaves columns and no rows', async () => {
  await setFault(facade.url, { methods: ['*'], fault: 'empty' })
  expect(await amounts()).toEqual([])
  expect(await answer([logs, call('eth_getTransactionReceipt', `0x${'0'.repeat(64)}`)])).toMatchObject([
    { result: [] },
    { result: null },
  ])
})

it('truncate leaves out every other row, then the others', async () => {
  const all = ((await answer(logs)) as { result: { logIndex: Hex; blockNumber: Hex }[] }).result
  expect(all.length).toBeGreaterThan(4)
  await setFault(facade.url, { methods: ['circles_query'], fault: 'truncate' })
  expect([await amounts(), await amounts(), await amounts()]).toEqual([
    ['2', '4'],
    ['1', '3'],
    ['2', '4'],
  ])
  await setFault(facade.url, { methods: ['eth_getLogs'], fault: 'truncate' })
  expect(await answer(logs)).toMatchObject({ result: all.filter((_, i) => i % 2 === 1) })
})

it('lieHead names a head that is not there, ahead or behind', async () => {
  const real = await chain.head()
  const latest = call('eth_getBlockByNumber', 'latest', false)
  const byNumber = call('eth_getBlockByNumber', `0x${real.toString(16)}`, false)
  const told = async () => {
    const [number, block, asked, id] = (await answer([head, latest, byNumber, call('eth_chainId')])) as {
      result: any
    }[]
    expect([Number(asked!.result.number), id!.result]).toEqual([real, '0x64'])
    return [Number(number!.result), Number(block!.result.number)]
  }
  await setFault(facade.url, { methods: ['*'], fault: 'lieHead' })
  expect(await told()).toEqual([real + 1_000_000, real + 1_000_000])
  await setFault(facade.url, { methods: ['*'], fault: 'lieHead', blocks: -2 })
  expect(await told()).toEqual([real - 2, real - 2])
})

it('stall answers once it is over, and not to those who have gone', async () => {
  await setFault(facade.url, { methods: ['eth_blockNumber'], fault: 'stall', times: 2 })
  const waiting = post(head)
  const gone = new AbortController()
  const leaving = expect(post([payments, head], { signal: gone.signal })).rejects.toThrow('aborted')
  await eventually(async () => (await failedCalls(facade.url)).eth_blockNumber === 2)
  expect(await post(head)).toMatchObject({ status: 200 })
  gone.abort()
  await leaving
  expect(await Promise.race([waiting, post(call('eth_chainId')).then(() => 'still waiting')])).toBe('still waiting')
  expect(await clearFaults(facade.url)).toEqual({ eth_blockNumber: 2 })
  expect(JSON.parse((await waiting).text)).toMatchObject({ result: `0x${(await chain.head()).toString(16)}` })
})

it('ends after its time, its calls or when it is cleared', async () => {
  await setFault(facade.url, { methods: ['eth_blockNumber'], fault: 'http503', times: 2 })
  expect((await post([head, head])).status).toBe(503)
  expect((await post(head)).status).toBe(200)

  await setFault(facade.url, { methods: ['eth_blockNumber'], fault: 'stall', forMs: 50 })
  expect((await post(head)).status).toBe(200)
  expect((await post(head)).status).toBe(200)
  expect(await failedCalls(facade.url)).toEqual({ eth_blockNumber: 3 })

  await setFault(facade.url, { methods: ['*'], fault: 'http503' })
  expect(await clearFaults(facade.url)).toEqual({ eth_blockNumber: 3 })
  expect((await post(head)).status).toBe(200)
  expect(await failedCalls(facade.url)).toEqual({})
})

it('the last set comes first, and nothing befalls whoever comes by the direct way', async () => {
  await setFault(facade.url, { methods: ['*'], fault: 'http503' })
  await setFault(facade.url, { methods: ['eth_blockNumber'], fault: 'error', times: 1 })
  expect(await post(head)).toMatchObject({ status: 200 })
  expect(await post(head)).toMatchObject({ status: 503 })
  expect(await amounts(directUrl(facade.url))).toEqual(['1', '2', '3', '4'])
  expect(await answer(head, directUrl(facade.url))).toMatchObject({ result: stringMatchingHex })
  // A developer with nothing but curl gets out of it, too.
  expect(await answer(call('dev_clearFaults'))).toMatchObject({ result: { eth_blockNumber: 2 } })
})

it('refuses a fault that it does not know', async () => {
  const refused = (options: unknown) => answer(call('dev_setFault', options)).then(({ error }) => error as unknown)
  const invalid = (message: string) => ({ code: -32602, message: expect.stringContaining(message) })
  expect(await refused(undefined)).toEqual(invalid('methods is no list'))
  expect(await refused({ methods: [], fault: 'cut' })).toEqual(invalid('methods is no list'))
  expect(await refused({ methods: ['*'], fault: 'rot' satisfies string as FaultKind })).toEqual(invalid('fault rot'))
  expect(await refused({ methods: ['*'], fault: 'cut', times: 0 })).toEqual(invalid('times'))
  expect(await refused({ methods: ['*'], fault: 'cut', forMs: '5' })).toEqual(invalid('forMs'))
  expect(await refused({ methods: ['*'], fault: 'lieHead', blocks: 0.5 })).toEqual(invalid('blocks'))
  expect((await post(head)).status).toBe(200)
})

const stringMatchingHex = expect.stringMatching(/^0x[0-9a-f]+$/) as unknown
