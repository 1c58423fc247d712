/** A refusal on the wire: `{ code, message }` of JSON-RPC. */
export class RpcError extends Error {
  readonly code: number

  constructor(code: number, message: string) {
    super(message)
    this.code = code
  }
}

/** The node said nothing, or nothing that is JSON-RPC. */
export class NodeDownError extends RpcError {
  constructor(nodeUrl: string, cause: unknown) {
    super(-32000, `the node at ${nodeUrl} does not answer`)
    this.cause = cause
  }
}

export const invalidParams = (message: string) => new RpcError(-32602, message)

export async function askNode<T>(
  nodeUrl: string,
  method: string,
  params: unknown[] = [],
  signal?: AbortSignal,
): Promise<T> {
  const answer = await forwardToNode(nodeUrl, JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }), signal)
  const { result, error } = parseAnswer<T>(nodeUrl, answer.body)
  if (error) throw new RpcError(error.code, error.message)
  return result
}

export async function forwardToNode(nodeUrl: string, body: string | Buffer<ArrayBuffer>, signal?: AbortSignal) {
  const timeout = AbortSignal.timeout(10_000)
  try {
    const response = await fetch(nodeUrl, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    })
    return { status: response.status, body: await response.text() }
  } catch (error) {
    throw new NodeDownError(nodeUrl, error)
  }
}

function parseAnswer<T>(nodeUrl: string, body: string) {
  try {
    return JSON.parse(body) as { result: T; error?: { code: number; message: string } }
  } catch (error) {
    throw new NodeDownError(nodeUrl, error)
  }
}
