import { randomUUID } from 'node:crypto'
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { getRequestListener, RequestError } from '@hono/node-server'
import { type Context, Hono } from 'hono'
import { matchedRoutes } from 'hono/route'
import { AppError, messageOf, StartupError } from './errors.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import { withTimeout } from './timeout.ts'

export type AppEnv = {
  Variables: {
    requestId: string
    log: Log
    /** Set by a route for an answer that isn't worth a line: it is counted, and told at debug level. */
    quiet?: boolean
  }
}

/** Turns an error into the body that clients of this path parse; `error` is always an AppError. */
export type ErrorBody = (error: AppError, requestId: string, path: string) => { body: object; contentType: string }

/** RFC 9457, the default everywhere no existing client expects another shape. Details become members, `detail` among them. */
export const problem: ErrorBody = (error, requestId) => ({
  contentType: 'application/problem+json',
  body: { ...error.details, title: error.message, status: error.status, code: error.code, requestId },
})

const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/
const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']
/** Probes and scrapes every few seconds would drown the log. */
const QUIET = new Set(['/health', '/health/ready', '/metrics'])

/**
 * What is done with each request before its route is asked: sets headers that every answer has, refuses by throwing an
 * `AppError`, or answers by itself. One call for all of it, because each middleware costs a short request more than this does.
 */
export type Edge = (c: Context<AppEnv>) => Response | undefined

/** An app with request ids, one access line a request, request metrics and the error edge; 404 and 405 come before any route. */
export function createApp(log: Log, metrics: Metrics, errorBody: ErrorBody, edge?: Edge) {
  const app = new Hono<AppEnv>()

  app.use(async (c, next) => {
    const sent = requestHeader(c, 'x-request-id')
    const requestId = sent && REQUEST_ID.test(sent) ? sent : randomUUID()
    c.set('requestId', requestId)
    c.set('log', childOnUse(log, { requestId }))
    earlyHeader(c, 'X-Request-Id', requestId)
    earlyHeader(c, 'X-Content-Type-Options', 'nosniff')
    earlyHeader(c, 'Referrer-Policy', 'no-referrer')
    const started = performance.now()
    const found = matchedRoutes(c).find(({ method, path }) => method !== 'ALL' || !path.endsWith('*'))
    const answer = beforeRoute(c, found !== undefined)
    if (answer) c.res = answer
    else await next()
    const seconds = (performance.now() - started) / 1000
    // The pattern, never the path: a basket's id in the path is the capability to read it.
    const route = found?.path ?? 'unmatched'
    const { method } = c.req
    const { status } = c.res
    durationOf(method, route, status).observe(seconds)
    if (QUIET.has(route)) return
    const fields = { requestId, method, route, status, ms: Math.round(seconds * 1000) }
    if (c.var.quiet) log.debug(fields, 'request')
    else log.info(fields, 'request')
  })

  // Looking a series up by its labels costs more than counting in it; there are as many as routes and statuses.
  const durations = new Map<string, { observe(seconds: number): void }>()
  const durationOf = (method: string, route: string, status: number) => {
    const key = `${method} ${route} ${status}`
    const known = durations.get(key)
    if (known) return known
    const series = metrics.requestSeconds.labels({ method, route, status })
    durations.set(key, series)
    return series
  }

  const render = (c: Context<AppEnv>, error: AppError) => {
    const { body, contentType } = errorBody(error, c.var.requestId, c.req.path)
    if (error.status === 401) {
      const presented = /^bearer +[^ ]/i.test(requestHeader(c, 'authorization') ?? '')
      c.header('WWW-Authenticate', presented ? 'Bearer error="invalid_token"' : 'Bearer')
    }
    const { retryAfterSeconds } = error.details ?? {}
    if (typeof retryAfterSeconds === 'number') c.header('Retry-After', String(retryAfterSeconds))
    return c.body(JSON.stringify(body), error.status as 400, { 'Content-Type': contentType })
  }
  const renderUnknown = (c: Context<AppEnv>) => {
    const allowed = METHODS.filter((method) =>
      app.router.match(method, c.req.path)[0].some(([[, route]]) => route.method === method),
    )
    if (allowed.length === 0) return render(c, new AppError(404, 'not_found', 'Not found'))
    c.header('Allow', allowed.flatMap((method) => (method === 'GET' ? ['GET', 'HEAD'] : [method])).join(', '))
    return render(c, new AppError(405, 'method_not_allowed', 'Method not allowed'))
  }
  const renderError = (error: unknown, c: Context<AppEnv>) => {
    if (error instanceof AppError) {
      if (error.status >= 500) c.var.log.warn({ err: error, code: error.code }, 'upstream failed')
      return render(c, error)
    }
    c.var.log.error({ err: error }, 'request failed')
    return render(c, new AppError(500, 'internal_error', 'Internal error'))
  }
  const beforeRoute = (c: Context<AppEnv>, known: boolean): Response | undefined => {
    try {
      return edge?.(c) ?? (known ? undefined : renderUnknown(c))
    } catch (error) {
      return renderError(error, c)
    }
  }
  app.notFound(renderUnknown)
  app.onError(renderError)
  return app
}

