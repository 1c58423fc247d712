import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

export type RpcProxy = { url: string; stop(): Promise<void> }

const CONTROL = '/control/'
const READS = /"eth_(call|getCode)"/

/**
 * A chain node's JSON-RPC, except that reads which name certain addresses fail: not as a revert, which would be an answer, but
 * as a node does that has lost its state. See `failReads`.
 */
export async function startRpcProxy(target: string): Promise<RpcProxy> {
  const failing = new Set<string>()
  const server = createServer((request, response) => {
    const answer = async () => {
      const chunks: Buffer[] = []
      for await (const chunk of request) chunks.push(chunk as Buffer)
      const body = Buffer.concat(chunks).toString()
      if (request.url?.startsWith(CONTROL)) {
        const address = request.url.slice(CONTROL.length)
        if (request.method === 'PUT') failing.add(address)
        else failing.delete(address)
        return response.end('{}')
      }
      const text = body.toLowerCase()
      if (READS.test(body) && [...failing].some((address) => text.includes(address.slice(2)))) {
        const call: unknown = JSON.parse(body)
        const refuse = (one: unknown) => ({
          jsonrpc: '2.0',
          id: (one as { id?: unknown }).id ?? null,
          error: { code: -32000, message: 'missing trie node' },
        })
        response.setHeader('content-type', 'application/json')
        return response.end(JSON.stringify(Array.isArray(call) ? call.map(refuse) : refuse(call)))
      }
      const answered = await fetch(target + (request.url === '/' ? '' : request.url), {
        method: request.method!,
        headers: { 'content-type': 'application/json' },
        ...(request.method === 'GET' ? {} : { body }),
      })
      response.writeHead(answered.status, { 'content-type': 'application/json' }).end(await answered.text())
    }
    answer().catch(() => request.socket.destroy())
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async stop() {
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
  }
}

/** From now on, or no longer, reads about this address fail at a proxy that may run in another process. */
export async function failReads(proxyUrl: string, address: string, fail: boolean): Promise<void> {
  const response = await fetch(`${proxyUrl}${CONTROL}${address.toLowerCase()}`, { method: fail ? 'PUT' : 'DELETE' })
  await response.text()
}
