import { randomUUID } from 'node:crypto'
import type { Server } from 'node:http'
import { serve } from '@hono/node-server'
import { type Context, Hono } from 'hono'
import { matchedRoutes } from 'hono/route'
import { AppError, messageOf, StartupError } from './errors.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import { withTimeout } from './timeout.ts'

export type AppEnv = { Variables: { requestId: string; log: Log } }

/** Turns an error into the body this app's clients parse; `error` is always an AppError. */
export type ErrorBody = (error: AppError, requestId: string) => { body: object; contentType: string }

/** RFC 9457, the default everywhere no existing client expects another shape. */
export const problem: ErrorBody = (error, requestId) => ({
  contentType: 'application/problem+json',
  body: {
    type: 'about:blank',
    title: error.message,
    status: error.status,
    code: error.code,
    ...(error.details ? { details: error.details } : {}),
    requestId,
  },
})

const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/
/** Probes and scrapes every few seconds would drown the log. */
const QUIET = new Set(['/health', '/health/ready', '/metrics'])

/** An app with request ids, one access line a request, request metrics and the error edge. */
export function createApp(log: Log, metrics: Metrics, errorBody: ErrorBody) {
  const app = new Hono<AppEnv>()

  app.use(async (c, next) => {
    const sent = c.req.header('x-request-id')
    const requestId = sent && REQUEST_ID.test(sent) ? sent : randomUUID()
    c.set('requestId', requestId)
    c.set('log', log.child({ requestId }))
    c.header('X-Request-Id', requestId)
    c.header('X-Content-Type-Options', 'nosniff')
    const started = performance.now()
    await next()
    const seconds = (performance.now() - started) / 1000
    // The pattern, never the path: a basket's id in the path is the capability to read it.
    const route = matchedRoutes(c).findLast(({ path }) => !path.endsWith('*'))?.path ?? 'unmatched'
    metrics.requestSeconds.observe({ method: c.req.method, route, status: c.res.status }, seconds)
    if (!QUIET.has(route)) {
      c.var.log.info({ method: c.req.method, route, status: c.res.status, ms: Math.round(seconds * 1000) }, 'request')
    }
  })

  const render = (c: Context<AppEnv>, error: AppError) => {
    const { body, contentType } = errorBody(error, c.var.requestId)
    if (error.status === 401) c.header('WWW-Authenticate', 'Bearer')
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
  const server = serve({ fetch: app.fetch, port, ...(hostname ? { hostname } : {}) }) as Server
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
