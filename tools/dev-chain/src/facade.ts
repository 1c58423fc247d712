import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { circlesQuery } from './circlesQuery.ts'
import { devContracts, devCurrencyAvatar } from './deployment.ts'
import { askNode, forwardToNode, NodeDownError, RpcError } from './node.ts'

export interface Facade {
  url: string
  stop(): Promise<void>
}

interface Reply {
  status: number
  body: string
}

const BODY_LIMIT_BYTES = 1024 * 1024

/** The node and, in front of it, the one method a Circles host has and a node has not. */
export async function startFacade({ nodeUrl, port }: { nodeUrl: string; port: number }): Promise<Facade> {
  const server = createServer((request, response) => {
    answer(nodeUrl, request).then(
      (reply) => send(response, reply),
      (error: unknown) => send(response, failure(null, error)),
    )
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop: async () => {
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
  }
}

async function answer(nodeUrl: string, request: IncomingMessage): Promise<Reply> {
  if (request.method === 'OPTIONS') return { status: 204, body: '' }
  if (request.method === 'POST') return answerRpc(nodeUrl, request)
  if (request.method !== 'GET') return json(405, { error: 'GET or POST' })
  if (request.url === '/') return json(200, await describeChain(nodeUrl))
  if (request.url === '/ready') {
    await askNode(nodeUrl, 'eth_blockNumber')
    return json(200, { status: 'ready' })
  }
  return json(404, { error: 'GET /, GET /ready, or POST JSON-RPC' })
}

async function describeChain(nodeUrl: string) {
  const [chainId, head] = await Promise.all([
    askNode<string>(nodeUrl, 'eth_chainId'),
    askNode<string>(nodeUrl, 'eth_blockNumber'),
  ])
  return {
    chainId: Number(chainId),
    head: Number(head),
    contracts: devContracts,
    currencyAvatar: devCurrencyAvatar,
  }
}

async function answerRpc(nodeUrl: string, request: IncomingMessage): Promise<Reply> {
  const body = await readBody(request)
  if (!body) return failure(null, new RpcError(-32600, 'the body is larger than 1 MiB'), 413)

  const call = parse(body)
  return Array.isArray(call) && call.some(isCirclesQuery) ? answerBatch(nodeUrl, call) : answerCall(nodeUrl, call, body)
}

/** One after the other, because a batch may hold transactions whose order matters. */
async function answerBatch(nodeUrl: string, calls: unknown[]): Promise<Reply> {
  const replies: Reply[] = []
  for (const call of calls) replies.push(await answerCall(nodeUrl, call, JSON.stringify(call)))
  const answers = replies.map(({ body }) => body).filter(Boolean) // a notification has none
  return { status: Math.max(...replies.map(({ status }) => status)), body: `[${answers.join(',')}]` }
}

async function answerCall(nodeUrl: string, call: unknown, body: string | Buffer<ArrayBuffer>): Promise<Reply> {
  try {
    if (!isCirclesQuery(call)) return await forwardToNode(nodeUrl, body)
    const [query] = Array.isArray(call.params) ? (call.params as unknown[]) : []
    return json(200, { jsonrpc: '2.0', id: idOf(call), result: await circlesQuery(nodeUrl, query) })
  } catch (error) {
    return failure(idOf(call), error)
  }
}

interface CirclesQuery {
  method: 'circles_query'
  params?: unknown
}

const isCirclesQuery = (call: unknown): call is CirclesQuery =>
  (call as { method?: unknown } | null | undefined)?.method === 'circles_query'

const idOf = (call: unknown): unknown => (call as { id?: unknown } | null | undefined)?.id ?? null

/** What is no JSON goes to the node as it came, for the node to refuse. */
function parse(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString())
  } catch {
    return undefined
  }
}

async function readBody(request: IncomingMessage): Promise<Buffer<ArrayBuffer> | undefined> {
  const chunks: Buffer[] = []
  let size = 0
  // Reads to the end even when it is too long: whoever stops reading cannot answer any more.
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size <= BODY_LIMIT_BYTES) chunks.push(chunk)
  }
  return size <= BODY_LIMIT_BYTES ? Buffer.concat(chunks) : undefined
}

const json = (status: number, value: unknown): Reply => ({ status, body: JSON.stringify(value) })

function failure(id: unknown, error: unknown, status = error instanceof NodeDownError ? 502 : 200): Reply {
  const { code, message } = error instanceof RpcError ? error : new RpcError(-32603, String(error))
  return json(status, { jsonrpc: '2.0', id, error: { code, message } })
}

function send(response: ServerResponse, { status, body }: Reply): void {
  response.writeHead(status, {
    'content-type': 'application/json',
    // Like anvil itself: a shop under development is a page on another port.
    'access-control-allow-origin': '*',
    'access-control-allow-headers': '*',
  })
  response.end(body)
}
