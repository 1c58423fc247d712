import { parseEip155Id } from '@market/contracts/address'
import { type Selectable, sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'
import type { FulfillmentCall } from '../serviceRoutes/adapterClient.ts'
import { findRoutes, routeKey, type ServiceRoute } from '../serviceRoutes/resolveRoute.ts'
import type { Job } from './claimJobs.ts'
import { UNROUTED } from './planJobs.ts'

type OrderSnapshot = Selectable<MarketDatabase['orders']>['order_json']
type Line = { line_index: number; sku: string; quantity: number }

/** A claimed job with whom to ask for what. */
export type Errand = {
  job: Job
  lines: Line[]
  /** Undefined: its lines have no route, or not one and the same. */
  url: string | undefined
  order: OrderSnapshot
}

/** Looks up what these jobs need to be asked for, however many in three reads. */
export async function prepareErrands(ctx: MarketContext, jobs: readonly Job[]): Promise<Errand[]> {
  if (jobs.length === 0) return []
  const { rows } = await sql<Line & { job_id: string; order_json: OrderSnapshot | null }>`
    select j.job_id, l.line_index, l.sku, l.quantity,
      case when l.line_index = j.line_indexes[1] then o.order_json end as order_json
    from fulfillment_jobs j
    join order_lines l on l.order_id = j.order_id and l.line_index = any(j.line_indexes)
    join orders o on o.order_id = j.order_id
    where j.job_id = any(${jobs.map((job) => job.job_id)}::uuid[])
    order by j.job_id, l.line_index`.execute(ctx.db)
  const linesOf = new Map<string, typeof rows>(jobs.map((job) => [job.job_id, []]))
  for (const row of rows) linesOf.get(row.job_id)!.push(row)
  const routes = await routesOf(ctx, jobs, linesOf)
  return jobs.map((job) => {
    const lines = linesOf.get(job.job_id)!
    const order = lines.find((line) => line.order_json !== null)?.order_json
    const found = lines.map((line) => routes.get(`${job.chain_id} ${routeKey(job.seller_address, line.sku)}`))
    // One whose lines are not there is for a person, and no reason to stop for the others.
    const isWhole = lines.length === job.line_indexes.length && order !== undefined
    return { job, lines, order: order!, url: isWhole ? urlOf(job, found) : undefined }
  })
}

async function routesOf(ctx: MarketContext, jobs: readonly Job[], linesOf: Map<string, Line[]>) {
  const routes = new Map<string, ServiceRoute>()
  for (const chainId of new Set(jobs.map((job) => job.chain_id))) {
    const keys = jobs.flatMap((job) => {
      if (job.chain_id !== chainId) return []
      return linesOf.get(job.job_id)!.map(({ sku }) => ({ seller: job.seller_address, sku }))
    })
    for (const [key, route] of await findRoutes(ctx, Number(chainId), keys)) routes.set(`${chainId} ${key}`, route)
  }
  return routes
}

/**
 * Routes are looked up again at execution; the offer type stays what it was when the job was made. A job that had none
 * then takes the one its lines have got since, if that is one for all of them.
 */
function urlOf(job: Job, routes: (ServiceRoute | undefined)[]): string | undefined {
  const urls = routes.map((route) =>
    job.offer_type === UNROUTED || route?.offerType === job.offer_type ? route?.fulfillmentUrl : undefined,
  )
  return new Set(urls).size === 1 ? urls[0] : undefined
}

/** Only this job's lines, and of the buyer only what the offers of these lines ask for (fulfilment.md 7, F1). */
function requestBody({ job, lines, order }: Errand): object {
  const slots = new Set(lines.flatMap((line) => order.acceptedOffer[line.line_index]?.requiredSlots ?? []))
  const asks = (root: string) => [...slots].some((slot) => slot === root || slot.startsWith(`${root}.`))
  const { givenName, familyName } = order.customer
  const name = [givenName, familyName].filter((part) => part?.trim()).join(' ')
  return {
    orderId: job.order_id,
    paymentReference: order.paymentReference,
    buyer: parseEip155Id(order.customer['@id'])?.address ?? null,
    customer: asks('customer') ? { name: name || null, givenName, familyName } : null,
    shippingAddress: asks('shippingAddress') ? order.shippingAddress : null,
    billingAddress: asks('billingAddress') ? order.billingAddress : null,
    contactPoint: asks('contactPoint') ? order.customerContact : null,
    items: lines.map(({ sku, quantity }) => ({ sku, quantity })),
    lineIndexes: lines.map((line) => line.line_index),
    trigger: job.trigger,
    idempotencyKey: job.idempotency_key,
  }
}

/** Undefined when there is nobody to ask. */
export async function askAdapter(ctx: MarketContext, errand: Errand): Promise<FulfillmentCall | undefined> {
  const { job, url } = errand
  return url === undefined ? undefined : ctx.adapters.fulfill(url, job.idempotency_key, requestBody(errand))
}
