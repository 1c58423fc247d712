import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Anvil, startAnvil } from './anvil.ts'
import { freePort } from './ports.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'devstack-anvil-'))
})
afterAll(() => rm(dir, { recursive: true, force: true }))

async function call(anvil: Anvil, method: string, ...params: unknown[]): Promise<unknown> {
  const response = await fetch(anvil.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
  })
  return ((await response.json()) as { result: unknown }).result
}

it('keeps the chain over a stop and a start', async () => {
  const statePath = join(dir, 'kept', 'chain.json')
  const to = `0x${'12'.repeat(20)}`
  const first = await startAnvil({ port: await freePort(), statePath })
  const [from] = (await call(first, 'eth_accounts')) as string[]
  const hash = await call(first, 'eth_sendTransaction', { from, to, value: '0x2a' })
  // A transaction that is not in a block yet is not part of the state.
  await expect.poll(() => call(first, 'eth_getTransactionReceipt', hash)).toMatchObject({ status: '0x1' })
  await first.stop()
  expect(await first.exited).toEqual({ code: 0, signal: null })

  const second = await startAnvil({ port: await freePort(), statePath })
  expect(await call(second, 'eth_chainId')).toBe('0x64')
  expect(await call(second, 'eth_getBalance', to, 'latest')).toBe('0x2a')
  expect(await call(second, 'eth_getTransactionReceipt', hash)).toMatchObject({ status: '0x1', blockNumber: '0x1' })
  await second.stop()
})

it('says that its process was killed', async () => {
  const anvil = await startAnvil({ port: await freePort(), chainId: 31337 })
  expect(await call(anvil, 'eth_chainId')).toBe('0x7a69')
  process.kill(anvil.pid, 'SIGKILL')
  expect(await anvil.exited).toEqual({ code: null, signal: 'SIGKILL' })
})

it.each(['', '{"block":', '{}'])('says which file to delete when the state is damaged: %j', async (text) => {
  const statePath = join(dir, 'damaged.json')
  await writeFile(statePath, text)
  await expect(startAnvil({ port: await freePort(), statePath })).rejects.toThrow(
    `the chain's state file ${statePath} is damaged; delete that file to begin a new chain`,
  )
  expect(await readFile(statePath, 'utf8')).toBe(text)
})

it('says who wants a port that is in use, and that a state file cannot be written', async () => {
  const port = await freePort()
  const server = createServer().listen(port, '127.0.0.1')
  await expect(startAnvil({ port, portVariable: 'MARKET_CHAIN_PORT' })).rejects.toThrow(
    `port ${port} (anvil) is in use; stop what listens there or set MARKET_CHAIN_PORT`,
  )
  server.close()
  await writeFile(join(dir, 'file'), '')
  await expect(startAnvil({ port: await freePort(), statePath: join(dir, 'file', 'chain.json') })).rejects.toThrow(
    'is not writable',
  )
})
