import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'

// A Circles indexer and node in one that answers from memory, so that the figures are the market's own. `POST /pay` adds payments
// for a run of references, `POST /mine` blocks on top.

const [port, gateway, avatar, emitter, amountWei] = process.argv.slice(2) as [string, string, string, string, string]

const POSITION = ['blockNumber', 'timestamp', 'transactionIndex', 'logIndex', 'transactionHash', 'emitter']
const PAYMENT = [...POSITION, 'payer', 'payee', 'gateway', 'tokenId', 'amount', 'data']
const TRUST = [...POSITION, 'gateway', 'trustReceiver', 'expiry']
const BEGAN = 1_700_000_000
const payments: (string | number)[][] = []
let head = 10

const hash = (kind: string, n: number) => `0x${kind}${n.toString(16).padStart(64 - kind.length, '0')}`
const referenceHex = (n: number) =>
  `0x${Buffer.from(`pay_${n.toString(16).toUpperCase().padStart(32, '0')}`).toString('hex')}`

/** Payments of the references `from` to `to`, so many a block. */
function pay({ from, to, perBlock }: { from: number; to: number; perBlock: number }) {
  for (let n = from; n <= to; n += 1) {
    const at = (n - from) % perBlock
    if (at === 0) head += 1
    const position = [head, BEGAN + head, at, at, hash('fa', n), emitter]
    payments.push([
      ...position,
      hash('', n % 1000).replace(/^0x0{24}/, '0x'),
      gateway,
      gateway,
      BigInt(avatar).toString(),
    ])
    payments.at(-1)!.push(amountWei, referenceHex(n))
  }
  return { head }
}

type Predicate = { filterType?: string; column?: string; value?: number; predicates?: Predicate[] }
type Query = { table: string; filter: Predicate[]; limit: number }

/** The position in the query's cursor: the three values of its innermost conjunction. */
function cursorOf({ filter }: Query): [number, number, number] | undefined {
  const deepest = filter.find(({ predicates }) => predicates)?.predicates?.at(-1)?.predicates
  return deepest && (deepest.map(({ value }) => Number(value)) as [number, number, number])
}

function circlesQuery(query: Query) {
  if (query.table === 'TrustUpdated') {
    const rows = cursorOf(query)
      ? []
      : [[1, BEGAN, 0, 0, hash('aa', 1), emitter, gateway, avatar, String(2n ** 96n - 1n)]]
    return { columns: TRUST, rows }
  }
  if (query.table !== 'PaymentReceived') return { columns: [...POSITION, 'owner', 'gateway'], rows: [] }
  const after = cursorOf(query) ?? [-1, 0, 0]
  let [low, high] = [0, payments.length]
  while (low < high) {
    const middle = (low + high) >> 1
    const [block, , transaction] = payments[middle] as number[]
    if (block! > after[0] || (block === after[0] && transaction! > after[1])) high = middle
    else low = middle + 1
  }
  return { columns: PAYMENT, rows: payments.slice(low, low + query.limit) }
}

function answer(method: string, [first]: unknown[] = []): unknown {
  switch (method) {
    case 'circles_query':
      return circlesQuery(first as Query)
    case 'eth_chainId':
      return '0x64'
    case 'eth_blockNumber':
      return `0x${head.toString(16)}`
    case 'eth_getBlockByNumber':
      return { number: first, hash: hash('b0', Number(first)), timestamp: `0x${(BEGAN + Number(first)).toString(16)}` }
    // The name registry: nobody has a profile.
    case 'eth_call':
      return `0x${'0'.repeat(64)}`
    case 'eth_getLogs':
      return []
    default:
      return null
  }
}

type Call = { id: number; method: string; params: unknown[] }

createServer((request, response) => {
  void json(request).then((body) => {
    const send = (value: object) => response.end(JSON.stringify(value))
    if (request.url === '/pay') return send(pay(body as Parameters<typeof pay>[0]))
    if (request.url === '/mine') return send({ head: (head += (body as { blocks: number }).blocks) })
    const reply = ({ id, method, params }: Call) => ({ jsonrpc: '2.0', id, result: answer(method, params) })
    return send(Array.isArray(body) ? body.map(reply) : reply(body as Call))
  })
}).listen(Number(port), '127.0.0.1', () => console.log('ready'))
