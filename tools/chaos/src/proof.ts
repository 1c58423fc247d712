import { readOrders, type SeenOrder } from './buyers.ts'
import { isPaid, type Order, type Pool, PRODUCTS } from './shop.ts'
import type { World } from './world.ts'

type Job = {
  job_id: string
  order_id: string
  seller_address: string
  trigger: string
  line_indexes: number[]
  idempotency_key: string
  status: string
  reason: string | null
}
type Code = { pool_id: string; state: string; run_key: string | null; line_index: number | null }
/** What is known when everything is still. */
export type Evidence = {
  orders: readonly Order[]
  pools: readonly Pool[]
  jobs: readonly Job[]
  /** Each pool's in the order in which they were seeded, which is how a code is known that lies sealed. */
  codes: readonly Code[]
  settled: readonly { order_id: string; confirmed: boolean; finalized: boolean }[]
  seen: readonly SeenOrder[]
  /** By pool, what the dispenser says it has for sale. */
  stock: Readonly<Record<string, number>>
}

export type Verdict = {
  lines: number
  deliveries: number
  waiting: Record<string, number>
  /** Each begins with the order, line or pool concerned. */
  duplicates: string[]
  losses: string[]
  /** Anything else that must not be. */
  wrong: string[]
}

export async function gatherEvidence(
  world: World,
  orders: readonly Order[],
  pools: readonly Pool[],
): Promise<Evidence> {
  const jobs = await world.sql<Job[]>`
    select job_id, order_id, seller_address, trigger, line_indexes, idempotency_key, status, reason from fulfillment_jobs`
  const codes = await world.codes<Code[]>`
    select pool_id, state, run_key, line_index from code_pool_codes order by code_id`
  const settled = await world.sql<Evidence['settled'][number][]>`
    select order_id, confirmed_at is not null as confirmed, finalized_at is not null as finalized from orders`
  const ofBuyer = new Map<string, string[]>()
  for (const { buyer, orderId } of orders) push(ofBuyer, buyer, orderId)
  const seen: SeenOrder[] = []
  for (const [i, [buyer, theirs]] of [...ofBuyer].entries()) {
    const { url } = world.replicas[i % world.replicas.length]!
    seen.push(...(await readOrders(world, url, buyer, theirs)))
  }
  const stock: Record<string, number> = {}
  for (const { seller, sku, pool } of PRODUCTS) {
    if (pool !== null) stock[pool] = await world.inventory(seller, sku)
  }
  return { orders, pools, jobs, codes, settled, seen, stock }
}

