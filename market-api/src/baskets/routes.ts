import { Address, normalizeAddress } from '@market/contracts/address'
import { BASKET_ID } from '@market/contracts/ids'
import { InvalidError } from '@market/kit/errors'
import { type Context, Hono } from 'hono'
import * as z from 'zod'
import type { MarketContext } from '../context.ts'
import { checkAddress, jsonLd, limitBody, parseBody, readJson, requireJsonType } from '../http/body.ts'
import { BasketPatch, LineError, requestedLine } from './basket.ts'
import { checkoutBasket } from './checkoutBasket.ts'
import { createBasket } from './createBasket.ts'
import { BasketNotFoundError } from './errors.ts'
import { patchBasket } from './patchBasket.ts'
import { previewBasket } from './previewBasket.ts'
import { readStoredBasket, type StoredBasket } from './store.ts'
import { validateBasket } from './validateBasket.ts'

const CreateInput = z.object({
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
      const basketId = await createBasket(ctx, {
        buyer: buyer ?? null,
        operator: operator ?? null,
        chainId: chainId ?? undefined,
      })
      return jsonLd(c, { '@type': 'circles:Basket', basketId })
    })
    .get('/:basketId', async (c) => jsonLd(c, view(await readStoredBasket(ctx.db, idOf(c), ctx.now()))))
    .patch('/:basketId', async (c) => {
      const { patch, lines } = await readPatch(c)
      return jsonLd(c, view({ ...(await patchBasket(ctx, idOf(c), patch, lines)), status: 'Draft' }))
    })
    .post('/:basketId/validate', async (c) => jsonLd(c, await validateBasket(ctx, idOf(c))))
    .post('/:basketId/preview', async (c) => jsonLd(c, await previewBasket(ctx, idOf(c), queryBuyer(c))))
    .post('/:basketId/checkout', async (c) => {
      const { created, orderId, paymentReference } = await checkoutBasket(ctx, idOf(c), queryBuyer(c))
      return jsonLd(c, { orderId, basketId: idOf(c), paymentReference, orderCid: null }, created ? 201 : 200)
    })

function idOf(c: Context): string {
  const id = c.req.param('basketId') ?? ''
  if (!BASKET_ID.test(id)) throw new BasketNotFoundError()
  return id
}

function queryBuyer(c: Context): string | undefined {
  const text = c.req.query('buyer')
  return text ? checkAddress('/buyer', () => normalizeAddress(text)) : undefined
}

const PATCHABLE = new Set(Object.keys(BasketPatch.shape))

/** The checks of market-api.md 1.2 that need no basket, in their order. */
async function readPatch(c: Context) {
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
  return { patch: parsed.data, lines: parsed.data.items === null ? [] : lines }
}

function view({
  basket,
  version,
  status,
  modifiedAt,
}: Pick<StoredBasket, 'basket' | 'version' | 'status' | 'modifiedAt'>) {
  return { ...basket, status, version: Number(version), modifiedAt: Math.floor(modifiedAt.getTime() / 1000) }
}
