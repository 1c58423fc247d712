import { randomUUID } from 'node:crypto'
import type { Server } from 'node:http'
import { serve } from '@hono/node-server'
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
/** Probes and scrapes every few seconds would drown the log. */
const QUIET = new Set(['/health', '/health/ready', '/metrics'])

/** An app with request ids, one access line a request, request metrics and the error edge. */
export function createApp(log: Log, metrics: Metrics, errorBody: ErrorBody) {
  const app = new Hono<AppEnv>()

  app.use(async (c, next) => {
    const sent = requestHeader(c, 'x-request-id')
    const requestId = sent && REQUEST_ID.test(sent) ? sent : randomUUID()
    c.set('requestId', requestId)
    c.set('log', childOnUse(log, { requestId }))
    earlyHeader(c, 'X-Request-Id', requestId)
    earlyHeader(c, 'X-Content-Type-Options', 'nosniff')
    const started = performance.now()
    await next()
    const seconds = (performance.now() - started) / 1000
    // The pattern, never the path: a basket's id in the path is the capability to read it.
    const route = matchedRoutes(c).findLast(({ path }) => !path.endsWith('*'))?.path ?? 'unmatched'
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
    if (error.status === 401) c.header('WWW-Authenticate', 'Bearer')
    const { retryAfterSeconds } = error.details ?? {}
    if (typeof retryAfterSeconds === 'number') c.header('Retry-After', String(retryAfterSeconds))
    return c.body(JSON.stringify(body), error.status as 400, { 'Content-Type': contentType })
  }
  app.notFound((c) => render(c, new AppError(404, 'not_found', 'Not found')))
  app.onError((error, c) => {
    if (error instanceof AppError) {
      if (error.status >= 500) c.var.log.warn({ err: error, code: error.code }, 'upstream failed')
      return render(c, error)
    }
    c.var.log.error({ err: error }, 'request failed')
    return render(c, new AppError(500, 'internal_error', 'Internal error'))
  })
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
  const alive = async () => {
    try {
      await withTimeout(options.pingDatabase(), 2000)
      return true
    } catch {
      return false
    }
  }
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
      return c.body(await options.metrics.registry.metrics())
    })
}

/** Listens, or throws `StartupError` naming the port and the variable that sets it. */
export async function listen(
  app: { fetch: (request: Request) => Response | Promise<Response> },
  port: number,
  variable: string,
  hostname?: string,
): Promise<Server> {
  const server = serve({
    fetch: app.fetch,
    port,
    // A catalog request names up to 500 avatars, 51 bytes each, in its URL; Node stops at 16 KiB of headers by default.
    serverOptions: { maxHeaderSize: 64 * 1024 },
    ...(hostname ? { hostname } : {}),
  }) as Server
  await new Promise<void>((resolve, reject) => {
    server.once('listening', resolve)
    server.once('error', (error: NodeJS.ErrnoException) => {
      const why =
        error.code === 'EADDRINUSE' ? 'is in use; stop what listens there' : `can't be used (${messageOf(error)})`
      reject(new StartupError(`port ${port} ${why} or set ${variable}`))
    })
  })
  return server
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
