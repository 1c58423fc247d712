import { once } from 'node:events'
import { createServer } from 'node:net'
import { expect, it } from 'vitest'
import { assertPortFree, freePort } from './ports.ts'

it.each(['127.0.0.1', '0.0.0.0', undefined])(
  'names who wants the port and how to change it (taken on %s)',
  async (host) => {
    const port = await freePort()
    await assertPortFree(port, 'market-api', 'MARKET_API_PORT')
    const server = createServer().listen(port, host)
    await once(server, 'listening')
    await expect(assertPortFree(port, 'market-api', 'MARKET_API_PORT')).rejects.toThrow(
      `port ${port} (market-api) is in use; stop what listens there or set MARKET_API_PORT`,
    )
    server.close()
  },
)

it('gives each of many callers a port of their own, none of them one that the kernel gives to connections', async () => {
  const ports = await Promise.all(Array.from({ length: 50 }, freePort))
  expect(new Set(ports).size).toBe(50)
  expect(Math.max(...ports)).toBeLessThan(32_768)
})
