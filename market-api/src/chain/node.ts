import { createGate } from '@market/kit/gate'
import { readCapped } from '@market/kit/outbound'

/** The node did not answer, or with something that is no answer. Its message holds nothing from upstream. */
export class NodeError extends Error {
  readonly timedOut: boolean

  constructor(message: string, options?: ErrorOptions & { timedOut?: boolean }) {
    super(message, options)
    this.timedOut = options?.timedOut ?? false
  }
}

/** The contract was run and gave no answer. */
export class ExecutionError extends NodeError {}

/** One JSON-RPC call. `signal` ends it early; without one it has the node's own time. */
export type AskNode = (method: string, params: unknown[], signal?: AbortSignal) => Promise<unknown>

/** catalog.md 4.7. */
const CALLS_AT_ONCE = 32
/** A contract has at most 24 KiB of code; what answers with more than this is no node. */
const MAX_ANSWER_BYTES = 256 * 1024

/**
 * JSON-RPC, one call a request: in a batch, one contract that computes for seconds would hold up the answers to others.
 * Of more than `callsAtOnce`, `maxWaiting` wait their turn; the rest is refused with 503.
 */
export function connectNode({
  rpcUrl,
  timeoutMs,
  callsAtOnce = CALLS_AT_ONCE,
  maxWaiting,
}: {
  rpcUrl: string
  timeoutMs: number
  callsAtOnce?: number
  maxWaiting?: number
}): AskNode {
  const inTurn = createGate(callsAtOnce, maxWaiting)
  let lastId = 0
  // A signal counts the wait for a turn as well: when the node hangs, nobody waits for more than one time-out.
  return (method, params, signal = AbortSignal.timeout(timeoutMs)) => {
    const id = (lastId += 1)
    const body = JSON.stringify({ jsonrpc: '2.0', id, method, params })
    return inTurn(async () => resultOf(await post(rpcUrl, body, signal, method), id, method))
  }
}

/** Lower case. */
export function hexOf(result: unknown): string {
  if (typeof result === 'string' && /^0x[0-9a-f]*$/i.test(result)) return result.toLowerCase()
  throw new NodeError('the answer is not hex')
}

export function numberOf(result: unknown): bigint {
  if (typeof result === 'string' && /^0x[0-9a-f]{1,16}$/i.test(result)) return BigInt(result)
  throw new NodeError('the answer is not a number')
}

/** geth, Nethermind, Erigon, Besu, reth and anvil, for a revert and for what else ends a contract before its time. */
const EXECUTION_ENDED =
  /revert|opcode|bad ?instruction|out ?of ?gas|stack ?(under|over)flow|(invalid|bad) ?jump|write protection|evm error/i

async function post(url: string, body: string, signal: AbortSignal, method: string): Promise<string> {
  const headers = { 'Content-Type': 'application/json', Accept: 'application/json' }
  const attempt = async () => {
    const response = await fetch(url, { method: 'POST', headers, body, signal })
    return { status: response.status, bytes: await readCapped(response, MAX_ANSWER_BYTES) }
  }
  const { status, bytes } = await attempt()
    // Once more, for the connection that the node closed while it was idle.
    .catch((error) => (signal.aborted ? Promise.reject(error) : attempt()))
    .catch((error) => {
      const timedOut = signal.aborted
      throw new NodeError(`${method}: ${timedOut ? 'no answer in time' : 'no answer'}`, { cause: error, timedOut })
    })
  if (status !== 200) throw new NodeError(`${method}: HTTP ${status}`)
  return new TextDecoder().decode(bytes)
}

function resultOf(text: string, id: number, method: string): unknown {
  let answer: { id?: unknown; result?: unknown; error?: { code?: unknown; message?: unknown; data?: unknown } } | null
  try {
    answer = JSON.parse(text)
  } catch {
    throw new NodeError(`${method}: the answer is not JSON`)
  }
  // Without the id, an answer mixed up on its way could vouch for another signature.
  if (answer?.id !== id) throw new NodeError(`${method}: the answer is to another call`)
  const { error, result } = answer
  if (!error) return result
  const { code, message, data } = error
  const said = [message, data].filter((part) => typeof part === 'string').join(' ')
  if (code === 3 || EXECUTION_ENDED.test(said)) throw new ExecutionError(`${method}: the contract gave up`)
  throw new NodeError(`${method}: error ${typeof code === 'number' ? code : 'without a code'}`)
}
