import { createHash } from 'node:crypto'
import { normalizeAddress } from '@market/contracts/address'
import { isSku } from '@market/contracts/catalogDocuments'
import { InvalidError, NotFoundError } from '@market/kit/errors'
import { type AppEnv, requestHeader } from '@market/kit/http'
import { type Context, Hono } from 'hono'
import type { MarketContext } from '../context.ts'
import { checkAddress, JSONLD } from '../http/body.ts'
import { CursorError, decodeCursor, type PageStart } from './cursor.ts'
import { type CatalogQuery, findItem, listCatalog } from './listCatalog.ts'
import type { ItemFilter } from './listItems.ts'
import type { CachedPage } from './pageCache.ts'

const PAGE_SIZE = { fallback: 20, max: 100 }
/** A client may keep a page, but has to ask whether it is still the one. */
const REVALIDATE = 'no-cache'

/** The operator catalog (market-api.md 1.8, catalog.md 4). */
export const catalogRoutes = (ctx: MarketContext) =>
  new Hono<AppEnv>()
    .get('/:operator/catalog', async (c) => {
      const at = c.req.url.indexOf('/api/operator/')
      // The same page thousands of times a second would be all there is in the log.
      let quiet = true
      const page = await ctx.pages.get(c.req.url.slice(at), () => {
        quiet = false
        return makePage(ctx, parseQuery(c, ctx))
      })
      c.set('quiet', quiet)
      return sendPage(c, page)
    })
    .get('/:operator/catalog/:seller/:sku', async (c) => {
      const operator = operatorOf(c)
      const avatar = checkAddress('/seller', () => normalizeAddress(c.req.param('seller')))
      const sku = c.req.param('sku').trim().toLowerCase()
      checkChain(c, ctx)
      const pure = c.req.query('compat') === '0'
      const item = isSku(sku) ? await findItem(ctx, { operator, avatar, sku, pure }) : undefined
      if (!item) throw new NotFoundError('product_not_found', 'Product not found')
      const text = JSON.stringify(item)
      return sendPage(c, toPage(text, [text]))
    })

async function makePage(ctx: MarketContext, query: CatalogQuery): Promise<CachedPage> {
  const { text, substance, nextCursor, snapshotChanged } = await listCatalog(ctx, query)
  const page = toPage(text, substance)
  const { headers } = page
  if (snapshotChanged) headers['X-Snapshot-Changed'] = '1'
  if (nextCursor !== undefined) {
    headers['X-Next-Cursor'] = nextCursor
    headers.Link = `<${ctx.config.PUBLIC_BASE_URL}${linkTo(query, ctx.config.CHAIN_ID, nextCursor)}>; rel="next"`
  }
  return page
}

function toPage(text: string, substance: string[]): CachedPage {
  const headers = { ETag: etagOf(substance), 'Cache-Control': REVALIDATE, 'Content-Type': JSONLD }
  return { body: new TextEncoder().encode(text), headers }
}

/** Weak: the time of looking and the cursor differ from page to page, what is for sale does not. */
function etagOf(substance: string[]): string {
  const hash = createHash('sha256')
  for (const part of substance) hash.update(part).update('\n')
  return `W/"${hash.digest('base64url').slice(0, 22)}"`
}

/** A response of its own, not one of Hono's making: that would copy every header, which costs more than to find the page. */
function sendPage(c: Context, { body, headers }: CachedPage): Response {
  const asked = requestHeader(c, 'if-none-match')
  if (asked !== undefined && asked.split(',').some((one) => one.trim() === headers.ETag || one.trim() === '*')) {
    const { 'Content-Type': _, ...rest } = headers
    return new Response(null, { status: 304, headers: rest })
  }
  return new Response(body as Uint8Array<ArrayBuffer>, { headers })
}

function linkTo(
  { operator, avatars, window, pageSize, filter, ...query }: CatalogQuery,
  chainId: number,
  cursor: string,
) {
  const params = new URLSearchParams({ pageSize: String(pageSize), cursor })
  for (const avatar of avatars) params.append('avatars', avatar)
  params.set('chainId', String(chainId))
  params.set('start', String(window.start))
  params.set('end', String(window.end))
  if (filter.text !== undefined) params.set('q', filter.text)
  for (const name of FILTERS) {
    const value = filter[name]
    if (value !== undefined) params.set(name, value)
  }
  if (query.inStock) params.set('inStock', 'true')
  if (query.diagnostics) params.set('diagnostics', '1')
  if (query.pure) params.set('compat', '0')
  return `/api/operator/${operator}/catalog?${params}`
}

