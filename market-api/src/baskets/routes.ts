import { createHmac } from 'node:crypto'
import { Address, normalizeAddress } from '@market/contracts/address'
import { BASKET_ID } from '@market/contracts/ids'
import { InvalidError } from '@market/kit/errors'
import { earlyHeader } from '@market/kit/http'
import { type Context, Hono } from 'hono'
import * as z from 'zod'
import type { MarketContext } from '../context.ts'
import { findCaller } from '../http/auth.ts'
import { checkAddress, jsonLd, limitBody, parseBody, readJson, requireJsonType } from '../http/body.ts'
import { clientAddress } from '../http/clientAddress.ts'
import { BasketPatch, LineError, requestedLine } from './basket.ts'
import { checkoutBasket } from './checkoutBasket.ts'
import { createBasket } from './createBasket.ts'
import { BasketNotFoundError } from './errors.ts'
import { type BasketAccess, openBasket } from './openBasket.ts'
import { type CheckedPatch, patchBasket } from './patchBasket.ts'
import { presentBasket } from './presentBasket.ts'
import { previewBasket } from './previewBasket.ts'
import { validateBasket } from './validateBasket.ts'

export const CreateInput = z.object({
  buyer: Address.nullish(),
  operator: Address.nullish(),
  chainId: z.int().nullish(),
})

export const basketRoutes = (ctx: MarketContext) =>
  new Hono()
    .use(limitBody(256 * 1024))
    .post('/', async (c) => {
      requireJsonType(c)
      const { buyer, operator, chainId } = parseBody(CreateInput, (await readJson(c, {})) ?? {})
      const created = await createBasket(ctx, {
        buyer: buyer ?? null,
        operator: operator ?? null,
        chainId: chainId ?? undefined,
        caller: await findCaller(ctx, c.req.header('authorization')),
      })
      tag(c, 0)
      return jsonLd(c, { '@type': 'circles:Basket', ...created })
    })
    .get('/:basketId', async (c) => {
      const stored = await openBasket(ctx, idOf(c), await accessOf(ctx, c))
      return basketAnswer(c, stored)
    })
    .patch('/:basketId', async (c) => {
      const checked = await readPatch(c)
      const patched = await patchBasket(ctx, idOf(c), await accessOf(ctx, c), checked)
      return basketAnswer(c, { ...patched, status: 'Draft' })
    })
    .post('/:basketId/validate', async (c) => {
      const { version, validation } = await validateBasket(ctx, idOf(c), await accessOf(ctx, c))
      tag(c, version)
      return jsonLd(c, validation)
    })
    .post('/:basketId/preview', async (c) => {
      const access = await accessOf(ctx, c)
      const { version, order } = await previewBasket(ctx, idOf(c), access, queryBuyer(c))
      tag(c, version)
      return jsonLd(c, order)
    })
    .post('/:basketId/checkout', async (c) => {
      const { status, body } = await checkoutBasket(ctx, {
        basketId: idOf(c),
        access: await accessOf(ctx, c),
        queryBuyer: queryBuyer(c),
        idempotencyKey: c.req.header('idempotency-key'),
        client: clientOf(ctx, c),
      })
      return jsonLd(c, body, status)
    })

/** A token nobody can verify counts as none: wallets attach whatever token they have stored (clients.md 4). */
const accessOf = async (ctx: MarketContext, c: Context): Promise<BasketAccess> => ({
  caller: await findCaller(ctx, c.req.header('authorization')),
  basketToken: c.req.header('x-basket-token'),
  ifMatch: c.req.header('if-match'),
})

const tag = (c: Context, version: string | number) => earlyHeader(c, 'ETag', `"${version}"`)

function basketAnswer(c: Context, stored: Parameters<typeof presentBasket>[0]) {
  tag(c, stored.version)
  return jsonLd(c, presentBasket(stored))
}

/** The client's network under a key of ours: enough to tell clients apart, nothing to tell who they are (W-39). */
function clientOf({ config }: MarketContext, c: Context): string {
  const network = clientAddress(c, config.TRUSTED_PROXY_HOPS)
  return createHmac('sha256', config.CIRCLES_SERVICE_KEY.reveal()).update(network).digest('base64url').slice(0, 22)
}

function idOf(c: Context): string {
  const id = c.req.param('basketId') ?? ''
  if (!BASKET_ID.test(id)) throw new BasketNotFoundError()
  return id
}

function queryBuyer(c: Context): string | undefined {
  const text = c.req.query('buyer')
  return text ? checkAddress('/buyer', () => normalizeAddress(text)) : undefined
}

const MERGE_PATCH = /^application\/merge-patch\+json\s*(;|$)/i

const PATCHABLE = new Set(Object.keys(BasketPatch.shape))

/** The checks of market-api.md 1.2 that need no basket, in their order. */
async function readPatch(c: Context): Promise<CheckedPatch> {
  const json = await readJson(c, {})
  if (json === null || typeof json !== 'object' || Array.isArray(json)) {
    throw new InvalidError('invalid_json', 'The body must be a JSON object', { path: '$' })
  }
  for (const name of Object.keys(json)) {
    if (!PATCHABLE.has(name)) throw new InvalidError('unknown_field', `Unknown field '${name}'`, { path: `/${name}` })
  }
  const parsed = BasketPatch.safeParse(json)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    const path = `/${issue.path.join('/')}`
    // Limits speak for themselves; a wrong JSON type gets the sentence clients know.
    const message = issue.code === 'custom' || issue.code === 'too_big' ? issue.message : 'Invalid basket JSON'
    throw new InvalidError('invalid_basket_json', message, { path, detail: issue.message })
  }
  const lines = parsed.data.items?.map((item, i) =>
    checkAddress(`/items/${i}/seller`, () => {
      try {
        return requestedLine(item)
      } catch (error) {
        if (error instanceof LineError) throw new InvalidError('invalid_line', error.message, { path: `/items/${i}` })
        throw error
      }
    }),
  )
  const deep = MERGE_PATCH.test(c.req.header('content-type') ?? '')
  const sent = json as Record<string, unknown>
  return { patch: parsed.data, lines: parsed.data.items === null ? [] : lines, sent, deep }
}
