import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished } from 'vitest'

export type Call = { method: string; path: string; headers: IncomingMessage['headers']; body: string }
/** What it returns is the answer as JSON, unless the response was taken care of: a header sent, or the connection cut. */
export type Answer = (call: Call, response: ServerResponse, count: number) => unknown

/** A real HTTP server for one test. `calls` are all it got, in their order. */
export async function startServer(answer: Answer): Promise<{ url: string; calls: Call[] }> {
  const calls: Call[] = []
  const server = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += String(chunk)
    const call = { method: request.method!, path: request.url!, headers: request.headers, body }
    calls.push(call)
    const said = await answer(call, response, calls.length)
    if (response.destroyed || response.headersSent) return
    response.writeHead(200, { 'content-type': 'application/ld+json; charset=utf-8' }).end(JSON.stringify(said))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, calls }
}

export function refuse(response: ServerResponse, status: number, body: object = {}, headers: object = {}): void {
  response.writeHead(status, { 'content-type': 'application/ld+json; charset=utf-8', ...headers })
  response.end(JSON.stringify(body))
}
