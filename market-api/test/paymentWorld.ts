import { orderId as newOrderId, paymentReference as newReference } from '@market/contracts/ids'
import { OrderStatus } from '@market/contracts/statuses'
import { inTransaction } from '@market/kit/db'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll } from 'vitest'
import type { MarketContext } from '../src/context.ts'
import type { OrderSnapshot } from '../src/orders/order.ts'
import { insertOrder } from '../src/orders/store.ts'
import { pollPayments } from '../src/payments/pollPayments.ts'
import { createAdapterClient } from '../src/serviceRoutes/adapterClient.ts'
import { type Logged, recordingLog } from './recordingLog.ts'
import { GATEWAY, payment, startScriptedChain, transaction, trust } from './scriptedChain.ts'
import { startAdapter } from './shop.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

export const E18 = 10n ** 18n
export const BUYER = `0x${'b1'.repeat(20)}`
export const SELLER = `0x${'5e'.repeat(20)}`

export type Placed = { orderId: string; reference: string }
export type PaymentWorld = Awaited<ReturnType<typeof startWorld>>
/** Of a test file: markets on one database, each with a chain of its own that is empty but for the gateway's trust. */
export function paymentMarkets() {
  let base: MarketApi
  let chainId = 1000
  const open: PaymentWorld[] = []
  beforeAll(async () => {
    base = await startMarketApi()
  })
  afterEach(async () => {
    for (const world of open.splice(0).toReversed()) await world.close()
  })
  afterAll(() => base?.close())

  return async (env: Record<string, string> = {}): Promise<PaymentWorld> => {
    await freeLease(base.ctx)
    const world = await startWorld(base.ctx.config.POSTGRES_CONNECTION.reveal(), (chainId += 1), env)
    open.push(world)
    return world
  }
}

/** As if its holder had been silent for longer than the lease. */
export const freeLease = ({ db }: MarketContext) =>
  sql`update leases set expires_at = now() - interval '1 second' where name = 'payments'`.execute(db)

