import { createHash } from 'node:crypto'
import { type Context, Hono } from 'hono'
import type { MarketContext } from '../context.ts'
import { openApiDocument } from './document.ts'
import { PAGE_POLICY, referencePage } from './referencePage.ts'

type Page = { text: string; headers: Record<string, string> }

/** The OpenAPI document and the page that shows it; nothing where the operator wants neither (market-api.md W-35). */
export function documentationRoutes({ config }: MarketContext) {
  const app = new Hono()
  if (!config.MARKET_API_DOCS) return app
  // Made when it is first asked for: a tenth of a second that no start has to wait for.
  const json = once(() => toPage(JSON.stringify(openApiDocument(config.PUBLIC_BASE_URL)), 'application/json'))
  const page = once(() => {
    const text = referencePage(openApiDocument(config.PUBLIC_BASE_URL))
    return toPage(text, 'text/html; charset=utf-8', { 'Content-Security-Policy': PAGE_POLICY })
  })
  return app
    .on('GET', ['/openapi.json', '/openapi/v1.json', '/docs/v1/swagger.json'], (c) => sendPage(c, json()))
    .get('/docs', (c) => sendPage(c, page()))
}

function once<T>(make: () => T): () => T {
  let made: T | undefined
  return () => (made ??= make())
}

function toPage(text: string, type: string, more: Record<string, string> = {}): Page {
  const etag = `"${createHash('sha256').update(text).digest('base64url').slice(0, 22)}"`
  return { text, headers: { 'Content-Type': type, ETag: etag, 'Cache-Control': 'public, max-age=60', ...more } }
}

function sendPage(c: Context, { text, headers }: Page): Response {
  const known = (c.req.header('if-none-match') ?? '').split(',').map((tag) => tag.trim().replace(/^W\//, ''))
  if (!known.includes(headers.ETag!) && !known.includes('*')) return c.body(text, 200, headers)
  const { 'Content-Type': _type, ...rest } = headers
  return c.body(null, 304, rest)
}
