import { type Context, Hono } from 'hono'
import { InvalidError } from '@market/kit/errors'
import { normalizeAddress } from '@market/contracts/address'
import type { MarketContext } from '../context.ts'
import { checkAddress, jsonLd } from '../http/body.ts'
import { listCatalog } from './listCatalog.ts'

const PAGE_SIZE = { fallback: 20, max: 100 }

export const catalogRoutes = (ctx: MarketContext) =>
  new Hono().get('/:operator/catalog', async (c) => {
    const query = parseQuery(c, ctx)
    const { body, nextStart } = await listCatalog(ctx, query)
    if (nextStart !== undefined) {
      const cursor = btoa(JSON.stringify({ start: nextStart }))
      const params = new URLSearchParams({
        pageSize: String(query.pageSize),
        cursor,
        chainId: String(query.chainId),
        start: String(query.window.start),
        end: String(query.window.end),
      })
      for (const avatar of query.avatars) params.append('avatars', avatar)
      const path = `/api/operator/${query.operator}/catalog?${params}`
      c.header('X-Next-Cursor', cursor)
      c.header('Link', `<${ctx.config.PUBLIC_BASE_URL}${path}>; rel="next"`)
      return jsonLd(c, { ...body, nextCursor: cursor })
    }
    return jsonLd(c, body)
  })

/** The checks of market-api.md 1.8, in their order. */
function parseQuery(c: Context, ctx: MarketContext) {
  const avatars = (c.req.queries('avatars') ?? [])
    .map((text) => text.trim().toLowerCase())
    .filter((text) => text !== '')
  const max = ctx.config.CATALOG_MAX_AVATARS
  if (avatars.length === 0) throw invalid('/avatars', 'At least one avatars query parameter is required')
  if (avatars.length > max) throw invalid('/avatars', `avatars must be <= ${max}`)
  const nowSeconds = Math.floor(ctx.now().getTime() / 1000)
  const start = integer(c, 'start', 0)
  // A window that ends in the future would let a link from the future be asked for (catalog.md 4.5).
  const end = Math.min(nowSeconds, integer(c, 'end', nowSeconds))
  if (start > end) throw invalid('/start', 'start must be <= end')
  const offset = cursorStart(c.req.query('cursor')) ?? integer(c, 'offset', 0)
  if (offset < 0) throw invalid('/offset', 'offset must be >= 0')
  const operator = checkAddress('/operator', () => normalizeAddress(c.req.param('operator') ?? ''))
  const chainId = integer(c, 'chainId', ctx.config.CHAIN_ID)
  if (chainId !== ctx.config.CHAIN_ID) throw invalid('/chainId', `chainId must be ${ctx.config.CHAIN_ID}`)
  const pageSize = Math.min(PAGE_SIZE.max, Math.max(1, integer(c, 'pageSize', PAGE_SIZE.fallback)))
  return { operator, chainId, avatars: [...new Set(avatars)], window: { start, end }, pageSize, offset }
}

const invalid = (path: string, message: string) => new InvalidError('invalid_query', message, { path })

function integer(c: Context, name: string, fallback: number): number {
  const text = c.req.query(name)
  if (text === undefined || text.trim() === '') return fallback
  if (!/^-?[0-9]{1,15}$/.test(text.trim())) throw invalid(`/${name}`, `${name} must be an integer`)
  return Number(text)
}

function cursorStart(cursor: string | undefined): number | undefined {
  if (cursor === undefined || cursor === '') return undefined
  let start: unknown
  try {
    start = (JSON.parse(atob(cursor)) as { start?: unknown }).start
  } catch {
    throw invalid('/cursor', 'Invalid cursor')
  }
  if (!Number.isSafeInteger(start)) throw invalid('/cursor', 'Invalid cursor')
  if ((start as number) < 0) throw invalid('/cursor', 'cursor.start must be >= 0')
  return start as number
}
