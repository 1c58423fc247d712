import { sql } from 'kysely'
import { expect, it } from 'vitest'
import { createReconciler } from '../src/fulfillment/reconcileJobs.ts'
import { E18, paymentMarkets } from './paymentWorld.ts'

const start = paymentMarkets()
const E = 10n * E18

async function completeOrder() {
  const world = await start()
  const order = await world.place()
  world.chain.mine(world.paying(order, E))
  await world.poll()
  await world.pollAt(world.chain.head() + 20)
  expect(await world.standing(order)).toBe('complete')
  await sql`delete from leases where name = 'fulfillment-reconcile'`.execute(world.db)
  const errors: object[] = []
  world.ctx.log = { ...world.ctx.log, error: (fields) => void errors.push(fields as object) }
  const reconcile = createReconciler(world.ctx)
  const jobsOf = () => world.db.selectFrom('fulfillment_jobs').selectAll().where('order_id', '=', order.orderId)
  const pass = async () => {
    errors.length = 0
    await reconcile(new AbortController().signal)
    const alarmed = errors.some((fields) => (fields as { orders?: string[] }).orders?.includes(order.orderId))
    return { alarmed, lines: await world.metric('fulfillment_lines_without_job') }
  }
  return { world, order, pass, jobsOf }
}

it('finds nothing where every paid line has its job', async () => {
  const { world, pass } = await completeOrder()
  const unpaid = await world.place()
  expect(await pass()).toEqual({ alarmed: false, lines: 0 })
  expect(unpaid.orderId).toBeTruthy()
})

it('alarms for a paid line without a job until it has one again', async () => {
  const { world, order, pass, jobsOf } = await completeOrder()
  const job = await jobsOf().executeTakeFirstOrThrow()
  await world.db.deleteFrom('fulfillment_job_events').where('job_id', '=', job.job_id).execute()
  await world.db.deleteFrom('fulfillment_jobs').where('order_id', '=', order.orderId).execute()
  expect(await pass()).toEqual({ alarmed: true, lines: 1 })
  expect(await pass()).toEqual({ alarmed: true, lines: 1 })
  await world.db
    .insertInto('fulfillment_jobs')
    .values(job as never)
    .execute()
  expect(await pass()).toEqual({ alarmed: false, lines: 0 })
})

it('alarms for a job that is said to be pending and that no worker comes to', async () => {
  const { world, order, pass } = await completeOrder()
  const set = (status: 'pending' | 'needs_attention') =>
    world.db
      .updateTable('fulfillment_jobs')
      .set({ status, next_attempt_at: null })
      .where('order_id', '=', order.orderId)
      .execute()
  await set('needs_attention')
  expect(await pass()).toEqual({ alarmed: false, lines: 0 })
  await set('pending')
  // Its history is not new any more: what is found, is found in a pass over all of it.
  expect(await pass()).toEqual({ alarmed: true, lines: 1 })
})