async function startWorld(databaseUrl: string, chainId: number, env: Record<string, string>) {
  const chain = await startScriptedChain(chainId)
  // Block 1; vectors begin later.
  chain.mine(transaction(trust()))
  const replicas: MarketApi[] = []
  const logged: Logged[] = []
  let adapter: Awaited<ReturnType<typeof startAdapter>> | undefined
  const log = recordingLog(logged)
  /** Another process of this market. */
  const replica = async (more: Record<string, string> = {}) => {
    const settings = { CHAIN_ID: String(chainId), RPC: chain.node, CIRCLES_RPC: chain.indexer, ...env, ...more }
    const started = await startMarketApi({ databaseUrl, env: settings, overrides: { log } })
    replicas.push(started)
    return started
  }
  const { ctx, url } = await replica()
  const { db } = ctx

  const world = {
    chain,
    chainId,
    ctx,
    url,
    db,
    logged,
    replica,
    poll: () => pollPayments(ctx),
    /** Blocks up to there, then a look. */
    async pollAt(head: number) {
      chain.mineTo(head)
      await pollPayments(ctx)
    },
    async close() {
      // Workers of other tests look at the same table.
      await db.updateTable('fulfillment_jobs').set({ next_attempt_at: null }).where('chain_id', '=', chainId).execute()
      adapter?.close()
      for (const started of replicas.toReversed()) await started.close()
      await chain.stop()
    },
    /** From now on an adapter delivers what SELLER sells, when a worker asks it. */
    async openAdapter() {
      adapter = await startAdapter()
      const offerType = `goods-${chainId}`
      await db
        .insertInto('offer_types')
        .values({
          offer_type: offerType,
          inventory_url_template: `${adapter.origin}/inventory/{chain_id}/{seller}/{sku}`,
          fulfillment_url_template: `${adapter.origin}/fulfill/{chain_id}/{seller}`,
        })
        .execute()
      await db
        .insertInto('market_service_routes')
        .values({ chain_id: chainId, seller_address: SELLER, sku: 'tea', offer_type: offerType, total_inventory: null })
        .execute()
      ctx.adapters = createAdapterClient({
        keys: new Map([[adapter.origin, 'key']]),
        inventoryTimeoutMs: 2000,
        availabilityTimeoutMs: 2000,
        fulfillmentTimeoutMs: 2000,
        maxResponseBytes: 65_536,
        maxRedirects: 0,
      })
      return adapter
    },

    async place({
      crc = 10n,
      gateways = [GATEWAY],
      sellers = [SELLER],
      trigger = 'finalized' as 'confirmed' | 'finalized',
      reference = newReference(ctx.random16()),
      onChain = chainId,
      listed = true,
    } = {}): Promise<Placed> {
      const orderId = newOrderId(ctx.random16())
      await inTransaction(db, (tx) =>
        insertOrder(tx, {
          orderId,
          basketId: `bkt_${orderId.slice(4).toLowerCase()}`,
          chainId: onChain,
          buyer: BUYER,
          paymentReference: reference,
          priceWei: crc * E18,
          expectedGateways: gateways,
          snapshot: {
            orderNumber: orderId,
            paymentReference: reference,
            customer: { '@type': 'Person', '@id': `eip155:${onChain}:${BUYER}`, givenName: 'Ada', familyName: 'L' },
            acceptedOffer: sellers.map(() => ({ requiredSlots: [] })),
            orderedItem: [],
          } as unknown as OrderSnapshot,
          lines: sellers.map((seller, lineIndex) => ({
            lineIndex,
            seller,
            sku: 'tea',
            quantity: 1,
            trigger,
            linkKeccak: `0x${'00'.repeat(32)}`,
          })),
          createdAt: ctx.now(),
          paymentDueBy: new Date(ctx.now().getTime() + 1_800_000),
          listed,
          placedFrom: null,
        }),
      )
      return { orderId, reference }
    },
    /** A transaction with one payment of the order in it. */
    paying: ({ reference }: Placed, wei: bigint, more?: Parameters<typeof payment>[2]) =>
      transaction(payment(reference, wei, more)),

    order: ({ orderId }: Placed) =>
      db.selectFrom('orders').selectAll().where('order_id', '=', orderId).executeTakeFirstOrThrow(),
    async standing(order: Placed) {
      const row = await world.order(order)
      const [status, standing] = row.cancelled_at
        ? [OrderStatus.cancelled, 'cancelled']
        : row.finalized_at
          ? [OrderStatus.paymentComplete, 'complete']
          : row.paid_at
            ? [OrderStatus.paymentProcessing, row.confirmed_at ? 'confirmed' : 'paid']
            : [OrderStatus.paymentDue, 'due']
      if (row.status !== status) throw new Error(`${row.status} does not go with ${standing}`)
      return row.payment_reverted_at ? `${standing}, reverted` : standing
    },
    /** Every status it had, the last part of each. */
    async history({ orderId }: Placed) {
      const rows = await db
        .selectFrom('orders_status_history')
        .select('new_status')
        .where('order_id', '=', orderId)
        .orderBy('id')
        .execute()
      return rows.map(({ new_status }) => new_status.split('/').at(-1))
    },
    jobs: ({ orderId }: Placed) =>
      db
        .selectFrom('fulfillment_jobs')
        .select(['seller_address', 'trigger', 'status', 'reason', 'attempts', 'next_attempt_at'])
        .where('order_id', '=', orderId)
        .orderBy('seller_address')
        .orderBy('trigger')
        .execute(),
    /** Of this chain, in its order. */
    transfers: () =>
      db
        .selectFrom('payment_transfers')
        .selectAll()
        .where('chain_id', '=', chainId)
        .orderBy('block_number')
        .orderBy('log_index')
        .execute(),
    async transferOf({ hash }: { hash: string }) {
      return (await world.transfers()).find(({ tx_hash }) => tx_hash === hash)
    },
    async cursor() {
      const row = await db.selectFrom('payments_cursors').selectAll().where('chain_id', '=', chainId).executeTakeFirst()
      return row && [Number(row.last_block_number), row.last_transaction_index, row.last_log_index]
    },
    async metric(name: string, labels: Record<string, string> = {}, of: MarketContext = ctx) {
      const metric = of.metrics.registry.getSingleMetric(`marketplace_${name}`)
      if (!metric) throw new Error(`no metric marketplace_${name}`)
      const { values } = await metric.get()
      const found = values.find(({ labels: has }) => Object.entries(labels).every(([k, v]) => has[k as 'mode'] === v))
      return found?.value ?? 0
    },
    said: (level: string, message: RegExp) =>
      logged.filter((entry) => entry.level === level && message.test(entry.message)),
  }
  return world
}
