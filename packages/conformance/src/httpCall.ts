import { type ClientRequest, type IncomingHttpHeaders, request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'

export type Call = {
  method: 'GET' | 'POST'
  /** From the adapter's base URL on, percent-encoded. */
  path: string
  headers: Record<string, string>
  body?: string | Buffer
}

export type Answer = {
  status: number
  headers: IncomingHttpHeaders
  text: string
  /** Undefined when the body isn't JSON. */
  json: unknown
  bytes: number
  ms: number
}

/** The connection ended, or the time was over, before the whole answer was there. */
export class NoAnswerError extends Error {
  /** The connection never came about, so the request was not seen. */
  readonly unseen: boolean

  constructor(message: string, unseen = false) {
    super(message)
    this.name = 'NoAnswerError'
    this.unseen = unseen
  }
}

/** More than any answer may have; the rest isn't worth the memory. */
const MAX_READ_BYTES = 4 * 1024 * 1024

/**
 * A request on a connection of its own whose body the caller writes, or leaves unfinished. Nothing is followed or retried.
 * Without a body the caller says its length in a header.
 */
export function openCall(base: string, { method, path, headers }: Omit<Call, 'body'>): ClientRequest {
  const url = new URL(base.replace(/\/+$/, ''))
  const open = url.protocol === 'https:' ? httpsRequest : httpRequest
  const request = open({
    protocol: url.protocol,
    hostname: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port,
    // As it stands: a URL object would resolve dots and encode again.
    path: `${url.pathname.replace(/\/$/, '')}${path}`,
    method,
    headers,
    agent: false,
  })
  // Whoever waits for the answer is told by it; one that was broken off on purpose is nobody's concern.
  request.on('error', () => {})
  return request
}

/** @throws NoAnswerError */
export async function call(base: string, asked: Call, timeoutMs: number): Promise<Answer> {
  const body = asked.body === undefined ? undefined : Buffer.from(asked.body)
  const started = performance.now()
  const request = openCall(base, {
    ...asked,
    headers: { ...asked.headers, ...(body ? { 'Content-Length': String(body.length) } : {}) },
  })
  const timer = setTimeout(
    () => request.destroy(new Error(`no answer within ${Math.round(timeoutMs)} ms`)),
    timeoutMs,
  )
  try {
    const answer = answerOf(request, started)
    request.end(body)
    return await answer
  } finally {
    clearTimeout(timer)
  }
}

function answerOf(request: ClientRequest, started: number): Promise<Answer> {
  return new Promise((resolve, reject) => {
    request.once('error', (error: NodeJS.ErrnoException) => {
      const unseen = error.code === 'ECONNREFUSED' || error.code === 'ENOTFOUND' || error.code === 'EAI_AGAIN'
      reject(new NoAnswerError(error.message || error.code || 'the connection failed', unseen))
    })
    request.once('response', (response) => {
      const chunks: Buffer[] = []
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes <= MAX_READ_BYTES) chunks.push(chunk)
      })
      response.once('error', (error) => reject(new NoAnswerError(error.message)))
      response.once('end', () => {
        const text = Buffer.concat(chunks).toString()
        const ms = performance.now() - started
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text, json: parsed(text), bytes, ms })
      })
    })
  })
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