/** The request as Node has it, when there is a server and not only a test's `app.request`. */
type NodeBindings = {
  incoming?: { headers: Record<string, string | string[] | undefined> }
  outgoing?: { setHeader(name: string, value: string): void }
}

/** One request header. Asking Hono for it has all of them copied first. */
export function requestHeader(c: Context, name: string): string | undefined {
  const { incoming } = (c.env ?? {}) as NodeBindings
  if (!incoming) return c.req.header(name)
  const value = incoming.headers[name]
  return Array.isArray(value) ? value.join(', ') : value
}

/** Sets a header that every answer of this request has. On the response itself, Hono would copy it whole to add one. */
export function earlyHeader(c: Context, name: string, value: string): void {
  const { outgoing } = (c.env ?? {}) as NodeBindings
  if (outgoing) outgoing.setHeader(name, value)
  else c.header(name, value)
}

/** A child is made for those requests that say something. */
function childOnUse(log: Log, fields: object): Log {
  let child: Log | undefined
  const own = () => (child ??= log.child(fields))
  return {
    debug: (more, message) => own().debug(more, message),
    info: (more, message) => own().info(more, message),
    warn: (more, message) => own().warn(more, message),
    error: (more, message) => own().error(more, message),
    child: (more) => own().child(more),
  }
}

/**
 * Probes: `/health` answers whether the database does (and always carries that check by name), `/health/ready` whether this
 * process should get traffic, `/metrics` in Prometheus text.
 */
export function probes(options: {
  metrics: Metrics
  pingDatabase: () => Promise<unknown>
  /** Names of what is not in order; empty = ready. */
  notReady: () => Promise<string[]>
}) {
  const alive = oneAtATime(() =>
    withTimeout(options.pingDatabase(), 2000).then(
      () => true,
      () => false,
    ),
  )
  const metrics = oneAtATime(() => options.metrics.registry.metrics())
  return new Hono()
    .get('/health', async (c) => {
      const ok = await alive()
      return c.json({ ok, checks: { postgres: ok ? 'ok' : 'failed' } }, ok ? 200 : 503)
    })
    .get('/health/ready', async (c) => {
      const failing = [...((await alive()) ? [] : ['postgres']), ...(await options.notReady())]
      c.header('Cache-Control', 'no-store')
      return c.text(failing.length ? `Unhealthy: ${failing.join(', ')}` : 'Healthy', failing.length ? 503 : 200)
    })
    .get('/metrics', async (c) => {
      c.header('Content-Type', options.metrics.registry.contentType)
      return c.body(await metrics())
    })
}

/**
 * Whether `check` succeeds, for `notReady`. The log is told when it begins to fail, why, and when it does well again; a probe
 * is told the name only (market-api.md W-35).
 */
export function watchCheck(log: Log, name: string, check: () => Promise<unknown>): () => Promise<boolean> {
  let failing: string | undefined
  return oneAtATime(async () => {
    try {
      await check()
      if (failing !== undefined) log.info({ check: name }, 'check recovered')
      failing = undefined
    } catch (error) {
      const message = messageOf(error)
      if (message !== failing) log.error({ check: name, err: error }, 'check failed')
      failing = message
    }
    return failing === undefined
  })
}

/** Whoever asks meanwhile gets the answer under way: probes are anonymous and unlimited, and must not multiply. */
function oneAtATime<T>(work: () => Promise<T>): () => Promise<T> {
  let underWay: Promise<T> | undefined
  return () => (underWay ??= work().finally(() => (underWay = undefined)))
}

/**
 * How long a client may take, in ms. Whoever sends slowly to hold a connection is cut; 8 MiB, the largest body that anybody takes,
 * need 0.6 Mbit/s. A kept-alive connection outlasts the 60 s after which balancers in front usually close theirs: were it closed
 * here first, one of their requests would now and then be lost on it.
 */
const PATIENCE = { headersMs: 30_000, requestMs: 120_000, keepAliveMs: 75_000, checkEveryMs: 5000 }