const FILTERS = ['category', 'minPrice', 'maxPrice', 'priceCurrency'] as const

/** The checks of market-api.md 1.8, in their order. */
function parseQuery(c: Context, ctx: MarketContext): CatalogQuery {
  const given = (c.req.queries('avatars') ?? []).map((text) => text.trim().toLowerCase()).filter((text) => text !== '')
  const max = ctx.config.CATALOG_MAX_AVATARS
  if (given.length === 0) throw invalid('/avatars', 'At least one avatars query parameter is required')
  if (given.length > max) throw invalid('/avatars', `avatars must be <= ${max}`)
  const nowSeconds = Math.floor(ctx.now().getTime() / 1000)
  const from = integer(c, 'start', 0)
  // A window that ends in the future would let a link from the future be asked for (catalog.md 4.5).
  const end = Math.min(nowSeconds, integer(c, 'end', nowSeconds))
  if (from > end) throw invalid('/start', 'start must be <= end')
  const start = pageStart(c)
  const operator = operatorOf(c)
  checkChain(c, ctx)
  return {
    operator,
    avatars: [...new Set(given)],
    window: { start: Math.max(0, from), end },
    pageSize: Math.min(PAGE_SIZE.max, Math.max(1, integer(c, 'pageSize', PAGE_SIZE.fallback))),
    start,
    filter: parseFilter(c),
    inStock: flag(c, 'inStock'),
    diagnostics: flag(c, 'diagnostics'),
    pure: c.req.query('compat') === '0',
  }
}

function pageStart(c: Context): PageStart {
  const cursor = c.req.query('cursor')
  try {
    if (cursor !== undefined && cursor !== '') return decodeCursor(cursor)
  } catch (error) {
    if (error instanceof CursorError) throw invalid('/cursor', error.message)
    throw error
  }
  const offset = integer(c, 'offset', 0)
  if (offset < 0) throw invalid('/offset', 'offset must be >= 0')
  return { kind: 'offset', offset }
}

function parseFilter(c: Context): ItemFilter {
  const text = c.req.query('q')?.trim() || undefined
  if (text !== undefined && text.length > 200) throw invalid('/q', 'q must be at most 200 characters')
  const filter: ItemFilter = { text }
  for (const name of FILTERS) {
    const value = c.req.query(name)?.trim() || undefined
    if (value === undefined) continue
    if (name === 'category' && value.length > 200) throw invalid('/category', 'category must be at most 200 characters')
    // Postgres has no such text.
    if (value.includes('\0')) throw invalid(`/${name}`, `${name} must not have NUL in it`)
    if (name === 'priceCurrency' && !/^[A-Z]{3}$/.test(value))
      throw invalid(`/${name}`, `${name} must be three capitals`)
    if (name.endsWith('Price') && !/^[0-9]{1,18}(\.[0-9]{1,18})?$/.test(value)) {
      throw invalid(`/${name}`, `${name} must be a decimal number`)
    }
    filter[name] = value
  }
  return filter
}

const operatorOf = (c: Context) => checkAddress('/operator', () => normalizeAddress(c.req.param('operator') ?? ''))

function checkChain(c: Context, ctx: MarketContext): void {
  const chainId = integer(c, 'chainId', ctx.config.CHAIN_ID)
  if (chainId !== ctx.config.CHAIN_ID) throw invalid('/chainId', `chainId must be ${ctx.config.CHAIN_ID}`)
}

const invalid = (path: string, message: string) => new InvalidError('invalid_query', message, { path })

const flag = (c: Context, name: string) => ['1', 'true'].includes(c.req.query(name) ?? '')

function integer(c: Context, name: string, fallback: number): number {
  const text = c.req.query(name)
  if (text === undefined || text.trim() === '') return fallback
  if (!/^-?[0-9]{1,15}$/.test(text.trim())) throw invalid(`/${name}`, `${name} must be an integer`)
  return Number(text)
}
