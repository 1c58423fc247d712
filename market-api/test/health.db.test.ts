import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { freePort } from '@market/devstack/ports'
import { spawnTethered } from '@market/devstack/tether'
import { createTestDatabase } from '@market/testkit/testDatabase'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { generateSigningKey } from '../src/signIn/tokens.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

const main = new URL('../dist/main.js', import.meta.url).pathname

describe('a market', () => {
  let market: MarketApi
  beforeAll(async () => {
    market = await startMarketApi()
  })
  afterAll(() => market?.close())

  const metrics = async () => (await fetch(`${market.url}/metrics`)).text()

  it('market-api:A-193 has every family of the contract from the start, with every label, at 0', async () => {
    const text = await metrics()
    const type = (name: string) => new RegExp(`^# TYPE marketplace_${name} (\\w+)$`, 'm').exec(text)?.[1]
    const value = (name: string, label = '') =>
      new RegExp(`^marketplace_${name}\\{(?=[^}]*${label})[^}]*\\} (\\S+)$`, 'm').exec(text)?.[1]
    for (const name of [
      'orders_created_total',
      'orders_finalized_total',
      'payment_amount_crc_total',
      'payments_ineligible_token_total',
      'payments_undetermined_token_total',
      'gateway_trust_fetch_failures_total',
      'payments_reconciled_total',
      'fulfillment_reconciled_total',
      'fulfillment_reconcile_failed_total',
    ]) {
      expect([name, type(name), value(name)]).toEqual([name, 'counter', '0'])
    }
    for (const [name, label] of [
      ['payments_factory_divergence_total', 'mode="shadow"'],
      ['payments_factory_divergence_total', 'mode="enforced"'],
      ['fulfillment_total', 'outcome="succeeded"'],
      ['fulfillment_total', 'outcome="failed"'],
      ['schema_collation_migration_failures_total', 'store="orders"'],
      ['schema_collation_migration_failures_total', 'store="payments"'],
    ] as const) {
      expect([name, label, type(name), value(name, label)]).toEqual([name, label, 'counter', '0'])
    }
    expect([type('fulfillment_stranded'), value('fulfillment_stranded')]).toEqual(['gauge', '0'])
    expect([type('order_value_crc'), value('order_value_crc_count')]).toEqual(['histogram', '0'])
    for (let le = 1; le <= 16_384; le *= 2) expect(value('order_value_crc_bucket', `le="${le}"`), `${le}`).toBe('0')
  })

  it('fulfilment:F-34 counts a complete order that has waited a quarter of an hour for goods as stranded, once', async () => {
    const { db } = market.ctx
    const order = async (id: string, minutes: number, jobs: ('done' | 'needs_attention')[]) => {
      const at = new Date(Date.now() - minutes * 60_000)
      await db
        .insertInto('baskets')
        .values({ basket_id: `b-${id}`, basket_json: {} as never, expires_at: at })
        .execute()
      await db
        .insertInto('orders')
        .values({
          order_id: id,
          basket_id: `b-${id}`,
          chain_id: 100,
          buyer_address: '0xab',
          order_json: {} as never,
          status: 'https://schema.org/PaymentComplete',
          payment_reference: `r-${id}`,
          price_wei: '1',
          expected_gateways: ['0xab'],
          payment_due_by: at,
          paid_at: at,
          confirmed_at: at,
          finalized_at: at,
        })
        .execute()
      for (const [i, status] of jobs.entries()) {
        await db
          .insertInto('fulfillment_jobs')
          .values({
            order_id: id,
            chain_id: 100,
            seller_address: `0x${i}`,
            offer_type: 'codedispenser',
            trigger: 'finalized',
            line_indexes: [0],
            idempotency_key: `${id}-${i}`,
            status,
          })
          .execute()
      }
    }
    await order('waiting', 20, ['needs_attention', 'needs_attention', 'done'])
    await order('delivered', 20, ['done'])
    await order('fresh', 5, ['needs_attention'])
    expect(await metrics()).toMatch(/^marketplace_fulfillment_stranded\{.*\} 1$/m)
  })

  it('market-api:A-191 says whether its database answers', async () => {
    const health = async () => {
      const response = await fetch(`${market.url}/health`)
      return [response.status, await response.json()]
    }
    const name = new URL(market.ctx.config.POSTGRES_CONNECTION.reveal()).pathname.slice(1)
    const server = postgres(`${inject('postgresUrl')}/postgres`, { max: 1 })
    try {
      expect(await health()).toEqual([200, { ok: true, checks: { postgres: 'ok' } }])
      await server.unsafe(`alter database ${name} allow_connections false`)
      await server`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${name}`
      expect(await health()).toEqual([503, { ok: false, checks: { postgres: 'failed' } }])
      // What is counted is still there for the person on call.
      expect(await metrics()).toContain('marketplace_orders_created_total')
    } finally {
      await server.unsafe(`alter database ${name} allow_connections true`)
      await server.end()
    }
    expect(await health()).toMatchObject([200, { ok: true }])
  })
})

describe('the process', () => {
  it('market-api:A-192 is not ready while IPFS is not, and says so', async () => {
    let kuboStatus = 200
    const kubo = createServer((_, response) => response.writeHead(kuboStatus).end('{"Version":"0.39.0"}'))
    await new Promise<void>((resolve) => kubo.listen(0, '127.0.0.1', resolve))
    const database = await createTestDatabase()
    const port = await freePort()
    const lines: string[] = []
    const child = await spawnTethered({
      command: process.execPath,
      args: [main],
      stopSignal: 'SIGTERM',
      onLine: (line) => lines.push(line),
      env: {
        PATH: process.env.PATH,
        PORT: String(port),
        POSTGRES_CONNECTION: database.url,
        PUBLIC_BASE_URL: `http://127.0.0.1:${port}`,
        MARKET_AUTH_ALLOWED_DOMAINS: '*',
        MARKET_JWT_PRIVATE_KEY: await generateSigningKey(),
        CIRCLES_SERVICE_KEY: 'a-service-key-for-tests',
        IPFS_RPC_URL: `http://127.0.0.1:${(kubo.address() as AddressInfo).port}`,
        // Nobody listens there, which is another reason not to be ready.
        RPC: 'http://127.0.0.1:1',
        RPC_TIMEOUT_MS: '500',
      },
    })
    try {
      const ready = async () => {
        const response = await fetch(`http://127.0.0.1:${port}/health/ready`)
        return { status: response.status, cache: response.headers.get('cache-control'), text: await response.text() }
      }
      await until('it answers, IPFS well', async () => !(await ready()).text.includes('ipfs'))
      kuboStatus = 500
      expect(await ready()).toEqual({
        status: 503,
        cache: 'no-store',
        text: expect.stringMatching(/^Unhealthy: ipfs(, [a-z-]+)*$/),
      })
      await ready()
      kuboStatus = 200
      expect((await ready()).text).not.toContain('ipfs')
      // Why is in the log, once, however often it is asked; and when it was over.
      const told = () => lines.filter((line) => line.includes('"check":"ipfs"')).map((line) => JSON.parse(line))
      await until('the log has it', () => told().length >= 2)
      expect(told()).toEqual([
        expect.objectContaining({
          level: 'error',
          msg: 'check failed',
          err: expect.objectContaining({ message: 'Kubo answered version with 500' }),
        }),
        expect.objectContaining({ level: 'info', msg: 'check recovered' }),
      ])
    } finally {
      await child.stop(5000)
      kubo.close()
      kubo.closeAllConnections()
      await database.drop()
    }
  })
})
