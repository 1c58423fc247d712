import { FulfillmentRequest, IDEMPOTENCY_KEY_HEADER } from '@market/contracts/fulfillment'
import { AddressError, normalizeAddress } from '@market/contracts/address'
import { Availability } from '@market/contracts/statuses'
import { InvalidError, NotFoundError } from '@market/kit/errors'
import type { Failpoint } from '@market/kit/failpoint'
import { createApp, type ErrorBody, probes } from '@market/kit/http'
import type { Log } from '@market/kit/log'
import type { Metrics } from '@market/kit/metrics'
import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { type Kysely, sql } from 'kysely'
import type { Adapter } from './adapter.ts'
import { requireServiceKey } from './serviceKey.ts'
import { type RunsDatabase, runKeyOf, runOnce } from './runGate.ts'

const MAX_BODY_BYTES = 256 * 1024

/** Callers of the older adapters read `error`; `code` and `requestId` come beside it. */
const adapterError: ErrorBody = (error, requestId) => ({
  contentType: 'application/json; charset=utf-8',
  body: { error: error.message, code: error.code, ...error.details, requestId },
})

export type AdapterContext<DB extends RunsDatabase, Mapping> = {
  adapter: Adapter<DB, Mapping>
  db: Kysely<DB>
  serviceKey: string
  log: Log
  metrics: Metrics
  failpoint: Failpoint
  stopping: () => boolean
}

/** The HTTP face of an adapter: `/inventory`, `/availability`, `/fulfill` behind the service key, and the probes. */
export function adapterApp<DB extends RunsDatabase, Mapping>(ctx: AdapterContext<DB, Mapping>) {
  const { adapter, db, log, metrics, failpoint } = ctx
  const outcomes = metrics.counter('adapter_fulfillment_total', 'Answers to /fulfill by status', ['status'])

  const lookUp = async (c: Context) => {
    const { chainId, seller } = pathKey(c)
    const sku = c.req.param('sku')?.trim().toLowerCase()
    if (!sku) throw new InvalidError('missing_sku', 'Missing sku')
    const mapping = (await adapter.findMappings(db, chainId, seller, [sku])).get(sku)
    if (mapping === undefined) throw new NotFoundError('mapping_not_found', 'No mapping for seller/sku')
    return adapter.inventory(db, mapping)
  }

  const contract = new Hono()
    .use(requireServiceKey(ctx.serviceKey))
    .get('/inventory/:chainId/:seller/:sku', async (c) =>
      c.json({ '@type': 'QuantitativeValue', value: await lookUp(c), unitCode: 'C62' }),
    )
    .get('/availability/:chainId/:seller/:sku', async (c) =>
      c.json((await lookUp(c)) > 0 ? Availability.inStock : Availability.outOfStock),
    )
    .post(
      '/fulfill/:chainId/:seller',
      bodyLimit({
        maxSize: MAX_BODY_BYTES,
        onError: () => {
          throw new InvalidError('body_too_large', `Body exceeds ${MAX_BODY_BYTES} bytes`, undefined, 413)
        },
      }),
      async (c) => {
        const { chainId, seller } = pathKey(c)
        const request = await parseRequest(c)
        const key = runKeyOf(chainId, seller, request, c.req.header(IDEMPOTENCY_KEY_HEADER))
        const { orderId, paymentReference } = request
        const answer = await runOnce(adapter, db, failpoint, { key, chainId, seller, orderId, paymentReference }, request)
        failpoint('adapter.committed')
        outcomes.inc({ status: String(answer.body.status) })
        log.info({ orderId, runKey: key, status: answer.body.status }, 'fulfill answered')
        if (answer.httpStatus === 202) c.header('Retry-After', '1')
        return c.json(answer.body, answer.httpStatus)
      },
    )

  const app = createApp(log, metrics, adapterError)
  app.route(
    '/',
    probes({
      metrics,
      pingDatabase: () => sql`select 1`.execute(db),
      notReady: async () => (ctx.stopping() ? ['stopping'] : []),
    }),
  )
  app.route('/', contract)
  return app
}

function pathKey(c: Context): { chainId: number; seller: string } {
  const chainId = Number(c.req.param('chainId'))
  if (!Number.isSafeInteger(chainId) || chainId <= 0) throw new InvalidError('invalid_chain', 'chainId must be > 0')
  try {
    return { chainId, seller: normalizeAddress(c.req.param('seller') ?? '') }
  } catch (error) {
    if (error instanceof AddressError) throw new InvalidError('invalid_seller', 'Invalid seller address')
    throw error
  }
}

async function parseRequest(c: Context): Promise<FulfillmentRequest> {
  let json: unknown
  try {
    json = JSON.parse(await c.req.text())
  } catch {
    throw new InvalidError('invalid_json', 'Invalid JSON body')
  }
  const parsed = FulfillmentRequest.safeParse(lowerCaseMembers(json))
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  throw new InvalidError('invalid_request', issue.path.length === 0 ? 'Invalid JSON body' : issue.message, {
    path: `/${issue.path.join('/')}`,
  })
}

const MEMBERS = new Map(
  [...Object.keys(FulfillmentRequest.shape), 'sku', 'quantity'].map((name) => [name.toLowerCase(), name]),
)

/** Member names are matched without case, as the older adapters did (fulfilment.md 7). */
function lowerCaseMembers(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(lowerCaseMembers)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => [MEMBERS.get(name.toLowerCase()) ?? name, lowerCaseMembers(member)]),
  )
}
