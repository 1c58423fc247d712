import { AddressError, normalizeAddress } from '@market/contracts/address'
import { InvalidError, NotFoundError } from '@market/kit/errors'
import { inTransaction } from '@market/kit/db'
import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import type { Kysely } from 'kysely'
import * as z from 'zod'
import type { CodeKeys } from './codeKeys.ts'
import type { CodesDatabase } from './database.ts'
import { listMappings, revokeCodeMapping, upsertCodeMapping } from './mappings.ts'
import { listPools } from './pools.ts'
import { CodeError, ensurePool, seedPool } from './seedPool.ts'

const MAX_BODY_BYTES = 8 * 1024 * 1024

const text = z
  .string()
  .trim()
  .min(1)
  .max(200)
  .regex(/^[^\0]*$/)
const NewPool = z.object({ poolId: text })
const Seed = z.object({ codes: z.array(z.string()).min(1) })
const NewMapping = z.object({
  chainId: z.int().min(1).max(1e15),
  seller: text,
  sku: text,
  poolId: text,
  downloadUrlTemplate: z.string().max(2000).nullish(),
  enabled: z.boolean().default(true),
})

/** Routes below `/admin` (adapters.md 2.3), for whom the kit's admin listener lets in. */
export function adminRoutes(db: Kysely<CodesDatabase>, keys: CodeKeys) {
  return new Hono()
    .use(
      bodyLimit({
        maxSize: MAX_BODY_BYTES,
        onError: (c) => {
          c.header('Connection', 'close')
          throw new InvalidError('body_too_large', `Body exceeds ${MAX_BODY_BYTES} bytes`, undefined, 413)
        },
      }),
    )
    .get('/code-pools', async (c) =>
      c.json((await listPools(db)).map((pool) => ({ ...pool, remaining: pool.available }))),
    )
    .post('/code-pools', async (c) => {
      const { poolId } = await bodyOf(c, NewPool, 'poolId is required')
      await inTransaction(db, (tx) => ensurePool(tx, poolId))
      return c.json({ poolId })
    })
    .post('/code-pools/:poolId/seed', async (c) => {
      const poolId = text.safeParse(c.req.param('poolId'))
      if (!poolId.success) throw new InvalidError('invalid_request', 'poolId is required')
      const { codes } = await bodyOf(c, Seed, 'codes must be non-empty')
      if (codes.every((code) => code.trim() === ''))
        throw new InvalidError('invalid_request', 'codes must be non-empty')
      try {
        return c.json(await seedPool(db, keys, poolId.data, codes))
      } catch (error) {
        if (error instanceof CodeError) throw new InvalidError('invalid_code', error.message)
        throw error
      }
    })
    .get('/mappings', async (c) => c.json(await listMappings(db)))
    .put('/mappings', async (c) => {
      const body = await bodyOf(c, NewMapping, 'seller, sku, poolId are required', { chainId: 'chainId must be > 0' })
      const mapping = { ...body, downloadUrlTemplate: body.downloadUrlTemplate || null }
      await withSeller(() => upsertCodeMapping(db, mapping))
      const [stored] = await listMappings(db, { chainId: body.chainId, seller: body.seller, sku: body.sku })
      return c.json(stored)
    })
    .delete('/mappings/:chainId/:seller/:sku', async (c) => {
      const { chainId, seller, sku } = c.req.param()
      if (!/^[1-9][0-9]{0,14}$/.test(chainId)) throw new InvalidError('invalid_chain', 'chainId must be > 0')
      if (!text.safeParse(sku).success) throw new InvalidError('invalid_request', 'sku is required')
      const revoked = await withSeller(() =>
        revokeCodeMapping(db, { chainId: Number(chainId), seller: normalizeAddress(seller), sku }),
      )
      if (!revoked) throw new NotFoundError('mapping_not_found', 'mapping not found')
      return c.json({ ok: true })
    })
}

async function withSeller<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof AddressError) throw new InvalidError('invalid_seller', 'Invalid seller address')
    throw error
  }
}

/** `wrong`: what is said of a member that is not as it should be; `otherwise` of all others. */
async function bodyOf<S extends z.ZodType>(
  c: Context,
  schema: S,
  otherwise: string,
  wrong: Record<string, string> = {},
): Promise<z.infer<S>> {
  let json: unknown
  try {
    json = JSON.parse(await c.req.text())
  } catch {
    throw new InvalidError('invalid_json', 'Invalid JSON body')
  }
  const parsed = schema.safeParse(json)
  if (parsed.success) return parsed.data
  const member = String(parsed.error.issues[0]!.path[0] ?? '')
  throw new InvalidError('invalid_request', wrong[member] ?? otherwise, { path: `/${member}` })
}
