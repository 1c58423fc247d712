import { createGate } from '@market/kit/gate'
import { readCapped, TooLargeError } from '@market/kit/outbound'
import { PaymentSourceError } from './paymentSource.ts'

/** A page of a thousand rows is under 1 MiB; what answers with more than this is to be asked for less. */
const MAX_ANSWER_BYTES = 16 * 1024 * 1024
/** One call a request, so that it names nothing (payments.md 2). */
const ID = 1

/** Gateways by the hundred may be asked about at once; a host would take that for an attack. */
const CALLS_AT_ONCE = 16

/** `result` of one call; null when the host says so. */
export type JsonRpc = (method: string, params: unknown[]) => Promise<unknown>

/** A call without a result. Its message is safe to log: of what the host said, nothing that the URL holds is in it. */
export class RpcFailure extends PaymentSourceError {
  readonly kind: 'no_answer' | 'timeout' | 'too_long' | 'http' | 'refused' | 'garbage'
  readonly status: number | undefined
  readonly code: number | undefined

  constructor(kind: RpcFailure['kind'], message: string, { status, code }: { status?: number; code?: unknown } = {}) {
    super(message)
    this.kind = kind
    this.status = status
    this.code = typeof code === 'number' ? code : undefined
  }
}

/**
 * JSON-RPC over HTTP. A call has `timeoutMs` from its turn on, and is made once more when the network failed. With
 * `anyId`, an answer may also bear an id that is nobody's, as Circles hosts do (payments.md 2.4); never another call's.
 */
export function connectJsonRpc({
  url,
  timeoutMs,
  anyId = false,
}: {
  url: string
  timeoutMs: number
  anyId?: boolean
}): JsonRpc {
  const headers = { 'Content-Type': 'application/json', Accept: 'application/json' }
  const secrets = secretsOf(url)
  const inTurn = createGate(CALLS_AT_ONCE)

  const call: JsonRpc = async (method, params) => {
    const signal = AbortSignal.timeout(timeoutMs)
    const body = JSON.stringify({ jsonrpc: '2.0', id: ID, method, params })
    const attempt = async () => {
      const response = await fetch(url, { method: 'POST', headers, body, signal })
      const bytes = await readCapped(response, MAX_ANSWER_BYTES)
      return { ok: response.ok, status: response.status, text: new TextDecoder().decode(bytes) }
    }
    const { ok, status, text } = await attempt()
      .catch((error) => (signal.aborted || error instanceof TooLargeError ? Promise.reject(error) : attempt()))
      .catch((error) => {
        // Never the error's own words: fetch quotes the URL, which may hold a key.
        if (signal.aborted) throw new RpcFailure('timeout', `${method}: no answer within ${timeoutMs} ms`)
        if (error instanceof TooLargeError)
          throw new RpcFailure('too_long', `${method}: the answer is longer than ${MAX_ANSWER_BYTES} bytes`)
        throw new RpcFailure('no_answer', `${method}: no answer${networkCodeOf(error)}`)
      })

    const answer = parseAnswer(text)
    // Some hosts refuse a query with a status and its reason in the body.
    if (answer?.error) {
      const { code, message } = answer.error as { code?: unknown; message?: unknown }
      const said = typeof message === 'string' ? `: ${withoutSecrets(message, secrets)}` : ''
      const number = typeof code === 'number' ? ` ${code}` : ''
      const how = ok ? 'error' : `HTTP ${status}, error`
      throw new RpcFailure('refused', `${method}: ${how}${number}${said}`, { status, code })
    }
    if (!ok) throw new RpcFailure('http', `${method}: HTTP ${status}`, { status })
    if (!answer) throw new RpcFailure('garbage', `${method}: the answer is not a JSON-RPC answer`)
    if (answer.id !== ID && (!anyId || isNumber(answer.id)))
      throw new RpcFailure('garbage', `${method}: the answer is to another call`)
    if (answer.result === undefined) throw new RpcFailure('garbage', `${method}: no result`)
    return answer.result
  }
  return (method, params) => inTurn(() => call(method, params))
}

type Answer = { id?: unknown; result?: unknown; error?: unknown }

function parseAnswer(text: string): Answer | undefined {
  try {
    const answer: unknown = JSON.parse(text)
    return typeof answer === 'object' && answer !== null && !Array.isArray(answer) ? answer : undefined
  } catch {
    return undefined
  }
}

const isNumber = (id: unknown) => typeof id === 'number' || (typeof id === 'string' && /^[0-9]+$/.test(id))

/** ` (ECONNREFUSED)`, or nothing. */
function networkCodeOf(error: unknown): string {
  const { code } = ((error as { cause?: unknown })?.cause ?? error ?? {}) as { code?: unknown }
  return typeof code === 'string' && /^[A-Z_]{1,40}$/.test(code) ? ` (${code})` : ''
}

/** Whatever in the URL may be a key: its path, its query, its credentials, the labels of its host. */
function secretsOf(url: string): string[] {
  if (!URL.canParse(url)) return []
  const { username, password, pathname, search, hostname } = new URL(url)
  return [username, password, ...pathname.split('/'), ...search.split(/[?&=]/), ...hostname.split('.')]
    .flatMap((part) => [part, decode(part)])
    .filter((part) => part.length >= 8)
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

function withoutSecrets(said: string, secrets: string[]): string {
  const text = secrets.reduce((rest, secret) => rest.replaceAll(secret, '…'), said.slice(0, 2000))
  return text
    .replace(/\bhttps?:\/\/\S+/gi, '…')
    .replace(/[\p{Cc}\s]+/gu, ' ')
    .slice(0, 200)
}
