import { DEMO_CODE_SKU, demoOperator, demoSeller } from '@market/dev-chain/demo'
import type { RunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { signedInBuyer } from './buyer.ts'
import { startDemoMarket } from './demoMarket.ts'
import { runOps } from './opsCommand.ts'

// `ops jobs` and `ops explain` beside a market that runs: what a person is told to do has the buyer get the goods.

let market: RunningMarket
let database: postgres.Sql

beforeAll(async () => {
  market = await startDemoMarket()
  database = postgres(market.connections.market, { max: 1 })
})
afterAll(async () => {
  await database?.end()
  await market?.remove()
})

const ops = (...args: string[]) =>
  runOps(
    {
      USER: 'grace',
      OPS_MARKET_URL: market.connections.market,
      OPS_CODEDISP_URL: market.connections.codedisp,
      ADAPTER_SECRETS_KEY: market.secrets.adapterSecretsKey,
    },
    ...args,
  )
/** Every test reads what it asserts. */
async function opsJson(...args: string[]): Promise<Record<string, any>> {
  const { code, stdout } = await ops('--json', ...args)
  return { code, ...(JSON.parse(stdout) as object) }
}

/** Takes a sku's route away, as if nobody had made it. */
const withoutRoute = () => database`delete from market_service_routes where sku = ${DEMO_CODE_SKU}`
const poolOf = async (codes: postgres.Sql) => {
  const [row] = await codes`select pool_id from code_mappings where sku = ${DEMO_CODE_SKU}`
  return String(row!.pool_id)
}
const withCodes = async <T>(work: (codes: postgres.Sql) => Promise<T>): Promise<T> => {
  const codes = postgres(market.connections.codedisp, { max: 1 })
  return work(codes).finally(() => codes.end())
}

/** An order that is final and whose only job waits for the reason. */
async function waitingFor(reason: string) {
  const buyer = await signedInBuyer(market.marketUrl)
  const { orderId } = await buyer.checkOut(demoOperator, demoSeller, DEMO_CODE_SKU)
  return {
    buyer,
    orderId,
    async paid(): Promise<string> {
      await buyer.pay(market.rpcUrl, orderId)
      return until(`its job waits: ${reason}`, async () => {
        const { jobs } = await opsJson('jobs', 'list', '--order', orderId, '--reason', reason)
        return jobs.length === 1 && String(jobs[0].jobId)
      })
    },
  }
}

it('fulfilment:F-39 has a person find out why an order waits, make its route, and deliver it', async () => {
  const { buyer, orderId, paid } = await waitingFor('route_not_found')
  await withoutRoute()
  const jobId = await paid()

  const list = await ops('jobs', 'list')
  expect(list).toMatchObject({ code: 0, stderr: '' })
  expect(list.stdout).toMatch(/^needs_attention +route_not_found +1 /m)
  expect(list.stdout).toContain(orderId)

  const explained = await ops('explain', orderId)
  expect(explained.stdout).toMatch(/verdict +waits for a person/)
  const mapping = `npm run ops -- mapping-codedisp 100 ${demoSeller} ${DEMO_CODE_SKU} <pool>`
  expect(explained.stdout).toContain(mapping)
  expect(explained.stdout).toContain(`npm run ops -- jobs retry ${jobId}`)

  // Said too early, it comes back and says the same again.
  expect(await ops('jobs', 'retry', jobId)).toMatchObject({ code: 0, stdout: expect.stringContaining('updated 1') })
  await until('it waits again', async () => {
    const { job } = await opsJson('jobs', 'show', jobId)
    return job.status === 'needs_attention' && job.attempts === 1
  })

  // To the letter as it was told.
  const pool = await withCodes(poolOf)
  const told = mapping.replace('npm run ops -- ', '').replace('<pool>', pool).split(' ')
  expect(await ops(...told)).toMatchObject({ code: 0 })
  expect(await ops('jobs', 'retry', jobId, '--reason', 'route made')).toMatchObject({ code: 0 })
  await until('the buyer has it', async () => (await buyer.market.order(orderId)).outbox.length > 0)

  const after = await ops('explain', orderId)
  expect(after.stdout).toMatch(/verdict +delivered/)
  expect(after.stdout.replaceAll(/\s+/g, ' ')).toContain('tried again by grace, because: route made')
  expect((await ops('jobs', 'list')).stdout).toContain('No job waits.')
  const [code] = (await buyer.market.order(orderId)).outbox.map(({ payload }) => (payload.codes as string[])[0]!)
  expect(code).toBeTruthy()
  for (const args of [
    ['explain', orderId],
    ['jobs', 'show', jobId],
    ['--json', 'explain', orderId],
  ]) {
    expect((await ops(...args)).stdout).not.toContain(code)
  }
  expect((await ops('jobs', 'show', jobId, '--reveal')).stdout).toContain(code)
})

it('has a person deliver by hand what can not be delivered otherwise, or give it up', async () => {
  const handed = await waitingFor('route_not_found')
  const given = await waitingFor('route_not_found')
  await withoutRoute()
  const jobId = await handed.paid()
  const other = await given.paid()

  const message = 'Your code is in your mail.'
  const resolved = await ops('jobs', 'resolve', jobId, '--reason', 'ticket 812', '--message', message)
  expect(resolved).toMatchObject({ code: 0, stdout: expect.stringContaining(`updated ${jobId} ${handed.orderId}`) })
  const { outbox } = await handed.buyer.market.order(handed.orderId)
  expect(outbox).toMatchObject([{ payload: { '@type': 'Message', text: message } }])

  expect(await ops('jobs', 'cancel', other, '--reason', 'refunded')).toMatchObject({ code: 0 })
  const answer = await ops('jobs', 'retry', other)
  expect(answer).toMatchObject({ code: 1, stdout: expect.stringContaining('is cancelled, and that is final') })
  expect((await ops('explain', given.orderId)).stdout).toMatch(/verdict +not delivered: an operator cancelled/)
  expect((await ops('jobs', 'list')).stdout).toContain('No job waits.')
})
