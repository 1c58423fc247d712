import {
  FULFILLMENT_REQUEST_NAMES,
  FulfillmentRequest,
  IDEMPOTENCY_KEY_HEADER,
  type LineResult,
} from '@market/contracts/fulfillment'
import { AddressError, normalizeAddress } from '@market/contracts/address'
import { Availability } from '@market/contracts/statuses'
import { AppError, InvalidError } from '@market/kit/errors'
import { createApp, probes } from '@market/kit/http'
import type { Metrics } from '@market/kit/metrics'
import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { sql } from 'kysely'
import { adapterError } from './adapterError.ts'
import { requireServiceKey } from './serviceKey.ts'
import { createTogether } from './together.ts'
import { type Gate, type RunsDatabase, runKeyOf, runOnce } from './runGate.ts'

const MAX_BODY_BYTES = 256 * 1024
const RUN_SECONDS = [0.005, 0.025, 0.1, 0.5, 2.5, 10, 30, 120]

export type AdapterContext<DB extends RunsDatabase, Mapping, Result extends LineResult> = Omit<
  Gate<DB, Mapping, Result>,
  'onEnd'
> & {
  serviceKey: string
  /** Of callers that don't know the new one yet. */
  previousServiceKey?: string | undefined
  metrics: Metrics
  stopping: () => boolean
}

/** The HTTP face of an adapter: `/inventory`, `/availability`, `/fulfill` behind the service key, and the probes. */
export function adapterApp<DB extends RunsDatabase, Mapping, Result extends LineResult>(
  ctx: AdapterContext<DB, Mapping, Result>,
) {
  const { delivery, db, log, metrics, failpoint } = ctx
  const outcomes = metrics.counter('adapter_fulfillment_total', 'Answers to /fulfill by status', ['status'])
  const durations = metrics.histogram(
    'adapter_run_seconds',
    'Duration of runs that were worked on, from the request to the stored end, whether or not the caller waited for it',
    RUN_SECONDS,
  )
  const gate: Gate<DB, Mapping, Result> = { ...ctx, onEnd: (seconds) => durations.observe(seconds) }
  if ('fulfillTogether' in ctx.delivery && ctx.delivery.fulfillTogether) gate.together = createTogether(gate)

  const lookUp = async (c: Context) => {
    const { chainId, seller } = pathKey(c)
    const sku = c.req.param('sku')?.trim().toLowerCase()
    if (!sku) throw new InvalidError('missing_sku', 'Missing sku')
    const mapping = UNSTORABLE.test(sku)
      ? undefined
      : (await delivery.findMappings(db, chainId, seller, [sku])).get(sku)
    if (mapping === undefined) {
      throw new AppError(404, 'mapping_not_found', 'No mapping for seller/sku', { chainId, seller, sku })
    }
    return delivery.inventory(db, mapping)
  }

  const keyHolder = requireServiceKey(ctx.serviceKey, ctx.previousServiceKey)
  const contract = new Hono()
    .get('/inventory/:chainId/:seller/:sku', keyHolder, async (c) =>
      c.json({ '@type': 'QuantitativeValue', value: await lookUp(c), unitCode: 'C62' }),
    )
    .get('/availability/:chainId/:seller/:sku', keyHolder, async (c) =>
      c.json((await lookUp(c)) > 0 ? Availability.inStock : Availability.outOfStock),
    )
    .post(
      '/fulfill/:chainId/:seller',
      keyHolder,
      bodyLimit({
        maxSize: MAX_BODY_BYTES,
        onError: (c) => {
          // The server cuts the connection when the rest of the body keeps coming; the next request must not be on it.
          c.header('Connection', 'close')
          throw new InvalidError('body_too_large', `Body exceeds ${MAX_BODY_BYTES} bytes`, undefined, 413)
        },
      }),
      async (c) => {
        const { chainId, seller } = pathKey(c)
        const request = await parseRequest(c)
        const key = runKeyOf(chainId, seller, request, c.req.header(IDEMPOTENCY_KEY_HEADER))
        const { orderId, paymentReference } = request
        const run = { key, chainId, seller, orderId, paymentReference, request }
        const answer = await runOnce(gate, run)
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
  const chain = c.req.param('chainId') ?? ''
  const chainId = /^[0-9]{1,15}$/.test(chain) ? Number(chain) : 0
  if (chainId === 0) throw new InvalidError('invalid_chain', 'chainId must be > 0')
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
  const parsed = FulfillmentRequest.safeParse(withKnownNames(json))
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw invalid(issue.path.length === 0 ? 'Invalid JSON body' : issue.message, `/${issue.path.join('/')}`)
  }
  const { items, lineIndexes } = parsed.data
  // Two items under one index would be given the same goods.
  if (lineIndexes && (lineIndexes.length !== items.length || new Set(lineIndexes).size !== items.length)) {
    throw invalid('lineIndexes must name each item once', '/lineIndexes')
  }
  if (lineIndexes?.some((index) => index > MAX_LINE_INDEX)) throw invalid('lineIndexes are too large', '/lineIndexes')
  if (textsOf(parsed.data).some((text) => UNSTORABLE.test(text))) {
    throw invalid('Text must not hold NUL or half a surrogate pair', '/')
  }
  return parsed.data
}

const invalid = (message: string, path: string) => new InvalidError('invalid_request', message, { path })

/** Of the databases' `integer`. */
const MAX_LINE_INDEX = 2 ** 31 - 1

/** What JSON can say and Postgres can't keep. */
const UNSTORABLE = /[\0\p{Cs}]/u

const textsOf = (value: unknown): string[] =>
  typeof value === 'string' ? [value] : Object.values(value ?? {}).flatMap(textsOf)

const NAMES = new Map(FULFILLMENT_REQUEST_NAMES.map((name) => [name.toLowerCase(), name]))

/** Member names of the request and of what is in it are matched without case, as the older adapters did (fulfilment.md 7). */
function withKnownNames(value: unknown, depth = 0): unknown {
  if (value === null || typeof value !== 'object' || depth > REQUEST_DEPTH) return value
  if (Array.isArray(value)) return value.map((member) => withKnownNames(member, depth + 1))
  return Object.fromEntries(
    Object.entries(value).map(([sent, member]) => [
      NAMES.get(sent.toLowerCase()) ?? sent,
      withKnownNames(member, depth + 1),
    ]),
  )
}

/** The members of one of the items. */
const REQUEST_DEPTH = 2
