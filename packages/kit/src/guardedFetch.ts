import { lookup } from 'node:dns/promises'
import * as http from 'node:http'
import * as https from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import { UpstreamError } from './errors.ts'
import { TooLargeError } from './outbound.ts'
import { isPublicAddress } from './publicAddress.ts'
import { TimeoutError, withTimeout } from './timeout.ts'

export type GuardedFetchOptions = {
  /**
   * Headers by configured origin, the service key among them. Only these origins may be private, only they get the
   * headers, and what they redirect to is never followed.
   */
  configured: ReadonlyMap<string, Readonly<Record<string, string>>>
  maxRedirects: number
  maxResponseBytes: number
  /** All addresses of a host that is not configured. Tests answer for hosts that nobody has. */
  resolve?: (host: string) => Promise<string[]>
  /** Where a vetted address is reached. Tests put public addresses on this machine. */
  dial?: (address: string) => string
}

export type GuardedRequest = {
  method?: 'GET' | 'POST'
  headers?: Readonly<Record<string, string>>
  body?: string
  /** For everything together: names, redirects, the whole body. */
  timeoutMs: number
  /** Any other origin is blocked. */
  configuredOnly?: boolean
  /** It may be sent twice: GET always may, and what carries an idempotency key. */
  repeatable?: boolean
}

export type GuardedAnswer = { status: number; text: string }

export type GuardedFetch = (url: string, request: GuardedRequest) => Promise<GuardedAnswer>

/** A call to somebody else that came to nothing; `details.detail` says how, and names no host or address. */
export class OutboundError extends UpstreamError {
  override readonly details: { detail: string }

  constructor(code: string, title: string, detail: string, options?: ErrorOptions & { timeout?: boolean }) {
    super(code, title, options)
    this.details = { detail }
  }
}

type Sent = GuardedAnswer & { location: string | undefined }

const REDIRECTS = new Set([301, 302, 303, 307, 308])
/** Kept open between calls this long, at most. */
const IDLE_MS = 15_000

/**
 * HTTP to URLs that come from rows, not from configuration (market-api.md 8.1, W-32). An origin that is not configured is
 * looked up once, refused when any of its addresses is not public, and connected to at the very addresses that were looked
 * at; the same again for each redirect. Redirects are followed for GET only: a body is never sent on.
 *
 * @throws OutboundError 504 `upstream_timeout`; 502 `upstream_blocked`, `upstream_too_large`, `upstream_redirects`,
 *   `upstream_invalid_url`, `upstream_unreachable`. Any status of the upstream's is an answer, not an error.
 */
