import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { freePort } from '@market/devstack/ports'
import { type Chain, eventually, startChain } from '../test/chain.ts'

let chain: Chain
beforeAll(async () => (chain = await startChain()))
afterAll(() => chain.stop())

const program = fileURLToPath(new URL('../dist/main.js', import.meta.url))

/** The built program: Node 20 does not start TypeScript. */
function start(env: Record<string, string>) {
  const child = spawn(process.execPath, [program], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.on('data', (chunk) => (output += String(chunk)))
  return {
    child,
    ended: once(child, 'close') as Promise<[number | null]>,
    lines: () =>
      output
        .trim()
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as { msg: string }),
  }
}

async function refusal(env: Record<string, string>): Promise<string | undefined> {
  const { ended, lines } = start(env)
  expect((await ended)[0]).toBe(1)
  expect(lines()).toHaveLength(1)
  return lines()[0]?.msg
}

it.concurrent('deploys, says it is ready and stops within a second', async () => {
  const port = await freePort()
  // As a dev chain leaves it that was killed while transactions were held.
  await chain.ask('evm_setAutomine', false)
  const { child, ended, lines } = start({ NODE_URL: chain.url, PORT: `${port}` })
  await eventually(async () => lines().length > 0)
  expect(lines()).toMatchObject([{ level: 'info', service: 'dev-chain', msg: 'ready', contracts: 'deployed' }])
  expect((await fetch(`http://127.0.0.1:${port}/ready`)).status).toBe(200)

  const asked = Date.now()
  child.kill('SIGTERM')
  expect((await ended)[0]).toBe(0)
  expect(Date.now() - asked).toBeLessThan(1000)
})

it.concurrent('says in one line why it cannot start', async () => {
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as AddressInfo
  expect(await refusal({})).toMatch(/NODE_URL/)
  expect(await refusal({ NODE_URL: chain.url, DEV_CHAIN_DEPTH: 'deep' })).toMatch(/DEV_CHAIN_DEPTH.*not deep/)
  expect(await refusal({ NODE_URL: chain.url, PORT: `${port}` })).toBe(`port ${port} is in use; free it or set PORT`)
  expect(await refusal({ NODE_URL: `http://127.0.0.1:${await freePort()}` })).toMatch(/does not answer after 3 s/)
  taken.close()
})
