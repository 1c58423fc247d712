import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { circlesQuery } from './circlesQuery.ts'
import { devContracts, devCurrencyAvatar } from './deployment.ts'
import { type DevMethod, devMethods } from './devMethods.ts'
import { DIRECT_PATH, falsify, type Fault, type FaultKind, type Faults, keepFaults } from './faults.ts'
import type { Miner } from './mining.ts'
import { controlMining } from './miningMode.ts'
import { askNode, forwardToNode, NodeDownError, RpcError } from './node.ts'

export interface Facade {
  url: string
  stop(): Promise<void>
}

interface Reply {
  status: number
  body: string
}

interface Chain {
  nodeUrl: string
  faults: Faults
  /** Those that a node has not. */
  methods: ReadonlyMap<string, DevMethod>
}

interface Call {
  call: unknown
  fault: Fault | undefined
}

const BODY_LIMIT_BYTES = 1024 * 1024

/** Of faults that befall the whole answer, not one call in a batch; `cut` has none. */
const brokenAnswers = new Map<FaultKind, Reply | undefined>([
  ['http503', { status: 503, body: '{"error":"fails on purpose"}' }],
  ['garbage', { status: 200, body: '<html>fails on purpose</html>' }],
  ['cut', undefined],
])

/**
 * The node and, in front of it, the one method a Circles host has and a node has not, with those that script the chain. The
 * miner is theirs to pause.
 */
export async function startFacade({
  nodeUrl,
  port,
  miner,
}: {
  nodeUrl: string
  port: number
  miner?: Miner
}): Promise<Facade> {
  const faults = keepFaults()
  const mining = controlMining(nodeUrl, miner)
  const circles: [string, DevMethod] = ['circles_query', ([query]) => circlesQuery(nodeUrl, query)]
  const chain: Chain = { nodeUrl, faults, methods: new Map([circles, ...devMethods(nodeUrl, faults, mining)]) }
  const server = createServer((request, response) => {
    answer(chain, request, response).then(
      (reply) => (reply ? send(response, reply) : response.destroy()),
      (error: unknown) => send(response, failure(null, error)),
    )
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop: async () => {
      mining.stop()
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
  }
}

/** Undefined = none at all. */
async function answer(chain: Chain, request: IncomingMessage, response: ServerResponse): Promise<Reply | undefined> {
  if (request.method === 'OPTIONS') return { status: 204, body: '' }
  if (request.method === 'POST') return answerRpc(chain, request, response)
  if (request.method !== 'GET') return json(405, { error: 'GET or POST' })
  if (request.url === '/') return json(200, await describeChain(chain.nodeUrl))
  if (request.url === '/ready') {
    await askNode(chain.nodeUrl, 'eth_blockNumber')
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

async function answerRpc(chain: Chain, request: IncomingMessage, response: ServerResponse): Promise<Reply | undefined> {
  const body = await readBody(request)
  if (!body) return failure(null, new RpcError(-32600, 'the body is larger than 1 MiB'), 413)

  const parsed = parse(body)
  const isDirect = request.url === DIRECT_PATH
  const calls = (Array.isArray(parsed) ? (parsed as unknown[]) : [parsed]).map((call): Call => {
    return { call, fault: isDirect ? undefined : chain.faults.take(methodOf(call)) }
  })
  await stalled(calls, response)
  const broken = calls.find(({ fault }) => fault && brokenAnswers.has(fault.kind))?.fault
  if (broken) return brokenAnswers.get(broken.kind)

  if (!Array.isArray(parsed)) return answerCall(chain, calls[0]!, body)
  return calls.some(({ call, fault }) => fault || chain.methods.has(methodOf(call)))
    ? answerBatch(chain, calls)
    : answerCall(chain, { call: parsed, fault: undefined }, body)
}

/** Until the faults are over, or whoever asks has gone. */
async function stalled(calls: Call[], response: ServerResponse): Promise<void> {
  const over = calls.flatMap(({ fault }) => (fault?.kind === 'stall' ? [fault.over] : []))
  if (over.length > 0 && !response.closed) await Promise.race([Promise.all(over), once(response, 'close')])
}

/** One after the other, because a batch may hold transactions whose order matters. */
async function answerBatch(chain: Chain, calls: Call[]): Promise<Reply> {
  const replies: Reply[] = []
  for (const call of calls) replies.push(await answerCall(chain, call, JSON.stringify(call.call)))
  const answers = replies.map(({ body }) => body).filter(Boolean) // a notification has none
  return { status: Math.max(...replies.map(({ status }) => status)), body: `[${answers.join(',')}]` }
}

async function answerCall(
  { nodeUrl, methods }: Chain,
  { call, fault }: Call,
  body: string | Buffer<ArrayBuffer>,
): Promise<Reply> {
  try {
    const method = methods.get(methodOf(call))
    const reply = method ? await answerOurselves(method, call) : await forwardToNode(nodeUrl, body)
    return fault ? { ...reply, body: falsify(fault, call, reply.body) } : reply
  } catch (error) {
    return failure(idOf(call), error)
  }
}

async function answerOurselves(method: DevMethod, call: unknown): Promise<Reply> {
  const { params } = call as { params?: unknown }
  const result = await method(Array.isArray(params) ? (params as unknown[]) : [])
  return json(200, { jsonrpc: '2.0', id: idOf(call), result: result ?? null })
}

const methodOf = (call: unknown): string => String((call as { method?: unknown } | null | undefined)?.method)
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