/** Listens, or throws `StartupError` naming the port and the variable that sets it. `patience` is for tests. */
export async function listen(
  app: { fetch: (request: Request, env: object) => Response | Promise<Response> },
  port: number,
  variable: string,
  hostname?: string,
  patience: Partial<typeof PATIENCE> = {},
): Promise<Server> {
  const { headersMs, requestMs, keepAliveMs, checkEveryMs } = { ...PATIENCE, ...patience }
  // Without a name of ours, what HTTP/1.0 sends without a Host is refused.
  const listener = getRequestListener(app.fetch, { hostname: 'localhost', errorHandler: answerUnreadable })
  const server = createServer(
    {
      // A catalog request names up to 500 avatars, 51 bytes each, in its URL; Node stops at 16 KiB of headers by default.
      maxHeaderSize: 64 * 1024,
      headersTimeout: headersMs,
      requestTimeout: requestMs,
      keepAliveTimeout: keepAliveMs,
      connectionsCheckingInterval: checkEveryMs,
      // Node would refuse by itself, without a body.
      requireHostHeader: false,
    },
    (incoming, outgoing) => {
      if (incoming.headers.host === undefined && incoming.httpVersion === '1.1') return refuse(outgoing, 400)
      return void listener(incoming, outgoing)
    },
  )
  server.on('checkExpectation', (_, outgoing) => refuse(outgoing, 417))
  server.on('clientError', refuseConnection)
  await new Promise<void>((resolve, reject) => {
    server.once('listening', resolve)
    server.once('error', (error: NodeJS.ErrnoException) => {
      const why =
        error.code === 'EADDRINUSE' ? 'is in use; stop what listens there' : `can't be used (${messageOf(error)})`
      reject(new StartupError(`port ${port} ${why} or set ${variable}`))
    })
    server.listen(port, hostname)
  })
  return server
}

const UNREADABLE: Record<number, [code: string, title: string]> = {
  400: ['bad_request', 'Bad Request'],
  408: ['request_timeout', 'Request Timeout'],
  413: ['body_too_large', 'Payload Too Large'],
  417: ['expectation_failed', 'Expectation Failed'],
  431: ['headers_too_large', 'Request Header Fields Too Large'],
  500: ['internal_error', 'Internal Server Error'],
}

/** The answer to what never came to the app. It has no path whose clients could expect another shape. */
function unreadable(status: number) {
  const [code, title] = UNREADABLE[status]!
  const requestId = randomUUID()
  const body = JSON.stringify({ title, status, code, requestId })
  const headers = {
    'Content-Type': 'application/problem+json',
    'Content-Length': String(body.length),
    'X-Content-Type-Options': 'nosniff',
    'X-Request-Id': requestId,
    Connection: 'close',
  }
  return { status, title, headers, body }
}

/** A target or a Host that no URL can be made of; or something that was thrown and is no error. */
function answerUnreadable(error: unknown): Response {
  const { status, headers, body } = unreadable(error instanceof RequestError ? 400 : 500)
  return new Response(body, { status, headers })
}

/** An answer without asking the app: HTTP asks for a Host, and forbids to ignore an `Expect` that nobody knows. */
function refuse(outgoing: ServerResponse, status: number): void {
  const { headers, body } = unreadable(status)
  outgoing.writeHead(status, headers).end(body)
}

const STATUS_OF: Record<string, number> = {
  ERR_HTTP_REQUEST_TIMEOUT: 408,
  HPE_CHUNK_EXTENSIONS_OVERFLOW: 413,
  HPE_HEADER_OVERFLOW: 431,
}

/** As Node itself answers what is no HTTP or comes too slowly, with a body. */
function refuseConnection(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (socket.writable && error.code !== 'ECONNRESET') {
    const { status, title, headers, body } = unreadable(STATUS_OF[error.code ?? ''] ?? 400)
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
    socket.write(`HTTP/1.1 ${status} ${title}\r\n${lines.join('')}\r\n${body}`)
  }
  socket.destroy(error)
}

/** Stops accepting, lets requests under way finish for `graceMs`, then cuts what is left. */
export async function drain(server: Server, graceMs: number): Promise<void> {
  const closed = new Promise((resolve) => server.close(resolve))
  // Again and again: a kept-alive connection is idle only once its request under way is answered.
  const idle = setInterval(() => server.closeIdleConnections(), 50)
  const timer = setTimeout(() => server.closeAllConnections(), graceMs)
  await closed
  clearInterval(idle)
  clearTimeout(timer)
}
