import { startLocalServer } from './localServer.ts'

export type RpcProxy = { url: string; stop(): Promise<void> }

const CONTROL = '/control/'
const READS = /"eth_(call|getCode)"/

type Call = { id?: unknown; method?: string; params?: unknown[] }
type Reply = { id?: unknown }

const listCalls = (body: string) => [JSON.parse(body) as Call | Call[]].flat()

/** The account whose code or word is asked for. */
function readOf({ method, params: [first] = [] }: Call): string {
  const account = method === 'eth_getCode' ? first : method === 'eth_call' && (first as { to?: unknown } | null)?.to
  return String(account).toLowerCase()
}

function refuse(lost: Call[], replies: Reply | Reply[]): string {
  const error = { code: -32000, message: 'missing trie node' }
  const refused = (reply: Reply) =>
    lost.some(({ id }) => id === reply.id) ? { jsonrpc: '2.0', id: reply.id, error } : reply
  return JSON.stringify(Array.isArray(replies) ? replies.map(refused) : refused(replies))
}

/**
 * A chain node's JSON-RPC, except that reads of certain accounts fail: not as a revert, which would be an answer, but as a node
 * does that has lost its state. See `failReads`.
 */
export async function startRpcProxy(target: string): Promise<RpcProxy> {
  const failing = new Set<string>()
  return startLocalServer((request, response) => {
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
      const answered = await fetch(target + (request.url === '/' ? '' : request.url), {
        method: request.method!,
        headers: { 'content-type': 'application/json' },
        ...(request.method === 'GET' ? {} : { body }),
      })
      const lost = READS.test(body) ? listCalls(body).filter((call) => failing.has(readOf(call))) : []
      response.writeHead(answered.status, { 'content-type': 'application/json' })
      response.end(lost.length === 0 ? await answered.text() : refuse(lost, (await answered.json()) as Reply | Reply[]))
    }
    answer().catch(() => request.socket.destroy())
  })
}

/** From now on, or no longer, reads of this account fail at a proxy that may run in another process. */
export async function failReads(proxyUrl: string, address: string, fail: boolean): Promise<void> {
  const response = await fetch(`${proxyUrl}${CONTROL}${address.toLowerCase()}`, { method: fail ? 'PUT' : 'DELETE' })
  await response.text()
}
