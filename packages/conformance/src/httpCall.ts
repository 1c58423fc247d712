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
  /** `unseen`: the connection never came about. `cut`: it broke. `late`: we broke it off. */
  readonly how: 'unseen' | 'cut' | 'late'

  constructor(message: string, how: NoAnswerError['how']) {
    super(message)
    this.name = 'NoAnswerError'
    this.how = how
  }
}

const UNREACHED = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'])

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
  let late = false
  const timer = setTimeout(() => {
    late = true
    request.destroy(new Error())
  }, timeoutMs)
  try {
    const answer = answerOf(request, started)
    request.end(body)
    return await answer
  } catch (error) {
    // What broke off on our side looks like any other end to the rest of this file.
    throw late ? new NoAnswerError(`no answer within ${Math.round(timeoutMs)} ms`, 'late') : error
  } finally {
    clearTimeout(timer)
  }
}

function answerOf(request: ClientRequest, started: number): Promise<Answer> {
  return new Promise((resolve, reject) => {
    request.once('error', (error: NodeJS.ErrnoException) => {
      const how = UNREACHED.has(error.code ?? '') ? 'unseen' : 'cut'
      reject(new NoAnswerError(error.message || error.code || 'the connection failed', how))
    })
    request.once('response', (response) => {
      const chunks: Buffer[] = []
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes <= MAX_READ_BYTES) chunks.push(chunk)
      })
      response.once('error', (error) => reject(new NoAnswerError(error.message, 'cut')))
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