/** Holds what happened against what was paid. Pure. */
export function judge({ orders, pools, jobs, codes, settled, seen, stock }: Evidence): Verdict {
  const verdict: Verdict = { lines: 0, deliveries: 0, waiting: {}, duplicates: [], losses: [], wrong: [] }
  const { duplicates, losses, wrong } = verdict

  /** By run and line: what the dispenser gave. */
  const given = new Map<string, string[]>()
  for (const { id, first, later } of pools) {
    const seeded = [...first, ...later]
    const rows = codes.filter(({ pool_id }) => pool_id === id)
    if (rows.length !== seeded.length) losses.push(`pool ${id}: ${seeded.length} codes seeded, ${rows.length} there`)
    const free = rows.filter(({ state }) => state === 'available').length
    if (stock[id] !== free) wrong.push(`pool ${id}: ${free} codes are free, its inventory says ${stock[id]}`)
    rows.forEach(({ state, run_key, line_index }, i) => {
      if (state === 'available') return
      if (state !== 'assigned') losses.push(`pool ${id}: code ${seeded[i]} is ${state}`)
      else push(given, `${run_key}/${line_index}`, seeded[i]!)
    })
  }

  const found = new Map(seen.map((order) => [order.orderId, order]))
  const holders = new Map<string, string[]>()
  for (const { orderId, outbox } of seen) {
    for (const { payload } of outbox) {
      for (const { lineIndex, codes: ofLine } of payload.lines)
        for (const code of ofLine) push(holders, code, `${orderId} line ${lineIndex}`)
      const all = payload.lines.flatMap((line) => line.codes)
      if (String(all) !== String(payload.codes)) wrong.push(`${orderId}: the answer's codes are not those of its lines`)
    }
  }
  for (const [code, by] of holders)
    if (by.length > 1) duplicates.push(`${by[0]}: code ${code} was given ${by.length} times, to ${by.join(', ')}`)

  const expected = new Set<string>()
  for (const order of orders) {
    const { orderId } = order
    const ofOrder = jobs.filter((job) => job.order_id === orderId)
    const state = settled.find(({ order_id }) => order_id === orderId)
    for (const { trigger, job_id } of ofOrder)
      if (trigger === 'confirmed' ? !state?.confirmed : !state?.finalized)
        wrong.push(`${orderId}: job ${job_id} is there before the order is ${trigger}`)
    const visible = found.get(orderId)
    if (!visible) losses.push(`${orderId}: its buyer does not find it`)
    if (!isPaid(order)) {
      if (ofOrder.length > 0 || visible?.outbox.length)
        wrong.push(`${orderId}: it is not paid, and has jobs or deliveries`)
      continue
    }
    if (!state?.finalized) losses.push(`${orderId}: paid on chain and not complete`)
    order.lines.forEach(({ seller, trigger, quantity, pool }, lineIndex) => {
      verdict.lines += 1
      const name = `${orderId} line ${lineIndex}`
      const itsJobs = ofOrder.filter((job) => job.line_indexes.includes(lineIndex))
      const job = itsJobs[0]
      if (!job) return void losses.push(`${name}: paid, and has no job`)
      if (itsJobs.length > 1) duplicates.push(`${name}: ${itsJobs.length} jobs deliver it`)
      if (job.seller_address !== seller || job.trigger !== trigger) wrong.push(`${name}: its job is another's`)
      const key = `${job.idempotency_key}/${lineIndex}`
      expected.add(key)
      const got = given.get(key) ?? []
      const shown = (visible?.outbox ?? []).flatMap(({ payload }) =>
        payload.lines.filter((line) => line.lineIndex === lineIndex).flatMap((line) => line.codes),
      )
      const ended = job.status === 'done' || job.status === 'partial'
      if (got.length > quantity) duplicates.push(`${name}: ${quantity} ordered, ${got.length} codes given out`)
      else if (got.length > 0 && got.length < quantity)
        wrong.push(`${name}: ${quantity} ordered, only ${got.length} given`)
      if (shown.length > 0 || ended) {
        const hidden = got.filter((code) => !shown.includes(code))
        const foreign = shown.filter((code) => !got.includes(code))
        if (hidden.length > 0) losses.push(`${name}: given out, and its buyer does not see ${hidden.join(', ')}`)
        if (foreign.length > 0)
          wrong.push(`${name}: its buyer sees ${foreign.join(', ')}, given to somebody else or nobody`)
      }
      if (shown.length === quantity) {
        verdict.deliveries += 1
        if (!ended) wrong.push(`${name}: delivered, and its job is ${job.status}`)
      } else if (job.status === 'done') {
        losses.push(`${name}: its job is done, and its buyer has ${shown.length} codes of ${quantity}`)
      } else if (!job.reason || ['pending', 'running'].includes(job.status)) {
        losses.push(`${name}: neither delivered nor waiting for a reason: ${job.status} ${job.reason ?? ''}`)
      } else {
        const why = job.status === 'partial' ? 'depleted' : job.reason
        verdict.waiting[why] = (verdict.waiting[why] ?? 0) + 1
      }
      if (pool === null && shown.length > 0) wrong.push(`${name}: delivered by nobody who could`)
    })
  }
  for (const [key, list] of given)
    if (!expected.has(key)) wrong.push(`${key}: ${list.length} codes given out for no paid line`)
  return verdict
}

function push(map: Map<string, string[]>, key: string, value: string) {
  const list = map.get(key)
  if (list) list.push(value)
  else map.set(key, [value])
}