export function createGuardedFetch(options: GuardedFetchOptions): GuardedFetch {
  const { configured, maxRedirects, maxResponseBytes, resolve = resolveByDns, dial = (address) => address } = options
  // Two pools: a connection to a private address must never be there to be taken up by a call on the public path.
  const trusted = openAgents()
  const open = openAgents()

  const vet = async (host: string): Promise<LookupFunction> => {
    const literal = host.replace(/^\[|\]$/g, '')
    const addresses = isIP(literal) ? [literal] : await resolve(host).catch(() => [])
    if (addresses.length === 0) throw blocked('Host does not resolve')
    if (!addresses.every(isPublicAddress)) throw blocked('Blocked private address')
    return lookupAnswering(addresses.map(dial))
  }

  const follow = async (first: string, request: GuardedRequest, signal: AbortSignal): Promise<GuardedAnswer> => {
    let url = parseTarget(first)
    const own = configured.get(url.origin)
    if (own) return send(url, { ...request, headers: { ...request.headers, ...own }, agents: trusted, signal })
    if (request.configuredOnly) throw blocked('Origin is not configured')
    for (let redirects = 0; ; redirects += 1) {
      const answer = await send(url, { ...request, agents: open, lookup: await vet(url.hostname), signal })
      const { status, location } = answer
      if (!isGet(request) || !REDIRECTS.has(status) || location === undefined) return answer
      if (redirects === maxRedirects) {
        throw new OutboundError('upstream_redirects', 'Upstream HTTP error', `More than ${maxRedirects} redirects`)
      }
      // From here on nobody is configured: whoever redirects to a configured origin must not speak with its key.
      url = parseTarget(location, url.href)
    }
  }

  const send = (
    url: URL,
    call: GuardedRequest & { agents: Agents; lookup?: LookupFunction; signal: AbortSignal },
    fresh = !isGet(call) && call.repeatable !== true,
  ): Promise<Sent> =>
    new Promise((resolveSent, reject) => {
      call.signal.throwIfAborted()
      const secure = url.protocol === 'https:'
      const request = (secure ? https : http).request({
        hostname: url.hostname.replace(/^\[|\]$/g, ''),
        port: url.port,
        path: url.pathname + url.search,
        method: call.method ?? 'GET',
        headers: call.headers,
        // A kept connection may be closing just now, and then it is sent again.
        agent: fresh ? false : call.agents[secure ? 'https' : 'http'],
        signal: call.signal,
        ...(call.lookup ? { lookup: call.lookup } : {}),
      })
      let answered = false
      request.on('response', (response) => {
        answered = true
        readAll(response, maxResponseBytes).then(
          (text) => resolveSent({ status: response.statusCode!, text, location: response.headers.location }),
          reject,
        )
      })
      request.on('error', (error: NodeJS.ErrnoException) => {
        const stale = request.reusedSocket && !answered && ['ECONNRESET', 'EPIPE'].includes(error.code ?? '')
        if (stale) send(url, call, true).then(resolveSent, reject)
        else reject(error)
      })
      request.end(call.body)
    })

  return async (url, request) => {
    const cut = new AbortController()
    try {
      const { status, text } = await withTimeout(follow(url, request, cut.signal), request.timeoutMs)
      return { status, text }
    } catch (error) {
      // Whatever is still under way ends with its connection.
      cut.abort()
      throw asOutboundError(error, request.timeoutMs)
    }
  }
}

const isGet = ({ method = 'GET' }: GuardedRequest) => method === 'GET'

const blocked = (detail: string) => new OutboundError('upstream_blocked', 'Upstream blocked', detail)

function parseTarget(text: string, base?: string): URL {
  if (URL.canParse(text, base)) {
    const url = new URL(text, base)
    if (url.protocol === 'http:' || url.protocol === 'https:') return url
  }
  throw new OutboundError('upstream_invalid_url', 'Upstream error', 'Invalid or non-HTTP/HTTPS URL')
}

async function resolveByDns(host: string): Promise<string[]> {
  return (await lookup(host, { all: true })).map(({ address }) => address)
}

type Agents = { http: http.Agent; https: https.Agent }

const openAgents = (): Agents => ({
  http: new http.Agent({ keepAlive: true, timeout: IDLE_MS }),
  https: new https.Agent({ keepAlive: true, timeout: IDLE_MS }),
})

/** Answers whatever is asked with these addresses, so that connecting can't resolve the name anew. */
function lookupAnswering(addresses: string[]): LookupFunction {
  const found = addresses.map((address) => ({ address, family: isIP(address) }))
  return (_, { all }, done) => {
    if (all) done(null, found)
    else done(null, found[0]!.address, found[0]!.family)
  }
}

/** The body as text, refused past `maxBytes` by its declared length or by counting. */
async function readAll(response: http.IncomingMessage, maxBytes: number): Promise<string> {
  const tooLarge = () => new TooLargeError(`answer exceeds ${maxBytes} bytes`)
  if (Number(response.headers['content-length'] ?? 0) > maxBytes) throw tooLarge()
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of response as AsyncIterable<Uint8Array>) {
    size += part.length
    if (size > maxBytes) throw tooLarge()
    parts.push(part)
  }
  return new TextDecoder().decode(Buffer.concat(parts))
}

function asOutboundError(cause: unknown, timeoutMs: number): OutboundError {
  if (cause instanceof OutboundError) return cause
  if (cause instanceof TimeoutError) {
    const detail = `No answer within ${timeoutMs} ms`
    return new OutboundError('upstream_timeout', 'Upstream timeout', detail, { cause, timeout: true })
  }
  const title = 'Upstream HTTP error'
  if (cause instanceof TooLargeError) return new OutboundError('upstream_too_large', title, cause.message, { cause })
  // The code alone: messages of the network name addresses.
  const { code = 'connection failed' } = cause as { code?: string }
  return new OutboundError('upstream_unreachable', title, code, { cause })
}
